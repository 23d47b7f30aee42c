"""Attention for tensors of any library that speaks DLPack (PyTorch, CuPy, JAX and others), by ctypes alone.

    import attn, cupy                                          # PYTHONPATH=bench
    o = attn.forward_dlpack(q, k, v, causal=True)              # whatever has __dlpack__ and lies on a CUDA device
    o = cupy.from_dlpack(o)                                    # or torch.from_dlpack, jax.dlpack.from_dlpack
    attn.forward_dlpack(q, k, v, out=o, stream=stream.ptr)     # into memory that is there, on a CUstream
    attn.append_dlpack(k, v, k_cache, v_cache)                 # into a cache

Inputs are looked at where they lie, with any strides, and must stay until the stream has passed the kernels. A producer makes its data ready for
the stream, a result is ready for the stream of whoever takes it: both as the array API standard has it.
"""

import ctypes
import threading
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, sizeof

from attn_abi import APPENDED, ARRAYS, PAIRS, UNLIMITED, Append, AppendPlan, Plan, Problem, Serving

CUDA = 2
READ_ONLY = 1
MAX_VERSION = (1, 1)
O, LSE, WORKSPACE = range(3)
VERSIONED, UNVERSIONED = b"dltensor_versioned", b"dltensor"


# A capsule keeps the address of its name, and may outlive this module.
for _name in (VERSIONED, UNVERSIONED):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_name))


class DLTensor(ctypes.Structure):
    """DLTensor of dlpack.h, its small structures in line."""

    _fields_ = [
        ("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32), ("code", c_uint8), ("bits", c_uint8),
        ("lanes", c_uint16), ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)), ("byte_offset", c_uint64),
    ]

    def sizes(self):
        return tuple(self.shape[: self.ndim])

    def form(self):
        """What a plan depends on."""
        strides = tuple(self.strides[: self.ndim]) if self.strides else None
        return self.sizes(), strides, self.code, self.bits, self.lanes, self.device_type, self.device_id


class Managed(ctypes.Structure):
    """DLManagedTensor of dlpack.h."""


class ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned of dlpack.h."""


Managed._fields_ = [("tensor", DLTensor), ("manager_ctx", c_void_p), ("deleter", ctypes.CFUNCTYPE(None, POINTER(Managed)))]
ManagedVersioned._fields_ = [
    ("major", c_uint32), ("minor", c_uint32), ("manager_ctx", c_void_p),
    ("deleter", ctypes.CFUNCTYPE(None, POINTER(ManagedVersioned))), ("flags", c_uint64), ("tensor", DLTensor),
]


class Tensors(ctypes.Structure):
    """attn_dlpack_tensors of attn_dlpack.h."""

    _fields_ = [("struct_size", c_size_t)] + [(name, POINTER(DLTensor)) for name in ("q", "k", "v", "o", "lse", "workspace", *ARRAYS)]


class AppendTensors(ctypes.Structure):
    """attn_dlpack_append_tensors of attn_dlpack.h."""

    _fields_ = [("struct_size", c_size_t)] + [(name, POINTER(DLTensor)) for name in APPENDED]


def _python(name, result, *arguments):
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _python("PyCapsule_IsValid", c_int, ctypes.py_object, c_char_p)
_get_pointer = _python("PyCapsule_GetPointer", c_void_p, ctypes.py_object, c_char_p)
_new = _python("PyCapsule_New", ctypes.py_object, c_void_p, c_char_p, c_void_p)


class _Driver:
    """The few calls of the CUDA driver that order streams."""

    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")

    def call(self, name, *arguments):
        code = getattr(self.cuda, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} returned {code}")

    def context(self):
        """A number that no other context has."""
        found = c_uint64()
        self.call("cuCtxGetId", None, byref(found))
        return found.value

    def event(self):
        """An event without timing."""
        event = c_void_p()
        self.call("cuEventCreate", byref(event), 2)
        return event


class Interface:
    """The functions of attn_dlpack.h in a library."""

    def __init__(self, library):
        self.library, self.lib, self.driver = library, library.lib, _Driver()
        for name, arguments in {
            "attn_dlpack_problem": [POINTER(Tensors), POINTER(Problem), POINTER(Serving)],
            "attn_dlpack_launch": [c_void_p, POINTER(Tensors), c_void_p],
            "attn_dlpack_append": [POINTER(AppendTensors), POINTER(Append)],
            "attn_dlpack_append_launch": [c_void_p, POINTER(AppendTensors), c_void_p],
            "attn_dlpack_output": [c_void_p, c_uint32, POINTER(POINTER(ManagedVersioned))],
            "attn_dlpack_share": [POINTER(ManagedVersioned), POINTER(POINTER(ManagedVersioned))],
            "attn_dlpack_share_unversioned": [POINTER(ManagedVersioned), POINTER(POINTER(Managed))],
            "attn_dlpack_capsule_init": [c_void_p, c_void_p],
        }.items():
            getattr(self.lib, name).restype, getattr(self.lib, name).argtypes = c_int32, arguments
        self.destroy_capsule = ctypes.cast(self.lib.attn_dlpack_capsule_destroy, c_void_p)
        functions = (ctypes.cast(f, c_void_p) for f in (ctypes.pythonapi.PyCapsule_IsValid, ctypes.pythonapi.PyCapsule_GetPointer))
        library.check(self.lib.attn_dlpack_capsule_init(*functions))
        self.plans, self.own = {}, threading.local()

    def output(self, plan, which):
        """A new tensor of the plan's; None where it needs none."""
        managed = POINTER(ManagedVersioned)()
        self.library.check(self.lib.attn_dlpack_output(plan.handle, which, byref(managed)))
        return Tensor(self, managed) if managed else None

    def workspace(self, plan, stream):
        """Room for this thread's launches on the stream, which take turns with it: kernels of two threads' launches may mix there."""
        if not plan.workspace_bytes:
            return None
        workspaces = self.own.__dict__.setdefault("workspaces", {})
        key = self.driver.context(), stream
        found = workspaces.get(key)
        if found is None or found.shape[0] < plan.workspace_bytes:
            found = workspaces[key] = self.output(plan, WORKSPACE)
        return found


