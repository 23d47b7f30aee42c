"""The pipeline's streams, computed from the rules by which `attn-host/src/pipeline/engine.rs` queues a batch:

- a copy in waits for the batch that last used its input block to be computed;
- a kernel waits for its own copy in, and for the batch that last used its output block to be copied out;
- a copy out waits for its own kernel; a stream works in order;
- no more than `2 * depth` batches are in flight.
"""

from draw import Picture

DEPTH, BATCHES = 2, 6
STAGE, IN, COMPUTE, OUT, LAND = 1.6, 3.0, 4.0, 2.2, 1.0
LEFT, UNIT, TOP, LANE = 190, 21.5, 66, 46


def run():
    rows = []
    for n in range(BATCHES):
        before = rows[n - 1] if n else None
        last = rows[n - DEPTH] if n >= DEPTH else None
        landed = rows[n - 2 * DEPTH]["land"][1] if n >= 2 * DEPTH else 0
        stage = max(before["stage"][1] if before else 0, landed)
        copy = max(stage + STAGE, before["in"][1] if before else 0, last["compute"][1] if last else 0)
        compute = max(copy + IN, before["compute"][1] if before else 0, last["out"][1] if last else 0)
        out = max(compute + COMPUTE, before["out"][1] if before else 0)
        land = max(out + OUT, before["land"][1] if before else 0)
        times = {"stage": (stage, STAGE), "in": (copy, IN), "compute": (compute, COMPUTE), "out": (out, OUT), "land": (land, LAND)}
        rows.append({key: (start, start + length) for key, (start, length) in times.items()})
    return rows


def draw(rows):
    end = rows[-1]["land"][1]
    picture = Picture("pipeline", "Six batches through a pipeline of depth 2", round(LEFT + end * UNIT + 30), 382)
    picture.text(20, 28, "Six batches in ordinary memory through a pipeline of depth 2", "head")
    lanes = [
        ("stage", "issuing thread", "batch to pinned memory", "memory"),
        ("in", "stream: copy in", "to the device", "copy"),
        ("compute", "stream: attention", "the plan's kernels", "mma"),
        ("out", "stream: copy out", "to pinned memory", "out"),
        ("land", "landing thread", "to the batch; its ticket", "memory"),
    ]
    for lane, (key, name, below, kind) in enumerate(lanes):
        y = TOP + lane * LANE
        picture.text(20, y + 16, name)
        picture.text(20, y + 31, below, "small dim")
        picture.line([(LEFT, y + 36), (LEFT + end * UNIT, y + 36)])
        for number, row in enumerate(rows):
            start, stop = row[key]
            picture.box(LEFT + start * UNIT + 1, y + 4, (stop - start) * UNIT - 2, 28, kind, str(number), size="small")

    def edge(key, lane, to, other, target, words, right=True):
        """An event: the end of one thing, for which another thing on another lane waits."""
        x0, x1 = LEFT + rows[key[1]][key[0]][1] * UNIT, LEFT + rows[other][to][0] * UNIT + 1
        y0, y1 = TOP + lane * LANE + 18, TOP + target * LANE + (4 if target > lane else 32)
        picture.arrow((x0 - 1, y0), (x1 + 3, y0), (x1 + 3, y1))
        picture.text(x1 + 8, TOP + max(lane, target) * LANE - 2, words, "small dim halo")

    edge(("in", 0), 1, "compute", 0, 2, "loaded")
    edge(("compute", 0), 2, "out", 0, 3, "computed")
    edge(("out", 0), 3, "land", 0, 4, "copied")
    edge(("compute", 0), 2, "in", 2, 1, "0's input block is free for 2")
    y = TOP + 5 * LANE + 18
    picture.text(20, y, "Arrows are events: the streams wait for each other on the device, no thread does. The landing thread sleeps until a batch has", "small dim")
    picture.text(20, y + 17, "been copied out. Batch 4 is staged when batch 0 has landed: no more than 2 × depth are in flight, the others wait in the queue,", "small dim")
    picture.text(20, y + 34, "and submitters before it. From the second batch on the slowest lane, here attention, has no pause: a batch takes as long as that.", "small dim")
    picture.text(20, y + 57, "Computed from the rules of the engine with made-up lengths: 1.6, 3, 4, 2.2 and 1.", "small dim")
    picture.save()


draw(run())
