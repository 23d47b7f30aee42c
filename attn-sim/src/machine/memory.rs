//! Global memory: allocations with bounds, and what a domain of clusters sees of them while it runs.
//!
//! Clusters that do not communicate run apart, each over the memory as it was at launch plus its own writes; the writes
//! are put together at the end, where a byte that one cluster wrote and another one touched is a race.

use super::clock::{Actor, Epoch};
use super::shadow::{Bits, Conflict, Shadow};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// State spaces, as instructions name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// No space written: a 64-bit address in one of the windows.
    Generic,
    /// `.global`
    Global,
    /// `.shared`, `.shared::cta`
    Shared,
    /// `.shared::cluster`
    SharedCluster,
    /// `.local`, and `.param` variables of a function body
    Local,
    /// Kernel parameters
    Param,
    /// `.const`
    Const,
}

impl Space {
    /// The space of a modifier (`"shared::cta"`), if it is one.
    pub fn parse(modifier: &str) -> Option<Self> {
        Some(match modifier {
            "global" => Space::Global,
            "shared" | "shared::cta" => Space::Shared,
            "shared::cluster" => Space::SharedCluster,
            "local" => Space::Local,
            "param" | "param::entry" | "param::func" => Space::Param,
            "const" => Space::Const,
            _ => return None,
        })
    }

    /// Where the space begins in generic addresses; global memory is generic addresses themselves.
    pub const fn window(self) -> u64 {
        match self {
            Space::Generic | Space::Global => 0,
            Space::Shared | Space::SharedCluster => 0x7f00_0000_0000,
            Space::Local => 0x7e00_0000_0000,
            Space::Param => 0x7d00_0000_0000,
            Space::Const => 0x7c00_0000_0000,
        }
    }

    /// Bytes of a space's window.
    pub const WINDOW: u64 = 1 << 32;

    /// The space whose window holds a generic address, and the address within it.
    pub fn of_generic(addr: u64) -> (Space, u64) {
        [Space::SharedCluster, Space::Local, Space::Param, Space::Const]
            .into_iter()
            .find(|s| (s.window()..s.window() + Self::WINDOW).contains(&addr))
            .map_or((Space::Global, addr), |s| (s, addr - s.window()))
    }
}

/// Bytes per page of a domain's view.
const PAGE: usize = 4096;

/// One allocation.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// Its contents.
    pub data: Vec<u8>,
    /// Bytes that hold something.
    pub written: Bits,
    /// Name for reports: a variable's, or empty.
    pub name: String,
}

/// Global memory between launches.
#[derive(Clone, Debug)]
pub struct GlobalMemory {
    allocations: BTreeMap<u64, Allocation>,
    next: u64,
}

impl Default for GlobalMemory {
    fn default() -> Self {
        GlobalMemory { allocations: BTreeMap::new(), next: 0x2_0000_0000 }
    }
}

impl GlobalMemory {
    /// Allocates `bytes`, unwritten, and returns the address: a multiple of `align` and of 256. A gap that belongs to
    /// nobody follows every allocation.
    pub fn alloc(&mut self, bytes: u64, align: u64, name: &str) -> u64 {
        let base = self.next.next_multiple_of(align.max(256));
        let len = usize::try_from(bytes).expect("an allocation fits the host's memory");
        let allocation = Allocation { data: vec![0; len], written: Bits::new(len), name: name.to_owned() };
        self.allocations.insert(base, allocation);
        self.next = (base + bytes + PAGE as u64).next_multiple_of(PAGE as u64);
        base
    }

    /// Frees an allocation; false where none begins at `base`.
    pub fn free(&mut self, base: u64) -> bool {
        self.allocations.remove(&base).is_some()
    }

    /// The allocation that holds all of a range, and the range's offset in it.
    pub fn find(&self, addr: u64, len: usize) -> Option<(&Allocation, usize)> {
        let (base, allocation) = self.allocations.range(..=addr).next_back()?;
        let offset = usize::try_from(addr - base).ok()?;
        (offset + len <= allocation.data.len()).then_some((allocation, offset))
    }

    /// What lies nearest below an address, in words for a report.
    pub fn describe(&self, addr: u64) -> String {
        match self.allocations.range(..=addr).next_back() {
            Some((base, a)) => {
                let name = if a.name.is_empty() { String::new() } else { format!(" of `{}`", a.name) };
                format!("offset {} from the allocation at {base:#x}{name} of {} bytes", addr - base, a.data.len())
            }
            None => "below every allocation".into(),
        }
    }

