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
    case.notices(&body);
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
    case.notices(&early);
}

/// Every warp writes its number to `smem + 4 * warp`, then all read all.
const EXCHANGE: &str = "mov.u32 %r0, %tid.x; shr.u32 %r1, %r0, 5; and.b32 %r7, %r0, 31; setp.eq.u32 %p1, %r7, 0;
    mov.u32 %r2, smem; shl.b32 %r3, %r1, 2; add.u32 %r3, %r2, %r3; @%p1 st.shared.u32 [%r3], %r1;";
const READ: &str = "ld.shared.v2.u32 {%r4, %r5}, [smem]; ld.shared.v2.u32 {%r4, %r5}, [smem+8];";

#[test]
fn named_barriers_order_a_block() {
    let mut case = Case::new(128);
    for sync in
        ["bar.sync 0;", "barrier.sync 3;", "barrier.cta.sync.aligned 15, 128;", "mov.u32 %r8, 5; bar.sync %r8, 128;"]
    {
        case.clean(&format!("{EXCHANGE} {sync} {READ}"));
    }
    case.finds(Kind::Race, "shared", &format!("{EXCHANGE} {READ}"));
    // Lanes of a warp may come to the plain form one by one.
    case.clean(&format!(
        "{EXCHANGE} setp.lt.u32 %p2, %r7, 16; @%p2 bra LOW; barrier.sync 1; bra END; LOW: barrier.sync 1; END: {READ}"
    ));
    case.finds(Kind::Divergent, "lanes", &format!("{EXCHANGE} setp.lt.u32 %p2, %r7, 16; @%p2 bar.sync 1; {READ}"));
}

#[test]
fn an_arrival_goes_on_and_is_seen_by_those_who_wait() {
    let mut case = Case::new(64);
    let body = |count: u32| {
        format!(
            "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 32; @%p0 bra WRITE;
             bar.sync 1, 64; ld.shared.u32 %r1, [smem]; bra END;
             WRITE: st.shared.u32 [smem], 7; bar.arrive 1, {count}; END:"
        )
    };
    case.clean(&body(64));
    case.finds(Kind::Barrier, "64", &body(96));
    case.deadlocks("barrier 2", "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 32; @%p0 bar.sync 2, 64;");
    case.finds(Kind::Barrier, "multiple of 32", "bar.sync 1, 48;");
    case.finds(Kind::Barrier, "does not exist", "bar.sync 16;");
}

#[test]
fn reductions_of_a_barrier_count_all_threads() {
    let mut case = Case::new(96);
    let output = case.gpu.alloc(16);
    let mut case = case.address("out", output);
    case.clean(
        "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 70; setp.lt.u32 %p5, %r0, 96; bar.red.popc.u32 %r1, 1, %p0;
         barrier.red.and.pred %p1, 2, 96, %p5; bar.red.or.pred %p2, 3, !%p5; ld.param.u64 %rd0, [out];
         selp.u32 %r2, 1, 0, %p1; selp.u32 %r3, 1, 0, %p2; setp.eq.u32 %p3, %r0, 33;
         @%p3 st.global.v4.u32 [%rd0], {%r1, %r2, %r3, 9};",
    );
    let words: Vec<u8> = [70u32, 1, 0, 9].iter().flat_map(|w| w.to_le_bytes()).collect();
    assert_eq!(case.read(output, 16), words);
}

#[test]
fn warps_that_have_ended_are_not_waited_for() {
    let mut case = Case::new(96);
    case.clean("mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 32; @%p0 bra END; bar.sync 0; bar.sync 0; END:");
}

