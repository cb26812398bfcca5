"""Pictures are drawn from plain arrays; what they show is checked on the figure before it is saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from picture_files import is_picture

from vivit_core.analysis.compare import plots as compare_plots
from vivit_core.analysis.evaluate import draw
from vivit_core.analysis.evaluate import plots as evaluate_plots
from vivit_core.analysis.predict import Predictions
from vivit_core.plotting import rates as plotting_rates

pytestmark = pytest.mark.pictures


def test_receptive_fields(tmp_path: Path, drawn: list[Figure]) -> None:
    path = evaluate_plots.receptive_fields(
        tmp_path / "fields.png",
        frame=np.random.default_rng(0).integers(0, 255, (20, 30)),
        mean_px=np.array([[5.0, 6.0], [20.0, 10.0]]),
        std_px=np.array([[2.0, 1.0], [3.0, 3.0]]),
        angle_deg=np.array([30.0, 0.0]),
        title="r",
    )
    assert is_picture(path)
    first = drawn[0].axes[0].patches[0]
    assert (first.center, first.width, first.height, first.angle) == ((5.0, 6.0), 4.0, 2.0, 30.0)  # type: ignore[attr-defined]
    assert drawn[0].axes[0].get_ylim() == (19.5, -0.5)  # row 0 is at the top


def test_twin_against_ln(tmp_path: Path, drawn: list[Figure]) -> None:
    path = evaluate_plots.twin_against_ln(
        tmp_path / "against.png",
        twin_bps=np.array([1.0, 0.5, np.nan, 0.2]),
        ln_bps=np.array([0.8, 0.6, 0.1, 0.1]),
        recording=["a", "a", "a", "b"],
    )
    assert is_picture(path)
    axes = drawn[0].axes[0]
    assert axes.get_title() == "the twin is better for 2 of 3 units"
    assert axes.collections[0].get_offsets().tolist() == [[0.8, 1.0], [0.6, 0.5]]


def test_units_beyond_the_axes_are_drawn_at_the_edge_and_counted(tmp_path: Path, drawn: list[Figure]) -> None:
    twin, ln = np.array([1.0, -3.0, 0.2, np.nan]), np.array([0.8, -0.2, -9.0, -9.0])
    evaluate_plots.twin_against_ln(tmp_path / "x.png", twin_bps=twin, ln_bps=ln, recording=["a"] * 4)
    compare_plots.against_first(
        tmp_path / "y.png", first=("a", ln), others={"b": twin}, sure={"b": np.array([0, 0, 0, 0])}
    )
    evaluate_plots.performance(tmp_path / "z.png", against={"distance": np.arange(4.0)}, scores={"bits": twin})
    for figure, places, beyond in zip(
        drawn,
        (
            [[0.8, 1.0], [-0.2, -0.5], [-0.5, 0.2]],
            [[0.8, 1.0], [-0.2, -0.5], [-0.5, 0.2]],
            [[0, 1], [1, -0.5], [2, 0.2]],
        ),
        (2, 2, 1),
        strict=True,
    ):
        (axes,) = figure.axes
        assert axes.collections[0].get_offsets().tolist() == places
        assert [text.get_text() for text in axes.texts] == [f"{beyond} beyond the axes, at the edge"]
        assert axes.get_ylim()[0] < -0.5


def test_distributions(tmp_path: Path, drawn: list[Figure]) -> None:
    made = np.random.default_rng(0).normal(0.5, 0.2, 50)
    path = evaluate_plots.distributions(
        tmp_path / "distribution.png",
        panels={
            "bits": {"twin": np.append(made, [np.nan, -40.0]), "LN": made - 0.1},
            "nothing": {"twin": np.full(3, np.nan)},
        },
    )
    assert is_picture(path)
    (axes,) = drawn[0].axes
    assert sum(patch.get_height() for patch in axes.patches) == 51 + 50  # a unit far below is in the first bar
    assert axes.lines[0].get_xdata()[0] == np.median(np.append(made, -40.0))


@pytest.mark.parametrize("rate_hz", [100.0, 29.97, 60.0])
def test_rasters_show_each_spike_once(tmp_path: Path, drawn: list[Figure], rate_hz: float) -> None:
    """Whatever the rate by which counts were multiplied, in single precision."""
    counts = np.random.default_rng(0).poisson(0.2, (5, 90, 3)).astype(np.float32)
    counts[3, 50:60] = np.arange(1, 11)[:, None]
    counts[2, :10] = np.nan  # not valid
    ones = np.full((90, 3), 7.0)
    path = evaluate_plots.rasters(
        tmp_path / "rasters.png",
        kind="spikes",
        bin_s=1.0 / rate_hz,
        trials_hz=counts * rate_hz,
        predicted_hz=ones,
        ln_hz=2 * ones,
        titles=["a", "b", "c"],
        title="r",
    )
    assert is_picture(path)
    rasters = [axes for axes in drawn[0].axes if axes.get_ylabel() == "repeat"]
    assert [axes.get_title(loc="left") for axes in rasters] == ["a", "b", "c"]
    for unit, axes in enumerate(rasters):
        assert len(axes.lines[0].get_xdata()) == int((np.nan_to_num(counts[..., unit]) > 0).sum())
    averages = [axes for axes in drawn[0].axes if axes.get_ylabel() == "rate (Hz)"]
    assert [line.get_ydata()[0] for line in averages[0].lines] == [14.0, 7.0]


@pytest.mark.parametrize("kind", ["spikes", "calcium"])
def test_rasters_of_traces_and_shares_of_spikes_are_shaded(tmp_path: Path, drawn: list[Figure], kind: str) -> None:
    trials = np.random.default_rng(0).gamma(1.0, 1.0, (4, 60, 1))
    if kind == "calcium":  # of any unit: whole numbers are no spikes
        trials = trials.round() * 10
    path = evaluate_plots.rasters(
        tmp_path / "rasters.png",
        kind=kind,
        bin_s=0.1,
        trials_hz=trials,
        predicted_hz=trials[0],
        ln_hz=None,
        titles=["a"],
        title="r",
    )
    assert is_picture(path) and len(drawn[0].axes[0].images) == 1


def test_averages(tmp_path: Path, drawn: list[Figure]) -> None:
    trials = {name: np.random.default_rng(0).poisson(0.2, (n, 90, 2)) * 100.0 for name, n in (("s", 5), ("t", 3))}
    predicted = {name: x.mean(0) for name, x in trials.items()}
    path = evaluate_plots.averages(
        tmp_path / "repeats.png",
        bin_s=0.01,
        trials_hz=trials,
        predicted_hz=predicted,
        ln_hz={},
        titles=["good", "poor"],
        title="r",
    )
    assert is_picture(path)
    assert [axes.get_title(loc="right") for axes in drawn[0].axes[:2]] == ["s, 5 repeats", "t, 3 repeats"]
    assert np.array_equal(drawn[0].axes[1].lines[1].get_ydata(), predicted["t"][:, 0])


def test_smoothed_average_counts_invalid_bins_for_nothing() -> None:
    trials = np.full((3, 200), 4.0)
    trials[0, 50:60] = trials[1, :] = np.nan
    mean, error = plotting_rates.smoothed_average(trials, 0.01)
    assert np.allclose(mean, 4.0) and np.allclose(error, 0.0)
    trials[0], trials[2] = 3.0, 5.0
    mean, error = plotting_rates.smoothed_average(trials, 0.01)
    assert np.allclose(mean, 4.0) and np.allclose(error, np.sqrt(2) / np.sqrt(2))
    trials[0, 100:] = np.nan
    mean, error = plotting_rates.smoothed_average(trials, 0.01)
    assert np.allclose(mean[[50, 150]], [4.0, 5.0]) and np.isnan(error[150]) and error[50] == pytest.approx(1.0)


def test_what_was_not_valid_is_not_drawn_as_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(plotting_rates, "rates", lambda path, **told: seen.update(told))
    monkeypatch.setattr(draw, "repeated_rows", lambda *told: {})
    monkeypatch.setattr(draw, "calibration_of", lambda *told: None)
    valid = np.ones((60, 1), bool)
    valid[10:20] = False
    found = Predictions(np.arange(60), np.full((60, 1), 5.0), valid, np.ones((60, 1)), None)
    recording: Any = SimpleNamespace(info=SimpleNamespace(frame_rate_hz=10.0))
    twin: Any = SimpleNamespace(gaussians_px=lambda recording_id: None)
    draw.draw_recording(twin, recording, "r", found, [{"bps": 0.1, "unit": "a"}], "test", tmp_path)
    assert np.array_equal(np.isnan(seen["measured_hz"][:, 0]), ~valid[: len(seen["measured_hz"]), 0])


def test_measured_rates_stop_where_bins_are_not_valid(tmp_path: Path, drawn: list[Figure]) -> None:
    measured = np.full((600, 1), 4.0)
    measured[100:200] = np.nan
    plotting_rates.rates(
        tmp_path / "rates.png", times_s=np.arange(600) / 100, measured_hz=measured, predicted_hz=np.ones((600, 1)),
        ln_hz=None, titles=["a"], title="clip",
    )  # fmt: skip
    (area,) = drawn[0].axes[0].collections
    corners = np.concatenate([path.vertices for path in area.get_paths()])
    assert ((corners[:, 0] > 2) & (corners[:, 0] < 2.05)).any()  # NaN does not spread to the bins beside
    assert not ((corners[:, 0] > 1.2) & (corners[:, 0] < 1.8)).any() and corners[:, 1].max() == pytest.approx(4)


@pytest.mark.parametrize("score", [np.nan, -np.inf])
def test_a_comparison_of_units_without_a_score_is_drawn(score: float, tmp_path: Path, drawn: list[Figure]) -> None:
    nothing = np.full(3, score)
    path = compare_plots.against_first(
        tmp_path / "x.png", first=("a", nothing), others={"b": nothing}, sure={"b": np.zeros(3)}
    )
    costs = {"parameters": 9, "flops_per_bin": 9.0, "bins_per_s": 9.0}
    unknown = {"bps_mean": None, "bps_interval": [None, None]} | costs
    certain = {"bps_mean": 0.5, "bps_interval": [None, None]} | costs  # no resampling has drawn a spike
    other = compare_plots.scores_and_costs(tmp_path / "costs.png", models={"a": unknown, "b": certain})
    assert is_picture(path) and is_picture(other)
    low, high = drawn[0].axes[0].get_xlim()
    assert low < 0 < high and len(drawn[1].axes[0].containers) == 1


def test_performance_and_center_errors(tmp_path: Path, drawn: list[Figure]) -> None:
    made = np.random.default_rng(0)
    rate, bps = np.exp(made.normal(size=60)), made.normal(0.5, 0.1, 60)
    bps[0] = np.nan
    path = evaluate_plots.performance(
        tmp_path / "performance.png",
        against={"distance (px)": made.uniform(0, 9, 60), "mean rate (Hz)": rate},
        scores={"bits per spike": bps, "part": bps / 2},
    )
    assert is_picture(path)
    assert len(drawn[0].axes) == 4 and drawn[0].axes[1].get_xscale() == "log"
    assert all(len(axes.collections[0].get_offsets()) == 59 for axes in drawn[0].axes)
    error, fraction = made.uniform(0, 4, 60), np.repeat([0.2, 0.8], 30)
    path = evaluate_plots.center_errors(
        tmp_path / "errors.png",
        error_px=error,
        ln_error_px=None,
        knowable_fraction=fraction,
        near_px=2.0,
        half=0.5,
    )
    assert is_picture(path)
    well = drawn[1].axes[0].lines[0]
    assert np.array_equal(well.get_xdata(), np.sort(error[30:])) and well.get_ydata()[-1] == 1.0


def test_behavior_share(tmp_path: Path, drawn: list[Figure]) -> None:
    bps = np.array([0.5, 0.7, np.nan])
    path = evaluate_plots.behavior_share(
        tmp_path / "share.png", bps=bps, controls={"frozen_gaze": bps - 0.2, "none": bps}
    )
    assert is_picture(path)
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["frozen gaze: mean 0.200", "none: mean 0.000"]
    assert len(axes.collections[0].get_offsets()) == 2
