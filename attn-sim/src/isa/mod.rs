//! The instructions: each module decodes the opcodes of one hardware unit or one kind of arithmetic, and executes them.
//!
//! The contract is in [`machine::execute`](crate::machine::execute). A module has `decode`, which gets an instruction
//! whose opcode is the module's in [`decode`]; what it does not model is
//! [`Decode::unsupported`](crate::machine::decode::Decode::unsupported), never a guess.

mod async_copy;
#[cfg(test)]
mod async_tests;
mod atomic;
mod barrier;
mod bits;
mod bulk;
mod carry;
mod cluster;
mod compare;
mod control;
mod convert;
mod fence;
mod float;
mod form;
mod grid;
mod groups;
mod int;
mod lane;
mod ldst;
mod matrix;
mod mbarrier;
mod mov;
mod operand;
mod order;
mod regs;
mod space;
mod system;
mod tcgen05;
mod tensormap;
#[cfg(test)]
mod testing;
mod tma;
mod warp;
mod wgmma;
mod words;

use crate::machine::decode::Decode;
use crate::machine::execute::Execute;
use crate::report::Unsupported;

pub(crate) use system::is_system;

/// A decoded instruction, or why there is none.
pub type Decoded = Result<Box<dyn Execute>, Unsupported>;

/// Decodes an instruction. The table of opcodes.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    match cx.inst.opcode.as_str() {
        "mov" => mov::decode(cx),
        "bra" | "brx" | "ret" | "exit" | "trap" | "nanosleep" | "pmevent" | "brkpt" => control::decode(cx),
        "call" => system::decode(cx),
        "ldmatrix" | "stmatrix" | "movmatrix" | "mma" => matrix::decode(cx),
        "tcgen05" => tcgen05::decode(cx),
        "wgmma" => wgmma::decode(cx),
        "add" | "sub" | "mul" | "mad" | "div" | "abs" | "neg" | "min" | "max" if float::is_float(cx) => {
            float::decode(cx)
        }
        "add" | "sub" | "mul" | "mad" | "div" | "abs" | "neg" | "min" | "max" => int::decode(cx),
        "fma" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" => float::decode(cx),
        "rem" | "sad" | "mul24" | "mad24" | "dp4a" | "dp2a" => int::decode(cx),
        "addc" | "subc" | "madc" => carry::decode(cx),
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" | "prmt" => bits::decode(cx),
        "popc" | "clz" | "brev" | "bfind" | "fns" | "bfe" | "bfi" | "bmsk" | "szext" => bits::decode(cx),
        "setp" | "set" | "selp" | "slct" | "testp" => compare::decode(cx),
        "cvt" => convert::decode(cx),
        "cvta" | "isspacep" | "mapa" | "getctarank" => space::decode(cx),
        "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" => warp::decode(cx),
        "bar" if cx.has("warp") => warp::decode(cx),
        "atom" | "red" if !cx.has("async") => atomic::decode(cx),
        "membar" => order::decode(cx),
        "fence" if !cx.modifiers().any(|m| m.starts_with("proxy") || m == "mbarrier_init") => order::decode(cx),
        "st" if !cx.has("async") && !cx.has("bulk") => ldst::decode(cx),
        "ld" | "ldu" | "createpolicy" | "discard" | "prefetchu" | "applypriority" => ldst::decode(cx),
        "prefetch" if !cx.has("tensormap") => ldst::decode(cx),
        "bar" | "barrier" => barrier::decode(cx),
        "clusterlaunchcontrol" => grid::decode_clusterlaunchcontrol(cx),
        "cp" => async_copy::decode(cx),
        "fence" if fence::is_between_proxies(cx) => fence::decode(cx),
        "griddepcontrol" => grid::decode_griddepcontrol(cx),
        "mbarrier" => mbarrier::decode(cx),
        "prefetch" if cx.has("tensormap") => tma::decode_prefetch(cx),
        "setmaxnreg" => regs::decode(cx),
        "st" if cx.has("bulk") => bulk::decode_fill(cx),
        "st" | "red" if cx.has("async") => cluster::decode_async(cx),
        "tensormap" => tensormap::decode(cx),
        _ => Err(cx.unsupported("no such opcode in the table")),
    }
}

/// What runs when a kernel's last instruction is passed.
pub fn end_of_kernel() -> Box<dyn Execute> {
    Box::new(control::Exit)
}
