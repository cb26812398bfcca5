"""Eye trackers that are wrong cost bits per spike, and shifters win them back: small simulated recordings, whose true
shift is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brief_training import BRIEF, SMALL, rewritten, trained
from shipped import settings_in, simulator

from vivit_core import load_twin
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate.eye_tracker import EyeTracker
from vivit_core.rf.stretches import moved

WRONG = EyeTracker(**settings_in("data/simulator/eye_tracker/default"))


def shifted_by(folder: Path, path: Path, shifter: str) -> dict[str, Any]:
    """The summary of a twin with this shifter; beside it ``error_px`` and ``wrong_px``: how far the windows are from
    the truth on test trials, as a root of the mean square along an axis, and how far they would be unshifted."""
    summary = trained(folder, path, *BRIEF, f"model/shifter={shifter}")
    recording, twin = Recording(path), load_twin(folder / "run/checkpoints/best.ckpt")
    test = recording.info.trials.of("test")
    behaviors = twin.specs["sim0"].behavior
    true, found = (
        np.concatenate([one(a, b) for a, b in zip(test.start, test.stop, strict=True)])
        for one in (
            lambda a, b: recording.truth("shift_px", a, b),
            lambda a, b: twin.shift_px("sim0", recording.behavior(a, b, behaviors)),
        )
    )
    # A constant is the readouts' to find: all windows lie elsewhere by it.
    summary["error_px"] = float(np.sqrt((true - found).var(0).mean()))
    summary["wrong_px"] = float(np.sqrt(true.var(0).mean()))
    return summary


def known(path: Path, to: Path) -> Path:
    """The recording as it would be had its eye tracker been right but for a constant and the drift: what a shifter can
    know is taken back from the file. What lies beyond the border of a frame stays unknown."""
    recording = Recording(path)
    bins = int(recording.info.trials.stop[-1])
    true, position = recording.truth("shift_px", 0, bins), recording.behavior(0, bins, {"eye_position": 2})
    position = position - position.mean(0)
    slope, *_ = np.linalg.lstsq(position, true - true.mean(0), rcond=None)
    truth = {"rate": recording.truth("rate", 0, bins), "shift_px": true}
    return rewritten(path, to, frames=moved(recording.frames(0, bins)[0], position @ slope), truth=truth)


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The recording; what a twin scores on it that knows the shift from the start, and one without a shifter.

    Where windows look beyond the frame's border, nobody knows what was there: so the truth's own frames are no bound.
    """
    folder = tmp_path_factory.mktemp("shifters")
    (path,) = simulator(**SMALL, eye_tracker=WRONG).make(folder / "wrong")
    bound = shifted_by(folder / "bound", known(path, folder / "sim0.h5"), "none")
    return path, bound, shifted_by(folder / "lost", path, "none")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shifter", ["affine", "gaze"])
def test_a_shifter_recovers_the_shift_and_the_bits_that_can_be_recovered(
    shifter: str, limits: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    path, bound, lost = limits
    found = shifted_by(tmp_path / "found", path, shifter)
    gap, won = (each["knowable_fraction"] - lost["knowable_fraction"] for each in (bound, found))
    told = f"{shifter}: {found['error_px']:.2f} of {lost['wrong_px']:.2f} px are left, {won:.3f} of {gap:.3f} won back"
    told += f"; bits per spike {found['bps_mean']:.3f} of {lost['bps_mean']:.3f} to {bound['bps_mean']:.3f}"
    print(told)
    assert lost["wrong_px"] > 3, told
    assert found["error_px"] < 0.7, told
    assert gap > 0.15, told
    assert won > 0.8 * gap, told