class Borrowed:
    """A producer's tensor, which lives as long as this: a capsule that nobody empties deletes it by itself."""

    def __init__(self, name, producer, stream, written=False):
        kind, number = producer.__dlpack_device__()
        if kind != CUDA:
            raise BufferError(f"{name} lies on device {number} of type {int(kind)}; allowed: type {CUDA} (CUDA)")
        try:
            self.capsule = producer.__dlpack__(stream=stream, max_version=MAX_VERSION)
        except TypeError:  # a producer from before there were versions
            self.capsule = producer.__dlpack__(stream=stream)
        if _is_valid(self.capsule, VERSIONED):
            managed = ctypes.cast(_get_pointer(self.capsule, VERSIONED), POINTER(ManagedVersioned)).contents
            if managed.major != MAX_VERSION[0]:
                raise BufferError(f"{name} is of DLPack {managed.major}.{managed.minor}; allowed: {MAX_VERSION[0]}")
            if written and managed.flags & READ_ONLY:
                raise BufferError(f"{name} is read-only; allowed: a tensor that may be written")
        elif _is_valid(self.capsule, UNVERSIONED):
            managed = ctypes.cast(_get_pointer(self.capsule, UNVERSIONED), POINTER(Managed)).contents
        else:
            raise BufferError(f"__dlpack__ of {name} returned {self.capsule!r}; allowed: a capsule with a tensor that nobody has taken")
        self.tensor = managed.tensor


class Tensor:
    """A result in CUDA memory, for from_dlpack of any library. It frees the memory with the last one that holds it."""

    def __init__(self, interface, managed):
        self.interface, self.managed, self.tensor = interface, managed, managed.contents.tensor
        self.stream = self.event = None

    @property
    def shape(self):
        """Its sizes."""
        return self.tensor.sizes()

    def written_by(self, stream):
        """Whoever takes it waits for what is queued on the stream now."""
        driver = self.interface.driver
        self.stream, self.event = stream, self.event or driver.event()
        driver.call("cuEventRecord", self.event, c_void_p(stream))

    def __dlpack_device__(self):
        return CUDA, self.tensor.device_id

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if dl_device is not None and tuple(map(int, dl_device)) != self.__dlpack_device__():
            raise BufferError(f"dl_device is {dl_device}; allowed: {self.__dlpack_device__()}, where the tensor lies")
        if copy:
            raise BufferError("copy is True; allowed: None and False")
        self._make_ready(stream)
        lib, versioned = self.interface.lib, max_version is not None and max_version[0] >= 1
        structure, name = (ManagedVersioned, VERSIONED) if versioned else (Managed, UNVERSIONED)
        share = lib.attn_dlpack_share if versioned else lib.attn_dlpack_share_unversioned
        shared = POINTER(structure)()
        self.interface.library.check(share(self.managed, byref(shared)))
        return _new(ctypes.cast(shared, c_void_p), name, self.interface.destroy_capsule)

    def _make_ready(self, stream):
        if stream == 0:
            raise ValueError("stream is 0; allowed: None, -1, 1 (legacy default), 2 (of the thread) and a CUstream")
        stream = 1 if stream is None else stream
        if stream not in (-1, self.stream) and self.event is not None:
            self.interface.driver.call("cuStreamWaitEvent", c_void_p(stream), self.event, 0)

    def __del__(self):
        if self.event is not None:
            self.interface.driver.cuda.cuEventDestroy_v2(self.event)
        self.managed.contents.deleter(self.managed)


