"""What the scores of an evaluation mean, in a sentence: beside the linear model, and whether more training helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLOSE = 0.01  # bits per spike: models that are nearer to each other than this are equally good


def verdict(summary: Mapping[str, Any], improving: bool | None) -> str | None:
    """The twin beside the linear model (LN), recording by recording.

    Parameters
    ----------
    summary : of the evaluation.
    improving : whether the validation score still rose when the training ended; None where nobody knows.

    Returns
    -------
    A sentence; None where no LN stands beside the twin.
    """
    pairs = [(own["bps_mean"], own["ln_bps_mean"]) for own in summary["recordings"].values()]
    gains = [bps - ln for bps, ln in pairs if bps is not None and ln is not None]
    if not gains:
        return None
    below, above = sum(gain < -CLOSE for gain in gains), sum(gain > CLOSE for gain in gains)
    sides = [f"{word} the linear model{on(n, len(gains))}" for word, n in (("below", below), ("above", above)) if n]
    said = ", ".join(sides) or f"as good as the linear model{on(len(gains), len(gains))}"
    if improving:
        said += ", and still improving when the training ended: more time may help"
    elif improving is False and below:
        said += ", and no longer improving when the training ended: more time alone would not help"
    return f"{said[0].upper()}{said[1:]}."


def on(n: int, of: int) -> str:
    """The recordings that a side of the comparison has."""
    if of == 1:
        return ""
    return f" on all {of} recordings" if n == of else f" on {n} of {of} recordings"
