"""attn.forward_dlpack and append_dlpack on whatever libcuda.so.1 there is: producers and consumers of this program's own, old and new, their
streams, and who deletes what how often.

python3 dlpack.py FOLDER_OF_ATTN_PY; ATTN_LIBRARY names the library.
"""

import ctypes
import gc
import math
import sys
import threading
from ctypes import byref, c_int, c_size_t, c_uint64, c_void_p

sys.path.insert(0, sys.argv[1])
import attn  # noqa: E402
import attn_dlpack as dl  # noqa: E402

BATCH, QUERIES, KEYS, HEADS, DIM = 2, 3, 20, 2, 64
BF16, F32, I32 = (4, 16), (2, 32), (0, 32)
# What producers have lent, and the names of spent capsules: C code holds their addresses, so they stay to the end.
LENT = []
USED = {name: b"used_" + name for name in (dl.VERSIONED, dl.UNVERSIONED)}
cuda = ctypes.CDLL("libcuda.so.1")
set_name = ctypes.PYFUNCTYPE(c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", ctypes.pythonapi))


def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, f"{name} returned {code}"


def upload(data):
    address = c_uint64()
    call("cuMemAlloc_v2", byref(address), c_size_t(ctypes.sizeof(data)))
    call("cuMemcpyHtoD_v2", address, data, c_size_t(ctypes.sizeof(data)))
    return address.value


def download(address, kind, count):
    found = (kind * count)()
    call("cuMemcpyDtoH_v2", found, c_uint64(address), c_size_t(ctypes.sizeof(found)))
    return list(found)


def allocated(address):
    return cuda.cuMemGetAddressRange_v2(None, None, c_uint64(address)) == 0


def bits(count, salt):
    """bfloat16 of sixteenths between -2 and 2, as the upper halves of float32."""
    values = (ctypes.c_float * count)(*[((i * 37 + salt * 11) % 61 - 30) / 16 for i in range(count)])
    return (ctypes.c_uint16 * count)(*[word >> 16 for word in (ctypes.c_uint32 * count).from_buffer(values)])


class Producer:
    """A library's tensor, which counts how often what it lends is deleted."""

    def __init__(self, data, dtype, shape, strides=None, device=(2, 0), flags=0, major=1):
        self.address, self.dtype, self.shape, self.strides = data if isinstance(data, int) else upload(data), dtype, shape, strides
        self.device, self.flags, self.major = device, flags, major
        self.streams, self.deleted = [], 0

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None):
        assert max_version[0] >= 1
        return self.lend(stream, dl.ManagedVersioned, dl.VERSIONED)

    def lend(self, stream, structure, name):
        self.streams.append(stream)

        def delete(_):
            self.deleted += 1

        managed = structure()
        managed.deleter = type(managed.deleter)(delete)
        if structure is dl.ManagedVersioned:
            managed.major, managed.minor, managed.flags = self.major, 1, self.flags
        tensor, sizes = managed.tensor, ctypes.c_int64 * len(self.shape)
        tensor.data, tensor.ndim, tensor.lanes = self.address, len(self.shape), 1
        tensor.device_type, tensor.device_id = self.device
        tensor.code, tensor.bits = self.dtype
        tensor.shape = sizes(*self.shape)
        if self.strides:
            tensor.strides = sizes(*self.strides)
        LENT.append(managed)
        return dl._new(ctypes.addressof(managed), name, attn._dlpack.destroy_capsule)


class OldProducer(Producer):
    """One from before there were versions."""

    def __dlpack__(self, stream=None):
        return self.lend(stream, dl.Managed, dl.UNVERSIONED)


class Consumer:
    """What from_dlpack makes: it takes the tensor out of the capsule and deletes it when it goes."""

    def __init__(self, producer, stream=None, **version):
        self.capsule = producer.__dlpack__(stream=stream, **version)
        name, structure = (dl.VERSIONED, dl.ManagedVersioned) if version else (dl.UNVERSIONED, dl.Managed)
        self.managed = ctypes.cast(dl._get_pointer(self.capsule, name), ctypes.POINTER(structure))
        assert set_name(self.capsule, USED[name]) == 0

    @property
    def tensor(self):
        return self.managed.contents.tensor

    def delete(self):
        self.managed.contents.deleter(self.managed)


