//! Instructions that compute each lane's result from that lane's operands alone.

use crate::counters::Class;
use crate::machine::Context;
use crate::machine::decode::{LANES, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::report::Stop;
use std::fmt;

/// `N` operands, a result, and the function between them. Operands come as their bits, zero-extended.
struct Lanewise<const N: usize, F> {
    class: Class,
    dest: Option<Reg>,
    sources: [Source; N],
    function: F,
}

impl<const N: usize, F> fmt::Debug for Lanewise<N, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanewise").field("dest", &self.dest).field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl<const N: usize, F: Fn([u64; N]) -> u64 + Send + Sync> Execute for Lanewise<N, F> {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let mut values = [[0u64; LANES]; N];
        for (lanes, source) in values.iter_mut().zip(&self.sources) {
            *lanes = cx.u64(source);
        }
        // Lanes that do not execute compute too, and are dropped: functions have a result for any bits.
        let results = std::array::from_fn(|lane| (self.function)(std::array::from_fn(|i| values[i][lane])));
        cx.set_u64(self.dest, &results);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        self.class
    }
}

/// An instruction of one result, or one that is dropped.
pub(super) fn lanewise<const N: usize>(
    class: Class,
    dest: Option<Reg>,
    sources: [Source; N],
    function: impl Fn([u64; N]) -> u64 + Send + Sync + 'static,
) -> Box<dyn Execute> {
    Box::new(Lanewise { class, dest, sources, function })
}

/// Two results that one function computes.
struct Double<const N: usize, F> {
    class: Class,
    dests: [Option<Reg>; 2],
    sources: [Source; N],
    function: F,
}

impl<const N: usize, F> fmt::Debug for Double<N, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Double").field("dests", &self.dests).field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl<const N: usize, F: Fn([u64; N]) -> [u64; 2] + Send + Sync> Execute for Double<N, F> {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let mut values = [[0u64; LANES]; N];
        for (lanes, source) in values.iter_mut().zip(&self.sources) {
            *lanes = cx.u64(source);
        }
        let mut results = [[0; LANES]; 2];
        for lane in 0..LANES {
            let both = (self.function)(std::array::from_fn(|i| values[i][lane]));
            (results[0][lane], results[1][lane]) = (both[0], both[1]);
        }
        self.dests.iter().zip(&results).for_each(|(dest, lanes)| cx.set_u64(*dest, lanes));
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        self.class
    }
}

/// An instruction of two results, each of which may be dropped.
pub(super) fn double<const N: usize>(
    class: Class,
    dests: [Option<Reg>; 2],
    sources: [Source; N],
    function: impl Fn([u64; N]) -> [u64; 2] + Send + Sync + 'static,
) -> Box<dyn Execute> {
    Box::new(Double { class, dests, sources, function })
}
