"""Who is measured on packed sequences and on key/value caches: ourselves and whichever peers this machine's Python can import.

`VARLEN[name](mix, tensors)` gives a function that queues one forward pass over packed sequences and returns (total_q, heads, dv).
`DECODE[name](step, cache)` gives a function of a copy's number that queues one decoding step and returns (batch, heads, dv).
What a peer knows beforehand it may prepare beforehand (plans, schedules): serving engines do that once for all layers of a step.
What a backend does not support, it says by raising.
"""

import functools
import os
import sys
from importlib import metadata

import torch

from backends import NotThere

# FlashInfer's workspace, as its documentation advises; zeroed before its first use.
FLASHINFER_BYTES = 128 << 20


@functools.cache
def _library(name):
    """The operators of vLLM's build of FlashAttention, without the rest of vLLM."""
    for folder in sys.path:
        path = os.path.join(folder, "vllm", "vllm_flash_attn", f"{name}.abi3.so")
        if os.path.exists(path):
            torch.ops.load_library(path)
            return getattr(torch.ops, name)
    raise NotThere(f"no {name}")


def _attention(q, k, v, cu_q, cu_k, max_q, max_k, causal):
    return torch.ops.aten._flash_attention_forward(q, k, v, cu_q, cu_k, max_q, max_k, 0.0, causal, False)[0]


def varlen_fa2(mix, x):
    """FlashAttention-2 as PyTorch carries it."""
    return lambda: _attention(x.q, x.k, x.v, x.cu_q, x.cu_k, mix.max_q, mix.max_k, mix.causal)


def _fa3(q, k, v, scale, causal, *, cu_q=None, cu_k=None, used_k=None, max_q=None, max_k=None, table=None, schedule=None):
    nothing = None
    return _library("_vllm_fa3_C").fwd(
        q, k, v, nothing, nothing, nothing, nothing, cu_q, cu_k, nothing, nothing, used_k, max_q, max_k, table,
        nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, scale, causal, -1, -1, 0.0, True,
        schedule, 0, nothing, 0, nothing, 1, 0, nothing,
    )[0]  # fmt: skip


def varlen_fa3(mix, x):
    _library("_vllm_fa3_C")
    lengths = dict(cu_q=x.cu_q, cu_k=x.cu_k, max_q=mix.max_q, max_k=mix.max_k)
    return lambda: _fa3(x.q, x.k, x.v, mix.scale, mix.causal, **lengths)


def varlen_fa4(mix, x):
    try:
        from flash_attn.cute import flash_attn_varlen_func
    except ImportError as error:
        raise NotThere(str(error)) from error
    lengths = dict(cu_seqlens_q=x.cu_q, cu_seqlens_k=x.cu_k, max_seqlen_q=mix.max_q, max_seqlen_k=mix.max_k)

    def run():
        result = flash_attn_varlen_func(x.q, x.k, x.v, causal=mix.causal, **lengths)
        return result[0] if isinstance(result, tuple) else result

    return run


@functools.cache
def _flashinfer():
    try:
        import flashinfer
    except ImportError as error:
        raise NotThere(str(error)) from error
    return flashinfer, torch.zeros(FLASHINFER_BYTES, dtype=torch.uint8, device="cuda")


def varlen_flashinfer(backend, mix, x):
    flashinfer, workspace = _flashinfer()
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend=backend)
    wrapper.plan(
        x.cu_q, x.cu_k, mix.heads, mix.kv_heads, mix.head_dim, causal=mix.causal,
        q_data_type=x.q.dtype, kv_data_type=x.k.dtype,
    )  # fmt: skip
    return lambda: wrapper.run(x.q, x.k, x.v)


def decode_fa2(step, cache):
    """FlashAttention-2 with split keys: PyTorch's on a dense cache, vLLM's build of it on pages."""
    if not step.page:
        return lambda i: _attention(cache.q, cache.k[i], cache.v[i], None, None, 1, step.keys, False)[:, 0]
    library, nothing = _library("_vllm_fa2_C"), None

    def run(i):
        return library.fwd_kvcache(
            cache.q, cache.k[i], cache.v[i], nothing, nothing, cache.used, nothing, nothing, nothing, nothing,
            cache.table, nothing, nothing, step.scale, False, -1, -1, 0.0, True, 0,
        )[0][:, 0]  # fmt: skip

    return run


def decode_fa3(step, cache):
    schedule = _library("_vllm_fa3_C").get_scheduler_metadata(
        step.batch, 1, step.keys, step.heads, step.kv_heads, step.head_dim, step.head_dim, cache.q.dtype, cache.used,
        None, None, None, None, None, step.page or None, 0, False, -1, -1, False, 0, None, 0,
    )  # fmt: skip
    more = dict(used_k=cache.used, table=cache.table, schedule=schedule, max_q=1, max_k=step.keys)
    return lambda i: _fa3(cache.q, cache.k[i], cache.v[i], step.scale, False, **more)[:, 0]


def decode_flashinfer(tensor_cores, backend, step, cache):
    """A dense cache is one of neighbouring pages to FlashInfer."""
    flashinfer, workspace = _flashinfer()
    page = step.page or 64
    pages = step.keys // page
    shape = (-1, page, step.kv_heads, step.head_dim)
    keys, values = ([copy.view(shape) for copy in copies] for copies in (cache.k, cache.v))
    table = cache.table.flatten() if step.page else torch.arange(step.batch * pages, dtype=torch.int32, device="cuda")
    starts = torch.arange(step.batch + 1, dtype=torch.int32) * pages
    last = torch.full((step.batch,), page, dtype=torch.int32)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=tensor_cores, backend=backend)
    wrapper.plan(
        starts, table, last, step.heads, step.kv_heads, step.head_dim, page,
        q_data_type=cache.q.dtype, kv_data_type=cache.q.dtype,
    )  # fmt: skip
    queries = cache.q[:, 0]
    return lambda i: wrapper.run(queries, (keys[i], values[i]))


VARLEN = {
    "FA2": varlen_fa2,
    "FA3": varlen_fa3,
    "FA4": varlen_fa4,
    "FI-fa2": functools.partial(varlen_flashinfer, "fa2"),
    "FI-fa3": functools.partial(varlen_flashinfer, "fa3"),
}
DECODE = {
    "FA2": decode_fa2,
    "FA3": decode_fa3,
    "FI": functools.partial(decode_flashinfer, True, "fa2"),
    "FI-fa3": functools.partial(decode_flashinfer, True, "fa3"),
    "FI-cores": functools.partial(decode_flashinfer, False, "auto"),
}


def versions():
    """What was measured, in words."""
    found = {"FA2": f"in PyTorch {torch.__version__}"}
    for name, distribution in {"FI": "flashinfer-python", "FA3": "vllm", "FA4": "flash-attn-4"}.items():
        try:
            found[name] = f"{distribution} {metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            found[name] = "of unknown version, or not installed"
    return found
