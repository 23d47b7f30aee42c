"""The C interface of libattn.so by ctypes alone: attn.h's structures, its functions, and a plan."""

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, sizeof

ABI_VERSION = 1
DTYPES = {"bfloat16": 0, "float16": 1}
UNLIMITED = 2**64 - 1
PAIRS = {"halves": 0, "interleaved": 1}
APPENDED = (
    "k", "v", "k_cache", "v_cache", "q", "q_out", "cos", "sin", "cu_seqlens_new", "seqused_new", "seqlens_before", "page_table",
    "k_descale", "v_descale",
)
ARRAYS = (
    "cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_table", "sinks", "alibi_slopes",
    "q_descale", "k_descale", "v_descale",
)


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


class Serving(ctypes.Structure):
    """attn_serving of attn.h."""

    _fields_ = (
        [("struct_size", c_size_t)]
        + [(n, c_uint64) for n in ("total_q", "total_k", "page_size", "pages", "table_width", "window_left", "window_right")]
        + [("softcap", c_float)]
        + [(n, c_uint32) for n in ("splits", "alibi", "sinks", "seqused_q", "seqused_k", "float8", "descales")]
    )


class ServingTensors(ctypes.Structure):
    """attn_serving_tensors of attn.h."""

    _fields_ = [("struct_size", c_size_t)] + [(name, c_uint64) for name in ARRAYS]


class Append(ctypes.Structure):
    """attn_append of attn.h."""

    _fields_ = (
        [("struct_size", c_size_t)]
        + [(n, c_uint32) for n in ("dtype", "seqused_new", "seqlens_before", "pairs", "sines", "float8", "descales", "reserved")]
        + [(n, c_uint64) for n in ("batch", "new_tokens", "total", "kv_heads", "heads", "head_dim", "head_dim_v", "cache_rows")]
        + [(n, c_uint64) for n in ("page_size", "pages", "table_width", "rotary_dim", "positions")]
        + [("sines_stride", c_int64)]
        + [(name, Strides) for name in ("k", "v", "q", "q_out", "k_cache", "v_cache")]
    )


class AppendTensors(ctypes.Structure):
    """attn_append_tensors of attn.h."""

    _fields_ = [("struct_size", c_size_t)] + [(name, c_uint64) for name in APPENDED]


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
            "attn_serving_init": [POINTER(Serving)],
            "attn_serving_contiguous": [POINTER(Serving), POINTER(Problem)],
            "attn_plan_create_serving": [POINTER(Problem), POINTER(Serving), c_char_p, plan],
            "attn_plan_launch_serving": [c_void_p, POINTER(Tensors), POINTER(ServingTensors), c_void_p],
            "attn_supports": [POINTER(Problem), POINTER(Serving)],
            "attn_append_init": [POINTER(Append), c_uint32] + [c_uint64] * 5,
            "attn_append_contiguous": [POINTER(Append)],
            "attn_append_plan_create": [POINTER(Append), plan],
            "attn_append_plan_launch": [c_void_p, POINTER(AppendTensors), c_void_p],
        }.items():
            getattr(lib, name).restype, getattr(lib, name).argtypes = c_int32, arguments
        for name in ("attn_plan_destroy", "attn_append_plan_destroy"):
            getattr(lib, name).restype, getattr(lib, name).argtypes = None, [c_void_p]

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


    def serving(self, **fields):
        """What makes a problem more than a dense one: attn_serving_init, then these fields."""
        serving = Serving()
        self.check(self.lib.attn_serving_init(byref(serving)))
        for name, value in fields.items():
            setattr(serving, name, value)
        return serving

    def append(self, dtype, batch, new_tokens, kv_heads, head_dim, head_dim_v, **fields):
        """What is appended to a cache, with these fields, of contiguous tensors."""
        append = Append()
        sizes = (batch, new_tokens, kv_heads, head_dim, head_dim_v)
        self.check(self.lib.attn_append_init(byref(append), DTYPES[dtype], *sizes))
        for name, value in fields.items():
            setattr(append, name, value)
        self.check(self.lib.attn_append_contiguous(byref(append)))
        return append

    def supports(self, problem, serving=None):
        """Raises why no plan can be made on the current device, if so."""
        self.check(self.lib.attn_supports(byref(problem), serving and byref(serving)))


class Plan:
    """A plan in the CUDA context that is current when it is made."""

    def __init__(self, library, problem, kernel=None, serving=None):
        self.handle, self.library, lib = c_void_p(), library, library.lib
        if serving is not None:
            name = kernel and kernel.encode()
            library.check(lib.attn_plan_create_serving(byref(problem), byref(serving), name, byref(self.handle)))
        elif kernel is None:
            library.check(lib.attn_plan_create(byref(problem), byref(self.handle)))
        else:
            library.check(lib.attn_plan_create_with_kernel(byref(problem), kernel.encode(), byref(self.handle)))
        workspace = c_uint64()
        library.check(lib.attn_plan_workspace_bytes(self.handle, byref(workspace)))
        self.workspace_bytes = workspace.value
        self.kernel = lib.attn_plan_kernel(self.handle).decode()

    def __str__(self):
        return self.library.lib.attn_plan_description(self.handle).decode()

    def launch(self, q, k, v, o, lse=0, workspace=0, stream=None, **arrays):
        """Queues the kernels on device addresses and a CUstream; `arrays` are those of a serving problem."""
        tensors = Tensors(sizeof(Tensors), q, k, v, o, lse, workspace)
        if arrays:
            given = ServingTensors(sizeof(ServingTensors), **arrays)
            status = self.library.lib.attn_plan_launch_serving(self.handle, byref(tensors), byref(given), stream)
        else:
            status = self.library.lib.attn_plan_launch(self.handle, byref(tensors), stream)
        if status:
            self.library.check(status)

    def __del__(self):
        if self.handle:
            self.library.lib.attn_plan_destroy(self.handle)


class AppendPlan:
    """A plan to append in the CUDA context that is current when it is made."""

    def __init__(self, library, append):
        self.handle, self.library = c_void_p(), library
        library.check(library.lib.attn_append_plan_create(byref(append), byref(self.handle)))

    def launch(self, stream=None, **tensors):
        """Queues the kernel on device addresses, by the names of attn_append_tensors, and a CUstream."""
        given = AppendTensors(sizeof(AppendTensors), **tensors)
        status = self.library.lib.attn_append_plan_launch(self.handle, byref(given), stream)
        if status:
            self.library.check(status)

    def __del__(self):
        if self.handle:
            self.library.lib.attn_append_plan_destroy(self.handle)
