//! Plans that have been made, the last used first.

use crate::device::Device;
use crate::error::Error;
use crate::plan::Plan;
use crate::problem::Problem;

/// How plans are made.
pub(super) type Make = fn(&Device, &Problem) -> Result<Plan, Error>;

/// Some plans.
pub(super) struct Plans {
    device: Device,
    make: Make,
    most: usize,
    made: Vec<Plan>,
}

impl Plans {
    pub(super) fn new(device: Device, make: Make, most: usize) -> Self {
        Plans { device, make, most: most.max(1), made: Vec::new() }
    }

    /// The plan of a problem, made if it is not there.
    pub(super) fn get(&mut self, problem: &Problem) -> Result<&Plan, Error> {
        match self.made.iter().position(|plan| plan.problem() == problem) {
            Some(at) => self.made[..=at].rotate_right(1),
            None => {
                let plan = (self.make)(&self.device, problem)?;
                self.made.truncate(self.most - 1);
                self.made.insert(0, plan);
            }
        }
        Ok(&self.made[0])
    }
}