    /// Writes bytes; false where they are not inside one allocation.
    #[must_use]
    pub fn write(&mut self, addr: u64, bytes: &[u8]) -> bool {
        let Some((&base, allocation)) = self.allocations.range_mut(..=addr).next_back() else { return false };
        let Some(range) = usize::try_from(addr - base).ok().map(|o| o..o + bytes.len()) else { return false };
        let Some(target) = allocation.data.get_mut(range.clone()) else { return false };
        target.copy_from_slice(bytes);
        allocation.written.set(range.start, bytes.len());
        true
    }

    /// The bytes of a range, written or not; `None` where it is not inside one allocation.
    pub fn read(&self, addr: u64, len: usize) -> Option<&[u8]> {
        self.find(addr, len).map(|(a, offset)| &a.data[offset..offset + len])
    }

    /// Takes over what a domain wrote.
    fn take_page(&mut self, number: u64, page: &Page) {
        for (i, &byte) in page.data.iter().enumerate() {
            if page.stored.contains(i) {
                // Stores were checked against the same allocations.
                let inside = self.write(number * PAGE as u64 + i as u64, &[byte]);
                debug_assert!(inside);
            }
        }
    }
}

/// Memory of one page as a domain sees it.
#[derive(Clone, Debug)]
struct Page {
    data: Box<[u8; PAGE]>,
    written: Bits,
    /// Bytes that this domain wrote.
    stored: Bits,
    /// Bytes that this domain read.
    loaded: Bits,
    shadow: Shadow,
    any_stored: bool,
}

impl Page {
    /// The page as it was at launch.
    fn of(base: &GlobalMemory, number: u64) -> Self {
        let start = number * PAGE as u64;
        let mut page = Page {
            data: vec![0; PAGE].into_boxed_slice().try_into().expect("the length is PAGE"),
            written: Bits::new(PAGE),
            stored: Bits::new(PAGE),
            loaded: Bits::new(PAGE),
            shadow: Shadow::new(PAGE),
            any_stored: false,
        };
        let first = base.allocations.range(..=start).next_back().map_or(start, |(a, _)| *a);
        for (&at, allocation) in base.allocations.range(first..start + PAGE as u64) {
            let from = at.max(start);
            let to = (at + allocation.data.len() as u64).min(start + PAGE as u64);
            if from >= to {
                continue;
            }
            let (target, source, len) = ((from - start) as usize, (from - at) as usize, (to - from) as usize);
            page.data[target..target + len].copy_from_slice(&allocation.data[source..source + len]);
            if allocation.written.first_missing(source, len).is_none() {
                page.written.set(target, len);
            } else {
                (0..len)
                    .filter(|i| allocation.written.contains(source + i))
                    .for_each(|i| page.written.set(target + i, 1));
            }
        }
        page
    }
}

/// What an access of global memory met.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// First byte read that was never written.
    pub unwritten: Option<u64>,
    /// First unordered access, with its address.
    pub conflict: Option<(u64, Conflict)>,
}

/// Global memory as one domain sees it during a launch.
#[derive(Debug)]
pub struct GlobalView {
    base: Arc<GlobalMemory>,
    pages: HashMap<u64, Page>,
}

/// Splits a range at page ends: page number, offset in the page, bytes, offset in the range.
fn chunks(addr: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let at = addr + done as u64;
            let offset = (at % PAGE as u64) as usize;
            let bytes = (PAGE - offset).min(len - done);
            done += bytes;
            (at / PAGE as u64, offset, bytes, done - bytes)
        })
    })
}

impl GlobalView {
    /// Memory as it is at launch.
    pub fn new(base: Arc<GlobalMemory>) -> Self {
        GlobalView { base, pages: HashMap::new() }
    }

    /// The memory below.
    pub fn base(&self) -> &GlobalMemory {
        &self.base
    }

    fn page(&mut self, number: u64) -> &mut Page {
        self.pages.entry(number).or_insert_with(|| Page::of(&self.base, number))
    }

    /// Reads a range that was found in bounds. With `initialised` false, unwritten bytes are not looked for.
    pub fn read(&mut self, who: &Actor, addr: u64, out: &mut [u8]) -> Met {
        let mut met = Met::default();
        for (number, offset, len, done) in chunks(addr, out.len()) {
            let page = self.page(number);
            out[done..done + len].copy_from_slice(&page.data[offset..offset + len]);
            page.loaded.set(offset, len);
            let start = number * PAGE as u64;
            if met.unwritten.is_none() {
                met.unwritten = page.written.first_missing(offset, len).map(|o| start + o as u64);
            }
            let conflict = page.shadow.read(who, offset, len);
            met.conflict = met.conflict.or(conflict.map(|c| (start + c.offset as u64, c)));
        }
        met
    }

