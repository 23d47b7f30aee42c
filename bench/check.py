"""Whether an answer is right: sampled rows against softmax attention in f64.

An output passes when max|out - ref| <= 2 max|lowp - ref| + 2 max|(ref + 0.3) - 0.3 - ref|, where `ref` is f64 from the same rounded
inputs and `lowp` what a naive program gives in the inputs' own precision.
"""

import torch

HEADS = 4
ROWS = 96


def attend(queries, keys, values, scale, dtype, seen=None):
    """Attention of one head's `queries`, of which each sees the first `seen` keys, computed in `dtype`."""
    queries, keys, values = (x.to(dtype) for x in (queries, keys, values))
    scores = queries @ keys.T * scale
    if seen is not None:
        columns = torch.arange(keys.shape[0], device=keys.device)
        scores = scores.masked_fill(columns[None] >= seen[:, None], float("-inf"))
    return torch.softmax(scores, dim=-1) @ values


def reference(queries, keys, values, scale, seen=None):
    """The exact answer, and what an output may be off by."""
    exact = attend(queries, keys, values, scale, torch.float64, seen)
    rough = attend(queries, keys, values, scale, queries.dtype, seen).double()
    lowest = exact.to(queries.dtype)
    rounding = ((lowest + 0.3) - 0.3).double() - lowest.double()
    return exact, (2 * (rough - exact).abs().max() + 2 * rounding.abs().max()).item()


class Wrong(Exception):
    """An answer is off by more than it may be."""


def accept(output, error, allowed):
    """Refuses an output whose sampled rows are off by `error`, or that holds anything but numbers."""
    # The comparison is false where the error is not a number.
    if not torch.isfinite(output).all() or not error <= allowed:
        raise Wrong(f"WRONG: off by {error:.3g}, allowed {allowed:.3g}")


class Samples:
    """Rows of a few heads of a line, with their reference and what they may be off by."""

    def __init__(self, line, q, k, v, seed):
        pick = torch.Generator().manual_seed(seed)

        def some(most, count):
            return torch.randperm(most, generator=pick)[:count]

        batch, seq, heads, _ = q.shape
        pairs = some(batch * heads, HEADS).tolist()
        self.places = [(pair // heads, pair % heads) for pair in pairs]
        # The first and last rows, where masks and tiles end, and others.
        edges = torch.tensor([0, 1, seq - 2, seq - 1])
        self.rows = torch.cat([edges, some(seq, ROWS)]).to(q.device)
        scale = line.head_dim**-0.5
        self.references, self.allowed = [], 0.0
        for b, h in self.places:
            seen = self.rows + 1 if line.causal else None
            exact, allowed = reference(
                q[b, self.rows, h], k[b, :, h // line.group], v[b, :, h // line.group], scale, seen
            )
            self.references.append(exact)
            self.allowed = max(self.allowed, allowed)

    def error(self, o):
        """The largest difference of an output, infinite where it is not a number."""
        worst = 0.0
        for (b, h), exact in zip(self.places, self.references):
            difference = (o[b, self.rows, h].double() - exact).abs().max().item()
            worst = max(worst, difference if difference == difference else float("inf"))
        return worst
