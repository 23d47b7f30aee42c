//! Runs a few lines of PTX on one warp, for the tests of instructions.

use crate::{Error, Gpu, Launch, Run};

/// What a run left in its output.
pub(super) struct Ran {
    /// The 64-bit result of each lane.
    pub(super) out: Vec<u64>,
    /// Counters and findings.
    pub(super) run: Run,
}

/// Runs `body` on one warp. It finds `%rd<16>`, `%r<32>`, `%f<8>`, `%h<8>` (16 bits), `%p<8>`, `%q<4>` (128 bits), the
/// operands `inputs` in `%a0`, `%a1` and so on (64 bits), `%lane` (32 bits), and 256 bytes of `.shared buf`. Its result is
/// what it leaves in `%out` (64 bits), by lane. `head` is put before the kernel.
pub(super) fn try_run(head: &str, body: &str, inputs: &[u64]) -> Result<Ran, Error> {
    let loads: String = (0..inputs.len()).map(|i| format!("ld.param.b64 %a{i}, [in+{}];\n", 8 * i)).collect();
    let text = format!(
        ".version 9.0\n.target sm_100a\n.address_size 64\n{head}\n\
         .visible .entry k(.param .u64 out, .param .align 8 .b8 in[128]) {{\n\
         .reg .b64 %rd<16>, %a<16>, %out, %to; .reg .b32 %r<32>, %lane, %slot; .reg .f32 %f<8>; .reg .b16 %h<8>;\n\
         .reg .pred %p<8>; .reg .b128 %q<4>; .shared .align 32 .b8 buf[256];\n{loads}\
         mov.u32 %lane, %tid.x; mov.b64 %out, 0;\n{body}\n\
         ld.param.u64 %to, [out]; shl.b32 %slot, %lane, 3; cvt.u64.u32 %rd15, %slot; add.s64 %to, %to, %rd15;\n\
         st.global.b64 [%to], %out; ret; }}"
    );
    let mut gpu = Gpu::new();
    let kernel = gpu.load(&text)?.kernel("k")?;
    let out = gpu.alloc(256);
    let mut bytes: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.resize(128, 0);
    let params = vec![out.to_le_bytes().to_vec(), bytes];
    let launch = Launch { block: [32, 1, 1], params, threads: 1, ..Launch::default() };
    let run = launch.run(&mut gpu, &kernel)?;
    let out = gpu.read(out, 256)?.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("8 bytes"))).collect();
    Ok(Ran { out, run })
}

/// Runs `body`, which must be supported and break no rule, and gives every lane's result.
pub(super) fn lanes(head: &str, body: &str, inputs: &[u64]) -> Vec<u64> {
    let ran = try_run(head, body, inputs).unwrap_or_else(|e| panic!("{body}: {e}"));
    assert!(ran.run.findings.is_empty(), "{body}: {:?}", ran.run.findings);
    ran.out
}

/// The result of lane 0, which all lanes must have.
pub(super) fn value(body: &str, inputs: &[u64]) -> u64 {
    let out = lanes("", body, inputs);
    assert!(out.iter().all(|v| *v == out[0]), "{body}: {out:x?}");
    out[0]
}

/// Applies an instruction to operands of these widths and gives its result of `width` bits: `apply("add.s32", 32, &[(32, 1),
/// (32, 2)])`.
pub(super) fn apply(form: &str, width: u32, operands: &[(u32, u64)]) -> u64 {
    let mut body = format!(".reg .b{width} d;\n");
    let mut names = String::new();
    for (i, (bits, _)) in operands.iter().enumerate() {
        let (ty, load) = match bits {
            1 => ("pred".into(), format!("setp.ne.b64 x{i}, %a{i}, 0;\n")),
            64 => ("b64".into(), format!("mov.b64 x{i}, %a{i};\n")),
            bits => (format!("b{bits}"), format!("cvt.u{bits}.u64 x{i}, %a{i};\n")),
        };
        body += &format!(".reg .{ty} x{i};\n{load}");
        names += &format!(", x{i}");
    }
    body += &format!("{form} d{names};\n");
    body += &if width == 64 { "mov.b64 %out, d;".to_owned() } else { format!("cvt.u64.u{width} %out, d;") };
    let inputs: Vec<u64> = operands.iter().map(|(_, v)| *v).collect();
    value(&body, &inputs)
}

/// Asserts that a table of `(form, result width, operand width, operands, result)` holds.
pub(super) fn table(rows: &[(&str, u32, u32, &[u64], u64)]) {
    for (form, width, operand, values, expected) in rows {
        let operands: Vec<(u32, u64)> = values.iter().map(|v| (*operand, *v)).collect();
        let got = apply(form, *width, &operands);
        assert_eq!(got, *expected, "{form} {values:x?}: {got:#x}, expected {expected:#x}");
    }
}

/// Asserts that `line` is refused, with its line and its opcode.
pub(super) fn refused(line: &str) {
    match try_run("", line, &[]) {
        Err(Error::Unsupported(e)) => {
            let opcode = line.split(['.', ' ']).next().expect("an opcode");
            assert!(e.instruction.starts_with(opcode) && e.line > 0, "{e}");
        }
        Err(other) => panic!("{line}: {other}"),
        Ok(_) => panic!("{line}: was executed"),
    }
}