#[test]
fn a_producer_and_a_consumer_share_a_buffer() {
    let mut case = Case::new(64);
    // Warp 0 writes, warp 1 reads, eight times; barriers at smem (full) and smem + 8 (empty).
    let body = "mov.u32 %r0, %tid.x; setp.eq.u32 %p0, %r0, 0; setp.lt.u32 %p1, %r0, 32; mov.u32 %r5, 0;
        @%p0 mbarrier.init.shared.b64 [smem], 32; @%p0 mbarrier.init.shared.b64 [smem+8], 32; bar.sync 0;
        @!%p1 bra READER;
        WRITER: and.b32 %r6, %r5, 1; xor.b32 %r6, %r6, 1;
        W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [smem+8], %r6, 10000000; @!%p2 bra W;
        setp.eq.u32 %p3, %r0, 0; @%p3 st.shared.u32 [smem+64], %r5;
        mbarrier.arrive.shared.b64 %rd0, [smem];
        add.u32 %r5, %r5, 1; setp.lt.u32 %p4, %r5, 8; @%p4 bra WRITER; bra END;
        READER: and.b32 %r6, %r5, 1;
        R: mbarrier.try_wait.parity.shared::cta.b64 %p2, [smem], %r6; @!%p2 bra R;
        ld.shared.u32 %r7, [smem+64]; setp.ne.u32 %p3, %r7, %r5; @%p3 trap;
        mbarrier.arrive.shared::cta.b64 _, [smem+8], 1;
        add.u32 %r5, %r5, 1; setp.lt.u32 %p4, %r5, 8; @%p4 bra READER; END:";
    case.clean(body);
    // Without the wait for an empty buffer the writer overtakes the reader.
    let cut = body.find("W: ").expect("the wait")..body.find("setp.eq.u32 %p3, %r0, 0; @%p3 st").expect("the store");
    let mut hasty = body.to_owned();
    hasty.replace_range(cut, "");
    case.notices(&hasty);
    case.deadlocks(
        "32 of 32 arrivals of phase 8",
        &body.replace("@!%p2 bra R;\n        ld", "@!%p2 bra R; xor.b32 %r6, %r6, 1; ld").replacen(
            "setp.lt.u32 %p4, %r5, 8; @%p4 bra READER",
            "setp.lt.u32 %p4, %r5, 9; @%p4 bra READER",
            1,
        ),
    );
}

#[test]
fn states_and_counts_of_mbarriers() {
    let mut case = Case::new(1);
    case.clean(
        "mbarrier.init.shared.b64 [smem], 3; mbarrier.arrive.noComplete.shared.b64 %rd0, [smem], 2;
         mbarrier.pending_count.b64 %r0, %rd0; setp.ne.u32 %p0, %r0, 3; @%p0 trap;
         mbarrier.test_wait.shared.b64 %p0, [smem], %rd0; @%p0 trap;
         mbarrier.arrive_drop.release.cta.shared.b64 %rd1, [smem];
         mbarrier.test_wait.acquire.cta.shared.b64 %p0, [smem], %rd1; @!%p0 trap;
         mbarrier.expect_tx.relaxed.cta.shared.b64 [smem], 64; mbarrier.arrive.shared.b64 %rd2, [smem], 2;
         mbarrier.test_wait.shared.b64 %p0, [smem], %rd2; @%p0 trap;
         mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [smem], 64;
         mbarrier.try_wait.shared.b64 %p0, [smem], %rd2; @!%p0 trap;
         mbarrier.inval.shared.b64 [smem];",
    );
    let init = "mbarrier.init.shared.b64 [smem], 2;";
    case.finds(Kind::Mbarrier, "3 arrivals where 2", &format!("{init} mbarrier.arrive.shared.b64 _, [smem], 3;"));
    case.finds(Kind::Mbarrier, "no mbarrier", "mbarrier.arrive.shared.b64 _, [smem];");
    case.finds(Kind::Mbarrier, "initialised again", &format!("{init} {init}"));
    case.finds(Kind::Mbarrier, "written over", &format!("{init} st.shared.u32 [smem+4], 0;"));
    case.finds(Kind::Misaligned, "multiple of 8", "mbarrier.init.shared.b64 [smem+4], 2;");
    case.finds(Kind::Mbarrier, "the count is 0", "mbarrier.init.shared.b64 [smem], 0;");
}

#[test]
fn generic_writes_reach_a_store_through_a_proxy_fence() {
    let mut case = Case::new(1);
    let output = case.gpu.alloc(16);
    let mut case = case.address("out", output);
    let head = "ld.param.u64 %rd0, [out]; st.shared.v4.u32 [smem], {1, 2, 3, 4};";
    let tail = format!("cp.async.bulk.global.shared::cta.bulk_group [%rd0], [smem], 16; {DONE}");
    case.clean(&format!("{head} fence.proxy.async.shared::cta; {tail}"));
    case.finds(Kind::ProxyFence, "shared", &format!("{head} {tail}"));
    let late = format!("{head} fence.proxy.async; {} st.shared.u32 [smem], 9;", tail.replace(DONE, ""));
    case.notices(&format!("{late} {DONE}"));
}

