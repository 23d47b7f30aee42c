//! The page in headless Chromium.

mod common;

use std::path::Path;
use std::process::Command;

use common::Running;

/// Exit status of the script where there is no Chromium.
const SKIPPED: i32 = 77;

#[test]
fn the_page_shows_the_matrix_and_every_error() {
    let service = Running::start("--device cpu");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page.py");
    let output = Command::new("python3").arg(script).arg(format!("http://{}", service.address)).output();
    let output = output.expect("python3 is there");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    if output.status.code() == Some(SKIPPED) {
        // Past the test's captured output: nobody should think that this has been tested.
        std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).expect("standard error");
        return;
    }
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
