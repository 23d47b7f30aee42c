//! The instructions: each module decodes the opcodes of one hardware unit or one kind of arithmetic, and executes them.
//!
//! The contract is in [`machine::execute`](crate::machine::execute). A module has `decode`, which gets an instruction
//! whose opcode is the module's in [`decode`]; what it does not model is
//! [`Decode::unsupported`](crate::machine::decode::Decode::unsupported), never a guess.

mod control;
mod matrix;
mod mov;
mod operand;
mod tcgen05;
mod wgmma;

use crate::machine::decode::Decode;
use crate::machine::execute::Execute;
use crate::report::Unsupported;

/// A decoded instruction, or why there is none.
pub type Decoded = Result<Box<dyn Execute>, Unsupported>;

/// Decodes an instruction. The table of opcodes.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    match cx.inst.opcode.as_str() {
        "mov" => mov::decode(cx),
        "bra" | "ret" | "exit" | "trap" => control::decode(cx),
        "ldmatrix" | "stmatrix" | "movmatrix" | "mma" => matrix::decode(cx),
        "tcgen05" => tcgen05::decode(cx),
        "wgmma" => wgmma::decode(cx),
        _ => Err(cx.unsupported("no such opcode in the table")),
    }
}

/// What runs when a kernel's last instruction is passed.
pub fn end_of_kernel() -> Box<dyn Execute> {
    Box::new(control::Exit)
}
