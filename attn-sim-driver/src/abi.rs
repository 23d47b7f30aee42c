//! What crosses the C boundary: places, buffers and names that a caller gives, and the shape of an exported function.
//!
//! The types here are made by C callers alone, as arguments of the exported functions. By calling, a caller promises what
//! the CUDA driver asks for: a pointer is null or points to what its type says.

use std::ffi::{CStr, c_char, c_void};

use crate::code::Code;

/// The outcome of a driver function.
pub(crate) type Outcome<T = ()> = Result<T, Code>;

/// A place for a result.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result; a null place is an invalid value.
    pub(crate) fn put(self, value: T) -> Outcome {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller promises a place for a `T` (module documentation).
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes the result where one is wanted.
    pub(crate) fn put_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // The place is not null, so there is no error.
            let _ = self.put(value);
        }
    }
}

/// An array of the caller's, read.
#[repr(transparent)]
pub(crate) struct Array<T>(*const T);

impl<T: Copy> Array<T> {
    /// The first `count` entries.
    pub(crate) fn read(&self, count: usize) -> Outcome<Vec<T>> {
        match count {
            0 => Ok(Vec::new()),
            _ if self.0.is_null() => Err(Code::INVALID_VALUE),
            // SAFETY: the caller promises `count` entries.
            _ => Ok((0..count).map(|i| unsafe { self.0.add(i).read_unaligned() }).collect()),
        }
    }

    /// Whether there is no array.
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

/// Bytes of host memory that are read.
#[repr(transparent)]
pub(crate) struct Source(*const u8);

impl Source {
    /// The first `len` bytes.
    pub(crate) fn bytes(&self, len: usize) -> Outcome<&[u8]> {
        match len {
            0 => Ok(&[]),
            _ if self.0.is_null() => Err(Code::INVALID_VALUE),
            // SAFETY: the caller promises `len` bytes that nothing writes during the call.
            _ => Ok(unsafe { std::slice::from_raw_parts(self.0, len) }),
        }
    }

    /// The bytes up to the terminating zero.
    pub(crate) fn text(&self) -> Outcome<&CStr> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller promises a terminated text.
        Ok(unsafe { CStr::from_ptr(self.0.cast()) })
    }

    /// The name that this is.
    pub(crate) fn name(&self) -> Outcome<&str> {
        self.text()?.to_str().map_err(|_| Code::INVALID_VALUE)
    }
}

/// Bytes of host memory that are written.
#[repr(transparent)]
pub(crate) struct Target(*mut u8);

impl Target {
    /// A target of a pointer that came in other clothes.
    ///
    /// # Safety
    /// `place` is null or points to as many bytes as are written through the target.
    pub(crate) unsafe fn new(place: *mut c_void) -> Self {
        Target(place.cast())
    }

    /// Writes the bytes.
    pub(crate) fn fill(&self, bytes: &[u8]) -> Outcome {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller promises room for what it asked for, which `bytes` is no longer than. The simulator's memory
        // is its own, so the two do not overlap.
        unsafe { self.0.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Writes as much of a text as `room` bytes take, and a terminating zero.
    pub(crate) fn fill_text(&self, text: &str, room: usize) -> Outcome {
        let Some(most) = room.checked_sub(1) else { return Err(Code::INVALID_VALUE) };
        let mut bytes = text.as_bytes()[..most.min(text.len())].to_vec();
        bytes.push(0);
        self.fill(&bytes)
    }
}

/// A function address on its way out.
pub(crate) type Address = *const c_void;

/// A static text on its way out.
pub(crate) type StaticText = *const c_char;

/// An exported function's result as its code. A panic is a bug of the simulator's and must not unwind into C.
pub(crate) fn guard(body: impl FnOnce() -> Outcome) -> Code {
    // What a panic leaves half done is the simulated device, whose lock is poisoned by it and taken regardless: the
    // launch that panicked has no result, as one that crashed.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    result.unwrap_or(Err(Code::UNKNOWN)).into()
}

/// Defines driver functions, and the table of them that [`symbol`](crate::symbol) looks in.
macro_rules! exports {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            #[allow(non_snake_case)]
            #[cfg_attr(feature = "libcuda", unsafe(no_mangle))]
            pub(crate) unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::code::Code {
                $crate::abi::guard(|| $body)
            }
        )*

        /// The functions of this file by name.
        pub(crate) const SYMBOLS: &[(&str, $crate::abi::Address)] =
            &[$((stringify!($name), $name as $crate::abi::Address)),*];
    };
}
pub(crate) use exports;
