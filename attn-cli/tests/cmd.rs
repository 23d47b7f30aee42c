//! What the program says, word for word: help, errors, plans and tables. `TRYCMD=overwrite` rewrites the files.

#[test]
fn what_is_printed() {
    trycmd::TestCases::new().env("COLUMNS", "120").case("tests/cmd/*.trycmd");
}