#[test]
fn registers_move_between_warpgroups() {
    let mut case = Case::new(256);
    let body = |dec: u32, inc: u32| {
        format!(
            "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 128; @%p0 bra GIVE;
             setmaxnreg.inc.sync.aligned.u32 {inc}; bra END; GIVE: setmaxnreg.dec.sync.aligned.u32 {dec}; END:"
        )
    };
    case.bounds = ".maxnreg 128".into();
    case.clean(&body(24, 232));
    case.deadlocks("registers", &body(32, 232));
    case.finds(Kind::RegisterPool, "dec", &body(136, 232));
    // Where nothing fixes the count at entry, the compiler ignores the instruction.
    case.bounds.clear();
    case.clean(&body(136, 232));
}

#[test]
fn clusters_talk_through_each_others_memory() {
    let mut case = Case::new(32).cluster(2);
    let body = "mov.u32 %r0, %tid.x; mov.u32 %r1, %cluster_ctarank; xor.b32 %r2, %r1, 1; setp.eq.u32 %p0, %r0, 0;
        @%p0 mbarrier.init.shared.b64 [smem], 1; fence.mbarrier_init.release.cluster;
        @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [smem], 8;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
        mov.u32 %r3, smem; mapa.shared::cluster.u32 %r4, %r3, %r2; add.u32 %r5, %r1, 40; mov.b64 %rd0, {%r5, %r1};
        @%p0 st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%r4+16], %rd0, [%r4];
        L: mbarrier.try_wait.parity.shared.b64 %p1, [smem], 0; @!%p1 bra L;
        ld.shared.v2.u32 {%r6, %r7}, [smem+16]; setp.ne.u32 %p2, %r7, %r2; @%p2 trap;
        barrier.cluster.arrive; barrier.cluster.wait;";
    case.clean(body);
    let early = body.replace("L: mbarrier", "bra S; L: mbarrier").replace("ld.shared.v2", "S: ld.shared.v2");
    case.notices(&early);
    case.finds(Kind::Barrier, "have not arrived", "barrier.cluster.wait;");
    case.finds(Kind::Barrier, "twice", "barrier.cluster.arrive; barrier.cluster.arrive;");
    case.deadlocks(
        "cluster barrier",
        "mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p0, %r1, 0; @%p0 bra ONE;
         mbarrier.init.shared.b64 [smem], 1; L: mbarrier.try_wait.parity.shared.b64 %p1, [smem], 0; @!%p1 bra L;
         ONE: barrier.cluster.arrive; barrier.cluster.wait;",
    );
}

#[test]
fn remote_sums_complete_on_an_mbarrier() {
    let mut case = Case::new(1).cluster(2);
    case.clean(
        "mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p0, %r1, 0; st.shared.u32 [smem+16], 5;
         mbarrier.init.shared.b64 [smem], 1; fence.mbarrier_init.release.cluster;
         barrier.cluster.arrive; barrier.cluster.wait; @%p0 bra ZERO;
         mov.u32 %r3, smem; mapa.shared::cluster.u32 %r4, %r3, 0;
         red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r4+16], 37, [%r4]; bra END;
         ZERO: mbarrier.arrive.expect_tx.shared.b64 _, [smem], 4;
         L: mbarrier.try_wait.parity.shared.b64 %p1, [smem], 0; @!%p1 bra L;
         ld.shared.u32 %r5, [smem+16]; setp.ne.u32 %p2, %r5, 42; @%p2 trap;
         END: barrier.cluster.arrive; barrier.cluster.wait;",
    );
}

