//! A simulated GPU in the driver's place, for programs and tests that run where there is none.
//!
//! ```
//! use attn_host::simulator::{self, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! simulator::install(Options { seed: 7, ..Options::default() })?;
//! // From here on devices, plans, launches and cust see a Hopper GPU of four multiprocessors.
//! assert_eq!(attn_host::Device::open(0)?.info().sm_count, 4);
//! # Ok(())
//! # }
//! ```
//!
//! [`Options::arch`] makes it a Blackwell GPU. It runs the kernels' PTX, so it sees exactly what a GPU would. A launch returns when it is done. One that breaks a rule is
//! [`Error::Cuda`](crate::Error::Cuda) with `CUDA_ERROR_LAUNCH_FAILED`, one that comes to an instruction that is not modelled
//! with `CUDA_ERROR_NOT_SUPPORTED`; the report is on standard error and in [`last_report`]. The context goes on in both cases.

pub use attn_sim_driver::attn_sim::counters::{Class, Counters};
pub use attn_sim_driver::{Arch, ConfigureError, LastLaunch, OptionError, Options, last_launch, last_report};

use crate::driver;

/// Puts the simulator in the driver's place, for all threads. Called again, it gives the device another seed.
///
/// Meant to be called before the driver is used, or after that failed: devices, plans and buffers of an installed driver stay
/// that driver's, and what is made afterwards does not mix with them (an error, never unsound).
///
/// # Errors
/// [`ConfigureError`] for an option that is not allowed, and when a device with another architecture or number of
/// multiprocessors is simulated already.
pub fn install(options: Options) -> Result<(), ConfigureError> {
    attn_sim_driver::configure(options)?;
    driver::simulate();
    Ok(())
}

/// Whether the simulator stands in the driver's place.
pub fn is_installed() -> bool {
    driver::is_simulated()
}

/// The simulated device, when it stands in the driver's place.
pub fn installed() -> Option<Options> {
    if is_installed() { attn_sim_driver::configured() } else { None }
}
