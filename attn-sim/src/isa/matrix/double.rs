//! `mma.sync` of f64: each element of D is C plus the products along K, one fused multiplication and addition after the other, K
//! ascending (as measured by MMA-Sim, arXiv 2511.10909).

use super::super::Decoded;
use super::super::form::Form;
use crate::counters::Class;
use crate::layout::fragment;
use crate::machine::Context;
use crate::machine::decode::{Decode, LANES, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::registers::Lanes;
use crate::num::float::{Mode, fma_f64};
use crate::num::format::Rounding;
use crate::ptx::ScalarType;
use crate::report::Stop;

/// Columns of D.
const COLUMNS: usize = 8;

#[derive(Debug)]
struct Multiply {
    rows: usize,
    k: usize,
    mode: Mode,
    d: Vec<Option<Reg>>,
    a: Vec<Source>,
    b: Vec<Source>,
    c: Vec<Source>,
}

/// Decodes `mma.sync.aligned.mMn8kK.row.col.f64.f64.f64.f64{.rn}`.
pub(super) fn decode(cx: &Decode<'_>) -> Decoded {
    let mut form = Form::new(cx);
    for word in ["sync", "aligned", "row", "col", "f64", "f64", "f64", "f64"] {
        form.expect(word)?;
    }
    let shapes = [("m8n8k4", (8, 4)), ("m16n8k4", (16, 4)), ("m16n8k8", (16, 8)), ("m16n8k16", (16, 16))];
    let (rows, k) = form.required("the shape", &shapes)?;
    let rounding = form.rounding().unwrap_or(Rounding::Nearest);
    form.done(4..=4)?;
    let (d, c) = (cx.dests(0)?, cx.sources(3, ScalarType::F64)?);
    let (a, b) = (cx.sources(1, ScalarType::F64)?, cx.sources(2, ScalarType::F64)?);
    let counts = [d.len(), a.len(), b.len(), c.len()];
    if counts != [rows * COLUMNS / LANES, rows * k / LANES, COLUMNS * k / LANES, rows * COLUMNS / LANES] {
        return Err(cx.unsupported(format!("{counts:?} registers for D, A, B and C")));
    }
    Ok(Box::new(Multiply { rows, k, mode: Mode::rounded(rounding), d, a, b, c }))
}

/// A matrix of so many columns, from a warp's registers.
fn gather(
    registers: &[Lanes<u64>],
    (lines, columns): (usize, usize),
    place: impl Fn(u32, u32) -> fragment::Place,
) -> Vec<u64> {
    let mut elements = vec![0; lines * columns];
    for (i, values) in registers.iter().enumerate() {
        for (lane, value) in values.iter().enumerate() {
            let to = place(lane as u32, i as u32);
            elements[to.line as usize * columns + to.column as usize] = *value;
        }
    }
    elements
}

impl Execute for Multiply {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let mut values = |sources: &[Source]| sources.iter().map(|s| cx.u64(s)).collect::<Vec<_>>();
        // A register of 64 bits holds one element, as one of 32 bits does of 32-bit elements.
        let a = gather(&values(&self.a), (self.rows, self.k), |l, r| fragment::a(32, l, r));
        let b = gather(&values(&self.b), (COLUMNS, self.k), |l, r| fragment::b(32, l, r));
        let mut d = gather(&values(&self.c), (self.rows, COLUMNS), fragment::d32);
        for (i, d) in d.iter_mut().enumerate() {
            let (row, column) = (&a[i / COLUMNS * self.k..][..self.k], &b[i % COLUMNS * self.k..][..self.k]);
            *d = row.iter().zip(column).fold(*d, |sum, (&x, &y)| fma_f64(x, y, sum, self.mode));
        }
        for (i, dest) in self.d.iter().enumerate() {
            let lanes: Lanes<u64> = std::array::from_fn(|lane| {
                let from = fragment::d32(lane as u32, i as u32);
                d[from.line as usize * COLUMNS + from.column as usize]
            });
            cx.set_u64(*dest, &lanes);
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Matrix
    }
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{lanes, refused};

    /// A is 1 + its row in column `k` only, B 1 + its column there: D is their product, plus C.
    fn product(shape: &str, k: usize, (a, b, d): (usize, usize, usize)) -> Vec<Vec<f64>> {
        let list = |p: &str, n: usize| (0..n).map(|i| format!("{p}{i}")).collect::<Vec<_>>().join(", ");
        let mut body = String::from(
            ".reg .f64 a<8>, b<4>, d<4>, g, h; .reg .b32 q, r; shr.u32 r, %lane, 2; and.b32 q, %lane, 3; cvt.rn.f64.u32 g, r; add.f64 g, g, 0d3FF0000000000000; add.f64 h, g, 0d4020000000000000;\n",
        );
        for i in 0..a {
            let row = if i % 2 == 0 { "g" } else { "h" };
            body += &format!(
                "setp.eq.u32 %p0, q, {}; selp.f64 a{i}, {row}, 0d0000000000000000, %p0;\n",
                k as i64 - 4 * (i / 2) as i64
            );
        }
        for i in 0..b {
            body += &format!(
                "setp.eq.u32 %p0, q, {}; selp.f64 b{i}, g, 0d0000000000000000, %p0;\n",
                k as i64 - 4 * i as i64
            );
        }
        (0..d).for_each(|i| body += &format!("mov.f64 d{i}, 0d3FE0000000000000;\n"));
        body += &format!(
            "mma.sync.aligned.{shape}.row.col.f64.f64.f64.f64 {{{0}}}, {{{1}}}, {{{2}}}, {{{0}}};\n",
            list("d", d),
            list("a", a),
            list("b", b)
        );
        (0..d)
            .map(|i| lanes("", &format!("{body} mov.b64 %out, d{i};"), &[]).into_iter().map(f64::from_bits).collect())
            .collect()
    }

    #[test]
    fn every_shape_and_place() {
        for (shape, k, registers) in [
            ("m8n8k4", 4, (1, 1, 2)),
            ("m16n8k4", 4, (2, 1, 4)),
            ("m16n8k8", 8, (4, 2, 4)),
            ("m16n8k16", 16, (8, 4, 4)),
        ] {
            for k in 0..k {
                for (i, values) in product(shape, k, registers).into_iter().enumerate() {
                    for (lane, value) in values.into_iter().enumerate() {
                        let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
                        assert_eq!(value, 0.5 + (1.0 + row as f64) * (1.0 + column as f64), "{shape} {k} {lane} {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "mma.sync.aligned.m8n8k8.row.col.f64.f64.f64.f64 {%rd0, %rd1}, {%rd2}, {%rd3}, {%rd0, %rd1};",
            "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd0, %rd1}, {%rd2, %rd4}, {%rd3}, {%rd0, %rd1};",
        ] {
            refused(line);
        }
    }
}