#[test]
fn each_threads_copies_are_waited_for() {
    let mut case = Case::new(32);
    let input = case.gpu.upload(&pattern(512));
    let mut case = case.address("in", input);
    let copy = "mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 4; mov.u32 %r2, smem; add.u32 %r2, %r2, %r1; ld.param.u64 %rd0, [in];
        cvt.u64.u32 %rd1, %r1; add.u64 %rd0, %rd0, %rd1; cp.async.cg.shared.global [%r2], [%rd0], 16; cp.async.commit_group;
        cp.async.ca.shared.global [%r2+512], [%rd0], 8, 4; cp.async.commit_group;";
    let check = "ld.shared.u32 %r3, [%r2]; ld.global.u32 %r4, [%rd0]; setp.ne.u32 %p0, %r3, %r4; @%p0 trap;";
    let zero = "ld.shared.v2.u32 {%r5, %r6}, [%r2+512]; setp.ne.u32 %p0, %r5, %r4; @%p0 trap; setp.ne.u32 %p0, %r6, 0; @%p0 trap;";
    case.clean(&format!("{copy} cp.async.wait_group 1; {check} cp.async.wait_group 0; {zero}"));
    case.clean(&format!("{copy} cp.async.wait_all; {check} {zero}"));
    case.notices(&format!("{copy} cp.async.wait_group 1; {check} {zero} cp.async.wait_all;"));
    let bar = "setp.eq.u32 %p1, %r0, 0; @%p1 mbarrier.init.shared.b64 [smem+4096], 32; bar.sync 0;";
    let wait = "L: mbarrier.try_wait.parity.shared.b64 %p1, [smem+4096], 0; @!%p1 bra L;";
    case.clean(&format!("{copy} {bar} cp.async.mbarrier.arrive.noinc.shared.b64 [smem+4096]; {wait} {check} {zero}"));
    let both = "cp.async.mbarrier.arrive.shared.b64 [smem+4096]; mbarrier.arrive.shared.b64 _, [smem+4096];";
    case.clean(&format!("{copy} {bar} {both} {wait} {check} {zero}"));
}

#[test]
fn clusters_take_over_the_work_of_others() {
    let mut case = Case::new(1);
    let output = case.gpu.upload(&[0; 32]);
    let mut case = case.address("out", output);
    case.launch.grid = [8, 1, 1];
    let body = "ld.param.u64 %rd0, [out]; mov.u32 %r0, %ctaid.x; mov.u32 %r9, 0; mbarrier.init.shared.b64 [smem], 1;
        fence.mbarrier_init.release.cluster;
        WORK: mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd0, %rd1; atom.global.add.u32 %r1, [%rd1], 1;
        fence.proxy.async.shared::cta; mbarrier.arrive.expect_tx.shared.b64 _, [smem], 16;
        clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [smem+16], [smem];
        L: mbarrier.try_wait.parity.shared.b64 %p0, [smem], %r9; @!%p0 bra L; xor.b32 %r9, %r9, 1;
        ld.shared.b128 %q0, [smem+16]; clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p1, %q0;
        @!%p1 bra END; clusterlaunchcontrol.query_cancel.get_first_ctaid.v4.b32.b128 {%r0, %r2, %r3, _}, %q0; bra WORK; END:";
    for seed in 0..4 {
        case.gpu.write(output, &[0; 32]).expect("inside the allocation");
        case.launch.seed = seed;
        let run = case.run(body).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(run.findings.is_empty(), "{}", list(&run.findings));
        let once: Vec<u8> = [1u32; 8].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(case.read(output, 32), once, "each block's work is done once");
    }
}

#[test]
fn a_map_is_changed_on_the_device() {
    let mut case = Case::new(32);
    let input = case.gpu.upload(&pattern(2048));
    let output = case.gpu.alloc(1024);
    let map = case.gpu.upload(&[0; 128]);
    let case = case.map("in", matrix(input)).map("out", matrix(output));
    let mut case = case.address("place", map).address("from", input + 1024);
    let copy: String = (0..128)
        .step_by(16)
        .map(|i| {
            format!(
                "ld.param.v4.u32 {{%r4, %r5, %r6, %r7}}, [in+{i}]; st.shared.v4.u32 [smem+{}], {{%r4, %r5, %r6, %r7}};",
                4096 + i
            )
        })
        .collect();
    let load = LOAD.replace("[in,", "[%rd0,");
    let body = format!(
        "mov.u32 %r0, %tid.x; setp.eq.u32 %p1, %r0, 0; ld.param.u64 %rd0, [place]; ld.param.u64 %rd1, [from]; @!%p1 bra JOIN;
         {INIT} {copy} tensormap.replace.tile.global_address.shared::cta.b1024.b64 [smem+4096], %rd1;
         tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [smem+4096], 1, 8;
         JOIN: bar.warp.sync -1;
         tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd0], [smem+4096], 128;
         fence.proxy.tensormap::generic.acquire.gpu [%rd0], 128; @!%p1 bra END;
         {EXPECT} {load} {WAIT} {STORE} {DONE} END:"
    );
    case.clean(&body);
    assert_eq!(case.read(output, 1024), pattern(2048)[1024..]);
    let unfenced = body.replace("fence.proxy.tensormap::generic.acquire.gpu [%rd0], 128;", "");
    case.finds(Kind::ProxyFence, "global", &unfenced);
}

