"""bench/attn.py on whatever libcuda.so.1 there is: a context of this program's own, a plan, a launch, the answer, errors.

python3 forward.py FOLDER_OF_ATTN_PY; ATTN_LIBRARY names the library.
"""

import ctypes
import math
import struct
import sys
from ctypes import byref, c_int, c_size_t, c_uint64, c_void_p

sys.path.insert(0, sys.argv[1])
import attn  # noqa: E402

SEQ, DIM = 70, 32
cuda = ctypes.CDLL("libcuda.so.1")


def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, f"{name} returned {code}"


def current():
    context = c_void_p()
    call("cuCtxGetCurrent", byref(context))
    return context.value


def as_bits(value):
    """bfloat16 that is exactly this value."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    assert bits & 0xFFFF == 0, value
    return bits >> 16


def as_value(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def upload(values):
    address = c_uint64()
    data = (ctypes.c_uint16 * len(values))(*map(as_bits, values))
    call("cuMemAlloc_v2", byref(address), c_size_t(2 * len(values)))
    call("cuMemcpyHtoD_v2", address, data, c_size_t(2 * len(values)))
    return address.value


def refused(status, part, make):
    try:
        make()
    except attn.AttnError as error:
        assert error.status == status and part in str(error), f"{error.status}: {error}"
        return
    raise AssertionError(f"nothing was raised where {part!r} was expected")


def expected(q, k, v, row):
    scores = [sum(q[row * DIM + c] * k[j * DIM + c] for c in range(DIM)) / math.sqrt(DIM) for j in range(row + 1)]
    weights = [math.exp(score) for score in scores]
    total = sum(weights)
    return [sum(w * v[j * DIM + c] for j, w in enumerate(weights)) / total for c in range(DIM)], math.log(total)


def main():
    library = attn.library()
    problem = library.problem("bfloat16", 1, SEQ, SEQ, 1, 1, DIM, DIM)
    problem.mask = 1
    call("cuInit", 0)
    refused(6, "no CUDA context", lambda: attn.Plan(library, problem))
    device, context, stream = c_int(), c_void_p(), c_void_p()
    call("cuDeviceGet", byref(device), 0)
    call("cuCtxCreate_v2", byref(context), 0, device)
    call("cuStreamCreate", byref(stream), 1)

    # Sixteenths between -2 and 2, which bfloat16 holds exactly.
    q, k, v = ([((i * 37 + salt * 11) % 61 - 30) / 16 for i in range(SEQ * DIM)] for salt in range(3))
    qkv = [upload(values) for values in (q, k, v)]
    o, lse = upload([100.0] * (SEQ * DIM)), upload([100.0] * (2 * SEQ))
    plan = attn.Plan(library, problem)
    assert plan.kernel in str(plan) and plan.workspace_bytes == 0, str(plan)
    plan.launch(*qkv, o, lse, stream=stream)
    call("cuStreamSynchronize", stream)
    assert current() == context.value, "the caller's context is no longer current"
    out, out_lse = (ctypes.c_uint16 * (SEQ * DIM))(), (ctypes.c_float * SEQ)()
    call("cuMemcpyDtoH_v2", out, c_uint64(o), c_size_t(2 * SEQ * DIM))
    call("cuMemcpyDtoH_v2", out_lse, c_uint64(lse), c_size_t(4 * SEQ))
    for row in range(SEQ):
        want, want_lse = expected(q, k, v, row)
        worst = max(abs(as_value(out[row * DIM + c]) - want[c]) for c in range(DIM))
        assert worst < 0.02 and abs(out_lse[row] - want_lse) < 1e-3, f"row {row}: off by {worst}, LSE {out_lse[row]}, {want_lse}"

    refused(4, "o is a null device pointer", lambda: plan.launch(*qkv, 0))
    problem.head_dim = 31
    refused(2, "head_dim is 31", lambda: attn.Plan(library, problem))
    forced = library.problem("float16", 1, SEQ, SEQ, 1, 1, DIM, DIM)
    refused(3, "no kernel is named", lambda: attn.Plan(library, forced, kernel="fwd"))
    print("right:", plan)


main()
