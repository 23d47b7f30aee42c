//! The instantiations: a line each, and the entry point that it expands to.

use super::{Dense, Plan, Ragged, Variant, tune};
// What only entry points use, which other architectures do not have.
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_100a", attn_arch = "sm_103a"))]
use super::{Maps, Sequences, forward};
use crate::attn::mask::{Causal, Full, Mask, Window};
use crate::attn::scores::{Modified, Plain, Scores};
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_100a", attn_arch = "sm_103a"))]
use crate::forward::TensorMap;
use crate::forward::plan::{AnyPlan, Arch, DType, Family, Float8, Kernel};
use crate::mem::{Bf16, E4m3, F16};
use crate::ptx::regs;

// A line makes two kernels that differ in the architecture alone, by name for sm_100a and for sm_103a.
macro_rules! kernels {
    (
        $list:ident, $list_103:ident:
        $($name:ident, $name_103:ident: $dtype:ident, $d:literal, $dv:literal, $mask:ident, $tiles:literal;)*
    ) => {
        kernels! { @ "The kernels for sm_100a.", $list, Sm100a, "sm_100a": $($name: $dtype, $d, $dv, $mask, $tiles;)* }
        kernels! { @ "The kernels for sm_103a.", $list_103, Sm103a, "sm_103a": $($name_103: $dtype, $d, $dv, $mask, $tiles;)* }
    };
    (
        @ $doc:literal, $list:ident, $arch:ident, $cfg:literal:
        $($name:ident: $dtype:ident, $d:literal, $dv:literal, $mask:ident, $tiles:literal;)*
    ) => {
        #[doc = $doc]
        pub const $list: &[Kernel] = &[$(Kernel {
            name: stringify!($name),
            arch: Arch::$arch,
            dtype: DType::$dtype,
            causal: <$mask as Mask>::PARTIAL_BLOCKS,
            family: Family::Dense,
            launch: $name::PLAN.launch(),
            plan: AnyPlan::Sm100($name::PLAN),
        }),*];

        $(instance! {
            $name for $cfg: $dtype, $mask, Plain, Dense,
            tune::plan(Arch::$arch, $d, $dv, <$mask as Mask>::PARTIAL_BLOCKS, $tiles)
        })*
    };
}

// Two query tiles where O of both fits tensor memory beside the scores, which head dimension 256 does not, and where no warpgroup widens K and V.
macro_rules! serving_kernels {
    (
        $list:ident, $list_103:ident:
        $($name:ident, $name_103:ident: $dtype:ident, $d:literal, $dv:literal, $scores:ident, $tiles:literal $(, $float8:ident)?;)*
    ) => {
        serving_kernels! {
            @ "The kernels for serving, for sm_100a.", $list, Sm100a, "sm_100a":
            $($name: $dtype, $d, $dv, $scores, $tiles $(, $float8)?;)*
        }
        serving_kernels! {
            @ "The kernels for serving, for sm_103a.", $list_103, Sm103a, "sm_103a":
            $($name_103: $dtype, $d, $dv, $scores, $tiles $(, $float8)?;)*
        }
    };
    (
        @ $doc:literal, $list:ident, $arch:ident, $cfg:literal:
        $($name:ident: $dtype:ident, $d:literal, $dv:literal, $scores:ident, $tiles:literal $(, $float8:ident)?;)*
    ) => {
        #[doc = $doc]
        pub const $list: &[Kernel] = &[$(Kernel {
            name: stringify!($name),
            arch: Arch::$arch,
            dtype: DType::$dtype,
            causal: false,
            family: family(<$scores as Scores>::MODIFIED, $tiles),
            launch: $name::PLAN.launch(),
            plan: AnyPlan::Sm100($name::PLAN),
        }),*];

        $(instance! {
            $name for $cfg: $dtype $($float8)?, Window, $scores, Ragged,
            tune::serving(Arch::$arch, $d, $dv, $tiles, float8!($($float8)?))
        })*
    };
}

