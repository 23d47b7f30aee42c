"""Whether an answer is right: sampled rows against softmax attention in f64.

An output passes when max|out - ref| <= 2 max|lowp - ref| + 2 max|(ref + 0.3) - 0.3 - ref|, where `ref` is f64 from the same rounded
inputs and `lowp` what a naive program gives in the inputs' own precision.
"""

import torch

HEADS = 4
ROWS = 96


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
        self.references, worst = [], 0.0
        for b, h in self.places:
            exact = self._attend(line, q, k, v, b, h, scale, torch.float64)
            rough = self._attend(line, q, k, v, b, h, scale, q.dtype).double()
            rounding = ((exact.to(q.dtype) + 0.3) - 0.3).double() - exact.to(q.dtype).double()
            worst = max(worst, (2 * (rough - exact).abs().max() + 2 * rounding.abs().max()).item())
            self.references.append(exact)
        self.allowed = worst

    def _attend(self, line, q, k, v, b, h, scale, dtype):
        rows = q[b, self.rows, h].to(dtype)
        keys, values = (x[b, :, h // line.group].to(dtype) for x in (k, v))
        scores = rows @ keys.T * scale
        if line.causal:
            columns = torch.arange(line.seq, device=q.device)
            scores = scores.masked_fill(columns[None] > self.rows[:, None], float("-inf"))
        return torch.softmax(scores, dim=-1) @ values

    def error(self, o):
        """The largest difference of an output, infinite where it is not a number."""
        worst = 0.0
        for (b, h), exact in zip(self.places, self.references):
            difference = (o[b, self.rows, h].double() - exact).abs().max().item()
            worst = max(worst, difference if difference == difference else float("inf"))
        return worst
