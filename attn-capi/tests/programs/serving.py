"""bench/attn_abi.py on whatever libcuda.so.1 there is: packed sequences with a window, sinks and a softcap; pages, lengths and
splits; new keys and values appended to pages, and rotated.

python3 serving.py FOLDER_OF_ATTN_ABI_PY; ATTN_LIBRARY names the library.
"""

import ctypes
import math
import struct
import sys
from ctypes import byref, c_int, c_size_t, c_uint64, c_void_p

sys.path.insert(0, sys.argv[1])
import attn_abi  # noqa: E402

HEADS, DIM = 2, 64
cuda = ctypes.CDLL("libcuda.so.1")


def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, f"{name} returned {code}"


def upload(data):
    address = c_uint64()
    call("cuMemAlloc_v2", byref(address), c_size_t(ctypes.sizeof(data)))
    call("cuMemcpyHtoD_v2", address, data, c_size_t(ctypes.sizeof(data)))
    return address.value


def integers(values):
    return upload((ctypes.c_int32 * len(values))(*values))


def floats(values):
    return upload((ctypes.c_float * len(values))(*values))


def rows(values):
    """bfloat16 rows; every value is one that bfloat16 holds exactly."""
    bits = [struct.unpack("<I", struct.pack("<f", value))[0] >> 16 for row in values for value in row]
    return upload((ctypes.c_uint16 * len(bits))(*bits))


def data(count, salt):
    """Rows of sixteenths between -2 and 2."""
    return [[((r * DIM + c) * 37 % 61 + (r + salt) * 11 % 7 - 33) / 16 for c in range(DIM)] for r in range(count)]


def expected(q, keys, values, sees, cap=None, sink=None):
    scores = [sum(a * b for a, b in zip(q, key)) / math.sqrt(DIM) for key in keys]
    if cap:
        scores = [cap * math.tanh(score / cap) for score in scores]
    weights = [math.exp(score) if sees(j) else 0.0 for j, score in enumerate(scores)]
    total = sum(weights) + (math.exp(sink) if sink is not None else 0.0)
    return [sum(w * value[c] for w, value in zip(weights, values)) / total for c in range(DIM)], math.log(total)


def run(library, problem, serving, tensors, count, **arrays):
    """Launches over NaN; rows of O and LSE, (row, head) and (head, row)."""
    library.check(library.lib.attn_serving_contiguous(byref(serving), byref(problem)))
    plan = attn_abi.Plan(library, problem, serving=serving)
    lse, workspace = floats([math.nan] * count * HEADS), None
    o = upload((ctypes.c_uint16 * (count * HEADS * DIM))(*[0x7FC0] * (count * HEADS * DIM)))
    if plan.workspace_bytes:
        workspace = c_uint64()
        call("cuMemAlloc_v2", byref(workspace), c_size_t(plan.workspace_bytes))
    plan.launch(*tensors, o, lse, workspace.value if workspace else 0, **arrays)
    call("cuCtxSynchronize")
    bits, found = (ctypes.c_uint16 * (count * HEADS * DIM))(), (ctypes.c_float * (count * HEADS))()
    call("cuMemcpyDtoH_v2", bits, c_uint64(o), c_size_t(ctypes.sizeof(bits)))
    call("cuMemcpyDtoH_v2", found, c_uint64(lse), c_size_t(ctypes.sizeof(found)))
    value = [struct.unpack("<f", struct.pack("<I", b << 16))[0] for b in bits]
    return plan, [value[i * DIM : (i + 1) * DIM] for i in range(count * HEADS)], list(found)


def compare(what, row, lse, want, want_lse):
    worst = max(abs(a - b) for a, b in zip(row, want))
    assert worst < 0.02 and abs(lse - want_lse) < 1e-3, f"{what}: off by {worst}, LSE {lse}, {want_lse}"


def packed(library):
    """Three sequences, one of them empty, one key/value head for both heads."""
    cu_q, cu_k, window, cap, sinks = [0, 3, 3, 8], [0, 7, 11, 20], 4, 5.0, [0.5, -1.0]
    q, k, v = data(8 * HEADS, 1), data(20, 2), data(20, 3)
    problem = library.problem("bfloat16", 3, 5, 9, HEADS, 1, DIM, DIM)
    problem.mask = 2
    serving = library.serving(total_q=8, total_k=20, window_left=window, window_right=0, softcap=cap, sinks=1)
    arrays = {"cu_seqlens_q": integers(cu_q), "cu_seqlens_k": integers(cu_k), "sinks": floats(sinks)}
    plan, o, lse = run(library, problem, serving, (rows(q), rows(k), rows(v)), 8, **arrays)
    for b in range(3):
        keys, values = k[cu_k[b] : cu_k[b + 1]], v[cu_k[b] : cu_k[b + 1]]
        for i in range(cu_q[b + 1] - cu_q[b]):
            at = i + len(keys) - (cu_q[b + 1] - cu_q[b])
            for head in range(HEADS):
                row = cu_q[b] + i
                want = expected(q[row * HEADS + head], keys, values, lambda j: at - window <= j <= at, cap, sinks[head])
                compare(f"packed row {row} of head {head}", o[row * HEADS + head], lse[head * 8 + row], *want)
    return plan


