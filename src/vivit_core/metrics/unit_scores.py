"""All scores of single trials, for each unit, from sums in float64 that are exact across ranks.

Shape letters: N bins of any number of clips, U units, S sums.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.metrics.base import Totals, UnitMetric
from vivit_core.metrics.bits_per_spike import BitsPerSpike
from vivit_core.metrics.correlation import Correlation
from vivit_core.parts.groups import consented

METRICS: tuple[UnitMetric, ...] = (BitsPerSpike(), Correlation())
"""All that this project ships, in the order of tables. Bits per spike come first: a validation has them of each
recording too, an evaluation the oracle's, and a comparison each unit's interval."""

PIECE = 32768  # bins summed at once
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
TAKEN = frozenset(
    {
        *("recording", "unit", "context", "bins", "spikes", "mean_rate_hz", "knowable_fraction"),
        *("contextual_fraction", "repeated_bins", "corr_to_average", "explainable_variance", "signal_to_error"),
        *("normalized_corr", "readout_x_px", "readout_y_px", "border_px", "center_error_px"),
    }
)
"""Columns of ``units.csv`` that are no metric's."""

BINS = 0  # of the sums
DATA = slice(0, 3)  # of the sums, those that depend on the data alone: bins, counts and their squares


class Scatter(Protocol):
    """What a score needs of a likelihood: see :class:`vivit_core.models.likelihoods.base.Likelihood`."""

    mean_counts: tuple[float, ...]

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]: ...

    def summed_nats(self, sums: np.ndarray) -> np.ndarray: ...

    def null_nats(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray: ...

    def events(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray: ...

    def distribution(self, rate: np.ndarray) -> Any: ...

    def probabilities(self, rate: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None: ...

    @property
    def made_for(self) -> tuple[str, ...]: ...


def all_metrics() -> tuple[UnitMetric, ...]:
    """Ours, and those of the packages that the user consented to: ``METRICS`` of ``PACKAGE.metrics``, where there is
    one.

    Raises
    ------
    ValueError
        Where that holds something else than metrics, or a name is taken.
    """
    found = list(METRICS)
    for package in consented():
        if find_spec(f"{package}.metrics") is None:
            continue
        for metric in getattr(import_module(f"{package}.metrics"), "METRICS", ()):
            said = f"METRICS of {package}.metrics"
            if not isinstance(metric, UnitMetric):
                raise ValueError(f"{said} holds {metric!r}; it is a tuple of UnitMetric objects, as in (Mine(),)")
            name = metric.name
            if not NAME.fullmatch(name):
                raise ValueError(f"{said}: a metric's name is small letters, digits and _, and not {name!r}")
            # Columns are also put together, such as ln_bps and shuffled_bps.
            words = {"bps", "ln"}.intersection(name.split("_"))
            if words or name in TAKEN or name in [other.name for other in found]:
                raise ValueError(f"{said}: the name {name!r} is taken (or a part of it is); give the metric another")
            found.append(metric)
    return tuple(found)


class UnitScores(NamedTuple):
    """One number a unit, (…, U) float64; NaN where a score is not defined."""

    by_name: Mapping[str, np.ndarray]  # each metric's
    loss: np.ndarray  # mean nats a bin; NaN without a bin
    spikes: np.ndarray  # on the evaluated bins
    events: np.ndarray  # by what bits per spike are counted: the spikes, unless the likelihood says otherwise
    bins: np.ndarray  # evaluated bins

    @property
    def broken(self) -> int:
        """Units with a prediction that is NaN or infinite: the model's fault, and no silent unit."""
        return int(((self.bins > 0) & ~np.isfinite(self.loss)).sum())

    @property
    def fired(self) -> np.ndarray:
        """(…, U) bool, which units have a spike and an event on the evaluated bins: those with bits per spike."""
        return (self.spikes > 0) & (self.events > 0)

    @property
    def silent(self) -> int:
        """Units without a spike, or without an event, on the evaluated bins."""
        return int((~self.fired).sum())


class Scorer:
    """All metrics of some units, under one likelihood.

    Parameters
    ----------
    likelihood : of these units; it is not copied, and its parameters of the time count.
    metrics : of which to tell the scores; all where it is not said.
    """

    def __init__(self, likelihood: Scatter, metrics: Sequence[UnitMetric] | None = None) -> None:
        self.likelihood = likelihood
        self.metrics = all_metrics() if metrics is None else tuple(metrics)
        device = next((p.device for p in likelihood.parameters()), torch.device("cpu"))
        nothing = torch.zeros(0, len(likelihood.mean_counts), dtype=torch.float64, device=device)
        with torch.no_grad():
            lengths = [len(terms) for terms in self._terms(nothing, nothing)]
        edges = np.cumsum([DATA.stop, *lengths]).tolist()
        self._rows = [slice(*ends) for ends in itertools.pairwise(edges)]
        self.n_sums: int = edges[-1]

    def scores_of(self, predicted: np.ndarray, counts: np.ndarray, mask: np.ndarray) -> UnitScores:
        """The scores of one recording's units.

        Parameters
        ----------
        predicted, counts, mask : expected and measured counts and the pairs that count, each (..., U).
        """
        flat = [np.reshape(x, (-1, x.shape[-1])) for x in (predicted, counts, mask)]
        sums = np.zeros((self.n_sums, predicted.shape[-1]))
        for first in range(0, len(flat[0]), PIECE):  # so that the float64 copies are of a piece alone
            sums += self.sums(*(torch.as_tensor(x[first : first + PIECE]) for x in flat)).numpy()
        return self.scores(sums)

    def _terms(self, rate: Tensor, counts: Tensor) -> list[Sequence[Tensor]]:
        """The likelihood's terms, and each metric's."""
        return [self.likelihood.terms(rate, counts), *(metric.terms(rate, counts) for metric in self.metrics)]

    @torch.no_grad()
    def sums(self, predicted: Tensor, counts: Tensor, mask: Tensor) -> Tensor:
        """Sums over the bins that count, (S, U) float64: ``DATA``, then the likelihood's terms, then each metric's."""
        units = predicted.shape[-1]
        mask = mask.reshape(-1, units)
        # What is not counted may be anything, NaN too.
        rate = torch.where(mask, predicted.reshape(-1, units).double(), 1.0)
        n = torch.where(mask, counts.reshape(-1, units).double(), 0.0)
        own = [torch.where(mask, term, 0.0) for terms in self._terms(rate, n) for term in terms]
        return torch.stack([x.sum(0) for x in (mask.double(), n, n.square(), *own)])

    def scores(self, sums: np.ndarray) -> UnitScores:
        """Scores from ``sums``, (S, …, U)."""
        bins, counts, squares = sums[DATA]
        likely, *own = (sums[rows] for rows in self._rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            nats = self.likelihood.summed_nats(likely)
            null, events = (f(bins, counts, likely) for f in (self.likelihood.null_nats, self.likelihood.events))
            totals = Totals(bins, counts, squares, nats, null, events)
            found = {metric.name: metric.score(totals, x) for metric, x in zip(self.metrics, own, strict=True)}
            return UnitScores(found, nats / bins, counts, events, bins)
