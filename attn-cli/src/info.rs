//! `attn info`: the devices, the driver, and which kernel computes what.

use std::io::Write;

use attn_host::cust::context::Context;
use attn_host::cust::device::Device as CudaDevice;
use attn_host::cust::{self, CudaFlags};
use attn_host::{Arch, Arrays, Device, DeviceInfo, Error, KERNEL_DIR, Outline, PagedKv, Shape, prebuilt};
use attn_kernel::forward::KERNELS;
use attn_tests::gpu::GpuError;
use attn_tests::precision::Precision;
use clap::Args;

use crate::error::Failure;
use crate::figures::scaled;
use crate::options::Scores;
use crate::plan::{architecture, family, registers};
use crate::problem::Spec;
use crate::table::{facts, table};

/// The devices, the driver, and which kernel computes what
///
/// Without a GPU it says so, and shows the kernels that are built in for each architecture; --arch asks about a card that is not there.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub struct Options {
    /// Show the kernels for the usual card of an architecture: sm_90a, sm_100a or sm_103a
    #[arg(long, value_name = "ARCH", value_parser = architecture)]
    arch: Option<Arch>,
    /// Format of Q, K, V and O in the table of problems: bf16 or f16
    #[arg(long, default_value = "bf16")]
    dtype: Precision,
    /// List every kernel of the architecture instead of problems
    #[arg(long)]
    kernels: bool,
}

const AFTER: &str = "\
Examples:
  attn info
  attn info --arch sm_100a --dtype f16
  attn info --arch sm_90a --kernels";

/// Head dimensions of the table: Q's and K's, V's.
const HEAD_DIMS: [(u64, u64); 7] = [(32, 32), (64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256)];

/// Runs the command.
pub fn run(options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "attn {}", env!("CARGO_PKG_VERSION"))?;
    if let Some(arch) = options.arch {
        let device = DeviceInfo::nominal(arch);
        writeln!(out, "{}", describe(&device, None))?;
        return kernels(options, &device, out);
    }
    match devices() {
        Ok(found) => {
            for (device, memory) in &found {
                writeln!(out, "{}", describe(device, Some(*memory)))?;
            }
            let first = found.first().map(|(device, _)| device);
            first.map_or(Ok(()), |device| kernels(options, device, out))
        }
        Err(failure) => absent(&failure, out),
    }
}

/// Every GPU and its memory.
fn devices() -> Result<Vec<(DeviceInfo, usize)>, GpuError> {
    // The launch side says best what is wrong with a driver; that no context is current yet is expected here.
    if let Err(error @ (Error::NoDriver { .. } | Error::DriverTooOld { .. })) = Device::current() {
        return Err(error.into());
    }
    cust::init(CudaFlags::empty())?;
    let mut found = Vec::new();
    for device in CudaDevice::devices()? {
        let device = device?;
        let _context = Context::new(device)?;
        found.push((Device::current()?.info().clone(), device.total_memory()?));
    }
    if found.is_empty() { Err(cust::error::CudaError::NoDevice.into()) } else { Ok(found) }
}

fn describe(device: &DeviceInfo, memory: Option<usize>) -> String {
    let (major, minor) = device.compute_capability;
    let own = Arch::ALL.into_iter().find(|arch| arch.compute_capability() == device.compute_capability);
    let kernels = own.map_or("none".to_owned(), available);
    let mut lines = vec![
        ("device", format!("{}: {}", device.ordinal, device.name)),
        ("architecture", format!("compute capability {major}.{minor}")),
        ("multiprocessors", device.sm_count.to_string()),
        ("L2 cache", format!("{} MiB", device.l2_bytes >> 20)),
        ("shared memory", format!("{} KiB a block", device.smem_limit >> 10)),
    ];
    if let Some(memory) = memory {
        lines.push(("memory", scaled(memory as f64, "B")));
        lines.push(("driver", format!("for CUDA {}", device.driver_version)));
    }
    lines.push(("kernels", kernels));
    facts(&lines)
}

