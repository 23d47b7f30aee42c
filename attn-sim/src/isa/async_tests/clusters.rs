//! Blocks of a cluster, and clusters that take over work.

use super::*;

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
    // To ask first and to look later is no fault, to use what is none is one.
    let ask = "clusterlaunchcontrol.query_cancel.get_first_ctaid.v4.b32.b128 {%r0, %r2, %r3, _}, %q0;";
    let early = body.replace(ask, "").replace("@!%p1 bra END;", &format!("{ask} @!%p1 bra END;"));
    case.clean(&early);
    case.finds(Kind::Uninitialised, "%r0", &early.replace("@!%p1 bra END;", "add.u32 %r8, %r0, 1; @!%p1 bra END;"));
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
