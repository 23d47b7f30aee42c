//! Plans that have been made: a model asks for the same ones with every step.

use std::sync::{Mutex, PoisonError};

use attn_host::cudarc::driver::CudaStream;
use attn_host::{Append, AppendPlan, Device, Error, Plan, Problem};
use candle_core::Error as CandleError;

use crate::geometry::typed;

/// Plans that are kept, of each kind. A decoding model has a handful; prompts of all lengths come and go.
const KEPT: usize = 64;

/// A plan for the problem in the stream's context, which becomes the calling thread's.
pub(super) fn attend(problem: &Problem, stream: &CudaStream) -> Result<Plan, CandleError> {
    static PLANS: Plans<Plan> = Plans(Mutex::new(Vec::new()));
    PLANS.find(problem, stream)
}

/// A plan to append, likewise.
pub(super) fn append(append: &Append, stream: &CudaStream) -> Result<AppendPlan, CandleError> {
    static PLANS: Plans<AppendPlan> = Plans(Mutex::new(Vec::new()));
    PLANS.find(append, stream)
}

/// What is planned once and launched many times.
trait Planned: Clone {
    /// What it is a plan for.
    type For: PartialEq;

    fn new(device: &Device, what: &Self::For) -> Result<Self, Error>;
    fn what(&self) -> &Self::For;
    fn check_context(&self) -> Result<(), Error>;
}

/// Plans with the contexts that they are of, by their addresses. The last ones that were asked for, the very last at the end.
struct Plans<P>(Mutex<Vec<(usize, P)>>);

impl<P: Planned> Plans<P> {
    fn find(&self, what: &P::For, stream: &CudaStream) -> Result<P, CandleError> {
        let context = stream.context().cu_ctx() as usize;
        stream.context().bind_to_thread().map_err(CandleError::wrap)?;
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = plans.iter().position(|(of, plan)| *of == context && plan.what() == what) {
            let (_, plan) = plans.remove(at);
            match plan.check_context() {
                Ok(()) => {
                    plans.push((context, plan.clone()));
                    return Ok(plan);
                }
                // A later context has the address of the plan's.
                Err(Error::ContextGone) => plans.retain(|(of, _)| *of != context),
                Err(error) => return Err(typed(error)),
            }
        }
        let plan = Device::current().and_then(|device| P::new(&device, what)).map_err(typed)?;
        if plans.len() == KEPT {
            plans.remove(0);
        }
        plans.push((context, plan.clone()));
        Ok(plan)
    }
}

impl Planned for Plan {
    type For = Problem;

    fn new(device: &Device, problem: &Problem) -> Result<Self, Error> {
        Plan::new(device, problem)
    }

    fn what(&self) -> &Problem {
        self.problem()
    }

    fn check_context(&self) -> Result<(), Error> {
        Plan::check_context(self)
    }
}

impl Planned for AppendPlan {
    type For = Append;

    fn new(device: &Device, append: &Append) -> Result<Self, Error> {
        AppendPlan::new(device, append)
    }

    fn what(&self) -> &Append {
        self.append()
    }

    fn check_context(&self) -> Result<(), Error> {
        AppendPlan::check_context(self)
    }
}
