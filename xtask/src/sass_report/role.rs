//! What a loop is for, told from its instructions.

use super::parse::Instruction;
use super::unit::tmem_columns;

/// The work of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Multiplies and softmax in the same warps, as on Hopper.
    MmaSoftmax,
    /// Issues matrix multiplies.
    Mma,
    /// exp2 of scores.
    Softmax,
    /// Rescales the accumulator in tensor memory.
    Correction,
    /// Copies tiles into shared memory.
    Load,
    /// Carries results out.
    Epilogue,
}

impl Role {
    /// Every role, in the order of the report.
    pub const ALL: [Role; 6] =
        [Role::MmaSoftmax, Role::Mma, Role::Softmax, Role::Correction, Role::Load, Role::Epilogue];

    /// Its title.
    pub const fn title(self) -> &'static str {
        match self {
            Role::MmaSoftmax => "multiplies and softmax",
            Role::Mma => "MMA issue",
            Role::Softmax => "softmax",
            Role::Correction => "correction",
            Role::Load => "load",
            Role::Epilogue => "epilogue",
        }
    }
}

/// Instructions of a loop that tell its role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Marks {
    /// Matrix multiplies.
    pub multiplies: u32,
    /// exp2 of the special-function unit.
    pub exp2: u32,
    /// Scores of a thread: two in each conversion to a pair of 16-bit numbers.
    pub scores: u32,
    /// Selections among f32, by which scores are masked.
    pub selects: u32,
    /// Comparisons of integers, where each score's column is compared.
    pub compares: u32,
    /// Moves of a register's bits to predicates, as masks of bits need them.
    pub r2p: u32,
    /// Columns loaded from tensor memory.
    pub tmem_loaded: u32,
    /// Columns stored to tensor memory.
    pub tmem_stored: u32,
    /// Copies to shared memory.
    pub copies_in: u32,
    /// Copies to global memory.
    pub copies_out: u32,
}

/// A loop with fewer exp2 than this has other business: a correction factor, a division by a reciprocal.
const SOFTMAX_EXP2: u32 = 8;

impl Marks {
    /// Counts in `instructions`.
    pub fn of<'i>(instructions: impl IntoIterator<Item = &'i Instruction>) -> Marks {
        let mut marks = Marks::default();
        for i in instructions {
            match i.base() {
                _ if super::mma::multiplies(i) => marks.multiplies += 1,
                "MUFU" if i.has("EX2") => marks.exp2 += 1,
                "F2FP" if i.has("PACK_AB") => marks.scores += 2,
                "FSEL" => marks.selects += 1,
                "ISETP" => marks.compares += 1,
                "R2P" => marks.r2p += 1,
                "LDTM" => marks.tmem_loaded += tmem_columns(i),
                "STTM" => marks.tmem_stored += tmem_columns(i),
                "UTMALDG" | "UBLKCP" | "LDGSTS" => marks.copies_in += 1,
                "UTMASTG" | "UTMAREDG" | "UBLKRED" => marks.copies_out += 1,
                _ => {}
            }
        }
        marks
    }

    /// The role; none where nothing tells it.
    pub fn role(&self) -> Option<Role> {
        let softmax = self.exp2 >= SOFTMAX_EXP2;
        match self {
            _ if softmax && self.multiplies > 0 => Some(Role::MmaSoftmax),
            _ if softmax => Some(Role::Softmax),
            _ if self.multiplies > 0 => Some(Role::Mma),
            _ if self.tmem_loaded > 0 && self.tmem_stored > 0 => Some(Role::Correction),
            _ if self.tmem_loaded > 0 || self.copies_out > 0 => Some(Role::Epilogue),
            _ if self.copies_in > 0 => Some(Role::Load),
            _ => None,
        }
    }

    /// Whether scores are masked: about one selection or comparison for each, or bits made predicates.
    pub fn masked(&self) -> bool {
        let each = 2 * self.selects.max(self.compares) >= self.exp2;
        self.exp2 >= SOFTMAX_EXP2 && (self.r2p > 1 || each)
    }
}
