"""A picture of how long bins take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vivit_core.plotting.style import BASELINE, MEASURED, TWIN, label_of, save

EXPORTS = ("tab:green", "tab:purple", "tab:red", "tab:brown", "tab:pink", "tab:olive")  # their colors, in turn


def latency(path: Path, seconds: Mapping[str, np.ndarray], clip_seconds: float, bin_s: float) -> Path:
    """How long bins took, one after the other, and which share of them took longer than a time, beside the deadline.

    Parameters
    ----------
    path : of the picture.
    seconds : name -> (bins,) of each bin; the stream first, then exports of it.
    clip_seconds : of one pass over the stream's whole clip.
    bin_s : length of a bin, s: the deadline.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    each, share = figure.subplots(1, 2)
    for number, (name, own) in enumerate(seconds.items()):
        color = TWIN if number == 0 else EXPORTS[(number - 1) % len(EXPORTS)]
        ms = own * 1e3
        label = f"{label_of(name)}: median {np.median(ms):.2g} ms, 99.9 % {np.percentile(ms, 99.9):.2g} ms"
        label += f", late {(own > bin_s).mean():.2%}"
        each.plot(np.arange(len(ms)), ms, ".", ms=3, color=color, label=label)
        share.step(np.sort(ms), 1 - np.arange(len(ms)) / len(ms), where="pre", color=color)
    words = {"color": MEASURED, "ls": "--"}
    each.axhline(bin_s * 1e3, label=f"deadline: a bin lasts {bin_s * 1e3:.3g} ms", **words)
    share.axvline(bin_s * 1e3, **words)
    each.axhline(clip_seconds * 1e3, color=BASELINE, label="running the stream's whole clip again")
    each.set(xlabel="bin", ylabel="time of a bin (ms)", yscale="log")
    share.set(xlabel="time (ms)", ylabel="share of bins that take longer", xscale="log", yscale="log")
    figure.legend(loc="outside upper center", frameon=False, fontsize="small")
    return save(figure, path)
