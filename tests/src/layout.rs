//! Where a case's tensors lie in memory.
//!
//! Everything between and around a tensor's elements is poison: in inputs a NaN that must never reach a result, in
//! outputs a pattern that must still be there afterwards.

use crate::case::Case;
use crate::dense::{Dense, Dims};
use crate::input;
use crate::names::named;
use crate::precision::Precision;

named! {
    /// Memory layouts.
    Layout {
        /// (batch, seq, heads, head_dim), contiguous.
        Bshd = "bshd",
        /// (batch, heads, seq, head_dim), contiguous.
        Bhsd = "bhsd",
        /// (seq, batch, heads, head_dim), contiguous.
        Sbhd = "sbhd",
        /// Gaps after every row, every token and every batch entry, LSE included.
        Padded = "padded",
        /// Q, K and V interleaved per token in one buffer, as a fused projection writes them.
        Packed = "packed",
        /// K and V interleaved per token in one buffer.
        PackedKv = "packedkv",
        /// One K and V for the whole batch: batch stride 0.
        Broadcast = "broadcast",
        /// Batch entries 2^30 elements apart: byte and element offsets pass 32 bits.
        Far = "far",
    }
}

/// Elements between batch entries of [`Layout::Far`].
const FAR: usize = (1 << 30) + 64;
/// Guard elements before and after every output.
pub(crate) const GUARD: usize = 1024;

/// One device allocation. The host holds only the parts that matter: `chunks` pieces of `chunk` elements, back to back
/// here and `stride` elements apart on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Elements of a piece.
    pub chunk: usize,
    /// Pieces.
    pub chunks: usize,
    /// Elements from the start of one piece to the next on the device.
    pub stride: usize,
}

impl Arena {
    pub(crate) fn whole(len: usize) -> Self {
        Arena { chunk: len, chunks: 1, stride: len }
    }

    fn far(chunk: usize, batch: usize) -> Self {
        Arena { chunk, chunks: batch, stride: FAR }
    }

    /// Elements on the host.
    pub fn host_len(&self) -> usize {
        self.chunk * self.chunks
    }

    /// Elements on the device.
    pub fn device_len(&self) -> usize {
        self.stride * (self.chunks - 1) + self.chunk
    }
}

/// A tensor inside an arena: element strides of the host's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// First element.
    pub offset: usize,
    /// From one batch entry to the next.
    pub batch: usize,
    /// From one row to the next.
    pub seq: usize,
    /// From one head to the next.
    pub head: usize,
    /// Sizes.
    pub dims: Dims,
}

impl View {
    pub(crate) fn new(offset: usize, dims: Dims, [batch, seq, head]: [usize; 3]) -> Self {
        View { offset, batch, seq, head, dims }
    }

    fn bshd(offset: usize, dims: Dims) -> Self {
        View::new(offset, dims, [dims.seq * dims.heads * dims.width, dims.heads * dims.width, dims.width])
    }

    /// Strides (batch, seq, head) on the device.
    pub fn device_strides(&self, arena: &Arena) -> [i64; 3] {
        let batch = if arena.chunks > 1 { arena.stride } else { self.batch };
        [batch as i64, self.seq as i64, self.head as i64]
    }

    /// Elements from the arena's start to one past the tensor's last.
    pub(crate) fn end(&self) -> usize {
        let Dims { batch, seq, heads, width } = self.dims;
        self.offset + (batch - 1) * self.batch + (seq - 1) * self.seq + (heads - 1) * self.head + width
    }

    /// Where an element (batch, seq, head, column) lies in the host's copy.
    pub fn index(&self, (b, s, h, c): (usize, usize, usize, usize)) -> usize {
        self.offset + b * self.batch + s * self.seq + h * self.head + c
    }

    /// Writes `tensor`, rounded to `precision`, into an arena's elements.
    pub fn scatter(&self, tensor: &Dense<f32>, precision: Precision, to: &mut [u16]) {
        self.scatter_bits(tensor, |x| precision.to_bits(x), to);
    }

    /// Writes `tensor` into an arena's elements.
    pub fn scatter_bits<T>(&self, tensor: &Dense<f32>, bits: impl Fn(f32) -> T, to: &mut [T]) {
        for (i, x) in tensor.data.iter().enumerate() {
            to[self.index(tensor.position(i))] = bits(*x);
        }
    }

