"""Shifters start from data, and all else that starts from data sees shifted frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import wrong_tracker
from tiny_models import LIKELIHOOD, READOUT, SHIFTERS, vivit

from vivit_core.data.recording.reader import Recording
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips, RecordingSpec
from vivit_core.training.initialize import contrast, initialize_from_data

WRONG = np.array([[0.5, 3.0], [-2.5, 1.0]])  # px to the right and down, for x and y of eye position


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, RecordingSpec]:
    return wrong_tracker.made(tmp_path_factory.mktemp("shifted") / "a.h5", WRONG)


@pytest.mark.slow
@pytest.mark.parametrize("shifter", SHIFTERS.values(), ids=SHIFTERS)
@pytest.mark.parametrize("trained", [(), ("core", "modulator")], ids=["new", "trained"])
def test_windows_shift_as_the_data_show_and_readouts_start_at_the_fields(
    shifter: dict[str, Any], trained: tuple[str, ...], made: tuple[Recording, RecordingSpec]
) -> None:
    recording, spec = made
    twin = Twin(vivit(modulator=None, shifter=shifter), READOUT, LIKELIHOOD, [spec])
    initialize_from_data(twin, [recording], ln=None, trained=trained)
    apart = np.array([[0.0, *wrong_tracker.MEAN + step] for step in np.eye(2)], np.float32)
    np.testing.assert_allclose(twin.shift_px("a", apart), WRONG, atol=0.5)
    np.testing.assert_allclose(twin.gaussians_px("a")["mean_px"], wrong_tracker.CENTERS, atol=0.7)


def test_what_sets_the_scales_is_shifted_as_behavior_says(made: tuple[Recording, RecordingSpec]) -> None:
    recording, spec = made
    twin = Twin(vivit(modulator=None, shifter=SHIFTERS["affine"]), READOUT, LIKELIHOOD, [spec])
    twin.shifter("a").initialize(torch.as_tensor(WRONG))
    start = 5 * wrong_tracker.BINS  # of the middle training trial
    frames, behavior = (
        torch.as_tensor(x)[None]
        for x in (recording.frames(start, start + 256), recording.behavior(start, start + 256, spec.behavior))
    )
    expected, _ = twin.adapt("a", Clips(frames=frames, behavior=behavior))
    torch.testing.assert_close(contrast(twin, recording), expected)
