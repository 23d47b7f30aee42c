//! Tensor copies: what they move, and what must surround them.

use super::*;

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
fn a_store_that_outlives_its_block_still_stores() {
    let (mut case, output) = copies();
    case.finds(Kind::OutstandingAtExit, "bulk stores", &format!("{INIT} {EXPECT} {LOAD} {WAIT} {STORE}"));
    assert_eq!(case.read(output, 1024), pattern(1024));
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
fn coordinates_that_the_device_calls_illegal() {
    let (mut case, _) = copies();
    let load = LOAD.replace("{0, 0}", "{4, 0}");
    let words = "coordinate 0 is 4, tensors of Float16 need a multiple of 8";
    case.finds(Kind::IllegalInstruction, words, &format!("{INIT} {EXPECT} {load} {WAIT}"));
    let prefetch = "cp.async.bulk.prefetch.tensor.2d.L2.global.tile [in, {4, 0}];";
    case.finds(Kind::IllegalInstruction, words, prefetch);
    let head = format!("{INIT} {EXPECT} {LOAD} {WAIT}");
    for (corner, words) in [("{12, 0}", "coordinate 0 is 12"), ("{0, -1}", "coordinate 1 is -1")] {
        let store = STORE.replace("{0, 0}", corner);
        case.finds(Kind::IllegalInstruction, words, &format!("{head} {store} {DONE}"));
        let reduce = store.replace("cp.async", "cp.reduce.async").replace("shared::cta.", "shared::cta.add.");
        case.finds(Kind::IllegalInstruction, words, &format!("{head} {reduce} {DONE}"));
    }
}

#[test]
fn a_store_changes_what_shares_16_bytes_with_the_end_of_a_row() {
    let run = |bytes: usize| {
        let mut case = Case::new(1);
        let input = case.gpu.upload(&pattern(1024));
        let output = case.gpu.upload(&vec![0xee; bytes]);
        let narrow = EncodeTiled { global_dim: &[61, 8], ..matrix(output) };
        let mut case = case.map("in", matrix(input)).map("out", narrow);
        case.clean(&format!("{INIT} {EXPECT} {LOAD} {WAIT} {STORE} {DONE}"));
        case.read(output, bytes)
    };
    assert_eq!(run(1024), pattern(1024));
    // The allocation ends with the last row, or two bytes behind it.
    assert_eq!(run(1018), pattern(1024)[..1018]);
    assert_eq!(run(1020), pattern(1024)[..1020]);
}

#[test]
fn a_column_of_pixels_goes_through_shared_memory() {
    // 2 images of 4 by 2 pixels of 64 halves, a filter of 2 by 1 without padding: 3 by 2 places.
    let images = |address, upper: &'static [i32]| EncodeIm2col {
        data_type: DataType::Float16,
        global_address: address,
        global_dim: &[64, 4, 2, 2],
        global_strides: &[128, 512, 1024],
        pixel_box_lower_corner: &[0, 0],
        pixel_box_upper_corner: upper,
        channels_per_pixel: 64,
        pixels_per_column: 8,
        element_strides: &[1; 4],
        interleave: Interleave::None,
        swizzle: Swizzle::B128,
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    };
    let mut case = Case::new(1);
    let input = case.gpu.upload(&pattern(2048));
    let output = case.gpu.upload(&[0; 2048]);
    let of = |args: EncodeIm2col| args.encode().expect("the map is valid");
    let mut case = case.object("in", of(images(input, &[-1, 0]))).object("out", of(images(output, &[0, 0])));
    let load = "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes
        [smem+1024], [in, {0, 0, 0, 0}], [smem], {%h0, %h1};";
    let store =
        "cp.async.bulk.tensor.4d.global.shared::cta.im2col_no_offs.bulk_group [out, {0, 0, 1, 0}], [smem+1024];";
    let offsets = "mov.b16 %h0, 1; mov.b16 %h1, 0;";
    case.clean(&format!("{INIT} {offsets} {EXPECT} {load} {WAIT} {store} {DONE}"));
    let (got, pixels) = (case.read(output, 2048), pattern(2048));
    let want: Vec<u8> =
        [1, 2, 3, 5, 6, 7, 9, 10].iter().flat_map(|p| pixels[128 * p..128 * (p + 1)].to_vec()).collect();
    assert_eq!((&got[..512], &got[512..1536], &got[1536..]), (&[0; 512][..], &want[..], &[0; 512][..]));
    let far = load.replace("{0, 0, 0, 0}", "{0, 3, 0, 0}");
    case.finds(Kind::Operand, "reaches from 0 to 2", &format!("{INIT} {offsets} {EXPECT} {far} {WAIT}"));
    let prefetch = "cp.async.bulk.prefetch.tensor.4d.L2.global.im2col [in, {0, 0, 0, 0}], {%h0, %h1};";
    case.clean(&format!("{offsets} {prefetch}"));
    let tile = "cp.async.bulk.prefetch.tensor.4d.L2.global [in, {0, 0, 0, 0}];";
    case.finds(Kind::Operand, "is an im2col map", tile);
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
fn lanes_that_ask_for_the_same_tensor_store_get_one() {
    let mut case = Case::new(32);
    let input = case.gpu.upload(&pattern(1024));
    let output = case.gpu.alloc(1024);
    let mut case = case.map("in", matrix(input)).map("out", matrix(output));
    let load = format!("elect.sync %r0|%p1, -1; @!%p1 bra LOADED; {INIT} {EXPECT} {LOAD} LOADED: bar.warp.sync -1;");
    case.clean(&format!("{load} {WAIT} {STORE} {DONE}"));
    assert_eq!(case.read(output, 1024), pattern(1024));
    let rows = "mov.u32 %r0, %tid.x; and.b32 %r0, %r0, 1;";
    let store = STORE.replace("{0, 0}", "{0, %r0}");
    case.finds(Kind::InFlight, "global", &format!("{load} {WAIT} {rows} {store} {DONE}"));
}
