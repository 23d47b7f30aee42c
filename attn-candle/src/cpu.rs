//! The same on the CPU, in f32: for machines without a GPU, and for tests of programs.

use attn_host::DType;
use candle_core::{CpuStorage, Layout, Result, Storage, bail};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::geometry::{Geometry, typed};
use crate::op::Attend;

use rows::Rows;

pub(crate) mod rows;

/// Lengths, pages and factors on the host.
type Arrays = attn_host::Arrays<Vec<i32>, Vec<f32>>;

pub(crate) fn forward(
    op: &Attend,
    q: (&CpuStorage, &Layout),
    k: (&CpuStorage, &Layout),
    v: (&CpuStorage, &Layout),
) -> Result<CpuStorage> {
    let arrays =
        op.arrays.clone().try_each(|array| array.flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1())?;
    // Every i32 and f32 is an f64; a u32 beyond i32 becomes the greatest, which no length or page is.
    let arrays: Arrays = arrays.map(
        |values: Vec<f64>| values.into_iter().map(|x| x as i32).collect(),
        |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect(),
    );
    let float8 = matches!(k.0, CpuStorage::F8E4M3(_));
    // The type is of no account here.
    arrays.check(&op.geometry.problem(&op.attention, DType::Bf16, float8)).map_err(typed)?;
    let work = Work { op, arrays: &arrays, q: Rows::of(q)?, k: Rows::of(k)?, v: Rows::of(v)? };
    let (o, lse) = work.all();
    if let Some(wanted) = &op.lse {
        wanted.leave(Storage::Cpu(CpuStorage::F32(lse)));
    }
    Ok(match q.0 {
        CpuStorage::F32(_) => CpuStorage::F32(o),
        CpuStorage::BF16(_) => CpuStorage::BF16(o.into_iter().map(bf16::from_f32).collect()),
        CpuStorage::F16(_) => CpuStorage::F16(o.into_iter().map(f16::from_f32).collect()),
        _ => bail!("q is of a type that the CPU does not compute; allowed: BF16, F16, F32"),
    })
}

struct Work<'a> {
    op: &'a Attend,
    arrays: &'a Arrays,
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
}

/// A sequence: its first row of Q and of K, and how many of each there are.
#[derive(Clone, Copy)]
struct Sequence {
    index: usize,
    queries: usize,
    keys: usize,
}

