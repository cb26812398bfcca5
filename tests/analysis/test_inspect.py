"""Faults put into recordings are found, and named with what, where and remedy; a sound recording has none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from vivit_core.analysis.inspect.findings import Finding
from vivit_core.analysis.inspect.inspect import inspect, look_at
from vivit_core.analysis.inspect.responses import drift, twins
from vivit_core.analysis.inspect.section import report_section
from vivit_core.data.recording.checksum import write_checksum
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording

RATE_HZ, BINS, TRIALS, UNITS = 60.0, 150, 16, 12
SIDE = 8


def recording(path: Path) -> Path:
    """Units that follow the brightness of a place (odd ones its change) 3 bins later; the stimulus is smooth noise."""
    rng = np.random.default_rng(0)
    n = TRIALS * BINS
    movie = np.zeros((n, SIDE, SIDE), np.float32)
    step = rng.standard_normal((n, SIDE, SIDE)).astype(np.float32)
    for t in range(n):
        movie[t] = 0.8 * movie[t - 1] * (t % BINS > 0) + step[t]
    movie = np.clip(127 + 30 * movie, 0, 255)
    start = np.arange(TRIALS) * BINS
    counts = np.zeros((n, UNITS), np.uint8)
    for u in range(UNITS):
        y, x = divmod(5 * u + 3, SIDE)
        seen = movie[:, y, x]
        drive = np.abs(np.diff(seen, prepend=seen[:1])) if u % 2 else seen - 127
        drive = np.concatenate([np.zeros(3), drive[:-3]]) / 30
        drive[np.isin(np.arange(n) % BINS, (0, 1, 2))] = 0
        counts[:, u] = rng.poisson(0.25 * np.exp(np.clip(drive, -2, 2)))
    split = np.array(["train"] * 10 + ["val"] * 3 + ["test"] * 3)
    return write_recording(
        path, recording_id="sound", frame_rate_hz=RATE_HZ, frames=movie.astype(np.uint8), counts=counts,
        trials=Trials(start, start + BINS, [f"s{min(i, 14)}" for i in range(TRIALS)], split),
        behavior={"pupil": rng.standard_normal((n, 2)).astype(np.float32)},
        units={"id": [f"c{100 + u}" for u in range(UNITS)]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return recording(tmp_path_factory.mktemp("sound") / "sound.h5")


def look(path: Path) -> dict[str, Finding]:
    write_checksum(path)  # what was changed in it was changed on purpose
    found = look_at(Recording(path), duration_s=0.1, max_frames=5000, progress=False).findings
    assert len({f.check for f in found}) == len(found)
    return {f.check: f for f in found}


@pytest.mark.pictures
def test_a_sound_recording_has_no_findings(sound, tmp_path, drawn):
    summary = inspect([sound], duration_s=0.1, max_frames=5000, out=tmp_path, progress=False)
    assert json.loads((tmp_path / "inspect.json").read_text()) == summary
    r = summary["recordings"]["sound"]
    assert (summary["faults"], r["findings"]) == (0, [])
    assert (r["units"], r["seconds"], r["valid_share"]) == (UNITS, TRIALS * BINS / RATE_HZ, 1.0)
    assert r["splits"]["train"] == {
        "trials": 10, "bins": 1500, "seconds": 25.0, "stimuli": 10, "repeated_stimuli": 0, "repeats": 1,
        "spikes": r["splits"]["train"]["spikes"],
    }  # fmt: skip
    assert r["units_with_field"] >= 5 and r["link_lag_s"] == pytest.approx(3 / RATE_HZ)
    assert r["behavior"]["pupil"]["std"] == pytest.approx(1, abs=0.05)
    section = report_section(summary, "the command")
    assert section.key == "inspect" and section.pictures[0][0].stat().st_size > 20_000
    assert [table.title for table in section.tables] == ["recordings", "splits", "behavior"]
    titles = [axes.get_title() for axes in drawn[0].axes]
    shown = [title.split(",")[0] for title in titles if title.startswith("unit ")]
    assert len(shown) == UNITS and set(shown) == {f"unit {unit}" for unit in Recording(sound).info.unit_ids}


def columns(file: h5py.File, change: Callable[[np.ndarray], None], name: str = "responses/counts") -> None:
    values = file[name][()]
    change(values)
    file[name][...] = values


def retyped(file: h5py.File, values: np.ndarray, kind: str = "spikes") -> None:
    del file["responses/counts"]
    file["responses/counts"] = values
    file["responses/counts"].attrs["kind"] = kind


def silent_in_val(c):
    c[10 * BINS : 13 * BINS, 4] = 0


def silent(c):
    c[:, 4] = 0


def duplicated(c):
    c[:, 7] = c[:, 2]


def drifting(c):
    for n in range(TRIALS):
        c[n * BINS : (n + 1) * BINS, :3] *= 1 + n // 2


def quiet_trial(c):
    c[5 * BINS : 6 * BINS] = 0


def clipped(c):
    c[77, 3] = 255


def blank(f):
    f[3 * BINS : 4 * BINS] = 90


def lost(f):
    for n in range(TRIALS):
        f[n * BINS + 50 : n * BINS + 62] = 0


def shown_again(f):
    f[14 * BINS : 15 * BINS] = f[2 * BINS : 3 * BINS]


def unmarked(f):
    f[2 * BINS : 3 * BINS] = f[4 * BINS : 5 * BINS]


def shift(bins: int) -> Callable[[np.ndarray], None]:
    def roll(c: np.ndarray) -> None:
        c[...] = np.roll(c, bins, 0)

    return roll


def shuffled(c):
    c[...] = np.random.default_rng(1).permutation(c)


FRAMES = "stimulus/frames"
FAULTS: dict[str, tuple[Callable[[h5py.File], None], str, str, str]] = {
    "val": (lambda f: columns(f, silent_in_val), "silent_in_one_split", "fault", "units c104, split val"),
    "silent": (lambda f: columns(f, silent), "silent_units", "note", "units c104"),
    "twice": (lambda f: columns(f, duplicated), "duplicated_units", "fault", "units c102 = c107"),
    "drift": (lambda f: columns(f, drifting), "drifting_rates", "fault", "units c100, c101, c102"),
    "quiet": (lambda f: columns(f, quiet_trial), "silent_trials", "fault", "trials 5"),
    "clipped": (lambda f: columns(f, clipped), "clipped_counts", "fault", "responses/counts"),
    "half": (lambda f: retyped(f, f["responses/counts"][()] / np.float32(3)), "fractional_counts", "fault", "of 12"),
    "blank": (lambda f: columns(f, blank, FRAMES), "blank_trials", "fault", "trials 3"),
    "lost": (lambda f: columns(f, lost, FRAMES), "blank_frames", "note", "% of the bins"),
    "leak": (lambda f: columns(f, shown_again, FRAMES), "same_frames_in_two_splits", "fault",
             "trials 2 (train) and 14 (test)"),
    "repeat": (lambda f: columns(f, unmarked, FRAMES), "unmarked_repeats", "note", "trials 2 and 4"),
    "id": (lambda f: columns(f, lambda s: s.__setitem__(12, "s1"), "trials/stimulus_id"), "stimulus_in_two_splits",
           "fault", "stimuli s1"),
    "early": (lambda f: columns(f, shift(-9)), "misaligned", "fault", "stimulus/frames and responses/counts"),
    "late": (lambda f: columns(f, shift(17)), "late", "fault", "stimulus/frames and responses/counts"),
    "shuffled": (lambda f: columns(f, shuffled), "unrelated", "note", "stimulus/frames and responses/counts"),
    "flat": (lambda f: columns(f, lambda b: b.__setitem__((slice(None), 1), 3.0), "behavior/pupil"),
             "constant_behavior", "fault", "behavior/pupil, column 1"),
    "ahead": (lambda f: f["behavior/pupil"].attrs.modify("causal", False), "acausal_behavior", "note", "pupil"),
}  # fmt: skip


FOLLOWS = {"blank": {"blank_frames"}, "lost": {"unrelated"}}  # what a fault brings with it


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_nothing_else(sound, tmp_path, fault):
    change, check, level, where = FAULTS[fault]
    path = shutil.copy(sound, tmp_path / "faulty.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    found = look(path)
    assert set(found) == {check} | FOLLOWS.get(fault, set())
    assert found[check].level == level and where in found[check].where
    assert len(found[check].what) > 10 and len(found[check].remedy) > 10
    if check in ("silent_units", "duplicated_units"):
        assert "import again" in found[check].remedy  # no task takes units out of a recording


def test_early_and_late_say_by_how_much(sound, tmp_path):
    for bins, words in ((-9, "100 ms before"), (17, "333 ms after")):
        path = shutil.copy(sound, tmp_path / "faulty.h5")
        with h5py.File(path, "r+") as file:
            columns(file, shift(bins))
        (found,) = look(path).values()
        assert words in found.what


def test_a_file_that_cannot_be_used_does_not_hide_the_others(sound, tmp_path):
    (tmp_path / "broken.h5").write_bytes(sound.read_bytes()[:5000])
    shutil.copy(sound, tmp_path / "nan.h5")
    with h5py.File(tmp_path / "nan.h5", "r+") as file:
        columns(file, lambda b: b.__setitem__((7, 0), np.inf), "behavior/pupil")
    paths = [tmp_path / "broken.h5", tmp_path / "nan.h5", sound]
    summary = inspect(paths, duration_s=0.1, max_frames=2000, out=tmp_path / "out", progress=False)
    assert summary["faults"] == 2 and set(summary["recordings"]) == {"broken", "nan", "sound"}
    rows = report_section(summary, "the command").tables[0].rows
    assert [row[:4] for row in rows[:2]] == [
        ["broken", "fault", "file", "file"],
        ["nan", "fault", "file", "behavior/pupil"],
    ]
    assert "row 7" in str(rows[1][4])


@pytest.mark.parametrize("shape", [(24, 1), (1, 24), (12, 12)])
@pytest.mark.parametrize("binary", [False, True])
def test_a_unit_that_no_linear_model_sees_is_named(shape, binary, tmp_path):
    """A linear cell, an energy cell, a random and a silent one; a pixel of binary noise has no variance to tell."""
    rng, bins = np.random.default_rng(1), 6000
    noise = rng.choice([-1.0, 1.0], (bins, *shape)) if binary else rng.standard_normal((bins, *shape))
    y, x = np.mgrid[: shape[0], : shape[1]]
    along, center = (x, shape[1] // 2) if shape[0] == 1 else (y, shape[0] // 2)
    window = np.exp(-((along - center) ** 2 + (0 if 1 in shape else (x - shape[1] // 2) ** 2)) / 12)
    pair = [window * np.cos(2 * np.pi * along / 4.5 + phase) for phase in (0, np.pi / 2)]
    even, odd = (np.roll((noise * field).sum((1, 2)) / np.linalg.norm(field), 3) for field in pair)
    counts = np.zeros((bins, 4), np.uint8)
    counts[:, 0], counts[:, 1] = rng.poisson(0.2 * np.exp(0.6 * even)), rng.poisson(0.2 * (even**2 + odd**2))
    counts[:, 2] = rng.poisson(0.3, bins)
    start = np.arange(0, bins, 300)
    path = write_recording(
        tmp_path / "cells.h5", recording_id="cells", frame_rate_hz=RATE_HZ, counts=counts,
        frames=np.clip(127 + 40 * noise, 0, 255).astype(np.uint8),
        trials=Trials(start, start + 300, [f"s{t}" for t in start], ["train"] * 18 + ["val", "test"]),
        units={"id": ["linear", "energy", "random", "silent"]},
    )  # fmt: skip
    summary = inspect([path], duration_s=0.2, max_frames=20000, out=tmp_path, progress=False)
    seen = summary["recordings"]["cells"]["spike_triggered"]
    assert seen["linear"]["average_sd"] > 6 and seen["linear"]["variance_sd"] is None
    assert seen["energy"]["average_sd"] < 4 and seen["energy"]["variance_sd"] > 12
    assert seen["random"]["average_sd"] < 5 and seen["random"]["variance_sd"] < 5
    assert seen["silent"] == {"average_sd": None, "variance_sd": None}
    (note,) = (f for f in summary["recordings"]["cells"]["findings"] if f["check"] == "hidden_from_average")
    assert note["where"] == "units energy" and "no spike-triggered average" in note["what"]
    section = report_section(summary, "the command")
    overview = next(table for table in section.tables if table.title == "recordings")
    assert overview.rows[0][overview.columns.index("hidden from averages")] == 1


def test_units_alike_and_units_that_drift_by_hand():
    assert twins(np.array([1.5, 2.0, 1.5, 0.0, 0.0]), np.array([4, 4, 4, 0, 0])) == [[0, 2]]
    rate = np.ones((30, 4))
    rate[:, 1] = np.linspace(0.3, 3, 30)
    rate[:, 2] = np.random.default_rng(0).uniform(0.1, 3, 30)
    rate[:10, 3] = np.nan  # not valid there
    assert drift(rate, 100 * np.ones((30, 4))).tolist() == [1]
    assert drift(rate[:8], 100 * np.ones((8, 4))).tolist() == []


def test_the_default_recordings_have_no_fault(tiny_files, tmp_path):
    summary = inspect(tiny_files, duration_s=0.2, max_frames=5000, out=tmp_path, progress=False)
    found = [f for r in summary["recordings"].values() for f in r["findings"]]
    assert summary["faults"] == 0 and all(
        f["check"] == "unrelated" for f in found
    )  # four seconds are too few for a link
