#!/usr/bin/env python3
"""Measures packed sequences of mixed lengths: ours, our own dense kernel on as much work, and the peers, interleaved.

    python3 bench/varlen.py                     every mix, under 60 s
    python3 bench/varlen.py --mixes d128,zipf --backends attn,FA2

Everybody's launches are replayed from captured graphs, so that no Python is measured; what a library plans on the host for
all layers of a step (FlashInfer's plan) is done before, what it does on the device is part of its launches. Our dense kernel is
compared by TFLOP/s, on one batch of equal sequences with as much work and as many tokens. Answers are compared with f64 in
sampled rows first. The results go to OUT.json (--out, default: results/varlen). The exit status is 1 when our answer is wrong or
missing.
"""

import argparse
import json
import os
import sys
import time
from types import SimpleNamespace

START = time.perf_counter()

import torch  # noqa: E402

import attn  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import serving  # noqa: E402
from check import accept, reference  # noqa: E402
from mixes import MIXES  # noqa: E402

OURS, DENSE = report.OURS, "dense"
ROUNDS, MILLISECONDS, SECONDS = 9, 4, 60
# Sequences and rows of each that are checked.
SEQUENCES, ROWS = 6, 32


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixes", metavar="A,B", default="", help="only mixes whose names contain all of these")
    parser.add_argument("--backends", metavar="A,B", help=f"of {OURS},{DENSE},{','.join(serving.VARLEN)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="time to stop at")
    parser.add_argument("--out", metavar="STEM", default="results/varlen")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def tensors(mix, seed):
    """Random normal Q, K, V, packed, and where the sequences start."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def normal(rows, heads):
        return torch.randn(rows, heads, mix.head_dim, device="cuda", dtype=torch.bfloat16, generator=generator)

    cu_q, cu_k = (torch.tensor(starts, dtype=torch.int32, device="cuda") for starts in mix.starts())
    q = normal(mix.total_q, mix.heads)
    return SimpleNamespace(q=q, k=normal(mix.total_k, mix.kv_heads), v=normal(mix.total_k, mix.kv_heads), cu_q=cu_q, cu_k=cu_k)


class Samples:
    """Rows of a few sequences, one head of each, with their reference."""

    def __init__(self, mix, x, seed):
        pick = torch.Generator().manual_seed(seed)
        order = sorted(range(len(mix.q_lens)), key=mix.k_lens.__getitem__)
        chosen = {order[0], order[-1], 0, len(order) - 1}
        chosen |= set(torch.randint(len(order), (SEQUENCES,), generator=pick).tolist())
        q_starts, k_starts = mix.starts()
        self.pieces, self.allowed = [], 0.0
        for b in sorted(chosen):
            head = torch.randint(mix.heads, (), generator=pick).item()
            queries, keys = mix.q_lens[b], slice(k_starts[b], k_starts[b + 1])
            rows = torch.randint(queries, (ROWS,), generator=pick).cuda()
            rows[0], rows[-1] = 0, queries - 1
            seen = rows + 1 + mix.k_lens[b] - queries if mix.causal else None
            places = rows + q_starts[b]
            kv_head = head // mix.group
            exact, allowed = reference(x.q[places, head], x.k[keys, kv_head], x.v[keys, kv_head], mix.scale, seen)
            self.pieces.append((places, head, exact))
            self.allowed = max(self.allowed, allowed)

    def check(self, o):
        error = max((o[places, head].double() - exact).abs().max().item() for places, head, exact in self.pieces)
        accept(o, error, self.allowed)


def ours(mix, x):
    lengths = dict(cu_seqlens_q=x.cu_q, cu_seqlens_k=x.cu_k, max_seqlen_q=mix.max_q, max_seqlen_k=mix.max_k)
    return lambda: attn.forward(x.q, x.k, x.v, causal=mix.causal, **lengths)


def dense(mix, x):
    """Our dense kernel on equal sequences; its answer is checked by `peers.py`."""
    if not mix.square:
        raise serving.NotThere("queries and keys differ in number")
    batch, seq = mix.dense
    generator = torch.Generator("cuda").manual_seed(2)
    q, k, v = (
        torch.randn(batch, seq, heads, mix.head_dim, device="cuda", dtype=torch.bfloat16, generator=generator)
        for heads in (mix.heads, mix.kv_heads, mix.kv_heads)
    )
    return lambda: attn.forward(q, k, v, causal=mix.causal)


def dense_flops(mix):
    batch, seq = mix.dense
    pairs = seq * (seq + 1) // 2 if mix.causal else seq * seq
    return 4 * batch * mix.heads * mix.head_dim * pairs


BACKENDS = {OURS: ours, DENSE: dense} | serving.VARLEN


def one(mix, names, asked):
    """TFLOP/s and microseconds by backend, and why others are missing."""
    x = tensors(mix, asked.seed)
    samples = Samples(mix, x, asked.seed)
    runners, missing = [], {}
    for name in names:
        try:
            runner = measure.Runner(name, BACKENDS[name](mix, x))
            answer = runner.run()
            if name != DENSE:
                samples.check(answer)
            runner.capture()
            runners.append(runner)
        # Peers raise whatever their authors chose; a peer that fails is one that is not measured, and its reason is kept.
        except Exception as error:
            missing[name] = measure.reason(error)
    results = {}
    if runners:
        measure.take_turns(runners, asked.rounds, MILLISECONDS)
        for runner in runners:
            flops = dense_flops(mix) if runner.name == DENSE else mix.flops
            results[runner.name] = runner.result(SimpleNamespace(flops=flops))
    return results, missing


def ratio(results, name, of=OURS):
    """How fast `of` is as a multiple of `name`."""
    if name not in results or of not in results:
        return None
    return results[of]["tflops"] / results[name]["tflops"]


def table(measured, names):
    names = [name for name in names if any(name in results for _, results, _ in measured)]
    head = ["packed sequences, TFLOP/s", *names, "of dense", "x FA2", "us"]
    rows = []
    for mix, results, _ in measured:
        numbers = [f"{results[name]['tflops']:.0f}" if name in results else "-" for name in names]
        ratios = [f"{r:.2f}" if (r := ratio(results, name)) else "-" for name in (DENSE, "FA2")]
        rows.append([str(mix), *numbers, *ratios, f"{results[OURS]['median_us']:.0f}" if OURS in results else "-"])
    return report.markdown(head, rows)


def main():
    asked = options()
    names = asked.backends.split(",") if asked.backends else list(BACKENDS)
    mixes = [mix for mix in MIXES if all(word in str(mix) for word in asked.mixes.split(","))]
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "versions": serving.versions()}
    print(about["device"], about["versions"], flush=True)
    with torch.no_grad():
        measured = measure.every(mixes, lambda mix: one(mix, names, asked), START + asked.seconds)
    print(table(measured, names))
    rows = [{"mix": str(mix), "problem": vars(mix), "results": r, "missing": missing} for mix, r, missing in measured]
    os.makedirs(os.path.dirname(asked.out) or ".", exist_ok=True)
    with open(f"{asked.out}.json", "w", encoding="utf-8") as file:
        json.dump(about | {"lines": rows}, file, indent=1)
    print(f"{asked.out}.json; {time.perf_counter() - START:.0f} s")
    if any(OURS in missing for _, _, missing in measured):
        sys.exit(1)


if __name__ == "__main__":
    main()
