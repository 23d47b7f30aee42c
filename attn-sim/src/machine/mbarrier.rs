//! mbarriers in the machine: their state, what their arrivals release, and who is woken.

use super::Machine;
use super::clock::{Actor, Epoch, Knowledge, Lane};
use super::wait::Key;
use crate::mbarrier_state::{MbarrierState, Misuse, Step, Token};
use crate::report::{Kind, Stop};

/// Where an mbarrier is: block (an index in the machine) and offset in its shared memory.
pub type At = (usize, u32);

/// Which phase a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The current or the last one, whichever has this parity.
    Parity(bool),
    /// The one that an arrival was part of.
    State(Token),
}

/// An mbarrier.
#[derive(Clone, Debug)]
pub struct Mbarrier {
    /// Its counts and phase.
    pub state: MbarrierState,
    /// What arrivals so far release.
    gathering: Knowledge,
    /// What completed phases released.
    released: Knowledge,
    /// Its initialisation, of which others must have heard.
    initialised: Epoch,
    /// Whether a fence has made it visible to asynchronous units.
    for_units: bool,
}

impl Machine {
    /// Makes an mbarrier of `count` arrivals.
    pub fn mbarrier_init(&mut self, who: &Actor, at: At, count: u32) -> Result<(), Stop> {
        let state = MbarrierState::init(count).map_err(|e| self.mbarrier_misuse(who, at, e))?;
        if self.blocks[at.0].mbarriers.contains_key(&at.1) {
            self.report(
                who,
                Kind::Mbarrier,
                format!("the mbarrier at {:#x} is live, and initialised again", at.1),
                None,
            );
        }
        let initialised = who.epoch();
        let (gathering, released) = Default::default();
        self.blocks[at.0]
            .mbarriers
            .insert(at.1, Mbarrier { state, gathering, released, initialised, for_units: false });
        self.trace_mbarrier(who, at, "was initialised by");
        Ok(())
    }

    /// Ends an mbarrier; its memory may be used otherwise.
    pub fn mbarrier_inval(&mut self, who: &Actor, at: At) -> Result<(), Stop> {
        self.mbarrier(who, at)?;
        self.blocks[at.0].mbarriers.remove(&at.1);
        self.trace_mbarrier(who, at, "was ended by");
        Ok(())
    }

    fn mbarrier_misuse(&self, who: &Actor, at: At, misuse: Misuse) -> Stop {
        self.fault(who, Kind::Mbarrier, format!("the mbarrier at {:#x}: {misuse}", at.1))
    }

    /// The live mbarrier at a place, whose initialisation `who` must have heard of: other warps by what was released to them, other
    /// lanes of the same warp by having met.
    pub fn mbarrier(&mut self, who: &Actor, at: At) -> Result<&mut Mbarrier, Stop> {
        let Some(bar) = self.blocks[at.0].mbarriers.get(&at.1) else {
            return Err(self.fault(who, Kind::Mbarrier, format!("no mbarrier was initialised at {:#x}", at.1)));
        };
        let by = bar.initialised;
        if who.apart(by) {
            let lanes = "another lane of the same warp, and the two have not met since (bar.warp.sync)";
            self.report(who, Kind::Race, format!("the mbarrier at {:#x} was initialised by {lanes}", at.1), Some(by));
        } else if who.agent != by.agent && !who.known.seen.covers(by) {
            let message = format!("the mbarrier at {:#x} is used before its initialisation is visible", at.1);
            self.report(who, Kind::Race, message, None);
        }
        Ok(self.blocks[at.0].mbarriers.get_mut(&at.1).expect("found above"))
    }

    /// The live mbarrier that an asynchronous operation of one lane will complete on, which must be visible to units when it is
    /// issued.
    pub fn mbarrier_for_unit(&mut self, who: &Actor, lane: usize, at: At) -> Result<(), Stop> {
        let issuer = Actor { lane: Lane::One(lane as u8), ..who.clone() };
        if !self.mbarrier(&issuer, at)?.for_units {
            let message = format!(
                "the mbarrier at {:#x} is used by an asynchronous unit, with no fence after its initialisation",
                at.1
            );
            self.report(who, Kind::ProxyFence, message, None);
        }
        Ok(())
    }