    /// Reads the tensor out of an arena's elements.
    pub fn gather<T: Copy>(&self, from: &[T], convert: impl Fn(T) -> f32) -> Dense<f32> {
        Dense::from_fn(self.dims, |b, s, h, c| convert(from[self.index((b, s, h, c))]))
    }

    /// First element outside the tensor that is not `poison` any more.
    pub fn overwritten<T: Copy + PartialEq>(&self, arena: &[T], poison: T) -> Option<usize> {
        let mut own = vec![false; arena.len()];
        let owned = Dense::from_fn(self.dims, |b, s, h, c| self.index((b, s, h, c)));
        owned.data.into_iter().for_each(|i| own[i] = true);
        arena.iter().zip(own).position(|(x, own)| !own && *x != poison)
    }
}

/// Every tensor of a case with its arena.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Q, K and V: index into `inputs`, and the view.
    pub qkv: [(usize, View); 3],
    /// The arenas of Q, K and V.
    pub inputs: Vec<Arena>,
    /// O and its arena, guards included.
    pub o: (View, Arena),
    /// LSE (width 1) and its arena, guards included.
    pub lse: (View, Arena),
}

impl Layout {
    /// Why this layout cannot hold a case, if so.
    pub fn accepts(self, case: &Case) -> Result<(), String> {
        let same_width = case.head_dim == case.head_dim_v;
        match self {
            Layout::Packed if case.seqlen_q != case.seqlen_k || !same_width => {
                Err("layout=packed needs sq = sk and d = dv".into())
            }
            Layout::PackedKv if !same_width => Err("layout=packedkv needs d = dv".into()),
            Layout::Far if case.batch < 3 => Err("layout=far passes 2^31 elements from b=3 on".into()),
            _ => Ok(()),
        }
    }

    /// Places the tensors of a case.
    pub fn place(self, case: &Case) -> Placement {
        let [q, k, v] = input::dims(case);
        let o = Dims { width: case.head_dim_v, ..q };
        let (qkv, inputs) = match self {
            Layout::Packed => packed(&[q, k, v], &[0, 0, 0]),
            Layout::PackedKv => packed(&[q, k, v], &[0, 1, 1]),
            Layout::Far => far_inputs([q, k, v]),
            _ => {
                let views = [self.view(0, q, false), self.view(0, k, true), self.view(0, v, true)];
                let arenas = views.iter().map(|view| Arena::whole(view.end())).collect();
                ([(0, views[0]), (1, views[1]), (2, views[2])], arenas)
            }
        };
        Placement { qkv, inputs, o: self.output(o), lse: self.lse(Dims { width: 1, ..q }) }
    }

    pub(crate) fn view(self, offset: usize, dims: Dims, shared: bool) -> View {
        let Dims { batch, seq, heads, width } = dims;
        let strides = match self {
            Layout::Bhsd => [heads * seq * width, width, seq * width],
            Layout::Sbhd => [heads * width, batch * heads * width, width],
            Layout::Padded => {
                let token = heads * (width + 16) + 8;
                [(seq + 5) * token, token, width + 16]
            }
            Layout::Broadcast if shared => [0, heads * width, width],
            _ => return View::bshd(offset, dims),
        };
        // Sixteen bytes off the allocation's own, larger alignment.
        let offset = if self == Layout::Padded { offset + 8 } else { offset };
        View::new(offset, dims, strides)
    }

    fn output(self, dims: Dims) -> (View, Arena) {
        let mut view = self.view(GUARD, dims, false);
        if self == Layout::Far {
            let chunk = view.batch + 2 * GUARD;
            view.batch = chunk;
            return (view, Arena::far(chunk, dims.batch));
        }
        (view, Arena::whole(view.end() + GUARD))
    }

    fn lse(self, dims: Dims) -> (View, Arena) {
        let row = if self == Layout::Padded { dims.seq + 3 } else { dims.seq };
        let mut view = View::new(GUARD, dims, [dims.heads * row, 1, row]);
        match self {
            Layout::Far => {
                let chunk = view.batch + 2 * GUARD;
                view.batch = chunk;
                (view, Arena::far(chunk, dims.batch))
            }
            Layout::Padded => {
                view.batch += 7;
                (view, Arena::whole(view.end() + GUARD))
            }
            _ => (view, Arena::whole(view.end() + GUARD)),
        }
    }
}

