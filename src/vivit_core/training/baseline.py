"""The linear-nonlinear baseline: fitted once for the same recordings, trials and settings, and kept for later.

Shape letters: U units, L lags (oldest first), 2 = (x, y).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.reader import Recording
from vivit_core.models import frames, layers, solving
from vivit_core.models import ln as ln_model
from vivit_core.models.ln import LN, LNReadout, lags_of
from vivit_core.models.predictor import Predict
from vivit_core.parts.groups import class_of
from vivit_core.rf import blurring, movie, placing, stretches
from vivit_core.rf.placing import unit_centers
from vivit_core.rf.stretches import TrialStretches
from vivit_core.specs import RecordingSpec
from vivit_core.system.activity import spared
from vivit_core.system.kept import SWITCH, Arrays, Kept, digest, user_kept
from vivit_core.system.terminal import track
from vivit_core.system.threads import a_core_each
from vivit_core.training import ln_fitter
from vivit_core.training.ln_fitter import Fitter

log = logging.getLogger(__name__)


# That decides what a fit finds.
CODE = (sys.modules[__name__], ln_model, ln_fitter, blurring, movie, placing, stretches, solving, layers, frames)


MOST_FRAMES = 60_000  # of a recording's split that are used


HELD_OUT_SHARE = 0.1  # of the training frames, which choose the regularization where there are no validation trials


def fit_baseline(datamodule: RecordingsDataModule, node: Mapping[str, Any]) -> LN:
    """Fit the model of a node, ``model=ln`` or ``baseline``, as :func:`fit_ln` does; once for the same data.

    What was fitted is kept in the user's cache, a recording at a time (:mod:`vivit_core.system.kept`).

    Raises
    ------
    ValueError
        For a model that is not fitted in this way.
    """
    check_fitted_at_once(node)
    return fit_ln(datamodule, **{key: value for key, value in node.items() if key != "_target_"}, kept=user_kept("ln"))


def check_fitted_at_once(node: Mapping[str, Any]) -> None:
    """Refuse a node of a model that is not fitted in one go."""
    if class_of("baseline", node["_target_"]) is not LN:
        raise ValueError(f"{node['_target_']} is no model that is fitted in one go; say model@baseline=ln, or model=ln")


def check_baseline(node: Mapping[str, Any], specs: Sequence[RecordingSpec], longest: Mapping[str, int]) -> None:
    """Refuse a baseline that could not be fitted to recordings, of which nothing was read yet.

    Parameters
    ----------
    node : ``baseline``.
    specs : the recordings.
    longest : as of :func:`check_filters`.

    Raises
    ------
    ValueError
        Where it is not fitted in one go; and as :func:`check_filters`.
    """
    check_fitted_at_once(node)
    check_filters(lambda: LN(specs, node["duration_s"], node["patch"], node["nonlinearity"]), longest)


def check_filters(make: Callable[[], LN], longest: Mapping[str, int]) -> None:
    """Refuse a linear-nonlinear model that could not be fitted to recordings.

    Parameters
    ----------
    make : the model, which is made on tensors without values.
    longest : bins of its recordings' longest training trials, where they are known.

    Raises
    ------
    ValueError
        Where its settings make no model, or its filters are longer than the trials.
    """
    with FakeTensorMode():
        model = make()
    for spec in model.specs.values():
        if (lags := lags_of(model.duration_s, spec)) > longest.get(spec.recording_id, lags):
            raise ValueError(too_long(spec.recording_id, lags))


def too_long(recording_id: str, lags: int) -> str:
    return (
        f"recording {recording_id}: no training trial has a valid bin after the {lags} lags of the LN "
        "filters; shorten them (model=ln: model.duration_s, else baseline.duration_s), or leave the baseline "
        "out (baseline=null)"
    )


def fit_ln(
    datamodule: RecordingsDataModule,
    *,
    duration_s: float,
    patch: int,
    nonlinearity: Literal["exp", "softplus"],
    predict: Predict = "all",
    progress: bool = True,
    kept: Kept | None = None,
) -> LN:
    """Fit a linear-nonlinear model to each unit on training trials, its regularization chosen on validation trials.

    Of a recording without validation trials, the last tenth of its training frames chooses.
    A unit's window is placed by :func:`unit_centers`. Space and time filter take turns in Fisher scoring of the Poisson
    likelihood, with a Gaussian prior that favors smooth filters around the window's middle. First on a part of the
    frames: from the spike-triggered average and, where pixels do not place a unit, from the spike-triggered covariance
    too, of which the validation trials choose. Then on all frames, with a prior that is loosened as long as the
    validation trials gain. Deterministic.

    Parameters
    ----------
    datamodule : set up; its recordings have training and validation trials.
    duration_s, patch, nonlinearity, predict : of :class:`LN`.
    progress : show a bar.
    kept : where fits are kept and looked up; None: nowhere.

    Raises
    ------
    ValueError
        Where a recording has no training trial longer than the filters.
    """
    model = LN(datamodule.specs, duration_s, patch, nonlinearity, predict)
    found = 0
    for recording, spec in zip(datamodule.recordings, datamodule.specs, strict=True):
        readout, lags = model.readout(spec.recording_id), lags_of(duration_s, spec)
        train = TrialStretches.read(recording, "train", lags, MOST_FRAMES)
        if not train.use_TU.any():
            raise ValueError(too_long(spec.recording_id, lags))
        val = TrialStretches.read(recording, "val", lags, MOST_FRAMES)
        fit = partial(fit_recording, readout, recording, train, val, duration_s, progress)
        if kept is None:
            fit()
            continue
        arrays, old = kept.get(key_of(readout, train, val), arrays_of(readout), fit)
        readout.load_state_dict({name: torch.as_tensor(array) for name, array in arrays.items()})
        found += old
        if old:
            spared()
    if kept is not None:
        log.info(
            "LN: %s; kept in %s (delete it to clear it; %s=off does without)",
            f"{found} of {len(datamodule.specs)} recordings were fitted before" if found else "fitted",
            kept.folder,
            SWITCH,
        )
    return model.eval()


def fit_recording(
    readout: LNReadout,
    recording: Recording,
    train: TrialStretches,
    val: TrialStretches,
    duration_s: float,
    progress: bool,
) -> Arrays:
    """Fit a recording's units into ``readout``, and return its arrays."""
    spec = readout.spec
    centers_U2, courses_UL, _ = unit_centers(recording, spec, duration_s=duration_s, max_frames=MOST_FRAMES)
    if not val.use_TU.any():
        train, val = train.held_out(HELD_OUT_SHARE)
    fitter = Fitter(readout, train, val, centers_U2, courses_UL)
    with a_core_each() as pool:
        done = pool.map(fitter.fit, range(spec.n_units))
        for _ in track(done, f"LN {spec.recording_id}", spec.n_units, disable=not progress):
            pass
    return arrays_of(readout)


def arrays_of(readout: LNReadout) -> Arrays:
    """All that a fit finds."""
    return {name: value.detach().numpy() for name, value in readout.state_dict().items()}


def key_of(readout: LNReadout, train: TrialStretches, val: TrialStretches) -> str:
    """A hash of all that a recording's fit depends on: what it shows and what the units do in the trials that are
    used, the settings, and the code."""
    spec = readout.spec
    settings = {
        "lags": readout.time_UL.shape[1],
        "patch": readout.patch,
        "nonlinearity": readout.nonlinearity,
        "frame_rate_hz": spec.frame_rate_hz,
        "pixels": [spec.pixel_mean, spec.pixel_std],
        "mean_counts": list(spec.unit_mean_counts),
    }
    arrays = [array for data in (train, val) for array in (data.frames_THW, data.counts_TU, data.use_TU)]
    return digest(CODE, settings, arrays)