/// Which of Q, K and V are of 8 bits.
macro_rules! float8 {
    () => {
        Float8::None
    };
    ($which:ident) => {
        Float8::$which
    };
}

/// What they are multiplied as.
macro_rules! operand {
    ($dtype:ident All) => {
        E4m3
    };
    ($dtype:ident $(Keys)?) => {
        $dtype
    };
}

/// One entry point, in a module of its name.
macro_rules! instance {
    ($name:ident for $cfg:literal: $dtype:ident $($float8:ident)?, $mask:ident, $scores:ident, $sequences:ident, $plan:expr) => {
        /// One instantiation: its plan, parts, and the entry point.
        pub mod $name {
            use super::*;

            pub(super) const PLAN: Plan = $plan;

            enum This {}

            impl Variant for This {
                const PLAN: Plan = PLAN;
                type Element = $dtype;
                type Operand = operand!($dtype $($float8)?);
                type Mask = $mask;
                type Scores = $scores;
                type Sequences = $sequences;

                #[inline(always)]
                unsafe fn enter_softmax() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_inc::<{ PLAN.regs.softmax }>() }
                }

                #[inline(always)]
                unsafe fn enter_correction() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_dec::<{ PLAN.regs.correction }>() }
                }

                #[inline(always)]
                unsafe fn enter_convert() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_dec::<{ PLAN.convert_registers() }>() }
                }

                #[inline(always)]
                unsafe fn enter_other() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_dec::<{ PLAN.regs.other }>() }
                }
            }

            #[cfg(any(not(target_arch = "nvptx64"), attn_arch = $cfg))]
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
                    const K_PARTS: usize = PLAN.k_parts as usize;
                    const V_PARTS: usize = PLAN.v_parts as usize;
                    // SAFETY: the caller's promise.
                    unsafe { forward::<This, { PLAN.tiles }, { PLAN.stages }, K_PARTS, V_PARTS>(params, Maps { q, k, v, o }) }
                }
            }
        }
    };
}

/// Kernels of one tile that modify scores serve few queries too.
const fn family(modified: bool, tiles: u32) -> Family {
    if modified && tiles == 1 { Family::Decode } else { Family::Serve { modified } }
}

