"""What was measured as a table, as JSON and as a picture.

    python3 bench/report.py FILE.json    prints the table of an earlier run, and draws FILE.svg and FILE.png again
"""

import json
import math
import sys

from lines import Line

OURS = "attn"


def best_peer(results):
    """The fastest of the others on a line, and our speed as a multiple of its; nothing without a peer."""
    peers = {name: result["median_us"] for name, result in results.items() if name != OURS}
    if not peers:
        return None, None
    best = min(peers, key=peers.get)
    return best, peers[best] / results[OURS]["median_us"]


def geometric_mean(values):
    values = [value for value in values if value is not None]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _cell(line, result):
    if result is None:
        return "-"
    return f"{result['median_us']:.1f} us" if line.latency else f"{result['tflops']:.0f}"


def _row(line, results, names):
    best, ratio = best_peer(results)
    cells = [_cell(line, results.get(name)) for name in names]
    spread = max(result["spread"] for result in results.values())
    return [str(line), *cells, f"{ratio:.2f} x {best}" if best else "-", f"{100 * spread:.1f} %"]


def summary(measured):
    """The ratios in one line each: all lines, those that DESIGN lists, those of latency."""
    kinds = {
        "all lines": lambda line: True,
        "listed lines": lambda line: line.listed,
        "batch 1": lambda line: line.latency,
    }
    sentences = []
    for kind, belongs in kinds.items():
        ratios = [best_peer(results)[1] for line, results, _ in measured if belongs(line)]
        ratios = [ratio for ratio in ratios if ratio is not None]
        if ratios:
            ahead = sum(ratio >= 1 for ratio in ratios)
            mean = geometric_mean(ratios)
            sentences.append(
                f"{kind}: geometric mean {mean:.3f} x the best peer, least {min(ratios):.2f}, ahead on {ahead} of {len(ratios)}"
            )
    return sentences


def table(measured, names):
    """Markdown: TFLOP/s, or microseconds where latency counts."""
    names = [name for name in names if any(name in results for _, results, _ in measured)]
    head = ["forward", *names, "against the best peer", "spread"]
    rows = [_row(line, results, names) for line, results, _ in measured]
    return "\n".join([markdown(head, rows), "", *summary(measured)])


def markdown(head, rows):
    """Aligned columns."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in lines)


def write_json(path, about, measured):
    rows = []
    for line, results, missing in measured:
        best, ratio = best_peer(results)
        row = {"line": str(line), "flops": line.flops, "best_peer": best, "ratio": ratio}
        rows.append(row | {"problem": vars(line), "results": results, "missing": missing})
    with open(path, "w", encoding="utf-8") as file:
        json.dump(about | {"summary": summary(measured), "lines": rows}, file, indent=1)
        file.write("\n")


def read_json(path):
    """What `write_json` wrote: about, measured, and the names of the backends."""
    with open(path, encoding="utf-8") as file:
        about = json.load(file)
    measured = [(Line(**row["problem"]), row["results"], row["missing"]) for row in about["lines"]]
    return about, measured, list(about["versions"])


COLOURS = {OURS: "#d1495b", "cuDNN": "#76b900", "FA2": "#b8c4cc", "Flex": "#9a8fbf", "FA4": "#30638e", "FA3": "#6fa8dc"}


def plot(stem, about, measured, names):
    """STEM.svg and STEM.png: a group of bars for every line. False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [(line, results) for line, results, _ in measured if not line.latency]
    names = [name for name in names if any(name in results for _, results in shown)]
    if not shown:
        return False
    width = 0.84 / len(names)
    figure, axes = plt.subplots(figsize=(max(6, 0.52 * len(shown) + 1.5), 4.6), layout="constrained")
    for i, name in enumerate(names):
        places = [at + (i - (len(names) - 1) / 2) * width for at in range(len(shown))]
        heights = [results[name]["tflops"] if name in results else 0 for _, results in shown]
        axes.bar(places, heights, width, label=name, color=COLOURS.get(name), zorder=2)
    axes.set_xticks(range(len(shown)), [str(line) for line, _ in shown], rotation=55, ha="right", fontsize=8)
    axes.set_ylabel("TFLOP/s, forward")
    axes.set_title(f"{about['device']}, {about['tokens']} tokens, hidden size {about['hidden']}", fontsize=10)
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.grid(axis="y", color="#dddddd", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(names), frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.42))
    for ending in ("svg", "png"):
        figure.savefig(f"{stem}.{ending}", dpi=150)
    plt.close(figure)
    return True


def main():
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".json"):
        sys.exit(__doc__)
    about, measured, names = read_json(sys.argv[1])
    print(table(measured, names))
    if not plot(sys.argv[1].removesuffix(".json"), about, measured, names):
        print("matplotlib is not there, so nothing was drawn")


if __name__ == "__main__":
    main()
