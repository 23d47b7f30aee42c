"""From a problem to a launch, and what a launch of packed, paged and split problems does."""

from draw import Picture


def host():
    picture = Picture("host", "From a problem to a launch", 900, 250)
    picture.text(20, 28, "Once: what can be wrong is found here", "head")
    boxes = [
        (20, "Problem", "shape, mask ..", "memory"),
        (200, "layouts", "sizes, strides", "memory"),
        (380, "selection", "right? then fastest", "math"),
        (560, "blueprint", "maps, grid", "math"),
        (740, "Plan", "kernels loaded", "out"),
    ]
    for x, words, below, kind in boxes:
        picture.box(x, 46, 128, 48, kind, words, below)
    for x, words in [(148, "check"), (328, "choose"), (508, "build"), (688, "load")]:
        picture.arrow((x + 2, 70), (x + 50, 70))
        picture.text(x + 25, 62, words, "small dim", "middle")
    picture.box(380, 112, 128, 30, "stop", "typed error", size="small")
    picture.arrow((264, 96), (264, 127), (378, 127))
    picture.arrow((444, 96), (444, 110))
    picture.text(20, 172, "Every launch: nothing is allocated, waited for or locked", "head")
    for x, words, below, kind in [
        (20, "Tensors", "addresses", "memory"),
        (200, "checks", "null, misaligned", "memory"),
        (380, "parameters", "with addresses", "math"),
        (560, "cuLaunchKernelEx", "on the stream", "copy"),
    ]:
        picture.box(x, 188, 128, 48, kind, words, below)
    for x in (148, 328, 508):
        picture.arrow((x + 2, 212), (x + 50, 212))
    picture.arrow((804, 96), (804, 212), (690, 212))
    picture.save()


def serving():
    picture = Picture("serving", "A launch of packed sequences with paged keys and splits", 900, 372)
    picture.text(20, 28, "Three kernels on one stream, each starting while the last blocks of the one before end", "head")
    picture.box(20, 46, 230, 44, "math", "schedule", "which tiles are there?")
    picture.box(336, 46, 230, 44, "mma", "attention", "a block a multiprocessor")
    picture.box(652, 46, 228, 44, "out", "combine", "a warp a row")
    picture.arrow((252, 68), (334, 68))
    picture.arrow((568, 68), (650, 68))

    picture.text(20, 122, "cu_seqlens_q, seqused", "code")
    for i, (length, words) in enumerate([(30, "7"), (110, "300"), (0, ""), (76, "130")]):
        x = 20 + [0, 34, 148, 152][i]
        if length:
            picture.box(x, 130, length, 24, "memory", words, size="small")
    picture.text(20, 180, "the list, longest sequences first", "small dim")
    for i, words in enumerate(["1: 256..299", "1: 128..255", "1: 0..127", "3: 128..129", "3: 0..127", "0: 0..6"]):
        picture.box(20, 190 + 27 * i, 130, 23, "math", words, size="small")
    picture.text(160, 206, "sequence 1,", "small dim")
    picture.text(160, 221, "its last queries", "small dim")
    picture.arrow((152, 250), (334, 250))
    picture.text(172, 244, "a tile each, in turn", "small dim")

    picture.text(336, 122, "page_table[1]", "code")
    for i, page in enumerate([5, 2, 9, 0, 7, 4]):
        picture.box(336 + 38 * i, 130, 36, 24, "memory", str(page), size="small")
    picture.text(336, 180, "keys 0 .. 383 of sequence 1, split in two", "small dim")
    picture.box(336, 190, 113, 26, "copy", "split 0: 5 2 9", size="small")
    picture.box(451, 190, 113, 26, "copy", "split 1: 0 7 4", size="small")
    picture.arrow((392, 218), (392, 246))
    picture.arrow((507, 218), (507, 246))
    picture.box(336, 248, 113, 40, "mma", "S, P, O", "in one block", size="small")
    picture.box(451, 248, 113, 40, "mma", "S, P, O", "in another", size="small")
    picture.arrow((392, 290), (392, 312))
    picture.arrow((507, 290), (507, 312))
    picture.box(336, 314, 228, 40, "memory", "workspace", "O and LSE of each split, f32", size="small")
    picture.arrow((566, 334), (650, 334))
    picture.box(652, 248, 228, 106, "out", "O = Σ exp(LSEₛ − LSE) Oₛ", "in bf16 or f16, and LSE")
    picture.arrow((766, 246), (766, 200))
    picture.box(652, 154, 228, 44, "memory", "O, LSE", "rows of this sequence alone")
    picture.save()


host()
serving()
