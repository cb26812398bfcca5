"""What every metric keeps: a number for each unit, from what adds up over bins.

Sums add up exactly over clips, batches, ranks and resampled pieces of a recording, so a metric is written once and
serves validations, evaluations and comparisons alike.

Shape letters: N bins of any number of clips, U units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor


class Totals(NamedTuple):
    """What every metric is given of the bins that count: sums over them, each (…, U) float64."""

    bins: np.ndarray  # how many
    counts: np.ndarray
    squares: np.ndarray  # of the counts
    nats: np.ndarray  # what the prediction costs under the likelihood
    null_nats: np.ndarray  # what the null model costs, each unit at its own mean on these very bins
    events: np.ndarray  # by what bits per spike are counted: the counts, unless the likelihood says otherwise


class UnitMetric(ABC):
    """A score of each unit's prediction.

    What a subclass has to do
    -------------------------
    - set the attributes below;
    - ``score``: the number of each unit, from sums;
    - ``terms``, where ``Totals`` are not enough: what else is added up.

    It takes no arguments. One line makes it known: in ``METRICS`` of ``vivit_core.metrics.unit_scores``, or for a
    package of yours in ``METRICS`` of ``mylab.metrics``. Then it has a column in ``units.csv`` and in each table, a
    mean and a median in ``summary.json``, a number of each validation that callbacks can monitor, and its place in
    comparisons.

    What the contract tests check (``vivit_core.testing.check_metric``)
    ------------------------------------------------------------------
    What does not count changes nothing; sums of parts are the sum of the whole; units do not know each other.

    Attributes
    ----------
    name : in columns and keys, such as ``bps`` of ``bps_mean`` and ``val/bps_mean``.
    title : in tables and pictures.
    method : a sentence or a few that define it, for the report.
    higher_is_better : whether a better prediction has a higher number.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    method: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        """What is added up over the bins that count, besides ``Totals``.

        Parameters
        ----------
        rate, counts : (N, U) float64, expected and measured counts a bin. Where a pair does not count, the rate is 1
            and the count 0, and what is returned there is not used.

        Returns
        -------
        Any number of (N, U).
        """
        return ()

    @abstractmethod
    def score(self, totals: Totals, sums: np.ndarray) -> np.ndarray:
        """The number of each unit.

        Parameters
        ----------
        totals : see :class:`Totals`.
        sums : of ``terms``, one after another, (terms, …, U) float64.

        Returns
        -------
        (…, U); NaN where it is not defined. Divisions by zero need no care: NumPy's warnings are off.
        """
