"""How long a stream takes for a bin, beside the same bins predicted as a clip.

Shape letters: T bins, H W pixels, D behavior numbers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.clock import clocked
from vivit_core.analysis.export.files import ExportedStream
from vivit_core.models.predictor import Predictor
from vivit_core.models.published import weights_of
from vivit_core.system.terminal import track

WARM_UP = 30  # bins before the clock starts


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

    def summary(self, bin_s: float) -> dict[str, Any]:
        """Plain numbers: those of :func:`distribution`, bins a second, and the comparison."""
        return {
            **distribution(self.seconds, bin_s),
            "bins_per_s": float(1.0 / self.seconds.mean()),
            "clip_ms": self.clip_seconds * 1e3,
            "stream_over_clip": float(self.seconds.mean() / self.clip_seconds),
            "largest_difference": self.largest_difference,
        }


def distribution(seconds: np.ndarray, bin_s: float) -> dict[str, Any]:
    """Milliseconds of a bin (mean, median, 95 %, 99 %, 99.9 %, most), and the share of bins that took longer than a bin
    lasts, so that a rig would miss their deadline."""
    ms = seconds * 1e3
    percentiles = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "p999_ms": 99.9}
    return {
        "bins": len(seconds),
        "mean_ms": float(ms.mean()),
        **{name: float(np.percentile(ms, q)) for name, q in percentiles.items()},
        "most_ms": float(ms.max()),
        "late_fraction": float((seconds > bin_s).mean()),
    }


def export_of(folder: Path, twin: Predictor, recording_id: str) -> ExportedStream:
    """An exported stream of a recording, at its begin.

    Parameters
    ----------
    folder : that ``task=export`` wrote.
    twin, recording_id : that it should be of.

    Raises
    ------
    ValueError
        Where the folder is no export, or one of another recording, or of other weights.
    """
    stream, spec = ExportedStream(folder), twin.specs[recording_id]
    if stream.spec != spec:
        raise ValueError(
            f"exports={folder}: is of recording {stream.spec.recording_id}, not of {spec.recording_id} as this "
            "checkpoint knows it; give an export of this checkpoint, and its recording=…"
        )
    if stream.weights != weights_of(twin):
        raise ValueError(
            f"exports={folder}: is not of this checkpoint's weights, or from before exports said of which they are; "
            "export this checkpoint with task=export, and give that folder"
        )
    return stream


def measure_export(
    stream: ExportedStream, frames: np.ndarray, behavior: np.ndarray | None, *, warm_up: int = WARM_UP
) -> np.ndarray:
    """How long an exported stream takes for each bin of a clip, (T,) in seconds.

    Parameters
    ----------
    stream : of the recording (:func:`export_of`).
    frames, behavior : (C, T, H, W) and (T, D), as :func:`measure_stream` takes them.
    warm_up : bins before the clock starts; the clip is shown again from its begin where it is shorter.
    """
    bins = frames.shape[1]
    seconds = np.zeros(warm_up + bins)
    for t in range(warm_up + bins):
        frame, beside = frames[:, t % bins], None if behavior is None else behavior[t % bins]
        start = time.perf_counter()
        stream.step(frame, beside)
        seconds[t] = time.perf_counter() - start
    return seconds[warm_up:]


def measure_stream(
    twin: Predictor,
    recording_id: str,
    frames: np.ndarray,
    behavior: np.ndarray | None,
    *,
    counts: np.ndarray | None = None,
    warm_up: int = WARM_UP,
    progress: bool = True,
) -> Latency:
    """Stream a clip bin by bin, and predict it in one pass.

    Parameters
    ----------
    twin : causal, with ``predict="all"``.
    recording_id : whose units.
    frames, behavior : (T, H, W) or (C, T, H, W) and (T, D), as ``Twin.rates`` takes them.
    counts : (T, U) that the stream is told after each bin, NaN where nobody knows; None: nothing is told.
    warm_up : bins of another stream before the clock starts.
    progress : whether a bar is shown.

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
        return twin.rates(recording_id, video, behavior, counts=counts)

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
        if counts is not None:
            stream.observe(counts[t])
        seconds[t] = time.perf_counter() - start
    difference = float(np.abs(streamed - expected).max() / np.abs(expected).max())
    return Latency(bins, seconds, min(times), difference)
