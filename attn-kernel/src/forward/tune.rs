//! Numbers found by measuring, one line per shape class. Alternatives and their ratios: `PERFORMANCE.md`; H100 80GB HBM3,
//! `cargo xtask tune`, 2026-11-23.
//!
//! `cargo xtask tune` tries other plans and writes what wins into the line; it keeps comments and leaves the other lines alone.

use super::knobs::equal;
use super::plan::{Cost, Exp2, Float8, Plan, Registers, Schedule};

/// A line of the table: a shape class and the knobs of its plan ([`KNOBS`](super::knobs::KNOBS)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Head dimension of Q and K.
    pub d: u32,
    /// Head dimension of V and O.
    pub dv: u32,
    /// With the causal mask.
    pub causal: bool,
    /// Which problems of these it is for: empty for all, or a name that ends the kernel's.
    pub class: &'static str,
    /// The knobs.
    pub knobs: &'static str,
}

/// `D DV MASK [CLASS]: "KNOBS";` a line.
macro_rules! table {
    (@causal full) => { false };
    (@causal causal) => { true };
    ($($d:literal $dv:literal $mask:ident $($class:ident)?: $knobs:literal;)*) => {
        /// Every shape class.
        pub const TABLE: &[Line] = &[$(Line {
            d: $d,
            dv: $dv,
            causal: table!(@causal $mask),
            class: concat!($(stringify!($class))?),
            knobs: $knobs,
        }),*];
    };
}

// Wait for P V: with three warpgroups together with that for the scores or soon after, 4 to 10 % slower later; with two after a quarter to a
// half of the exponentials, 5 to 8 % slower at once. Turns on the tensor cores: no difference without mask, 1 to 5 % faster with one.
table! {
    32 32 full: "bm=192 bn=128 stages=2 regs=160/32 exp2=0/1 turns=1 wait=0 schedule=persistent";
    32 32 causal: "bm=192 bn=128 stages=2 regs=160/32 exp2=0/1 turns=1 wait=0 schedule=paired";
    64 64 full: "bm=192 bn=128 stages=3 regs=160/32 exp2=0/1 turns=1 wait=0 schedule=persistent cost=1500/1350";
    64 64 full small: "bm=64 bn=64 split=2 stages=4 regs=240/24 exp2=0/1 turns=0 wait=2 schedule=persistent cost=700/330";
    64 64 causal: "bm=192 bn=128 stages=2 q=2 regs=160/32 exp2=0/1 turns=1 wait=0 schedule=paired cost=1500/1500";
    64 64 causal short: "bm=64 bn=80 stages=2 blocks=3 regs=136/24 exp2=0/1 turns=0 wait=0 schedule=paired cost=2500/1070";
    64 64 causal small: "bm=64 bn=64 split=2 stages=4 regs=240/24 exp2=0/1 turns=0 wait=2 schedule=paired cost=900/390";
    96 96 full: "bm=192 bn=96 stages=2 regs=160/32 exp2=0/1 turns=1 wait=1 schedule=persistent";
    96 96 causal: "bm=192 bn=96 stages=2 regs=160/32 exp2=0/1 turns=1 wait=1 schedule=paired";
    128 128 full: "bm=128 bn=128 stages=2 regs=240/24 exp2=0/1 turns=1 wait=3 schedule=persistent cost=3050/1170";
    128 128 full small: "bm=64 bn=64 split=2 stages=4 regs=240/24 exp2=0/1 turns=0 wait=2 schedule=persistent cost=2100/470";
    128 128 causal: "bm=128 bn=128 stages=2 q=2 regs=240/24 exp2=0/1 turns=1 wait=4 schedule=paired cost=3050/1170";
    128 128 causal small: "bm=64 bn=64 split=2 stages=4 regs=240/24 exp2=0/1 turns=0 wait=2 schedule=paired cost=2100/470";
    192 128 full: "bm=128 bn=128 stages=2 regs=240/24 exp2=0/1 turns=1 wait=3 schedule=persistent";
    192 128 causal: "bm=128 bn=96 stages=2 regs=240/24 exp2=0/1 turns=1 wait=2 schedule=paired";
    192 192 full: "bm=128 bn=96 stages=2 regs=240/24 exp2=0/1 turns=1 wait=2 schedule=persistent";
    192 192 causal: "bm=128 bn=80 stages=2 regs=240/24 exp2=0/1 turns=1 wait=2 schedule=paired";
    256 256 full: "bm=128 bn=80 stages=2 regs=240/24 exp2=0/1 turns=1 wait=2 schedule=persistent";
    256 256 causal: "bm=128 bn=64 stages=2 regs=240/24 exp2=0/1 turns=1 wait=4 schedule=paired";
}

