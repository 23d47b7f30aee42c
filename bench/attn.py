"""Attention from PyTorch through libattn.so: `attn.forward(q, k, v)` on CUDA tensors, for those who want to try it.

    import attn                                       # needs libattn.so: cargo build --release -p attn-capi
    o = attn.forward(q, k, v, causal=True)            # (batch, seq, heads, head_dim), bfloat16 or float16
    o, lse = attn.forward(q, k, v, return_lse=True)   # lse: (batch, heads, seq), float32
    o = attn.forward(q, k, v, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, causal=True)      # packed: (total, heads, head_dim)
    attn.append(k, v, cache_k, cache_v, seqlens_before=lengths, page_table=table)     # into pages, behind what they hold
    o = attn.forward(q, cache_k, cache_v, seqused_k=lengths + 1, page_table=table)    # one token each, say, against pages
    o = attn.forward_dlpack(q, k, v, causal=True)     # tensors of any library that has __dlpack__; o goes to any from_dlpack
    attn.append_dlpack(k, v, cache_k, cache_v)        # of such, too

The work is queued on PyTorch's current stream in PyTorch's own context and can be captured into a graph. Strides are honoured,
so views of (batch, heads, seq, head_dim) tensors need no copy; the last dimension must be contiguous. Forward only.

The library is the file that ATTN_LIBRARY names, else one beside this file, else the repository's build. `Library` and `Plan`, of
attn_abi.py, are the C interface with errors as exceptions and work without PyTorch.
"""

from collections import namedtuple
from ctypes import byref

import attn_dlpack
from attn_abi import ARRAYS, DTYPES, PAIRS, UNLIMITED, AppendPlan, AttnError, Library, Plan, Problem, Serving, Strides

__all__ = [
    "AppendPlan", "AttnError", "Library", "Plan", "Problem", "Serving", "append", "append_dlpack", "forward", "forward_dlpack", "library", "plan",
]

_library = None
_dlpack = None
_plans = {}


def library():
    """The library, loaded once."""
    global _library
    if _library is None:
        _library = Library()
    return _library


# Sizes that tensors alone do not say, and everything but arrays that makes a problem more than a dense one.
Options = namedtuple("Options", "batch seqlen_q seqlen_k packed_q packed_k paged window softcap splits float8")
FLOAT8 = "torch.float8_e4m3fn"


def plan(q, k, v, o, causal=False, scale=None, kernel=None, options=None, arrays=()):
    """The plan for these tensors, from the cache when there is one for their shapes and strides."""
    given = tuple((name, array.dim()) for name, array in arrays)
    key = (
        q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), o.stride(), q.dtype, k.dtype, q.device,
        causal, scale, kernel, options, given, dict(arrays)["page_table"].shape if options and options.paged else None,
    )
    found = _plans.get(key)
    if found is None:
        problem, serving = _problem(q, k, v, o, causal, scale, options, dict(arrays))
        found = _plans[key] = Plan(library(), problem, kernel, serving)
    return found


def _check(q, k, v, options):
    packed_q, packed_k = (options.packed_q, options.packed_k) if options else (False, False)
    for name, tensor, packed in (("q", q, packed_q), ("k", k, packed_k), ("v", v, packed_k)):
        if tensor.dim() != (3 if packed else 4) or tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            shape = "(total, heads, head_dim)" if packed else "(batch, seq, heads, head_dim)"
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and strides {tensor.stride()}; "
                f"allowed: {shape} with a contiguous last dimension"
            )
        expected = FLOAT8 if name != "q" and options and options.float8 else str(q.dtype)
        if tensor.device != q.device or str(tensor.dtype) != expected:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, q is {q.dtype} on {q.device}; "
                "allowed: the same, or k and v float8_e4m3fn"
            )
    dtype = "bfloat16" if str(q.dtype) == FLOAT8 else str(q.dtype).removeprefix("torch.")
    if dtype not in DTYPES or q.device.type != "cuda":
        raise ValueError(f"q is {q.dtype} on {q.device}; allowed: bfloat16, float16 and float8_e4m3fn on a CUDA device")
    batch_agrees = packed_q or packed_k or options and options.paged or k.shape[0] == q.shape[0]
    if not batch_agrees or k.shape[-1] != q.shape[-1] or v.shape[:-1] != k.shape[:-1]:
        raise ValueError(
            f"k is {tuple(k.shape)} and v {tuple(v.shape)} beside q {tuple(q.shape)}; "
            f"allowed: as many sequences, q's head_dim {q.shape[-1]} for k, and k's rows and heads for v"
        )
    return dtype