kernels! {
    KERNELS, KERNELS_SM103:
    fwd_sm100_bf16_d64, fwd_sm103_bf16_d64: Bf16, 64, 64, Full, 2;
    fwd_sm100_bf16_d64_causal, fwd_sm103_bf16_d64_causal: Bf16, 64, 64, Causal, 2;
    fwd_sm100_bf16_d96, fwd_sm103_bf16_d96: Bf16, 96, 96, Full, 2;
    fwd_sm100_bf16_d96_causal, fwd_sm103_bf16_d96_causal: Bf16, 96, 96, Causal, 2;
    fwd_sm100_bf16_d128, fwd_sm103_bf16_d128: Bf16, 128, 128, Full, 2;
    fwd_sm100_bf16_d128_causal, fwd_sm103_bf16_d128_causal: Bf16, 128, 128, Causal, 2;
    fwd_sm100_bf16_d192_128, fwd_sm103_bf16_d192_128: Bf16, 192, 128, Full, 2;
    fwd_sm100_bf16_d192_128_causal, fwd_sm103_bf16_d192_128_causal: Bf16, 192, 128, Causal, 2;
    fwd_sm100_bf16_d256, fwd_sm103_bf16_d256: Bf16, 256, 256, Full, 1;
    fwd_sm100_bf16_d256_causal, fwd_sm103_bf16_d256_causal: Bf16, 256, 256, Causal, 1;
    fwd_sm100_bf16_d64_short, fwd_sm103_bf16_d64_short: Bf16, 64, 64, Full, 1;
    fwd_sm100_bf16_d64_short_causal, fwd_sm103_bf16_d64_short_causal: Bf16, 64, 64, Causal, 1;
    fwd_sm100_bf16_d128_short, fwd_sm103_bf16_d128_short: Bf16, 128, 128, Full, 1;
    fwd_sm100_bf16_d128_short_causal, fwd_sm103_bf16_d128_short_causal: Bf16, 128, 128, Causal, 1;
    fwd_sm100_bf16_d192_128_short, fwd_sm103_bf16_d192_128_short: Bf16, 192, 128, Full, 1;
    fwd_sm100_bf16_d192_128_short_causal, fwd_sm103_bf16_d192_128_short_causal: Bf16, 192, 128, Causal, 1;
    fwd_sm100_f16_d64, fwd_sm103_f16_d64: F16, 64, 64, Full, 2;
    fwd_sm100_f16_d64_causal, fwd_sm103_f16_d64_causal: F16, 64, 64, Causal, 2;
    fwd_sm100_f16_d96, fwd_sm103_f16_d96: F16, 96, 96, Full, 2;
    fwd_sm100_f16_d96_causal, fwd_sm103_f16_d96_causal: F16, 96, 96, Causal, 2;
    fwd_sm100_f16_d128, fwd_sm103_f16_d128: F16, 128, 128, Full, 2;
    fwd_sm100_f16_d128_causal, fwd_sm103_f16_d128_causal: F16, 128, 128, Causal, 2;
    fwd_sm100_f16_d192_128, fwd_sm103_f16_d192_128: F16, 192, 128, Full, 2;
    fwd_sm100_f16_d192_128_causal, fwd_sm103_f16_d192_128_causal: F16, 192, 128, Causal, 2;
    fwd_sm100_f16_d256, fwd_sm103_f16_d256: F16, 256, 256, Full, 1;
    fwd_sm100_f16_d256_causal, fwd_sm103_f16_d256_causal: F16, 256, 256, Causal, 1;
    fwd_sm100_f16_d64_short, fwd_sm103_f16_d64_short: F16, 64, 64, Full, 1;
    fwd_sm100_f16_d64_short_causal, fwd_sm103_f16_d64_short_causal: F16, 64, 64, Causal, 1;
    fwd_sm100_f16_d128_short, fwd_sm103_f16_d128_short: F16, 128, 128, Full, 1;
    fwd_sm100_f16_d128_short_causal, fwd_sm103_f16_d128_short_causal: F16, 128, 128, Causal, 1;
    fwd_sm100_f16_d192_128_short, fwd_sm103_f16_d192_128_short: F16, 192, 128, Full, 1;
    fwd_sm100_f16_d192_128_short_causal, fwd_sm103_f16_d192_128_short_causal: F16, 192, 128, Causal, 1;
}

