#!/usr/bin/env python3
"""Measures decoding steps, one query a sequence against its cache: ours and the peers, interleaved.

    python3 bench/decode.py                        every step, under 90 s
    python3 bench/decode.py --steps page 64,8192 --backends attn,FI

Launches are replayed from captured graphs that walk through copies of the cache, a gigabyte of them where one is smaller, so that
nothing is found in the L2 cache. Bytes are those of K, V, Q and O; the share is of what a large device-to-device copy moves, read
and written. Answers are compared with f64 for sampled heads first. What a library plans on the host or schedules on the device
for all layers of a step is done before. The results go to OUT.json (--out, default: results/decode). The exit status is 1
when our answer is wrong or missing.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace

START = time.perf_counter()

import torch  # noqa: E402

import attn  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import serving  # noqa: E402
from check import accept, reference  # noqa: E402

OURS = report.OURS
ROUNDS, MILLISECONDS, SECONDS = 7, 4, 90
# Bytes of cache that a graph walks through, and copies of it at most.
WALK, COPIES = 1 << 30, 96
CHECKED = 6


@dataclass(frozen=True)
class Step:
    """One step of a batch; `page` 0 is a dense cache."""

    batch: int
    keys: int
    page: int
    heads: int = 64
    kv_heads: int = 8
    head_dim: int = 128

    @property
    def scale(self):
        return self.head_dim**-0.5

    @property
    def cache_elements(self):
        """Of K or of V."""
        return self.batch * self.keys * self.kv_heads * self.head_dim

    @property
    def bytes(self):
        return 4 * (self.cache_elements + self.batch * self.heads * self.head_dim)

    @property
    def flops(self):
        return 4 * self.batch * self.heads * self.keys * self.head_dim

    @property
    def copies(self):
        return max(1, min(COPIES, WALK // (4 * self.cache_elements)))

    def __str__(self):
        kind = f"page {self.page}" if self.page else "dense"
        return f"{self.batch} x {self.keys} {kind} {self.heads}/{self.kv_heads}"


def _steps():
    sizes = [(batch, keys << 10) for batch in (1, 8, 64) for keys in (1, 4, 8, 16, 64)]
    steps = [Step(batch, keys, page) for page in (0, 64, 16, 256) for batch, keys in sizes]
    return steps + [Step(batch, keys, page, 32, 4) for page in (0, 64) for batch, keys in sizes if keys in (4096, 16384)]


STEPS = _steps()


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", metavar="A,B", default="", help="only steps whose names contain all of these")
    parser.add_argument("--backends", metavar="A,B", help=f"of {OURS},{','.join(serving.DECODE)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="time to stop at")
    parser.add_argument("--out", metavar="STEM", default="results/decode")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def copy_bandwidth():
    """Bytes per microsecond that a copy of 4 GiB reads and writes."""
    source = torch.empty(4 << 30, dtype=torch.uint8, device="cuda").zero_()
    target = torch.empty_like(source)
    runner = measure.Runner("copy", lambda: target.copy_(source))
    measure.take_turns([runner], 9, 10)
    return 2 * source.numel() / sorted(runner.times)[4]


class Pool:
    """Random normal numbers that all caches are views of."""

    def __init__(self, steps, seed):
        self.generator = torch.Generator("cuda").manual_seed(seed)
        elements = max(step.copies * step.cache_elements for step in steps)
        self.k, self.v = (self.normal(elements) for _ in range(2))

    def normal(self, *shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16, generator=self.generator)

    def cache(self, step):
        """Q and the copies of K and V; pages are in random order."""
        shape = (step.batch, step.keys) if not step.page else (step.batch * step.keys // step.page, step.page)
        count = step.copies * step.cache_elements

        def copies(pool):
            return list(pool[:count].view(step.copies, *shape, step.kv_heads, step.head_dim))

        table = None
        if step.page:
            order = torch.randperm(shape[0], device="cuda", generator=self.generator)
            table = order.to(torch.int32).view(step.batch, -1)
        q = self.normal(step.batch, 1, step.heads, step.head_dim)
        used = torch.full((step.batch,), step.keys, dtype=torch.int32, device="cuda")
        return SimpleNamespace(q=q, k=copies(self.k), v=copies(self.v), table=table, used=used)


def rows_of(cache, copy, b):
    """One sequence's rows of K or V."""
    return copy[b] if cache.table is None else copy[cache.table[b].long()].flatten(0, 1)


