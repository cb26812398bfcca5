"""Show a model a video, and write its units' rates: in pieces, with what the model remembers carried over, so that the
video's length costs time but no memory.

Shape letters: C channels, T bins, H W pixels, U units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vivit_core.analysis.video.showing import Showing
from vivit_core.data.rates import check_out, write_rates
from vivit_core.data.transforms import Transform
from vivit_core.data.video.behavior import read_behavior, sources_of
from vivit_core.data.video.files import open_video
from vivit_core.data.video.match import Match
from vivit_core.models.predictor import Predictor
from vivit_core.names import file_name
from vivit_core.plotting.film import RatesBeside, check_film
from vivit_core.system.terminal import track

SHOWN_UNITS = 8  # beside the stimulus: those whose rates change most
MOST_KEPT = 20_000  # bins of frames and rates that are held in memory for pictures

Piece = Mapping[str, np.ndarray]
"""Of what is predicted of a few bins."""


def predict_video(
    model: Predictor,
    video: Path,
    out: Path,
    *,
    recordings: Sequence[str] | None,
    behavior: Path | None,
    transforms: Mapping[str, Transform],
    frame_rate_hz: float | None,
    degrees_per_pixel: float | Literal["fill"] | None,
    pixel_scale: float,
    pixel_offset: float,
    film: Path | None,
    film_s: float,
    pictures: Path,
    about: Mapping[str, Any],
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Predict the rates of a video's bins, and write them.

    Parameters
    ----------
    model : that can be streamed.
    video, out : the video, and the file of rates (:mod:`vivit_core.data.rates`).
    recordings : ids of those whose units are predicted; None for all.
    behavior : csv or npz file; None: what is stored beside a recording's frames. What is not there is at its mean.
    transforms : with which the model was trained.
    frame_rate_hz, degrees_per_pixel, pixel_scale, pixel_offset : of the video, as
        :class:`vivit_core.data.video.match.Match` takes them.
    film : where a film of the first recording's frames with rates beside is to be written; None: none.
    film_s : how much of the video the film and the pictures show, s.
    pictures : folder for a picture of each recording.
    about : what the file of rates is to say beside how the video was matched; plain values.
    device, progress : where to compute, and whether to show a bar.

    Returns
    -------
    dict
        ``files`` written, and for each of ``recordings`` its units, bins, mean rate, and ``how`` the video was matched.

    Raises
    ------
    ValueError
        Where the video or the behavior cannot be read or does not fit, or the model cannot be streamed.
    OSError
        Where the disk is full.
    """
    check_out(out)
    if film is not None:
        check_film(film)
        if film.exists():  # it may be the video that is to be shown
            raise ValueError(f"film={film}: stands there already; name a new file")
    source = open_video(video)
    shown = dict[str, Showing]()
    for name in model.specs if recordings is None else dict.fromkeys(recordings):
        match = Match(
            source,
            model.spec(name),
            frame_rate_hz=frame_rate_hz,
            degrees_per_pixel=degrees_per_pixel,
            pixel_scale=pixel_scale,
            pixel_offset=pixel_offset,
            transforms=transforms,
        )
        given = None if behavior is None else read_behavior(behavior, sources_of(match.spec, transforms))
        kept = min(MOST_KEPT, max(2, round(film_s * match.spec.frame_rate_hz)))
        shown[name] = Showing(model, match, transforms, given, behavior or video, kept)
    model.to(device).eval()
    # Without its name until the rates are whole, so that the same command may be given again after whatever happens.
    waiting = None if film is None else film.with_name(f".{film.stem}.waiting{film.suffix}")

    def draw(name: str, own: Showing) -> None:
        beside = rates_beside(own, f"{video.name}, and units of {name}")
        beside.at(beside.frames_CTHW.shape[1] // 2)
        beside.save(pictures / f"prediction_{file_name(name)}.png")
        if waiting is not None and name == next(iter(shown)):
            beside.film(waiting)

    def drawn(name: str, own: Showing, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Pictures and film as soon as what they show is there: one that fails does so before hours of video."""
        waits = True
        for piece in pieces:
            if waits and own.full:
                draw(name, own)
                waits = False
            yield piece
        if waits:
            draw(name, own)

    parts = []
    for name, own in shown.items():
        rates = own.predicted()
        pieces = iter(track(rates.pieces, f"predict {name}", disable=not progress))
        parts.append(replace(rates, pieces=drawn(name, own, pieces)))

    def told() -> dict[str, Any]:
        return {**about, "video": str(video), "recordings": {name: own.summary() for name, own in shown.items()}}

    try:
        files = write_rates(out, parts, told)
        if film is not None and waiting is not None:
            waiting.replace(film)
    finally:
        if waiting is not None:
            waiting.unlink(missing_ok=True)
    return told() | {"files": [str(file) for file in files], "film": None if film is None else str(film)}


def rates_beside(shown: Showing, title: str) -> RatesBeside:
    """The first bins of a recording's frames, with the rates of the units that change most."""
    rates_TU, spec = np.concatenate(shown.rates), shown.match.spec
    most = np.sort(np.argsort(-rates_TU.std(0), kind="stable")[:SHOWN_UNITS])
    frames_CTHW = np.concatenate(shown.frames, axis=1)
    return RatesBeside(frames_CTHW, rates_TU[:, most], [spec.unit_ids[u] for u in most], spec.frame_rate_hz, title)
