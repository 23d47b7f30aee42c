//! Which forms of instructions the machine takes: `data/forms.txt` lists some 900, all of which ptxas (of CUDA 13.5) assembles for the
//! target at the start of their line. Those that are refused stand behind the first line that begins with `#`; none other may be, and none
//! of them may be taken. All of them parse.

use attn_sim::{Error, Gpu};

/// A kernel with registers of every kind around one instruction.
fn kernel(target: &str, instruction: &str) -> String {
    format!(
        ".version 9.5\n.target {target}\n.address_size 64\n\
         .visible .entry k(.param .u64 p) {{\n\
         .reg .b32 %r<32>, s; .reg .f32 %f<32>; .reg .b16 %h<16>; .reg .b64 %d<32>, x; .reg .pred %p<8>;\n\
         .reg .b128 %q<4>; .reg .b8 %c<4>;\n\
         ld.param.u64 x, [p]; mov.u32 s, 0;\n{instruction};\nret; }}"
    )
}

fn taken(target: &str, instruction: &str) -> Result<(), Error> {
    Gpu::new().load(&kernel(target, instruction))?.kernel("k").map(|_| ())
}

#[test]
fn forms_that_ptxas_assembles() {
    let mut refused = false;
    let mut wrong = Vec::new();
    for line in include_str!("data/forms.txt").lines().filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            refused = true;
            continue;
        }
        let (target, instruction) = line.split_once(' ').expect("a target and an instruction");
        match (taken(target, instruction), refused) {
            (Ok(()), true) => wrong.push(format!("{line}: is taken")),
            (Err(Error::Unsupported(e)), true) if e.line == 0 => wrong.push(format!("{line}: refused without a line")),
            (Err(error @ Error::Parse(_)), true) => wrong.push(format!("{line}: {error}")),
            (Err(error), false) => wrong.push(format!("{line}: {error}")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} forms:\n{}", wrong.len(), wrong.join("\n"));
}