def refused(kind, part, make):
    try:
        make()
    except kind as error:
        assert part in str(error), error
        return error
    raise AssertionError(f"nothing was raised where {part!r} was expected")


def by_address(library, q, k, v, serving=None, problem=None, **arrays):
    """O and LSE of the same tensors by attn_plan_launch."""
    problem = problem or library.problem("bfloat16", BATCH, QUERIES, KEYS, HEADS, 1, DIM, DIM)
    problem.mask = 1
    count = BATCH * QUERIES * HEADS
    o, lse = upload((ctypes.c_uint16 * (count * DIM))()), upload((ctypes.c_float * count)())
    plan = attn.Plan(library, problem, serving=serving)
    workspace = upload((ctypes.c_uint8 * plan.workspace_bytes)()) if plan.workspace_bytes else 0
    plan.launch(q, k, v, o, lse, workspace, **arrays)
    call("cuCtxSynchronize")
    return download(o, ctypes.c_uint16, count * DIM), download(lse, ctypes.c_float, count)


def values(tensor, kind=ctypes.c_uint16):
    return download(tensor.data + tensor.byte_offset, kind, math.prod(tensor.sizes()))


def inputs():
    q = Producer(bits(BATCH * QUERIES * HEADS * DIM, 1), BF16, (BATCH, QUERIES, HEADS, DIM))
    k, v = (Producer(bits(BATCH * KEYS * DIM, salt), BF16, (BATCH, KEYS, 1, DIM)) for salt in (2, 3))
    return q, k, v


def dense(library, stream):
    q, k, v = inputs()
    want, want_lse = by_address(library, q.address, k.address, v.address)
    # The second time an old producer, strides that say the same, and a plan from the cache.
    old_k = OldProducer(k.address, BF16, k.shape, (KEYS * DIM, DIM, DIM, 1))
    for key in (k, old_k, old_k):
        o, lse = attn.forward_dlpack(q, key, v, causal=True, return_lse=True, stream=stream)
        assert o.shape == q.shape and lse.shape == (BATCH, HEADS, QUERIES) and o.__dlpack_device__() == (2, 0)
        assert values(o.tensor) == want and values(lse.tensor, ctypes.c_float) == want_lse
    assert len(attn._dlpack.plans) == 2, "a plan for each form of k"
    assert q.streams == [stream] * 3 and (q.deleted, k.deleted, old_k.deleted) == (3, 1, 2), "each capsule deletes what it holds once"
    attn.forward_dlpack(q, k, v, causal=True)
    assert q.streams[-1] == 1, "None is the legacy default stream"

    own = Producer(bits(len(want), 9), BF16, q.shape)
    assert attn.forward_dlpack(q, k, v, causal=True, out=own, stream=stream) is own
    assert download(own.address, ctypes.c_uint16, len(want)) == want
    locked = Producer(own.address, BF16, q.shape, flags=dl.READ_ONLY)
    refused(BufferError, "o is read-only", lambda: attn.forward_dlpack(q, k, v, out=locked))
    attn.forward_dlpack(locked, k, v)  # a read-only input is as good as any
    # A result is an argument, too: V is one key's for each query.
    again = attn.forward_dlpack(q, o, o, stream=stream)
    assert again.shape == q.shape
    return o, want


def context_and_workspace():
    """The current context, and where this thread has its one workspace."""
    context = c_void_p()
    call("cuCtxGetCurrent", byref(context))
    (workspace,) = attn._dlpack.own.workspaces.values()
    return context.value, workspace.tensor.data


