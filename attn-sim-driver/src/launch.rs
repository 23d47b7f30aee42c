//! Launches: run at once, on all cores, and reported.

use std::ffi::c_void;
use std::fmt::Write;
use std::time::Instant;

use attn_sim::report::{Finding, Kind, Stop};
use attn_sim::{Error, Launch};

use crate::LastLaunch;
use crate::abi::{Array, Outcome, exports};
use crate::code::Code;
use crate::state::{self, Function, Handle, State};

exports! {
    fn cuLaunchKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32,
        stream: Handle, params: Array<*const u8>, extra: Array<*mut c_void>,
    ) {
        let config = Config {
            grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], cluster: None, shared, stream,
        };
        launch(function, &config, &params, &extra)
    }

    fn cuLaunchKernelEx(
        config: Array<LaunchConfig>, function: Handle, params: Array<*const u8>, extra: Array<*mut c_void>,
    ) {
        let config = config.read(1)?.pop().ok_or(Code::INVALID_VALUE)?;
        launch(function, &config.checked()?, &params, &extra)
    }
}

/// `CUlaunchConfig`
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    attributes: *const Attribute,
    count: u32,
}

/// `CUlaunchAttribute`: a number and 64 bytes of value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

/// How a kernel is launched.
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    cluster: Option<[u32; 3]>,
    shared: u32,
    stream: Handle,
}

impl LaunchConfig {
    /// The configuration with the attributes that matter: the cluster's dimensions.
    fn checked(&self) -> Outcome<Config> {
        const CLUSTER_DIMENSION: u32 = 4;
        let LaunchConfig { grid, block, shared, stream, attributes, count } = *self;
        if count > 0 && attributes.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let mut cluster = None;
        for i in 0..count as usize {
            // SAFETY: the caller promises `count` attributes.
            let attribute = unsafe { attributes.add(i).read_unaligned() };
            if attribute.id == CLUSTER_DIMENSION {
                cluster = Some([attribute.value[0], attribute.value[1], attribute.value[2]]);
            }
        }
        Ok(Config { grid, block, cluster, shared, stream })
    }
}

fn launch(function: Handle, config: &Config, params: &Array<*const u8>, extra: &Array<*mut c_void>) -> Outcome {
    let (mut state, _) = state::in_context()?;
    state.check_stream(config.stream)?;
    let state: &mut State = &mut state;
    let function = state.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
    if !extra.is_null() {
        eprintln!("attn-sim: {}: parameters in a buffer (`extra`) are not modelled", function.kernel.name());
        return Err(Code::NOT_SUPPORTED);
    }
    if config.shared > function.max_dynamic_shared {
        eprintln!(
            "attn-sim: {}: {} bytes of dynamic shared memory, the function's attribute allows {}",
            function.kernel.name(),
            config.shared,
            function.max_dynamic_shared
        );
        return Err(Code::INVALID_VALUE);
    }
    let launch = Launch {
        grid: config.grid,
        block: config.block,
        cluster: config.cluster,
        shared: config.shared,
        params: collect(function, params)?,
        seed: state.options.seed,
        sms: state.options.multiprocessors,
        ..Launch::default()
    };
    let kernel = function.kernel.clone();
    let start = Instant::now();
    let mut result = launch.run(&mut state.gpu, &kernel);
    if !state.options.tensor_order {
        let findings = match &mut result {
            Ok(run) => Some(&mut run.findings),
            Err(Error::Failed(failure)) => Some(&mut failure.findings),
            Err(_) => None,
        };
        findings.into_iter().for_each(|all| all.retain(|finding| finding.kind != Kind::TensorOrder));
    }
    let wall = start.elapsed();
    let (code, what, counters) = match result {
        Ok(run) if run.findings.is_empty() => (None, String::new(), Some(run.counters)),
        Ok(run) => (Some(Code::LAUNCH_FAILED), findings(&run.findings), Some(run.counters)),
        Err(error) => (Some(code_of(&error)), described(&error), None),
    };
    let report = code.map(|_| {
        let Launch { grid, block, seed, .. } = launch;
        format!("kernel {}, grid {grid:?}, block {block:?}, seed {seed}\n{}", kernel.name(), what.trim_end())
    });
    if let Some(report) = &report {
        eprintln!("attn-sim: {report}");
    }
    state.last = Some(LastLaunch { kernel: kernel.name().to_owned(), report, counters, wall });
    code.map_or(Ok(()), Err)
}

/// Each parameter's bytes.
fn collect(function: &Function, params: &Array<*const u8>) -> Outcome<Vec<Vec<u8>>> {
    let sizes = function.kernel.params();
    let places = params.read(sizes.len())?;
    if places.iter().any(|place| place.is_null()) {
        return Err(Code::INVALID_VALUE);
    }
    let bytes = places.into_iter().zip(sizes).map(|(place, &(_, bytes))| {
        // SAFETY: the caller promises that each parameter's place holds as many bytes as the kernel declares.
        unsafe { std::slice::from_raw_parts(place, bytes as usize) }.to_vec()
    });
    Ok(bytes.collect())
}

/// Wrong, not modelled, or never begun.
fn code_of(error: &Error) -> Code {
    match error {
        Error::Launch { .. } => Code::INVALID_VALUE,
        Error::Unsupported(_) => Code::NOT_SUPPORTED,
        Error::Failed(failure) if matches!(*failure.stop, Stop::Unsupported(_)) => Code::NOT_SUPPORTED,
        _ => Code::LAUNCH_FAILED,
    }
}

fn described(error: &Error) -> String {
    match error {
        Error::Failed(failure) => format!("{}\n{}", failure.stop, findings(&failure.findings)),
        other => other.to_string(),
    }
}

/// Findings, numbered.
pub(crate) fn findings(all: &[Finding]) -> String {
    let mut text = String::new();
    for (i, finding) in all.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "finding {} of {}: {finding}", i + 1, all.len());
    }
    text
}