serving_kernels! {
    SERVING_KERNELS, SERVING_KERNELS_SM103:
    serve_sm100_bf16_d64, serve_sm103_bf16_d64: Bf16, 64, 64, Plain, 2;
    serve_sm100_bf16_d96, serve_sm103_bf16_d96: Bf16, 96, 96, Plain, 2;
    serve_sm100_bf16_d128, serve_sm103_bf16_d128: Bf16, 128, 128, Plain, 2;
    serve_sm100_bf16_d192_128, serve_sm103_bf16_d192_128: Bf16, 192, 128, Plain, 2;
    serve_sm100_bf16_d256, serve_sm103_bf16_d256: Bf16, 256, 256, Plain, 1;
    serve_sm100_bf16_d64_mod, serve_sm103_bf16_d64_mod: Bf16, 64, 64, Modified, 2;
    serve_sm100_bf16_d96_mod, serve_sm103_bf16_d96_mod: Bf16, 96, 96, Modified, 2;
    serve_sm100_bf16_d128_mod, serve_sm103_bf16_d128_mod: Bf16, 128, 128, Modified, 2;
    serve_sm100_bf16_d192_128_mod, serve_sm103_bf16_d192_128_mod: Bf16, 192, 128, Modified, 2;
    decode_sm100_bf16_d64, decode_sm103_bf16_d64: Bf16, 64, 64, Modified, 1;
    decode_sm100_bf16_d96, decode_sm103_bf16_d96: Bf16, 96, 96, Modified, 1;
    decode_sm100_bf16_d128, decode_sm103_bf16_d128: Bf16, 128, 128, Modified, 1;
    decode_sm100_bf16_d192_128, decode_sm103_bf16_d192_128: Bf16, 192, 128, Modified, 1;
    decode_sm100_bf16_d256, decode_sm103_bf16_d256: Bf16, 256, 256, Modified, 1;
    serve_sm100_f16_d64, serve_sm103_f16_d64: F16, 64, 64, Plain, 2;
    serve_sm100_f16_d96, serve_sm103_f16_d96: F16, 96, 96, Plain, 2;
    serve_sm100_f16_d128, serve_sm103_f16_d128: F16, 128, 128, Plain, 2;
    serve_sm100_f16_d192_128, serve_sm103_f16_d192_128: F16, 192, 128, Plain, 2;
    serve_sm100_f16_d256, serve_sm103_f16_d256: F16, 256, 256, Plain, 1;
    serve_sm100_f16_d64_mod, serve_sm103_f16_d64_mod: F16, 64, 64, Modified, 2;
    serve_sm100_f16_d96_mod, serve_sm103_f16_d96_mod: F16, 96, 96, Modified, 2;
    serve_sm100_f16_d128_mod, serve_sm103_f16_d128_mod: F16, 128, 128, Modified, 2;
    serve_sm100_f16_d192_128_mod, serve_sm103_f16_d192_128_mod: F16, 192, 128, Modified, 2;
    decode_sm100_f16_d64, decode_sm103_f16_d64: F16, 64, 64, Modified, 1;
    decode_sm100_f16_d96, decode_sm103_f16_d96: F16, 96, 96, Modified, 1;
    decode_sm100_f16_d128, decode_sm103_f16_d128: F16, 128, 128, Modified, 1;
    decode_sm100_f16_d192_128, decode_sm103_f16_d192_128: F16, 192, 128, Modified, 1;
    decode_sm100_f16_d256, decode_sm103_f16_d256: F16, 256, 256, Modified, 1;
    decode_sm100_bf16_kv8_d64, decode_sm103_bf16_kv8_d64: Bf16, 64, 64, Modified, 1, Keys;
    decode_sm100_bf16_kv8_d128, decode_sm103_bf16_kv8_d128: Bf16, 128, 128, Modified, 1, Keys;
    decode_sm100_bf16_kv8_d256, decode_sm103_bf16_kv8_d256: Bf16, 256, 256, Modified, 1, Keys;
    decode_sm100_f16_kv8_d64, decode_sm103_f16_kv8_d64: F16, 64, 64, Modified, 1, Keys;
    decode_sm100_f16_kv8_d128, decode_sm103_f16_kv8_d128: F16, 128, 128, Modified, 1, Keys;
    decode_sm100_f16_kv8_d256, decode_sm103_f16_kv8_d256: F16, 256, 256, Modified, 1, Keys;
    serve_sm100_e4m3_d64, serve_sm103_e4m3_d64: Bf16, 64, 64, Plain, 2, All;
    serve_sm100_e4m3_d128, serve_sm103_e4m3_d128: Bf16, 128, 128, Plain, 2, All;
    serve_sm100_e4m3_d256, serve_sm103_e4m3_d256: Bf16, 256, 256, Plain, 1, All;
    serve_sm100_e4m3_d64_mod, serve_sm103_e4m3_d64_mod: Bf16, 64, 64, Modified, 2, All;
    serve_sm100_e4m3_d128_mod, serve_sm103_e4m3_d128_mod: Bf16, 128, 128, Modified, 2, All;
    decode_sm100_e4m3_d64, decode_sm103_e4m3_d64: Bf16, 64, 64, Modified, 1, All;
    decode_sm100_e4m3_d128, decode_sm103_e4m3_d128: Bf16, 128, 128, Modified, 1, All;
    decode_sm100_e4m3_d256, decode_sm103_e4m3_d256: Bf16, 256, 256, Modified, 1, All;
}