/// Tensors that share an arena lie head after head within a token.
pub(crate) fn packed(dims: &[Dims; 3], arena: &[usize; 3]) -> ([(usize, View); 3], Vec<Arena>) {
    let mut token = [0; 3];
    let offsets = [0, 1, 2].map(|i| {
        let offset = token[arena[i]];
        token[arena[i]] += dims[i].heads * dims[i].width;
        offset
    });
    let views = [0, 1, 2].map(|i| {
        let token = token[arena[i]];
        (arena[i], View::new(offsets[i], dims[i], [dims[i].seq * token, token, dims[i].width]))
    });
    let arenas =
        (0..=arena[2]).map(|a| views.iter().filter(|(at, _)| *at == a).map(|(_, v)| v.end()).max().unwrap_or(0));
    (views, arenas.map(Arena::whole).collect())
}

/// One arena whose every piece holds a batch entry of Q, K and V.
fn far_inputs(dims: [Dims; 3]) -> ([(usize, View); 3], Vec<Arena>) {
    let mut chunk = 0;
    let mut views = dims.map(|dims| {
        let view = View::bshd(chunk, dims);
        chunk += view.batch;
        (0, view)
    });
    views.iter_mut().for_each(|(_, view)| view.batch = chunk);
    (views, vec![Arena::far(chunk, dims[0].batch)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(layout: Layout) -> Case {
        format!("f16 b=3 h=4 hk=2 sq=7 sk=7 d=16 dv=16 layout={layout}").parse().expect("valid")
    }

    #[test]
    fn what_is_scattered_is_gathered() {
        for layout in Layout::ALL {
            let case = case(*layout);
            let place = layout.place(&case);
            let mut buffers: Vec<Vec<u16>> = place.inputs.iter().map(|a| vec![0xFFFF; a.host_len()]).collect();
            let tensors = input::dims(&case).map(|dims| {
                let mut n = 0.0;
                let shared = *layout == Layout::Broadcast && dims.heads == 2;
                Dense::from_fn(dims, |b, s, h, c| {
                    n += 1.0;
                    if shared { (s * 100 + h * 50 + c) as f32 } else { n + 0.0 * b as f32 }
                })
            });
            for ((arena, view), tensor) in place.qkv.iter().zip(&tensors) {
                view.scatter(tensor, Precision::F16, &mut buffers[*arena]);
            }
            for ((arena, view), tensor) in place.qkv.iter().zip(&tensors) {
                assert_eq!(view.gather(&buffers[*arena], |x| Precision::F16.from_bits(x)), *tensor, "{layout}");
            }
        }
    }

    #[test]
    fn strides_and_offsets_are_multiples_of_sixteen_bytes() {
        for layout in Layout::ALL {
            let place = layout.place(&case(*layout));
            let views = place.qkv.iter().map(|(a, v)| (v, place.inputs[*a])).chain([(&place.o.0, place.o.1)]);
            for (view, arena) in views {
                assert!(view.offset.is_multiple_of(8), "{layout}");
                assert!(view.device_strides(&arena).iter().all(|s| s % 8 == 0), "{layout}");
            }
        }
    }

    #[test]
    fn a_write_outside_the_output_is_seen() {
        for layout in Layout::ALL {
            let (view, arena) = layout.place(&case(*layout)).o;
            let mut buffer = vec![9u16; arena.host_len()];
            view.scatter(&Dense::filled(view.dims, 1.0), Precision::F16, &mut buffer);
            assert_eq!(view.overwritten(&buffer, 9), None, "{layout}");
            let after = view.end();
            buffer[after] = 0;
            assert_eq!(view.overwritten(&buffer, 9), Some(after), "{layout}");
            buffer[GUARD - 1] = 0;
            assert_eq!(view.overwritten(&buffer, 9), Some(GUARD - 1), "{layout}");
        }
    }

    #[test]
    fn far_tensors_pass_32_bits() {
        let place = Layout::Far.place(&case(Layout::Far));
        let (o, arena) = place.o;
        assert!(o.device_strides(&arena)[0] * 2 > 1 << 31, "batch entry 2 starts past 2^31 elements");
        assert!(arena.host_len() < 1 << 20, "the host holds only what matters");
        let (lse, arena) = place.lse;
        assert!(lse.device_strides(&arena)[0] * 4 > u32::MAX.into(), "LSE of batch entry 1 starts past 2^32 bytes");
    }
}
