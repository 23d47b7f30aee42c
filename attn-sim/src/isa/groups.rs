//! Groups of asynchronous copies that threads commit and wait for: `cp.async` and bulk stores.

use crate::machine::clock::Actor;
use crate::machine::context::lanes;
use std::collections::VecDeque;

/// Work of one group on one side: operations under way, and the last one's place on its stream.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    pending: u32,
    last: Option<(u32, u32)>,
}

impl Side {
    fn issue(&mut self, who: &Actor) {
        self.pending += 1;
        self.last = Some((who.agent, who.clock));
    }
}

/// Copies of one thread between two commits.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    reads: Side,
    writes: Side,
}

/// Groups of one thread, oldest first; the last is open.
#[derive(Clone, Debug)]
struct Thread {
    /// Number of the oldest group kept.
    first: u64,
    groups: VecDeque<Group>,
    /// The last write of the groups that are no longer kept, if no wait has covered it.
    written: Option<(u32, u32)>,
}

/// What a wait observes: agents and the moments up to which their work is complete.
pub type Observed = Vec<(u32, u32)>;

/// Which part of a copy is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The reads of its source.
    Reads,
    /// The writes of its destination.
    Writes,
}

/// The groups of a warp's threads.
#[derive(Clone, Debug)]
pub struct Groups(Vec<Thread>);

impl Default for Groups {
    fn default() -> Self {
        Groups(vec![Thread { first: 0, groups: VecDeque::from([Group::default()]), written: None }; 32])
    }
}

impl Groups {
    /// Adds a copy to a thread's open group, whose number is returned: [`Groups::finish`] wants it.
    pub fn issue(&mut self, lane: usize, reads: Option<&Actor>, writes: &Actor) -> u64 {
        let thread = &mut self.0[lane];
        let group = thread.groups.back_mut().expect("a group is always open");
        if let Some(reads) = reads {
            group.reads.issue(reads);
        }
        group.writes.issue(writes);
        thread.first + thread.groups.len() as u64 - 1
    }

    /// Part of a copy of group `number` is done.
    pub fn finish(&mut self, lane: usize, number: u64, part: Part) {
        let thread = &mut self.0[lane];
        let at = (number - thread.first) as usize;
        let group = thread.groups.get_mut(at).expect("a group is kept while its copies are under way");
        match part {
            Part::Reads => group.reads.pending -= 1,
            Part::Writes => group.writes.pending -= 1,
        }
    }

    /// Closes the open groups of threads.
    pub fn commit(&mut self, mask: u32) {
        lanes(mask).for_each(|lane| self.0[lane].groups.push_back(Group::default()));
    }

    /// Waits of threads until at most `pending` closed groups are under way, the open one aside: what they observe, or none if
    /// they have to wait. With `part` reads, writes may go on.
    pub fn wait(&mut self, mask: u32, pending: u64, part: Part) -> Option<Observed> {
        let covered = |thread: &Thread| thread.groups.len().saturating_sub(1 + pending as usize);
        self.covered(mask, part, covered)
    }

    /// Waits of threads for all their copies, closed or not.
    pub fn wait_all(&mut self, mask: u32) -> Option<Observed> {
        self.commit(mask);
        self.covered(mask, Part::Writes, |thread| thread.groups.len() - 1)
    }

    fn covered(&mut self, mask: u32, part: Part, count: impl Fn(&Thread) -> usize) -> Option<Observed> {
        let under_way = |group: &Group| match part {
            Part::Reads => group.reads.pending > 0,
            Part::Writes => group.under_way(),
        };
        if lanes(mask).any(|lane| self.0[lane].groups.iter().take(count(&self.0[lane])).any(under_way)) {
            return None;
        }
        let mut observed = Observed::new();
        for lane in lanes(mask) {
            let thread = &mut self.0[lane];
            let count = count(thread);
            for group in thread.groups.iter_mut().take(count) {
                observed.extend(group.reads.last.take());
                if part == Part::Writes {
                    observed.extend(group.writes.last.take());
                }
            }
            if part == Part::Writes {
                observed.extend(thread.written.take());
            }
            // What was waited for, and is complete on both sides, needs no keeping.
            for _ in 0..count {
                if thread.groups[0].under_way() {
                    break;
                }
                let done = thread.groups.pop_front().expect("looked at above");
                thread.written = done.writes.last.or(thread.written);
                thread.first += 1;
            }
        }
        observed.sort_unstable();
        observed.dedup();
        Some(observed)
    }

    /// Whether a thread has copies whose writes are under way.
    pub fn writing(&self, lane: usize) -> bool {
        self.0[lane].groups.iter().any(|group| group.writes.pending > 0)
    }

    /// The first thread with copies whose part no wait has covered.
    pub fn uncovered(&self, part: Part) -> Option<usize> {
        let open = |group: &Group| match part {
            Part::Reads => group.reads.last.is_some(),
            Part::Writes => group.writes.last.is_some(),
        };
        self.0.iter().position(|thread| thread.groups.iter().any(open))
    }
}

impl Group {
    fn under_way(&self) -> bool {
        self.reads.pending > 0 || self.writes.pending > 0
    }
}
