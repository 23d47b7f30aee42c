"""Attention from PyTorch through libattn.so: `attn.forward(q, k, v)` on CUDA tensors, for those who want to try it.

    import attn                                       # needs libattn.so: cargo build --release -p attn-capi
    o = attn.forward(q, k, v, causal=True)            # (batch, seq, heads, head_dim), bfloat16 or float16
    o, lse = attn.forward(q, k, v, return_lse=True)   # lse: (batch, heads, seq), float32

The work is queued on PyTorch's current stream in PyTorch's own context and can be captured into a graph. Strides are honoured,
so views of (batch, heads, seq, head_dim) tensors need no copy; the last dimension must be contiguous. Forward only.

The library is the file that ATTN_LIBRARY names, else one beside this file, else the repository's build. Everything but `forward`
works without PyTorch: `Library` is the C interface with errors as exceptions.
"""

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, sizeof

ABI_VERSION = 1
DTYPES = {"bfloat16": 0, "float16": 1}


class Strides(ctypes.Structure):
    """attn_strides of attn.h."""

    _fields_ = [(name, c_int64) for name in ("batch", "seq", "head")]


class Problem(ctypes.Structure):
    """attn_problem of attn.h."""

    _fields_ = (
        [("struct_size", c_size_t), ("dtype", c_uint32), ("mask", c_uint32), ("scale", c_float), ("reserved", c_uint32)]
        + [(n, c_uint64) for n in ("batch", "seqlen_q", "seqlen_k", "heads", "kv_heads", "head_dim", "head_dim_v")]
        + [(name, Strides) for name in ("q", "k", "v", "o")]
        + [(name, c_int64) for name in ("lse_batch_stride", "lse_head_stride")]
    )


class Tensors(ctypes.Structure):
    """attn_tensors of attn.h."""

    _fields_ = [("struct_size", c_size_t)] + [(name, c_uint64) for name in ("q", "k", "v", "o", "lse", "workspace")]


class AttnError(RuntimeError):
    """A call of the library failed; `status` is its attn_status."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def find_library():
    """The path of libattn.so, by the order that the module's documentation gives."""
    here = os.path.dirname(os.path.abspath(__file__))
    named = os.environ.get("ATTN_LIBRARY")
    built = os.path.join(os.path.dirname(here), "target", "release", "libattn.so")
    candidates = [named] if named else [os.path.join(here, "libattn.so"), built]
    for path in candidates:
        if os.path.exists(path):
            return path
    raise FileNotFoundError(
        f"no libattn.so at {' or '.join(candidates)}; build it with `cargo build --release -p attn-capi`, "
        "or name it in ATTN_LIBRARY"
    )


class Library:
    """The functions of attn.h; a failure is an AttnError."""

    def __init__(self, path=None):
        self.path = path or find_library()
        self.lib = lib = ctypes.CDLL(self.path)
        lib.attn_abi_version.restype = c_uint32
        found = lib.attn_abi_version()
        if found != ABI_VERSION:
            raise ImportError(f"{self.path} has ABI {found}, this file is for {ABI_VERSION}")
        texts = {"attn_version": [], "attn_last_error": [], "attn_plan_kernel": [c_void_p], "attn_plan_description": [c_void_p]}
        for name, arguments in texts.items():
            getattr(lib, name).restype, getattr(lib, name).argtypes = c_char_p, arguments
        plan = POINTER(c_void_p)
        for name, arguments in {
            "attn_problem_init": [POINTER(Problem), c_uint32] + [c_uint64] * 7,
            "attn_plan_create": [POINTER(Problem), plan],
            "attn_plan_create_with_kernel": [POINTER(Problem), c_char_p, plan],
            "attn_plan_workspace_bytes": [c_void_p, POINTER(c_uint64)],
            "attn_plan_launch": [c_void_p, POINTER(Tensors), c_void_p],
        }.items():
            getattr(lib, name).restype, getattr(lib, name).argtypes = c_int32, arguments
        lib.attn_plan_destroy.restype, lib.attn_plan_destroy.argtypes = None, [c_void_p]

    def check(self, status):
        """Raises what a status other than 0 means."""
        if status:
            raise AttnError(status, self.lib.attn_last_error().decode())

    def problem(self, dtype, batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v):
        """A problem on contiguous tensors, to be changed where it differs."""
        problem = Problem()
        sizes = (batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v)
        self.check(self.lib.attn_problem_init(byref(problem), DTYPES[dtype], *sizes))
        return problem


