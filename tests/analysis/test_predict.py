"""What a model predicts of a split is what it predicts of each clip alone, asked as seldom as can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shipped import PLAIN
from tiny_models import MODELS_UNDER_CONTRACT, twin
from tiny_training import optimization

from vivit_core.analysis.behavior_controls import behavior_controls
from vivit_core.analysis.predict import Predictions, predict_split
from vivit_core.data.clips import evaluation_windows
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch, Clips
from vivit_core.training.module import TwinModule, validation_numbers

BURN_IN, HEIGHT, WIDTH = 3, 8, 16
# The trials of one stimulus show the same, but for the movements in the last one.
TRIALS = [("t", 40, "train"), ("a", 30, "val"), ("a", 30, "val"), ("a", 30, "val"), ("b", 22, "val"), ("b", 30, "val")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    shown = {name: rng.integers(0, 256, (40, HEIGHT, WIDTH), dtype=np.uint8) for name in "tab"}
    moves = {name: rng.normal(size=(40, 2)) for name in "tab"}
    behavior = [moves[name][:length] for name, length, _ in TRIALS]
    behavior[3] = behavior[3] + 1.0
    edges = np.cumsum([0, *(length for _, length, _ in TRIALS)])
    counts = rng.poisson(0.4, (edges[-1], 3)).astype(np.uint8)
    return write_recording(
        tmp_path / "a.h5",
        recording_id="a",
        frame_rate_hz=60.0,
        frames=np.concatenate([shown[name][:length] for name, length, _ in TRIALS]),
        counts=counts,
        valid=rng.random(counts.shape) > 0.1,
        behavior={"eye": np.concatenate(behavior).astype(np.float32)},
        trials=Trials(edges[:-1], edges[1:], *(np.array(column) for column in list(zip(*TRIALS, strict=True))[::2])),
        units={"id": np.array(["a0", "a1", "a2"])},
    )


def module_of(path: Path, batch_size: int = 4, length: int | None = None) -> RecordingsDataModule:
    data = RecordingsDataModule(
        recordings=[str(path)], root=None, simulator=None, cache="", behavior=["eye"], clip_length=16, burn_in=BURN_IN,
        evaluation_length=length, evaluation_burn_in=BURN_IN, weighting="units", num_workers=0, seed=0, **PLAIN,
    )  # fmt: skip
    data.configure(batch_size=batch_size)
    data.setup()
    return data


def of(data: RecordingsDataModule, name: str = "residual-stem") -> Twin:
    made = twin(MODELS_UNDER_CONTRACT[name], data.specs[0])
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made.eval()


def predicted(model: Twin, data: RecordingsDataModule, **changes: Any) -> Predictions:
    return dict(
        predict_split(model, data, **({"ln": None, "split": "val", "device": "cpu", "progress": False} | changes))
    )["a"]


def asked(model: Twin) -> list[tuple[int, int]]:
    """Rows and bins of each pass from now on."""
    passes: list[tuple[int, int]] = []
    forward = model.forward

    def counted(batch: Batch) -> dict[str, torch.Tensor]:
        passes.extend((len(clips["frames"]), clips["frames"].shape[2]) for clips in batch.values())
        return forward(batch)

    model.forward = counted  # type: ignore[method-assign]
    return passes


@torch.no_grad()
def one_by_one(model: Twin, data: RecordingsDataModule) -> np.ndarray:
    """Each window alone, in the order of time."""
    recording, spec = data.recordings[0], data.specs[0]
    rows = []
    for w in evaluation_windows(recording.info.trials, "val", data.evaluation_length, BURN_IN):
        read = recording.read(w.start, w.stop, spec.behavior)
        shown = Clips(**{name: torch.as_tensor(read[name])[None] for name in ("frames", "behavior")})  # type: ignore[typeddict-item]
        rows.append(model({"a": shown})["a"][0, w.score_start - w.start : w.score_stop - w.start].numpy())
    return np.concatenate(rows)


@pytest.mark.parametrize("length", [16, None])
def test_predictions_are_those_of_each_clip_alone_however_they_are_batched(path: Path, length: int | None) -> None:
    """``length=16`` cuts trials into windows, as evaluations did before a trial was one pass."""
    for batch_size in (1, 2, 50):
        data = module_of(path, batch_size, length)
        model = of(data)
        found = predicted(model, data)
        np.testing.assert_allclose(found.predicted_NU, one_by_one(model, data), rtol=1e-5, atol=1e-7)
        trials = data.recordings[0].info.trials.of("val")
        bins = [np.arange(a + BURN_IN, b) for a, b in zip(trials.start, trials.stop, strict=True)]
        assert np.array_equal(found.bins_N, np.concatenate(bins))
        recording = data.recordings[0]
        assert np.array_equal(found.counts_NU, recording.counts(0, recording.info.n_frames)[found.bins_N])


def test_what_shows_the_same_is_predicted_once_and_in_passes_that_fit(path: Path) -> None:
    data = module_of(path, batch_size=4)  # 64 bins
    model = of(data)
    passes = asked(model)
    predicted(model, data)
    assert passes == [(2, 30), (1, 30), (1, 22)]
    passes.clear()
    controls = behavior_controls(data, "val", 0)
    found = predicted(model, data, controls=controls)
    assert max(rows * bins for rows, bins in passes) <= 64
    model = of(data)
    for name, control in controls.items():
        for start, stop in ((40, 70), (70, 100), (130, 152)):
            read = data.recordings[0].read(start, stop, data.specs[0].behavior)
            clips = Clips(**{key: torch.as_tensor(value)[None] for key, value in read.items()})  # type: ignore[typeddict-item]
            clips["start"] = torch.tensor([start])
            clips["behavior"] = torch.as_tensor(control("a", clips))
            with torch.no_grad():
                expected = model({"a": clips})["a"][0, BURN_IN:]
            rows = (found.bins_N >= start) & (found.bins_N < stop)
            np.testing.assert_allclose(found.controls[name][rows], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", list(MODELS_UNDER_CONTRACT))
def test_a_trial_in_one_pass_is_a_stream_that_carries_its_past(path: Path, name: str) -> None:
    data = module_of(path)
    model = of(data, name)
    found, recording = predicted(model, data), data.recordings[0]
    rate_hz = data.specs[0].frame_rate_hz
    for start, stop in ((40, 70), (130, 152)):
        read = recording.read(start, stop, data.specs[0].behavior)
        stream = model.stream("a", clip_length=stop - start)
        rates = [stream.step(read["frames"][:, t], read["behavior"][t]) for t in range(stop - start)]
        rows = (found.bins_N >= start) & (found.bins_N < stop)
        np.testing.assert_allclose(found.predicted_NU[rows], np.stack(rates)[BURN_IN:] / rate_hz, rtol=1e-4, atol=1e-6)


def test_a_validation_scores_the_same_predictions(path: Path) -> None:
    """Of repeats that share a prediction, each with its own counts; in batches of any size."""
    numbers = []
    for batch_size in (1, 50):
        data = module_of(path, batch_size)
        module = TwinModule(of(data), optimization(), BURN_IN, 1, 1).eval()
        with torch.no_grad():
            for number, batch in enumerate(data.val_dataloader()):
                module.validation_step(batch, number)
        numbers.append(validation_numbers({"a": module._metric("a")}))
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-6)  # a correlation may be zero
    found = predicted(of(data), data)
    nats = np.where(found.valid_NU, found.predicted_NU - found.counts_NU * np.log(found.predicted_NU), 0.0)
    assert numbers[0]["loss"] == pytest.approx(nats.sum() / found.valid_NU.sum(), rel=1e-5)


@pytest.mark.parametrize("early", [False, True])
def test_each_part_of_a_model_is_in_the_mode_in_which_it_was(path: Path, early: bool) -> None:
    data = module_of(path)
    model = of(data).train()
    model.core.eval()  # as a frozen core is
    found = predict_split(model, data, ln=None, split="val", device="cpu", progress=False)
    next(found)
    found.close() if early else list(found)
    assert model.training and model.readouts.training and not any(part.training for part in model.core.modules())
