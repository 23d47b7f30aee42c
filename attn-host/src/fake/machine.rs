//! What a device does with what is queued: later, and in any order that streams and events allow.
//!
//! Work runs when somebody waits for it, and now and then a little of it before. Which stream goes on is drawn, so that what a program
//! forgot to order is done in the wrong order sooner or later. An attention kernel writes numbers that depend on every byte of its inputs.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// The first address of device memory.
const FIRST: u64 = 0x7f00_0000_0000;

/// Device memory, pinned memory, streams and events, and the work that is not done.
pub(crate) struct Machine {
    /// Device memory that the fake has, in bytes.
    pub(crate) room: u64,
    /// Allocations by address.
    pub(crate) memory: BTreeMap<u64, Vec<u8>>,
    /// Pinned host memory: address and bytes.
    pub(crate) pinned: BTreeMap<usize, usize>,
    pub(crate) streams: BTreeMap<usize, VecDeque<(usize, Work)>>,
    pub(crate) events: HashMap<usize, Signal>,
    /// What no correct program does.
    pub(crate) violations: Vec<String>,
    /// Decides what runs next.
    pub(crate) random: u64,
    /// The device does nothing.
    pub(crate) held: bool,
    /// Work that is not done, by its number, and nothing behind it in its stream.
    pub(crate) endless: Option<usize>,
    /// What kind of work that was, once it is queued.
    pub(crate) stuck: Option<&'static str>,
    /// How much work was ever queued.
    pub(crate) queued: usize,
    next_address: u64,
    next_handle: usize,
}

/// How often an event was recorded, and how often the device has come by.
#[derive(Clone, Copy, Default)]
pub(crate) struct Signal {
    recorded: u64,
    reached: u64,
}

/// Bytes of host memory that the device copies by itself.
#[derive(Clone, Copy)]
pub(crate) struct Host(pub(crate) *mut u8);

// SAFETY: whoever queues a copy promises that the memory is there until the copy is done.
unsafe impl Send for Host {}

