"""Trials that show the same share a row of a batch, and nothing else does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shipped import PLAIN

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording

LENGTHS = [40, 24, 40, 40, 24, 40, 12, 40]  # bins of the test trials; a trial of 50 for training is before them
STIMULI = ["a", "b", "a", "a", "b", "c", "b", "a"]
# Trial 0 and 2 show the same; 3 has another movement of the eye, 7 another last pixel; 5 shows a's frames under another
# name.
MOVED, RETOUCHED = 3, 7


def written(folder: Path) -> tuple[Path, np.ndarray]:
    """A recording, and its counts."""
    rng = np.random.default_rng(0)
    shown = {name: rng.integers(0, 256, (40, 3, 4), dtype=np.uint8) for name in "ab"}
    shown["c"] = shown["a"]
    moves = {name: rng.normal(size=(40, 1)) for name in "abc"}
    frames = [rng.integers(0, 256, (50, 3, 4), dtype=np.uint8)]
    eye, pupil = [rng.normal(size=(50, 1))], [rng.normal(size=(50, 1))]
    for trial, (length, name) in enumerate(zip(LENGTHS, STIMULI, strict=True)):
        frames.append(shown[name][:length].copy())
        frames[-1][-1, -1, -1] ^= trial == RETOUCHED
        eye.append(moves[name][:length] + (trial == MOVED))
        pupil.append(rng.normal(size=(length, 1)))  # another in each repeat
    bins = 50 + sum(LENGTHS)
    counts = rng.poisson(0.5, (bins, 2)).astype(np.uint8)
    edges = np.cumsum([0, 50, *LENGTHS])
    path = write_recording(
        folder / "repeats.h5",
        recording_id="repeats",
        frame_rate_hz=50.0,
        frames=np.concatenate(frames),
        counts=counts,
        behavior={"eye": np.concatenate(eye).astype(np.float32), "pupil": np.concatenate(pupil).astype(np.float32)},
        trials=Trials(edges[:-1], edges[1:], np.array(["t", *STIMULI]), np.array(["train"] + ["test"] * len(LENGTHS))),
        units={"id": np.array(["u0", "u1"])},
    )
    return path, counts


def module_of(path: Path, batch_size: int = 4, **changes: Any) -> RecordingsDataModule:
    settings: dict[str, Any] = {"behavior": ["eye"], "clip_length": 12, "burn_in": 2, "evaluation_length": None}
    settings |= {"evaluation_burn_in": 2, "weighting": "units", "num_workers": 0, "seed": 0} | changes
    data = RecordingsDataModule(recordings=[str(path)], root=None, simulator=None, cache="", **(PLAIN | settings))
    data.configure(batch_size=batch_size)
    data.setup()
    return data


def rows_of(data: RecordingsDataModule, share: tuple[int, int] = (0, 1)) -> list[list[int]]:
    """The first bins of the clips that share each row, of all batches."""
    rows = []
    for batch in data.evaluation_dataloader("test", share):
        clips = batch["repeats"]
        for row in range(len(clips["frames"])):
            rows.append(clips["start"][clips["row"] == row].tolist())
    return rows


STARTS = (50 + np.cumsum([0, *LENGTHS]))[:-1].tolist()


@pytest.mark.parametrize(
    ("behavior", "together"),
    [
        (["eye"], [[0, 2], [3], [5], [7], [1, 4], [6]]),  # c is shown once under its name, so it is not looked into
        ([], [[0, 2, 3], [5], [7], [1, 4], [6]]),
        (["eye", "pupil"], [[0], [2], [3], [5], [7], [1], [4], [6]]),
    ],
)
def test_what_is_shown_again_has_one_row(behavior: Sequence[str], together: list[list[int]], tmp_path: Path) -> None:
    data = module_of(written(tmp_path)[0], behavior=list(behavior))
    assert rows_of(data) == [[STARTS[trial] for trial in trials] for trials in together]


def test_each_clip_has_its_own_counts_and_the_row_it_saw(tmp_path: Path) -> None:
    path, counts = written(tmp_path)
    data = module_of(path, evaluation_length=15)  # trials are cut into windows
    recording, scored = data.recordings[0], np.zeros(len(counts), int)
    for batch in data.evaluation_dataloader("test"):
        clips: Mapping[str, Any] = batch["repeats"]
        assert len(clips["frames"]) == len(clips["behavior"]) <= len(clips["row"])
        for clip, start in enumerate(clips["start"].tolist()):
            row, stop = clips["row"][clip], start + clips["counts"].shape[1]
            own = recording.read(start, stop, {"eye": 1})
            for name, value in (("frames", clips["frames"][row]), ("behavior", clips["behavior"][row])):
                np.testing.assert_array_equal(own[name], value)
            np.testing.assert_array_equal(counts[start:stop], clips["counts"][clip])
            scored[start:stop] += clips["score"][clip].numpy()
    for start, length in zip(STARTS, LENGTHS, strict=True):
        assert scored[start : start + length].tolist() == [0] * 2 + [1] * (length - 2)
    assert len(rows_of(data)) < len([bins for bins in LENGTHS for _ in range(0, bins - 2, 13)])


def test_a_batch_has_one_length_and_at_most_the_bins_of_a_training_batch(tmp_path: Path) -> None:
    data = module_of(written(tmp_path)[0], behavior=["eye", "pupil"])
    shapes = [batch["repeats"]["frames"].shape[:3:2] for batch in data.evaluation_dataloader("test")]
    assert shapes == [(1, 40)] * 5 + [(2, 24), (1, 12)]  # (rows, bins), of 4 clips of 12
    assert data.evaluation_length == 48  # a pass, where nothing is said


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_take_rows_and_leave_none_out(world: int, tmp_path: Path) -> None:
    data = module_of(written(tmp_path)[0])
    shares = [rows_of(data, (rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1  # equally many steps of equally many rows
    scored = np.zeros(STARTS[-1] + LENGTHS[-1], int)
    for rank in range(world):
        for batch in data.evaluation_dataloader("test", (rank, world)):
            for start, score in zip(batch["repeats"]["start"].tolist(), batch["repeats"]["score"].numpy(), strict=True):
                scored[start : start + len(score)] += score
    assert scored.sum() == scored.astype(bool).sum() == sum(LENGTHS) - 2 * len(LENGTHS)
