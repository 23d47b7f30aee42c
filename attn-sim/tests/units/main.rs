//! The matrix units in whole kernels: a few lines of PTX for every form of an instruction, run in the machine and compared with
//! plain matrix products.

mod block_scale;
mod matrix;
mod tcgen05;
mod tile;
mod wgmma;

use attn_sim::{Gpu, Launch, Run};

/// Copies the block's image, `bytes` of each rank, from global to dynamic shared memory with all threads of the block, and makes it visible to the matrix units.
/// Leaves the address of shared memory in `%smem`, its descriptor field in `%field`, the thread in `%th`.
pub fn prologue(threads: usize, bytes: usize) -> String {
    let step = 16 * threads;
    assert!(bytes.is_multiple_of(step), "{bytes} bytes in rounds of {step}");
    format!(
        "mov.u32 %th, %tid.x; mov.u32 %smem, smem;\n\
         shl.b32 %r2, %th, 4; cvt.u64.u32 %rd1, %r2; ld.param.u64 %rd0, [image]; add.s64 %rd0, %rd0, %rd1;\n\
         mov.u32 %rank, %cluster_ctarank; mul.wide.u32 %rd2, %rank, {bytes}; add.s64 %rd0, %rd0, %rd2;\n\
         add.s32 %r3, %smem, %r2; mov.u32 %r4, %r2;\n\
         COPY: ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%rd0]; st.shared.v4.b32 [%r3], {{%r5, %r6, %r7, %r8}};\n\
         add.s64 %rd0, %rd0, {step}; add.s32 %r3, %r3, {step}; add.s32 %r4, %r4, {step};\n\
         setp.lt.u32 %p0, %r4, {bytes}; @%p0 bra COPY;\n\
         fence.proxy.async; bar.sync 0;\n\
         and.b32 %r9, %smem, 0x3ffff; shr.u32 %r9, %r9, 4; cvt.u64.u32 %field, %r9;\n"
    )
}

/// Stores `%d0 ..` of each thread to `out[rank][thread][register]`.
pub fn epilogue(registers: usize) -> String {
    let mut text = format!(
        "ld.param.u64 %rd4, [out]; mov.u32 %r10, %ntid.x; mad.lo.u32 %r10, %r10, %rank, %th;\n\
         mul.wide.u32 %rd5, %r10, {}; add.s64 %rd4, %rd4, %rd5;\n",
        4 * registers
    );
    (0..registers).for_each(|i| text += &format!("st.global.b32 [%rd4+{}], %d{i};\n", 4 * i));
    text
}

/// A kernel whose parameters are `image`, `fragments` and `out`.
pub fn kernel(target: &str, body: &str) -> String {
    format!(
        ".version 8.8\n.target {target}\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k(.param .u64 image, .param .u64 fragments, .param .u64 out) {{\n\
         .reg .pred %p<4>; .reg .b32 %r<32>, %d<256>, %a<128>, %th, %smem, %t, %rank; .reg .b64 %rd<16>, %field, %da, %db;\n\
         .shared .align 8 .b64 bar; .shared .align 4 .b32 slot;\n{body}\nret; }}"
    )
}

/// One launch of a kernel.
pub struct Setup<'a> {
    /// Its PTX.
    pub text: &'a str,
    /// What is copied to shared memory: as many bytes for each block.
    pub image: &'a [u8],
    /// What threads load to registers.
    pub fragments: &'a [u32],
    /// 32-bit words of output.
    pub out: usize,
    /// Threads of a block.
    pub threads: usize,
    /// Blocks of the only cluster.
    pub cluster: u32,
    /// Orders completions.
    pub seed: u64,
}

/// Runs a kernel on one block, or one cluster, and returns its output and what was found.
pub fn run(setup: &Setup<'_>) -> (Vec<u32>, Run) {
    try_run(setup).unwrap_or_else(|e| panic!("{e}"))
}

/// The same, of a kernel that may not come to its end.
pub fn try_run(setup: &Setup<'_>) -> Result<(Vec<u32>, Run), attn_sim::Error> {
    let mut gpu = Gpu::new();
    let kernel = gpu.load(setup.text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{}", setup.text));
    let image = gpu.upload(setup.image);
    let fragments = gpu.upload(&setup.fragments.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    let out = gpu.alloc(4 * setup.out as u64);
    let launch = Launch {
        grid: [setup.cluster, 1, 1],
        cluster: (setup.cluster > 1).then_some([setup.cluster, 1, 1]),
        block: [setup.threads as u32, 1, 1],
        shared: (setup.image.len() / setup.cluster as usize) as u32,
        params: [image, fragments, out].map(|p| p.to_le_bytes().to_vec()).into(),
        seed: setup.seed,
        threads: 1,
        ..Launch::default()
    };
    let run = launch.run(&mut gpu, &kernel)?;
    let bytes = gpu.read(out, 4 * setup.out).expect("the output is an allocation");
    Ok((bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes"))).collect(), run))
}

/// The same, of a kernel that breaks no rule.
pub fn run_clean(setup: &Setup<'_>) -> Vec<u32> {
    let (out, run) = run(setup);
    let findings: Vec<String> = run.findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    out
}
