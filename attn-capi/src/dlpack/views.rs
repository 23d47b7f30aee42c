//! From tensors to the problem that they are, and from a problem to the forms that its tensors must have.

use attn_host::Shape;

use super::ffi::Element;
use super::view::{Form, View};
use crate::problem::{ATTN_DTYPE_BF16, ATTN_DTYPE_F16, Problem, Strides};
use crate::serving::{
    ATTN_ALIBI_NONE, ATTN_ALIBI_PER_HEAD, ATTN_ALIBI_PER_SEQUENCE_AND_HEAD, ATTN_DESCALES_NONE, ATTN_DESCALES_PER_HEAD,
    ATTN_DESCALES_PER_SEQUENCE_AND_HEAD, ATTN_FLOAT8_ALL, ATTN_FLOAT8_KEYS, ATTN_FLOAT8_NONE, Serving,
};
use crate::status::Failure;

/// The tensors of a launch, by argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Views {
    pub(super) q: Option<View>,
    pub(super) k: Option<View>,
    pub(super) v: Option<View>,
    pub(super) o: Option<View>,
    pub(super) lse: Option<View>,
    pub(super) workspace: Option<View>,
    pub(super) cu_seqlens_q: Option<View>,
    pub(super) cu_seqlens_k: Option<View>,
    pub(super) seqused_q: Option<View>,
    pub(super) seqused_k: Option<View>,
    pub(super) page_table: Option<View>,
    pub(super) sinks: Option<View>,
    pub(super) alibi_slopes: Option<View>,
    pub(super) q_descale: Option<View>,
    pub(super) k_descale: Option<View>,
    pub(super) v_descale: Option<View>,
}

pub(super) const WIDE: &[Element] = &[Element::Bf16, Element::F16];
const ANY: &[Element] = &[Element::Bf16, Element::F16, Element::E4m3];
pub(super) const ROWS: &str = "(batch, seq, heads, head_dim)";
pub(super) const PAGES: &str = "(pages, page_size, heads, head_dim)";
const PACKED: &str = "(total, heads, head_dim) with sums of lengths";

impl Views {
    /// The problem that these tensors are, and what makes it more than a dense one: no mask, scale 1 / sqrt(head_dim).
    pub(super) fn problem(&self) -> Result<(Problem, Serving), Failure> {
        let (q, k, v) = (needed("q", &self.q)?, needed("k", &self.k)?, needed("v", &self.v)?);
        let serving = self.serving(&q, &k, &v)?;
        let [_, queries, heads, head_dim] = entries(&q, self.cu_seqlens_q.is_some(), ROWS)?;
        let (packed_k, rows) = (serving.total_k != 0, if serving.page_size == 0 { ROWS } else { PAGES });
        let [_, keys, kv_heads, _] = entries(&k, packed_k, rows)?;
        let [.., head_dim_v] = entries(&v, packed_k, rows)?;
        let seqlen_k =
            if serving.page_size == 0 { keys } else { serving.page_size.saturating_mul(serving.table_width) };
        let batch = match &self.cu_seqlens_q {
            Some(sums) => sums.sizes_of::<1>("(batch + 1)")?[0] - 1,
            None => q.sizes()[0],
        };
        let shape = Shape { batch, seqlen_q: queries, seqlen_k, heads, kv_heads, head_dim, head_dim_v };
        let mut problem = serving.contiguous(Problem::contiguous(self.dtype(&q)?, shape));
        (problem.q, problem.k, problem.v) = (strides(&q), strides(&k), strides(&v));
        if let Some(o) = &self.o {
            problem.o = strides(o);
        }
        if let Some(lse) = &self.lse {
            [_, problem.lse_batch_stride, problem.lse_head_stride, _] = with_batch(lse.strides());
        }
        self.check(&problem, &serving)?;
        Ok((problem, serving))
    }

    /// The code of the element type of O, which is Q's where Q has 16 bits.
    fn dtype(&self, q: &View) -> Result<u32, Failure> {
        let element = match (q.element(ANY)?, &self.o) {
            (Element::E4m3, Some(o)) => o.element(WIDE)?,
            (Element::E4m3, None) => Element::Bf16,
            (element, _) => element,
        };
        Ok(if element == Element::F16 { ATTN_DTYPE_F16 } else { ATTN_DTYPE_BF16 })
    }

    fn serving(&self, q: &View, k: &View, v: &View) -> Result<Serving, Failure> {
        let given = |view: &Option<View>| u32::from(view.is_some());
        let mut serving = Serving {
            seqused_q: given(&self.seqused_q),
            seqused_k: given(&self.seqused_k),
            sinks: given(&self.sinks),
            ..Serving::NONE
        };
        if self.cu_seqlens_q.is_some() {
            serving.total_q = q.sizes()[0];
        }
        if self.cu_seqlens_k.is_some() {
            serving.total_k = k.sizes()[0];
        }
        if let Some(table) = &self.page_table {
            let [_, table_width] = table.sizes_of("(batch, table_width)")?;
            let [pages, page_size, ..] = k.sizes_of::<4>(PAGES)?;
            serving = Serving { pages, page_size, table_width, ..serving };
        }
        let codes = [ATTN_ALIBI_NONE, ATTN_ALIBI_PER_HEAD, ATTN_ALIBI_PER_SEQUENCE_AND_HEAD];
        serving.alibi = per_head(&self.alibi_slopes, codes)?;
        let codes = [ATTN_DESCALES_NONE, ATTN_DESCALES_PER_HEAD, ATTN_DESCALES_PER_SEQUENCE_AND_HEAD];
        serving.descales = per_head(&self.k_descale.or(self.v_descale).or(self.q_descale), codes)?;
        serving.float8 = match (q.element(ANY)?, k.element(ANY)?, v.element(ANY)?) {
            (Element::E4m3, ..) => ATTN_FLOAT8_ALL,
            (_, Element::E4m3, _) => ATTN_FLOAT8_KEYS,
            _ => ATTN_FLOAT8_NONE,
        };
        Ok(serving)
    }

