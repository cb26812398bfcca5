"""The best weights of past counts, beside a twin whose prediction without them stands.

What past counts tell depends on what the rest of the twin does not know. So when readouts have had their last fit
(``readout_fit``), the weights that a training found for past counts are too large. Here they are a regression of some
numbers for each unit, with the rate that the twin predicts without past counts held.

Shape letters: B clips (one at a time), T bins of a clip that count, P the same and some before them, N all bins that
count, U units, W weights of a unit, K the same and a bias, which stays.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vivit_core.models.histories.base import History, bounded
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.readouts.base import Drive
from vivit_core.training.predicted_clips import Clip
from vivit_core.training.regression import Fit, Seen, best_of, fitted, in_groups


class GainFit(Fit):
    """The regression of what multiplies rates of some units.

    Parameters
    ----------
    held : what drives the units else, (N, U).
    likelihood, seen, units, weights_UK : of :class:`Fit`; there is no drive, and the bias stays as it is.
    """

    def __init__(self, held: Drive, likelihood: Likelihood, seen: Seen, units: slice, weights_UK: Tensor) -> None:
        super().__init__(likelihood, seen, units, weights_UK)
        self.held = held

    def rate(self, drive_NU: Tensor, log_gain_NU: Tensor | None = None) -> Tensor:
        assert log_gain_NU is not None
        return self.likelihood.rate(*self.held.with_gain(bounded(log_gain_NU)))


@torch.no_grad()
def fit_history(history: History, likelihood: Likelihood, clips: Sequence[Clip]) -> int:
    """Give past counts the weights that predict clips best.

    Where what is weighed is learned too (``History.find``), it is looked for, and taken where it predicts the clips
    that decide better than what the training found.

    Parameters
    ----------
    history, likelihood : of a recording's units; only the history changes.
    clips : of these units.

    Returns
    -------
    How many units took over other weights than they had.
    """
    took = fit_weights(history, likelihood, clips)
    before, nats = copy.deepcopy(history.state_dict()), deciding_nats(history, likelihood, clips)
    if history.find([left_over(history, likelihood, clip) for clip in clips if not clip.decides]):
        history.take(torch.zeros_like(history.weights()))
        found = fit_weights(history, likelihood, clips)
        if deciding_nats(history, likelihood, clips) < nats:
            return found
        history.load_state_dict(before)
    return took


def fit_weights(history: History, likelihood: Likelihood, clips: Sequence[Clip]) -> int:
    """How many units took over weights that were fitted, with such parts of the units observed as in training."""
    seen: list[Tensor] = []
    for clip in clips:
        known_BPU = clip.valid[None] & history.part(1).to(clip.valid.device)[:, None]
        x_BPUW = history.looked(*history.before(clip.counts[None], known_BPU))
        seen.append(x_BPUW[0, clip.first :].transpose(0, 1))
    x_UNW = torch.cat(seen, dim=1)
    del seen
    counts_NU, valid_NU = (torch.cat([clip.scored()[part] for clip in clips]) for part in (0, 1))
    held_N = torch.cat([clip.valid.new_full((len(clip.drive.value),), clip.decides) for clip in clips])
    gains = [clip.drive.log_gain for clip in clips if clip.drive.log_gain is not None]
    drive = Drive(torch.cat([clip.drive.value for clip in clips]), torch.cat(gains) if gains else None)
    all_seen = Seen(x_UNW, counts_NU, valid_NU, held_N, 0, 0)
    begun_UK = F.pad(history.weights(), (0, 1))

    def fit(some: slice) -> Fit:
        own = likelihood.of_units(range(some.start, some.stop))
        return GainFit(drive.each(lambda x_NU: x_NU[:, some]), own, all_seen, some, begun_UK[some])

    groups = in_groups(slice(0, len(begun_UK)), x_UNW[0].numel(), x_UNW.device)
    better_UK, took_U = best_of([fitted(fit, all_seen, groups)], begun_UK)
    history.take(better_UK[:, :-1])
    return int(took_U.sum())


@torch.no_grad()
def deciding_nats(history: History, likelihood: Likelihood, clips: Sequence[Clip]) -> float:
    """Of the clips that decide, where all past counts are known; infinite where a rate is none."""
    total = 0.0
    for clip in clips:
        if clip.decides:
            log_gain_TU = history(clip.counts[None], clip.valid[None])[0, clip.first :]
            rate_TU, (counts_TU, valid_TU) = likelihood.rate(*clip.drive.with_gain(log_gain_TU)), clip.scored()
            own_TU = likelihood.nats(rate_TU, torch.where(valid_TU, counts_TU, 0.0))
            total += float(torch.where(valid_TU, own_TU, 0.0).sum(dtype=torch.float64))
    return total if math.isfinite(total) else math.inf


def left_over(history: History, likelihood: Likelihood, clip: Clip) -> tuple[Tensor, Tensor]:
    """Of a clip's bins that count, counts less what is predicted without their past, in Poisson's deviation, (T, U);
    and their past, the same and the lags before."""
    rate_TU, (counts_TU, valid_TU) = likelihood.rate(*clip.drive), clip.scored()
    rest_TU = torch.where(valid_TU, (counts_TU - rate_TU) / rate_TU.sqrt(), 0.0)
    past_BPU, _ = history.before(clip.counts[None], clip.valid[None])
    return rest_TU, past_BPU[0, clip.first :]