/// What is queued on a stream.
pub(crate) enum Work {
    CopyIn { to: u64, from: Host, bytes: usize },
    CopyOut { to: Host, from: u64, bytes: usize },
    Clear { at: u64, bytes: usize },
    Attend { inputs: Vec<(u64, usize)>, output: (u64, usize), lse: Option<u64> },
    Record { event: usize, count: u64 },
    Wait { event: usize, count: u64 },
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Work::CopyIn { .. } => "copy in",
            Work::CopyOut { .. } => "copy out",
            Work::Clear { .. } => "clear",
            Work::Attend { .. } => "attend",
            Work::Record { .. } => "record",
            Work::Wait { .. } => "wait",
        }
    }
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        Machine {
            room: 1 << 30,
            memory: BTreeMap::new(),
            pinned: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: HashMap::new(),
            violations: Vec::new(),
            random: seed,
            held: false,
            endless: None,
            stuck: None,
            queued: 0,
            next_address: FIRST,
            next_handle: 0x10_0000,
        }
    }

    /// A handle that nothing had before.
    fn handle(&mut self) -> usize {
        self.next_handle += 0x10;
        self.next_handle
    }

    pub(crate) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Device memory, or `None` when there is no more.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Option<u64> {
        let used: usize = self.memory.values().map(Vec::len).sum();
        if (used + bytes) as u64 > self.room {
            return None;
        }
        let address = self.next_address;
        self.next_address += (bytes as u64).next_multiple_of(4096) + 4096;
        self.memory.insert(address, vec![0xA5; bytes]);
        Some(address)
    }

    pub(crate) fn free(&mut self, address: u64) {
        if self.memory.remove(&address).is_none() {
            self.violation(format!("{address:#x} is freed and was not allocated"));
        }
    }

    pub(crate) fn create_stream(&mut self) -> usize {
        let handle = self.handle();
        self.streams.insert(handle, VecDeque::new());
        handle
    }

    pub(crate) fn destroy_stream(&mut self, stream: usize, lost: bool) {
        match self.streams.remove(&stream) {
            Some(work) if work.is_empty() || lost => {}
            Some(work) => self.violation(format!("a stream is destroyed with {} things to do", work.len())),
            None => self.violation(format!("{stream:#x} is destroyed and is no stream")),
        }
    }

    pub(crate) fn create_event(&mut self) -> usize {
        let handle = self.handle();
        self.events.insert(handle, Signal::default());
        handle
    }

    pub(crate) fn destroy_event(&mut self, event: usize) {
        if self.events.remove(&event).is_none() {
            self.violation(format!("{event:#x} is destroyed and is no event"));
        }
    }

    /// Queues work, and does some of what is there already.
    pub(crate) fn queue(&mut self, stream: usize, work: Work) {
        let number = self.queued;
        self.queued += 1;
        if self.endless == Some(number) {
            self.stuck = Some(work.name());
        }
        match self.streams.get_mut(&stream) {
            Some(queue) => queue.push_back((number, work)),
            None => return self.violation(format!("work is queued on {stream:#x}, which is no stream")),
        }
        let steps = if self.held { 0 } else { self.draw(3) };
        for _ in 0..steps {
            self.step();
        }
    }

    pub(crate) fn record(&mut self, event: usize, stream: usize) {
        let Some(signal) = self.events.get_mut(&event) else {
            return self.violation(format!("{event:#x} is recorded and is no event"));
        };
        signal.recorded += 1;
        let count = signal.recorded;
        self.queue(stream, Work::Record { event, count });
    }

    pub(crate) fn wait_event(&mut self, stream: usize, event: usize) {
        let Some(signal) = self.events.get(&event) else {
            return self.violation(format!("{event:#x} is waited for and is no event"));
        };
        let count = signal.recorded;
        self.queue(stream, Work::Wait { event, count });
    }

    /// Works until the event is reached. Whether it was: not where the device is held or something does not end.
    pub(crate) fn finish_event(&mut self, event: usize) -> bool {
        let Some(&Signal { recorded, .. }) = self.events.get(&event) else {
            self.violation(format!("{event:#x} is waited for and is no event"));
            return true;
        };
        let done = |machine: &Self| machine.events.get(&event).is_none_or(|signal| signal.reached >= recorded);
        self.work_until(done, "an event that is waited for is never reached")
    }

    /// Works until the stream, or every one, has nothing to do. Whether that is so, as above.
    pub(crate) fn finish(&mut self, stream: Option<usize>) -> bool {
        let done = |machine: &Self| match stream {
            Some(stream) => machine.streams.get(&stream).is_none_or(VecDeque::is_empty),
            None => machine.streams.values().all(VecDeque::is_empty),
        };
        self.work_until(done, "streams wait for each other")
    }

    fn work_until(&mut self, done: impl Fn(&Self) -> bool, otherwise: &str) -> bool {
        while !self.held && !done(self) {
            if !self.step() {
                if !self.is_stuck() {
                    self.violation(otherwise.to_owned());
                }
                return !self.is_stuck();
            }
        }
        !self.held
    }

    /// Whether there is work that does not end.
    pub(crate) fn is_stuck(&self) -> bool {
        self.endless.is_some() && self.stuck.is_some()
    }

    /// Does one thing that may be done next. Whether there was any.
    fn step(&mut self) -> bool {
        let ready: Vec<usize> = self
            .streams
            .iter()
            .filter(|(_, work)| work.front().is_some_and(|(number, work)| self.may(*number, work)))
            .map(|(s, _)| *s)
            .collect();
        if ready.is_empty() {
            return false;
        }
        let stream = ready[self.draw(ready.len())];
        let work = self.streams.get_mut(&stream).and_then(VecDeque::pop_front);
        work.into_iter().for_each(|(_, work)| self.carry_out(work));
        true
    }

    fn may(&self, number: usize, work: &Work) -> bool {
        match work {
            _ if self.endless == Some(number) => false,
            Work::Wait { event, count } => self.events.get(event).is_none_or(|signal| signal.reached >= *count),
            _ => true,
        }
    }

    fn carry_out(&mut self, work: Work) {
        match work {
            Work::CopyIn { to, from, bytes } => {
                if self.is_pinned(from, bytes)
                    && let Some(place) = self.bytes_mut(to, bytes)
                {
                    // SAFETY: still pinned, so still there; who queued the copy promises that nothing writes it.
                    unsafe { place.as_mut_ptr().copy_from_nonoverlapping(from.0, bytes) };
                }
            }
            Work::CopyOut { to, from, bytes } => {
                if self.is_pinned(to, bytes)
                    && let Some(place) = self.bytes_mut(from, bytes)
                {
                    // SAFETY: still pinned, so still there; who queued the copy promises that nothing uses it.
                    unsafe { to.0.copy_from_nonoverlapping(place.as_ptr(), bytes) };
                }
            }
            Work::Clear { at, bytes } => self.bytes_mut(at, bytes).into_iter().for_each(|place| place.fill(0)),
            Work::Attend { inputs, output: (at, bytes), lse } => {
                let mut sum = 0;
                for (at, bytes) in inputs {
                    sum = self.bytes_mut(at, bytes).map_or(sum, |place| checksum(sum, place));
                }
                self.bytes_mut(at, bytes).into_iter().for_each(|place| answer(sum, place));
                let lse = lse.and_then(|lse| self.bytes_mut(lse, 4));
                lse.into_iter().for_each(|place| place.copy_from_slice(&sum.to_le_bytes()[..4]));
            }
            Work::Record { event, count } => {
                if let Some(signal) = self.events.get_mut(&event) {
                    signal.reached = signal.reached.max(count);
                }
            }
            Work::Wait { .. } => {}
        }
    }

    fn is_pinned(&mut self, Host(place): Host, bytes: usize) -> bool {
        let found = self.pinned.range(..=place as usize).next_back();
        let inside = found.is_some_and(|(start, length)| place as usize + bytes <= start + length);
        if !inside {
            self.violation(format!("a copy of {bytes} bytes from or to host memory that is not pinned"));
        }
        inside
    }

    fn bytes_mut(&mut self, at: u64, bytes: usize) -> Option<&mut [u8]> {
        let inside = self.memory.range(..=at).next_back().and_then(|(&start, block)| {
            let first = (at - start) as usize;
            (first + bytes <= block.len()).then_some((start, first))
        });
        let Some((start, first)) = inside else {
            self.violation(format!("{bytes} bytes at {at:#x} are used and not allocated"));
            return None;
        };
        self.memory.get_mut(&start).map(|block| &mut block[first..first + bytes])
    }

    /// A number below `most`: xorshift, which needs no more than a state that is not zero.
    fn draw(&mut self, most: usize) -> usize {
        self.random |= 1;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % most
    }
}

/// FNV-1a over words, from `sum` on.
pub(crate) fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum ^ 0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// What a kernel of the fake makes of the sum of its inputs.
pub(crate) fn answer(sum: u64, output: &mut [u8]) {
    for (i, byte) in output.iter_mut().enumerate() {
        *byte = (sum >> (i % 8 * 8)) as u8;
    }
}
