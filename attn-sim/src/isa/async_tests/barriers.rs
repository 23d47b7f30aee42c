//! Named barriers, mbarriers, and registers that change hands.

use super::*;

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
    // Found, and yet each warp has its own count.
    let apart = body(24, 232).replace("setmaxnreg.dec", "setp.ge.u32 %p1, %r0, 96; @%p1 bra LAST; setmaxnreg.dec");
    let last = " bra OUT; LAST: setmaxnreg.dec.sync.aligned.u32 32; OUT:";
    case.deadlocks("registers", &format!("{apart}{last}"));
    let enough = apart.replace("232", "224");
    case.finds(Kind::RegisterPool, "another warp of the warpgroup went to", &format!("{enough}{last}"));
    // Where nothing fixes the count at entry, the compiler ignores the instruction.
    case.bounds.clear();
    case.clean(&body(136, 232));
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

#[test]
fn a_commit_passes_on_what_its_thread_had_waited_for() {
    let input = |case: &mut Case| case.gpu.upload(&pattern(1024));
    let mut case = Case::new(64);
    let at = input(&mut case);
    let mut case = case.map("in", matrix(at));
    let init = "mov.u32 %r0, %tid.x; setp.eq.u32 %p1, %r0, 0; setp.eq.u32 %p2, %r0, 32; @!%p1 bra READY;
        mbarrier.init.shared.b64 [smem], 1; mbarrier.init.shared.b64 [smem+8], 1; fence.mbarrier_init.release.cluster;
        READY: bar.sync 0; @%p2 bra REFILL; @!%p1 bra END;";
    let commit = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [smem+8]; bra END;";
    let committed = "REFILL: mbarrier.try_wait.parity.shared.b64 %p0, [smem+8], 0; @!%p0 bra REFILL;";
    let body =
        |between: &str, after: &str| format!("{init} {EXPECT} {LOAD} {between} {commit} {committed} {after} END:");
    // The first filling of the slot is over for whoever hears of the commit.
    let refill = format!("{EXPECT} {LOAD}");
    let again = "AGAIN: mbarrier.try_wait.parity.shared.b64 %p0, [smem], 1; @!%p0 bra AGAIN;";
    case.clean(&body(WAIT, &format!("{refill} {again}")));
    // What the thread wrote itself is not the commit's to release.
    let write = format!("{WAIT} st.shared.u32 [smem+4096], %r0;");
    case.finds(Kind::Race, "shared", &body(&write, "ld.shared.u32 %r1, [smem+4096];"));
}

#[test]
fn a_warp_initialises_an_mbarrier_as_a_whole() {
    let mut case = Case::new(32);
    let rest = "fence.mbarrier_init.release.cluster; mbarrier.arrive.shared.b64 _, [smem];
        L: mbarrier.try_wait.parity.shared.b64 %p0, [smem], 0; @!%p0 bra L;";
    case.clean(&format!("mbarrier.init.shared.b64 [smem], 32; {rest}"));
    let apart = "mov.u32 %r0, %tid.x; add.u32 %r0, %r0, 1; mbarrier.init.shared.b64 [smem], %r0;";
    case.finds(Kind::Mbarrier, "initialised again", &format!("{apart} {rest}"));
}
