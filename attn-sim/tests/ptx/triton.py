"""Writes the `triton_*.ptx` files beside this one: `TRITON_DISABLE_LINE_INFO=1 python triton.py`, with Triton 3.9.

No GPU is needed. Prints each kernel's shared memory, global scratch memory with its alignment, and warps.
"""
import pathlib
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile as tcompile

@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, sam, sbk, scm, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    pid = tl.program_id(0)
    nn = tl.cdiv(N, BN)
    pm = pid // nn
    pn = pid % nn
    rm = pm*BM + tl.arange(0, BM)
    rn = pn*BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        a = tl.load(a_ptr + rm[:, None]*sam + (k*BK + rk)[None, :], mask=(k*BK+rk)[None, :] < K, other=0.0)
        b = tl.load(b_ptr + (k*BK + rk)[:, None]*sbk + rn[None, :], mask=(k*BK+rk)[:, None] < K, other=0.0)
        acc = tl.dot(a, b, acc)
    tl.store(c_ptr + rm[:, None]*scm + rn[None, :], acc.to(tl.float16))

@triton.jit
def matmul_tma(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    pid = tl.program_id(0)
    nn = tl.cdiv(N, BN)
    pm = pid // nn
    pn = pid % nn
    ad = tl.make_tensor_descriptor(a_ptr, shape=[M, K], strides=[K, 1], block_shape=[BM, BK])
    bd = tl.make_tensor_descriptor(b_ptr, shape=[N, K], strides=[K, 1], block_shape=[BN, BK])
    cd = tl.make_tensor_descriptor(c_ptr, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        a = ad.load([pm*BM, k*BK])
        b = bd.load([pn*BN, k*BK])
        acc = tl.dot(a, b.T, acc)
    cd.store([pm*BM, pn*BN], acc.to(tl.float16))

@triton.jit
def attn(q_ptr, k_ptr, v_ptr, o_ptr, S, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    pid = tl.program_id(0)
    rm = pid*BM + tl.arange(0, BM)
    rd = tl.arange(0, D)
    q = tl.load(q_ptr + rm[:, None]*D + rd[None, :])
    m = tl.full((BM,), float("-inf"), tl.float32)
    l = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    for n in range(0, S, BN):
        rn = n + tl.arange(0, BN)
        k = tl.load(k_ptr + rn[None, :]*D + rd[:, None])
        s = tl.dot(q, k) * scale
        mn = tl.maximum(m, tl.max(s, 1))
        p = tl.exp2(s - mn[:, None])
        al = tl.exp2(m - mn)
        l = l*al + tl.sum(p, 1)
        acc = acc*al[:, None]
        v = tl.load(v_ptr + rn[:, None]*D + rd[None, :])
        acc = tl.dot(p.to(tl.float16), v, acc)
        m = mn
    tl.store(o_ptr + rm[:, None]*D + rd[None, :], (acc / l[:, None]).to(tl.float16))

HERE = pathlib.Path(__file__).parent
for cc in (90, 100):
    t = GPUTarget("cuda", cc, 32)
    def go(name, fn, sig, const, **opt):
        attrs = {(i,): [["tt.divisibility", 16]] for i, (k, v) in enumerate(sig.items()) if v.startswith("*") or v == "i32"}
        src = ASTSource(fn=fn, signature={**sig, **{k: "constexpr" for k in const}}, constexprs=const, attrs=attrs)
        k = tcompile(src, target=t, options=opt)
        (HERE / f"triton_{name}_sm{cc}.ptx").write_text(k.asm["ptx"])
        print(name, cc, "ok", k.metadata.shared, k.metadata.global_scratch_size, k.metadata.global_scratch_align, k.metadata.num_warps)
    i = "i32"
    go("matmul", matmul, dict(a_ptr="*fp16", b_ptr="*fp16", c_ptr="*fp16", M=i, N=i, K=i, sam=i, sbk=i, scm=i), dict(BM=128, BN=128, BK=64), num_warps=4, num_stages=3)
    go("matmul_small", matmul, dict(a_ptr="*fp16", b_ptr="*fp16", c_ptr="*fp16", M=i, N=i, K=i, sam=i, sbk=i, scm=i), dict(BM=16, BN=32, BK=32), num_warps=1, num_stages=2)
    go("matmul_tma", matmul_tma, dict(a_ptr="*fp16", b_ptr="*fp16", c_ptr="*fp16", M=i, N=i, K=i), dict(BM=128, BN=128, BK=64), num_warps=4, num_stages=3)
    go("attn", attn, dict(q_ptr="*fp16", k_ptr="*fp16", v_ptr="*fp16", o_ptr="*fp16", S=i, scale="fp32"), dict(D=64, BM=128, BN=64), num_warps=4, num_stages=2)
