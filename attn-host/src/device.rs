//! The device of the caller's current CUDA context, or one that is opened by its number.

use attn_kernel::forward::Arch;

use crate::driver::Driver;
use crate::error::{DriverVersion, Error};
use crate::sys::{Handle, device_attribute as attribute};

/// The current context's device, as plans need to know it.
#[derive(Clone)]
pub struct Device {
    pub(crate) driver: &'static Driver,
    pub(crate) context: Handle,
    pub(crate) context_id: u64,
    info: DeviceInfo,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The driver's number for it.
    pub ordinal: i32,
    /// Its name.
    pub name: String,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub sm_count: u32,
    /// Bytes of L2 cache.
    pub l2_bytes: u32,
    /// Bytes of shared memory that a block may ask for.
    pub smem_limit: u32,
    /// The CUDA version that the driver supports.
    pub driver_version: DriverVersion,
}

impl DeviceInfo {
    /// What the usual device of an architecture says of itself, with CUDA 12.8's driver: an H100 or H200 SXM, a B200, a B300. For asking
    /// about one that is not there, by [`Outline`](crate::Outline) and [`supports`](crate::supports).
    pub fn nominal(arch: Arch) -> Self {
        let (name, sm_count, l2_bytes) = match arch {
            Arch::Sm90a => ("NVIDIA H100 SXM", 132, 50 << 20),
            Arch::Sm100a => ("NVIDIA B200", 148, 126 << 20),
            _ => ("NVIDIA B300", 148, 126 << 20),
        };
        DeviceInfo {
            ordinal: 0,
            name: name.to_owned(),
            compute_capability: arch.compute_capability(),
            sm_count,
            l2_bytes,
            smem_limit: 227 * 1024,
            driver_version: DriverVersion(12_080),
        }
    }
}

impl Device {
    /// Opens the device with this number, the first being 0: its primary context, which cudarc, PyTorch and the CUDA runtime use too, becomes
    /// current on this thread and is kept until the process ends.
    ///
    /// All that a program needs for a [`Pipeline`](crate::Pipeline); the memory and streams of cust and cudarc may be made in it as well.
    ///
    #[cfg_attr(feature = "simulator", doc = "```")]
    #[cfg_attr(not(feature = "simulator"), doc = "```no_run")]
    /// # #[cfg(feature = "simulator")]
    /// # attn_host::simulator::install(Default::default())?;
    /// let device = attn_host::Device::open(0)?;
    /// println!("{} with {} multiprocessors", device.info().name, device.info().sm_count);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::Size`] for a number that no device can have, [`Error::Cuda`] when the driver fails or has no
    /// such device.
    pub fn open(ordinal: u32) -> Result<Self, Error> {
        Self::open_with(Driver::get()?, ordinal)
    }

    pub(crate) fn open_with(driver: &'static Driver, ordinal: u32) -> Result<Self, Error> {
        let ordinal = i32::try_from(ordinal).map_err(|_| Error::Size {
            argument: "ordinal",
            value: ordinal.into(),
            allowed: "0 to 2147483647",
        })?;
        driver.enter_primary_context(ordinal)?;
        Self::with_driver(driver)
    }

    /// The device of the context that is current on this thread.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::NoContext`] when no context is current, [`Error::Cuda`] when the
    /// driver fails.
    pub fn current() -> Result<Self, Error> {
        Self::with_driver(Driver::get()?)
    }

    pub(crate) fn with_driver(driver: &'static Driver) -> Result<Self, Error> {
        let context = driver.current_context()?;
        let context_id = driver.context_id(context)?;
        let handle = driver.context_device()?;
        let get = |which| driver.device_attribute(handle, which);
        let info = DeviceInfo {
            ordinal: handle,
            name: driver.device_name(handle)?,
            compute_capability: (get(attribute::COMPUTE_CAPABILITY_MAJOR)?, get(attribute::COMPUTE_CAPABILITY_MINOR)?),
            sm_count: get(attribute::MULTIPROCESSOR_COUNT)?,
            l2_bytes: get(attribute::L2_CACHE_SIZE)?,
            smem_limit: get(attribute::MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            driver_version: driver.version()?,
        };
        Ok(Device { driver, context, context_id, info })
    }

    /// Name, compute capability, sizes and driver version.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("context", &self.context.0).field("info", &self.info).finish()
    }
}