def packed(library):
    q, k, v = inputs()
    total_q, total_k = BATCH * QUERIES, BATCH * KEYS
    sums = [Producer((c_int * 3)(*[i * n for i in range(3)]), I32, (3,)) for n in (QUERIES, KEYS)]
    sinks = Producer((ctypes.c_float * HEADS)(0.5, -1.0), F32, (HEADS,))
    problem = library.problem("bfloat16", BATCH, QUERIES, KEYS, HEADS, 1, DIM, DIM)
    serving = library.serving(total_q=total_q, total_k=total_k, sinks=1, softcap=5.0)
    library.check(library.lib.attn_serving_contiguous(byref(serving), byref(problem)))
    arrays = {"cu_seqlens_q": sums[0].address, "cu_seqlens_k": sums[1].address, "sinks": sinks.address}
    want, want_lse = by_address(library, q.address, k.address, v.address, serving, problem, **arrays)
    q.shape, k.shape, v.shape = (total_q, HEADS, DIM), (total_k, 1, DIM), (total_k, 1, DIM)
    given = {"cu_seqlens_q": sums[0], "cu_seqlens_k": sums[1], "sinks": sinks, "softcap": 5.0}
    for longest in ({"max_seqlen_q": QUERIES, "max_seqlen_k": KEYS}, {}):
        o, lse = attn.forward_dlpack(q, k, v, causal=True, return_lse=True, **given, **longest)
        assert o.shape == (total_q, HEADS, DIM) and lse.shape == (HEADS, total_q)
        assert values(o.tensor) == want and values(lse.tensor, ctypes.c_float) == want_lse
    windowed = attn.forward_dlpack(q, k, v, window=(4, 0), max_seqlen_q=QUERIES, max_seqlen_k=KEYS, **given)
    assert values(windowed.tensor) != want
    assert sinks.deleted == 3

    # Another thread's launches have a workspace of their own, which goes with the thread.
    (context, mine), seen = context_and_workspace(), []

    def elsewhere():
        call("cuCtxSetCurrent", c_void_p(context))
        again = attn.forward_dlpack(q, k, v, causal=True, max_seqlen_q=QUERIES, max_seqlen_k=KEYS, **given)
        seen.append((values(again.tensor) == want, context_and_workspace()[1]))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen[0][0] and seen[0][1] != mine and allocated(mine) and not allocated(seen[0][1])
    refused(attn.AttnError, "dtype of sinks", lambda: attn.forward_dlpack(q, k, v, **{**given, "sinks": sums[0]}))


