"""A picture of how long bins take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vivit_core.plotting.style import BASELINE, MEASURED, TWIN, save


def latency(path: Path, seconds: np.ndarray, clip_seconds: float, bin_s: float) -> Path:
    """How long each bin of a stream took, beside the length of a bin and the time of the whole clip."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(len(seconds)), seconds * 1e3, ".", ms=3, color=TWIN, label="a bin of the stream")
    axes.axhline(bin_s * 1e3, color=MEASURED, ls="--", label="length of a bin: below it, the twin keeps up")
    axes.axhline(clip_seconds * 1e3, color=BASELINE, label="running the whole clip again")
    axes.set(xlabel="bin", ylabel="time (ms)", yscale="log")
    axes.legend(frameon=False, fontsize="small")
    return save(figure, path)
