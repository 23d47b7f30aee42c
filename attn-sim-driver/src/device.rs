//! The one device and what it says of itself.

use crate::abi::{Out, Outcome, Target, exports};
use crate::code::Code;
use crate::options::Options;
use crate::state::{self, MEMORY};

/// The ordinal and handle of the device.
pub(crate) const ORDINAL: i32 = 0;

/// Threads of the largest block.
pub(crate) const MAX_THREADS: u32 = 1024;
/// Bytes of shared memory that a block has without asking for more.
pub(crate) const DEFAULT_SHARED: u32 = 48 * 1024;

exports! {
    fn cuDeviceGetCount(count: Out<i32>) {
        state::ready()?;
        count.put(1)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        state::ready()?;
        check(ordinal)?;
        device.put(ORDINAL)
    }

    fn cuDeviceGetName(name: Target, room: i32, device: i32) {
        let state = state::ready()?;
        check(device)?;
        name.fill_text(&format!("attn-sim {}", state.options.arch), usize::try_from(room).unwrap_or(0))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<u64>, device: i32) {
        check(device)?;
        bytes.put(MEMORY)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        let state = state::ready()?;
        check(device)?;
        let (high, low) = state.options.arch.compute_capability();
        major.put(high as i32)?;
        minor.put(low as i32)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: i32, device: i32) {
        let state = state::ready()?;
        check(device)?;
        value.put(device_attribute(&state.options, attribute).ok_or(Code::INVALID_VALUE)?)
    }
}

/// Whether this is the device.
pub(crate) fn check(device: i32) -> Outcome {
    if device == ORDINAL { Ok(()) } else { Err(Code::INVALID_DEVICE) }
}

/// A `CUdevice_attribute`; what the simulator does not have is 0, as a device says of what it lacks.
fn device_attribute(options: &Options, attribute: i32) -> Option<i32> {
    let (major, minor) = options.arch.compute_capability();
    Some(match attribute {
        1 => MAX_THREADS as i32,    // threads of a block
        2 | 3 => 1024,              // of a block along x, y
        4 => 64,                    // along z
        5 => i32::MAX,              // blocks along x
        6 | 7 => 65_535,            // along y, z
        8 => DEFAULT_SHARED as i32, // shared memory of a block
        9 => 64 * 1024,             // constant memory
        10 => 32,                   // threads of a warp
        11 => i32::MAX,             // pitch
        12 | 82 => 64 * 1024,       // registers of a block, of a multiprocessor
        13 | 36 => 1_000_000,       // clocks in kHz: nominal, nothing is timed by them
        16 => options.multiprocessors as i32,
        37 => 512,      // width of the memory bus, nominal
        38 => 50 << 20, // L2, as an H100's
        39 => 2048,     // threads of a multiprocessor
        41 => 1,        // unified addressing
        75 => major as i32,
        76 => minor as i32,
        81 => 228 * 1024,                  // shared memory of a multiprocessor
        97 => attn_sim::MAX_SHARED as i32, // of a block that asks for it
        106 => 32,                         // blocks of a multiprocessor
        111 => 1024,                       // shared memory of a block that is the system's
        115 => 1,                          // memory pools
        120 | 127 => 1,                    // clusters, tensor maps
        _ if (1..=160).contains(&attribute) => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Arch;

    #[test]
    fn attributes_are_the_architectures_and_the_options() {
        let options = Options { arch: Arch::Sm103a, multiprocessors: 7, ..Options::default() };
        assert_eq!([75, 76, 16].map(|a| device_attribute(&options, a)), [Some(10), Some(3), Some(7)]);
        assert_eq!(device_attribute(&options, 97), Some(227 * 1024));
        assert_eq!(device_attribute(&options, 18), Some(0));
        assert_eq!([0, -1, 1000].map(|a| device_attribute(&options, a)), [None; 3]);
    }
}
