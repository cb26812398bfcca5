"""The directions in behavior that tell most of how units' rates change, for a gain to begin with.

A gain of behavior has a few numbers that all units share. A training of minutes does not find them: they are worth a
few hundredths of a bit, beside what the video tells. But what is left of each unit's counts beside its own filters'
prediction can be regressed on behavior, and the directions that many units share stand out from the chance of each.

Shape letters: T bins, U units of a recording, V units of all, D behavior numbers, G directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vivit_core.data.recording.reader import Recording
from vivit_core.models.modulators.behavior_gain import BehaviorGain
from vivit_core.models.twin import Twin
from vivit_core.training.own_filters import spread

FRAMES = 16_000  # of a recording that are looked at
LEAST_VARIANCE = 1e-3  # of a direction, in that of a behavior; one that varies less tells nothing


@torch.no_grad()
def begin_behavior_gains(twin: Twin, recordings: Sequence[Recording]) -> None:
    """Let a twin's behavior gains begin with the directions that its recordings' training trials tell.

    Parameters
    ----------
    twin : changed in place; with own filters, what they predict is left out of the counts.
    recordings : of the twin.
    """
    gains = (
        [] if twin.modulator is None else [part for part in twin.modulator.modules() if isinstance(part, BehaviorGain)]
    )
    gains = [gain for gain in gains if gain.directions is not None]
    if not gains:
        return
    told = [left_over(twin, recording) for recording in recordings]
    covariance_DD = torch.stack([covariance for _, covariance in told]).mean(0)
    directions_DD = directions(torch.cat([slope for slope, _ in told]), covariance_DD)
    for gain in gains:
        gain.initialize(directions_DD)


def directions(slope_VD: Tensor, covariance_DD: Tensor) -> Tensor:
    """Directions of variance one, those first that move units' rates most surely.

    Parameters
    ----------
    slope_VD : the derivative of each unit's log likelihood along each behavior, in its standard deviation where the
        unit's counts are chance.
    covariance_DD : of behavior.
    """
    variance_D, basis_DD = torch.linalg.eigh(covariance_DD.double())
    tells_D = variance_D > LEAST_VARIANCE
    white_DD = basis_DD[:, tells_D] * variance_D[tells_D].rsqrt()
    _, _, found = torch.linalg.svd(slope_VD.double() @ white_DD, full_matrices=False)
    return (found @ white_DD.T).float()


def left_over(twin: Twin, recording: Recording) -> tuple[Tensor, Tensor]:
    """What behavior tells of counts beside own filters: slopes (U, D), and the covariance of behavior (D, D)."""
    name, device = recording.info.recording_id, next(twin.parameters()).device
    spec, own, likelihood, bias_U = (
        twin.specs[name],
        twin.own_filter(name),
        twin.likelihood(name),
        twin.readout(name).bias,
    )
    slope_UD = torch.zeros(spec.n_units, spec.behavior_dim, device=device)
    square_DD, expected_U, bins = (
        torch.zeros(spec.behavior_dim, spec.behavior_dim, device=device),
        torch.zeros(spec.n_units, device=device),
        0,
    )
    for start, stop in spread(recording, FRAMES):
        read = (
            recording.behavior(start, stop, spec.behavior),
            recording.counts(start, stop),
            recording.valid(start, stop),
        )
        behavior, counts_TU, valid = (torch.as_tensor(x, device=device) for x in read)
        behavior_TD = twin.normalized_behavior(name, behavior)
        drive_TU = bias_U.expand(stop - start, -1)
        if own is not None:
            drive_TU = drive_TU + own(torch.as_tensor(recording.frames(start, stop), device=device)[None]).value[0]
        rate_TU = torch.where(valid.expand(counts_TU.shape), likelihood.rate(drive_TU), 0.0)
        counts_TU = torch.where(valid.expand(counts_TU.shape), counts_TU, 0.0)
        slope_UD += (counts_TU - rate_TU).T @ behavior_TD
        expected_U += rate_TU.sum(0)
        square_DD += behavior_TD.T @ behavior_TD
        bins += len(behavior_TD)
    return slope_UD / expected_U.clamp_min(1.0).sqrt()[:, None], square_DD / max(1, bins)