#[test]
fn what_is_not_modelled_is_refused_with_its_line() {
    for line in [
        "mbarrier.arrive.multicast::cluster::32b.shared.b64 _, [smem];",
        "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [smem], [%rd0, {0, 0, 0}], [smem], {%h0};",
        "fence.proxy.weird;",
        "bar.arrive 1;",
        "cp.async.ca.shared.global [smem], [%rd0], 5;",
        "setmaxnreg.inc.u32 24;",
    ] {
        match Case::new(1).run(line) {
            Err(Error::Unsupported(error)) => {
                assert!(error.line > 0 && line.starts_with(&error.instruction[..3]), "{error}")
            }
            Err(other) => panic!("{line}: {other}"),
            Ok(_) => panic!("{line}: was executed"),
        }
    }
}

#[test]
fn a_pair_of_blocks_loads_halves_and_signals_its_leader() {
    let mut case = Case::new(1);
    let input = case.gpu.upload(&pattern(2048));
    let output = case.gpu.alloc(2048);
    let wide = |address| EncodeTiled { global_dim: &[64, 16], ..matrix(address) };
    let mut case = case.map("in", wide(input)).map("out", wide(output)).cluster(2);
    let copy = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes";
    let body = |form: &str| {
        format!(
            "{INIT} barrier.cluster.arrive.relaxed; barrier.cluster.wait;
             mov.u32 %r0, %cluster_ctarank; shl.b32 %r1, %r0, 3; setp.eq.u32 %p1, %r0, 0;
             mov.u32 %r2, smem; and.b32 %r3, %r2, 0xFEFFFFFF; mov.b64 %rd5, 0;
             @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [smem], 2048;
             {copy}{form} [%r2+1024], [in, {{0, %r1}}], [%r3], %rd5;
             @!%p1 bra FOLLOW; {WAIT}
             mapa.shared::cluster.u32 %r4, %r2, 1; mbarrier.arrive.shared::cluster.b64 _, [%r4], 1;
             FOLLOW: @%p1 bra WRITE; F: mbarrier.try_wait.parity.shared.b64 %p0, [smem], 0; @!%p0 bra F;
             WRITE: cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group.L2::cache_hint [out, {{0, %r1}}], [smem+1024], %rd5; {DONE}
             barrier.cluster.arrive; barrier.cluster.wait;"
        )
    };
    case.clean(&body(".L2::cache_hint.cta_group::2"));
    assert_eq!(case.read(output, 2048), pattern(2048));
    case.finds(Kind::Operand, "its mbarrier", &body(".cta_group::1.L2::cache_hint"));
}

#[test]
fn a_fence_makes_a_relaxed_arrival_at_the_cluster_release() {
    let mut case = Case::new(32).cluster(2);
    let body = |fence: &str, arrive: &str| {
        format!(
            "mov.u32 %r0, %tid.x; setp.eq.u32 %p0, %r0, 0; mov.u32 %r1, %cluster_ctarank; xor.b32 %r2, %r1, 1;
             @%p0 st.shared.u32 [smem], %r1; {fence} barrier.cluster.arrive{arrive}; barrier.cluster.wait;
             mov.u32 %r3, smem; mapa.shared::cluster.u32 %r4, %r3, %r2; ld.shared::cluster.u32 %r5, [%r4];
             setp.ne.u32 %p1, %r5, %r2; @%p1 trap; barrier.cluster.arrive; barrier.cluster.wait;"
        )
    };
    case.clean(&body("", ""));
    case.clean(&body("fence.acq_rel.cluster;", ".relaxed"));
    case.finds(Kind::Race, "shared", &body("", ".relaxed"));
}

