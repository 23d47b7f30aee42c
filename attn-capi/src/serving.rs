//! What makes a problem more than a dense one, as C fills it.

use std::mem;

use attn_host::{Alibi, Descales, Float8, Mask, PagedKv, Splits};

use crate::launch::present;
use crate::pointers::{read, write};
use crate::problem::{Problem, Strides};
use crate::status::{Failure, Status, guarded};

#[cfg(test)]
mod tests;

/// A window without an end on that side.
pub const ATTN_UNLIMITED: u64 = u64::MAX;

/// No ALiBi.
pub const ATTN_ALIBI_NONE: u32 = 0;
/// A slope for each query head: f32[heads].
pub const ATTN_ALIBI_PER_HEAD: u32 = 1;
/// A slope for each sequence and query head: f32[batch][heads].
pub const ATTN_ALIBI_PER_SEQUENCE_AND_HEAD: u32 = 2;

/// Q, K and V are of the problem's element type.
pub const ATTN_FLOAT8_NONE: u32 = 0;
/// K and V are 8-bit floats (e4m3).
pub const ATTN_FLOAT8_KEYS: u32 = 1;
/// Q, K and V are 8-bit floats (e4m3); O is of the problem's element type.
pub const ATTN_FLOAT8_ALL: u32 = 2;

/// 8-bit elements are meant as they are.
pub const ATTN_DESCALES_NONE: u32 = 0;
/// They are meant times a factor of each key/value head: f32[kv_heads].
pub const ATTN_DESCALES_PER_HEAD: u32 = 1;
/// They are meant times a factor of each sequence and key/value head: f32[batch][kv_heads].
pub const ATTN_DESCALES_PER_SEQUENCE_AND_HEAD: u32 = 2;

/// As many splits of the keys as should be fastest.
pub const ATTN_SPLITS_AUTO: u32 = 0;

/// Packed and paged sequences, windows, changed scores and splits: what a problem for the serving kernels has beside its attn_problem.
/// attn_serving_init fills it with none of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Serving {
    /// sizeof(attn_serving).
    pub struct_size: usize,
    /// Queries of all sequences, packed: Q is (total_q, heads, head_dim), O and LSE likewise, lengths come from cu_seqlens_q, and seqlen_q is the
    /// longest. 0: not packed.
    pub total_q: u64,
    /// Keys of all sequences, packed, with cu_seqlens_k. 0: not packed.
    pub total_k: u64,
    /// Keys of a page, a power of two from 16: K is (pages, page_size, kv_heads, head_dim), V likewise, and page_table says which page has a
    /// sequence's keys. The batch strides of K and V are then the pages'. 0: not paged.
    pub page_size: u64,
    /// Pages that there are.
    pub pages: u64,
    /// Entries of the page table for each sequence.
    pub table_width: u64,
    /// Keys before a query's own position that it sees, with ATTN_MASK_WINDOW.
    pub window_left: u64,
    /// Keys after it, with ATTN_MASK_WINDOW.
    pub window_right: u64,
    /// Scores become softcap * tanh(score / softcap). 0: they do not.
    pub softcap: f32,
    /// Parts that keys are split into, 1 to 128, or ATTN_SPLITS_AUTO.
    pub splits: u32,
    /// ATTN_ALIBI_*.
    pub alibi: u32,
    /// 1: a logit for each query head takes part in the softmax without a value.
    pub sinks: u32,
    /// 1: seqused_q says how many queries of each sequence there are.
    pub seqused_q: u32,
    /// 1: seqused_k says how many keys of each sequence there are.
    pub seqused_k: u32,
    /// ATTN_FLOAT8_*. Strides of 8-bit tensors are multiples of 16 elements.
    pub float8: u32,
    /// ATTN_DESCALES_*.
    pub descales: u32,
}

/// Where the arrays of a serving problem lie in device memory; each is there where the problem needs it and 0 where not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServingTensors {
    /// sizeof(attn_serving_tensors).
    pub struct_size: usize,
    /// int32[batch + 1], sums of the lengths before each sequence, from 0.
    pub cu_seqlens_q: u64,
    /// int32[batch + 1].
    pub cu_seqlens_k: u64,
    /// int32[batch].
    pub seqused_q: u64,
    /// int32[batch].
    pub seqused_k: u64,
    /// int32[batch][table_width]. A page that does not exist reads as zeros.
    pub page_table: u64,
    /// f32[heads].
    pub sinks: u64,
    /// f32[heads], or f32[batch][heads].
    pub alibi_slopes: u64,
    /// f32[kv_heads], or f32[batch][kv_heads], where Q is of 8 bits.
    pub q_descale: u64,
    /// f32[kv_heads], or f32[batch][kv_heads], where K is of 8 bits.
    pub k_descale: u64,
    /// f32[kv_heads], or f32[batch][kv_heads], where V is of 8 bits.
    pub v_descale: u64,
}

impl Serving {
    pub(crate) const NONE: Serving = Serving {
        struct_size: mem::size_of::<Serving>(),
        total_q: 0,
        total_k: 0,
        page_size: 0,
        pages: 0,
        table_width: 0,
        window_left: ATTN_UNLIMITED,
        window_right: ATTN_UNLIMITED,
        softcap: 0.0,
        splits: ATTN_SPLITS_AUTO,
        alibi: ATTN_ALIBI_NONE,
        sinks: 0,
        seqused_q: 0,
        seqused_k: 0,
        float8: ATTN_FLOAT8_NONE,
        descales: ATTN_DESCALES_NONE,
    };

