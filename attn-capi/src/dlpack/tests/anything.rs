//! Sizes and strides as a damaged or hostile producer might send them.

use super::*;

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }

    fn of<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.next() % among.len()]
    }

    fn rarely(&mut self) -> bool {
        self.next().is_multiple_of(32)
    }

    /// A tensor of this many dimensions that may be anything, mostly what was meant.
    fn tensor(&mut self, elements: &[Element], shape: &[i64]) -> Given {
        const SIZES: &[i64] =
            &[1, 2, 3, 8, 16, 64, 128, 255, 256, 4096, (1 << 29) + 1, i32::MAX as i64, 1 << 40, i64::MAX];
        const STRIDES: &[i64] = &[0, 1, 8, 16, 64, 1024, 1 << 20, 1 << 40, -8, i64::MIN, i64::MAX];
        let shape: Vec<i64> = shape.iter().map(|&size| if self.rarely() { self.of(SIZES) } else { size }).collect();
        let strides: Vec<i64> = shape.iter().map(|_| self.of(STRIDES)).collect();
        let strides = self.rarely().then_some(strides.as_slice());
        given(self.of(elements), &shape, strides)
    }

    fn views(&mut self) -> Views {
        const WIDE: &[Element] = &[Element::Bf16];
        let (packed_q, packed_k, paged) = (self.of(&[true, false]), self.of(&[true, false]), self.of(&[true, false]));
        let keys: &[Element] = self.of(&[WIDE, WIDE, &[Element::E4m3]]);
        let some = |given: Given| given.view("any").ok().flatten();
        let rows = |packed| if packed { [9, 4, 64].as_slice() } else { &[2, 5, 4, 64] };
        let kv: &[i64] = if paged {
            &[9, 16, 2, 64]
        } else if packed_k {
            &[20, 2, 64]
        } else {
            &[2, 20, 2, 64]
        };
        let maybe = |given: Given, is: bool| if is { some(given) } else { None };
        Views {
            q: some(self.tensor(WIDE, rows(packed_q))),
            k: some(self.tensor(keys, kv)),
            v: some(self.tensor(keys, kv)),
            o: maybe(self.tensor(WIDE, rows(packed_q)), self.of(&[true, false])),
            lse: maybe(
                self.tensor(&[Element::F32], if packed_q { &[4, 9] } else { &[2, 4, 5] }),
                self.of(&[true, false]),
            ),
            cu_seqlens_q: maybe(self.tensor(&[Element::I32], &[3]), packed_q),
            cu_seqlens_k: maybe(self.tensor(&[Element::I32], &[3]), packed_k && !paged),
            page_table: maybe(self.tensor(&[Element::I32], &[2, 3]), paged),
            alibi_slopes: maybe(self.tensor(&[Element::F32], &[2, 4]), self.of(&[true, false])),
            k_descale: maybe(self.tensor(&[Element::F32], &[2]), self.of(&[true, false])),
            ..NONE
        }
    }
}

#[test]
fn whatever_tensors_say_is_a_problem_or_an_error() {
    let mut numbers = Numbers(7);
    let device = attn_host::DeviceInfo::nominal(attn_host::Arch::Sm90a);
    let (mut problems, mut planned) = (0, 0);
    for _ in 0..if cfg!(miri) { 50 } else { 20_000 } {
        let Ok((problem, serving)) = numbers.views().problem() else { continue };
        let dense = serving == Serving::NONE;
        let host = if dense { problem.to_host() } else { serving.of(problem) };
        problems += 1;
        planned += u32::from(host.is_ok_and(|host| attn_host::Plan::choice(&device, &host).is_ok()));
        let _ = (views::o(&problem, &serving).span(), views::lse(&problem, &serving).span());
    }
    assert!(
        problems > planned && planned > if cfg!(miri) { 0 } else { 1000 },
        "{planned} plans of {problems} problems"
    );
}
