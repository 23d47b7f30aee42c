//! Asynchronous instructions in the machine: what they do, and the misuse that must be reported.

use crate::report::{Finding, Kind, Stop};
use crate::tensor_map::{DataType, EncodeTiled, Interleave, L2Promotion, OobFill, Swizzle};
use crate::{Error, Gpu, Launch, Run};

/// A kernel of a few lines, its launch, and what it left.
struct Case {
    gpu: Gpu,
    launch: Launch,
    /// Parameters by declaration: each is given in `params` of the launch.
    head: String,
}

impl Case {
    fn new(threads: u32) -> Self {
        let launch = Launch { block: [threads, 1, 1], shared: 8192, threads: 1, ..Launch::default() };
        Case { gpu: Gpu::new(), launch, head: String::new() }
    }

    /// Adds a 64-bit parameter of this name.
    fn address(mut self, name: &str, value: u64) -> Self {
        self.declare(&format!(".param .u64 {name}"));
        self.launch.params.push(value.to_le_bytes().to_vec());
        self
    }

    /// Adds a tensor map of this name.
    fn map(mut self, name: &str, args: EncodeTiled) -> Self {
        self.declare(&format!(".param .align 64 .b8 {name}[128]"));
        self.launch.params.push(args.encode().expect("the map is valid").to_bytes().to_vec());
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
             .visible .entry k({}) {{\n.reg .b64 %rd<16>; .reg .b32 %r<32>; .reg .b16 %h<4>; .reg .pred %p<8>; .reg .b128 %q<2>;\n\
             {body}\nret; }}",
            self.head
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

#[test]
fn a_tensor_goes_through_shared_memory() {
    let (mut case, output) = copies();
    case.clean(&format!("{INIT} {EXPECT} {LOAD} {WAIT} {STORE} {DONE}"));
    assert_eq!(case.read(output, 1024), pattern(1024));
}

#[test]
fn bytes_without_an_expectation_never_complete_a_phase() {
    let (mut case, _) = copies();
    let body = format!("{INIT} mbarrier.arrive.shared.b64 _, [smem]; {LOAD} {WAIT} {STORE} {DONE}");
    // The arrival completes the phase before the bytes, or the bytes keep it open for good.
    for seed in 0..8 {
        case.launch.seed = seed;
        let quiet = case.run(&body).is_ok_and(|run| run.findings.is_empty());
        assert!(!quiet, "seed {seed} notices nothing");
    }
}

#[test]
fn a_wrong_number_of_bytes_is_a_deadlock_that_names_it() {
    let (mut case, _) = copies();
    let more = EXPECT.replace("1024", "1040");
    case.deadlocks("16 bytes of phase 0", &format!("{INIT} {more} {LOAD} {WAIT} {STORE} {DONE}"));
    let less = EXPECT.replace("1024", "1008");
    case.deadlocks("16 bytes more came", &format!("{INIT} {less} {LOAD} {WAIT} {STORE} {DONE}"));
}

#[test]
fn an_mbarrier_must_be_visible_to_the_copy_unit() {
    let (mut case, _) = copies();
    let init = "mbarrier.init.shared.b64 [smem], 1;";
    case.finds(Kind::ProxyFence, "mbarrier", &format!("{init} {EXPECT} {LOAD} {WAIT} {STORE} {DONE}"));
    let other = "fence.proxy.async.shared::cta;";
    case.clean(&format!("{init} {other} {EXPECT} {LOAD} {WAIT} {STORE} {DONE}"));
}

#[test]
fn a_load_that_is_not_waited_for_is_in_flight() {
    let (mut case, _) = copies();
    let body = format!("{INIT} {EXPECT} {LOAD} {STORE} {DONE} {WAIT}");
    case.finds(Kind::InFlight, "shared", &body);
}

#[test]
fn a_load_that_outlives_its_block_is_reported() {
    let (mut case, _) = copies();
    case.finds(Kind::OutstandingAtExit, "after its end", &format!("{INIT} {EXPECT} {LOAD}"));
}

#[test]
fn stores_are_waited_for_before_the_end() {
    let (mut case, _) = copies();
    let load = format!("{INIT} {EXPECT} {LOAD} {WAIT}");
    case.finds(Kind::OutstandingAtExit, "bulk stores", &format!("{load} {STORE}"));
    case.finds(Kind::OutstandingAtExit, "bulk stores", &format!("{load} {STORE} cp.async.bulk.wait_group 0;"));
    case.clean(&format!("{load} {STORE} cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;"));
}

#[test]
fn a_source_is_kept_until_its_reads_are_waited_for() {
    let (mut case, _) = copies();
    let again = "mbarrier.arrive.expect_tx.shared.b64 _, [smem], 1024;";
    let wait = "AGAIN: mbarrier.try_wait.parity.shared.b64 %p0, [smem], 1; @!%p0 bra AGAIN;";
    let head = format!("{INIT} {EXPECT} {LOAD} {WAIT} {STORE} cp.async.bulk.commit_group;");
    let tail = format!("{again} {LOAD} {wait} cp.async.bulk.wait_group 0;");
    case.finds(Kind::InFlight, "shared", &format!("{head} {tail}"));
    case.clean(&format!("{head} cp.async.bulk.wait_group.read 0; {tail}"));
}

#[test]
fn coordinates_outside_fill_zeros_and_store_nothing() {
    let (mut case, output) = copies();
    let load = LOAD.replace("{0, 0}", "{32, -2}");
    case.clean(&format!("{INIT} {EXPECT} {load} {WAIT} {STORE} {DONE}"));
    let (got, input) = (case.read(output, 1024), pattern(1024));
    for (i, byte) in got.into_iter().enumerate() {
        let (row, at) = (i / 128, i % 128);
        let want = if row < 2 || at >= 64 { 0 } else { input[(row - 2) * 128 + at + 64] };
        assert_eq!(byte, want, "row {row}, byte {at}");
    }
    let store = STORE.replace("{0, 0}", "{0, 7}");
    case.clean(&format!("{INIT} {EXPECT} {LOAD} {WAIT} {store} {DONE}"));
    assert_eq!(case.read(output + 7 * 128, 128), pattern(128));
}

#[test]
fn a_reduction_adds_to_what_is_there() {
    let mut case = Case::new(1);
    let input = case.gpu.upload(&[1; 1024]);
    let output = case.gpu.upload(&[3; 1024]);
    let ints = |address| EncodeTiled {
        data_type: DataType::Uint32,
        box_dim: &[32, 8],
        global_dim: &[32, 8],
        ..matrix(address)
    };
    let mut case = case.map("in", ints(input)).map("out", ints(output));
    case.launch.seed = 1;
    let reduce = "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [out, {0, 0}], [smem+1024];";
    let run = case.run(&format!("{INIT} {EXPECT} {LOAD} {WAIT} {reduce} {DONE}")).expect("it runs");
    assert!(run.findings.is_empty(), "{}", list(&run.findings));
    assert_eq!(case.read(output, 1024), [4; 1024]);
}

#[test]
fn plain_bytes_go_through_shared_memory() {
    let mut case = Case::new(1);
    let (input, output) = (case.gpu.upload(&pattern(512)), case.gpu.alloc(512));
    let mut case = case.address("in", input).address("out", output);
    let load = "ld.param.u64 %rd0, [in]; ld.param.u64 %rd1, [out];
        mbarrier.arrive.expect_tx.shared.b64 _, [smem], 512;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [smem+1024], [%rd0], 512, [smem];";
    let store = "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [smem+1024], 512;";
    case.clean(&format!("{INIT} {load} {WAIT} {store} {DONE}"));
    assert_eq!(case.read(output, 512), pattern(512));
    let odd = store.replace("512", "500");
    case.finds(Kind::Misaligned, "multiple of 16", &format!("{INIT} {load} {WAIT} {odd} {DONE}"));
}

#[test]
fn a_cluster_sees_initialised_mbarriers_and_multicast_data() {
    let (case, output) = copies();
    let mut case = case.cluster(2);
    // Rank 0 loads for both; each block waits on its own mbarrier, and rank 1 stores.
    let body = format!(
        "{INIT} barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.acquire.aligned;
         mov.u32 %r0, %cluster_ctarank; setp.eq.u32 %p1, %r0, 0; mov.u16 %h0, 3;
         {EXPECT}
         @!%p1 bra SKIP;
         cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [smem+1024], [in, {{0, 0}}], [smem], %h0;
         SKIP: {WAIT} @%p1 bra END; {STORE} {DONE}
         END: barrier.cluster.arrive; barrier.cluster.wait;"
    );
    // The multicast may reach rank 1 before it expects the bytes: both orders are legal.
    case.clean(&body);
    assert_eq!(case.read(output, 1024), pattern(1024));
    let early = body.replace("barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.acquire.aligned;", "");
    for seed in 0..8 {
        case.launch.seed = seed;
        let quiet = case.run(&early).is_ok_and(|run| run.findings.is_empty());
        assert!(!quiet, "seed {seed}: nothing says that rank 1 is ready, and nobody notices");
    }
}
