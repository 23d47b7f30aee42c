//! Probes in the simulator.

use attn_sim::tensor_map::{DataType, EncodeTiled, Interleave, L2Promotion, OobFill, Swizzle, TensorMap};
use attn_sim::{Gpu, Launch};

use super::machine::{Failure, Machine};
use super::{Arg, Map, Probe};

/// The simulator. Every probe runs on a GPU of its own.
#[derive(Clone, Copy, Debug)]
pub struct Simulator {
    /// Orders what may happen in several orders.
    pub seed: u64,
}

impl Machine for Simulator {
    fn run(&mut self, probe: &Probe) -> Result<Vec<u32>, Failure> {
        let mut gpu = Gpu::new();
        let kernel = gpu.load(&probe.ptx)?.kernel("probe")?;
        let buffers: Vec<u64> = probe
            .args
            .iter()
            .map(|arg| match arg {
                Arg::Input(words) | Arg::Output(words) => gpu.upload(&bytes(words)),
                _ => 0,
            })
            .collect();
        let mut params = Vec::new();
        for (arg, address) in probe.args.iter().zip(&buffers) {
            params.push(match arg {
                Arg::Input(_) | Arg::Output(_) => address.to_le_bytes().to_vec(),
                Arg::Word(word) => word.to_le_bytes().to_vec(),
                Arg::Long(long) => long.to_le_bytes().to_vec(),
                Arg::Map(map) => encode(map, buffers[map.buffer])?.to_bytes().to_vec(),
            });
        }
        let launch = Launch {
            grid: [probe.grid, 1, 1],
            block: [probe.block, 1, 1],
            shared: probe.shared,
            params,
            seed: self.seed,
            threads: 1,
            ..Launch::default()
        };
        let run = launch.run(&mut gpu, &kernel)?;
        if let Some(finding) = run.findings.first() {
            return Err(format!("{} rules broken, first: {finding}", run.findings.len()).into());
        }
        let mut out = Vec::new();
        for (arg, address) in probe.args.iter().zip(&buffers) {
            if let Arg::Output(words) = arg {
                let found = gpu.read(*address, 4 * words.len())?;
                out.extend(found.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
        }
        Ok(out)
    }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn encode(map: &Map, address: u64) -> Result<TensorMap, Failure> {
    let data_type = *DataType::ALL.get(map.data_type as usize).ok_or("no such type of elements")?;
    let swizzle = *[Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128]
        .get(map.swizzle as usize)
        .ok_or("no such swizzle")?;
    let encode = EncodeTiled {
        data_type,
        global_address: address,
        global_dim: &map.dims,
        global_strides: &map.strides,
        box_dim: &map.tile,
        element_strides: &map.steps,
        interleave: Interleave::None,
        swizzle,
        l2_promotion: L2Promotion::None,
        oob_fill: if map.nan_fill { OobFill::Nan } else { OobFill::Zero },
    };
    Ok(encode.encode()?)
}
