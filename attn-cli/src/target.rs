//! Which device: the first GPU, or a simulated one.

use attn_host::simulator;
use attn_tests::gpu::Gpu;
use clap::Args;

use crate::error::Failure;

/// Where a launch runs.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Device")]
pub struct Target {
    /// Run the kernels' PTX on the CPU, and check it for races and missing waits besides
    #[arg(long)]
    pub simulate: bool,
    /// The architecture that is simulated: sm_90a, sm_100a or sm_103a
    #[arg(long, value_name = "ARCH", default_value_t, requires = "simulate")]
    pub arch: simulator::Arch,
    /// Seed of the simulated order of warps
    #[arg(long, value_name = "N", default_value_t = 0, requires = "simulate")]
    pub seed: u64,
}

impl Target {
    /// Opens it. CUDA_VISIBLE_DEVICES says which GPU is the first.
    ///
    /// # Errors
    /// No driver, no GPU, or one without kernels.
    pub fn open(self) -> Result<Gpu, Failure> {
        if !self.simulate {
            return Ok(Gpu::open()?);
        }
        let options = simulator::Options { arch: self.arch, seed: self.seed, ..Default::default() };
        Ok(Gpu::simulated(options)?)
    }
}
