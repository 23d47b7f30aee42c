//! `stmatrix` and `ldmatrix` against where PTX says that elements lie.

use attn_kernel::probe::matrix::{PROBE, RESULTS, STAGES, register};

use super::{ARCHITECTURES, SEEDS, Setup};

/// Word `word` of row `row` of a matrix that was stored from register `i` of every lane.
fn stored(i: u32, row: u32, word: u32, transposed: bool) -> u32 {
    if !transposed {
        return register(4 * row + word, i);
    }
    // Element (row, column) is the one that lane `4 column + row / 2` holds in half `row % 2`.
    let element = |column: u32| register(4 * column + row / 2, i) >> (16 * (row % 2)) & 0xffff;
    element(2 * word) | element(2 * word + 1) << 16
}

/// The words that the probe writes, as its description gives them.
fn expected() -> Vec<u32> {
    let mut want = Vec::with_capacity(RESULTS);
    for step in 0..STAGES as u32 {
        let (matrices, transposed) = ([4, 2, 1][step as usize % 3], step >= 3);
        for (matrix, row) in (0..4).flat_map(|matrix| (0..8).map(move |row| (matrix, row))) {
            let word = |word| if matrix < matrices { stored(matrix, row, word, transposed) } else { u32::MAX };
            want.extend((0..4).map(word));
        }
    }
    for lane in 0..32 {
        // What was stored plainly is loaded plainly as it was, and transposed as a transposed store would have put it.
        let plain = |i| stored(i, lane / 4, lane % 4, false);
        let transposed = |i| stored(i, lane / 4, lane % 4, true);
        want.extend((0..4).map(plain).chain((0..2).map(plain)));
        want.extend((0..2).map(transposed).chain((0..4).map(transposed)));
        want.extend((0..8).map(|i| ((lane + i) as f32).to_bits()));
    }
    want
}

#[test]
fn matrices_lie_where_ptx_says() {
    for arch in ARCHITECTURES {
        for seed in SEEDS {
            let mut setup = Setup::new(arch, seed);
            let out = setup.output(RESULTS);
            setup.run(PROBE);
            let (got, want) = (setup.words(out, RESULTS), expected());
            let first = got.iter().zip(&want).position(|(a, b)| a != b);
            assert_eq!(first.map(|i| (i, got[i], want[i])), None, "{arch} seed {seed}");
        }
    }
}
