//! The shapes of matrix multiplies.
//!
//! Hopper's instructions carry theirs in the name. Blackwell's take it from an instruction descriptor in a uniform
//! register; where that is filled with a constant, the constant is found and decoded.

use super::flow::Flow;
use super::loops::instructions;
use super::parse::{Instruction, Kernel};

/// One matrix multiply, as one warp issues it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Rows of the result.
    pub m: u32,
    /// Columns of the result.
    pub n: u32,
    /// Length of the sums.
    pub k: u32,
    /// Bits of an element of the factors.
    bits: u32,
    /// How many times as fast as with 16-bit factors.
    pub speed: f64,
    /// Whether the left factor comes from shared memory.
    left_shared: bool,
    /// Warps that issue it together, each a part.
    warps: u32,
    /// Multiprocessors that do it together, each a part.
    sms: u32,
}

impl Product {
    /// Operations on one multiprocessor for one warp's instruction.
    pub fn flops(&self) -> f64 {
        2.0 * f64::from(self.m * self.n * self.k) / f64::from(self.warps * self.sms)
    }

    /// Whether one thread starts it, as all multiplies of tcgen05.
    pub fn of_one_thread(self) -> bool {
        self.warps == 1
    }

    /// Bytes of factors read from one multiprocessor's shared memory for one warp's instruction.
    pub fn shared_bytes(&self) -> f64 {
        let rows = self.n + if self.left_shared { self.m } else { 0 };
        f64::from(rows * self.k * self.bits) / 8.0 / f64::from(self.warps * self.sms)
    }
}

/// Whether `instruction` multiplies matrices.
pub fn multiplies(instruction: &Instruction) -> bool {
    matches!(instruction.base(), "HGMMA" | "QGMMA" | "IGMMA") || blackwell(instruction)
}

/// Whether it is one of tcgen05.
pub fn blackwell(instruction: &Instruction) -> bool {
    matches!(instruction.base(), "UTCHMMA" | "UTCQMMA" | "UTCOMMA" | "UTCIMMA")
}

/// The shape of the instruction at `index` in `block`; none where its descriptor is not a constant.
pub fn product(kernel: &Kernel, flow: &Flow, block: usize, index: usize) -> Option<Product> {
    let instruction = &kernel.instructions[index];
    if let Some(shape) = instruction.name.split('.').find_map(dimensions).filter(|_| !blackwell(instruction)) {
        return Some(hopper(instruction, shape));
    }
    let register = instruction.operands.iter().find_map(|o| o.strip_prefix("idesc[")?.strip_suffix(']'))?;
    Some(tcgen05(instruction, constant(kernel, flow, block, index, register)?))
}

/// `64x128x16`.
fn dimensions(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split('x').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some([next()?, next()?, next()?])
}

fn hopper(instruction: &Instruction, [m, n, k]: [u32; 3]) -> Product {
    // 32 bytes of K in every instruction.
    let bits = 256 / k;
    let left_shared = instruction.operands.get(1).is_some_and(|operand| operand.starts_with("gdesc"));
    Product { m, n, k, bits, speed: 16.0 / f64::from(bits), left_shared, warps: 4, sms: 1 }
}

fn tcgen05(instruction: &Instruction, descriptor: u32) -> Product {
    let field = |shift: u32, bits: u32| (descriptor >> shift) & ((1 << bits) - 1);
    let tf32 = instruction.base() == "UTCHMMA" && field(7, 3) == 2;
    let bits = match instruction.base() {
        "UTCHMMA" if tf32 => 32,
        "UTCHMMA" => 16,
        "UTCOMMA" => 4,
        _ => 8,
    };
    Product {
        m: field(24, 5) * 16,
        n: field(17, 6) * 8,
        k: 256 / bits,
        bits,
        speed: 16.0 / f64::from(bits),
        left_shared: instruction.operands.first().is_some_and(|operand| operand.starts_with("gdesc")),
        warps: 1,
        sms: if instruction.has("2CTA") { 2 } else { 1 },
    }
}

/// The constant last moved to `register` before the instruction at `index`, looked for in its block and in those that
/// dominate it.
fn constant(kernel: &Kernel, flow: &Flow, block: usize, index: usize, register: &str) -> Option<u32> {
    let before = &kernel.instructions[flow.blocks[block].first..index];
    let writes = |i: &&Instruction| i.operands.first().is_some_and(|target| target == register);
    let mut found = before.iter().rfind(writes);
    let mut above = flow.dominator(block);
    while let (None, Some(block)) = (found, above) {
        found = instructions(kernel, flow, block).iter().rfind(writes);
        above = flow.dominator(block);
    }
    let definition = found.filter(|i| i.base() == "UMOV")?;
    u32::from_str_radix(definition.operands.get(1)?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sass_report::parse::kernels;

    fn shape_of(code: &[&str]) -> Option<Product> {
        let mut text = "\t.target\tsm_100a\n\t.section\t.text.k,\"ax\"\n".to_owned();
        for (index, line) in code.iter().enumerate() {
            text.push_str(&format!("        /*{:04x}*/ {line} ;\n", index * 16));
        }
        let kernel = kernels(&text).unwrap().remove(0);
        let flow = Flow::of(&kernel);
        let index = kernel.instructions.iter().position(multiplies).unwrap();
        let block = flow.blocks.iter().position(|b| (b.first..b.end).contains(&index)).unwrap();
        product(&kernel, &flow, block, index)
    }

    #[test]
    fn hopper_names_its_shape() {
        let from_registers = shape_of(&["HGMMA.64x128x16.F32.BF16 R88, R180, gdesc[UR8].tnspB, R88"]).unwrap();
        assert_eq!((from_registers.flops(), from_registers.shared_bytes()), (65536.0, 1024.0));
        let from_shared = shape_of(&["HGMMA.64x128x16.F32.BF16 R88, gdesc[UR8], R88, !UPT"]).unwrap();
        assert_eq!(from_shared.shared_bytes(), 1536.0);
    }

    #[test]
    fn blackwell_takes_it_from_a_constant_descriptor() {
        let multiply = "UTCHMMA tmem[UR75], gdesc[UR8], tmem[UR6], tmem[UR24], idesc[UR25], !UPT";
        let found = shape_of(&["UMOV UR25, 0x8210490", "UMOV UR24, URZ", "@P0 EXIT", multiply]).unwrap();
        assert_eq!((found.m, found.n, found.k), (128, 128, 16));
        assert_eq!((found.flops(), found.shared_bytes()), (524_288.0, 4096.0));
        assert_eq!(shape_of(&["UMOV UR25, 0x8210490", "UIADD3 UR25, UPT, UPT, UR25, UR4, URZ", multiply]), None);
    }
}
