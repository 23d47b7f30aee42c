//! What differs between compilers, kept in one place: the kernel ABI, launch bounds, panics, thread and block indices,
//! dynamic shared memory, and how an instruction is written.
//!
//! | reader | kernel | instruction | index, shared memory |
//! |---|---|---|---|
//! | rustc, `nvptx64-nvidia-cuda` | `extern "ptx-kernel"`, `no_mangle` | inline PTX | special registers, one extern array |
//! | Rust-CUDA (feature `rust-cuda`) | `cuda_std`'s `#[kernel]` | inline PTX | `cuda_std::thread`; the same array, as its own is aligned to 16 bytes |
//! | rustc, the host | a plain `extern "C"` function | [`device_only`] panics | [`device_only`] panics |
//!
//! The host compiles every kernel so that `cargo check` and clippy see it; it can call none of them.
#![cfg_attr(
    not(target_arch = "nvptx64"),
    allow(unused_variables, unreachable_code, reason = "on the host an instruction diverges and uses no operand")
)]

/// Whether the architecture compiled for is Blackwell: packed f32 pairs, three-input maxima, tcgen05.
pub const BLACKWELL: bool = cfg!(any(attn_arch = "sm_100a", attn_arch = "sm_103a"));

/// One PTX instruction, or a short fixed sequence, with the operands of `core::arch::asm!`.
///
/// On the host it type-checks nothing but diverges, so a wrapper reads the same in both builds. The macro holds the
/// `unsafe` block: a wrapper's own `# Safety` section, or its being harmless, is the argument for it.
#[macro_export]
#[doc(hidden)]
macro_rules! ptx {
    ($($asm:tt)*) => {{
        #[cfg(target_arch = "nvptx64")]
        // SAFETY: the instruction's requirements are the `# Safety` section of the wrapper that this expands in.
        unsafe {
            ::core::arch::asm!($($asm)*)
        }
        #[cfg(not(target_arch = "nvptx64"))]
        $crate::entry::device_only()
    }};
}

/// Emits a kernel's launch bounds where the build's annotation pass reads them: a `//@kernel` line of module assembly.
///
/// `ptxas` honours `setmaxnreg` only when the entry's register count is known, hence `registers`. `tensor_maps` lists the
/// positions of the parameters of type `*const TensorMap`, which the pass turns into by-value `.param` objects; `cluster` gives
/// blocks per cluster as "x,y,z"; `plan` is a fingerprint that launchers compare with their own before they start the kernel.
/// The three may be left out.
#[macro_export]
macro_rules! launch_bounds {
    (
        $name:ident: threads = $threads:expr, registers = $registers:expr, shared = $shared:expr $(, plan = $plan:expr)?
        $(, tensor_maps = $maps:literal)? $(, cluster = $cluster:literal)?
    ) => {
        const _: (u32, u32, u32) = ($threads, $registers, $shared);
        $(const _: u64 = $plan;)?
        #[cfg(target_arch = "nvptx64")]
        ::core::arch::global_asm!(
            concat!(
                "//@kernel ", stringify!($name), " maxntid={threads} minctasm=1 maxnreg={registers} smem={shared}"
                $(, $crate::plan_word!($plan))?
                $(, " tensormap=", $maps)? $(, " cluster=", $cluster)?
            ),
            threads = const $threads,
            registers = const $registers,
            shared = const $shared,
            $(plan = const $plan,)?
        );
    };
}

/// The word for a plan in a `//@kernel` line, where there is one.
#[macro_export]
#[doc(hidden)]
macro_rules! plan_word {
    ($plan:expr) => {
        " plan={plan}"
    };
}

