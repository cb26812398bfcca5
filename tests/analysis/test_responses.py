"""What an evaluation leaves to be explored: each unit's rates on repeats, its place, its interval."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evaluate import BURN_IN, SHOWN, TRIAL, PixelTwin, arrays, module_of, run

from vivit_core.analysis import bootstrap
from vivit_core.analysis.evaluate.numbers import repeats
from vivit_core.analysis.evaluate.responses import clip_of, rates_of, responses_of
from vivit_core.analysis.evaluate.section import report_section
from vivit_core.analysis.predict import Predictions
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.plotting.rates import SMOOTHING_S
from vivit_core.report.explore import MOST_REPEATS, Series, plain_series
from vivit_core.system.tables import read_table

GAINS = [0.4, 0.5, 0.6, 0.7]


class PlacedTwin(PixelTwin):
    def gaussians_px(self, recording_id: str) -> dict[str, np.ndarray]:
        return {"mean_px": self.centers_px(recording_id), "std_px": np.full((4, 2), 1.5), "angle_deg": np.arange(4.0)}

    def centers_px(self, recording_id: str) -> np.ndarray:
        return np.array([[0.0, 1.0], [1, 1], [2, 2], [3, 1]])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bootstrap, "FEWEST", 3)  # for so few bins
    data = module_of(write_recording(tmp_path / "hand.h5", **arrays()))
    run(PlacedTwin(data.specs[0], GAINS), data, tmp_path / "out", ln=PixelTwin(data.specs[0], [0.3] * 4))
    return tmp_path / "out"


def test_rates_are_of_the_stimulus_with_most_repeats(folder: Path) -> None:
    made = arrays()
    first = SHOWN.index("rep")
    shown = [np.arange(i * TRIAL + BURN_IN, (i + 1) * TRIAL) for i in range(first, len(SHOWN))]
    with np.load(folder / "responses.npz", allow_pickle=False) as file:
        found = {name.removeprefix("hand/"): file[name] for name in file.files}
    assert found["unit_ids"].tolist() == ["u0", "u1", "u2", "u3"]
    assert (str(found["stimulus"]), int(found["repeats"]), float(found["bin_s"])) == ("rep", 3, 0.02)
    counts = np.stack([np.where(made["valid"][bins], made["counts"][bins], np.nan) for bins in shown])
    np.testing.assert_array_equal(found["counts"], counts)
    pixel = (made["frames"][shown[0], 0, 0, None] + 1.0) / 100 * 50  # the repeats show the same frames
    np.testing.assert_allclose(found["predicted"], pixel * GAINS, rtol=1e-5)
    np.testing.assert_allclose(found["ln"], pixel * ([0.3] * 4), rtol=1e-5)
    np.testing.assert_array_equal(found["frame"], made["frames"][shown[0][0]])
    expected = np.column_stack([[0, 1, 2, 3], [1, 1, 2, 1], np.full((4, 2), 1.5), np.arange(4)])
    np.testing.assert_array_equal(found["window"], expected)
    known = np.isfinite(counts).any(0)
    np.testing.assert_allclose(found["mean_counts"][known], np.nanmean(counts, 0)[known], rtol=1e-6)
    assert np.array_equal(np.isfinite(found["mean_counts"]), known) and float(found["smoothing_s"]) == SMOOTHING_S
    mean = np.nanmean(counts, axis=(0, 1)) * 50
    np.testing.assert_allclose(np.nanmean(found["measured"], 0), mean, rtol=0.15)


def test_a_score_lies_in_its_interval_and_a_silent_unit_has_none(folder: Path) -> None:
    table = read_table(folder / "units.csv", text=("recording", "unit"))
    own = table[:3]
    assert (own["bps_low"] < own["bps"]).all() and (own["bps"] < own["bps_high"]).all()
    assert table["bps_low"].isna()[3] and table["bps_high"].isna()[3]


def test_the_report_s_section_holds_all_of_it(folder: Path) -> None:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    section = report_section(summary, folder / "pictures", "x")
    assert section.explore is not None
    told = section.explore.plain()
    assert told["names"] == ["u0", "u1", "u2", "u3"]
    assert [panel["kind"] for panel in told["panels"]] == ["scores", "series", "place"]
    assert told["panels"][1]["clips"][0]["about"] == "stimulus rep, 3 repeats"
    assert told["panels"][2]["windows"][2] == [2, 2, 1.5, 1.5, 2]


def test_without_repeats_the_first_trial_stands_in(tmp_path: Path) -> None:
    once = arrays()
    trials = once["trials"]
    once["trials"] = type(trials)(trials.start, trials.stop, np.array(list("abcdefg")), trials.split)
    data = module_of(write_recording(tmp_path / "hand.h5", **once))
    run(PixelTwin(data.specs[0], GAINS), data, tmp_path / "out")
    with np.load(tmp_path / "out" / "responses.npz") as file:
        assert str(file["hand/stimulus"]) == "" and int(file["hand/repeats"]) == 1 and "hand/ln" not in file.files
        assert file["hand/counts"].shape == (1, TRIAL - BURN_IN, 4)
        assert np.isnan(file["hand/window"][:, 2:]).all()


def test_the_page_says_how_many_of_the_repeats_are_drawn() -> None:
    recording, found = shown_in_turn([3] * (MOST_REPEATS + 20))
    kept, _ = rates_of(recording, found, "test")
    clip = clip_of({f"r/{name}": value for name, value in kept.items()}, "r", {("twin", "twin"): kept["predicted"]})
    told = plain_series(Series("rates", {"r": clip}), ["r"] * 2, ["r"])["clips"][0]
    assert (told["repeats"], told["of"]) == (MOST_REPEATS, MOST_REPEATS + 20)


def test_the_mean_is_over_all_repeats_and_counts_are_of_some() -> None:
    recording, found = shown_in_turn([3] * (MOST_REPEATS + 20))
    kept, _ = rates_of(recording, found, "test")
    assert len(kept["counts"]) == MOST_REPEATS
    every = np.where(found.valid_NU, found.counts_NU, np.nan).reshape(-1, 3, 2)
    np.testing.assert_allclose(kept["mean_counts"], np.nanmean(every, 0), rtol=1e-6)


def test_the_page_and_the_docstring_name_all_that_the_file_holds(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "analyses.md").read_text(encoding="utf-8")
    with np.load(folder / "responses.npz") as file:
        names = {name.removeprefix("hand/") for name in file.files}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    assert [name for name in sorted(names) if f"``{name}``" not in str(responses_of.__doc__)] == []


def shown_in_turn(lengths: list[int], kind: str = "spikes") -> tuple[Any, Predictions]:
    """A film that was shown for so many bins each time, and what was measured and predicted meanwhile."""
    stop = np.cumsum(lengths)
    trials = Trials(stop - lengths, stop, np.full(len(lengths), "film"), np.full(len(lengths), "test"))
    rng = np.random.default_rng(0)
    rate = np.concatenate([np.linspace(0.2, 3, 30)[:length, None] * np.ones(2) for length in lengths])
    counts, valid = rng.poisson(rate).astype(np.float32), rng.random(rate.shape) > 0.1
    found = Predictions(np.arange(stop[-1]), counts, valid, rate.astype(np.float32), (rate / 2).astype(np.float32))
    return SimpleNamespace(info=SimpleNamespace(trials=trials, frame_rate_hz=30.0, kind=kind)), found


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5))
def test_a_showing_that_was_cut_short_takes_nothing_from_the_others(lengths: list[int]) -> None:
    """Each is scored and kept as far as it goes; what would be behind its end does not count."""
    recording, found = shown_in_turn(lengths)
    (own,) = repeats(recording, found, found.predicted_NU, "test")
    kept, first = rates_of(recording, found, "test")
    assert first == 0 and kept["counts"].shape == own.counts.shape == (len(lengths), max(lengths), 2)
    for showing, (stop, length) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        rows = slice(stop - length, stop)
        valid = found.valid_NU[rows]
        assert np.array_equal(own.mask[showing, :length], valid) and not own.mask[showing, length:].any()
        assert np.array_equal(own.counts[showing, :length], found.counts_NU[rows])
        assert np.array_equal(own.predicted[showing, :length], found.predicted_NU[rows])
        counts = np.where(valid, found.counts_NU[rows], np.nan)
        np.testing.assert_array_equal(kept["counts"][showing, :length], counts)
        assert np.isnan(kept["counts"][showing, length:]).all()
    longest = int(np.argmax(lengths))
    rows = slice(sum(lengths[:longest]), sum(lengths[: longest + 1]))
    np.testing.assert_allclose(kept["predicted"], found.predicted_NU[rows] * 30, rtol=1e-5)
    np.testing.assert_allclose(kept["ln"], found.predicted_NU[rows] * 15, rtol=1e-5)


def test_a_calcium_trace_is_kept_in_any_unit() -> None:
    """float16 knows no 100000, nor a hundred millionth."""
    for unit in (1e5, 1e-9):
        recording, found = shown_in_turn([20, 30], kind="calcium")
        found = replace(found, counts_NU=found.counts_NU * np.float32(unit))
        kept, _ = rates_of(recording, found, "test")
        known = kept["counts"][0, :20][found.valid_NU[:20]]
        np.testing.assert_allclose(known, found.counts_NU[:20][found.valid_NU[:20]], rtol=1e-5)
    recording, found = shown_in_turn([20, 30])
    assert rates_of(recording, found, "test")[0]["counts"].dtype == np.float16
    many, _ = rates_of(recording, replace(found, counts_NU=found.counts_NU * 2049), "test")
    np.testing.assert_allclose(many["counts"][1][found.valid_NU[20:]], found.counts_NU[20:][found.valid_NU[20:]] * 2049)
