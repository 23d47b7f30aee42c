"""The problems that are measured."""

from dataclasses import dataclass

TOKENS = 16_384
HIDDEN = 2_048


@dataclass(frozen=True)
class Line:
    """One problem: batch times seq is TOKENS, or a batch of 1 whose latency counts."""

    head_dim: int
    seq: int
    causal: bool
    head_dim_v: int = 0
    group: int = 1
    dtype: str = "bfloat16"
    latency: bool = False
    # Part of the goal that DESIGN states; the others belong to the same claim, on shapes it does not list.
    listed: bool = True

    @property
    def dv(self):
        return self.head_dim_v or self.head_dim

    @property
    def batch(self):
        return 1 if self.latency else TOKENS // self.seq

    @property
    def heads(self):
        # Heads of 96 and 192 do not divide the hidden size; models that have them use as many as 128 gives.
        return HIDDEN // (self.head_dim if HIDDEN % self.head_dim == 0 else 128)

    @property
    def kv_heads(self):
        return self.heads // self.group

    @property
    def flops(self):
        """Floating-point operations of the two products; half of them under a causal mask."""
        all_pairs = 2 * self.batch * self.heads * self.seq * self.seq * (self.head_dim + self.dv)
        return all_pairs / 2 if self.causal else all_pairs

    def __str__(self):
        width = f"d{self.head_dim}" if self.dv == self.head_dim else f"d{self.head_dim},{self.dv}"
        words = [width, f"s{self.seq}"]
        words += ["causal"] * self.causal + [f"GQA {self.group}:1"] * (self.group > 1)
        words += ["f16"] * (self.dtype == "float16") + ["batch 1"] * self.latency
        return " ".join(words)


def _both(head_dim, seq, **more):
    return [Line(head_dim, seq, False, **more), Line(head_dim, seq, True, **more)]


LISTED = [
    *_both(128, 16384),
    *_both(128, 8192),
    Line(128, 8192, True, group=4),
    *_both(128, 4096),
    Line(128, 2048, True),
    *_both(128, 1024),
    Line(128, 512, True),
    *_both(64, 16384),
    *_both(64, 4096),
    Line(64, 1024, True),
    *_both(256, 8192),
]

MORE = [
    *_both(96, 8192, listed=False),
    *_both(192, 8192, head_dim_v=128, listed=False),
    *_both(128, 8192, dtype="float16", listed=False),
    Line(64, 8192, True, dtype="float16", listed=False),
    Line(128, 2048, False, listed=False),
    Line(64, 2048, True, listed=False),
]

LATENCY = [Line(128, seq, True, latency=True, listed=False) for seq in (128, 256, 512, 1024, 2048)]

LINES = LISTED + MORE + LATENCY
