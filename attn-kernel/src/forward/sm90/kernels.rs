//! The instantiations: a line each, and the entry point that it expands to.
//!
//! `cargo xtask tune` compiles other ones in their place, with `--cfg attn_variants`: the same entry points with other plans, in a
//! file of `instance!` lines that `ATTN_VARIANTS` names.

use super::Variant;
use super::{Dense, Ragged};
// What only entry points use, which other architectures do not have.
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_90a"))]
use super::{Maps, Sequences, forward};
use crate::attn::mask::{Causal, Full, Mask, Until, Window};
use crate::attn::scores::{Modified, Plain};
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_90a"))]
use crate::forward::TensorMap;
use crate::forward::plan::{AnyPlan, Arch, DType, Family, Kernel, Plan};
use crate::forward::tune;
use crate::mem::{Bf16, E4m3, F16};
use crate::ptx::regs;

/// What is known of the kernel `name` that is compiled from `plan`.
pub const fn describe(name: &'static str, dtype: DType, causal: bool, plan: Plan) -> Kernel {
    Kernel {
        name,
        arch: Arch::Sm90a,
        dtype,
        causal,
        family: Family::Dense,
        launch: plan.launch(),
        plan: AnyPlan::Sm90(plan),
    }
}

macro_rules! kernels {
    ($($name:ident: $dtype:ident, $d:literal, $dv:literal, $mask:ident $(, $class:ident)?;)*) => {
        /// The kernels of this file.
        pub const KERNELS: &[Kernel] = &[$(describe(
            stringify!($name),
            DType::$dtype,
            <$mask as Mask>::PARTIAL_BLOCKS,
            tune::plan_of($d, $dv, <$mask as Mask>::PARTIAL_BLOCKS, concat!($(stringify!($class))?)),
        )),*];

        $(
        #[cfg(not(attn_variants))]
        instance! {
            $name: $dtype, $mask,
            tune::plan_of($d, $dv, <$mask as Mask>::PARTIAL_BLOCKS, concat!($(stringify!($class))?))
        }
        )*
    };
}

/// What is known of the serving kernel `name`.
const fn describe_serving(name: &'static str, dtype: DType, family: Family, plan: Plan) -> Kernel {
    Kernel { family, ..describe(name, dtype, false, plan) }
}

macro_rules! serving_kernels {
    ($($name:ident: $dtype:ident $(of $operand:ident)?, $d:literal, $dv:literal, $class:ident, $scores:ident, $mask:ident, $family:expr;)*) => {
        /// The kernels for serving.
        pub const SERVING_KERNELS: &[Kernel] = &[$(describe_serving(
            stringify!($name),
            DType::$dtype,
            $family,
            tune::ragged_plan($d, $dv, stringify!($class)),
        )),*];

        $(
        #[cfg(not(attn_variants))]
        instance! { $name: $dtype $(of $operand)?, $mask, tune::ragged_plan($d, $dv, stringify!($class)), $scores, Ragged }
        )*
    };
}

/// One entry point, in a module of its name.
macro_rules! instance {
    ($name:ident: $dtype:ident, $mask:ident, $plan:expr) => {
        instance! { $name: $dtype, $mask, $plan, Plain, Dense }
    };
    ($name:ident: $dtype:ident, $mask:ident, $plan:expr, $scores:ident, $sequences:ident) => {
        instance! { $name: $dtype of $dtype, $mask, $plan, $scores, $sequences }
    };
    ($name:ident: $dtype:ident of $operand:ident, $mask:ident, $plan:expr, $scores:ident, $sequences:ident) => {
        /// One instantiation: its plan, parts, and the entry point.
        pub mod $name {
            use super::*;

            const PLAN: Plan = $plan;

            enum This {}

            impl Variant for This {
                const PLAN: Plan = PLAN;
                type Element = $dtype;
                type Operand = $operand;
                type Mask = $mask;
                type Scores = $scores;
                type Sequences = $sequences;

                #[inline(always)]
                unsafe fn enter_consumer() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_inc::<{ PLAN.regs.consumer }>() }
                }

                #[inline(always)]
                unsafe fn enter_producer() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_dec::<{ PLAN.regs.producer }>() }
                }
            }

            #[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_90a"))]
            crate::kernel! {
                threads = PLAN.threads(), registers = PLAN.entry_registers(), shared = PLAN.smem().end,
                plan = PLAN.launch().fingerprint(), tensor_maps = "1,2,3,4";
                /// Forward attention; its parameters' documentation says of what.
                pub unsafe fn $name(
                    params: <$sequences as Sequences>::Params,
                    q: *const TensorMap,
                    k: *const TensorMap,
                    v: *const TensorMap,
                    o: *const TensorMap,
                ) {
                    const S: usize = PLAN.bn as usize / 2;
                    const O: usize = PLAN.dv as usize / 2;
                    const P: usize = PLAN.p_words() as usize;
                    const RAW: u32 = if PLAN.raw > 0 { PLAN.raw } else { 1 };
                    // SAFETY: the caller's promise.
                    unsafe {
                        forward::<This, S, O, P, { PLAN.stages }, { PLAN.q_stages }, { PLAN.split }, RAW>(params, Maps { q, k, v, o })
                    }
                }
            }
        }
    };
}