/// A line of [`RAGGED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaggedLine {
    /// Head dimension of Q and K.
    pub d: u32,
    /// Head dimension of V and O.
    pub dv: u32,
    /// `serve`, `decode`, or `serve_mod` where modified scores need other knobs; with `_kv8` for K and V of 8 bits, `_e4m3` for all of Q, K
    /// and V.
    pub class: &'static str,
    /// The knobs.
    pub knobs: &'static str,
}

/// `D DV CLASS: "KNOBS";` a line.
macro_rules! ragged_table {
    ($($d:literal $dv:literal $class:ident: $knobs:literal;)*) => {
        /// The plans of kernels for serving.
        pub const RAGGED: &[RaggedLine] =
            &[$(RaggedLine { d: $d, dv: $dv, class: stringify!($class), knobs: $knobs }),*];
    };
}

// As many keys a tile for one query as for many: then a query has the same bits whether it is decoded alone or in a prompt. All exponentials
// on one unit, for the same reason. The producer's warp works out tiles, asks for the next one and reads page tables: with 40 registers it
// spills. At head_dim 256 consumers spill with a wait of 2 or 4.
ragged_table! {
    32 32 serve: "bm=128 bn=128 stages=4 q=2 regs=224/56 exp2=0/1 turns=1 wait=0";
    64 64 serve: "bm=128 bn=128 stages=3 q=2 regs=224/56 exp2=0/1 turns=1 wait=0";
    96 96 serve: "bm=128 bn=128 stages=2 q=2 regs=224/56 exp2=0/1 turns=1 wait=2";
    128 128 serve: "bm=128 bn=128 stages=2 q=2 regs=224/56 exp2=0/1 turns=1 wait=2";
    128 128 serve_mod: "bm=128 bn=128 stages=2 q=2 regs=224/56 exp2=0/1 turns=1 wait=0";
    192 128 serve: "bm=128 bn=96 stages=2 regs=224/56 exp2=0/1 turns=1 wait=2";
    256 256 serve: "bm=128 bn=64 stages=2 regs=224/56 exp2=0/1 turns=1 wait=0";
    64 64 prompt: "bm=192 bn=128 stages=3 q=2 regs=160/32 exp2=0/1 turns=1 wait=0";
    128 128 prompt: "bm=128 bn=128 stages=2 q=2 regs=232/40 exp2=0/1 turns=1 wait=3";
    64 64 short: "bm=64 bn=64 stages=2 q=1 blocks=4 regs=80/48 exp2=0/1 wait=0";
    128 128 short: "bm=64 bn=64 stages=2 q=2 blocks=2 regs=200/56 exp2=0/1 wait=0";
    32 32 decode: "bm=64 bn=128 stages=6 regs=240/56 exp2=0/1 wait=2";
    64 64 decode: "bm=64 bn=128 stages=6 regs=240/56 exp2=0/1 wait=2";
    96 96 decode: "bm=64 bn=128 stages=4 regs=240/56 exp2=0/1 wait=0";
    128 128 decode: "bm=64 bn=128 stages=3 regs=240/56 exp2=0/1 wait=2";
    192 128 decode: "bm=64 bn=96 stages=3 regs=240/56 exp2=0/1 wait=2";
    256 256 decode: "bm=64 bn=64 stages=3 regs=240/56 exp2=0/1 wait=2";
    64 64 serve_kv8: "bm=128 bn=128 stages=3 raw=3 regs=224/56 exp2=0/1 turns=1 wait=0";
    128 128 serve_kv8: "bm=128 bn=128 stages=2 raw=2 regs=216/72 exp2=0/1 turns=1 wait=0";
    256 256 serve_kv8: "bm=128 bn=64 stages=2 raw=2 regs=224/56 exp2=0/1 turns=1 wait=0";
    64 64 decode_kv8: "bm=64 bn=128 stages=4 raw=8 regs=240/96 exp2=0/1 wait=2";
    128 128 decode_kv8: "bm=64 bn=128 stages=2 raw=4 regs=240/96 exp2=0/1 wait=2";
    64 64 serve_e4m3: "bm=128 bn=128 stages=3 raw=3 regs=224/56 exp2=0/1 turns=1 wait=0";
    128 128 serve_e4m3: "bm=128 bn=96 stages=3 raw=2 regs=224/56 exp2=0/1 turns=1 wait=0";
    256 256 serve_e4m3: "bm=128 bn=64 stages=3 raw=2 regs=232/40 exp2=0/1 turns=1 wait=0";
    256 256 serve_mod_e4m3: "bm=128 bn=64 stages=3 raw=2 regs=224/56 exp2=0/1 turns=1 wait=0";
    256 256 decode_kv8: "bm=64 bn=64 stages=2 raw=4 regs=240/96 exp2=0/1 wait=2";
}

