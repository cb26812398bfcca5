"""How long a stream takes for a bin, beside the same bins predicted as a clip.

Shape letters: T bins, H W pixels, D behavior numbers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vivit_core.models.twin import Twin
from vivit_core.system.terminal import track


@dataclass(frozen=True)
class Latency:
    """What a stream of some bins took.

    Attributes
    ----------
    bins : that were streamed and timed.
    seconds : (bins,) of each bin.
    clip_seconds : of one pass over a clip of the same bins.
    largest_difference : between the stream's rates and the clip's, relative to the clip's largest rate.
    """

    bins: int
    seconds: np.ndarray
    clip_seconds: float
    largest_difference: float

    def summary(self) -> dict[str, Any]:
        """Plain numbers: milliseconds of a bin (mean, median, 95 %, 99 %, most), bins a second, and the comparison."""
        ms = self.seconds * 1e3
        return {
            "bins": self.bins,
            "mean_ms": float(ms.mean()),
            **{f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 95, 99)},
            "most_ms": float(ms.max()),
            "bins_per_s": float(1.0 / self.seconds.mean()),
            "clip_ms": self.clip_seconds * 1e3,
            "stream_over_clip": float(self.seconds.mean() / self.clip_seconds),
            "largest_difference": self.largest_difference,
        }


def measure_stream(
    twin: Twin,
    recording_id: str,
    frames: np.ndarray,
    behavior: np.ndarray | None,
    *,
    warm_up: int = 30,
    progress: bool = True,
) -> Latency:
    """Stream a clip bin by bin, and predict it in one pass.

    Parameters
    ----------
    twin : causal, with ``predict="all"``.
    recording_id : whose units.
    frames, behavior : (T, H, W) or (C, T, H, W) and (T, D), as ``Twin.rates`` takes them.
    warm_up : bins of another stream before the clock starts.

    Raises
    ------
    ValueError
        For a twin that cannot be streamed, or that predicts the newest bin alone.
    """
    if twin.predict != "all":
        raise ValueError("a stream is compared with a clip's bins; this twin predicts the newest alone (predict=last)")
    video = frames[None] if frames.ndim == 3 else frames
    bins = video.shape[1]
    moved = [None] * bins if behavior is None else list(behavior)

    def predict_clip() -> np.ndarray:
        return twin.rates(recording_id, video, behavior)

    twin.eval()
    expected = predict_clip()
    times = [clocked(predict_clip) for _ in range(3)]
    warming = twin.stream(recording_id)
    for t in range(min(warm_up, bins)):
        warming.step(video[:, t], moved[t])
    stream = twin.stream(recording_id, clip_length=bins)
    seconds, streamed = np.zeros(bins), np.zeros_like(expected)
    for t in track(range(bins), "stream", disable=not progress):
        start = time.perf_counter()
        streamed[t] = stream.step(video[:, t], moved[t])
        seconds[t] = time.perf_counter() - start
    difference = float(np.abs(streamed - expected).max() / np.abs(expected).max())
    return Latency(bins, seconds, min(times), difference)


def clocked(call: Any) -> float:
    """Seconds of one call, with a GPU's work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