class Samples:
    """A few heads of the first copy, with their reference."""

    def __init__(self, step, cache, seed):
        pick = torch.Generator().manual_seed(seed)
        self.pieces, self.allowed = [], 0.0
        for _ in range(CHECKED):
            b, head = (torch.randint(most, (), generator=pick).item() for most in (step.batch, step.heads))
            kv_head = head * step.kv_heads // step.heads
            keys, values = (rows_of(cache, copies[0], b)[:, kv_head] for copies in (cache.k, cache.v))
            exact, allowed = reference(cache.q[b, :, head], keys, values, step.scale)
            self.pieces.append((b, head, exact[0]))
            self.allowed = max(self.allowed, allowed)

    def check(self, o):
        error = max((o[b, head].double() - exact).abs().max().item() for b, head, exact in self.pieces)
        accept(o, error, self.allowed)


def ours(step, cache):
    more = dict(seqused_k=cache.used, page_table=cache.table, max_seqlen_k=step.keys)
    return lambda i: attn.forward(cache.q, cache.k[i], cache.v[i], **more)[:, 0]


BACKENDS = {OURS: ours} | serving.DECODE


def one(step, pool, names, asked):
    """Results by backend, and why others are missing."""
    cache = pool.cache(step)
    samples = Samples(step, cache, asked.seed)
    runners, missing = [], {}
    for name in names:
        try:
            run = BACKENDS[name](step, cache)
            samples.check(run(0))
            runner = measure.Runner(name, lambda run=run: run(0))
            runner.capture([lambda i=i, run=run: run(i) for i in range(step.copies)])
            runners.append(runner)
        # Peers raise whatever their authors chose; a peer that fails is one that is not measured, and its reason is kept.
        except Exception as error:
            missing[name] = measure.reason(error)
    if runners:
        measure.take_turns(runners, asked.rounds, MILLISECONDS)
    return {runner.name: runner.result(step) | {"bytes": step.bytes} for runner in runners}, missing


def table(measured, names, bandwidth):
    names = [name for name in names if any(name in results for _, results, _ in measured)]
    head = ["decoding step, us", *names, "fastest GB/s", "GB/s", "of copy", "x best peer"]
    rows = []
    for step, results, _ in measured:
        times = [f"{results[name]['median_us']:.1f}" if name in results else "-" for name in names]
        fastest = min((r["median_us"] for r in results.values()), default=float("inf"))
        speed = share = "-"
        if OURS in results:
            speed = step.bytes / results[OURS]["median_us"]
            speed, share = f"{speed * 1e-3:.0f}", f"{speed / bandwidth:.2f}"
            best, ratio = report.best_peer(results)
        against = f"{ratio:.2f} {best}" if OURS in results and best else "-"
        rows.append([str(step), *times, f"{step.bytes / fastest * 1e-3:.0f}", speed, share, against])
    return report.markdown(head, rows)


def main():
    asked = options()
    names = asked.backends.split(",") if asked.backends else list(BACKENDS)
    steps = [step for step in STEPS if all(word in str(step) for word in asked.steps.split(","))]
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "versions": serving.versions()}
    with torch.no_grad():
        bandwidth = copy_bandwidth()
        print(about["device"], about["versions"], f"copy {bandwidth * 1e-3:.0f} GB/s", flush=True)
        pool = Pool(steps, asked.seed)
        measured = measure.every(steps, lambda step: one(step, pool, names, asked), START + asked.seconds)
    print(table(measured, names, bandwidth))
    rows = [{"step": str(step), "problem": vars(step), "results": r, "missing": missing} for step, r, missing in measured]
    os.makedirs(os.path.dirname(asked.out) or ".", exist_ok=True)
    with open(f"{asked.out}.json", "w", encoding="utf-8") as file:
        json.dump(about | {"copy_bytes_per_us": bandwidth, "lines": rows}, file, indent=1)
    print(f"{asked.out}.json; {time.perf_counter() - START:.0f} s")
    if any(OURS in missing for _, _, missing in measured):
        sys.exit(1)


if __name__ == "__main__":
    main()
