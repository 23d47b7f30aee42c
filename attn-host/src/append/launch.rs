//! Launching a plan to append: addresses into the parameters, one call of the driver.

use std::ffi::c_void;

use attn_kernel::append::{AppendParams, Rows, THREADS};

use super::plan::AppendPlan;
use super::{Append, AppendTensors, Cache, Sines};
use crate::error::Error;
use crate::launch::{DevicePtr, Stream};
use crate::observe;
use crate::plan::current_is;
use crate::problem::Descales;
use crate::tensors::{Holds, Need, Placed};

impl<T: Copy> AppendTensors<T> {
    /// The queries before they are rotated.
    fn queries(&self) -> Option<T> {
        self.q.or(self.q_out)
    }

    /// What only some launches have, and what is given for it.
    fn extras(&self, plan: &AppendPlan) -> [(Need, Option<T>); 10] {
        let Append { shape, packed, seqused_new, seqlens_before, rotary, heads, cache, dtype, descales, .. } =
            plan.append;
        let (spans, sines) = (plan.spans(), &plan.layouts.sines);
        let table = match cache {
            Cache::Paged(paged) => paged.table_width.saturating_mul(shape.batch),
            Cache::Dense { .. } => 0,
        };
        let factors = match descales {
            Some(Descales::PerSequenceAndHead) => shape.kv_heads * shape.batch,
            _ => shape.kv_heads,
        };
        let (rotated, scaled, queries, batch) = (rotary.is_some(), descales.is_some(), heads > 0, shape.batch);
        let [q, q_out] = [spans.q, spans.q_out].map(|span| u64::from(dtype.bytes()) * span);
        let elements = if rotary.is_some_and(|r| r.sines == Sines::F32) { Holds::F32 } else { Holds::Tensor(dtype) };
        let sines = |argument| Need::rows(argument, "rotary embedding", rotated, elements, sines.span * sines.element);
        let rows = |argument, bytes| Need::rows(argument, "queries", queries, Holds::Tensor(dtype), bytes);
        let before = "keys before (seqlens_before)";
        [
            (rows("q", q), self.queries()),
            (rows("q_out", q_out), self.q_out),
            (sines("cos"), self.cos),
            (sines("sin"), self.sin),
            (Need::integers("cu_seqlens_new", "packed tokens", packed.is_some(), batch + 1), self.cu_seqlens_new),
            (Need::integers("seqused_new", "tokens in use (seqused_new)", seqused_new, batch), self.seqused_new),
            (Need::integers("seqlens_before", before, seqlens_before, batch), self.seqlens_before),
            (Need::integers("page_table", "pages", matches!(cache, Cache::Paged(_)), table), self.page_table),
            (Need::floats("k_descale", "factors (descales)", scaled, factors), self.k_descale),
            (Need::floats("v_descale", "factors (descales)", scaled, factors), self.v_descale),
        ]
    }
}

