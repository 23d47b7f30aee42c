//! Appending to a cache with tensors in DLPack's form.

use std::ffi::c_void;

use attn_host::{Device, Stream};

use super::ffi::{DLTensor, Element};
use super::view::{Form, View};
use super::views::{PAGES, ROWS, WIDE, entries, needed, per_head, strides};
use crate::append::{ATTN_SINES_AS_TENSORS, ATTN_SINES_F32, Append, AppendPlan, AppendTensors};
use crate::pointers::{lent, read, write};
use crate::problem::{ATTN_DTYPE_BF16, ATTN_DTYPE_F16};
use crate::serving::{ATTN_DESCALES_NONE, ATTN_DESCALES_PER_HEAD, ATTN_DESCALES_PER_SEQUENCE_AND_HEAD};
use crate::status::{Failure, Status, guarded};

/// The tensors of what is appended; null where there is none. As attn_dlpack_tensors otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DlpackAppendTensors {
    /// sizeof(attn_dlpack_append_tensors).
    pub struct_size: usize,
    /// New keys: bfloat16 or float16, (batch, new_tokens, kv_heads, head_dim); (total, kv_heads, head_dim) with cu_seqlens_new.
    pub k: *const DLTensor,
    /// New values: as k, with head_dim_v.
    pub v: *const DLTensor,
    /// Cache of keys, written: as k or float8_e4m3fn, (batch, cache_rows, kv_heads, head_dim); (pages, page_size, kv_heads, head_dim) with
    /// page_table.
    pub k_cache: *const DLTensor,
    /// Cache of values, written: as k_cache, with head_dim_v.
    pub v_cache: *const DLTensor,
    /// Queries: as k, with their own heads. Written where there is no q_out.
    pub q: *const DLTensor,
    /// Rotated queries, written: as q.
    pub q_out: *const DLTensor,
    /// Cosines: float32 or as k, (positions, rotary_dim / 2).
    pub cos: *const DLTensor,
    /// Sines: as cos, with its strides.
    pub sin: *const DLTensor,
    /// int32 (batch + 1), compact like all that follow.
    pub cu_seqlens_new: *const DLTensor,
    /// int32 (batch).
    pub seqused_new: *const DLTensor,
    /// int32 (batch).
    pub seqlens_before: *const DLTensor,
    /// int32 (batch, table_width).
    pub page_table: *const DLTensor,
    /// float32 (kv_heads) or (batch, kv_heads).
    pub k_descale: *const DLTensor,
    /// float32 (kv_heads) or (batch, kv_heads).
    pub v_descale: *const DLTensor,
}

/// Its tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appended {
    pub(super) k: Option<View>,
    pub(super) v: Option<View>,
    pub(super) k_cache: Option<View>,
    pub(super) v_cache: Option<View>,
    pub(super) q: Option<View>,
    pub(super) q_out: Option<View>,
    pub(super) cos: Option<View>,
    pub(super) sin: Option<View>,
    pub(super) cu_seqlens_new: Option<View>,
    pub(super) seqused_new: Option<View>,
    pub(super) seqlens_before: Option<View>,
    pub(super) page_table: Option<View>,
    pub(super) k_descale: Option<View>,
    pub(super) v_descale: Option<View>,
}

impl DlpackAppendTensors {
    /// # Safety
    /// Each is null or a `DLTensor` whose `shape` is null or as many sizes as `ndim` says, and `strides` likewise.
    unsafe fn views(&self, device: i32) -> Result<Appended, Failure> {
        // SAFETY: the caller's promise.
        let view = |argument, tensor| unsafe { View::read(argument, tensor, device) };
        Ok(Appended {
            k: view("k", self.k)?,
            v: view("v", self.v)?,
            k_cache: view("k_cache", self.k_cache)?,
            v_cache: view("v_cache", self.v_cache)?,
            q: view("q", self.q)?,
            q_out: view("q_out", self.q_out)?,
            cos: view("cos", self.cos)?,
            sin: view("sin", self.sin)?,
            cu_seqlens_new: view("cu_seqlens_new", self.cu_seqlens_new)?,
            seqused_new: view("seqused_new", self.seqused_new)?,
            seqlens_before: view("seqlens_before", self.seqlens_before)?,
            page_table: view("page_table", self.page_table)?,
            k_descale: view("k_descale", self.k_descale)?,
            v_descale: view("v_descale", self.v_descale)?,
        })
    }
}