def _problem(q, k, v, o, causal, scale, options, arrays):
    dtype = _check(q, k, v, options)
    (heads, head_dim), kv_heads = q.shape[-2:], k.shape[-2]
    batch, seqlen_q, seqlen_k = options[:3] if options else (q.shape[0], q.shape[1], k.shape[1])
    problem = library().problem(dtype, batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, v.shape[-1])
    problem.mask = int(causal)
    if scale is not None:
        problem.scale = scale
    serving = options and _serving(q, k, causal, options, arrays)
    if serving:
        library().check(library().lib.attn_serving_contiguous(byref(serving), byref(problem)))
        if options.window is not None:
            problem.mask = 2
    for name, tensor in (("q", q), ("k", k), ("v", v), ("o", o)):
        strides = tensor.stride()[:-1]
        setattr(problem, name, Strides(*(strides if len(strides) == 3 else (0, *strides))))
    return problem, serving


def _serving(q, k, causal, options, arrays):
    fields = {name: 1 for name in ("sinks", "seqused_q", "seqused_k") if name in arrays}
    if options.packed_q:
        fields["total_q"] = q.shape[0]
    if options.packed_k:
        fields["total_k"] = k.shape[0]
    if options.paged:
        fields.update(pages=k.shape[0], page_size=k.shape[1], table_width=arrays["page_table"].shape[1])
    if options.window is not None:
        left, right = options.window
        right = 0 if causal else right
        fields.update(window_left=UNLIMITED if left is None else left, window_right=UNLIMITED if right is None else right)
    if "alibi_slopes" in arrays:
        fields["alibi"] = arrays["alibi_slopes"].dim()
    if options.softcap is not None:
        fields["softcap"] = options.softcap
    if "k_descale" in arrays:
        fields["descales"] = arrays["k_descale"].dim()
    if options.splits not in (None, "auto"):
        fields["splits"] = options.splits
    fields["float8"] = options.float8
    return library().serving(**fields)


def _arrays(q, arrays):
    """Those that are given, of the type and place that the kernels read."""
    import torch

    given = tuple((name, array) for name, array in arrays if array is not None)
    for name, array in given:
        dtype = torch.float32 if name in ("sinks", "alibi_slopes") or name.endswith("_descale") else torch.int32
        if array.dtype != dtype or array.device != q.device or not array.is_contiguous():
            raise ValueError(
                f"{name} is {array.dtype} on {array.device} with strides {array.stride()}; "
                f"allowed: {dtype} on {q.device}, contiguous"
            )
    return given


def _longest(cu_seqlens):
    # Waits for the device; callers that know the longest sequence say so.
    return max(1, int((cu_seqlens[1:] - cu_seqlens[:-1]).max()))


def _options(q, k, given, window, softcap, splits, max_seqlen_q, max_seqlen_k):
    """None for a dense problem."""
    float8 = [str(k.dtype), str(q.dtype)].count(FLOAT8)
    if not given and window is None and softcap is None and splits is None and not float8:
        return None
    packed_q, packed_k, paged = "cu_seqlens_q" in given, "cu_seqlens_k" in given, "page_table" in given
    batch = given["cu_seqlens_q"].shape[0] - 1 if packed_q else q.shape[0]
    for name, extra in (("cu_seqlens_k", 1), ("seqused_q", 0), ("seqused_k", 0), ("page_table", 0)):
        if name in given and given[name].shape[0] != batch + extra:
            raise ValueError(f"{name} has {given[name].shape[0]} entries; allowed: {batch + extra} for {batch} sequences")
    if not packed_k and not paged and k.shape[0] != batch:
        raise ValueError(f"k has {k.shape[0]} sequences; allowed: {batch}, as q has")
    seqlen_q = max_seqlen_q or (_longest(given["cu_seqlens_q"]) if packed_q else q.shape[1])
    if paged:
        seqlen_k = max_seqlen_k or given["page_table"].shape[1] * k.shape[1]
    else:
        seqlen_k = max_seqlen_k or (_longest(given["cu_seqlens_k"]) if packed_k else k.shape[1])
    return Options(batch, seqlen_q, seqlen_k, packed_q, packed_k, paged, window, softcap, splits, float8)


