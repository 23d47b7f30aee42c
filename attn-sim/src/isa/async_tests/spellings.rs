//! What is decoded, and what is refused.

use super::*;

#[test]
fn what_is_not_modelled_is_refused_with_its_line() {
    for line in [
        "mbarrier.arrive.multicast::cluster::32b.shared.b64 _, [smem];",
        "cp.async.bulk.tensor.3d.shared::cluster.global.im2col::w.mbarrier::complete_tx::bytes [smem], [%rd0, {0, 0, 0}], [smem], {%h0};",
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
        "fence.acquire.sync_restrict::shared::cluster.cluster;",
        "fence.release.sync_restrict::shared::cta.cluster;",
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
