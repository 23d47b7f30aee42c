//! Plans that do not fit the hardware.

use super::*;

impl Plan {
    /// The plan itself, after proving at compile time that the hardware can run it.
    pub const fn checked(self) -> Self {
        match self.refusal() {
            None => self,
            Some(why) => panic!("{}", why),
        }
    }

    /// Why the hardware cannot run the plan, if so. Whether ptxas finds registers enough for it shows only when it is compiled.
    pub const fn refusal(&self) -> Option<&'static str> {
        macro_rules! require {
            ($holds:expr, $why:literal $(,)?) => {
                if !$holds {
                    return Some($why);
                }
            };
        }
        require!(
            self.d.is_multiple_of(32) && self.d >= 32 && self.d <= 256,
            "head_dim is instantiated in steps of 32 up to 256"
        );
        require!(
            self.dv.is_multiple_of(32) && self.dv >= 32 && self.dv <= 256,
            "value head_dim is instantiated in steps of 32 up to 256"
        );
        require!(self.bm == 64 || self.bm == 128 || self.bm == 192, "one to three consumer warpgroups of 64 rows");
        require!(self.bn.is_multiple_of(16) && self.bn <= 256, "a key tile is whole k-steps of P V and one N of Q K^T");
        require!(self.bn >= 16, "a key tile is at least one k-step of P V");
        require!(self.stages >= 2, "one stage cannot overlap a load with a multiply");
        require!(
            self.split == 1 || self.split == 2 && self.bm == ROWS,
            "one warpgroup has a row, or two split the keys of a tile of 64 rows"
        );
        require!(self.q_stages == 1 || self.q_stages == 2, "one or two stages of Q");
        require!(self.per_sm >= 1 && self.per_sm <= 4, "one to four blocks a multiprocessor");
        let map = self.smem();
        require!(
            map.k.is_multiple_of(1024) && map.v.is_multiple_of(1024) && map.o.is_multiple_of(1024),
            "swizzled tiles start on 1024 bytes"
        );
        require!(
            self.k_bytes().is_multiple_of(1024) && self.v_bytes().is_multiple_of(1024),
            "every stage starts on 1024 bytes"
        );
        require!(map.end <= self.smem_limit(), "shared memory does not fit one multiprocessor");
        require!(
            self.split == 1 || self.stages.is_multiple_of(2) && !self.ping_pong && !self.o_in_q(),
            "warpgroups that split the keys have stages of their own, take no turns and keep Q where it is"
        );
        match self.float8 {
            Float8::None => require!(self.raw == 0, "stages of 8-bit tiles are for 8-bit K and V"),
            Float8::Keys | Float8::All => {
                require!(self.raw >= 1, "8-bit tiles need a stage");
                require!(self.ragged, "8-bit K and V are the serving kernels'");
                require!(self.raw_bytes().is_multiple_of(1024), "every stage starts on 1024 bytes");
                require!(self.bn.is_multiple_of(32), "8-bit keys are changed 32 at a time");
            }
        }
        require!(
            matches!(self.float8, Float8::None | Float8::Keys) || !self.o_in_q(),
            "16-bit O is larger than 8-bit Q"
        );
        require!(
            !self.single || self.consumers() == 1 && !self.o_in_q(),
            "the one block of a tile has one warpgroup, which gives Q back before O is there"
        );
        require!(self.split == 1 || !self.ragged, "ragged sequences are split over blocks, not in one");
        require!(self.q_stages == 1 || !self.o_in_q(), "a second Q is of use where O is not in the first one's memory");
        require!(
            !self.o_in_q() || self.dv <= self.d,
            "a warpgroup's rows of O would reach into another one's rows of Q"
        );
        let r = self.regs;
        let scores_or_sums = match (self.in_strips(), self.in_parts()) {
            (true, _) if STRIP > self.bn / 2 => STRIP, // of two strips at a time, while there are no scores
            (false, true) => self.bn / 2 + self.dv / 2,
            _ => self.bn / 2,
        };
        require!(
            scores_or_sums + self.dv / 2 < r.consumer,
            "a consumer's scores and its part of the output alone take more registers than it has"
        );
        require!(r.consumer.is_multiple_of(8) && r.producer.is_multiple_of(8), "setmaxnreg counts in steps of 8");
        require!(r.consumer >= 24 && r.consumer <= 240 && r.producer >= 24, "setmaxnreg takes 24 to 240 here");
        require!(
            r.consumer * self.consumers() + r.producer <= self.entry_registers() * (self.consumers() + 1),
            "the consumers would wait for registers that the block does not own"
        );
        require!(self.exp_under_output <= 8, "a block's exponentials are eight eighths");
        require!(
            !self.in_strips() || self.exp_under_output == 0,
            "where O is multiplied in strips, no exponentials are under its own multiply"
        );
        require!(self.exp2.period > 0 && self.exp2.emulated <= self.exp2.period, "a share is at most the whole");
        None
    }
}