def forward(
    interface, q, k, v, causal=False, scale=None, return_lse=False, *, out=None, out_lse=None, stream=None, window=None, softcap=None,
    splits=None, max_seqlen_q=None, max_seqlen_k=None, kernel=None, alibi=None, **arrays,
):
    """softmax(scale * q k^T) v of tensors that have __dlpack__, with LSE where asked for: attn.forward's arguments, and

    stream: a CUstream as a number; None for the legacy default stream. out, out_lse: where the results go, which are then returned; else each
      is a new Tensor, allocated by cuMemAlloc, which a loop should avoid. Without max_seqlen_q and max_seqlen_k, packed sequences are planned
      as if one could be as long as all together.
    """
    stream = 1 if stream in (None, 0) else stream
    unknown = arrays.keys() - set(ARRAYS)
    if unknown:
        raise TypeError(f"forward_dlpack has no argument {', '.join(sorted(unknown))}; arrays are {', '.join(ARRAYS)}")
    named = {"q": q, "k": k, "v": v, **arrays, "alibi_slopes": alibi, "o": out, "lse": out_lse}
    given = _borrowed(named, stream, written=("o", "lse"))
    options = (causal, scale, tuple(window) if window else None, softcap, splits, max_seqlen_q, max_seqlen_k, kernel)
    tensors = _tensors(Tensors, given)
    plan = _plan(interface, given, options, lambda: _make_plan(interface, given, tensors, *options))

    results = []
    for name, which, own in (("o", O, out), ("lse", LSE, out_lse)):
        if own is None and (which == O or return_lse):
            own = interface.output(plan, which)
            setattr(tensors, name, ctypes.pointer(own.tensor))
        results.append(own)
    workspace = interface.workspace(plan, stream)
    if workspace is not None:
        tensors.workspace = ctypes.pointer(workspace.tensor)
    interface.library.check(interface.lib.attn_dlpack_launch(plan.handle, byref(tensors), stream))
    for result in results:
        if isinstance(result, Tensor):
            result.written_by(stream)
    return tuple(results) if return_lse or out_lse is not None else results[0]


def append(
    interface, k, v, k_cache, v_cache, *, q=None, q_out=None, interleaved=False, max_new=None, stream=None, **others,
):
    """Writes new keys and values into a cache: attn.append's arguments as tensors that have __dlpack__, and stream as `forward` has it."""
    stream = 1 if stream in (None, 0) else stream
    unknown = others.keys() - set(APPENDED)
    if unknown:
        raise TypeError(f"append_dlpack has no argument {', '.join(sorted(unknown))}; tensors are {', '.join(APPENDED)}")
    named = {"k": k, "v": v, "k_cache": k_cache, "v_cache": v_cache, "q": q, "q_out": q_out, **others}
    given = _borrowed(named, stream, written=("k_cache", "v_cache", "q" if q_out is None else "q_out"))
    tensors = _tensors(AppendTensors, given)

    def make():
        filled = Append()
        interface.library.check(interface.lib.attn_dlpack_append(byref(tensors), byref(filled)))
        filled.pairs = PAIRS["interleaved" if interleaved else "halves"]
        filled.new_tokens = max_new or filled.new_tokens
        return AppendPlan(interface.library, filled)

    plan = _plan(interface, given, (interleaved, max_new), make)
    interface.library.check(interface.lib.attn_dlpack_append_launch(plan.handle, byref(tensors), stream))


def _borrowed(named, stream, written):
    """Those that are given. None lies on the interpreter's stack alone: what is lent goes back once an exception has been dealt with."""
    given = {}
    for name, tensor in named.items():
        if tensor is not None:
            given[name] = Borrowed(name, tensor, stream, written=name in written)
    return given


def _tensors(structure, given):
    return structure(sizeof(structure), **{name: ctypes.pointer(view.tensor) for name, view in given.items()})


def _plan(interface, given, options, make):
    """The plan for tensors of these forms, from the cache when there is one."""
    key = interface.driver.context(), options, tuple((name, view.tensor.form()) for name, view in given.items())
    found = interface.plans.get(key)
    if found is None:
        found = interface.plans[key] = make()
    return found


def _make_plan(interface, given, tensors, causal, scale, window, softcap, splits, max_seqlen_q, max_seqlen_k, kernel):
    problem, serving = Problem(), Serving()
    interface.library.check(interface.lib.attn_dlpack_problem(byref(tensors), byref(problem), byref(serving)))
    problem.mask = int(causal)
    if scale is not None:
        problem.scale = scale
    problem.seqlen_q, problem.seqlen_k = max_seqlen_q or problem.seqlen_q, max_seqlen_k or problem.seqlen_k
    if window is not None:
        left, right = window[0], 0 if causal else window[1]
        problem.mask = 2
        serving.window_left = UNLIMITED if left is None else left
        serving.window_right = UNLIMITED if right is None else right
    if softcap is not None:
        serving.softcap = softcap
    if splits not in (None, "auto"):
        serving.splits = splits
    arrays = given.keys() & set(ARRAYS)
    dense = not arrays and window is None and softcap is None and splits is None and not serving.float8
    return Plan(interface.library, problem, kernel, None if dense else serving)