impl Appended {
    /// What these tensors append to what.
    pub(super) fn append(&self) -> Result<Append, Failure> {
        let (k, v) = (needed("k", &self.k)?, needed("v", &self.v)?);
        let (k_cache, v_cache) = (needed("k_cache", &self.k_cache)?, needed("v_cache", &self.v_cache)?);
        let packed = self.cu_seqlens_new.is_some();
        let [_, tokens, kv_heads, head_dim] = entries(&k, packed, ROWS)?;
        let [.., head_dim_v] = entries(&v, packed, ROWS)?;
        let batch = match &self.cu_seqlens_new {
            Some(sums) => sums.sizes_of::<1>("(batch + 1)")?[0] - 1,
            None => k.sizes()[0],
        };
        let element = k.element(WIDE)?;
        let dtype = if element == Element::F16 { ATTN_DTYPE_F16 } else { ATTN_DTYPE_BF16 };
        let given = |view: &Option<View>| u32::from(view.is_some());
        let mut append = Append {
            total: if packed { tokens } else { 0 },
            seqused_new: given(&self.seqused_new),
            seqlens_before: given(&self.seqlens_before),
            float8: u32::from(k_cache.element(&[element, Element::E4m3])? == Element::E4m3),
            k: strides(&k),
            v: strides(&v),
            k_cache: strides(&k_cache),
            v_cache: strides(&v_cache),
            ..Append::new(dtype, batch, tokens, kv_heads, head_dim, head_dim_v)
        };
        self.cache(&k_cache, &mut append)?;
        if let Some(q) = &self.q {
            [_, _, append.heads, _] = entries(q, packed, ROWS)?;
            (append.q, append.q_out) = (strides(q), strides(self.q_out.as_ref().unwrap_or(q)));
        }
        if self.cos.is_some() || self.sin.is_some() {
            self.rotation(element, &mut append)?;
        }
        let codes = [ATTN_DESCALES_NONE, ATTN_DESCALES_PER_HEAD, ATTN_DESCALES_PER_SEQUENCE_AND_HEAD];
        append.descales = per_head(&self.k_descale.or(self.v_descale), codes)?;
        self.check(&append)?;
        Ok(append)
    }

    fn cache(&self, k_cache: &View, append: &mut Append) -> Result<(), Failure> {
        let Some(table) = &self.page_table else {
            [_, append.cache_rows, ..] = k_cache.sizes_of::<4>(ROWS)?;
            return Ok(());
        };
        [append.pages, append.page_size, ..] = k_cache.sizes_of::<4>(PAGES)?;
        [_, append.table_width] = table.sizes_of("(batch, table_width)")?;
        Ok(())
    }

    fn rotation(&self, element: Element, append: &mut Append) -> Result<(), Failure> {
        let (cos, _) = (needed("cos", &self.cos)?, needed("sin", &self.sin)?);
        let [positions, half] = cos.sizes_of("(positions, rotary_dim / 2)")?;
        (append.positions, append.rotary_dim) = (positions, half.saturating_mul(2));
        append.sines_stride = cos.strides()[0];
        append.sines =
            if cos.element(&[Element::F32, element])? == Element::F32 { ATTN_SINES_F32 } else { ATTN_SINES_AS_TENSORS };
        Ok(())
    }