/// The plan of a kernel for serving.
pub const fn ragged_plan(d: u32, dv: u32, class: &str) -> Plan {
    let mut i = 0;
    while i < RAGGED.len() {
        let line = RAGGED[i];
        if line.d == d && line.dv == dv && equal(line.class.as_bytes(), class.as_bytes()) {
            let float8 = if ends_with(class, b"_kv8") {
                Float8::Keys
            } else if ends_with(class, b"_e4m3") {
                Float8::All
            } else {
                Float8::None
            };
            let plain = equal(class.as_bytes(), b"prompt");
            let single = equal(class.as_bytes(), b"short");
            return match (Plan { d, dv, float8, ragged: true, plain, single, ..BASE }).with(line.knobs) {
                Ok(plan) => plan.checked(),
                Err(unreadable) => panic!("{}", unreadable.why),
            };
        }
        i += 1;
    }
    panic!("no plan for these head dimensions")
}

const fn ends_with(text: &str, end: &[u8]) -> bool {
    text.len() >= end.len() && equal(text.as_bytes().split_at(text.len() - end.len()).1, end)
}

/// What a line's knobs are set on: a value for those that it does not name. It fits no head dimension.
pub const BASE: Plan = Plan {
    d: 0,
    dv: 0,
    float8: Float8::None,
    bm: 128,
    bn: 128,
    split: 1,
    stages: 2,
    raw: 0,
    q_stages: 1,
    per_sm: 1,
    regs: Registers { consumer: 240, producer: 24 },
    exp2: Exp2::HARDWARE,
    ping_pong: false,
    exp_under_output: 0,
    schedule: Schedule::Persistent,
    ragged: false,
    plain: false,
    single: false,
    cost: Cost { tile: 0, block: 0 },
};

/// The plan for head dimensions `(d, dv)`, causal or not.
pub const fn plan(d: u32, dv: u32, causal: bool) -> Plan {
    plan_of(d, dv, causal, "")
}

/// The plan of a class of problems with head dimensions `(d, dv)`, causal or not.
pub const fn plan_of(d: u32, dv: u32, causal: bool, class: &str) -> Plan {
    let mut i = 0;
    while i < TABLE.len() {
        let line = TABLE[i];
        if line.d == d && line.dv == dv && line.causal == causal && equal(line.class.as_bytes(), class.as_bytes()) {
            return variant(d, dv, line.knobs);
        }
        i += 1;
    }
    panic!("no plan for these head dimensions")
}

/// A plan for head dimensions `(d, dv)` with the given knobs. For kernels that are compiled: what the hardware cannot run, or what
/// does not read as knobs, is an error of the compilation.
pub const fn variant(d: u32, dv: u32, knobs: &str) -> Plan {
    match (Plan { d, dv, ..BASE }).with(knobs) {
        Ok(plan) => plan.checked(),
        Err(unreadable) => panic!("{}", unreadable.why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_class_has_one_line() {
        for (i, line) in TABLE.iter().enumerate() {
            let class = |line: &Line| (line.d, line.dv, line.causal, line.class);
            assert_eq!(TABLE.iter().position(|other| class(other) == class(line)), Some(i), "{line:?}");
        }
    }
}
