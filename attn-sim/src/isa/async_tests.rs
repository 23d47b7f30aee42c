//! Asynchronous instructions in the machine: what they do, and the misuse that must be reported.

mod barriers;
mod bulk;
mod clusters;
mod spellings;
mod tensor;

use crate::report::{Finding, Kind, Stop};
use crate::tensor_map::{DataType, EncodeIm2col, EncodeTiled, Interleave, L2Promotion, OobFill, Swizzle, TensorMap};
use crate::{Error, Gpu, Launch, Run};

/// A kernel of a few lines, its launch, and what it left.
struct Case {
    gpu: Gpu,
    launch: Launch,
    /// Parameters by declaration: each is given in `params` of the launch.
    head: String,
    /// Launch bounds.
    bounds: String,
}

impl Case {
    fn new(threads: u32) -> Self {
        let launch = Launch { block: [threads, 1, 1], shared: 8192, threads: 1, ..Launch::default() };
        Case { gpu: Gpu::new(), launch, head: String::new(), bounds: String::new() }
    }

    /// Adds a 64-bit parameter of this name.
    fn address(mut self, name: &str, value: u64) -> Self {
        self.declare(&format!(".param .u64 {name}"));
        self.launch.params.push(value.to_le_bytes().to_vec());
        self
    }

    /// Adds a tensor map of this name.
    fn map(self, name: &str, args: EncodeTiled) -> Self {
        self.object(name, args.encode().expect("the map is valid"))
    }

    fn object(mut self, name: &str, map: TensorMap) -> Self {
        self.declare(&format!(".param .align 64 .b8 {name}[128]"));
        self.launch.params.push(map.to_bytes().to_vec());
        self
    }

    fn cluster(mut self, blocks: u32) -> Self {
        self.launch.cluster = Some([blocks, 1, 1]);
        self.launch.grid = [blocks, 1, 1];
        self
    }

    fn declare(&mut self, param: &str) {
        if !self.head.is_empty() {
            self.head += ", ";
        }
        self.head += param;
    }

    /// Runs `body`, which finds 8 KiB of shared memory at `smem` and registers of all kinds.
    fn run(&mut self, body: &str) -> Result<Run, Error> {
        let text = format!(
            ".version 9.0\n.target sm_100a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
             .visible .entry k({}) {} {{\n.reg .b64 %rd<16>; .reg .b32 %r<32>; .reg .b16 %h<4>; .reg .pred %p<8>; .reg .b128 %q<2>;\n\
             {body}\nret; }}",
            self.head, self.bounds
        );
        let kernel = self.gpu.load(&text)?.kernel("k")?;
        self.launch.run(&mut self.gpu, &kernel)
    }

    /// Runs `body` under several seeds; none breaks a rule.
    #[track_caller]
    fn clean(&mut self, body: &str) {
        for seed in 0..8 {
            self.launch.seed = seed;
            match self.run(body) {
                Ok(run) => assert!(run.findings.is_empty(), "seed {seed}: {}", list(&run.findings)),
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
    }

    /// Runs `body` under several seeds; each finds this kind of broken rule, with these words.
    #[track_caller]
    fn finds(&mut self, kind: Kind, words: &str, body: &str) {
        for seed in 0..8 {
            self.launch.seed = seed;
            let findings = match self.run(body) {
                Ok(run) => run.findings,
                Err(Error::Failed(failure)) => {
                    let mut findings = failure.findings.clone();
                    if let Stop::Fault(fault) = &*failure.stop {
                        findings.push((**fault).clone());
                    }
                    findings
                }
                Err(error) => panic!("seed {seed}: {error}"),
            };
            let found = findings.iter().any(|f| f.kind == kind && f.to_string().contains(words));
            assert!(found, "seed {seed}: no {kind:?} with `{words}` in: {}", list(&findings));
        }
    }

    /// Runs `body`, in which every seed stops with nothing left to run; the report has these words.
    #[track_caller]
    fn deadlocks(&mut self, words: &str, body: &str) {
        for seed in 0..4 {
            self.launch.seed = seed;
            match self.run(body) {
                Err(Error::Failed(failure)) => {
                    let text = failure.stop.to_string();
                    let right = matches!(*failure.stop, Stop::Deadlock { .. }) && text.contains(words);
                    assert!(right, "seed {seed}: {text}");
                }
                Err(error) => panic!("seed {seed}: {error}"),
                Ok(_) => panic!("seed {seed}: the kernel ended"),
            }
        }
    }

    /// Runs `body` under several seeds; each stops or finds something, whichever rule the schedule lets it break first.
    #[track_caller]
    fn notices(&mut self, body: &str) {
        for seed in 0..8 {
            self.launch.seed = seed;
            let quiet = self.run(body).is_ok_and(|run| run.findings.is_empty());
            assert!(!quiet, "seed {seed}: nothing is noticed");
        }
    }

    fn read(&self, addr: u64, bytes: usize) -> Vec<u8> {
        self.gpu.read(addr, bytes).expect("inside an allocation").to_vec()
    }
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("\n{f}")).collect()
}

/// Bytes that tell their place.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// A matrix of 8 rows of 64 halves.
fn matrix(address: u64) -> EncodeTiled<'static> {
    EncodeTiled {
        data_type: DataType::Float16,
        global_address: address,
        global_dim: &[64, 8],
        global_strides: &[128],
        box_dim: &[64, 8],
        element_strides: &[1, 1],
        interleave: Interleave::None,
        swizzle: Swizzle::B128,
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    }
}

const INIT: &str = "mbarrier.init.shared.b64 [smem], 1; fence.mbarrier_init.release.cluster;";
const LOAD: &str = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [smem+1024], [in, {0, 0}], [smem];";
const EXPECT: &str = "mbarrier.arrive.expect_tx.shared.b64 _, [smem], 1024;";
const WAIT: &str = "LOOP: mbarrier.try_wait.parity.shared.b64 %p0, [smem], 0; @!%p0 bra LOOP;";
const STORE: &str = "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [out, {0, 0}], [smem+1024];";
const DONE: &str = "cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";

/// Input and output matrices, with maps of them.
fn copies() -> (Case, u64) {
    let mut case = Case::new(1);
    let input = case.gpu.upload(&pattern(1024));
    let output = case.gpu.alloc(1024);
    (case.map("in", matrix(input)).map("out", matrix(output)), output)
}
