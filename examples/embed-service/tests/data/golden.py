"""Writes golden.safetensors: sentences, and their embeddings by sentence-transformers.

    pip install sentence-transformers
    python golden.py ../../../../target/models/all-MiniLM-L6-v2

The sentences are the lines below; the file's metadata has them as JSON, so that the test needs nothing else.
"""

import json
import pathlib
import sys

import numpy
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

SENTENCES = [
    "A cat sits on the mat.",
    "A kitten is lying on a rug.",
    "The stock market fell sharply on Tuesday.",
    "hello",
    "",
    " \t spaces,   tabs and\nlines ",
    "Ünïcödé: Straße, naïve café, ΑΒΓ, приве́т",
    "東京は日本の首都です。",
    "emoji 🙂👍🏽 and a zero-width\u200bspace",
    "[CLS] marks in the text [SEP] count as marks",
    "unbelievably-hyphenated, internationalization's antidisestablishmentarianism!",
    "x" * 150,
    "12,345.678 + 9e-7 = ?; a_b.c@d.example #tag",
    # Cut off at 256 tokens.
    " ".join(f"word{i} of a sentence that goes on and on" for i in range(60)),
    # 256 tokens, the most that are not cut off.
    " ".join(["dog"] * 254),
    " ".join(["dog"] * 255),
    "Attention is computed for all sentences of a batch at once, whatever their lengths, and no sentence sees another.",
]


def main():
    model = SentenceTransformer(sys.argv[1], device="cpu")
    # One at a time: no padding takes part.
    embeddings = numpy.concatenate([model.encode([sentence]) for sentence in SENTENCES])
    file = pathlib.Path(__file__).with_name("golden.safetensors")
    save_file({"embeddings": embeddings.astype(numpy.float32)}, file, {"sentences": json.dumps(SENTENCES)})
    print(file, embeddings.shape)


main()
