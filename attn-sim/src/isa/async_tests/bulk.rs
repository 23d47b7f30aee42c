//! Bulk copies, and the copies of each thread.

use super::*;

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
fn sums_of_a_bulk_reduction_keep_subnormals() {
    let mut case = Case::new(1);
    let words = |words: [u32; 4]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let output = case.gpu.upload(&words([1, 0x007f_ffff, 0x8000_0003, 0x3f80_0000]));
    let mut case = case.address("out", output);
    let body = format!(
        "ld.param.u64 %rd0, [out]; st.shared.v4.u32 [smem], {{2, 0, 1, 0x40000000}}; fence.proxy.async.shared::cta;
         cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%rd0], [smem], 16; {DONE}"
    );
    // Several runs add several times.
    case.launch.seed = 1;
    let run = case.run(&body).expect("it runs");
    assert!(run.findings.is_empty(), "{}", list(&run.findings));
    assert_eq!(case.read(output, 16), words([3, 0x007f_ffff, 0x8000_0002, 0x4040_0000]));
}

#[test]
fn lanes_that_ask_for_the_same_store_get_one() {
    let mut case = Case::new(32);
    let output = case.gpu.alloc(16);
    case.gpu.write(output, &[0; 16]).expect("inside an allocation");
    let mut case = case.address("out", output);
    let head = "ld.param.u64 %rd0, [out]; mov.u32 %r0, %tid.x; setp.eq.u32 %p0, %r0, 0;
        @%p0 st.shared.v4.u32 [smem], {1, 2, 3, 4}; bar.warp.sync -1; fence.proxy.async.shared::cta;";
    case.clean(&format!("{head} cp.async.bulk.global.shared::cta.bulk_group [%rd0], [smem], 16; {DONE}"));
    assert_eq!(case.read(output, 4), [1, 0, 0, 0]);
    // A reduction is done as often as it is asked for, by each of eight seeds here.
    let add = "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd0], [smem], 16;";
    case.clean(&format!("{head} {add} {DONE}"));
    assert_eq!(case.read(output, 4), (1 + 8 * 32_u32).to_le_bytes());
    let apart = "mul.wide.u32 %rd1, %r0, 8; add.u64 %rd0, %rd0, %rd1;";
    let store = "cp.async.bulk.global.shared::cta.bulk_group [%rd0], [smem], 8;";
    case.finds(Kind::Misaligned, "multiple of 16", &format!("{head} {apart} {store} {DONE}"));
}