/// Declares a kernel: its launch bounds, then a function with a body, exported under its own name on the device.
///
/// ```ignore
/// kernel! {
///     threads = PLAN.threads(), registers = PLAN.entry_registers(), shared = PLAN.smem().end, tensor_maps = "1,2";
///     /// What it computes.
///     pub unsafe fn name(params: Params, a: *const TensorMap, b: *const TensorMap) { body }
/// }
/// ```
#[macro_export]
macro_rules! kernel {
    (
        threads = $threads:expr, registers = $registers:expr, shared = $shared:expr $(, plan = $plan:expr)?
            $(, tensor_maps = $maps:literal)? $(, cluster = $cluster:literal)?;
        $(#[$attr:meta])*
        pub unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block
    ) => {
        $crate::launch_bounds!(
            $name: threads = $threads, registers = $registers, shared = $shared $(, plan = $plan)?
            $(, tensor_maps = $maps)? $(, cluster = $cluster)?
        );
        $(#[$attr])*
        ///
        /// # Safety
        /// Started by a launch, on a GPU, with the block, cluster and shared memory declared and parameters as described.
        #[cfg(all(target_arch = "nvptx64", not(feature = "rust-cuda")))]
        #[unsafe(no_mangle)]
        pub unsafe extern "ptx-kernel" fn $name($($arg: $ty),*) $body
        $(#[$attr])*
        ///
        /// # Safety
        /// Started by a launch, on a GPU, with the block, cluster and shared memory declared and parameters as described.
        #[cfg(feature = "rust-cuda")]
        #[::cuda_std::kernel]
        pub unsafe fn $name($($arg: $ty),*) $body
        $(#[$attr])*
        ///
        /// # Safety
        /// Started by a launch, on a GPU, with the block, cluster and shared memory declared and parameters as described.
        #[cfg(not(any(target_arch = "nvptx64", feature = "rust-cuda")))]
        pub unsafe extern "C" fn $name($($arg: $ty),*) $body
    };
}

pub use crate::{kernel, launch_bounds, ptx};

/// Where the host ends up when it runs code that only a GPU can.
#[cfg(not(target_arch = "nvptx64"))]
#[cold]
pub fn device_only() -> ! {
    panic!("this instruction exists only on the GPU")
}

/// Kernels do not unwind and print nothing: a panic that survives optimisation traps, which the launcher sees as an error.
#[cfg(all(target_arch = "nvptx64", not(feature = "rust-cuda")))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: `trap` ends the grid and does not return.
    unsafe { core::arch::asm!("trap;", options(noreturn)) }
}

#[cfg(target_arch = "nvptx64")]
core::arch::global_asm!(".extern .shared .align 1024 .b8 attn_smem[];");

/// Shared-space address of the block's dynamic shared memory, on a 1024-byte boundary (the period of the 128-byte swizzle).
#[inline(always)]
pub fn dynamic_shared() -> u32 {
    let base: u32;
    ptx!("mov.u32 {base}, attn_smem;", base = lateout(reg32) base, options(pure, nomem, nostack));
    base
}

#[cfg(not(feature = "rust-cuda"))]
mod index {
    macro_rules! special {
        ($(#[$doc:meta])* $name:ident: $register:literal) => {
            $(#[$doc])*
            #[inline(always)]
            pub fn $name() -> u32 {
                let value: u32;
                $crate::ptx!(
                    concat!("mov.u32 {v}, %", $register, ";"),
                    v = lateout(reg32) value,
                    options(pure, nomem, nostack)
                );
                value
            }
        };
    }
    special!(
        /// Index of the thread in its block.
        thread_idx_x: "tid.x"
    );
    special!(
        /// Index of the block in the grid.
        block_idx_x: "ctaid.x"
    );
    special!(
        /// Second index of the block in the grid.
        block_idx_y: "ctaid.y"
    );
    special!(
        /// Third index of the block in the grid.
        block_idx_z: "ctaid.z"
    );
    special!(
        /// Threads of a block.
        block_dim_x: "ntid.x"
    );
    special!(
        /// Blocks of the grid.
        grid_dim_x: "nctaid.x"
    );
}

#[cfg(feature = "rust-cuda")]
mod index {
    pub use cuda_std::thread::{block_dim_x, block_idx_x, block_idx_y, block_idx_z, grid_dim_x, thread_idx_x};
}

pub use index::{block_dim_x, block_idx_x, block_idx_y, block_idx_z, grid_dim_x, thread_idx_x};