    /// Writes a range that was found in bounds.
    pub fn write(&mut self, who: &Actor, addr: u64, bytes: &[u8]) -> Met {
        let mut met = Met::default();
        for (number, offset, len, done) in chunks(addr, bytes.len()) {
            let page = self.page(number);
            page.data[offset..offset + len].copy_from_slice(&bytes[done..done + len]);
            page.written.set(offset, len);
            page.stored.set(offset, len);
            page.any_stored = true;
            let conflict = page.shadow.write(who, offset, len);
            met.conflict = met.conflict.or(conflict.map(|c| (number * PAGE as u64 + c.offset as u64, c)));
        }
        met
    }

    /// The bytes of a range without any note of it, for reports and atomics that were noted otherwise.
    pub fn peek(&mut self, addr: u64, out: &mut [u8]) {
        for (number, offset, len, done) in chunks(addr, out.len()) {
            out[done..done + len].copy_from_slice(&self.page(number).data[offset..offset + len]);
        }
    }

    /// Writes bytes that count as written, without an access to judge: atomics, which are ordered by themselves.
    pub fn poke(&mut self, addr: u64, bytes: &[u8]) {
        for (number, offset, len, done) in chunks(addr, bytes.len()) {
            let page = self.page(number);
            page.data[offset..offset + len].copy_from_slice(&bytes[done..done + len]);
            page.written.set(offset, len);
            page.stored.set(offset, len);
            page.any_stored = true;
        }
    }

    /// First byte of a range that was never written.
    pub fn unwritten(&mut self, addr: u64, len: usize) -> Option<u64> {
        chunks(addr, len).find_map(|(number, offset, bytes, _)| {
            let missing = self.page(number).written.first_missing(offset, bytes);
            missing.map(|o| number * PAGE as u64 + o as u64)
        })
    }

    /// What the domain did, to be put together with others'.
    pub fn finish(self) -> Effects {
        let mut pages: Vec<_> = self.pages.into_iter().collect();
        pages.sort_unstable_by_key(|(number, _)| *number);
        Effects { pages }
    }
}

/// What a domain did to global memory.
#[derive(Debug)]
pub struct Effects {
    pages: Vec<(u64, Page)>,
}

/// Neighbouring bytes that two domains touched alike, at least one of them writing.
#[derive(Clone, Copy, Debug)]
pub struct Overlap {
    /// The first one's address.
    pub addr: u64,
    /// How many.
    pub bytes: usize,
    /// Whether both wrote.
    pub both_wrote: bool,
    /// The earlier domain in launch order.
    pub earlier: usize,
    /// The earlier domain's write, where it wrote.
    pub theirs: Option<Epoch>,
    /// The later domain's access.
    pub mine: Option<Epoch>,
}

/// Puts domains' effects together, in launch order.
#[derive(Debug, Default)]
pub struct Merge {
    touched: HashMap<u64, Vec<Touched>>,
    all: HashMap<u64, (Bits, Bits)>,
}

#[derive(Debug)]
struct Touched {
    domain: usize,
    stored: Bits,
    loaded: Bits,
    shadow: Option<Shadow>,
}

impl Merge {
    /// Writes the effects of domain `domain` to memory and returns the bytes that another one touched.
    pub fn add(&mut self, domain: usize, effects: Effects, memory: &mut GlobalMemory) -> Vec<Overlap> {
        let mut overlaps = Vec::new();
        for (number, page) in effects.pages {
            let (stored, loaded) = self.all.entry(number).or_insert_with(|| (Bits::new(PAGE), Bits::new(PAGE)));
            let common = page.stored.first_common(stored).is_some()
                || page.stored.first_common(loaded).is_some()
                || page.loaded.first_common(stored).is_some();
            stored.union(&page.stored);
            loaded.union(&page.loaded);
            let before = self.touched.entry(number).or_default();
            if common {
                overlaps.extend(page_overlaps(number * PAGE as u64, &page, before));
            }
            if page.any_stored {
                memory.take_page(number, &page);
            }
            let shadow = page.any_stored.then_some(page.shadow);
            before.push(Touched { domain, stored: page.stored, loaded: page.loaded, shadow });
        }
        overlaps
    }
}