    /// The problem with the strides of contiguous tensors.
    pub(crate) fn contiguous(&self, problem: Problem) -> Problem {
        let Problem { seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v, .. } = problem;
        let first = |sizes: &[u64]| sizes.iter().copied().find(|&size| size != 0).unwrap_or(0);
        let queries = first(&[self.total_q, seqlen_q]);
        let keys = first(&[self.page_size, self.total_k, seqlen_k]);
        let rows = |rows, heads, dim| Strides::from(attn_host::Strides::contiguous(rows, heads, dim));
        let lse = rows(heads, 1, queries);
        Problem {
            q: rows(queries, heads, head_dim),
            k: rows(keys, kv_heads, head_dim),
            v: rows(keys, kv_heads, head_dim_v),
            o: rows(queries, heads, head_dim_v),
            lse_batch_stride: lse.batch,
            lse_head_stride: lse.head,
            ..problem
        }
    }

    /// The problem for attn-host, which checks the rest.
    pub(crate) fn of(self, problem: Problem) -> Result<attn_host::Problem, Failure> {
        let side = |keys: u64| (keys != ATTN_UNLIMITED).then_some(keys);
        let window = Mask::Window { left: side(self.window_left), right: side(self.window_right) };
        let mut host = problem.with_window(Some(window))?;
        let Serving { page_size, pages, table_width, .. } = self;
        if self.total_q != 0 {
            host = host.packed_q(self.total_q);
        }
        if self.total_k != 0 {
            host = host.packed_k(self.total_k);
        }
        if page_size != 0 {
            host = host.paged(PagedKv { page_size, pages, table_width });
        }
        if self.softcap != 0.0 {
            host = host.softcap(self.softcap);
        }
        host = match self.alibi {
            ATTN_ALIBI_NONE => host,
            ATTN_ALIBI_PER_HEAD => host.alibi(Alibi::PerHead),
            ATTN_ALIBI_PER_SEQUENCE_AND_HEAD => host.alibi(Alibi::PerSequenceAndHead),
            code => return Err(Failure::problem(format!("alibi is {code}; allowed: ATTN_ALIBI_* (0 to 2)"))),
        };
        host = match self.float8 {
            ATTN_FLOAT8_NONE => host,
            ATTN_FLOAT8_KEYS => host.float8(Float8::Keys),
            ATTN_FLOAT8_ALL => host.float8(Float8::All),
            code => return Err(Failure::problem(format!("float8 is {code}; allowed: ATTN_FLOAT8_* (0 to 2)"))),
        };
        if let Some(descales) = descales(self.descales)? {
            host = host.descales(descales);
        }
        for (name, value, told) in [
            ("sinks", self.sinks, attn_host::Problem::sinks as fn(attn_host::Problem) -> attn_host::Problem),
            ("seqused_q", self.seqused_q, attn_host::Problem::seqused_q),
            ("seqused_k", self.seqused_k, attn_host::Problem::seqused_k),
        ] {
            host = match value {
                0 => host,
                1 => told(host),
                _ => return Err(Failure::problem(format!("{name} is {value}; allowed: 0 and 1"))),
            };
        }
        Ok(host.splits(if self.splits == ATTN_SPLITS_AUTO { Splits::Auto } else { Splits::Exactly(self.splits) }))
    }
}

/// What an ATTN_DESCALES_* code stands for.
pub(crate) fn descales(code: u32) -> Result<Option<Descales>, Failure> {
    match code {
        ATTN_DESCALES_NONE => Ok(None),
        ATTN_DESCALES_PER_HEAD => Ok(Some(Descales::PerHead)),
        ATTN_DESCALES_PER_SEQUENCE_AND_HEAD => Ok(Some(Descales::PerSequenceAndHead)),
        _ => Err(Failure::problem(format!("descales is {code}; allowed: ATTN_DESCALES_* (0 to 2)"))),
    }
}

impl ServingTensors {
    /// The tensors of a launch with these arrays.
    pub(crate) fn with(self, tensors: attn_host::Tensors) -> attn_host::Tensors {
        attn_host::Tensors {
            cu_seqlens_q: present(self.cu_seqlens_q),
            cu_seqlens_k: present(self.cu_seqlens_k),
            seqused_q: present(self.seqused_q),
            seqused_k: present(self.seqused_k),
            page_table: present(self.page_table),
            sinks: present(self.sinks),
            alibi_slopes: present(self.alibi_slopes),
            q_descale: present(self.q_descale),
            k_descale: present(self.k_descale),
            v_descale: present(self.v_descale),
            ..tensors
        }
    }
}

/// Fills an attn_serving with nothing: no packed or paged sequences, window, softcap, sinks or slopes, and splits by themselves.
///
/// # Safety
/// `serving` is null or a place for an `attn_serving`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_serving_init(serving: *mut Serving) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe { write("serving", serving, Serving::NONE) })
}

/// Sets a problem's strides to those of contiguous tensors that are packed and paged as `serving` says; attn_problem_init sets those of dense
/// ones.
///
/// # Safety
/// `serving` is null or an `attn_serving`, `problem` null or an `attn_problem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_serving_contiguous(serving: *const Serving, problem: *mut Problem) -> Status {
    guarded(|| {
        // SAFETY: null or the caller's structures, the second one's place too.
        unsafe {
            let (serving, filled) = (read("serving", serving)?, read("problem", problem.cast_const())?);
            write("problem", problem, serving.contiguous(filled))
        }
    })
}