    /// Refuses tensors of other forms than the problem's.
    pub(super) fn check(&self, problem: &Problem, serving: &Serving) -> Result<(), Failure> {
        let Problem { batch, heads, kv_heads, .. } = *problem;
        let numbers = |sizes: [u64; 1]| Some(Form::compact(Element::I32, sizes));
        let table = (serving.page_size != 0).then(|| Form::compact(Element::I32, [batch, serving.table_width]));
        let slopes = match serving.alibi {
            ATTN_ALIBI_NONE => None,
            ATTN_ALIBI_PER_SEQUENCE_AND_HEAD => Some(Form::compact(Element::F32, [batch, heads])),
            _ => Some(Form::compact(Element::F32, [heads])),
        };
        let factors = match serving.descales {
            ATTN_DESCALES_NONE => None,
            ATTN_DESCALES_PER_SEQUENCE_AND_HEAD => Some(Form::compact(Element::F32, [batch, kv_heads])),
            _ => Some(Form::compact(Element::F32, [kv_heads])),
        };
        let [q, k, v, o] = rows(problem, serving);
        Form::check([
            (&self.q, Some(q)),
            (&self.k, Some(k)),
            (&self.v, Some(v)),
            (&self.o, Some(o)),
            (&self.lse, Some(lse(problem, serving))),
            (&self.cu_seqlens_q, numbers([batch.saturating_add(1)])),
            (&self.cu_seqlens_k, numbers([batch.saturating_add(1)])),
            (&self.seqused_q, numbers([batch])),
            (&self.seqused_k, numbers([batch])),
            (&self.page_table, table),
            (&self.sinks, Some(Form::compact(Element::F32, [heads]))),
            (&self.alibi_slopes, slopes),
            (&self.q_descale, factors),
            (&self.k_descale, factors),
            (&self.v_descale, factors),
        ])
    }
}

/// A tensor that must be there.
pub(super) fn needed(argument: &str, view: &Option<View>) -> Result<View, Failure> {
    view.ok_or_else(|| Failure::null(argument))
}

/// O's form.
pub(super) fn o(problem: &Problem, serving: &Serving) -> Form {
    let [.., o] = rows(problem, serving);
    o
}

/// LSE's form.
pub(super) fn lse(problem: &Problem, serving: &Serving) -> Form {
    let head = (problem.heads, problem.lse_head_stride);
    match serving.total_q {
        0 => Form::new(Element::F32, [(problem.batch, problem.lse_batch_stride), head, (problem.seqlen_q, 1)]),
        total => Form::new(Element::F32, [head, (total, 1)]),
    }
}

/// The forms of Q, K, V and O.
fn rows(problem: &Problem, serving: &Serving) -> [Form; 4] {
    let Problem { batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v, .. } = *problem;
    let wide = if problem.dtype == ATTN_DTYPE_F16 { Element::F16 } else { Element::Bf16 };
    let (q, keys) = match serving.float8 {
        ATTN_FLOAT8_NONE => (wide, wide),
        ATTN_FLOAT8_KEYS => (wide, Element::E4m3),
        _ => (Element::E4m3, Element::E4m3),
    };
    let (packed_k, keyed) = match (serving.page_size, serving.total_k) {
        (0, 0) => (0, (batch, seqlen_k)),
        (0, total) => (total, (1, total)),
        (size, _) => (0, (serving.pages, size)),
    };
    let queries = (batch, seqlen_q);
    [
        Form::rows(q, serving.total_q, queries, (heads, head_dim), problem.q),
        Form::rows(keys, packed_k, keyed, (kv_heads, head_dim), problem.k),
        Form::rows(keys, packed_k, keyed, (kv_heads, head_dim_v), problem.v),
        Form::rows(wide, serving.total_q, queries, (heads, head_dim_v), problem.o),
    ]
}

/// Entries, rows, heads and elements; one entry where sequences are packed.
pub(super) fn entries(view: &View, packed: bool, names: &str) -> Result<[u64; 4], Failure> {
    if packed {
        let [total, heads, dim] = view.sizes_of(PACKED)?;
        return Ok([1, total, heads, dim]);
    }
    view.sizes_of(names)
}

/// The strides of entries, rows and heads. A packed tensor has one entry, whose stride is not used.
pub(super) fn strides(view: &View) -> Strides {
    let [batch, seq, head, _] = with_batch(view.strides());
    Strides { batch, seq, head }
}

/// As many strides as a tensor with a batch has: the last ones, behind zeros.
fn with_batch(strides: &[i64]) -> [i64; 4] {
    let mut all = [0; 4];
    all[4 - strides.len()..].copy_from_slice(strides);
    all
}

/// Of three codes: that for no tensor, for a number for each head, for one for each sequence and head.
pub(super) fn per_head(view: &Option<View>, [none, one, both]: [u32; 3]) -> Result<u32, Failure> {
    match view {
        None => Ok(none),
        Some(view) if view.sizes().len() == 1 => Ok(one),
        Some(view) => view.sizes_of::<2>("(batch, heads), or 1, (heads)").map(|_| both),
    }
}
