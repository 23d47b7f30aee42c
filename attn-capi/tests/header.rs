//! The headers in `include` are what cbindgen makes of the source. `ATTN_BLESS=1` rewrites them.

use std::path::Path;
use std::{env, fs};

use cbindgen::{Builder, Config};

fn compare(header: &str, config: &str, source: impl FnOnce(Builder, &Path) -> Builder) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::from_file(root.join(config)).expect("a valid configuration");
    let bindings = source(Builder::new(), root).with_config(config).generate().expect("the source parses");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).expect("UTF-8");
    let path = root.join("include").join(header);
    if env::var_os("ATTN_BLESS").is_some() {
        fs::write(&path, &made).expect("writable");
    }
    let committed = fs::read_to_string(&path).expect("committed");
    assert!(
        made == committed,
        "include/{header} is not what cbindgen makes; ATTN_BLESS=1 cargo test -p attn-capi --test header"
    );
}

#[test]
fn attn_h_is_the_sources() {
    compare("attn.h", "cbindgen.toml", |builder, root| builder.with_crate(root));
}

// The modules of `src/dlpack` are looked for beside it, in `src`, and not found: of theirs only what is named is declared.
#[test]
fn attn_dlpack_h_is_the_sources() {
    compare("attn_dlpack.h", "cbindgen-dlpack.toml", |builder, root| {
        builder.with_src(root.join("src/dlpack.rs")).with_src(root.join("src/dlpack/cache.rs"))
    });
}
