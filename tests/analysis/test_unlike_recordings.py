"""Recordings of which nothing can be scored beside one that is whole; models that predict no numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from shipped import PLAIN
from tiny_models import LIKELIHOOD, MODELS_UNDER_CONTRACT, POISSON, READOUT, unit_scores

from vivit_core.analysis.compare.compare import compare
from vivit_core.analysis.compare.numbers import Contender
from vivit_core.analysis.evaluate.evaluate import evaluate
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.metrics.streamed_scores import StreamedScores
from vivit_core.models.twin import Twin
from vivit_core.training.module import validation_numbers

SPLIT = ("train",) * 4 + ("val", "test", "test")
BINS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RecordingsDataModule:
    """One recording whole, one silent in its test trials, one not valid there, one without any."""
    folder, total = tmp_path_factory.mktemp("data"), BINS * len(SPLIT)
    starts, rng = np.arange(len(SPLIT)) * BINS, np.random.default_rng(0)
    tested = np.arange(total) >= 5 * BINS
    for name in ("whole", "silent", "invalid", "untested"):
        counts, valid = rng.poisson(0.5, (total, 2)), np.ones((total, 2), bool)
        if name == "silent":
            counts[tested] = 0
        if name == "invalid":
            valid[tested] = False
        split = ("train",) * 5 + ("val",) * 2 if name == "untested" else SPLIT
        pupil = np.where(rng.random((total, 1)) < 0.25, np.nan, 1.0).astype(np.float32)
        write_recording(
            folder / f"{name}.h5",
            recording_id=name,
            frame_rate_hz=30.0,
            frames=rng.integers(0, 256, (total, 12, 16)).astype(np.uint8),
            counts=counts,
            valid=valid,
            behavior={"pupil": pupil},
            trials=Trials(starts, starts + BINS, ["a", "b", "c", "d", "e", "f", "f"], np.array(split)),
        )
    module = RecordingsDataModule(
        None, str(folder), None, "", ["pupil"], clip_length=16, burn_in=4, evaluation_length=20,
        evaluation_burn_in=8, weighting="equal", num_workers=0, seed=0, **PLAIN,
    )  # fmt: skip
    module.setup()
    return module


def twin_of(data: RecordingsDataModule, seed: int = 0) -> Twin:
    torch.manual_seed(seed)
    return Twin(MODELS_UNDER_CONTRACT["factorized"], READOUT, LIKELIHOOD, data.specs)


@pytest.mark.slow
def test_recordings_without_a_score_stand_beside_the_others(data: RecordingsDataModule, tmp_path: Path) -> None:
    summary = evaluate(twin_of(data), data, ln=None, out=tmp_path / "evaluate", checkpoint="x.ckpt", progress=False)
    scored = {name: own["bps_mean"] for name, own in summary["recordings"].items()}
    assert scored["silent"] is None and scored["invalid"] is None and summary["left_out"] == ["untested"]
    assert summary["bps_mean"] == scored["whole"] is not None
    assert 0.1 < summary["missing_behavior_fraction"] < 0.4
    assert json.loads((tmp_path / "evaluate" / "summary.json").read_text()) == summary

    contenders = [Contender(name, "x", twin_of(data, i), data) for i, name in enumerate("ab")]
    compared = compare(contenders, out=tmp_path / "compare", resamples=20, piece_s=1.0, progress=False)
    assert set(compared["recordings"]) == {"whole", "silent"} and compared["left_out"]["recordings"] == 2
    assert compared["models"]["a"]["bps_mean"] == pytest.approx(scored["whole"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_predicts_no_numbers_is_an_error(value: float, data: RecordingsDataModule, tmp_path: Path) -> None:
    twin = twin_of(data)
    with torch.no_grad():
        twin.readout("whole").bias[1] = torch.nan
    words = r"checkpoint x\.ckpt: 44 of 88 predictions for recording whole are NaN or infinite, of 1 of 2 units"
    with pytest.raises(ValueError, match=words):
        evaluate(twin, data, ln=None, out=tmp_path, checkpoint="x.ckpt", progress=False)
    with pytest.raises(ValueError, match=r"broken \(x\): 44 of 88 predictions"):
        compare(
            [Contender("broken", "x", twin, data), Contender("b", "x", twin_of(data), data)],
            out=tmp_path,
            resamples=20,
            piece_s=1.0,
            progress=False,
        )

    counts, mask = np.array([[1.0, 0, 2], [0, 0, 1]]), np.array([[True, True, True], [True, True, False]])
    predicted = np.array([[value, 0.1, 0.2], [0.5, 0.1, value]])  # the last one does not count
    scores = unit_scores(predicted, counts, mask)
    assert (scores.broken, scores.silent) == (1, 1)
    metric = StreamedScores(3, POISSON)
    metric.update(torch.as_tensor(predicted), torch.as_tensor(counts), torch.as_tensor(mask))
    fine = StreamedScores(3, POISSON)
    fine.update(torch.full((2, 3), 0.5), torch.as_tensor(counts), torch.as_tensor(mask))
    numbers = validation_numbers({"broken": metric, "fine": fine})
    assert all(np.isnan(numbers[name]) for name in ("bps_broken", "bps_mean", "loss", "corr_mean"))
    assert np.isfinite(numbers["bps_fine"]) and numbers["units_silent"] == 2
