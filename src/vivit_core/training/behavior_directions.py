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
from vivit_core.specs import Clips
from vivit_core.training.own_filters import fitted_frames, spread

TINY = 1e-6  # of a response: where all is as expected
FRAMES = 16_000  # of a recording that are looked at, at most
LEAST_VARIANCE = 1e-2  # of a direction, in that of a behavior: what varies less is small differences of large numbers


@torch.no_grad()
def begin_behavior_gains(twin: Twin, recordings: Sequence[Recording]) -> None:
    """Let a twin's behavior gains begin with the directions that its recordings' training trials tell.

    Parameters
    ----------
    twin : changed in place; with own filters, what they predict is left out of the counts.
    recordings : of the twin.
    """
    parts = [] if twin.modulator is None else twin.modulator.modules()
    gains = [part for part in parts if isinstance(part, BehaviorGain) and part.directions is not None]
    if not gains:
        return
    slopes, covariances = zip(*(slopes_left_over(twin, recording) for recording in recordings), strict=True)
    found = directions(torch.cat(slopes), torch.stack(covariances).mean(0))
    for gain in gains:
        gain.initialize(found)


def directions(slope_VD: Tensor, covariance_DD: Tensor) -> Tensor:
    """Directions of variance one, those first that units' responses follow most surely.

    Parameters
    ----------
    slope_VD : of each unit's response along each behavior, in the standard deviation that chance gives it.
    covariance_DD : of behavior.
    """
    variance_D, basis_DD = torch.linalg.eigh(covariance_DD.double())
    tells_D = variance_D > LEAST_VARIANCE
    white_DD = basis_DD[:, tells_D] * variance_D[tells_D].rsqrt()
    _, _, found = torch.linalg.svd(slope_VD.double() @ white_DD, full_matrices=False)
    return (found @ white_DD.T).float()


def slopes_left_over(twin: Twin, recording: Recording) -> tuple[Tensor, Tensor]:
    """What behavior tells of responses beside own filters: slopes (U, D), and the covariance of behavior (D, D)."""
    name, device = recording.info.recording_id, next(twin.parameters()).device
    spec, own, likelihood = twin.specs[name], twin.own_filter(name), twin.likelihood(name)
    slope_UD = torch.zeros(spec.n_units, spec.behavior_dim, device=device)
    square_U, covariance_DD = slope_UD.new_zeros(spec.n_units), slope_UD.new_zeros([spec.behavior_dim] * 2)
    pieces = spread(recording, FRAMES if own is None else min(FRAMES, fitted_frames(own)))
    for start, stop in pieces:
        behavior_TD, counts_TU, valid_TU = (
            torch.as_tensor(x, device=device)
            for x in (
                recording.behavior(start, stop, spec.behavior),
                recording.counts(start, stop),
                recording.valid(start, stop),
            )
        )
        drive_TU = twin.readout(name).bias.expand(counts_TU.shape)
        if own is not None:
            frames = torch.as_tensor(recording.frames(start, stop), device=device)[None]
            clips: Clips = {"frames": frames, "behavior": behavior_TD[None]}
            drive_TU = drive_TU + own(twin.seen(name, clips)).value[0]
        behavior_TD = twin.normalized_behavior(name, behavior_TD)
        rest_TU = torch.where(valid_TU, counts_TU - likelihood.rate(drive_TU), 0.0)
        slope_UD += rest_TU.T @ behavior_TD
        square_U += rest_TU.square().sum(0)
        covariance_DD += behavior_TD.T @ behavior_TD
    bins = sum(stop - start for start, stop in pieces)
    # In what is left over, not in what is expected: responses of any size and scatter count alike.
    return slope_UD / square_U.sqrt().clamp_min(TINY)[:, None], covariance_DD / max(1, bins)