def forward(
    q, k, v, causal=False, scale=None, return_lse=False, *, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None,
    max_seqlen_k=None, seqused_q=None, seqused_k=None, page_table=None, window=None, softcap=None, sinks=None, alibi=None,
    splits=None, q_descale=None, k_descale=None, v_descale=None, kernel=None,
):
    """softmax(scale * q k^T) v, with LSE where asked for.

    q is (batch, seqlen_q, heads, head_dim); k and v have seqlen_k and kv_heads, which divides heads; v's last dimension may differ.
    A causal mask is aligned to the bottom right. The default scale is 1 / sqrt(head_dim).

    cu_seqlens_q, cu_seqlens_k: q, or k and v, are packed (total, heads, head_dim); int32 (batch + 1) sums of the lengths. The
      longest length is max_seqlen_q or max_seqlen_k; without these the device is asked, which waits for it.
    seqused_q, seqused_k: int32 (batch), how many rows of each sequence there are.
    page_table: int32 (batch, pages of a sequence); k and v are (pages, page_size, kv_heads, head_dim).
    window: (left, right) keys around a query's own position, None for no end; with causal, right is 0.
    softcap: scores become softcap * tanh(score / softcap). sinks: float32 (heads), logits without a value.
    alibi: float32 (heads) or (batch, heads) slopes. splits: "auto", or into how many parts the keys are split.
    k and v, and q with them, may be float8_e4m3fn, meant times their descales: float32 (kv_heads) or (batch, kv_heads). The result is
      then bfloat16, or what q is.
    """
    import torch

    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise RuntimeError("attn.forward has no backward: call it under torch.no_grad(), or on detached tensors")
    given = (cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, page_table, sinks, alibi, q_descale, k_descale, v_descale)
    arrays = _arrays(q, zip(ARRAYS, given))
    options = _options(q, k, dict(arrays), window and tuple(window), softcap, splits, max_seqlen_q, max_seqlen_k)
    with torch.cuda.device(q.device) if q.is_cuda and q.device.index != torch.cuda.current_device() else _HERE:
        dtype = torch.bfloat16 if str(q.dtype) == FLOAT8 else q.dtype
        o = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=dtype, device=q.device)
        *batch, rows, heads = q.shape[:-1]
        lse = torch.empty((*batch, heads, rows), dtype=torch.float32, device=q.device) if return_lse else None
        made = plan(q, k, v, o, causal, scale, kernel, options, arrays)
        workspace = torch.empty(made.workspace_bytes, dtype=torch.uint8, device=q.device) if made.workspace_bytes else None
        stream = torch.cuda.current_stream().cuda_stream
        made.launch(
            q.data_ptr(), k.data_ptr(), v.data_ptr(), o.data_ptr(),
            lse.data_ptr() if return_lse else 0, workspace.data_ptr() if workspace is not None else 0, stream,
            **{name: array.data_ptr() for name, array in arrays},
        )
    return (o, lse) if return_lse else o


def _interface():
    global _dlpack
    if _dlpack is None:
        _dlpack = attn_dlpack.Interface(library())
    return _dlpack


def forward_dlpack(q, k, v, *options, **named):
    """attn_dlpack.forward with the library: `forward` for tensors of any library that speaks DLPack."""
    return attn_dlpack.forward(_interface(), q, k, v, *options, **named)


