//! One variant: its kernel, and whether it answers small problems rightly.

use std::path::Path;

use attn_host::{Kernel, Plan, Problem};
use attn_kernel::forward::sm90;
use attn_tune::Class;
use attn_tune::folder::Variant;
use attn_tune::grid::{self, GridError};

use crate::case::Case;
use crate::compare::{self, Mismatch};
use crate::gpu::{Gpu, GpuError, LSE_POISON};
use crate::input::Inputs;
use crate::oracle::Answer;
use crate::precision::{POISON, Precision};

/// Why a variant is not timed.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its knobs do not read.
    #[error(transparent)]
    Knobs(#[from] GridError),
    /// The hardware cannot run its plan.
    #[error("cannot run: {0}")]
    Refused(&'static str),
    /// It was left out.
    #[error("left out (--skip)")]
    Skipped,
    /// The driver or the launch side.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// An answer is wrong.
    #[error("wrong: {mismatch} in --case '{case}'")]
    Wrong {
        /// The problem.
        case: Box<Case>,
        /// What is wrong.
        mismatch: Mismatch,
    },
    /// It wrote where it must not.
    #[error("wrote outside {what} in --case '{case}'")]
    Overwrite {
        /// The problem.
        case: Box<Case>,
        /// `o` or `lse`.
        what: &'static str,
    },
}

impl Unusable {
    /// An answer that is wrong.
    pub fn wrong(case: &Case, mismatch: Mismatch) -> Unusable {
        Unusable::Wrong { case: Box::new(*case), mismatch }
    }
}

/// A kernel with its own plan, and where its code is.
pub struct Candidate<'a> {
    kernel: &'static Kernel,
    folder: &'a Path,
}

impl<'a> Candidate<'a> {
    /// The kernel of a variant in `folder`.
    pub fn of(class: Class, variant: &Variant, folder: &'a Path) -> Result<Self, Unusable> {
        let plan = grid::with(class.base(), &variant.knobs)?;
        if let Some(why) = plan.refusal() {
            return Err(Unusable::Refused(why));
        }
        // A program measures one folder and ends: what is leaked is little, and plans keep kernels for ever.
        let name: &'static str = variant.name.clone().leak();
        let kernel = Box::leak(Box::new(sm90::describe(name, class.element.dtype(), class.line.causal, plan)));
        Ok(Candidate { kernel, folder })
    }

    /// The launch side's plan for a problem.
    pub fn plan(&self, gpu: &Gpu, problem: &Problem) -> Result<Plan, attn_host::Error> {
        Plan::with_code(gpu.device(), problem, self.kernel, self.folder)
    }

    /// Compares all elements of a small problem with the oracle.
    pub fn check(&self, gpu: &Gpu, small: &Small) -> Result<(), Unusable> {
        let Small { case, inputs, reference, lowp } = small;
        let loaded = gpu.load_with(case, inputs, |problem| self.plan(gpu, problem))?;
        let output = loaded.run()?;
        let overwrite = |what| Unusable::Overwrite { case: Box::new(*case), what };
        if loaded.place().o.0.overwritten(&output.o, POISON).is_some() {
            return Err(overwrite("o"));
        }
        if output.lse.as_ref().is_some_and(|lse| loaded.place().lse.0.overwritten(lse, LSE_POISON).is_some()) {
            return Err(overwrite("lse"));
        }
        let (o, lse) = loaded.tensors(&output, case.precision);
        compare::check(&o, lse.as_ref(), reference, lowp, case.precision)
            .map(drop)
            .map_err(|mismatch| Unusable::wrong(case, mismatch))
    }
}

/// A small problem and what is right in it.
pub struct Small {
    case: Case,
    inputs: Inputs,
    reference: Answer<f64>,
    lowp: Answer<f32>,
}

impl Small {
    /// A class's small problems: lengths that fill no tile, groups of heads, more tiles than multiprocessors, rows without keys, and head
    /// dimensions that are filled up. On the simulator few of them.
    pub fn all(class: Class, precision: Precision, simulated: bool) -> Vec<Small> {
        let (d, dv) = (class.line.d as usize, class.line.dv as usize);
        let case = |batch, heads, kv_heads, seqlen_q, seqlen_k| Case {
            batch,
            heads,
            kv_heads,
            seqlen_k,
            head_dim_v: dv,
            causal: class.line.causal,
            lse: true,
            ..Case::new(precision, seqlen_q, d)
        };
        let narrow = |case| Case { head_dim: d - 8, head_dim_v: dv - 8, ..case };
        let cases = if simulated {
            vec![case(1, 2, 1, 130, 200), narrow(case(1, 1, 1, 70, 40))]
        } else {
            vec![
                case(1, 1, 1, 1, 1),
                case(2, 4, 2, 333, 517),
                case(1, 3, 3, 517, 333),
                case(4, 40, 8, 130, 150),
                narrow(case(1, 2, 1, 1000, 1000)),
            ]
        };
        cases.into_iter().map(Small::of).collect()
    }

    fn of(case: Case) -> Small {
        let inputs = Inputs::of(&case);
        let attention = inputs.attention(&case);
        let (reference, lowp) = (attention.reference(), attention.lowp(case.precision));
        Small { case, inputs, reference, lowp }
    }
}
