//! What makes a problem more than a dense one, as C fills it.

use std::mem;

use attn_host::{Alibi, DevicePtr, Mask, PagedKv, Splits};

use crate::problem::{Problem, Strides, read};
use crate::status::{Failure, Status, guarded};

/// A window without an end on that side.
pub const ATTN_UNLIMITED: u64 = u64::MAX;

/// No ALiBi.
pub const ATTN_ALIBI_NONE: u32 = 0;
/// A slope for each query head: f32[heads].
pub const ATTN_ALIBI_PER_HEAD: u32 = 1;
/// A slope for each sequence and query head: f32[batch][heads].
pub const ATTN_ALIBI_PER_SEQUENCE_AND_HEAD: u32 = 2;

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
}

impl Serving {
    const NONE: Serving = Serving {
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
    };

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

impl ServingTensors {
    /// The tensors of a launch with these arrays.
    pub(crate) fn with(self, tensors: attn_host::Tensors) -> attn_host::Tensors {
        let some = |address: u64| (address != 0).then_some(DevicePtr(address));
        attn_host::Tensors {
            cu_seqlens_q: some(self.cu_seqlens_q),
            cu_seqlens_k: some(self.cu_seqlens_k),
            seqused_q: some(self.seqused_q),
            seqused_k: some(self.seqused_k),
            page_table: some(self.page_table),
            sinks: some(self.sinks),
            alibi_slopes: some(self.alibi_slopes),
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
    guarded(|| {
        if serving.is_null() {
            return Err(Failure::null("serving"));
        }
        // SAFETY: a place for the structure (caller), wherever C put it.
        unsafe { serving.write_unaligned(Serving::NONE) };
        Ok(())
    })
}

/// Sets a problem's strides to those of contiguous tensors that are packed and paged as `serving` says; attn_problem_init sets those of dense
/// ones.
///
/// # Safety
/// `serving` is null or an `attn_serving`, `problem` null or an `attn_problem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_serving_contiguous(serving: *const Serving, problem: *mut Problem) -> Status {
    guarded(|| {
        // SAFETY: null or the caller's structures.
        let (serving, mut changed) = unsafe { (read("serving", serving)?, read("problem", problem.cast_const())?) };
        let Problem { seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v, .. } = changed;
        let first = |sizes: &[u64]| sizes.iter().copied().find(|&size| size != 0).unwrap_or(0);
        let queries = first(&[serving.total_q, seqlen_q]);
        let keys = first(&[serving.page_size, serving.total_k, seqlen_k]);
        let rows = |rows, heads, dim| Strides::from(attn_host::Strides::contiguous(rows, heads, dim));
        changed.q = rows(queries, heads, head_dim);
        changed.k = rows(keys, kv_heads, head_dim);
        changed.v = rows(keys, kv_heads, head_dim_v);
        changed.o = rows(queries, heads, head_dim_v);
        let lse = rows(heads, 1, queries);
        (changed.lse_batch_stride, changed.lse_head_stride) = (lse.batch, lse.head);
        // SAFETY: it was read from there.
        unsafe { problem.write_unaligned(changed) };
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{ATTN_DTYPE_BF16, ATTN_MASK_WINDOW, attn_problem_init};
    use crate::status::attn_last_error;

    fn problem() -> Problem {
        let mut problem = mem::MaybeUninit::uninit();
        // SAFETY: a place for a problem, which a success fills.
        unsafe {
            assert_eq!(attn_problem_init(problem.as_mut_ptr(), ATTN_DTYPE_BF16, 2, 5, 70, 4, 2, 64, 32), Status::Ok);
            problem.assume_init()
        }
    }

    fn contiguous(serving: Serving) -> Problem {
        let mut problem = problem();
        // SAFETY: both are there.
        let status = unsafe { attn_serving_contiguous(&serving, &mut problem) };
        assert_eq!(status, Status::Ok, "{:?}", attn_last_error());
        problem
    }

    #[test]
    fn the_layout_is_what_other_languages_declare() {
        assert_eq!(mem::size_of::<Serving>(), 8 + 7 * 8 + 6 * 4);
        assert_eq!(mem::offset_of!(Serving, softcap), 64);
        assert_eq!(mem::size_of::<ServingTensors>(), 8 * 8);
    }

    #[test]
    fn contiguous_strides_are_attn_hosts() {
        let shape = attn_host::Shape {
            batch: 2,
            seqlen_q: 5,
            seqlen_k: 70,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            head_dim_v: 32,
        };
        let dense = attn_host::Problem::new(attn_host::DType::Bf16, shape);
        let rows = attn_host::Strides::contiguous;
        let paged = Serving { total_q: 9, page_size: 16, pages: 30, table_width: 5, ..Serving::NONE };
        let host = paged.of(contiguous(paged)).expect("possible");
        let expected = dense
            .packed_q(9)
            .paged(PagedKv { page_size: 16, pages: 30, table_width: 5 })
            .splits(Splits::Auto)
            .strides_q(rows(9, 4, 64))
            .strides_k(rows(16, 2, 64))
            .strides_v(rows(16, 2, 32))
            .strides_o(rows(9, 4, 32))
            .lse_strides(36, 9);
        assert_eq!(host, expected);
        assert_eq!(contiguous(Serving { total_k: 100, ..Serving::NONE }).k, rows(100, 2, 64).into());
        assert_eq!(contiguous(Serving::NONE), problem());
    }

    #[test]
    fn every_field_reaches_attn_host() {
        let told = |serving: Serving| {
            let problem = Problem { mask: ATTN_MASK_WINDOW, ..problem() };
            serving.of(problem).map(|problem| problem.to_string()).map_err(|failure| failure.text().to_owned())
        };
        let all = Serving {
            window_left: 3,
            softcap: 30.0,
            splits: 4,
            alibi: ATTN_ALIBI_PER_SEQUENCE_AND_HEAD,
            sinks: 1,
            seqused_q: 1,
            seqused_k: 1,
            ..Serving::NONE
        };
        let text = told(all).expect("possible");
        for part in
            ["3 keys before and all after", "softcap 30", "alibi for each sequence", "sinks", "seqused_q", "seqused_k"]
        {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        for (wrong, name) in [
            (Serving { alibi: 3, ..all }, "alibi is 3"),
            (Serving { sinks: 2, ..all }, "sinks is 2"),
            (Serving { seqused_q: 7, ..all }, "seqused_q is 7"),
            (Serving { seqused_k: 9, ..all }, "seqused_k is 9"),
        ] {
            let found = told(wrong).expect_err("must be refused");
            assert!(found.contains(name), "{found}");
        }
    }

    #[test]
    fn arrays_that_are_0_are_absent() {
        let [q, k, v, o] = [1, 2, 3, 4].map(DevicePtr);
        let tensors = attn_host::Tensors::new(q, k, v, o);
        let none = ServingTensors {
            struct_size: mem::size_of::<ServingTensors>(),
            cu_seqlens_q: 0,
            cu_seqlens_k: 0,
            seqused_q: 0,
            seqused_k: 0,
            page_table: 0,
            sinks: 0,
            alibi_slopes: 0,
        };
        assert_eq!(none.with(tensors), tensors);
        let all = ServingTensors {
            cu_seqlens_q: 16,
            cu_seqlens_k: 32,
            seqused_q: 48,
            seqused_k: 64,
            page_table: 80,
            sinks: 96,
            alibi_slopes: 112,
            ..none
        };
        let found = all.with(tensors);
        let arrays = [
            found.cu_seqlens_q,
            found.cu_seqlens_k,
            found.seqused_q,
            found.seqused_k,
            found.page_table,
            found.sinks,
            found.alibi_slopes,
        ];
        assert_eq!(arrays, [16, 32, 48, 64, 80, 96, 112].map(|address| Some(DevicePtr(address))));
    }
}
