//! Plans that have been made: a model asks for the same ones with every step.

use std::sync::{Mutex, PoisonError};

use attn_host::cudarc::driver::CudaStream;
use attn_host::{Device, Error, Plan, Problem};
use candle_core::Result;

use crate::geometry::typed;

/// Plans that are kept. A decoding model has a handful; prompts of all lengths come and go.
const KEPT: usize = 64;

/// A plan and the context that it is of, by its address.
struct Made {
    context: usize,
    plan: Plan,
}

/// The last ones that were asked for, the very last at the end.
static PLANS: Mutex<Vec<Made>> = Mutex::new(Vec::new());

/// A plan for the problem in the stream's context, which becomes the calling thread's.
pub(super) fn plan(problem: &Problem, stream: &CudaStream) -> Result<Plan> {
    let context = stream.context().cu_ctx() as usize;
    stream.context().bind_to_thread().map_err(candle_core::Error::wrap)?;
    let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = plans.iter().position(|made| made.context == context && made.plan.problem() == problem) {
        let made = plans.remove(at);
        match made.plan.check_context() {
            Ok(()) => {
                let plan = made.plan.clone();
                plans.push(made);
                return Ok(plan);
            }
            // A later context has the address of the plan's.
            Err(Error::ContextGone) => plans.retain(|made| made.context != context),
            Err(error) => return Err(typed(error)),
        }
    }
    let plan = Device::current().and_then(|device| Plan::new(&device, problem)).map_err(typed)?;
    if plans.len() == KEPT {
        plans.remove(0);
    }
    plans.push(Made { context, plan: plan.clone() });
    Ok(plan)
}