def appended(library):
    """Two tokens of each sequence behind what pages of any order hold, K and Q rotated."""
    new, size, pages = 2, 16, 3
    table, before = (c_int * 4)(2, 0, 1, 9), (c_int * 2)(15, 3)
    angles = (ctypes.c_float * (32 * DIM // 2))(*[(i * 7 % 13 - 6) / 8 for i in range(32 * DIM // 2)])
    k, v, old = bits(BATCH * new * DIM, 7), bits(BATCH * new * DIM, 8), bits(pages * size * DIM, 9)
    q = bits(BATCH * new * HEADS * DIM, 10)
    sizes = {"page_size": size, "pages": pages, "table_width": 2, "seqlens_before": 1, "heads": HEADS, "positions": 32}
    plan = attn.AppendPlan(library, library.append("bfloat16", BATCH, new, 1, DIM, DIM, rotary_dim=DIM, **sizes))
    written = {"k_cache": upload(old), "v_cache": upload(old), "q": upload(q)}
    shared = {"cos": upload(angles), "sin": upload(angles), "page_table": upload(table), "seqlens_before": upload(before)}
    plan.launch(k=upload(k), v=upload(v), **written, **shared)

    rows = (BATCH, new, 1, DIM)
    tensors = {"k": Producer(k, BF16, rows), "v": Producer(v, BF16, rows), "q": Producer(q, BF16, (BATCH, new, HEADS, DIM))}
    tensors |= {name: Producer(old, BF16, (pages, size, 1, DIM)) for name in ("k_cache", "v_cache")}
    tensors |= {name: Producer(shared[name], F32, (32, DIM // 2)) for name in ("cos", "sin")}
    tensors["page_table"] = Producer(table, I32, (BATCH, 2))
    tensors["seqlens_before"] = Producer(before, I32, (BATCH,))
    attn.append_dlpack(**tensors)
    call("cuCtxSynchronize")
    for name, address in written.items():
        count = math.prod(tensors[name].shape)
        got = download(tensors[name].address, ctypes.c_uint16, count)
        assert got == download(address, ctypes.c_uint16, count), f"{name} differs"
        assert got != list(q if name == "q" else old), f"{name} was not written"
    tensors["k_cache"].flags = dl.READ_ONLY
    refused(BufferError, "k_cache is read-only", lambda: attn.append_dlpack(**tensors))
    refused(TypeError, "no argument cosine", lambda: attn.append_dlpack(**tensors, cosine=q))


def failures(q, k, v):
    def forward(**changed):
        return lambda: attn.forward_dlpack(**{"q": q, "k": k, "v": v, **changed})

    refused(BufferError, "k lies on device 0 of type 1", forward(k=Producer(k.address, BF16, k.shape, device=(1, 0))))
    error = refused(attn.AttnError, "k lies on device 1 of type 2", forward(k=Producer(k.address, BF16, k.shape, device=(2, 1))))
    assert error.status == 4
    refused(BufferError, "k is of DLPack 2.1", forward(k=Producer(k.address, BF16, k.shape, major=2)))
    refused(attn.AttnError, "dtype of k is code 2, 32 bits", forward(k=Producer(k.address, F32, k.shape)))
    refused(attn.AttnError, "allowed: 4, (batch, seq, heads, head_dim)", forward(k=Producer(k.address, BF16, k.shape[1:])))
    refused(TypeError, "no argument cu_seqlen_q", forward(cu_seqlen_q=q))
    spent = Consumer(attn.forward_dlpack(q, k, v), max_version=(1, 1))
    k.__dlpack__ = None
    empty = Producer(k.address, BF16, k.shape)
    empty.lend = lambda *_: spent.capsule
    refused(BufferError, "a capsule with a tensor that nobody has taken", forward(k=empty))
    spent.delete()


def results(held, stream, other):
    o, want = held.pop()
    driver, calls = attn._dlpack.driver, []
    original = driver.call
    driver.call = lambda name, *arguments: (calls.append((name, arguments[0].value)), original(name, *arguments))
    for consumer, waits in ((stream, []), (-1, []), (other, [other]), (None, [1]), (1, [1]), (2, [2])):
        calls.clear()
        # Nobody takes it, and it goes while an exception is on its way.
        refused(ZeroDivisionError, "", lambda: [o.__dlpack__(stream=consumer), 1 // 0])
        assert calls == [("cuStreamWaitEvent", awaited) for awaited in waits], (consumer, calls)
    driver.call = original
    refused(ValueError, "stream is 0", lambda: o.__dlpack__(stream=0))
    refused(BufferError, "copy is True", lambda: o.__dlpack__(copy=True))
    refused(BufferError, "dl_device is (1, 0)", lambda: o.__dlpack__(dl_device=(1, 0)))
    o.__dlpack__(dl_device=(2, 0), copy=False)

    old, new = Consumer(o, stream), Consumer(o, stream, max_version=(1, 0))
    memory = o.tensor.data
    assert old.tensor.data == new.tensor.data == memory and old.tensor.sizes() == o.shape
    assert (new.managed.contents.major, new.managed.contents.flags) == (1, 0)
    del o
    gc.collect()
    assert values(new.tensor) == want
    new.delete()
    assert allocated(memory)
    old.delete()
    assert not allocated(memory)


def main():
    library = attn.library()
    attn._dlpack = dl.Interface(library)
    call("cuInit", 0)
    context, streams = c_void_p(), [c_void_p(), c_void_p()]
    call("cuCtxCreate_v2", byref(context), 0, 0)
    for stream in streams:
        call("cuStreamCreate", byref(stream), 1)
    stream, other = (s.value for s in streams)
    held = [dense(library, stream)]
    packed(library)
    appended(library)
    failures(*inputs())
    results(held, stream, other)
    print("right:", len(attn._dlpack.plans), "plans")


main()
