"""Pictures as SVG: text stays text, colours follow the page's, nothing is fetched."""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent.parent / "src" / "pictures"

# What a colour means, everywhere: fill and outline on light pages, then on dark ones.
KINDS = {
    "copy": ("#d6e8ff", "#0969da", "#12335c", "#58a6ff"),
    "mma": ("#ffe5ca", "#bc4c00", "#4a2a0b", "#f0883e"),
    "math": ("#ecdfff", "#8250df", "#34215a", "#bc8cff"),
    "out": ("#d2f3dc", "#1a7f37", "#143d22", "#3fb950"),
    "memory": ("#f0f2f5", "#7d8590", "#21262d", "#7d8590"),
    "stop": ("#ffdfdc", "#cf222e", "#4d1517", "#ff7b72"),
}


def style():
    light = [".page{fill:#ffffff}.halo{stroke:#ffffff}", "text{fill:#1f2328}", ".dim{fill:#59636e}", ".line{stroke:#7d8590}", ".tip{fill:#7d8590}"]
    dark = [".page{fill:#0d1117}.halo{stroke:#0d1117}", "text{fill:#e6edf3}", ".dim{fill:#9aa4af}", ".line{stroke:#8b949e}", ".tip{fill:#8b949e}"]
    for kind, (fill, edge, night, glow) in KINDS.items():
        light.append(f".{kind}{{fill:{fill};stroke:{edge}}}")
        dark.append(f".{kind}{{fill:{night};stroke:{glow}}}")
    return (
        "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
        ".small{font-size:11.5px}.head{font-weight:600}.code{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px}"
        ".line{fill:none;stroke-width:1.3}.wait{fill:none;stroke-dasharray:3 3}.halo{paint-order:stroke;stroke-width:5px}"
        + "".join(light)
        + "@media (prefers-color-scheme: dark){"
        + "".join(dark)
        + "}"
    )


class Picture:
    """Things are drawn in the order in which they are added."""

    def __init__(self, name, title, width, height):
        self.name, self.title, self.width, self.height = name, title, width, height
        self.parts = []

    def text(self, x, y, words, kind="", anchor="start"):
        at = f' text-anchor="{anchor}"' if anchor != "start" else ""
        of = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}"{of}{at}>{escape(words)}</text>')

    def box(self, x, y, width, height, kind, words="", below="", size=""):
        """A box with a line of text in it, and another one."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" class="{kind}"/>')
        middle = y + height / 2 + 4.5
        if words:
            self.text(x + width / 2, middle - (8 if below else 0), words, size, "middle")
        if below:
            self.text(x + width / 2, middle + 9, below, "small dim", "middle")

    def line(self, points, kind="line"):
        self.parts.append('<path class="%s" d="M%s"/>' % (kind, " L".join(f"{x:g} {y:g}" for x, y in points)))

    def arrow(self, *points):
        """A line through the points, with a tip at the last one."""
        self.line(points)
        (x0, y0), (x, y) = points[-2:]
        length = max(((x - x0) ** 2 + (y - y0) ** 2) ** 0.5, 1)
        dx, dy = (x - x0) / length, (y - y0) / length
        left, right = (x - 8 * dx - 4 * dy, y - 8 * dy + 4 * dx), (x - 8 * dx + 4 * dy, y - 8 * dy - 4 * dx)
        tip = " ".join(f"{a:.1f},{b:.1f}" for a, b in [(x, y), left, right])
        self.parts.append(f'<polygon class="tip" points="{tip}"/>')

    def legend(self, x, y, entries):
        for kind, words in entries:
            self.box(x, y - 11, 14, 14, kind)
            self.text(x + 20, y, words, "small")
            x += 34 + 6.3 * len(words)

    def save(self):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img">\n<title>{escape(self.title)}</title>\n<style>{style()}</style>\n'
            f'<rect class="page" width="{self.width}" height="{self.height}" rx="6"/>\n'
        )
        (FOLDER / f"{self.name}.svg").write_text(head + "\n".join(self.parts) + "\n</svg>\n")
