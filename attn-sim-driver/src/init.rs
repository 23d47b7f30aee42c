//! Initialisation, versions, error names and the lookup of functions.

use crate::abi::{Address, Out, Source, StaticText, exports};
use crate::code::Code;
use crate::state;

/// The version of the CUDA driver whose functions these are: 13.0.
const VERSION: i32 = 13000;

exports! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        state::lock()?.initialised = true;
        Ok(())
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.put(VERSION)
    }

    fn cuGetErrorName(code: Code, text: Out<StaticText>) {
        text.put(code.name().ok_or(Code::INVALID_VALUE)?.as_ptr())
    }

    fn cuGetErrorString(code: Code, text: Out<StaticText>) {
        text.put(code.words().ok_or(Code::INVALID_VALUE)?.as_ptr())
    }

    fn cuGetProcAddress(name: Source, function: Out<Address>, _version: i32, _flags: u64) {
        function.put(lookup(name.name()?).ok_or(Code::NOT_FOUND)?)
    }

    /// Writes 0 (found) or 1 (no such symbol) to `status`.
    fn cuGetProcAddress_v2(name: Source, function: Out<Address>, _version: i32, _flags: u64, status: Out<u32>) {
        let found = lookup(name.name()?);
        status.put_if_wanted(u32::from(found.is_none()));
        function.put(found.ok_or(Code::NOT_FOUND)?)
    }
}

/// A function by the name in the API, which is the newest of its versions.
fn lookup(name: &str) -> Option<Address> {
    crate::symbol(&format!("{name}_v2")).or_else(|| crate::symbol(name))
}
