"""The shift that eye position brings is found in the data, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import wrong_tracker

from vivit_core.rf.eye_shift import alike, maps_of, shift_by_position, steepest

SETTINGS = {"duration_s": 0.1, "max_frames": 60_000}
WRONG = np.array([[0.5, 3.0], [-2.5, 1.0]])  # px to the right and down, for x and y of eye position


def test_a_shift_larger_than_the_fields_is_found(tmp_path: Path) -> None:
    recording, spec = wrong_tracker.made(tmp_path / "a.h5", WRONG)
    np.testing.assert_allclose(shift_by_position(recording, spec, slice(1, 3), **SETTINGS), WRONG, atol=0.5)


def test_a_right_tracker_is_told_to_be_right(tmp_path: Path) -> None:
    recording, spec = wrong_tracker.made(tmp_path / "a.h5", np.zeros((2, 2)))
    np.testing.assert_allclose(shift_by_position(recording, spec, slice(1, 3), **SETTINGS), 0, atol=0.4)


@pytest.mark.parametrize("seed", [0, 1])
def test_units_that_see_nothing_tell_no_shift(seed: int, tmp_path: Path) -> None:
    recording, spec = wrong_tracker.made(tmp_path / "a.h5", WRONG, driven=False, seed=seed)
    np.testing.assert_array_equal(shift_by_position(recording, spec, slice(1, 3), **SETTINGS), 0)


def test_of_a_number_that_stands_still_nothing_is_told(tmp_path: Path) -> None:
    recording, spec = wrong_tracker.made(tmp_path / "a.h5", WRONG)
    found = shift_by_position(recording, spec, slice(0, 3), **SETTINGS)
    np.testing.assert_allclose(found, [[0, 0], *WRONG], atol=0.5)
    assert not found[0].any()


@pytest.mark.parametrize("size", [(31, 1), (1, 30), (7, 4)])
def test_frames_of_any_size_have_maps(size: tuple[int, int]) -> None:
    noise = torch.Generator().manual_seed(0)
    frames, responses = torch.randn(256, *size, generator=noise), torch.randn(256, 3, generator=noise)
    position = torch.randn(256, 2, generator=noise)
    groups = alike(position.numpy(), 2)
    maps = list(maps_of(frames, responses, 3, groups))
    assert [own.shape for own in maps] == [(2, 4, 3, *size)] * 4
    slope = steepest([own.sum(0) for own in maps], torch.stack([position[bins].mean(0) for bins in groups]))
    assert slope.shape == (2, 2) and bool(slope.isfinite().all())


def test_bins_of_alike_eye_position_come_together() -> None:
    position = np.random.default_rng(0).normal(size=(1000, 2)) * [2, 1]
    groups = alike(position, 5)
    assert sorted(np.concatenate(groups)) == list(range(1000)) and {len(bins) for bins in groups} == {31, 32}
    within = np.mean([position[bins].var(0).sum() for bins in groups])
    neighbors = np.mean([position[np.concatenate(groups[i : i + 4])].var(0).sum() for i in range(0, 32, 4)])
    assert within < 0.1 * position.var(0).sum() and neighbors < 0.3 * position.var(0).sum()
