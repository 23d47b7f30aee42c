"""Who is measured: ourselves and whichever peers this machine's Python can import.

A backend is made for a line and its tensors, (batch, seq, heads, head_dim), and is then a function without arguments that queues
one forward pass on the current stream and returns the output in the same layout. What it does not support, it says by raising.
"""

import functools
import importlib.util
import warnings
from importlib import metadata

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import attn
from report import OURS


class NotThere(Exception):
    """The backend cannot be used on this machine, or not for this line."""


def ours(line, q, k, v):
    with torch.no_grad():
        attn.forward(q, k, v, causal=line.causal)
    return lambda: attn.forward(q, k, v, causal=line.causal)


def _sdpa(backend, line, q, k, v):
    """PyTorch's own entry to cuDNN and FlashAttention-2, on views of the same memory."""
    qt = q.transpose(1, 2)
    grouped = line.group > 1

    def call(kt, vt, **more):
        def run():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(qt, kt, vt, is_causal=line.causal, **more).transpose(1, 2)

        return run

    kt, vt = k.transpose(1, 2), v.transpose(1, 2)
    attempts = [call(kt, vt, enable_gqa=True)] if grouped else [call(kt, vt)]
    if grouped:
        # Copies made before anything is timed: a lower bound of what such a library takes.
        copies = [x.repeat_interleave(line.group, dim=2).transpose(1, 2) for x in (k, v)]
        attempts.append(call(*copies))
    for attempt in attempts:
        try:
            # Why a backend does not take a problem comes as warnings; the exception is enough.
            with warnings.catch_warnings(action="ignore"):
                attempt()
            return attempt
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
    raise NotThere(reason)


def cudnn(line, q, k, v):
    return _sdpa(SDPBackend.CUDNN_ATTENTION, line, q, k, v)


def fa2(line, q, k, v):
    return _sdpa(SDPBackend.FLASH_ATTENTION, line, q, k, v)


@functools.cache
def _flex():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.config.recompile_limit = 64
    return torch.compile(flex_attention, dynamic=False), create_block_mask


def flex(line, q, k, v):
    """FlexAttention, compiled by Triton for this shape."""
    flex_attention, create_block_mask = _flex()
    mask = None
    if line.causal:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, line.seq, line.seq, device="cuda")
    qt, kt, vt = (x.transpose(1, 2) for x in (q, k, v))

    def run():
        return flex_attention(qt, kt, vt, block_mask=mask, enable_gqa=line.group > 1).transpose(1, 2)

    return run


def _output(result):
    return result[0] if isinstance(result, tuple) else result


def fa4(line, q, k, v):
    """FlashAttention-4's kernels for this GPU, compiled by CuTe DSL for each kind of problem."""
    try:
        from flash_attn.cute import flash_attn_func
    except ImportError as error:
        raise NotThere(str(error)) from error
    return lambda: _output(flash_attn_func(q, k, v, causal=line.causal))


def fa3(line, q, k, v):
    try:
        from flash_attn_interface import flash_attn_func
    except ImportError as error:
        raise NotThere(str(error)) from error
    return lambda: _output(flash_attn_func(q, k, v, causal=line.causal))


BACKENDS = {OURS: ours, "cuDNN": cudnn, "FA2": fa2, "Flex": flex, "FA4": fa4, "FA3": fa3}


def versions():
    """What was measured, in words."""
    cudnn_version = torch.backends.cudnn.version()
    found = {
        OURS: attn.library().lib.attn_version().decode(),
        "cuDNN": f"{cudnn_version // 10000}.{cudnn_version // 100 % 100}.{cudnn_version % 100}",
        "FA2": f"in PyTorch {torch.__version__}",
    }
    peers = {"Flex": ("triton", "triton"), "FA4": ("flash-attn-4", "flash_attn.cute"), "FA3": ("flash-attn-3", "flash_attn_interface")}
    for name, (distribution, module) in peers.items():
        found[name] = _version(distribution, module)
    return found


def _version(distribution, module):
    try:
        return f"{distribution} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        pass
    try:
        there = importlib.util.find_spec(module) is not None
    except ImportError:
        there = False
    return "of unknown version" if there else "not installed"
