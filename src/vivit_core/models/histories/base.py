"""What every history keeps: from units' past counts to gains of their rates.

Shape letters: B clips, T bins, U units, K functions of the basis, W weights of a unit, L lags, P = T - 1 + L bins
before any of T, N traces.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.likelihoods.base import LEAST_COUNTS, Likelihood
from vivit_core.models.readouts.base import Drive

Observed = Literal["own", "population"]
Feedback = Literal["none", "expected", "samples"]

MOST = 3.0  # of a gain's logarithm: bounded, so that a twin that is fed its own samples cannot run away
FLOOR = 1e-4  # standard deviation of counts, at least


class History(nn.Module, ABC):
    """Past counts of one recording's units in, the logarithm of what multiplies each unit's rate out.

    A twin has one for each recording. It is a gain, and not a part of the drive, because a unit that has just fired
    cannot fire whatever the stimulus (it is refractory), and because in the models of Pillow et al. (2008) history and
    stimulus are added up in the exponent. The gain of bin t knows counts of the ``lags`` bins before t, and none of t.

    What is not known counts as the mean, which gives no gain: bins before a clip, invalid bins, units that are not
    observed. In training, clips are shown with and without past counts (``shown``), so that one twin predicts with and
    without them.

    What a subclass has to do
    -------------------------
    - take ``mean_counts`` in its constructor, given by the twin, and hand it on with ``bases``, ``lags`` and ``shown``;
      all other arguments are its YAML's keys;
    - set ``observed``, and say ``looked``, ``weights`` and ``take``;
    - say ``part``, where it is to be trained with some of the units observed, and ``find``, where more than weights is
      learned.

    What the contract tests check (``vivit_core.testing.check_history``)
    -------------------------------------------------------------------
    No count of a bin changes the prediction of this bin or an earlier one, and some later ones are changed; a gradient
    for every parameter; a stream that is told counts equals the clip, and so does one that is fed its own; the round
    trip through a checkpoint.

    Parameters
    ----------
    mean_counts : (U,) mean counts a bin of each unit in training, given by the twin.
    bases : raised cosines.
    lags : bins that they look back over.
    shown : share of the training clips in which past counts are seen.

    Attributes
    ----------
    observed : whose counts a unit's rate follows: its own, or those of all units of the recording.

    References
    ----------
    Pillow et al. (2008), Nature 454:995.
    """

    observed: ClassVar[Observed]
    basis_KL: Tensor
    mean_U: Tensor
    std_U: Tensor

    def __init__(self, mean_counts: Sequence[float], bases: int, lags: int, shown: float) -> None:
        super().__init__()
        if not 1 <= bases <= lags:
            raise ValueError(
                f"model.history.bases={bases}, lags={lags}: give at least one function, and at least as many lags"
            )
        if bases > (most := most_bases(lags)):
            raise ValueError(
                f"model.history.bases={bases}, lags={lags}: some of these functions would lie between two lags and see "
                f"none; give at most {most} for these lags"
            )
        if not 0 < shown <= 1:
            raise ValueError(f"model.history.shown={shown} is a share of the training clips, above 0 and up to 1")
        self.lags, self.shown = lags, shown
        mean_U = torch.tensor(tuple(mean_counts))
        self.register_buffer("basis_KL", past_cosines(bases, lags))
        self.register_buffer("mean_U", mean_U)
        self.register_buffer("std_U", mean_U.clamp_min(LEAST_COUNTS).sqrt())

    @abstractmethod
    def looked(self, past_BPU: Tensor, known_BPU: Tensor) -> Tensor:
        """What each unit weighs of the past, for the T bins that follow each ``lags`` bins of it: (B, T, U, W).

        Parameters
        ----------
        past_BPU : counts less their mean, in their standard deviation; 0 where they are not known.
        known_BPU : where they are, 1 or 0.
        """

    @abstractmethod
    def weights(self) -> Tensor:
        """With which each unit weighs it, (U, W)."""

    @abstractmethod
    def take(self, weights_UW: Tensor) -> None:
        """Take over other weights."""

    def find(self, left_over: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Look for what is to be weighed, where that is learned too; the weights are fitted afterwards.

        Parameters
        ----------
        left_over : of clips, what counts are beside the prediction without them, in their deviation, (T, U), zero where
            they do not count; and the past of these bins, (P, U).

        Returns
        -------
        Whether anything else is weighed now.
        """
        return False

    def part(self, clips: int) -> Tensor:
        """(B, U) whose past counts are seen in training clips that show any: all units'."""
        return torch.ones(clips, len(self.mean_U), dtype=torch.bool)

    def drawn(self, clips: int) -> Tensor:
        """(B, U) whose past counts are seen in training clips: in a share of the clips none's."""
        return (torch.rand(clips, 1) < self.shown) & self.part(clips)

    def gain(self, past_BPU: Tensor, known_BPU: Tensor) -> Tensor:
        """(B, T, U) logarithm of the gain of the T bins, before it is bounded."""
        return (self.looked(past_BPU, known_BPU) * self.weights()).sum(-1)

    @torch.no_grad()
    def initialize(self, counts: Tensor, valid: Tensor) -> None:
        """Take counts in units of their standard deviation in training trials; counts and valid are (N, U)."""
        n_U = valid.sum(0).clamp_min(1)
        mean_U = torch.where(valid, counts, 0.0).sum(0) / n_U
        std_U = (torch.where(valid, counts - mean_U, 0.0).square().sum(0) / n_U).sqrt()
        self.std_U.copy_(torch.where(std_U > FLOOR, std_U, self.std_U))

    def forward(self, counts_BTU: Tensor, known_BTU: Tensor) -> Tensor:
        """(B, T, U) logarithm of the gain of each bin of clips, from which counts are known where."""
        return bounded(self.gain(*self.before(counts_BTU, known_BTU)))

    def before(self, counts_BTU: Tensor, known_BTU: Tensor) -> tuple[Tensor, Tensor]:
        """Of clips, what ``looked`` takes: the past of each bin, before the first of which nothing is known."""
        seen_BTU, known = self.seen(counts_BTU, known_BTU)
        past_BPU, before_BPU = (F.pad(x, (0, 0, self.lags, 0))[:, :-1] for x in (seen_BTU, known))
        return past_BPU, before_BPU

    def seen(self, counts: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """What ``gain`` takes: counts in their standard deviation, and where they are known as numbers."""
        scaled = (counts.float() - self.mean_U) / self.std_U
        return torch.where(known, scaled, 0.0), known.to(scaled.dtype)

    def share_known(self, known_BPU: Tensor) -> Tensor:
        """(B, T, U) of the lags before each bin, the share in which counts are known."""
        pooled = F.avg_pool1d(rearrange(known_BPU, "b p u -> b u p"), self.lags, stride=1)
        return rearrange(pooled, "b u t -> b t u")


class Past:
    """What a stream, or a prediction that goes on from its own rates, knows of the counts so far.

    Parameters
    ----------
    history, likelihood : of the recording.
    feedback : what stands in for counts that nobody observed: none (the mean), the expected counts, or samples.
    seed : of the samples.
    clips : that are predicted side by side.
    """

    def __init__(
        self, history: History, likelihood: Likelihood, feedback: Feedback, seed: Sequence[int], clips: int = 1
    ) -> None:
        self.history, self.likelihood, self.feedback = history, likelihood, feedback
        self.rng = np.random.default_rng(list(seed))
        self.past_BLU = history.mean_U.new_zeros(clips, history.lags, len(history.mean_U))
        self.known_BLU = torch.zeros_like(self.past_BLU)
        self.waiting: Tensor | None = None  # the last bin's rates, whose counts nobody has told yet
        self.empty = True  # no count is known so far, so that there is no gain

    def rate(self, drive: Drive) -> Tensor:
        """Expected counts (B, U) of the next bin."""
        if self.waiting is not None:
            self.observe(None)
        if not self.empty:
            log_gain = bounded(self.history.gain(self.past_BLU, self.known_BLU))[:, 0]
            drive = drive.with_gain(log_gain)
        rate = self.likelihood.rate(*drive)
        if self.feedback != "none" or not self.empty:
            self.waiting = rate
        return rate

    def observe(self, counts: Tensor | None) -> None:
        """Tell what was counted in the last bin, (B, U), NaN where nobody knows; None: nowhere."""
        rate, self.waiting = self.waiting, None
        if counts is None:
            counts = self.history.mean_U.new_full(self.past_BLU[:, 0].shape, math.nan)
        if rate is not None and self.feedback != "none":
            own = rate if self.feedback == "expected" else self.likelihood.sample(rate, self.rng)
            counts = torch.where(counts.isfinite(), counts, own)
        known = counts.isfinite()
        self.empty = self.empty and not bool(known.any())
        for name, new_BU in zip(("past_BLU", "known_BLU"), self.history.seen(counts, known), strict=True):
            setattr(self, name, torch.cat([getattr(self, name)[:, 1:], new_BU[:, None]], dim=1))


def bounded(log_gain: Tensor) -> Tensor:
    return MOST * torch.tanh(log_gain / MOST)


def past_cosines(bases: int, lags: int) -> Tensor:
    """(K, L) bumps that are the wider the farther back they lie, oldest lag first, of unit norm (Pillow et al. 2008).

    They are cosines over the logarithm of the lag, spaced by half their width, so that they add up to a constant. The
    first is at the newest lag. Torch makes them, so that they have no numbers where a model has none (fake tensors).
    """
    if bases == 1:
        return torch.full((1, lags), lags**-0.5)
    place_L = (torch.arange(1, lags + 1, dtype=torch.float64) + 0.5).log()
    newest, oldest = math.log(1.5), math.log(lags + 0.5)
    center_K1 = torch.linspace(newest, oldest, bases, dtype=torch.float64)[:, None]
    away_KL = (place_L - center_K1) / (2 * (oldest - newest) / (bases - 1))
    bump_KL = torch.where(away_KL.abs() < 1, 0.5 + 0.5 * (math.pi * away_KL).cos(), 0.0)
    return (bump_KL / bump_KL.norm(dim=1, keepdim=True)).flip(1).float()


def most_bases(lags: int) -> int:
    """As many raised cosines as see at least one lag each. The third one of more would lie between the two newest lags,
    which are the farthest apart, and is four spacings wide."""
    return min(lags, math.ceil(4 * math.log((lags + 0.5) / 1.5) / math.log(2.5 / 1.5)) if lags > 1 else 1)


def over_time(x_BPN: Tensor, kernel_NL: Tensor) -> Tensor:
    """(B, T, N): each of N traces weighed over the lags before each bin, by a kernel of its own, oldest lag first."""
    weighed = F.conv1d(rearrange(x_BPN, "b p n -> b n p"), kernel_NL[:, None], groups=len(kernel_NL))
    return rearrange(weighed, "b n t -> b t n").float()
