"""The packed batches that are measured: how long their sequences are."""

import random
from dataclasses import dataclass
from itertools import accumulate

TOKENS = 16_384
HIDDEN = 2_048


@dataclass(frozen=True)
class Mix:
    """One packed problem; a causal mask is aligned to the bottom right of each sequence."""

    name: str
    q_lens: tuple
    k_lens: tuple
    causal: bool
    head_dim: int = 128
    group: int = 1

    @property
    def heads(self):
        return HIDDEN // self.head_dim

    @property
    def kv_heads(self):
        return self.heads // self.group

    @property
    def scale(self):
        return self.head_dim**-0.5

    @property
    def max_q(self):
        return max(self.q_lens)

    @property
    def max_k(self):
        return max(self.k_lens)

    @property
    def total_q(self):
        return sum(self.q_lens)

    @property
    def total_k(self):
        return sum(self.k_lens)

    def starts(self):
        """The first rows of the sequences in Q and in K, and the ends."""
        return [0, *accumulate(self.q_lens)], [0, *accumulate(self.k_lens)]

    @property
    def flops(self):
        """Floating-point operations of the two products on the pairs that the mask keeps."""
        pairs = sum(q * k - self.causal * q * (q - 1) // 2 for q, k in zip(self.q_lens, self.k_lens))
        return 4 * self.heads * self.head_dim * pairs

    @property
    def dense(self):
        """Batch and sequence length of the dense problem that does about the same work on as many tokens."""
        seq = round(sum(q * k for q, k in zip(self.q_lens, self.k_lens)) / self.total_q)
        return max(1, round(self.total_q / seq)), seq

    @property
    def square(self):
        return self.q_lens == self.k_lens

    def __str__(self):
        words = [f"d{self.head_dim}", self.name]
        return " ".join(words + ["causal"] * self.causal + [f"GQA {self.group}:1"] * (self.group > 1))


def zipf(longest, least, tokens, seed=1):
    """Lengths longest / rank until there are `tokens`, in random order."""
    lengths, rank = [], 1
    while sum(lengths) < tokens:
        lengths.append(min(max(least, longest // rank), tokens - sum(lengths)))
        rank += 1
    random.Random(seed).shuffle(lengths)
    return tuple(lengths)


def between(low, high, count, seed=1):
    pick = random.Random(seed)
    return tuple(pick.randint(low, high) for _ in range(count))


SELF = {
    "16 x 1024": (1024,) * 16,
    "2 x 8192": (8192,) * 2,
    "zipf 4096": zipf(4096, 16, TOKENS),
    "1 x 8192 + 128 x 64": (8192,) + (64,) * 128,
    "32 x 1..1024": between(1, 1024, 32),
    "4096 x 4..32": between(4, 32, 4096),
}
# Pieces of prompts whose beginnings are in the cache already.
CHUNKS = {"16 x 512 of 1k..8k": ((512,) * 16, tuple(512 * n for n in between(2, 16, 16)))}


def _mixes():
    found = []
    for head_dim in (128, 64):
        for name, lengths in SELF.items():
            found += [Mix(name, lengths, lengths, causal, head_dim) for causal in (False, True)]
    for name in ("zipf 4096", "32 x 1..1024", "4096 x 4..32"):
        found.append(Mix(name, SELF[name], SELF[name], True, group=8))
    for name, (queries, keys) in CHUNKS.items():
        found += [Mix(name, queries, keys, True), Mix(name, queries, keys, True, group=8)]
    return found


MIXES = _mixes()
