//! `include/attn.h` is what cbindgen makes of the source. `ATTN_BLESS=1` rewrites it.

use std::path::Path;
use std::{env, fs};

#[test]
fn the_header_is_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a valid configuration");
    let bindings = cbindgen::Builder::new().with_crate(root).with_config(config).generate().expect("the source parses");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).expect("UTF-8");
    let path = root.join("include/attn.h");
    if env::var_os("ATTN_BLESS").is_some() {
        fs::write(&path, &made).expect("writable");
    }
    let committed = fs::read_to_string(&path).expect("committed");
    assert!(
        made == committed,
        "include/attn.h is not what cbindgen makes; ATTN_BLESS=1 cargo test -p attn-capi --test header"
    );
}