class Plan:
    """A plan in the CUDA context that is current when it is made."""

    def __init__(self, library, problem, kernel=None):
        self.handle, self.library, lib = c_void_p(), library, library.lib
        if kernel is None:
            library.check(lib.attn_plan_create(byref(problem), byref(self.handle)))
        else:
            library.check(lib.attn_plan_create_with_kernel(byref(problem), kernel.encode(), byref(self.handle)))
        workspace = c_uint64()
        library.check(lib.attn_plan_workspace_bytes(self.handle, byref(workspace)))
        self.workspace_bytes = workspace.value
        self.kernel = lib.attn_plan_kernel(self.handle).decode()

    def __str__(self):
        return self.library.lib.attn_plan_description(self.handle).decode()

    def launch(self, q, k, v, o, lse=0, workspace=0, stream=None):
        """Queues the kernel on device addresses and a CUstream."""
        tensors = Tensors(sizeof(Tensors), q, k, v, o, lse, workspace)
        status = self.library.lib.attn_plan_launch(self.handle, byref(tensors), stream)
        if status:
            self.library.check(status)

    def __del__(self):
        if self.handle:
            self.library.lib.attn_plan_destroy(self.handle)


_library = None
_plans = {}


def library():
    """The library, loaded once."""
    global _library
    if _library is None:
        _library = Library()
    return _library


def plan(q, k, v, o, causal=False, scale=None, kernel=None):
    """The plan for these tensors, from the cache when there is one for their shapes and strides."""
    key = (q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), o.stride(), q.dtype, q.device, causal, scale, kernel)
    found = _plans.get(key)
    if found is None:
        found = _plans[key] = Plan(library(), _problem(q, k, v, o, causal, scale), kernel)
    return found


def _problem(q, k, v, o, causal, scale):
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4 or tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and strides {tensor.stride()}; "
                "allowed: (batch, seq, heads, head_dim) with a contiguous last dimension"
            )
        if tensor.device != q.device or tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}, q is {q.dtype} on {q.device}; allowed: the same")
    dtype = str(q.dtype).removeprefix("torch.")
    if dtype not in DTYPES or q.device.type != "cuda":
        raise ValueError(f"q is {q.dtype} on {q.device}; allowed: bfloat16 and float16 on a CUDA device")
    (batch, seqlen_q, heads, head_dim), (_, seqlen_k, kv_heads, _) = q.shape, k.shape
    if k.shape != (batch, seqlen_k, kv_heads, head_dim) or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"k is {tuple(k.shape)} and v {tuple(v.shape)} beside q {tuple(q.shape)}; "
            f"allowed: ({batch}, seq, kv_heads, {head_dim}) and ({batch}, seq, kv_heads, head_dim_v)"
        )
    problem = library().problem(dtype, batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, v.shape[3])
    problem.mask = int(causal)
    if scale is not None:
        problem.scale = scale
    for name, tensor in (("q", q), ("k", k), ("v", v), ("o", o)):
        setattr(problem, name, Strides(*tensor.stride()[:3]))
    return problem


def forward(q, k, v, causal=False, scale=None, return_lse=False):
    """softmax(scale * q k^T) v, with LSE where asked for.

    q is (batch, seqlen_q, heads, head_dim); k and v have seqlen_k and kv_heads, which divides heads; v's last dimension may differ.
    A causal mask is aligned to the bottom right. The default scale is 1 / sqrt(head_dim).
    """
    import torch

    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise RuntimeError("attn.forward has no backward: call it under torch.no_grad(), or on detached tensors")
    with torch.cuda.device(q.device) if q.is_cuda and q.device.index != torch.cuda.current_device() else _HERE:
        batch, seqlen_q, heads = q.shape[:3]
        o = torch.empty((batch, seqlen_q, heads, v.shape[-1]), dtype=q.dtype, device=q.device)
        lse = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device=q.device) if return_lse else None
        made = plan(q, k, v, o, causal, scale)
        workspace = torch.empty(made.workspace_bytes, dtype=torch.uint8, device=q.device) if made.workspace_bytes else None
        stream = torch.cuda.current_stream().cuda_stream
        made.launch(
            q.data_ptr(), k.data_ptr(), v.data_ptr(), o.data_ptr(),
            lse.data_ptr() if return_lse else 0, workspace.data_ptr() if workspace is not None else 0, stream,
        )
    return (o, lse) if return_lse else o


class _Here:
    """The tensors' device is current already."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


_HERE = _Here()