#[cfg(attn_variants)]
include!(env!("ATTN_VARIANTS"));

kernels! {
    fwd_sm90_bf16_d32: Bf16, 32, 32, Full;
    fwd_sm90_bf16_d32_causal: Bf16, 32, 32, Causal;
    fwd_sm90_bf16_d64: Bf16, 64, 64, Full;
    fwd_sm90_bf16_d64_small: Bf16, 64, 64, Full, small;
    fwd_sm90_bf16_d64_causal: Bf16, 64, 64, Causal;
    fwd_sm90_bf16_d64_causal_short: Bf16, 64, 64, Causal, short;
    fwd_sm90_bf16_d64_causal_small: Bf16, 64, 64, Causal, small;
    fwd_sm90_bf16_d96: Bf16, 96, 96, Full;
    fwd_sm90_bf16_d96_causal: Bf16, 96, 96, Causal;
    fwd_sm90_bf16_d128: Bf16, 128, 128, Full;
    fwd_sm90_bf16_d128_small: Bf16, 128, 128, Full, small;
    fwd_sm90_bf16_d128_causal: Bf16, 128, 128, Causal;
    fwd_sm90_bf16_d128_causal_small: Bf16, 128, 128, Causal, small;
    fwd_sm90_bf16_d192_128: Bf16, 192, 128, Full;
    fwd_sm90_bf16_d192_128_causal: Bf16, 192, 128, Causal;
    fwd_sm90_bf16_d192: Bf16, 192, 192, Full;
    fwd_sm90_bf16_d192_causal: Bf16, 192, 192, Causal;
    fwd_sm90_bf16_d256: Bf16, 256, 256, Full;
    fwd_sm90_bf16_d256_causal: Bf16, 256, 256, Causal;
    fwd_sm90_f16_d32: F16, 32, 32, Full;
    fwd_sm90_f16_d32_causal: F16, 32, 32, Causal;
    fwd_sm90_f16_d64: F16, 64, 64, Full;
    fwd_sm90_f16_d64_small: F16, 64, 64, Full, small;
    fwd_sm90_f16_d64_causal: F16, 64, 64, Causal;
    fwd_sm90_f16_d64_causal_short: F16, 64, 64, Causal, short;
    fwd_sm90_f16_d64_causal_small: F16, 64, 64, Causal, small;
    fwd_sm90_f16_d96: F16, 96, 96, Full;
    fwd_sm90_f16_d96_causal: F16, 96, 96, Causal;
    fwd_sm90_f16_d128: F16, 128, 128, Full;
    fwd_sm90_f16_d128_small: F16, 128, 128, Full, small;
    fwd_sm90_f16_d128_causal: F16, 128, 128, Causal;
    fwd_sm90_f16_d128_causal_small: F16, 128, 128, Causal, small;
    fwd_sm90_f16_d192_128: F16, 192, 128, Full;
    fwd_sm90_f16_d192_128_causal: F16, 192, 128, Causal;
    fwd_sm90_f16_d192: F16, 192, 192, Full;
    fwd_sm90_f16_d192_causal: F16, 192, 192, Causal;
    fwd_sm90_f16_d256: F16, 256, 256, Full;
    fwd_sm90_f16_d256_causal: F16, 256, 256, Causal;
}

