//! The project's instruction wrappers: every probe kernel, compiled from Rust, run in the machine under several seeds and compared
//! with plain arithmetic. Their PTX is what `cargo xtask build-ptx --prebuilt` writes and `--check-prebuilt` compares.

mod copies;
mod matrix;
mod narrow;
mod softmax;
mod tcgen05;
mod values;
mod wgmma;

use std::io::Read;
use std::path::{Path, PathBuf};

use attn_kernel::probe::Probe;
use attn_sim::{Gpu, Launch, Run};

const SEEDS: std::ops::Range<u64> = 0..4;
/// Architectures whose probes are those of [`attn_kernel::probe::PROBES`], Blackwell's without what is Hopper's alone.
const ARCHITECTURES: [&str; 2] = ["sm_90a", "sm_100a"];

fn folder(arch: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx/probes").join(arch)
}

/// The PTX of a probe.
fn ptx(arch: &str, name: &str) -> String {
    let path = folder(arch).join(format!("{name}.ptx.gz"));
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text
}

/// A launch that is about to happen.
struct Setup {
    gpu: Gpu,
    arch: &'static str,
    params: Vec<Vec<u8>>,
    seed: u64,
}

impl Setup {
    fn new(arch: &'static str, seed: u64) -> Self {
        Setup { gpu: Gpu::new(), arch, params: Vec::new(), seed }
    }

    /// A parameter by its bytes.
    fn param(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.params.push(bytes.as_ref().to_vec());
        self
    }

    /// A parameter with the address of a copy of `bytes`; returns the address.
    fn input(&mut self, bytes: &[u8]) -> u64 {
        let address = self.gpu.upload(bytes);
        self.param(address.to_le_bytes());
        address
    }

    /// A parameter with the address of so many words that hold nothing yet; returns the address.
    fn output(&mut self, words: usize) -> u64 {
        let address = self.gpu.alloc(4 * words as u64);
        self.param(address.to_le_bytes());
        address
    }

    /// Runs the probe as its description says, with so many clusters. What it finds is in the result.
    fn launch(&mut self, probe: Probe, clusters: u32) -> Run {
        let name = probe.name;
        let loaded = self.gpu.load(&ptx(self.arch, name));
        let kernel = loaded.and_then(|m| m.kernel(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let launch = Launch {
            grid: [clusters * probe.cluster, 1, 1],
            block: [probe.threads, 1, 1],
            shared: probe.shared,
            params: self.params.clone(),
            seed: self.seed,
            ..Launch::default()
        };
        launch.run(&mut self.gpu, &kernel).unwrap_or_else(|e| panic!("{name}, {} seed {}: {e}", self.arch, self.seed))
    }

    /// Runs the probe; any finding fails.
    fn run(&mut self, probe: Probe) {
        let run = self.launch(probe, 1);
        let findings: Vec<String> = run.findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{} seed {}:\n{}", probe.name, self.seed, findings.join("\n"));
    }

    /// Words that must have been written.
    fn words(&self, address: u64, count: usize) -> Vec<u32> {
        assert_eq!(self.gpu.first_unwritten(address, 4 * count).expect("an allocation"), None);
        let bytes = self.gpu.read(address, 4 * count).expect("an allocation");
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes"))).collect()
    }
}

fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn half_bytes(halves: impl IntoIterator<Item = u16>) -> Vec<u8> {
    halves.into_iter().flat_map(u16::to_le_bytes).collect()
}

/// Small integers and halves that look random: their sums of products are exact in f32.
fn values(n: u32, seed: u32) -> Vec<f32> {
    (0..n).map(|i| ((i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 20) % 17) as f32 * 0.5 - 4.0).collect()
}

/// `scale a b^T`, of rows of `k` columns.
fn product(a: &[f32], b: &[f32], k: u32, scale: f32) -> Vec<f32> {
    let rows = a.chunks_exact(k as usize);
    rows.flat_map(|a| b.chunks_exact(k as usize).map(move |b| scale * a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>()))
        .collect()
}

fn compare(name: &str, got: &[u32], want: &[f32], columns: u32) {
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let (row, column) = (i / columns as usize, i % columns as usize);
        assert_eq!(f32::from_bits(got), want, "{name}: row {row}, column {column}");
    }
}

#[test]
fn every_committed_probe_has_a_test() {
    use attn_kernel::probe::{PROBES, narrow, tcgen05, wgmma};
    let blackwell = [tcgen05::SS, tcgen05::PAIR, tcgen05::TS, tcgen05::REGISTERS].map(|probe| probe.name);
    let changes = narrow::CHANGES.iter().map(|change| change.probe.name);
    let common = PROBES.iter().filter(|probe| !probe.hopper_only).map(|probe| probe.name).chain(changes.clone());
    let multiplies = wgmma::MULTIPLIES.iter().map(|probe| probe.name);
    let hopper = PROBES.iter().map(|probe| probe.name).chain(multiplies).chain(changes);
    let lists = [
        ("sm_90a", hopper.collect::<Vec<_>>()),
        ("sm_100a", common.chain(blackwell).collect()),
        ("sm_103a", vec![tcgen05::REDUCE.name]),
    ];
    for (arch, mut tested) in lists {
        let entries = std::fs::read_dir(folder(arch)).expect("a folder");
        let mut committed: Vec<String> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().replace(".ptx.gz", ""))
            .collect();
        committed.sort();
        tested.sort_unstable();
        assert_eq!(committed, tested, "{arch}");
    }
}