impl Work<'_> {
    /// O, and LSE as (sequences, heads, queries).
    fn all(&self) -> (Vec<f32>, Vec<f32>) {
        let Geometry { shape, output, .. } = &self.op.geometry;
        let (heads, kv_heads, dv) = (shape.heads as usize, shape.kv_heads as usize, shape.head_dim_v as usize);
        let group = heads / kv_heads;
        let tasks: Vec<_> =
            (0..shape.batch as usize).flat_map(|b| (0..kv_heads).map(move |head| (self.sequence(b), head))).collect();
        let parts: Vec<_> = tasks.par_iter().map(|&(sequence, head)| self.part(sequence, head)).collect();
        let elements: usize = output.iter().product();
        let (mut o, mut lse) = (vec![0.0; elements], vec![f32::NEG_INFINITY; elements / dv]);
        // Rows of a sequence; of all where they are packed.
        let rows = output[output.len() - 3];
        for ((sequence, kv_head), (part, sums)) in tasks.into_iter().zip(parts) {
            let (first, outer) = self.first_query(sequence.index);
            for (n, (row, sum)) in part.chunks(dv).zip(sums).enumerate() {
                let (i, head) = (first + n / group, kv_head * group + n % group);
                let at = ((outer * rows + i) * heads + head) * dv;
                o[at..at + dv].copy_from_slice(row);
                lse[(outer * heads + head) * rows + i] = sum;
            }
        }
        (o, lse)
    }

    /// The row of Q and O where a sequence begins, and the batch entry that it is in.
    fn first_query(&self, b: usize) -> (usize, usize) {
        match &self.arrays.cu_seqlens_q {
            Some(sums) => (sums[b] as usize, 0),
            None => (0, b),
        }
    }

    fn sequence(&self, b: usize) -> Sequence {
        let shape = &self.op.geometry.shape;
        let of = |sums: &Option<Vec<i32>>, longest: u64| match sums {
            Some(sums) => (sums[b + 1] - sums[b]) as usize,
            None => longest as usize,
        };
        let room = of(&self.arrays.cu_seqlens_k, shape.seqlen_k);
        let keys = self.arrays.seqused_k.as_ref().map_or(room, |used| used[b] as usize);
        Sequence { index: b, queries: of(&self.arrays.cu_seqlens_q, shape.seqlen_q), keys }
    }

    /// Where a key lies: its sequence or page, and its row there.
    fn place(&self, b: usize, key: usize) -> (usize, usize) {
        match (self.op.geometry.paged, &self.arrays.page_table, &self.arrays.cu_seqlens_k) {
            (Some(paged), Some(table), _) => {
                let (size, width) = (paged.page_size as usize, paged.table_width as usize);
                (table[b * width + key / size] as usize, key % size)
            }
            (_, _, Some(sums)) => (0, sums[b] as usize + key),
            _ => (b, key),
        }
    }

    /// What a sequence's queries of the heads that share a key/value head come to, (queries, group, dim), and their LSE.
    fn part(&self, sequence: Sequence, kv_head: usize) -> (Vec<f32>, Vec<f32>) {
        let shape = &self.op.geometry.shape;
        let (dim, dv) = (shape.head_dim as usize, shape.head_dim_v as usize);
        let group = (shape.heads / shape.kv_heads) as usize;
        let b = sequence.index;
        let factor = |factors: &Option<Vec<f32>>| match factors {
            Some(factors) => factors[(b * shape.kv_heads as usize + kv_head) % factors.len()],
            None => 1.0,
        };
        let gather = |rows: &Rows, factor: f32| {
            let mut all = Vec::new();
            for key in 0..sequence.keys {
                let (outer, row) = self.place(b, key);
                rows.append(outer, row, kv_head, factor, &mut all);
            }
            all
        };
        let k = gather(&self.k, factor(&self.arrays.k_descale));
        let v = gather(&self.v, factor(&self.arrays.v_descale));
        let mut o = vec![0.0; sequence.queries * group * dv];
        let mut lse = Vec::with_capacity(sequence.queries * group);
        let (mut q, mut scores) = (Vec::with_capacity(dim), Vec::new());
        let (first, outer) = self.first_query(b);
        for (n, o) in o.chunks_mut(dv).enumerate() {
            let (i, head) = (n / group, kv_head * group + n % group);
            q.clear();
            self.q.append(outer, first + i, head, 1.0, &mut q);
            lse.push(self.row(sequence, i, head, &q, &k, &v, &mut scores, o));
        }
        (o, lse)
    }

    /// One query of one head; its LSE.
    #[expect(clippy::too_many_arguments, reason = "a loop's body")]
    fn row(
        &self,
        sequence: Sequence,
        query: usize,
        head: usize,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        scores: &mut Vec<f32>,
        o: &mut [f32],
    ) -> f32 {
        let (attention, heads) = (&self.op.attention, self.op.geometry.shape.heads as usize);
        let position = (query + sequence.keys) as i64 - sequence.queries as i64;
        let reach = |keys: Option<usize>| keys.map_or(i64::MAX / 2, |keys| keys.min(1 << 40) as i64);
        let first = (position - reach(attention.left)).max(0);
        let end = (position.saturating_add(reach(attention.right)) + 1).min(sequence.keys as i64);
        let sink = self.arrays.sinks.as_ref().map(|sinks| sinks[head]);
        if first >= end {
            return sink.unwrap_or(f32::NEG_INFINITY);
        }
        let (first, end) = (first as usize, end as usize);
        let slope = self.arrays.alibi_slopes.as_ref().map(|all| all[(sequence.index * heads + head) % all.len()]);
        scores.clear();
        scores.extend(k.chunks(q.len()).enumerate().take(end).skip(first).map(|(key, k)| {
            let mut score = self.op.geometry.scale * dot(q, k);
            if let Some(cap) = attention.softcap {
                score = cap * (score / cap).tanh();
            }
            slope.map_or(score, |slope| score - slope * (position - key as i64).unsigned_abs() as f32)
        }));
        let greatest = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = sink.map_or(0.0, |sink| f64::from((sink - greatest).exp()));
        for (score, v) in scores.iter().zip(v.chunks(o.len()).skip(first)) {
            let weight = (score - greatest).exp();
            sum += f64::from(weight);
            o.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
        }
        o.iter_mut().for_each(|o| *o = (f64::from(*o) / sum) as f32);
        (f64::from(greatest) + sum.ln()) as f32
    }
}

/// A sum in eight parts, which the compiler can compute at once and which rounds less than one.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0.0; 8];
    let (chunks_a, chunks_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = chunks_a.remainder().iter().zip(chunks_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in chunks_a.zip(chunks_b) {
        parts.iter_mut().zip(a.iter().zip(b)).for_each(|(part, (a, b))| *part += a * b);
    }
    parts.iter().sum::<f32>() + rest
}