    /// Refuses tensors of other forms than what is appended has.
    pub(super) fn check(&self, append: &Append) -> Result<(), Failure> {
        let Append { batch, new_tokens, total, kv_heads, heads, head_dim, head_dim_v, .. } = *append;
        let element = if append.dtype == ATTN_DTYPE_F16 { Element::F16 } else { Element::Bf16 };
        let cached = if append.float8 == 1 { Element::E4m3 } else { element };
        let sines = if append.sines == ATTN_SINES_F32 { Element::F32 } else { element };
        let new = |heads, dim, strides| Some(Form::rows(element, total, (batch, new_tokens), (heads, dim), strides));
        let rows = if append.page_size == 0 { (batch, append.cache_rows) } else { (append.pages, append.page_size) };
        let cache = |dim, strides| Some(Form::rows(cached, 0, rows, (kv_heads, dim), strides));
        let table = Form::new(sines, [(append.positions, append.sines_stride), (append.rotary_dim / 2, 1)]);
        let table = (append.rotary_dim != 0).then_some(table);
        let queries = |strides| if heads == 0 { None } else { new(heads, head_dim, strides) };
        // Without a place of their own rotated queries are written where the queries are.
        let q_out = self.q_out.or(self.q);
        let numbers = |sizes: [u64; 1]| Some(Form::compact(Element::I32, sizes));
        let factors = match append.descales {
            ATTN_DESCALES_NONE => None,
            ATTN_DESCALES_PER_SEQUENCE_AND_HEAD => Some(Form::compact(Element::F32, [batch, kv_heads])),
            _ => Some(Form::compact(Element::F32, [kv_heads])),
        };
        let pages = (append.page_size != 0).then(|| Form::compact(Element::I32, [batch, append.table_width]));
        Form::check([
            (&self.k, new(kv_heads, head_dim, append.k)),
            (&self.v, new(kv_heads, head_dim_v, append.v)),
            (&self.k_cache, cache(head_dim, append.k_cache)),
            (&self.v_cache, cache(head_dim_v, append.v_cache)),
            (&self.q, queries(append.q)),
            (&q_out, queries(append.q_out)),
            (&self.cos, table),
            (&self.sin, table),
            (&self.cu_seqlens_new, numbers([batch.saturating_add(1)])),
            (&self.seqused_new, numbers([batch])),
            (&self.seqlens_before, numbers([batch])),
            (&self.page_table, pages),
            (&self.k_descale, factors),
            (&self.v_descale, factors),
        ])
    }

    pub(super) fn addresses(&self) -> AppendTensors {
        let at = |view: &Option<View>| view.map_or(0, |view| view.address);
        AppendTensors {
            struct_size: size_of::<AppendTensors>(),
            k: at(&self.k),
            v: at(&self.v),
            k_cache: at(&self.k_cache),
            v_cache: at(&self.v_cache),
            q: at(&self.q),
            q_out: at(&self.q_out),
            cos: at(&self.cos),
            sin: at(&self.sin),
            cu_seqlens_new: at(&self.cu_seqlens_new),
            seqused_new: at(&self.seqused_new),
            seqlens_before: at(&self.seqlens_before),
            page_table: at(&self.page_table),
            k_descale: at(&self.k_descale),
            v_descale: at(&self.v_descale),
        }
    }
}

/// Fills an attn_append with what the tensors say. k, v and the caches are needed.
///
/// Pairs are halves until the caller changes them. new_tokens of packed tokens is their total; a caller who knows the most that one sequence
/// has sets it.
///
/// # Safety
/// `tensors` is null or an `attn_dlpack_append_tensors` of tensors that are what dlpack.h says; `append` is null or a place for an
/// `attn_append`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_append(tensors: *const DlpackAppendTensors, append: *mut Append) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe {
        let views = read("tensors", tensors)?.views(Device::current()?.info().ordinal)?;
        write("append", append, views.append()?)
    })
}

/// attn_append_plan_launch on tensors, after a look at each whether it is what the plan was made for.
///
/// # Safety
/// As for that function; the tensors are what dlpack.h says, their memory is there, and what is written may be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_append_launch(
    plan: *const AppendPlan,
    tensors: *const DlpackAppendTensors,
    stream: *mut c_void,
) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe {
        let plan = lent("plan", plan)?;
        let views = read("tensors", tensors)?.views(plan.device)?;
        views.check(&plan.asked)?;
        Ok(plan.host.launch(&views.addresses().to_host(), Stream(stream))?)
    })
}
