//! A tensor as DLPack describes it, checked for what holds of every one.

use std::fmt;

use super::ffi::{CUDA, DLDataType, DLTensor, Element};
use crate::problem::Strides;
use crate::status::Failure;

/// The most dimensions that a tensor of attention has.
pub(super) const MOST: usize = 4;

/// What a tensor must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) element: Element,
    rank: usize,
    sizes: [u64; MOST],
    strides: [i64; MOST],
}

impl Form {
    /// Of these sizes, each with its stride.
    pub(super) fn new<const N: usize>(element: Element, dims: [(u64, i64); N]) -> Self {
        let mut form = Form { element, rank: N, sizes: [1; MOST], strides: [1; MOST] };
        for (i, (size, stride)) in dims.into_iter().enumerate() {
            (form.sizes[i], form.strides[i]) = (size, stride);
        }
        form
    }

    /// Compact. Sizes whose product leaves `i64` are refused before there is such a tensor.
    pub(super) fn compact<const N: usize>(element: Element, sizes: [u64; N]) -> Self {
        let mut form = Form::new(element, sizes.map(|size| (size, 1)));
        let mut stride = 1i64;
        for i in (0..N).rev() {
            form.strides[i] = stride;
            stride = stride.saturating_mul(i64::try_from(sizes[i]).unwrap_or(i64::MAX));
        }
        form
    }

    /// Rows of heads: `(total, heads, dim)` where they are packed, else `(entries, rows, heads, dim)`.
    pub(super) fn rows(
        element: Element,
        total: u64,
        (entries, rows): (u64, u64),
        (heads, dim): (u64, u64),
        strides: Strides,
    ) -> Self {
        let (head, last) = ((heads, strides.head), (dim, 1));
        match total {
            0 => Form::new(element, [(entries, strides.batch), (rows, strides.seq), head, last]),
            total => Form::new(element, [(total, strides.seq), head, last]),
        }
    }

    /// Refuses tensors of other forms. One that has no form here is not planned, which the launch says.
    pub(super) fn check<const N: usize>(tensors: [(&Option<View>, Option<Form>); N]) -> Result<(), Failure> {
        tensors.iter().try_for_each(|(view, form)| match (view, form) {
            (Some(view), Some(form)) => view.fits(form),
            _ => Ok(()),
        })
    }

    pub(super) fn sizes(&self) -> &[u64] {
        &self.sizes[..self.rank]
    }

    pub(super) fn strides(&self) -> &[i64] {
        &self.strides[..self.rank]
    }

    /// Bytes from the first element to behind the last; `None` where that is no number.
    pub(super) fn span(&self) -> Option<u64> {
        let dims = self.sizes().iter().zip(self.strides()).filter(|(size, _)| **size != 1);
        let mut dims = dims.map(|(size, stride)| (size.checked_sub(1), u64::try_from(*stride).ok()));
        let reach = dims.try_fold(0u64, |reach, (steps, stride)| steps?.checked_mul(stride?)?.checked_add(reach))?;
        reach.checked_add(1)?.checked_mul(self.element.bytes())
    }
}

/// A tensor of CUDA memory with up to four dimensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    argument: &'static str,
    pub(super) address: u64,
    dtype: DLDataType,
    rank: usize,
    sizes: [u64; MOST],
    strides: [i64; MOST],
}

impl View {
    /// What a caller's structure says; `None` for a null pointer.
    ///
    /// # Safety
    /// `tensor` is null or points to a `DLTensor`, whose `shape` is null or as many sizes as `ndim` says, and `strides` likewise.
    pub(super) unsafe fn read(
        argument: &'static str,
        tensor: *const DLTensor,
        device: i32,
    ) -> Result<Option<Self>, Failure> {
        if tensor.is_null() {
            return Ok(None);
        }
        // SAFETY: not null, so a tensor (caller), wherever C put it.
        let tensor = unsafe { tensor.read_unaligned() };
        let address = address(argument, &tensor, device)?;
        let rank = usize::try_from(tensor.ndim).ok().filter(|rank| (1..=MOST).contains(rank)).ok_or_else(|| {
            Failure::problem(format!("{argument} has {} dimensions; allowed: 1 to {MOST}", tensor.ndim))
        })?;
        if tensor.shape.is_null() {
            return Err(Failure::null(&format!("shape of {argument}")));
        }
        let mut view = View { argument, address, dtype: tensor.dtype, rank, sizes: [1; MOST], strides: [1; MOST] };
        for i in 0..rank {
            // SAFETY: one of `ndim` sizes (caller).
            let size = unsafe { tensor.shape.add(i).read_unaligned() };
            view.sizes[i] = u64::try_from(size).ok().filter(|&size| size > 0).ok_or_else(|| {
                Failure::problem(format!("dimension {i} of {argument} is {size}; allowed: 1 and more"))
            })?;
            if !tensor.strides.is_null() {
                // SAFETY: one of `ndim` strides (caller).
                view.strides[i] = unsafe { tensor.strides.add(i).read_unaligned() };
            }
        }
        if tensor.strides.is_null() {
            view.make_compact()?;
        }
        Ok(Some(view))
    }

