#!/usr/bin/env python3
"""Measures our forward attention against its peers: one process, one card, interleaved.

    python3 bench/peers.py            every line, under 150 s
    python3 bench/peers.py --quick    fewer and shorter rounds, under 60 s
    python3 bench/peers.py --lines d64 --backends attn,cuDNN

Peers are what this machine's Python can import: cuDNN and FlashAttention-2 through PyTorch, FlexAttention (Triton),
FlashAttention-4 (flash_attn.cute), FlashAttention-3 (flash_attn_interface). Inputs are random normal; every answer is compared with
f64 in sampled rows before it is timed. Rounds take turns, a few milliseconds of launches each between two events; the median counts.
Launches include what each library's Python entry costs, except for lines of batch 1, which replay captured graphs.

The results go to OUT.json, OUT.svg and OUT.png (--out, default: results/peers). The exit status is 1 when our answer is wrong.
"""

import argparse
import os
import sys
import time

START = time.perf_counter()

import torch  # noqa: E402

import attn  # noqa: E402
import backends  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
from lines import HIDDEN, LINES, TOKENS  # noqa: E402

# Seconds in all, rounds, milliseconds of launches in one, and which peers are left out because they compile for long.
FULL = (140, 9, 8, set())
QUICK = (52, 5, 3, {"Flex"})
# Peers that compile when they meet a problem, and the share of the time after which they are left out.
COMPILING = {"Flex": 0.55, "FA4": 0.85}


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 60 s of device time")
    parser.add_argument("--lines", metavar="TEXT", default="", help="only lines whose name contains this")
    parser.add_argument("--backends", metavar="A,B", help=f"of {','.join(backends.BACKENDS)}; ours is always measured")
    parser.add_argument("--rounds", type=int, help="rounds, instead of the mode's")
    parser.add_argument("--seconds", type=int, help="time to stop at, instead of the mode's")
    parser.add_argument("--out", metavar="STEM", default="results/peers", help="where the results go")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="also say how long each peer took to be ready")
    return parser.parse_args()


def about():
    """The machine and the versions."""
    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "multiprocessors": device.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "versions": backends.versions(),
        "tokens": TOKENS,
        "hidden": HIDDEN,
        "library": os.path.basename(attn.library().path),
    }


def elapsed():
    return time.perf_counter() - START


def main():
    asked = options()
    seconds, rounds, milliseconds, left_out = QUICK if asked.quick else FULL
    seconds, rounds = asked.seconds or seconds, asked.rounds or rounds
    names = asked.backends.split(",") if asked.backends else [n for n in backends.BACKENDS if n not in left_out]
    unknown = set(names) - set(backends.BACKENDS)
    if unknown:
        sys.exit(f"no backend is named {', '.join(sorted(unknown))}; there are {', '.join(backends.BACKENDS)}")
    names = [backends.OURS] + [name for name in names if name != backends.OURS]
    chosen = [line for line in LINES if asked.lines in str(line)]
    if not chosen:
        sys.exit(f"no line contains {asked.lines!r}")
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device")
    facts = about()
    for name, version in facts["versions"].items():
        print(f"{name}: {version}")
    print(f"{facts['device']}, {rounds} rounds of {milliseconds} ms\n", flush=True)
    log = print if asked.verbose else lambda _: None
    measured = []
    for line in chosen:
        if elapsed() > seconds:
            print(f"{line}: not measured, the time is over")
            continue
        able = [name for name in names if elapsed() < COMPILING.get(name, 1) * seconds]
        results, missing = measure.line(line, able, rounds, milliseconds, asked.seed, log)
        measured.append((line, results, missing))
        best, ratio = report.best_peer(results)
        note = f"{ratio:.2f} x {best}" if best else ""
        wrong = "".join(f"; {name} {why}" for name, why in missing.items() if why.startswith("WRONG"))
        print(f"{line}: {results[backends.OURS]['median_us']:.1f} us {note}{wrong}", flush=True)
    print("\n" + report.table(measured, names))
    os.makedirs(os.path.dirname(asked.out) or ".", exist_ok=True)
    report.write_json(f"{asked.out}.json", facts | {"seconds": elapsed(), "rounds": rounds}, measured)
    drawn = report.plot(asked.out, facts, measured, names)
    print(f"\n{asked.out}.json{', .svg, .png' if drawn else ''}; {elapsed():.0f} s")


if __name__ == "__main__":
    main()
