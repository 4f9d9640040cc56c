"""Draw docs/img/norms.svg, and a picture of each norm beside it: which numbers of an array N, C, H, W share a mean.

    python docs/img/norms.py

The sets are what normlib does: an element is in the set if changing it moves the output at the one that is pointed at.
"""

from itertools import product
from pathlib import Path

import numpy as np

import normlib

SHAPE = (2, 4, 3, 3)  # N, C, H, W
POINT = (0, 1, 1, 1)
# name of the file: (title, call, what is shared)
NORMS = {
    "layer_norm_c": ("Layer norm over C", "layer_norm(x, axis=1)", "mean and variance"),
    "layer_norm_chw": ("Layer norm over C, H, W", "layer_norm(x, axis=(1, 2, 3))", "mean and variance"),
    "rms_norm": ("RMS norm", "rms_norm(x, axis=1)", "mean square"),
    "batch_norm": ("Batch norm", "batch_norm(x, training=True)", "mean and variance"),
    "group_norm": ("Group norm", "group_norm(x, 2)", "mean and variance"),
    "instance_norm": ("Instance norm", "instance_norm(x)", "mean and variance"),
}
CELL, GAP, LEFT, TOP = 16, 10, 34, 74  # of a panel: a cell, between grids, before and above them
WIDTH, HEIGHT = 292, 232  # of a panel

STYLE = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; fill: #59636e; }
.title { font-size: 16px; font-weight: 600; fill: #1c2229; }
.call { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
rect { fill: #dfe0dd; }
.set { fill: #7fbdc8; }
.point { fill: #0b6b7c; }
@media (prefers-color-scheme: dark) {
  text { fill: #a0a9b4; }
  .title { fill: #e7e9ec; }
  rect { fill: #323942; }
  .set { fill: #2f7480; }
  .point { fill: #6fd0de; }
}
"""


def members(call):
    """The elements that share the statistics of the one at POINT, as booleans of the shape SHAPE."""
    x = np.random.default_rng(0).normal(size=SHAPE)
    output = f"normlib.{call}"
    before = eval(output, {"normlib": normlib, "x": x})[POINT]
    found = np.zeros(SHAPE, bool)
    for element in np.ndindex(SHAPE):
        changed = x.copy()
        changed[element] += 1
        found[element] = eval(output, {"normlib": normlib, "x": changed})[POINT] != before
    return found


def panel(name):
    """The picture of a norm, without the element around it."""
    title, call, shared = NORMS[name]
    inside = members(call)
    samples, channels, _, columns = SHAPE
    lines = [f'<text class="title" x="0" y="18">{title}</text>', f'<text class="call" x="0" y="39">{call}</text>']
    pitch = columns * CELL + GAP
    lines += [f'<text x="{LEFT + c * pitch}" y="{TOP - 7}">C {c}</text>' for c in range(channels)]
    lines += [f'<text x="0" y="{TOP + n * pitch + 1.5 * CELL + 4:g}">N {n}</text>' for n in range(samples)]
    for n, c, h, w in product(*map(range, SHAPE)):
        kind = ' class="point"' if (n, c, h, w) == POINT else ' class="set"' if inside[n, c, h, w] else ""
        x, y = LEFT + c * pitch + w * CELL, TOP + n * pitch + h * CELL
        lines.append(f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}"{kind}/>')
    below = TOP + samples * pitch + 12
    lines.append(f'<text x="0" y="{below}">{inside.sum()} values share a {shared}</text>')
    return "\n".join(lines)


def picture(panels, across, description):
    """Panels side by side as a file."""
    width, height = WIDTH * min(across, len(panels)) - GAP, HEIGHT * -(-len(panels) // across) - GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        f'width="{width}" height="{height}" role="img">',
        f"<title>{description}</title>\n<style>\n{STYLE}</style>",
    ]
    for i, name in enumerate(panels):
        parts.append(f'<g transform="translate({i % across * WIDTH} {i // across * HEIGHT})">\n{panel(name)}\n</g>')
    return "\n".join([*parts, "</svg>\n"])


def pictures():
    """The text of each file by its name."""
    described = "Which numbers share a mean: the five norms of an array N, C, H, W, the set of one element in each"
    files = {"norms.svg": picture(list(NORMS), 3, described)}
    for name, (title, call, _) in NORMS.items():
        files[f"{name}.svg"] = picture([name], 1, f"{title}: {call}, the set of one element")
    return files


if __name__ == "__main__":
    for name, text in pictures().items():
        Path(__file__).with_name(name).write_text(text)
