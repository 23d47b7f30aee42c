//! The CUDA driver API over the PTX machine [`attn_sim`]: programs written for a GPU run where there is none.
//!
//! The functions have the driver's names, signatures and codes. [`symbol`] finds them by name for a program that looks the
//! driver up at run time, as attn-host does:
//!
//! ```
//! use attn_sim_driver::{Options, configure, symbol};
//!
//! configure(Options { seed: 7, ..Options::default() })?;
//! let init = symbol("cuInit").ok_or("every driver has it")?;
//! // SAFETY: this is the function's signature.
//! let init = unsafe { std::mem::transmute::<*const std::ffi::c_void, unsafe extern "C" fn(u32) -> i32>(init) };
//! // SAFETY: 0 is the one flag that is allowed.
//! assert_eq!(unsafe { init(0) }, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For any other program, a shared library takes the place of `libcuda.so.1`:
//!
//! ```sh
//! cargo rustc --release -p attn-sim-driver --features libcuda --crate-type cdylib
//! mkdir sim && cp target/release/libattn_sim_driver.so sim/libcuda.so.1
//! LD_LIBRARY_PATH=sim ATTN_SIM_SEED=7 program
//! ```
//!
//! - One device, of an [`Arch`] with a few multiprocessors: [`configure`], or the environment ([`Options::from_env`]).
//! - Modules are PTX text. Machine code is refused with `CUDA_ERROR_NO_BINARY_FOR_GPU`, as by a driver that is too old for it,
//!   so that programs which carry both forms go on to the text.
//! - Everything is done when the call that queues it returns; streams and events are there in name, and event times are
//!   the wall clock of the simulation.
//! - A launch with a finding (a race, a missing fence, a deadlock, ...) returns `CUDA_ERROR_LAUNCH_FAILED`, one that comes to
//!   what is not modelled `CUDA_ERROR_NOT_SUPPORTED`. The report goes to standard error and to [`last_launch`]. Unlike on a
//!   GPU, the context survives.
//! - Not there: arrays, textures, graphs and captures, managed and peer memory, linking. Their names are not found.

mod abi;
mod code;
mod context;
mod device;
mod init;
mod launch;
mod memory;
mod module;
mod options;
mod state;
mod stream;
mod tensor_map;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::time::Duration;

pub use attn_sim;
pub use code::Code;
pub use options::{Arch, OptionError, Options, UnknownArch};

/// The driver function of this name (`cuMemAlloc_v2`), to be called with its signature.
pub fn symbol(name: &str) -> Option<*const c_void> {
    let tables = [
        init::SYMBOLS,
        device::SYMBOLS,
        context::SYMBOLS,
        memory::SYMBOLS,
        stream::SYMBOLS,
        module::SYMBOLS,
        launch::SYMBOLS,
        tensor_map::SYMBOLS,
    ];
    tables.into_iter().flatten().find(|(known, _)| *known == name).map(|(_, address)| *address)
}

/// Says what device is simulated. The first call, or the first call of a driver function, makes it; later ones change the
/// seed.
///
/// # Errors
/// [`ConfigureError::Option`] for an option that is not allowed, [`ConfigureError::Made`] when a device with another
/// architecture or number of multiprocessors exists.
pub fn configure(options: Options) -> Result<(), ConfigureError> {
    state::configure(options.checked()?).map_err(|made| ConfigureError::Made { made, asked: options })
}

/// The device that is simulated, if one has been made.
pub fn configured() -> Option<Options> {
    state::made()
}

/// Why the device cannot be as asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// An option is not allowed.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The device exists already.
    #[error(
        "the simulated device is {} with {} multiprocessors already, not {} with {}",
        made.arch, made.multiprocessors, asked.arch, asked.multiprocessors
    )]
    Made {
        /// What the device is.
        made: Options,
        /// What was asked for.
        asked: Options,
    },
}

/// The last launch of the process that began.
#[derive(Clone, Debug)]
pub struct LastLaunch {
    /// The kernel.
    pub kernel: String,
    /// What was wrong, as on standard error; `None` when nothing was.
    pub report: Option<String>,
    /// What it did, in numbers; `None` when it did not come to its end.
    pub counters: Option<attn_sim::counters::Counters>,
    /// What the simulation took.
    pub wall: Duration,
}

/// The last launch, if there was one.
pub fn last_launch() -> Option<LastLaunch> {
    // Without a device (its options in the environment are wrong) nothing was launched.
    state::lock().ok().and_then(|state| state.last.clone())
}

/// The report of the last launch, if anything was wrong with it.
pub fn last_report() -> Option<String> {
    last_launch().and_then(|launch| launch.report)
}