/// How many kernels an architecture has, and where their code comes from.
fn available(arch: Arch) -> String {
    let own: Vec<_> = KERNELS.iter().filter(|kernel| kernel.arch == arch).collect();
    let is_built_in = |name: &str| prebuilt().any(|built_in| built_in == (name, arch.name()));
    let built_in = own.iter().filter(|kernel| is_built_in(kernel.name)).count();
    let from = match std::env::var(KERNEL_DIR).ok().filter(|dir| !dir.is_empty()) {
        Some(dir) => format!("code from {dir} ({KERNEL_DIR})"),
        None if built_in == own.len() => "all built in".to_owned(),
        None => format!("{built_in} built in; cargo xtask build-ptx builds all, {KERNEL_DIR} names their folder"),
    };
    format!("{} for {}, {from}", own.len(), arch.name())
}

/// What there is without a GPU.
fn absent(failure: &GpuError, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "no GPU: {failure}\n")?;
    for arch in Arch::ALL {
        writeln!(out, "kernels  {} ({})", available(arch), DeviceInfo::nominal(arch).name)?;
    }
    writeln!(
        out,
        "\n`attn info --arch ARCH` shows which of them computes what, `attn run --simulate` runs them on the CPU."
    )?;
    Ok(())
}

fn kernels(options: &Options, device: &DeviceInfo, out: &mut impl Write) -> Result<(), Failure> {
    if options.kernels {
        return every_kernel(device, out);
    }
    let mut rows = table(&["head_dim", "problem", "kernel", "tile", "keys a step", "threads", "splits"], 3);
    for (d, dv) in HEAD_DIMS {
        let width = if d == dv { d.to_string() } else { format!("{d}, {dv}") };
        for (name, (spec, arrays)) in problems(options.dtype, d, dv) {
            let row = match Outline::of(&spec.problem(&arrays), device) {
                Ok(outline) => {
                    let launch = &outline.kernel.launch;
                    let numbers = [launch.bm, launch.bn, launch.threads, outline.splits].map(|n| n.to_string());
                    [vec![width.clone(), name.to_owned(), outline.kernel.name.to_owned()], numbers.to_vec()].concat()
                }
                Err(error @ Error::WrongDevice { .. }) => return Err(error.into()),
                Err(error) => vec![width.clone(), name.to_owned(), error.to_string()],
            };
            rows.add_row(row);
        }
    }
    writeln!(out, "{rows}\n\nFor other sizes: attn plan. All kernels: attn info --kernels.")?;
    Ok(())
}

/// One problem of each kind that has kernels of its own.
fn problems(dtype: Precision, head_dim: u64, head_dim_v: u64) -> [(&'static str, (Spec, Arrays)); 5] {
    let shape = Shape { batch: 4, seqlen_q: 4096, seqlen_k: 4096, heads: 32, kv_heads: 8, head_dim, head_dim_v };
    let dense = Spec::dense(dtype, shape);
    let causal = Scores { causal: true, ..Scores::default() };
    let masked = causal.over(dense.clone());
    let packed = Spec { packed_q: Some(8192), packed_k: Some(8192), ..masked.clone() };
    let softcap = Spec { softcap: Some(30.0), ..masked.clone() };
    let pages = PagedKv { page_size: 64, pages: 4096, table_width: 128 };
    let step = Shape { batch: 8, seqlen_q: 1, seqlen_k: 8192, ..shape };
    let decode = Spec { paged: Some(pages), ..Spec::dense(dtype, step) };
    let used = Arrays { seqused_k: Some(vec![8192; 8]), ..Arrays::default() };
    [
        ("4 x 4096", (dense, Arrays::default())),
        ("4 x 4096, causal", (masked, Arrays::default())),
        ("packed, causal", (packed, Arrays::default())),
        ("softcap, causal", (softcap, Arrays::default())),
        ("1 query, pages", (decode, used)),
    ]
}

fn every_kernel(device: &DeviceInfo, out: &mut impl Write) -> Result<(), Failure> {
    let mut rows = table(&["kernel", "for", "tile", "keys a step", "threads", "registers", "shared memory"], 2);
    let own = |arch: Arch| arch.compute_capability() == device.compute_capability;
    for kernel in KERNELS.iter().filter(|kernel| own(kernel.arch)) {
        let launch = &kernel.launch;
        let (_, warps) = registers(kernel);
        let most = warps.iter().map(|warps| warps.registers).max().unwrap_or(0);
        let numbers = [launch.bm, launch.bn, launch.threads, most, launch.shared].map(|n| n.to_string());
        rows.add_row([vec![kernel.name.to_owned(), family(kernel).to_owned()], numbers.to_vec()].concat());
    }
    writeln!(out, "{rows}")?;
    Ok(())
}
