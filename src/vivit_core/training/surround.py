"""The fit of LN with a surround: LN first, then its gain and point nonlinearity together.

Shape letters: N bins, U units, K weights of a unit (the bias last), R rings, G time constants, B clips (one at a time),
C channels, T bins of one, H W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.reader import Recording
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.ln import LN
from vivit_core.models.ln_surround import SurroundLN, SurroundReadout
from vivit_core.parts.build import build
from vivit_core.parts.groups import class_of
from vivit_core.rf.stretches import stretches
from vivit_core.specs import RecordingSpec
from vivit_core.system.kept import user_kept
from vivit_core.training.baseline import MOST_FRAMES, check_baseline, check_filters, fit_baseline, fit_ln
from vivit_core.training.regression import EVERY_NTH, Fit, Seen, best_of, fitted, in_groups

log = logging.getLogger(__name__)

OF_LN = ("duration_s", "patch", "nonlinearity", "predict")
MEMORY = 2**27  # features that all units together see in all bins; where it would be more, fewer bins are used


def fit_alone(datamodule: RecordingsDataModule, node: Mapping[str, Any]) -> LN:
    """Fit a model that no steps train, ``model=ln`` or ``model=ln_surround``."""
    if class_of("model", node["_target_"]) is not SurroundLN:
        return fit_baseline(datamodule, node)
    return fit_surround_ln(datamodule, made(node, datamodule.specs))


def check_alone(node: Mapping[str, Any], specs: Sequence[RecordingSpec], longest: Mapping[str, int]) -> None:
    """Refuse one that could not be fitted to recordings; see ``training.baseline.check_baseline``."""
    if class_of("model", node["_target_"]) is not SurroundLN:
        check_baseline(node, specs, longest)
    else:
        check_filters(lambda: made(node, specs), longest)


def made(node: Mapping[str, Any], specs: Sequence[RecordingSpec]) -> SurroundLN:
    """The model of a node, not fitted."""
    model = build("model", node, recordings=specs)
    assert isinstance(model, SurroundLN)
    return model


def fit_surround_ln(datamodule: RecordingsDataModule, model: SurroundLN) -> SurroundLN:
    """Fit LN (``fit_ln``), then the weights of the surround, together with the point nonlinearity.

    It is a regression of counts on LN's drive, its square, and the logarithms of the rings' energies, on training
    trials (``training.regression``). Validation trials choose how strongly weights are held, and which units take their
    new ones; of a recording without, one training trial in ``EVERY_NTH``. A unit that does not gain stays as LN has
    it. Deterministic.

    Parameters
    ----------
    datamodule : set up.
    model : to be fitted, of the same recordings.

    Returns
    -------
    The model.
    """
    of_ln = {key: value for key, value in model.description().items() if key in OF_LN}
    ln = fit_ln(datamodule, **of_ln, kept=user_kept("ln"))
    for recording in datamodule.recordings:
        name = recording.info.recording_id
        readout = model.readout(name)
        readout.load_state_dict(ln.readout(name).state_dict(), strict=False)
        took = fit_surround(readout, model.likelihood(name), recording)
        log.info("%s: %d of %d units took a surround", name, took, readout.spec.n_units)
    return model.eval()


@torch.no_grad()
def fit_surround(readout: SurroundReadout, likelihood: Likelihood, recording: Recording) -> int:
    """Fit the surrounds of a recording's units into ``readout``, which holds LN's fit; how many units took one."""
    lags, units = readout.time_UL.shape[1], readout.spec.n_units
    numbers = 2 + readout.gain_UK.shape[1]
    frames = min(MOST_FRAMES, MEMORY // (units * numbers))
    fit_to = stretches(recording, "train", lags, frames)
    choosing = stretches(recording, "val", lags, frames)
    if not choosing:
        choosing = fit_to[EVERY_NTH - 1 :: EVERY_NTH]
        del fit_to[EVERY_NTH - 1 :: EVERY_NTH]
    if not fit_to or not choosing:
        return 0
    seen = look(readout, recording, fit_to, choosing)
    begun_UK = torch.cat(
        [torch.stack([readout.linear_U, readout.quadratic_U], 1), readout.gain_UK, readout.bias_U[:, None]], dim=1
    )

    def fit(few: slice) -> Fit:
        return Fit(likelihood.of_units(range(few.start, few.stop)), seen, few, begun_UK[few])

    groups = in_groups(slice(0, units), len(seen.held_N) * numbers, begun_UK.device)
    better_UK, took_U = best_of([fitted(fit, seen, groups)], begun_UK)
    readout.linear_U.copy_(better_UK[:, 0])
    readout.quadratic_U.copy_(better_UK[:, 1])
    readout.gain_UK.copy_(better_UK[:, 2:-1])
    readout.bias_U.copy_(better_UK[:, -1])
    return int(took_U.sum())


def look(
    readout: SurroundReadout,
    recording: Recording,
    fit_to: Sequence[tuple[int, int]],
    choosing: Sequence[tuple[int, int]],
) -> Seen:
    """What units see and do in stretches of trials, and in those that choose; ``readout`` learns what is usual in the
    former. A stretch's first bins, whose past is not complete, do not count."""
    drives, faded, counts, valid = [], [], [], []
    for start, stop in (*fit_to, *choosing):
        frames_BCTHW = torch.as_tensor(recording.frames(start, stop))[None]
        drive_NU = readout.filtered(frames_BCTHW)[0].clamp(readout.range_U2[:, 0], readout.range_U2[:, 1])
        drives.append(drive_NU)
        faded.append(readout.faded(frames_BCTHW)[0])
        counts.append(torch.as_tensor(recording.counts(start, stop)))
        own_NU = torch.as_tensor(recording.valid(start, stop)).clone()
        own_NU[: readout.time_UL.shape[1] - 1] = False
        valid.append(own_NU)
    bins = sum(stop - start for start, stop in fit_to)
    mean_UR = torch.cat(faded)[:bins].mean((0, 3))
    readout.usual_UR.copy_(torch.where(mean_UR > 1e-9, 1 / mean_UR, 0.0))
    drive_NU = torch.cat(drives)
    of_gain_NUK = torch.cat([readout.features(x_NURG) for x_NURG in faded])
    x_NUK = torch.cat([torch.stack([drive_NU, drive_NU.square()], dim=2), of_gain_NUK], dim=2)
    held_N = torch.arange(len(drive_NU)) >= bins
    return Seen(x_NUK.transpose(0, 1), torch.cat(counts), torch.cat(valid), held_N, of_core=0, drives=2)