    /// A fence by a warp makes the mbarriers of its cluster, whose initialisation it has made or heard of, visible to units.
    pub fn mbarriers_to_units(&mut self, warp: usize) {
        let (agent, known) = (self.warps[warp].agent, std::rc::Rc::clone(&self.warps[warp].known));
        let blocks = self.clusters[self.blocks[self.warps[warp].block].cluster].blocks.clone();
        for bar in self.blocks[blocks].iter_mut().flat_map(|block| block.mbarriers.values_mut()) {
            let by = bar.initialised;
            bar.for_units |= by.agent == agent || known.seen.covers(by);
        }
    }

    /// Changes an mbarrier's state by `change`, which `release` goes with; wakes waiters when that completes the phase.
    ///
    /// A warp's arrival releases [`Machine::release`]; an operation that completes bytes, or a commit, what it did itself:
    /// see [`Machine::mbarrier_complete_tx`].
    pub fn mbarrier_change<T>(
        &mut self,
        who: &Actor,
        at: At,
        release: Option<&Knowledge>,
        change: impl FnOnce(&mut MbarrierState) -> Result<(T, Step), Misuse>,
    ) -> Result<T, Stop> {
        let bar = self.mbarrier(who, at)?;
        let changed = change(&mut bar.state);
        let (result, step) = match changed {
            Ok(done) => done,
            Err(misuse) => return Err(self.mbarrier_misuse(who, at, misuse)),
        };
        if let Some(release) = release {
            bar.gathering.join(release);
        }
        let complete = matches!(step, Step::Complete(_));
        if complete {
            bar.released = bar.gathering.clone();
            self.wake(Key::Mbarrier(at.0, at.1));
        }
        self.trace_mbarrier(who, at, if complete { "completed a phase by" } else { "was changed by" });
        Ok(result)
    }

    /// An asynchronous operation has moved `bytes`: its own effects, and nothing else, are released with the phase.
    pub fn mbarrier_complete_tx(&mut self, who: &Actor, at: At, bytes: u32) -> Result<(), Stop> {
        let mut own = Knowledge::default();
        own.observe(who.agent, who.clock);
        self.mbarrier_change(who, at, Some(&own), |bar| Ok(((), bar.complete_tx(bytes)?)))
    }

    /// One arrival of an asynchronous operation: `tcgen05.commit` and the like. It releases the operation's own effects and
    /// what its warp had heard of from others before, as the operation came after that: a slot that the unit has read may be
    /// filled again by somebody who knows of the commit alone. What the warp did itself needs the warp's own release.
    pub fn mbarrier_async_arrive(&mut self, who: &Actor, at: At) -> Result<(), Stop> {
        let released = self.completed(who);
        self.mbarrier_change(who, at, Some(&released), |bar| bar.arrive(1)).map(|_| ())
    }

    fn completed(&self, who: &Actor) -> Knowledge {
        let mut released = (*who.known).clone();
        released.forget(self.warps[who.warp as usize].agent);
        released.observe(who.agent, who.clock);
        released
    }

    /// The same when one lane's part of copies that its warp makes together is done: those of other lanes are not released.
    pub fn mbarrier_lane_arrive(&mut self, who: &Actor, lane: usize, at: At) -> Result<(), Stop> {
        let mut released = self.completed(who);
        released.confine(who.agent, self.warps[who.warp as usize].all_know(who.agent), 1 << lane);
        self.mbarrier_change(who, at, Some(&released), |bar| bar.arrive(1)).map(|_| ())
    }

    /// Whether a phase is complete; if so, and with `acquire`, the actor's warp now knows what its arrivals released.
    pub fn mbarrier_test(&mut self, who: &Actor, at: At, phase: Phase, acquire: bool) -> Result<bool, Stop> {
        let bar = self.mbarrier(who, at)?;
        let waiting = match phase {
            Phase::Parity(parity) => bar.state.wait_parity(parity),
            Phase::State(token) => match bar.state.wait_state(token) {
                Ok(waiting) => waiting,
                Err(misuse) => return Err(self.mbarrier_misuse(who, at, misuse)),
            },
        };
        if waiting.is_some() {
            self.trace_mbarrier(who, at, "does not yet pass");
            return Ok(false);
        }
        if acquire {
            let released = bar.released.clone();
            self.acquire(who.warp as usize, &released);
        }
        self.trace_mbarrier(who, at, "passes");
        Ok(true)
    }
}
