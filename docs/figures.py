"""Draw the figures of docs/concepts.md: `python docs/figures.py` writes them into docs/figures/."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "vivit-core"  # the same bytes each time
matplotlib.rcParams["font.size"] = 9

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyBboxPatch, Rectangle  # noqa: E402

FOLDER = Path(__file__).resolve().parent / "figures"
SHARED, OWN, LINE = "#cfe3f5", "#fbe3c4", "#333333"


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.04", fc=color, ec=LINE, lw=0.8))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center")


def arrow(axes: Axes, start: tuple[float, float], stop: tuple[float, float]) -> None:
    axes.annotate("", xy=stop, xytext=start, arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 0.9})


def architecture() -> None:
    """The parts of a twin, from video and behavior to expected counts."""
    figure, axes = plt.subplots(figsize=(8.6, 3.3))
    y, height = 1.5, 0.9
    parts = [
        (0.1, 1.25, "normalize\npixels", OWN),
        (1.85, 1.15, "front end\n(time)", SHARED),
        (3.35, 1.15, "tokenizer\n(tubelets)", SHARED),
        (4.85, 1.15, "spatial\nblocks", SHARED),
        (6.35, 1.15, "temporal\nblocks\n(causal)", SHARED),
        (7.85, 1.35, "modulator", SHARED),
        (9.45, 1.35, "readout\n(one place\na unit)", OWN),
        (11.05, 1.0, "output\n(exp)", OWN),
    ]
    for x, width, text, color in parts:
        box(axes, x, y, width, height, text, color)
    for (x, width, _, _), (following, *_) in pairwise(parts):
        arrow(axes, (x + width + 0.04, y + height / 2), (following - 0.04, y + height / 2))
    axes.text(0.72, 3.05, "video\n(frames)", ha="center", va="center")
    arrow(axes, (0.72, 2.82), (0.72, y + height + 0.06))
    axes.text(8.52, 3.05, "behavior", ha="center", va="center")
    arrow(axes, (8.52, 2.9), (8.52, y + height + 0.06))
    axes.text(11.55, 3.05, "expected\ncounts", ha="center", va="center")
    arrow(axes, (11.55, y + height + 0.06), (11.55, 2.82))
    # Readouts also see what the tokens were cut from.
    axes.plot([3.92, 3.92, 10.12], [y - 0.06, 1.05, 1.05], color=LINE, lw=0.9)
    arrow(axes, (10.12, 1.05), (10.12, y - 0.04))
    axes.text(6.9, 0.82, "finer feature maps go to the readout directly", ha="center", va="center")
    axes.add_patch(Rectangle((1.72, 1.3), 5.9, 1.3, fill=False, ec="#6a8caf", ls="--", lw=0.9))
    axes.text(4.68, 2.68, "core (ViViT)", ha="center", color="#3f6488")
    for x, color, text in ((0.2, SHARED, "shared by all recordings"), (4.0, OWN, "one for each recording")):
        axes.add_patch(Rectangle((x, 0.05), 0.3, 0.25, fc=color, ec=LINE, lw=0.8))
        axes.text(x + 0.45, 0.17, text, va="center")
    axes.set(xlim=(0, 12.2), ylim=(0, 3.4))
    axes.axis("off")
    figure.savefig(FOLDER / "architecture.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def time() -> None:
    """Which frames a bin sees, and which token serves it; tokens of four frames."""
    figure, axes = plt.subplots(figsize=(8.6, 3.6))
    bins, length, asked = 16, 4, 10
    frames, fine, tokens, served = 3.0, 2.0, 1.0, 0.0  # height of each row

    def cell(x: float, y: float, width: float, text: str, color: str) -> None:
        axes.add_patch(Rectangle((x, y), width - 0.08, 0.6, fc=color, ec=LINE, lw=0.7))
        axes.text(x + width / 2 - 0.04, y + 0.3, text, ha="center", va="center")

    for i in range(bins):
        seen = SHARED if i <= asked else "white"
        cell(i, frames, 1, str(i), seen)
        cell(i, fine, 1, str(i), seen)
        newest = (i + 1) // length - 1  # the newest token that had ended
        cell(i, served, 1, "–" if newest < 0 else chr(ord("A") + newest), OWN if i == asked else "white")
    for k in range(bins // length):
        used = (k + 1) * length - 1 <= asked
        cell(k * length, tokens, length, f"token {chr(ord('A') + k)}", SHARED if used else "white")
    axes.annotate(
        "bin 10", xy=(asked + 0.46, served - 0.05), xytext=(asked + 0.46, served - 0.75), ha="center",
        arrowprops={"arrowstyle": "-|>", "color": LINE},
    )  # fmt: skip
    labels = {frames: "frames", fine: "fine map,\na step a frame", tokens: "tokens,\nfour frames each"}
    for y, text in {**labels, served: "bins, and the\ntoken that serves them"}.items():
        axes.text(-0.25, y + 0.3, text, ha="right", va="center")
    axes.text(bins / 2, 3.85, "what bin 10 can see is blue; it reads step 10 of the fine map, and token B", ha="center")
    axes.set(xlim=(-3.8, bins + 0.2), ylim=(-1, 4.1))
    axes.axis("off")
    figure.savefig(FOLDER / "time.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    architecture()
    time()