    fn make_compact(&mut self) -> Result<(), Failure> {
        let mut stride = 1i64;
        for i in (0..self.rank).rev() {
            self.strides[i] = stride;
            let next = i64::try_from(self.sizes[i]).ok().and_then(|size| stride.checked_mul(size));
            stride = next.ok_or_else(|| {
                let (argument, shape) = (self.argument, List(self.sizes()));
                Failure::problem(format!("shape of {argument} is {shape}; allowed: at most 2^63 - 1 elements"))
            })?;
        }
        Ok(())
    }

    pub(super) fn sizes(&self) -> &[u64] {
        &self.sizes[..self.rank]
    }

    pub(super) fn strides(&self) -> &[i64] {
        &self.strides[..self.rank]
    }

    /// The sizes, where there are as many as `names` has names.
    pub(super) fn sizes_of<const N: usize>(&self, names: &str) -> Result<[u64; N], Failure> {
        self.sizes().try_into().map_err(|_| {
            let View { argument, rank, .. } = self;
            Failure::problem(format!("{argument} has {rank} dimensions; allowed: {N}, {names}"))
        })
    }

    /// The element type, where it is one of these.
    pub(super) fn element(&self, allowed: &[Element]) -> Result<Element, Failure> {
        allowed.iter().copied().find(|element| element.dtype() == self.dtype).ok_or_else(|| {
            let DLDataType { code, bits, lanes } = self.dtype;
            let allowed = allowed.iter().map(|element| {
                let DLDataType { code, bits, lanes } = element.dtype();
                format!("{} ({code}, {bits}, {lanes})", element.name())
            });
            let allowed = allowed.collect::<Vec<_>>().join(", ");
            let found = format!("code {code}, {bits} bits, {lanes} lanes");
            Failure::problem(format!("dtype of {} is {found}; allowed: {allowed}", self.argument))
        })
    }

    /// Refuses a tensor of another form. The stride of a dimension of size 1 may be anything.
    pub(super) fn fits(&self, form: &Form) -> Result<(), Failure> {
        self.element(&[form.element])?;
        let argument = self.argument;
        if self.sizes() != form.sizes() {
            let (found, allowed) = (List(self.sizes()), List(form.sizes()));
            return Err(Failure::problem(format!("shape of {argument} is {found}; allowed: {allowed}")));
        }
        let mut strides = self.strides().iter().zip(form.strides()).zip(self.sizes());
        if strides.any(|((found, needed), &size)| found != needed && size > 1) {
            let (found, allowed) = (List(self.strides()), List(form.strides()));
            return Err(Failure::problem(format!("strides of {argument} are {found}; allowed: {allowed}")));
        }
        Ok(())
    }
}

/// The address of the first element, on this device.
fn address(argument: &str, tensor: &DLTensor, device: i32) -> Result<u64, Failure> {
    let (kind, id) = (tensor.device.device_type, tensor.device.device_id);
    if (kind, id) != (CUDA, device) {
        return Err(Failure::address(format!(
            "{argument} lies on device {id} of type {kind}; allowed: device {device} of type {CUDA} (kDLCUDA)"
        )));
    }
    let start = tensor.data as u64;
    if start == 0 {
        return Err(Failure::address(format!("data of {argument} is a null device pointer")));
    }
    start.checked_add(tensor.byte_offset).ok_or_else(|| {
        let offset = tensor.byte_offset;
        Failure::address(format!("byte_offset of {argument} is {offset} from {start:#x}; allowed: an end below 2^64"))
    })
}

/// Numbers in brackets.
struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, number) in self.0.iter().enumerate() {
            write!(f, "{}{number}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}