impl AppendPlan {
    /// Queues the kernel on the stream and returns. No allocation, no synchronisation, no lock; may be captured into a graph, which then holds
    /// these addresses.
    ///
    /// # Errors
    /// Those of [`Plan::launch`](crate::Plan::launch).
    ///
    /// # Safety
    /// 1. Each address is memory of the plan's device for as many elements as [`spans`](Self::spans) and [`AppendTensors`] say.
    /// 2. Until the stream has passed the kernel, nothing writes what it reads, nothing else touches the rows of the caches and of `q_out` that
    ///    it writes, and none is freed.
    /// 3. The caches and `q_out` overlap none of the others; `q_out` may be `q` itself, with its strides.
    /// 4. The stream belongs to the plan's context, and the context has not been destroyed since the plan was made.
    /// 5. Prefix sums begin with 0, never fall, and end with no more than the tokens that were planned. No two tokens have the same place in
    ///    the cache: no page belongs to two sequences that append to it. Where this does not hold, keys and values are wrong, but nothing
    ///    outside the tensors is touched.
    pub unsafe fn launch(&self, tensors: &AppendTensors, stream: Stream) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        observe::append(self, || unsafe { self.queue(tensors, stream) })
    }

    /// Queues the kernel.
    ///
    /// # Safety
    /// As [`launch`](Self::launch).
    unsafe fn queue(&self, tensors: &AppendTensors, stream: Stream) -> Result<(), Error> {
        self.check_tensors(tensors)?;
        current_is(self.driver, self.context)?;
        if cfg!(debug_assertions) {
            self.check_devices(tensors)?;
        }
        let mut params = self.params_with(tensors);
        let mut arguments: [*mut c_void; 1] = [(&raw mut params).cast()];
        // SAFETY: the kernel's one argument, which the driver copies before it returns; the function is loaded in the current context, and the
        // kernel waits by itself for what comes before it. The rest is the caller's promise.
        unsafe { self.driver.launch(self.function, (self.blocks, THREADS), 0, stream, self.overlap, &mut arguments) }
    }

    /// Refuses tensors that are absent and needed, there and not planned, or not where they can be.
    fn check_tensors(&self, tensors: &AppendTensors) -> Result<(), Error> {
        self.check_presence(tensors)?;
        self.placed(tensors).try_for_each(|tensor| tensor.check())
    }

    /// Refuses tensors that are absent and needed, or there and not planned.
    pub(crate) fn check_presence<T: Copy>(&self, tensors: &AppendTensors<T>) -> Result<(), Error> {
        for (need, given) in tensors.extras(self) {
            // Without one of `q` and `q_out` queries are rotated where they are.
            let in_place = need.argument == "q_out" && tensors.q_out.is_none();
            need.check_presence(given.is_some() || (in_place && need.needed))?;
        }
        let absent = match tensors {
            AppendTensors { q_out: None, .. } => "q_out",
            AppendTensors { q: None, .. } => "q",
            _ => return Ok(()),
        };
        match self.layouts.q {
            Some((q, q_out)) if q != q_out => {
                Err(Error::Missing { argument: absent, feature: "strides of its own for it" })
            }
            _ => Ok(()),
        }
    }

    /// Checks that every tensor lies on the plan's device. A few hundred nanoseconds for each, so [`launch`](Self::launch)
    /// does it only with debug assertions.
    ///
    /// # Errors
    /// [`Error::ForeignPointer`]; [`Error::Cuda`] for an address that the driver does not know.
    pub fn check_devices(&self, tensors: &AppendTensors) -> Result<(), Error> {
        self.placed(tensors).try_for_each(|tensor| tensor.check_device(self.driver, self.ordinal))
    }

    /// The tensors of a launch with what the plan asks of them.
    pub(crate) fn placed<T: Copy>(&self, tensors: &AppendTensors<T>) -> impl Iterator<Item = Placed<T>> {
        let (spans, new, cache) = (self.spans(), self.append.dtype, self.append.cache_dtype());
        let rows = [
            ("k", tensors.k, spans.k, new),
            ("v", tensors.v, spans.v, new),
            ("k_cache", tensors.k_cache, spans.k_cache, cache),
            ("v_cache", tensors.v_cache, spans.v_cache, cache),
        ];
        let rows = rows.map(|(argument, given, span, dtype)| Placed::rows(argument, given, span, dtype));
        let extras = tensors.extras(self).into_iter().filter_map(|(need, given)| Some(need.met_by(given?)));
        rows.into_iter().chain(extras)
    }

    /// The parameters with a launch's addresses.
    fn params_with(&self, tensors: &AppendTensors) -> AppendParams {
        let at = |address: Option<DevicePtr>| address.map_or(0, |address| address.0);
        let rows = |address: u64, rows: Rows| Rows { base: address as *mut u32, ..rows };
        AppendParams {
            k: rows(tensors.k.0, self.params.k),
            v: rows(tensors.v.0, self.params.v),
            q: rows(at(tensors.queries()), self.params.q),
            q_out: rows(at(tensors.q_out.or(tensors.q)), self.params.q_out),
            k_cache: rows(tensors.k_cache.0, self.params.k_cache),
            v_cache: rows(tensors.v_cache.0, self.params.v_cache),
            cos: at(tensors.cos) as *const u32,
            sin: at(tensors.sin) as *const u32,
            before: at(tensors.seqlens_before) as *const i32,
            cu_new: at(tensors.cu_seqlens_new) as *const i32,
            used_new: at(tensors.seqused_new) as *const i32,
            pages: at(tensors.page_table) as *const i32,
            k_descale: at(tensors.k_descale) as *const f32,
            v_descale: at(tensors.v_descale) as *const f32,
            ..self.params
        }
    }
}
