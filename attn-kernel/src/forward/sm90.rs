//! The Hopper forward kernel.

use super::plan::{Arch, DType, Kernel};
use super::tune;

macro_rules! kernels {
    ($($name:ident: $dtype:ident, $d:literal, $dv:literal, $causal:literal;)*) => {
        /// The kernels of this file.
        pub const KERNELS: &[Kernel] = &[$(Kernel {
            name: stringify!($name), arch: Arch::Sm90a, dtype: DType::$dtype, causal: $causal,
            plan: tune::plan($d, $dv, $causal),
        }),*];
    };
}

kernels! {
    fwd_sm90_bf16_d32: Bf16, 32, 32, false;
    fwd_sm90_bf16_d32_causal: Bf16, 32, 32, true;
    fwd_sm90_bf16_d64: Bf16, 64, 64, false;
    fwd_sm90_bf16_d64_causal: Bf16, 64, 64, true;
    fwd_sm90_bf16_d96: Bf16, 96, 96, false;
    fwd_sm90_bf16_d96_causal: Bf16, 96, 96, true;
    fwd_sm90_bf16_d128: Bf16, 128, 128, false;
    fwd_sm90_bf16_d128_causal: Bf16, 128, 128, true;
    fwd_sm90_bf16_d192_128: Bf16, 192, 128, false;
    fwd_sm90_bf16_d192_128_causal: Bf16, 192, 128, true;
    fwd_sm90_bf16_d192: Bf16, 192, 192, false;
    fwd_sm90_bf16_d192_causal: Bf16, 192, 192, true;
    fwd_sm90_bf16_d256: Bf16, 256, 256, false;
    fwd_sm90_bf16_d256_causal: Bf16, 256, 256, true;
    fwd_sm90_f16_d32: F16, 32, 32, false;
    fwd_sm90_f16_d32_causal: F16, 32, 32, true;
    fwd_sm90_f16_d64: F16, 64, 64, false;
    fwd_sm90_f16_d64_causal: F16, 64, 64, true;
    fwd_sm90_f16_d96: F16, 96, 96, false;
    fwd_sm90_f16_d96_causal: F16, 96, 96, true;
    fwd_sm90_f16_d128: F16, 128, 128, false;
    fwd_sm90_f16_d128_causal: F16, 128, 128, true;
    fwd_sm90_f16_d192_128: F16, 192, 128, false;
    fwd_sm90_f16_d192_128_causal: F16, 192, 128, true;
    fwd_sm90_f16_d192: F16, 192, 192, false;
    fwd_sm90_f16_d192_causal: F16, 192, 192, true;
    fwd_sm90_f16_d256: F16, 256, 256, false;
    fwd_sm90_f16_d256_causal: F16, 256, 256, true;
}