def paged(library):
    """One query each against pages in any order, their keys in two parts."""
    size, table, used = 16, [3, 0, 4, 1, 2, 99], [37, 20]
    q, k, v = data(2 * HEADS, 4), data(5 * size, 5), data(5 * size, 6)
    problem = library.problem("bfloat16", 2, 1, 3 * size, HEADS, 1, DIM, DIM)
    serving = library.serving(page_size=size, pages=5, table_width=3, seqused_k=1, splits=2)
    arrays = {"page_table": integers(table), "seqused_k": integers(used)}
    plan, o, lse = run(library, problem, serving, (rows(q), rows(k), rows(v)), 2, **arrays)
    for b in range(2):
        where = [table[3 * b + j // size] * size + j % size for j in range(used[b])]
        keys, values = [k[r] for r in where], [v[r] for r in where]
        for head in range(HEADS):
            want = expected(q[b * HEADS + head], keys, values, lambda j: True)
            compare(f"sequence {b} of head {head}", o[b * HEADS + head], lse[b * HEADS + head], *want)
    refused = None
    try:
        plan.launch(*[rows(q)] * 4, page_table=arrays["page_table"])
    except attn_abi.AttnError as error:
        refused = error
    assert refused and refused.status == 4 and "seqused_k is absent" in str(refused), refused
    return plan


def appended(library):
    """Two tokens of one sequence and one of another behind what the pages hold; K is rotated by right angles, which is exact."""
    size, table, before, cu_new = 16, [2, 0, 1, 9], [15, 3], [0, 2, 3]
    k, v, old = data(3, 7), data(3, 8), data(3 * size, 9)
    cosines = [math.cos(math.pi / 2 * (p % 4)) for p in range(32)]
    sines = [math.sin(math.pi / 2 * (p % 4)) for p in range(32)]
    cos, sin = ([round(x) for x in table for _ in range(DIM // 2)] for table in (cosines, sines))
    fields = {"total": 3, "page_size": size, "pages": 3, "table_width": 2, "seqlens_before": 1}
    append = library.append("bfloat16", 2, 2, 1, DIM, DIM, rotary_dim=DIM, positions=32, **fields)
    caches = [rows(old), rows(old)]
    attn_abi.AppendPlan(library, append).launch(
        k=rows(k), v=rows(v), k_cache=caches[0], v_cache=caches[1], cos=floats(cos), sin=floats(sin),
        cu_seqlens_new=integers(cu_new), seqlens_before=integers(before), page_table=integers(table),
    )
    call("cuCtxSynchronize")
    want_k, want_v = [list(row) for row in old], [list(row) for row in old]
    for b in range(2):
        for i in range(cu_new[b + 1] - cu_new[b]):
            at, new = before[b] + i, k[cu_new[b] + i]
            place = table[2 * b + at // size] * size + at % size
            c, s = round(cosines[at]), round(sines[at])
            low, high = new[: DIM // 2], new[DIM // 2 :]
            turned = [x * c - y * s for x, y in zip(low, high)] + [y * c + x * s for x, y in zip(low, high)]
            want_k[place], want_v[place] = turned, v[cu_new[b] + i]
    for cache, want in zip(caches, (want_k, want_v)):
        bits = (ctypes.c_uint16 * (3 * size * DIM))()
        call("cuMemcpyDtoH_v2", bits, c_uint64(cache), c_size_t(ctypes.sizeof(bits)))
        found = [struct.unpack("<f", struct.pack("<I", b << 16))[0] for b in bits]
        assert found == [value for row in want for value in row], "the cache is not what was appended"


def main():
    library = attn_abi.Library()
    call("cuInit", 0)
    device, context = c_int(), c_void_p()
    call("cuDeviceGet", byref(device), 0)
    call("cuCtxCreate_v2", byref(context), 0, device)
    appended(library)
    print("right:", packed(library).kernel, "and", paged(library).kernel)


main()
