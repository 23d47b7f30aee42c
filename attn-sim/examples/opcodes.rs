//! Prints which opcode forms PTX files use, how often, and which of them the machine does not model:
//! `cargo run -p attn-sim --example opcodes -- FILE..`.

use std::collections::BTreeMap;
use std::error::Error;

use attn_sim::ptx::Module;
use attn_sim::{Gpu, report::Unsupported};

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() || files.iter().any(|f| f == "--help") {
        println!(
            "usage: opcodes FILE..\nPrints the opcode forms of PTX files with their counts, and why a form is not modelled."
        );
        return Ok(());
    }
    let mut forms: BTreeMap<String, usize> = BTreeMap::new();
    let mut missing: BTreeMap<String, (String, String, usize)> = BTreeMap::new();
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
        let module = Module::parse(&text).map_err(|e| format!("{file}: {e}"))?;
        for instruction in module.functions.iter().flat_map(|f| &f.code) {
            *forms.entry(instruction.to_string()).or_default() += 1;
        }
        for u in unsupported(module) {
            let place = format!("{file}:{}", u.line);
            missing.entry(u.instruction).or_insert((u.reason, place, 0)).2 += 1;
        }
    }
    forms.iter().for_each(|(form, count)| println!("{count:8} {form}"));
    println!("{} forms, {} of them not modelled", forms.len(), missing.len());
    missing.iter().for_each(|(form, (reason, place, count))| println!("{count:8} {form}: {reason} ({place})"));
    Ok(())
}

/// All instructions of a module's kernels that are not modelled: each is replaced by another one until the kernel decodes.
fn unsupported(mut module: Module) -> Vec<Unsupported> {
    let names: Vec<String> = module.functions.iter().filter(|f| f.entry).map(|f| f.name.clone()).collect();
    let mut all = Vec::new();
    for name in names {
        while let Err(attn_sim::Error::Unsupported(u)) = Gpu::new().load_module(module.clone()).kernel(&name) {
            let Some(instruction) = module
                .functions
                .iter_mut()
                .flat_map(|f| &mut f.code)
                .find(|i| i.line == u.line && i.to_string() == u.instruction)
            else {
                all.push(u);
                break;
            };
            (instruction.opcode, instruction.modifiers, instruction.operands) = ("trap".into(), Vec::new(), Vec::new());
            instruction.guard = None;
            all.push(u);
        }
    }
    all
}