serving_kernels! {
    short_sm90_bf16_d64: Bf16, 64, 64, short, Plain, Until, Family::Short;
    short_sm90_bf16_d128: Bf16, 128, 128, short, Plain, Until, Family::Short;
    short_sm90_f16_d64: F16, 64, 64, short, Plain, Until, Family::Short;
    short_sm90_f16_d128: F16, 128, 128, short, Plain, Until, Family::Short;
    prompt_sm90_bf16_d64: Bf16, 64, 64, prompt, Plain, Until, Family::Prompt;
    prompt_sm90_bf16_d128: Bf16, 128, 128, prompt, Plain, Until, Family::Prompt;
    prompt_sm90_f16_d64: F16, 64, 64, prompt, Plain, Until, Family::Prompt;
    prompt_sm90_f16_d128: F16, 128, 128, prompt, Plain, Until, Family::Prompt;
    serve_sm90_bf16_d32: Bf16, 32, 32, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_bf16_d64: Bf16, 64, 64, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_bf16_d96: Bf16, 96, 96, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_bf16_d128: Bf16, 128, 128, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_bf16_d192_128: Bf16, 192, 128, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_bf16_d256: Bf16, 256, 256, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_bf16_d32_mod: Bf16, 32, 32, serve, Modified, Window, Family::Serve { modified: true };
    serve_sm90_bf16_d64_mod: Bf16, 64, 64, serve, Modified, Window, Family::Serve { modified: true };
    serve_sm90_bf16_d96_mod: Bf16, 96, 96, serve, Modified, Window, Family::Serve { modified: true };
    serve_sm90_bf16_d128_mod: Bf16, 128, 128, serve_mod, Modified, Window, Family::Serve { modified: true };
    serve_sm90_bf16_d192_128_mod: Bf16, 192, 128, serve, Modified, Window, Family::Serve { modified: true };
    serve_sm90_bf16_d256_mod: Bf16, 256, 256, serve, Modified, Window, Family::Serve { modified: true };
    decode_sm90_bf16_d32: Bf16, 32, 32, decode, Modified, Window, Family::Decode;
    decode_sm90_bf16_d64: Bf16, 64, 64, decode, Modified, Window, Family::Decode;
    decode_sm90_bf16_d96: Bf16, 96, 96, decode, Modified, Window, Family::Decode;
    decode_sm90_bf16_d128: Bf16, 128, 128, decode, Modified, Window, Family::Decode;
    decode_sm90_bf16_d192_128: Bf16, 192, 128, decode, Modified, Window, Family::Decode;
    decode_sm90_bf16_d256: Bf16, 256, 256, decode, Modified, Window, Family::Decode;
    serve_sm90_f16_d32: F16, 32, 32, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_f16_d64: F16, 64, 64, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_f16_d96: F16, 96, 96, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_f16_d128: F16, 128, 128, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_f16_d192_128: F16, 192, 128, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_f16_d256: F16, 256, 256, serve, Plain, Window, Family::Serve { modified: false };
    serve_sm90_f16_d32_mod: F16, 32, 32, serve, Modified, Window, Family::Serve { modified: true };
    serve_sm90_f16_d64_mod: F16, 64, 64, serve, Modified, Window, Family::Serve { modified: true };
    serve_sm90_f16_d96_mod: F16, 96, 96, serve, Modified, Window, Family::Serve { modified: true };
    serve_sm90_f16_d128_mod: F16, 128, 128, serve_mod, Modified, Window, Family::Serve { modified: true };
    serve_sm90_f16_d192_128_mod: F16, 192, 128, serve, Modified, Window, Family::Serve { modified: true };
    serve_sm90_f16_d256_mod: F16, 256, 256, serve, Modified, Window, Family::Serve { modified: true };
    decode_sm90_f16_d32: F16, 32, 32, decode, Modified, Window, Family::Decode;
    decode_sm90_f16_d64: F16, 64, 64, decode, Modified, Window, Family::Decode;
    decode_sm90_f16_d96: F16, 96, 96, decode, Modified, Window, Family::Decode;
    decode_sm90_f16_d128: F16, 128, 128, decode, Modified, Window, Family::Decode;
    decode_sm90_f16_d192_128: F16, 192, 128, decode, Modified, Window, Family::Decode;
    decode_sm90_f16_d256: F16, 256, 256, decode, Modified, Window, Family::Decode;
    serve_sm90_bf16_kv8_d64: Bf16, 64, 64, serve_kv8, Modified, Window, Family::Serve { modified: true };
    serve_sm90_bf16_kv8_d128: Bf16, 128, 128, serve_kv8, Modified, Window, Family::Serve { modified: true };
    serve_sm90_bf16_kv8_d256: Bf16, 256, 256, serve_kv8, Modified, Window, Family::Serve { modified: true };
    decode_sm90_bf16_kv8_d64: Bf16, 64, 64, decode_kv8, Modified, Window, Family::Decode;
    decode_sm90_bf16_kv8_d128: Bf16, 128, 128, decode_kv8, Modified, Window, Family::Decode;
    decode_sm90_bf16_kv8_d256: Bf16, 256, 256, decode_kv8, Modified, Window, Family::Decode;
    serve_sm90_f16_kv8_d64: F16, 64, 64, serve_kv8, Modified, Window, Family::Serve { modified: true };
    serve_sm90_f16_kv8_d128: F16, 128, 128, serve_kv8, Modified, Window, Family::Serve { modified: true };
    serve_sm90_f16_kv8_d256: F16, 256, 256, serve_kv8, Modified, Window, Family::Serve { modified: true };
    decode_sm90_f16_kv8_d64: F16, 64, 64, decode_kv8, Modified, Window, Family::Decode;
    decode_sm90_f16_kv8_d128: F16, 128, 128, decode_kv8, Modified, Window, Family::Decode;
    decode_sm90_f16_kv8_d256: F16, 256, 256, decode_kv8, Modified, Window, Family::Decode;
    serve_sm90_e4m3_d64: Bf16 of E4m3, 64, 64, serve_e4m3, Plain, Window, Family::Serve { modified: false };
    serve_sm90_e4m3_d128: Bf16 of E4m3, 128, 128, serve_e4m3, Plain, Window, Family::Serve { modified: false };
    serve_sm90_e4m3_d256: Bf16 of E4m3, 256, 256, serve_e4m3, Plain, Window, Family::Serve { modified: false };
    serve_sm90_e4m3_d64_mod: Bf16 of E4m3, 64, 64, serve_e4m3, Modified, Window, Family::Serve { modified: true };
    serve_sm90_e4m3_d128_mod: Bf16 of E4m3, 128, 128, serve_e4m3, Modified, Window, Family::Serve { modified: true };
    serve_sm90_e4m3_d256_mod: Bf16 of E4m3, 256, 256, serve_mod_e4m3, Modified, Window, Family::Serve { modified: true };
}