def append_dlpack(k, v, k_cache, v_cache, **named):
    """attn_dlpack.append with the library: `append` for such tensors."""
    attn_dlpack.append(_interface(), k, v, k_cache, v_cache, **named)


def append(
    k, v, k_cache, v_cache, *, q=None, q_out=None, cos=None, sin=None, interleaved=False, cu_seqlens_new=None, max_new=None,
    seqused_new=None, seqlens_before=None, page_table=None, k_descale=None, v_descale=None,
):
    """Writes new keys and values into a cache behind those that are there, and rotates K, and Q with it, by position.

    k, v and q are (batch, new, heads, head_dim), or (total, heads, head_dim) with cu_seqlens_new; the caches are
    (batch, rows, kv_heads, head_dim), or (pages, page_size, kv_heads, head_dim) with page_table. seqlens_before: int32 (batch), what
    the cache holds already. cos, sin: (positions, rotated / 2), float32 or k's type. Q is rotated in place unless there is q_out.
    The caches may be float8_e4m3fn, meant times k_descale and v_descale: float32 (kv_heads) or (batch, kv_heads).
    """
    named = (("cu_seqlens_new", cu_seqlens_new), ("seqused_new", seqused_new), ("seqlens_before", seqlens_before))
    named += (("page_table", page_table), ("k_descale", k_descale), ("v_descale", v_descale))
    arrays = dict(_arrays(k, named))
    tensors = {"k": k, "v": v, "k_cache": k_cache, "v_cache": v_cache, "q": q, "q_out": q_out, "cos": cos, "sin": sin, **arrays}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    packed = cu_seqlens_new is not None
    batch = cu_seqlens_new.shape[0] - 1 if packed else k.shape[0]
    new = (max_new or _longest(cu_seqlens_new)) if packed else k.shape[1]
    key = ("append", batch, new, interleaved, tuple((n, t.shape, t.stride(), t.dtype, t.device) for n, t in tensors.items()))
    import torch

    with torch.cuda.device(k.device) if k.device.index != torch.cuda.current_device() else _HERE:
        made = _plans.get(key)
        if made is None:
            made = _plans[key] = AppendPlan(library(), _append(tensors, batch, new, packed, interleaved))
        made.launch(torch.cuda.current_stream().cuda_stream, **{name: tensor.data_ptr() for name, tensor in tensors.items()})


def _append(tensors, batch, new, packed, interleaved):
    k, v, cache, cos = tensors["k"], tensors["v"], tensors["k_cache"], tensors.get("cos")
    fields = {name: 1 for name in ("seqused_new", "seqlens_before") if name in tensors}
    if packed:
        fields["total"] = k.shape[0]
    if "page_table" in tensors:
        fields.update(pages=cache.shape[0], page_size=cache.shape[1], table_width=tensors["page_table"].shape[1])
    else:
        fields["cache_rows"] = cache.shape[1]
    if "q" in tensors:
        fields["heads"] = tensors["q"].shape[-2]
    fields["float8"] = int(str(cache.dtype) == FLOAT8)
    if "k_descale" in tensors:
        fields["descales"] = tensors["k_descale"].dim()
    if cos is not None:
        fields.update(rotary_dim=2 * cos.shape[1], positions=cos.shape[0], sines=int(cos.dtype == k.dtype))
        fields["pairs"] = PAIRS["interleaved" if interleaved else "halves"]
    dtype = str(k.dtype).removeprefix("torch.")
    append = library().append(dtype, batch, new, k.shape[-2], k.shape[-1], v.shape[-1], **fields)
    for name in ("k", "v", "q", "q_out", "k_cache", "v_cache"):
        tensor = tensors.get(name, tensors.get("q") if name == "q_out" else None)
        if tensor is not None:
            strides = tensor.stride()[:-1]
            setattr(append, name, Strides(*(strides if len(strides) == 3 else (0, *strides))))
    if cos is not None:
        append.sines_stride = cos.stride(0)
    return append


class _Here:
    """The tensors' device is current already."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


_HERE = _Here()