/// What a page has in common with earlier domains' views of it, byte by byte, neighbours together.
fn page_overlaps(start: u64, page: &Page, before: &[Touched]) -> Vec<Overlap> {
    let at = |offset: usize| {
        let (stores, loads) = (page.stored.contains(offset), page.loaded.contains(offset));
        let theirs = before.iter().find(|t| t.stored.contains(offset) && (stores || loads));
        let earlier = theirs.or_else(|| before.iter().find(|t| stores && t.loaded.contains(offset)))?;
        let wrote = theirs.is_some();
        Some(Overlap {
            addr: start + offset as u64,
            bytes: 1,
            both_wrote: wrote && stores,
            earlier: earlier.domain,
            theirs: earlier.shadow.as_ref().filter(|_| wrote).and_then(|s| s.last_write(offset)),
            mine: if stores { page.shadow.last_write(offset) } else { page.shadow.last_read(offset) },
        })
    };
    let mut runs: Vec<Overlap> = Vec::new();
    for next in (0..PAGE).filter_map(at) {
        match runs.last_mut() {
            Some(run) if run.continues(&next) => run.bytes += 1,
            _ => runs.push(next),
        }
    }
    runs
}

impl Overlap {
    /// Whether a byte's overlap is one with those before it.
    fn continues(&self, next: &Overlap) -> bool {
        let op = |e: Option<Epoch>| e.map(Epoch::op);
        self.addr + self.bytes as u64 == next.addr
            && (self.both_wrote, self.earlier) == (next.both_wrote, next.earlier)
            && (op(self.theirs), op(self.mine)) == (op(next.theirs), op(next.mine))
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::{Knowledge, Lane, Proxy};
    use super::*;
    use std::rc::Rc;

    fn actor() -> Actor {
        let mut known = Knowledge::default();
        known.observe(0, 1);
        let (known, proxy, lane) = (Rc::new(known), Proxy::Generic, Lane::Any);
        Actor { agent: 0, clock: 1, known, proxy, op: 0, warp: 0, lane, issuer: 0, synced: 0, returned: None }
    }

    #[test]
    fn a_range_must_lie_in_one_allocation() {
        let mut memory = GlobalMemory::default();
        let (a, b) = (memory.alloc(100, 4, ""), memory.alloc(8, 4, ""));
        assert!(a % 256 == 0 && b >= a + 100 + PAGE as u64);
        assert!(memory.write(a + 96, &[1; 4]) && !memory.write(a + 97, &[1; 4]));
        assert!(memory.find(a, 101).is_none() && memory.find(a - 1, 1).is_none());
    }

    #[test]
    fn views_see_their_own_writes_and_merging_finds_common_bytes() {
        let mut memory = GlobalMemory::default();
        let a = memory.alloc(3 * PAGE as u64, 4, "");
        assert!(memory.write(a, &vec![7; 2 * PAGE]));
        let edge = a + PAGE as u64 - 2;
        let run = |written: u64, read: u64| {
            let mut view = GlobalView::new(Arc::new(memory.clone()));
            view.write(&actor(), written, &[9; 4]);
            let mut out = [0; 4];
            view.read(&actor(), written, &mut out);
            assert_eq!(out, [9; 4]);
            let met = view.read(&actor(), read, &mut out);
            (view.finish(), met.unwritten)
        };
        let (one, unwritten) = run(edge, a + 2 * PAGE as u64 - 1);
        assert_eq!(unwritten, Some(a + 2 * PAGE as u64));
        let (two, _) = run(a + 16, edge + 2);
        let mut merge = Merge::default();
        assert!(merge.add(0, one, &mut memory).is_empty());
        let overlaps = merge.add(1, two, &mut memory);
        let found: Vec<_> = overlaps.iter().map(|o| (o.addr, o.bytes, o.both_wrote)).collect();
        assert_eq!(found, [(edge + 2, 2, false)]);
        assert_eq!(memory.read(edge, 4), Some(&[9; 4][..]));
        assert_eq!(memory.read(edge + 4, 1), Some(&[7][..]));
    }

    #[test]
    fn generic_addresses_find_their_window() {
        assert_eq!(Space::of_generic(Space::Shared.window() + 1024), (Space::SharedCluster, 1024));
        assert_eq!(Space::of_generic(0x2_0000_0000), (Space::Global, 0x2_0000_0000));
        assert_eq!(Space::of_generic(Space::Const.window()), (Space::Const, 0));
    }
}
