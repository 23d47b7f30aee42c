//! A case of the suite, dense or serving.

use std::str::FromStr;

use attn_kernel::forward::{Family, Float8, KERNELS, Kernel};

use crate::case::{Case, CaseError};
use crate::compare::Report;
use crate::gpu::Gpu;
use crate::lists::Entry;
use crate::serve::case::{Narrow, ServeCase};
use crate::suite::check::{self, Failure};
use crate::suite::{Options, Records, serving};

/// A case as a failure prints it.
#[derive(Clone, Debug)]
pub(super) enum Line {
    Dense(Case),
    Serving(Box<ServeCase>),
}

impl FromStr for Line {
    type Err = CaseError;

    fn from_str(line: &str) -> Result<Self, CaseError> {
        match line.parse() {
            Ok(case) => Ok(Line::Dense(case)),
            // A word that no dense case has.
            Err(CaseError::Unknown(_)) => Ok(Line::Serving(Box::new(line.parse()?))),
            Err(error) => Err(error),
        }
    }
}

/// A case of a list.
pub(super) enum Job {
    Dense(Entry),
    Serving { list: &'static str, case: Box<ServeCase> },
}

impl Job {
    pub(super) fn list(&self) -> &'static str {
        match self {
            Job::Dense(Entry { list, .. }) | Job::Serving { list, .. } => list,
        }
    }

    /// To read.
    pub(super) fn line(&self) -> String {
        match self {
            Job::Dense(Entry { list, case, kernel }) => {
                format!("{list}: {case}{}", kernel.map_or(String::new(), |name| format!(" ({name})")))
            }
            Job::Serving { list, case } => format!("{list}: {case}"),
        }
    }

    /// The options that run it again.
    pub(super) fn again(&self) -> String {
        match self {
            Job::Dense(Entry { case, kernel, .. }) => {
                format!("--case '{case}'{}", kernel.map_or(String::new(), |name| format!(" --kernel {name}")))
            }
            Job::Serving { case, .. } => format!("--case '{case}'"),
        }
    }

    pub(super) fn check(&self, gpu: &Gpu, options: &Options, records: &mut Records) -> Result<Report, Failure> {
        match self {
            Job::Dense(entry) => check::check(gpu, entry, options, records),
            Job::Serving { case, .. } => serving::check(gpu, case, options),
        }
    }

    /// Whether the device is of the architecture of the kernel that is named, or of one that has serving kernels for the widths of the case.
    pub(super) fn can_run(&self, gpu: &Gpu) -> bool {
        let here = gpu.device().info().compute_capability;
        let mut kernels = KERNELS.iter().filter(|kernel| kernel.arch.compute_capability() == here);
        match self {
            Job::Dense(entry) => entry.kernel.is_none_or(|name| kernels.any(|kernel| kernel.name == name)),
            Job::Serving { case, .. } => {
                let narrow = match case.float8 {
                    None => Float8::None,
                    Some(Narrow::Keys) => Float8::Keys,
                    Some(Narrow::All) => Float8::All,
                };
                let wide = |kernel: &Kernel| {
                    kernel.launch.d as usize >= case.base.head_dim && kernel.launch.dv as usize >= case.base.head_dim_v
                };
                kernels.any(|k| k.family != Family::Dense && k.launch.float8 == narrow && wide(k))
            }
        }
    }
}
