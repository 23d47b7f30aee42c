//! Gives `libattn.so` its soname, and keeps it to the symbols of its own header.

use std::env;

/// Counts what a program built against an older header could not live with. `ATTN_ABI_VERSION` in `src/lib.rs` is the same.
const ABI_VERSION: u32 = 1;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=ATTN_ABI_VERSION={ABI_VERSION}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libattn.so.{ABI_VERSION}");
        // A build of the whole workspace turns features on whose crates define the driver's own symbols. They come in archives,
        // which this hides: a process that loads this library must go on finding the driver's.
        println!("cargo::rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
        // A program may close the library while others hold tensors that its code deletes.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
