"""A tile of attention on Hopper and on Blackwell: which unit works on what, key block by key block. Lengths are those of `cargo xtask plan`
for head_dim 128: 512 cycles of tensor cores for 64 or 128 rows times 128 keys, and what lies between them for the softmax."""

from draw import Picture

LEFT, UNIT, TOP, LANE = 150, 66, 66, 46


def lanes(picture, names, columns):
    for lane, (name, below) in enumerate(names):
        y = TOP + lane * LANE
        picture.text(20, y + 16, name)
        picture.text(20, y + 31, below, "small dim")
        picture.line([(LEFT, y + 36), (LEFT + columns * UNIT, y + 36)])


def put(picture, lane, start, length, kind, words, size="small"):
    picture.box(LEFT + start * UNIT + 1, TOP + lane * LANE + 4, length * UNIT - 2, 28, kind, words, size=size)


def hopper():
    columns = 12
    picture = Picture("hopper", "Hopper: two warpgroups take turns at the tensor cores", LEFT + columns * UNIT + 20, 312)
    picture.text(20, 28, "Hopper: two warpgroups take turns at the tensor cores", "head")
    picture.legend(440, 28, [("copy", "TMA"), ("mma", "multiplies, tile A"), ("out", "tile B"), ("math", "softmax")])
    lanes(picture, [("load", "warp 0, TMA"), ("tensor cores", "wgmma"), ("warpgroup A", "rows 0 to 63"), ("warpgroup B", "rows 64 to 127")], columns)
    # Two tiles of 32 KiB each take 512 cycles of the four multiplies of a block, 2048.
    for slot, words in [(0, "Q K0"), (1, "K1 V0"), (4, "K2 V1"), (8, "K3 V2")]:
        put(picture, 0, slot, 1, "copy", words)
    put(picture, 1, 1, 1, "mma", "S0")
    put(picture, 1, 2, 1, "out", "S0")
    for block, start in [(1, 3), (2, 7)]:
        for offset, kind in [(0, "mma"), (2, "out")]:
            put(picture, 1, start + offset, 1, kind, f"S{block}")
            put(picture, 1, start + offset + 1, 1, kind, f"O += P{block - 1}V")
    put(picture, 1, 11, 1, "mma", "S3")
    put(picture, 2, 2, 1, "math", "P0")
    put(picture, 3, 3, 2, "math", "P0 = exp2(S0)")
    for block, start in [(1, 4), (2, 8)]:
        put(picture, 2, start, 3, "math", f"P{block} = exp2(S{block})")
        put(picture, 3, start + 2, 3 if start == 4 else 2, "math", f"P{block} = exp2(S{block})")
    y = TOP + 4 * LANE + 14
    picture.text(20, y, "K and V go through a ring: the load warp is as many key blocks ahead as the ring has stages, and waits until both warpgroups", "small dim")
    picture.text(20, y + 17, "have released one. A warpgroup issues S of the next block and O += P V of this one, hands the tensor cores on, and computes", "small dim")
    picture.text(20, y + 34, "its softmax from S as soon as that is done, in registers, while the other one's multiplies run.", "small dim")
    picture.save()


def blackwell():
    columns = 12
    picture = Picture("blackwell", "Blackwell: every role does one thing", LEFT + columns * UNIT + 20, 376)
    picture.text(20, 28, "Blackwell: every role does one thing", "head")
    picture.legend(440, 28, [("copy", "TMA"), ("mma", "multiplies"), ("math", "softmax"), ("out", "correction")])
    names = [
        ("load", "warp 14, TMA"),
        ("mma", "warp 12, tcgen05"),
        ("softmax, tile 0", "warps 0 to 3"),
        ("softmax, tile 1", "warps 4 to 7"),
        ("correction", "warps 8 to 11"),
    ]
    lanes(picture, names, columns)
    for slot, words in [(0, "Q K0"), (2, "V0 K1"), (6, "V1 K2"), (10, "V2")]:
        put(picture, 0, slot, 1, "copy", words)
    put(picture, 1, 1, 1, "mma", "S0")
    put(picture, 1, 2, 1, "mma", "S1")
    for block, start in [(0, 4), (1, 8)]:
        for offset, tile in [(0, 0), (2, 1)]:
            put(picture, 1, start + offset, 1, "mma", f"O{tile} += PV")
            if start + offset + 1 < columns:
                put(picture, 1, start + offset + 1, 1, "mma", f"S{tile}")
    for block, start in enumerate([2, 6, 10]):
        put(picture, 2, start, 2, "math", f"block {block}: exp2")
        if block < 2:
            put(picture, 3, start + (2 if block else 1), 2, "math", f"block {block}: exp2")
    for start, tile in [(6.35, 0), (8.35, 1), (10.35, 0)]:
        put(picture, 4, start, 0.85, "out", f"O{tile} × f")

    def signal(lane, time, to, words, right=True):
        x = LEFT + time * UNIT
        down = to > lane
        y0 = TOP + lane * LANE + (32 if down else 4)
        y1 = TOP + to * LANE + (4 if down else 32)
        picture.arrow((x, y0), (x, y1))
        picture.text(x + (4 if right else -4), TOP + max(lane, to) * LANE - 2, words, "small dim halo", "start" if right else "end")

    signal(1, 2, 2, "scores")
    signal(2, 4, 1, "ready", right=False)
    picture.arrow((LEFT + 6.2 * UNIT, TOP + 2 * LANE + 32), (LEFT + 6.2 * UNIT, TOP + 4 * LANE + 18), (LEFT + 6.35 * UNIT, TOP + 4 * LANE + 18))
    picture.text(LEFT + 6.15 * UNIT, TOP + 4 * LANE - 3, "factors", "small dim halo", "end")
    y = TOP + 5 * LANE + 14
    picture.text(20, y, "S, P and O lie in tensor memory. The softmax warps read S, a row a thread, and write P over it. “ready” says that three quarters of P are", "small dim")
    picture.text(20, y + 17, "there and that O has been rescaled; the multiply begins, and waits for the last quarter (“last”) before it takes that. The correction", "small dim")
    picture.text(20, y + 34, "rescales O, by factors f, only where a row's maximum has grown by more than 2^8: most blocks need none. At a tile's end it divides", "small dim")
    picture.text(20, y + 51, "O by the sum, and a store warp sends it off by TMA while the next tile begins.", "small dim")
    picture.save()


hopper()
blackwell()
