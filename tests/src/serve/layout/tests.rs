//! Rows come back from where they were put, and nothing else is touched.

use super::*;
use crate::precision::{POISON, Precision};
use crate::serve::inputs::ServeInputs;

const LINES: [&str; 9] = [
    "f16 h=4 hk=2 d=16 dv=24 varlen=5,0,17,300 klens=9,4,0,30 usedq=5,0,3,299",
    "f16 h=4 hk=2 d=16 dv=16 varlen=5,0,17 klens=same layout=packed",
    "f16 h=4 hk=2 d=16 dv=16 varlen=5,0,17 usedk=50,0,17 page=16:1 layout=packedkv",
    "f16 b=2 h=2 hk=1 sq=3 d=8 dv=8 usedk=100,70 page=16:0:3",
    "f16 b=3 h=4 hk=2 sq=3 sk=40 d=16 dv=8 usedk=40,0,17 layout=padded usedq=3,1,0",
    "f16 b=3 h=4 hk=2 sq=1 sk=70 d=16 dv=8 usedk=70,0,33 page=32 layout=bhsd",
    "f16 b=3 h=4 hk=2 sq=1 sk=70 d=16 dv=8 usedk=70,0,33 page=32 layout=padded",
    "f16 b=2 h=1 hk=1 sq=1 sk=9 d=8 dv=8",
    "f16 h=1 hk=1 d=8 dv=8 varlen=0,0 klens=0,0",
];

fn placed(line: &str) -> (ServeCase, ServePlacement) {
    let case: ServeCase = line.parse().expect(line);
    let place = ServePlacement::of(&case);
    (case, place)
}

#[test]
fn every_row_is_where_it_was_put_and_all_else_is_poison() {
    for line in LINES {
        let (case, place) = placed(line);
        let inputs = ServeInputs::of(&case);
        let mut arenas: Vec<Vec<u16>> = place.inputs.iter().map(|arena| vec![POISON; arena.host_len()]).collect();
        for (b, inputs) in inputs.sequences.iter().enumerate() {
            for (i, tensor) in [&inputs.q, &inputs.k, &inputs.v].into_iter().enumerate() {
                place.scatter(i, b, tensor, |x| Precision::F16.to_bits(x), &mut arenas[place.qkv[i].0]);
            }
        }
        let mut written = 0;
        for (b, inputs) in inputs.sequences.iter().enumerate() {
            for (i, tensor) in [&inputs.q, &inputs.k, &inputs.v].into_iter().enumerate() {
                let (arena, view) = &place.qkv[i];
                let rooms = if i == 0 { &place.queries } else { &place.keys };
                for (at, x) in tensor.data.iter().enumerate() {
                    let (_, row, head, column) = tensor.position(at);
                    let (entry, row) = rooms.of(b, row);
                    if entry >= view.dims.batch {
                        assert!(i > 0 && case.paging().is_some_and(|p| p.missing > 0) && *x == 0.0, "{line}");
                        continue;
                    }
                    written += 1;
                    assert_eq!(
                        arenas[*arena][view.index((entry, row, head, column))],
                        Precision::F16.to_bits(*x),
                        "{line}"
                    );
                }
            }
        }
        let shared = case.paging().map_or(0, |p| p.shared * p.page_size * 2 * (16 + 16));
        let different: usize = arenas.iter().flatten().filter(|x| **x != POISON).count();
        assert_eq!(different, written - shared, "{line}");
    }
}

#[test]
fn rows_of_q_step_evenly_and_strides_are_multiples_of_sixteen_bytes() {
    for line in LINES {
        let (_, place) = placed(line);
        let views = place.qkv.iter().map(|(a, v)| (v, place.inputs[*a])).chain([(&place.o.0, place.o.1)]);
        for (view, arena) in views {
            assert!(view.offset.is_multiple_of(8), "{line}");
            assert!(view.device_strides(&arena).iter().all(|s| s % 8 == 0), "{line}");
        }
        for view in [&place.qkv[0].1, &place.o.0] {
            assert!(
                view.batch.is_multiple_of(view.seq) || place.queries == Rooms::Dense && view.dims.seq == 1,
                "{line}"
            );
        }
    }
}

#[test]
fn a_write_to_a_row_that_is_not_in_use_is_seen() {
    let (_, place) = placed(LINES[0]);
    let (view, arena) = &place.o;
    let mut o = vec![POISON; arena.host_len()];
    // 5 and 17 rows of room lie before the last sequence, of which 3 of the 17 are in use.
    let rows = [(0..5), (5..8), (22..321)].into_iter().flatten();
    for (row, head) in rows.flat_map(|row| (0..4).map(move |head| (row, head))) {
        let at = view.index((0, row, head, 0));
        o[at..at + 24].fill(0);
    }
    assert_eq!(place.overwritten(view, &o, POISON), None);
    for row in [8, 21, 321] {
        let at = view.index((0, row, 3, 23));
        o[at] = 1;
        assert_eq!(place.overwritten(view, &o, POISON), Some(at));
        o[at] = POISON;
    }
    let before = view.offset - 1;
    o[before] = 0;
    assert_eq!(place.overwritten(view, &o, POISON), Some(before));
}

#[test]
fn packed_tensors_have_guards_and_sums() {
    let (case, place) = placed(LINES[0]);
    assert_eq!(ServePlacement::cumulative(&place.queries), Some(vec![0, 5, 5, 22, 322]));
    assert_eq!(ServePlacement::cumulative(&place.keys), Some(vec![0, 9, 13, 13, 43]));
    assert_eq!(ServePlacement::in_use(case.used_q.as_ref()), Some(vec![5, 0, 3, 299]));
    let (view, arena) = &place.o;
    assert!(view.offset >= GUARD_ROWS * view.seq && arena.host_len() >= view.end() + GUARD_ROWS * view.seq);
    assert_eq!((place.lse.0.head, place.lse.0.dims.seq), (322, 322));
}

#[test]
fn far_pages_pass_32_bits() {
    let (_, place) = placed("f16 h=1 hk=1 d=64 dv=64 usedk=40,17 page=16 layout=far");
    let (arena, view) = &place.qkv[1];
    let arena = &place.inputs[*arena];
    assert!(view.device_strides(arena)[0] * 2 > 1 << 31, "the third page starts past 2^31 elements");
    assert!(arena.host_len() < 1 << 20);
}