#[test]
fn a_waiter_that_is_overtaken_is_told() {
    let mut case = Case::new(64);
    // Warp 1 asks once, warp 0 completes two phases, warp 1 asks for the first again.
    case.finds(
        Kind::Mbarrier,
        "means another phase",
        "mov.u32 %r0, %tid.x; setp.eq.u32 %p0, %r0, 0; setp.lt.u32 %p1, %r0, 32;
         @%p0 mbarrier.init.shared.b64 [smem], 1; bar.sync 0; @%p1 bra FIRST;
         mbarrier.test_wait.parity.shared.b64 %p2, [smem], 0; @%p2 trap; bar.sync 1; bar.sync 2;
         mbarrier.test_wait.parity.shared.b64 %p2, [smem], 0; bra END;
         FIRST: bar.sync 1; @%p0 mbarrier.arrive.shared.b64 _, [smem]; @%p0 mbarrier.arrive.shared.b64 _, [smem]; bar.sync 2; END:",
    );
}

/// Spellings of other compilers' kernels, and old and new ones of the same thing.
#[test]
fn spellings_are_understood() {
    for line in [
        "mbarrier.arrive.release.cta.shared::cta.b64 %rd0, [smem], 1;",
        "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%r0], %r1;",
        "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r0], 64;",
        "mbarrier.arrive_drop.noComplete.release.cta.shared::cta.b64 %rd0, [smem], 1;",
        "mbarrier.arrive.b64 %rd0, [%rd1];",
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p0, [smem+8], 1, 10000000;",
        "mbarrier.test_wait.parity.relaxed.cta.shared.b64 %p0, [smem], %r1;",
        "fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;",
        "fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster;",
        "fence.proxy.tensormap::generic.release.gpu;",
        "fence.proxy.async.global;",
        "fence.proxy.alias;",
        "barrier.cluster.arrive.release.aligned;",
        "barrier.cluster.wait.acquire;",
        "barrier.sync 2, 416;",
        "barrier.cta.arrive.aligned %r0, 64;",
        "barrier.cta.red.popc.aligned.u32 %r0, 1, 64, %p0;",
        "griddepcontrol.launch_dependents;",
        "griddepcontrol.wait;",
        "cp.async.bulk.prefetch.L2.global.L2::cache_hint [%rd0], 128, %rd1;",
        "cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%rd0, {%r0, %r1}];",
        "cp.async.bulk.tensor.5d.shared::cta.global.mbarrier::complete_tx::bytes [smem], [%rd0, {%r0, 0, 0, 0, 0}], [smem];",
        "cp.async.bulk.tensor.2d.cta_group::2.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [smem], [%rd0, {0, 0}], [smem], %h0;",
        "cp.async.bulk.tensor.2d.shared::cta.global.tile::gather4.mbarrier::complete_tx::bytes.L2::cache_hint [smem], [%rd0, {0, 1, 2, 3, 4}], [smem], %rd1;",
        "cp.async.bulk.tensor.2d.global.shared::cta.tile::scatter4.bulk_group [%rd0, {0, 1, 2, 3, 4}], [smem];",
        "cp.reduce.async.bulk.tensor.1d.global.shared::cta.max.bulk_group [%rd0, {0}], [smem];",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.bf16 [%rd0], [smem], 16;",
        "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.inc.u32 [%r0], [smem], 16, [%r1];",
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r0], [smem], 16, [%r1];",
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [smem], [%rd0], %r1, [smem], %rd1;",
        "cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%rd0], [smem], 16, %h0;",
        "cp.async.bulk.wait_group.read 1;",
        "cp.async.ca.shared::cta.global.L2::cache_hint.L2::128B [smem], [%rd0], 16, %r1, %rd1;",
        "cp.async.cg.shared.global [smem], [%rd0], 16, !%p0;",
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [smem];",
        "prefetch.param.tensormap [%rd0];",
        "prefetch.tensormap [%rd0];",
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%r0], {%r1, %r1, %r1, %r1}, [%r2];",
        "st.bulk.weak.shared::cta [smem], 128, 0;",
        "clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 %r0, %q0;",
        "clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.multicast::cluster::all.b128 [smem], [smem];",
        "tensormap.replace.tile.elemtype.global.b1024.b32 [%rd0], 6;",
        "tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [smem], 1, %rd0;",
        "setmaxnreg.inc.sync.aligned.u32 232;",
    ] {
        let mut case = Case::new(32);
        // The line is decoded and not run.
        let body = format!("mov.u32 %r3, 0; setp.eq.u32 %p7, %r3, 1; @%p7 bra GO; ret; GO: {line}");
        assert!(case.run(&body).is_ok_and(|run| run.findings.is_empty()), "{line}: {:?}", case.run(&body).err());
    }
}
