//! Prints which opcode forms PTX files use, and how often: `cargo run -p attn-sim --example opcodes -- FILE..`.

use std::collections::BTreeMap;
use std::error::Error;

use attn_sim::ptx::Module;

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() || files.iter().any(|f| f == "--help") {
        println!("usage: opcodes FILE..\nPrints the opcode forms of PTX files with their counts.");
        return Ok(());
    }
    let mut forms: BTreeMap<String, usize> = BTreeMap::new();
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
        let module = Module::parse(&text).map_err(|e| format!("{file}: {e}"))?;
        for instruction in module.functions.iter().flat_map(|f| &f.code) {
            *forms.entry(instruction.to_string()).or_default() += 1;
        }
    }
    for (form, count) in forms {
        println!("{count:8} {form}");
    }
    Ok(())
}
