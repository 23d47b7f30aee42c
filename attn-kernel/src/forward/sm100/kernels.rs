//! The instantiations: a line each, and the entry point that it expands to.

use super::{Maps, Plan, Variant, forward, tune};
use crate::attn::mask::{Causal, Full, Mask};
use crate::forward::plan::{AnyPlan, Arch, DType, Family, Kernel};
use crate::forward::{ForwardParams, TensorMap};
use crate::mem::{Bf16, F16};
use crate::ptx::regs;

macro_rules! kernels {
    (
        $(#[$doc:meta])* $list:ident for $arch:ident, $cfg:literal:
        $($name:ident: $dtype:ident, $d:literal, $dv:literal, $mask:ident, $tiles:literal;)*
    ) => {
        $(#[$doc])*
        pub const $list: &[Kernel] = &[$(Kernel {
            name: stringify!($name),
            arch: Arch::$arch,
            dtype: DType::$dtype,
            causal: <$mask as Mask>::PARTIAL_BLOCKS,
            family: Family::Dense,
            launch: $name::PLAN.launch(),
            plan: AnyPlan::Sm100($name::PLAN),
        }),*];

        $(
        /// One instantiation: its plan, element type and mask, and the entry point.
        pub mod $name {
            use super::*;

            pub(super) const PLAN: Plan =
                tune::plan(Arch::$arch, $d, $dv, <$mask as Mask>::PARTIAL_BLOCKS, $tiles);

            enum This {}

            impl Variant for This {
                const PLAN: Plan = PLAN;
                type Element = $dtype;
                type Mask = $mask;

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
                unsafe fn enter_other() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_dec::<{ PLAN.regs.other }>() }
                }
            }

            #[cfg(any(not(target_arch = "nvptx64"), attn_arch = $cfg))]
            crate::kernel! {
                threads = PLAN.threads(), registers = PLAN.entry_registers(), shared = PLAN.smem().end,
                plan = PLAN.launch().fingerprint(), tensor_maps = "1,2,3,4";
                /// Forward attention; see [`ForwardParams`].
                pub unsafe fn $name(
                    params: ForwardParams,
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
        })*
    };
}

kernels! {
    /// The kernels for sm_100a.
    KERNELS for Sm100a, "sm_100a":
    fwd_sm100_bf16_d64: Bf16, 64, 64, Full, 2;
    fwd_sm100_bf16_d64_causal: Bf16, 64, 64, Causal, 2;
    fwd_sm100_bf16_d96: Bf16, 96, 96, Full, 2;
    fwd_sm100_bf16_d96_causal: Bf16, 96, 96, Causal, 2;
    fwd_sm100_bf16_d128: Bf16, 128, 128, Full, 2;
    fwd_sm100_bf16_d128_causal: Bf16, 128, 128, Causal, 2;
    fwd_sm100_bf16_d192_128: Bf16, 192, 128, Full, 2;
    fwd_sm100_bf16_d192_128_causal: Bf16, 192, 128, Causal, 2;
    fwd_sm100_bf16_d256: Bf16, 256, 256, Full, 1;
    fwd_sm100_bf16_d256_causal: Bf16, 256, 256, Causal, 1;
    fwd_sm100_bf16_d64_short: Bf16, 64, 64, Full, 1;
    fwd_sm100_bf16_d64_short_causal: Bf16, 64, 64, Causal, 1;
    fwd_sm100_bf16_d128_short: Bf16, 128, 128, Full, 1;
    fwd_sm100_bf16_d128_short_causal: Bf16, 128, 128, Causal, 1;
    fwd_sm100_bf16_d192_128_short: Bf16, 192, 128, Full, 1;
    fwd_sm100_bf16_d192_128_short_causal: Bf16, 192, 128, Causal, 1;
    fwd_sm100_f16_d64: F16, 64, 64, Full, 2;
    fwd_sm100_f16_d64_causal: F16, 64, 64, Causal, 2;
    fwd_sm100_f16_d96: F16, 96, 96, Full, 2;
    fwd_sm100_f16_d96_causal: F16, 96, 96, Causal, 2;
    fwd_sm100_f16_d128: F16, 128, 128, Full, 2;
    fwd_sm100_f16_d128_causal: F16, 128, 128, Causal, 2;
    fwd_sm100_f16_d192_128: F16, 192, 128, Full, 2;
    fwd_sm100_f16_d192_128_causal: F16, 192, 128, Causal, 2;
    fwd_sm100_f16_d256: F16, 256, 256, Full, 1;
    fwd_sm100_f16_d256_causal: F16, 256, 256, Causal, 1;
    fwd_sm100_f16_d64_short: F16, 64, 64, Full, 1;
    fwd_sm100_f16_d64_short_causal: F16, 64, 64, Causal, 1;
    fwd_sm100_f16_d128_short: F16, 128, 128, Full, 1;
    fwd_sm100_f16_d128_short_causal: F16, 128, 128, Causal, 1;
    fwd_sm100_f16_d192_128_short: F16, 192, 128, Full, 1;
    fwd_sm100_f16_d192_128_short_causal: F16, 192, 128, Causal, 1;
}

kernels! {
    /// The kernels for sm_103a.
    KERNELS_SM103 for Sm103a, "sm_103a":
    fwd_sm103_bf16_d64: Bf16, 64, 64, Full, 2;
    fwd_sm103_bf16_d64_causal: Bf16, 64, 64, Causal, 2;
    fwd_sm103_bf16_d96: Bf16, 96, 96, Full, 2;
    fwd_sm103_bf16_d96_causal: Bf16, 96, 96, Causal, 2;
    fwd_sm103_bf16_d128: Bf16, 128, 128, Full, 2;
    fwd_sm103_bf16_d128_causal: Bf16, 128, 128, Causal, 2;
    fwd_sm103_bf16_d192_128: Bf16, 192, 128, Full, 2;
    fwd_sm103_bf16_d192_128_causal: Bf16, 192, 128, Causal, 2;
    fwd_sm103_bf16_d256: Bf16, 256, 256, Full, 1;
    fwd_sm103_bf16_d256_causal: Bf16, 256, 256, Causal, 1;
    fwd_sm103_bf16_d64_short: Bf16, 64, 64, Full, 1;
    fwd_sm103_bf16_d64_short_causal: Bf16, 64, 64, Causal, 1;
    fwd_sm103_bf16_d128_short: Bf16, 128, 128, Full, 1;
    fwd_sm103_bf16_d128_short_causal: Bf16, 128, 128, Causal, 1;
    fwd_sm103_bf16_d192_128_short: Bf16, 192, 128, Full, 1;
    fwd_sm103_bf16_d192_128_short_causal: Bf16, 192, 128, Causal, 1;
    fwd_sm103_f16_d64: F16, 64, 64, Full, 2;
    fwd_sm103_f16_d64_causal: F16, 64, 64, Causal, 2;
    fwd_sm103_f16_d96: F16, 96, 96, Full, 2;
    fwd_sm103_f16_d96_causal: F16, 96, 96, Causal, 2;
    fwd_sm103_f16_d128: F16, 128, 128, Full, 2;
    fwd_sm103_f16_d128_causal: F16, 128, 128, Causal, 2;
    fwd_sm103_f16_d192_128: F16, 192, 128, Full, 2;
    fwd_sm103_f16_d192_128_causal: F16, 192, 128, Causal, 2;
    fwd_sm103_f16_d256: F16, 256, 256, Full, 1;
    fwd_sm103_f16_d256_causal: F16, 256, 256, Causal, 1;
    fwd_sm103_f16_d64_short: F16, 64, 64, Full, 1;
    fwd_sm103_f16_d64_short_causal: F16, 64, 64, Causal, 1;
    fwd_sm103_f16_d128_short: F16, 128, 128, Full, 1;
    fwd_sm103_f16_d128_short_causal: F16, 128, 128, Causal, 1;
    fwd_sm103_f16_d192_128_short: F16, 192, 128, Full, 1;
    fwd_sm103_f16_d192_128_short_causal: F16, 192, 128, Causal, 1;
}
