//! Single instructions on hardware and in the simulator, compared bit for bit.
//!
//! | module | idea |
//! |---|---|
//! | [`scalar`] | an instruction of one thread or warp on 512 triples of words: arithmetic, conversions, exchanges, atomics |
//! | [`values`] | those words: special values, ties of rounding, near cancellations |
//! | [`matrix`] | `ldmatrix`, `stmatrix`, `mma.sync` |
//! | [`wgmma`] | every shape, format, swizzle and major of the warpgroup multiply |
//! | [`copy`](mod@copy) | TMA boxes of 1 to 5 dimensions at the edges of tensors, bulk copies |
//! | [`machine`] | what runs a probe |
//! | [`simulator`] | probes in the simulator |
//! | [`record`] | results as a safetensors file |
//! | [`forward`] | small forward cases, compared to the rounding of their format |
//! | [`command`] | the program `attn-probes` |

pub mod command;
pub mod copy;
pub mod forward;
pub mod machine;
pub mod matrix;
pub mod record;
pub mod scalar;
pub mod simulator;
pub mod values;
pub mod wgmma;

/// A kernel of a few lines and what it is launched with. Its entry point is `probe`.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Names the probe in recordings.
    pub name: String,
    /// The module.
    pub ptx: String,
    /// Blocks.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Parameters, in order.
    pub args: Vec<Arg>,
    /// How close two runs must be.
    pub agreement: Agreement,
}

/// A parameter of a probe.
#[derive(Clone, Debug)]
pub enum Arg {
    /// The address of words that the probe reads.
    Input(Vec<u32>),
    /// The address of words that the probe writes, with what they hold before.
    Output(Vec<u32>),
    /// 32 bits.
    Word(u32),
    /// 64 bits.
    Long(u64),
    /// A tensor map, 128 bytes by value.
    Map(Map),
}

/// The arguments of `cuTensorMapEncodeTiled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// The parameter whose buffer is the tensor.
    pub buffer: usize,
    /// `CU_TENSOR_MAP_DATA_TYPE_*`.
    pub data_type: u32,
    /// Elements of each dimension, innermost first.
    pub dims: Vec<u64>,
    /// Bytes between neighbours of each dimension but the first.
    pub strides: Vec<u64>,
    /// Elements of a box.
    pub tile: Vec<u32>,
    /// Element strides.
    pub steps: Vec<u32>,
    /// `CU_TENSOR_MAP_SWIZZLE_*`.
    pub swizzle: u32,
    /// Whether NaNs fill what lies outside, instead of zeros.
    pub nan_fill: bool,
}

/// How close two runs of a probe must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Agreement {
    /// The same bits.
    Bits,
    /// An approximation of f32: NaNs alike, and numbers within so many units in the last place of each other, or no further apart than
    /// the second value.
    Ulps(u32, f32),
    /// An approximation in two halves of a word, of this format.
    HalfUlps(u32, crate::precision::Precision),
}

/// Every probe, in the order of recordings.
pub fn all() -> Vec<Probe> {
    let mut probes = scalar::probes();
    probes.extend(matrix::probes());
    probes.extend(wgmma::probes());
    probes.extend(copy::probes());
    probes
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn a_recording_is_small() {
        let words: usize = super::all()
            .iter()
            .map(|probe| {
                let outputs = probe
                    .args
                    .iter()
                    .filter_map(|arg| if let super::Arg::Output(words) = arg { Some(words.len()) } else { None });
                super::record::compact(probe.agreement, &vec![0; outputs.sum()]).len()
            })
            .sum();
        assert!(4 * words < 3 << 20, "{words} words");
    }

    #[test]
    fn every_probe_has_a_name_of_its_own() {
        let probes = super::all();
        let names: HashSet<_> = probes.iter().map(|probe| probe.name.as_str()).collect();
        assert_eq!(names.len(), probes.len());
    }
}
