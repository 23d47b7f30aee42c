"""The history of the guide's kernel, from the simulator's history of its mbarriers:

cargo xtask sim --ptx target/ptx/sm_90a/probe_softmax.ptx --kernel probe_softmax --grid 1 --block 64 --smem 3120 \
  --trace mbarriers:0 --params 'x = f32[10,256] normal 1; y = f32[10,256]; ptr x; ptr y; u32 10' \
  | python3 guide/pictures/softmax.py
"""

import re
import sys

from draw import Picture

STAGES, ROWS = 3, 10
LEFT, RIGHT, TOP, LANE = 136, 905, 64, 40
EVENT = re.compile(r"^ *(\d+)  mbarrier (0x[0-9a-f]+) (was initialised|was changed|completed a phase|passes)[^`]*`([^`]*)`")


def history(lines):
    """Of each row: its stage, and when it was asked for, arrived, was taken and was given back."""
    order, rows, waiting = [], [], {}
    for line in lines:
        if not (match := EVENT.match(line)):
            continue
        when, bar, what, by = int(match[1]), match[2], match[3], match[4]
        if what == "was initialised":
            order = sorted({*order, bar}, key=lambda address: int(address, 16))
            continue
        stage, full = order.index(bar) % STAGES, order.index(bar) < STAGES
        if what == "was changed" and "expect_tx" in by:
            rows.append({"stage": stage, "asked": when})
            waiting.setdefault(stage, []).append(rows[-1])
        elif full and what == "completed a phase":
            waiting[stage][0]["arrived"] = when
        elif full and what == "passes":
            waiting[stage][0]["taken"] = when
        elif not full and what == "completed a phase":
            waiting[stage].pop(0)["released"] = when
    return rows


def draw(rows):
    end = max(row["released"] for row in rows)
    at = lambda time: LEFT + (RIGHT - LEFT) * time / end
    picture = Picture("softmax", "Ten rows through three stages", 930, TOP + 5 * LANE + 42)
    picture.text(20, 28, "Ten rows through three stages, one block", "head")
    picture.legend(360, 28, [("copy", "asked for, on its way"), ("memory wait", "there, not yet taken"), ("math", "softmax, and stored")])
    lanes = ["load, warp 0", "stage 0", "stage 1", "stage 2", "softmax, warp 1"]
    for lane, name in enumerate(lanes):
        y = TOP + lane * LANE
        picture.text(20, y + 18, name)
        picture.line([(LEFT, y + 30), (RIGHT, y + 30)])
    labels = []
    for number, row in enumerate(rows):
        y = TOP + (1 + row["stage"]) * LANE
        asked, arrived, taken, released = (at(row[key]) for key in ("asked", "arrived", "taken", "released"))
        picture.box(asked, y + 4, arrived - asked, 22, "copy")
        picture.box(arrived, y + 4, taken - arrived, 22, "memory wait")
        picture.box(taken, y + 4, released - taken, 22, "math", str(number), size="small")
        picture.box(taken, TOP + 4 * LANE + 4, released - taken, 22, "math", str(number), size="small")
        picture.line([(asked, TOP + 6), (asked, TOP + 30)])
        if labels and asked - labels[-1][0] < 14:
            labels[-1][1].append(str(number))
        else:
            labels.append((asked, [str(number)]))
    for x, numbers in labels:
        picture.text(x + 5 + 4 * (len(numbers) - 1), TOP + 18, " ".join(numbers), "small")
    took = [row["arrived"] - row["asked"] for row in rows]
    words = f"time, in steps of the simulator, 0 to {end}; with seed 0, copies take from {min(took)} steps to {max(took)}"
    picture.text(LEFT, TOP + 5 * LANE + 22, words, "small dim")
    picture.save()


rows = history(sys.stdin)
assert len(rows) == ROWS and all(len(row) == 5 for row in rows), rows
draw(rows)
