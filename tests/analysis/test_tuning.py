"""Tuning and most exciting pictures of units that are known exactly: the simulator's own, and LN models."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_models import (
    CENTERS,
    COURSE,
    HEIGHT,
    LAGS,
    RATE_HZ,
    WIDTH,
    data_of,
    fields_UHW,
    known_ln,
    population,
    recorded,
    spec,
)
from tiny_models import MODELS_UNDER_CONTRACT
from tiny_models import spec as tiny_spec
from tiny_models import twin as make_twin
from torch import Tensor, nn

from vivit_core import load_twin
from vivit_core.analysis.receptive_fields.fields import gradient_fields
from vivit_core.analysis.screen import Screen
from vivit_core.analysis.tuning.draws import along, drawn, with_intervals
from vivit_core.analysis.tuning.measure import Projector, Shown, measure, preferences
from vivit_core.analysis.tuning.most_exciting import Ascent, Kind, best_natural, most_exciting, natural_power
from vivit_core.analysis.tuning.numbers import (
    Curves,
    Responses,
    against_truth,
    half_width_deg,
    naka_rushton,
    peak_of,
    preferred,
)
from vivit_core.analysis.tuning.plots import kind_of
from vivit_core.analysis.tuning.section import report_section
from vivit_core.analysis.tuning.tuning import tune
from vivit_core.data.simulate.population import Population
from vivit_core.models.ln import LN
from vivit_core.models.predictor import Predictor
from vivit_core.rf import maps as rf_maps
from vivit_core.specs import Batch
from vivit_core.stimuli.gratings import LONGEST_S, Gratings, grating

GRATINGS = Gratings(
    directions=16,
    spatial_frequencies=[0.06, 0.09, 0.13, 0.19],
    temporal_frequencies_hz=[2.0, 4.0, 8.0],
    contrast=0.5,
    contrasts=[0.1, 0.2, 0.4, 0.8],
    sizes_px=[2.0, 4.0, 8.0, 14.0],
    settle_s=0.25,
    analysed_s=0.5,
    draws=1,
    jitter_px=0.5,
    seed=0,
)


class SimulatedUnits(nn.Module):
    """The simulator's filters, without normalization, under the twin's contract."""

    spec = Predictor.spec

    def __init__(self, units: Population) -> None:
        super().__init__()
        self.units, self.specs, self.predict = units, {"known": spec()}, "all"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        frames_NTHW = batch["known"]["frames"][:, 0].numpy()
        energy_NTU, _ = self.units.filter(frames_NTHW)
        return {"known": torch.as_tensor(0.05 + 0.1 * energy_NTU)}


@pytest.fixture(scope="module")
def found() -> tuple[dict[str, np.ndarray], Population]:
    """Two simple and two complex units; one of each prefers a direction."""
    units = replace(population(), complex=np.array([0, 1, 0, 1], bool), direction=np.array([0, 1, -1, 0], np.int8))
    model: Any = SimulatedUnits(units)
    tuning = measure(Screen(model, "known", (0.0, 255.0)), GRATINGS, CENTERS, progress=False)
    preferred = preferences(tuning)
    return preferred | against_truth(preferred, units.truth()), units


def test_orientation_direction_and_kind_of_the_simulators_units(found: Any) -> None:
    preferred, _ = found
    assert preferred["orientation_error_deg"].max() < 6
    assert (
        preferred["direction_error_deg"][[1, 2]].max() < 25 and np.isnan(preferred["direction_error_deg"][[0, 3]]).all()
    )
    assert preferred["dsi"][[1, 2]].min() > 0.5 > 0.1 > preferred["dsi"][[0, 3]].max()
    assert preferred["kind_right"].all()
    assert (preferred["modulation_ratio"][[0, 2]] > 1.5).all()  # of a half-squared sine: 1.70
    assert (preferred["modulation_ratio"][[1, 3]] < 0.2).all()
    assert (preferred["osi"] > 0.8).all() and (preferred["circular_variance"] < 0.4).all()


def test_frequencies_of_the_simulators_units(found: Any) -> None:
    preferred, _ = found
    assert np.abs(preferred["spatial_frequency_error_octaves"]).max() < 0.4
    assert np.abs(preferred["temporal_frequency_error_octaves"]).max() < 0.8
    widths = preferred["spatial_frequency_bandwidth_octaves"]
    assert (widths[np.isfinite(widths)] > 0.5).all()


def test_size_tuning_without_a_surround(found: Any) -> None:
    preferred, _ = found
    assert np.abs(preferred["suppression_index"]).max() < 0.1
    assert preferred["blank_hz"] == pytest.approx(0.05 * RATE_HZ, rel=1e-3)


@pytest.mark.slow
def test_the_twin_that_comes_with_the_package_prefers_what_its_units_do() -> None:
    """At a contrast below that at which its units answer half of their most. At 0.25 they answer alike to most spatial
    frequencies, and the true neurons themselves are half an octave from those of their filters."""
    shown = replace(GRATINGS, directions=8, temporal_frequencies_hz=[4.0], contrast=0.06, contrasts=[], sizes_px=[])
    twin = load_twin("simulated")
    units = Population.draw(64, (36, 64), 120.0, np.random.default_rng([0, 0, 1]))  # of sim0, by the simulator's seed
    tuning = measure(Screen(twin, "sim0", (0.0, 255.0)), shown, twin.centers_px("sim0"), progress=False)
    found = against_truth(preferences(tuning), units.truth())
    assert np.nanmedian(found["orientation_error_deg"]) < 4
    assert np.nanmedian(np.abs(found["spatial_frequency_error_octaves"])) < 0.25
    assert np.nanmean(found["kind_right"]) > 0.7
    assert np.median(np.linalg.norm(twin.centers_px("sim0") - units.center_px, axis=1)) < 2


def test_gratings_move_where_they_say() -> None:
    """45 degrees is to the right and upwards, and upwards is towards smaller y."""
    clip = grating((15, 15), np.arange(8) / 80, 45.0, 0.1, 10.0, 1.0).numpy()
    step = 10.0 / 0.1 / 80 / np.sqrt(2)  # px a frame, along each axis
    y, x = np.mgrid[:15, :15] - 7.0
    expected = np.cos(2 * np.pi * 0.1 * ((x - 3 * step) - (y + 3 * step)) / np.sqrt(2))
    np.testing.assert_allclose(clip[3], expected, atol=1e-5)


def test_modulation_of_a_sine() -> None:
    times = np.arange(60) / 60
    rates = (5 + 3 * np.cos(2 * np.pi * 4 * times + 0.7))[:, None]
    found = Responses.of(rates, times, 4.0)
    assert (found.f0[0], found.f1[0], found.phase[0]) == pytest.approx((5, 3, 0.7))


def test_half_width() -> None:
    directions = np.deg2rad(np.arange(0, 360, 15))
    curve = np.exp(3 * (np.cos(2 * (directions - 0.3)) - 1))  # falls to half where cos = 1 - ln 2 / 3
    expected = np.rad2deg(np.arccos(1 - np.log(2) / 3) / 2)
    np.testing.assert_allclose(half_width_deg(np.stack([curve, np.ones(24)], 1)), [expected, np.nan], atol=0.1)
    directions_deg = np.arange(16) * 22.5
    cosines = np.stack([1 + np.cos(2 * np.deg2rad(directions_deg - best)) for best in np.linspace(0, 180, 37)], 1)
    np.testing.assert_allclose(half_width_deg(cosines), 45, atol=0.01)  # it was up to 1 degree wider


def test_sixteen_directions_tell_the_widths_that_the_docs_say() -> None:
    directions_deg = np.arange(16) * 22.5

    def told(width_deg: float) -> np.ndarray:
        sharpness = np.log(0.5) / (np.cos(2 * np.deg2rad(width_deg)) - 1)
        turned = [2 * np.deg2rad(directions_deg - best) for best in np.linspace(0, 22.5, 24)]
        return half_width_deg(np.exp(sharpness * (np.cos(np.stack(turned, 1)) - 1)))

    assert np.abs(told(25) - 25).max() < 1 and 1 < np.abs(told(20) - 20).max() < 2.2
    assert 13 < told(5).min() < told(5).max() < 19


def test_peak_and_width_on_octaves() -> None:
    values = 2.0 ** np.arange(-4, 1)
    gaussian = np.exp(-0.5 * ((np.log2(values) + 2.2) / 0.8) ** 2)
    peaks, widths = peak_of(values, np.stack([gaussian, np.arange(5.0), np.zeros(5)], 1))
    np.testing.assert_allclose(np.log2(peaks[0]), -2.2, atol=0.1)
    np.testing.assert_allclose(widths[0], 2.355 * 0.8, atol=0.3)
    assert peaks[1] == 1.0 and np.isnan(widths[1]) and np.isnan(peaks[2])


def test_contrast_response() -> None:
    contrasts = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
    response = 20 * contrasts**2 / (contrasts**2 + 0.2**2)
    found = naka_rushton(contrasts, np.stack([response, np.zeros(5)], 1))
    assert found["contrast_c50"][0] == pytest.approx(0.2, rel=0.1)
    assert found["contrast_exponent"][0] == pytest.approx(2.0, abs=0.2)
    assert found["contrast_rmax_hz"][0] == pytest.approx(20, rel=0.05)
    assert np.isnan(found["contrast_c50"][1])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"directions": 6}, "directions=6"),
        ({"spatial_frequencies": [0.7]}, r"0\.7"),
        ({"spatial_frequencies": [0.25, 0.5]}, "no direction can be told"),
        ({"spatial_frequencies": [0.05, 0.25, 0.12]}, r"spatial_frequencies=.* does not rise"),
        ({"temporal_frequencies_hz": [0.0]}, "not above 0 Hz"),
        ({"temporal_frequencies_hz": [4.0, 2.0]}, "temporal_frequencies_hz=.* does not rise"),
        ({"contrasts": [0.1, 0.1]}, "contrasts=.* does not rise"),
        ({"sizes_px": [20.0, 3.0, 9.0]}, "sizes_px=.* does not rise"),
        ({"analysed_s": 0.0}, "analysed_s=0.0"),
        ({"draws": 0}, "draws=0"),
        ({"jitter_px": -1.0}, "jitter_px=-1.0"),
        ({"contrast": 0.0}, "contrast=0.0"),
    ],
)
def test_gratings_that_cannot_be_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(GRATINGS, **changes)


def test_responses_count_for_the_fewest_whole_cycles() -> None:
    short = replace(GRATINGS, analysed_s=0.25)
    assert short.analysed_bins(120.0) == [60, 30, 30] and short.common_s(120.0) == 0.5
    assert short.analysed_bins(30.0) == [15, 15, 15]  # 8 Hz has 7.5 bins in two cycles
    assert replace(short, temporal_frequencies_hz=[7.0]).analysed_bins(60.0) == [60]
    with pytest.raises(ValueError, match=r"2 to 16 cycles of 7\.3 Hz are no whole .* set .*=\[7\.272727\], .* 33 bins"):
        replace(short, temporal_frequencies_hz=[7.3]).analysed_bins(60.0)
    with pytest.raises(ValueError, match=r"16\.0 Hz cannot be shown at 30 frames"):
        replace(short, temporal_frequencies_hz=[16.0]).analysed_bins(30.0)


@pytest.mark.parametrize("rate_hz", [23.976, 29.97, 59.94, 60.02, 75.0])
@pytest.mark.parametrize("wanted", [[2.0, 4.0, 8.0], [1.0, 1.5, 3.0, 7.3]])
def test_the_frequencies_that_are_proposed_have_whole_cycles_in_one_short_time(
    rate_hz: float, wanted: list[float]
) -> None:
    """They had when each was shown alone, and together after 28 s."""
    words = replace(GRATINGS, temporal_frequencies_hz=wanted).remedy(rate_hz)
    proposed = [float(hz) for hz in words.split("[")[1].split("]")[0].split(",")]
    np.testing.assert_allclose(proposed, wanted, rtol=0.011)
    assert replace(GRATINGS, temporal_frequencies_hz=proposed).common_s(rate_hz) <= LONGEST_S


def test_frequencies_that_are_whole_together_only_after_long_are_refused() -> None:
    unlike = replace(GRATINGS, analysed_s=0.25, temporal_frequencies_hz=[120 / 41, 120 / 17, 120 / 13])
    assert unlike.analysed_bins(120.0) == [41, 34, 39]
    with pytest.raises(
        ValueError, match=r"temporal_frequencies_hz: cycles of \[2\.9.* 453 s at 120 frames a second.*set"
    ):
        unlike.common_s(120.0)


def test_fewer_cycles_tell_the_same() -> None:
    model: Any = SimulatedUnits(replace(population(), complex=np.array([0, 1, 0, 1], bool)))
    long, short = (
        measure(Screen(model, "known", (0.0, 255.0)), replace(GRATINGS, analysed_s=s), CENTERS, progress=False)
        for s in (0.5, 0.25)
    )
    # Of two opposite directions with the same response rounding names one.
    np.testing.assert_array_equal(short.best_U3 % 8, long.best_U3 % 8)
    scale = long.response_DSFU.max()
    np.testing.assert_allclose(short.f0_DSFU, long.f0_DSFU, atol=0.02 * scale)
    np.testing.assert_allclose(short.f1_DSFU, long.f1_DSFU, atol=0.02 * scale)
    ends = np.array([30, 15, 15])[short.best_U3[:, 2]]  # bins of whole cycles of 2, 4 and 8 Hz
    np.testing.assert_array_equal(np.isfinite(short.course_TU).sum(0), ends)
    first = short.course_TU[: ends[0], 0]
    assert first.mean() == pytest.approx(short.f0_DSFU[(*short.best_U3[0], 0)])


def test_without_a_time_to_settle_the_first_bin_counts() -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    for settle_s, bins in ((0.0, 0), (0.001, 1), (0.25, 15)):
        projector = Projector(screen, replace(GRATINGS, settle_s=settle_s), progress=False)
        assert len(projector.clip(Shown((0, 0, 1), 0.5))) == bins + projector.analysed[1]


def test_clips_of_different_lengths_are_shown_in_their_order() -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    clips = [torch.randn(bins, HEIGHT, WIDTH) * 0.1 for bins in (20, 20, 30, 20)]
    shown = list(screen.show(clips, 4, "clips", progress=False))
    assert [tuple(batch.shape[:2]) for batch, _ in shown] == [(2, 20), (1, 30), (1, 20)]
    for clip, rates_TU in zip(clips, [own for _, rates in shown for own in rates], strict=True):
        torch.testing.assert_close(rates_TU, screen.rates(clip[None])[0].detach())


QUICK = replace(
    GRATINGS, directions=4, spatial_frequencies=[0.1], temporal_frequencies_hz=[4.0], contrasts=[0.5], sizes_px=[6.0]
)


def counted(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many clips it shows from now on, by what they are for."""
    shown: dict[str, int] = {}
    show = screen.show

    def counting(clips: Any, total: int, what: str, progress: bool) -> Any:
        shown[what] = total
        return show(clips, total, what, progress)

    monkeypatch.setattr(screen, "show", counting)
    return shown


def test_full_field_contrasts_are_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs of units prefer the same grating; each has the same response as if it were alone.

    All prefer a direction: a unit that does not has two best gratings, and rounding chooses one of them.
    """
    alike = ("center_px", "orientation_deg", "spatial_frequency", "size_px", "temporal_rate_per_s", "complex")
    twins = replace(
        population(),
        direction=np.array([1, 1, -1, -1], np.int8),
        **{name: np.repeat(getattr(population(), name)[:2], 2, 0) for name in alike},
    )
    model: Any = SimulatedUnits(twins)
    screen = Screen(model, "known", (0.0, 255.0))
    shown = counted(screen, monkeypatch)
    found = measure(screen, GRATINGS, CENTERS, progress=False)
    assert (found.best_U3[::2] == found.best_U3[1::2]).all() and (found.best_U3[0] != found.best_U3[2]).any()
    assert shown["contrasts"] == 4 * 2 and shown["sizes"] == 4 * 4  # contrasts, and diameters of each unit
    times = np.arange(-15, 30) / RATE_HZ
    blank = model({"known": {"frames": torch.full((1, 1, 45, HEIGHT, WIDTH), 120.0)}})["known"][0, 15:] * RATE_HZ
    for unit, (d, s, f) in enumerate(found.best_U3.tolist()):
        hz = GRATINGS.temporal_frequencies_hz[f]
        direction, cycles = GRATINGS.directions_deg[d], GRATINGS.spatial_frequencies[s]
        for k, contrast in enumerate(GRATINGS.contrasts):
            rates = screen.rates(grating((HEIGHT, WIDTH), times, direction, cycles, hz, contrast)[None])[0, 15:]
            alone = Responses.of(rates.double().numpy(), times[15:], hz)
            expected = alone.f1[unit] if found.simple_U[unit] else alone.f0[unit] - float(blank[:, unit].mean())
            assert found.contrast_KU[k, unit] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_contrast_that_was_shown_already_is_not_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    every = measure(screen, replace(QUICK, contrasts=[0.25, 0.499999, 0.9]), CENTERS, progress=False)
    shown = counted(screen, monkeypatch)
    found = measure(screen, replace(QUICK, contrasts=[0.25, 0.5, 0.9]), CENTERS, progress=False)
    assert shown["contrasts"] == 2 * len(np.unique(found.best_U3, axis=0))
    np.testing.assert_allclose(found.contrast_KU, every.contrast_KU, rtol=1e-3)


def test_selectivity_by_hand() -> None:
    """Ten spikes to the best direction, five to its opposite, two and four to the orthogonal ones."""
    one = np.ones((1, 1))
    curves = Curves(
        np.array([[10.0], [2.0], [5.0], [4.0]]), one, one, one, np.array([[8.0], [6.0]]), 4 * one[0], one[0]
    )
    found = {name: values[0] for name, values in preferred(QUICK, curves).items()}
    assert (found["best_hz"], found["direction_deg"], found["orientation_deg"]) == (10.0, 0.0, 90.0)
    assert found["osi"] == pytest.approx((10 - 3) / (10 + 3)) and found["dsi"] == pytest.approx((10 - 5) / (10 + 5))
    assert found["circular_variance"] == pytest.approx(1 - (10 - 2 + 5 - 4) / 21)
    assert found["modulation_ratio"] == pytest.approx(1 / 4) and found["suppression_index"] == pytest.approx(2 / 8)


# Intervals ------------------------------------------------------------------------------------------------------------
def test_intervals_are_of_resampled_draws() -> None:
    """Three draws with best responses of 1, 2 and 3 over an orthogonal one of 1; each is drawn thrice in 1 of 27."""
    tuning = measure(
        Screen(known_ln(gain=0.2), "known", (0.0, 255.0)), replace(QUICK, draws=3), CENTERS, progress=False
    )
    best = np.array([1.0, 2.0, 3.0])
    one = np.ones(3)
    curves = Curves(
        direction_DX=np.stack([best, one, best / 2, one]),
        spatial_SX=best[None],
        temporal_FX=best[None],
        contrast_KX=best[None],
        size_AX=np.stack([2 * best, best]),
        above_gray_X=one,
        f1_X=best,
    )
    found = with_intervals(preferences(tuning), tuning, {2: curves})

    def told(name: str) -> list[float]:
        return [found[f"{name}{end}"][2] for end in ("", "_low", "_high")]

    assert told("osi") == pytest.approx([1 / 3, 0.0, 1 / 2])
    assert told("dsi") == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert told("modulation_ratio") == pytest.approx([2, 1, 3])
    assert told("suppression_index") == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert told("best_hz") == pytest.approx([2, 1, 3])
    assert np.isnan(found["osi_low"][[0, 1, 3]]).all() and np.isfinite(found["osi"]).all()
    # Fewer than three draws have no interval.
    twice = Curves(*(values[..., :2] for values in curves.arrays()))
    few = with_intervals(preferences(tuning), replace(tuning, gratings=replace(tuning.gratings, draws=2)), {2: twice})
    assert few["best_hz"][2] == 1.5 and np.isnan(few["osi_low"]).all()


@pytest.mark.parametrize(
    ("full", "told"),
    [
        ([1.0, 1.0, 3.9], [6.0, 6.0, np.inf]),  # the whole frame is preferred where the third draw is drawn twice
        ([1.0, 1.0, 2.1], [6.0, 6.0, np.inf]),  # where it is drawn thrice, in 1 of 27
        ([1.0, 3.0, 3.0], [np.inf, 6.0, np.inf]),
        ([3.0, 3.0, 3.0], [np.inf, np.inf, np.inf]),
        ([1.0, 1.0, 1.0], [6.0, 6.0, 6.0]),
    ],
)
def test_a_preferred_size_may_be_open(full: list[float], told: list[float]) -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    tuning = measure(screen, replace(QUICK, draws=3), CENTERS, progress=False)
    one = np.ones(3)
    curves = Curves(np.ones((4, 3)), one[None], one[None], one[None], np.array([2 * one, full]), one, one)
    found = with_intervals(preferences(tuning), tuning, {2: curves})
    assert [found[f"preferred_size_px{end}"][2] for end in ("", "_low", "_high")] == told
    # Without a disc beside it the whole frame is no size.
    alone = preferences(measure(screen, replace(QUICK, sizes_px=[]), CENTERS, progress=False))
    assert np.isnan(alone["preferred_size_px"]).all()


def test_a_number_that_many_resamplings_do_not_define_has_no_interval() -> None:
    """F0 falls below the rate at gray where the third draw is drawn twice, in 7 of 27."""
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    tuning = measure(screen, replace(QUICK, draws=3), CENTERS, progress=False)
    one = np.ones(3)
    above = np.array([3.0, 3.0, -4.0])
    curves = Curves(np.ones((4, 3)), one[None], one[None], one[None], np.ones((2, 3)), above_gray_X=above, f1_X=one)
    found = with_intervals(preferences(tuning), tuning, {2: curves})
    assert found["modulation_ratio"][2] == pytest.approx(1.5)
    assert np.isnan([found[f"modulation_ratio_{end}"][2] for end in ("low", "high")]).all()
    assert np.isfinite([found[f"best_hz_{end}"][2] for end in ("low", "high")]).all()


def test_intervals_of_angles_lie_beside_them() -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    tuning = measure(screen, replace(QUICK, directions=16, draws=3), CENTERS, progress=False)
    directions = tuning.gratings.directions_deg
    turned = np.stack([np.cos(np.deg2rad(directions - at)) + 1 for at in (265.0, 272.0, 273.0)], 1) ** 4
    one = np.ones(3)
    curves = Curves(turned, one[None], one[None], one[None], np.ones((2, 3)), one, one)
    found = with_intervals(preferences(tuning), tuning, {0: curves})
    # Bars are orthogonal to the direction: 175, 2 and 3 degrees.
    assert found["orientation_deg"][0] == pytest.approx(0.0, abs=0.3)
    assert found["orientation_deg_low"][0] == pytest.approx(-5.0, abs=0.3)
    assert found["orientation_deg_high"][0] == pytest.approx(3.0, abs=0.3)
    assert [found[f"direction_deg{end}"][0] for end in ("", "_low", "_high")] == [270.0, 270.0, 270.0]


def test_draws_have_other_phases_and_places() -> None:
    model: Any = SimulatedUnits(replace(population(), complex=np.ones(4, bool)))
    screen = Screen(model, "known", (0.0, 255.0))
    gratings = replace(QUICK, contrasts=[0.2, 0.5], draws=3, jitter_px=2.0)
    tuning = measure(screen, gratings, CENTERS, progress=False)
    found = drawn(screen, tuning, CENTERS, [1, 3], progress=False)
    assert set(found) == {1, 3}
    measured, own = tuning.curves(), found[1]
    for first, curve in zip(measured.arrays(), own.arrays(), strict=True):
        np.testing.assert_array_equal(curve[..., 0], first[..., 1])
    # A complex cell cares for no phase, but for the place of a disc.
    for curve in (own.direction_DX, own.contrast_KX, own.size_AX[-1:]):
        np.testing.assert_allclose(curve, np.tile(curve[:, :1], 3), rtol=0.02, atol=0.02 * curve.max())
    assert np.abs(own.size_AX[0] / own.size_AX[0, 0] - 1).max() > 0.05
    plan = along(tuning, 1, CENTERS[1] + 1.0, 120.0)
    assert {shown.phase_deg for part in plan for shown in part} == {120.0}
    assert plan[4][0].disc == (18.0, 12.0, 6.0) and plan[4][-1].disc is None
    # What a draw shows is what it says.
    ((n, _, again),) = Projector(screen, gratings, False).show([plan[4][0]], "one")
    assert n == 0
    at_place = measure(screen, gratings, CENTERS + 1.0, progress=False).size_AU[0, 1]
    assert again.f0[1] - tuning.blank_U[1] == pytest.approx(at_place, rel=0.02)


def tuned(model: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    """The whole task on the known recording, in a second."""
    small: dict[str, Any] = {
        "units": None,
        "gratings": GRATINGS,
        "protocols": {},
        "lab_units": 1,
        "mei": ASCENT,
        "mei_units": 2,
        "mei_more": [],
        "natural": 3,
        "known": {},
    }
    return tune(model, data_of(recorded(folder)), out=folder / "out", progress=False, **(small | changes))


@pytest.mark.parametrize("units", [[1], [0, 1, 2, 3]])
def test_undriven_units_have_no_preferences(tmp_path: Path, units: list[int]) -> None:
    summary = tuned(
        known_ln(gain=0.2, mute=units),
        tmp_path,
        gratings=replace(GRATINGS, directions=4),
        mei=replace(ASCENT, steps=2),
        mei_units=4,
    )
    everyone = summary["groups"]["all"]
    assert everyone["units"] == 4 and everyone["undriven"] == len(units)
    assert (everyone["osi_median"] is None) == (everyone["modulated_share"] is None) == (len(units) == 4)
    rows = list(csv.DictReader((tmp_path / "out" / "tuning.csv").open()))
    told = {"recording", "unit", "driven", "blank_hz", "best_hz", "truth_orientation_deg", "truth_complex"}
    assert {name for name, cell in rows[1].items() if cell} == told
    assert [row["driven"] for row in rows] == ["0.0" if unit in units else "1.0" for unit in range(4)]
    section = report_section(summary, tmp_path / "out", "python run.py task=tuning")
    assert f"Of 4 units, {len(units)} respond to no grating by more than 10% of their rate" in section.text[1]
    assert len(section.pictures) == 4


class Dimmed(nn.Module):
    """Units that gratings slow down, and modulate a little, under the twin's contract."""

    spec = Predictor.spec

    def __init__(self) -> None:
        super().__init__()
        self.specs, self.predict = {"known": spec()}, "all"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        contrast_BT = (batch["known"]["frames"][:, 0, :, 10, 13].float() - 120) / 120
        return {"known": ((10 - 16 * contrast_BT.square() + 4 * contrast_BT) / RATE_HZ)[..., None].expand(-1, -1, 4)}


def test_a_unit_below_its_rate_at_gray_is_neither_simple_nor_complex() -> None:
    """F1/F0 is not defined there. What gratings raise in it is F1, and that is its response."""
    model: Any = Dimmed()
    tuning = measure(Screen(model, "known", (0.0, 255.0)), QUICK, CENTERS, progress=False)
    assert (tuning.curves().above_gray_X < -1).all()
    found = preferences(tuning)
    found |= against_truth(found, population().truth())
    assert found["driven"].all() and found["best_hz"] == pytest.approx(2.0, rel=0.01)
    for name in ("modulated", "modulation_ratio", "kind_right"):
        assert np.isnan(found[name]).all()
    assert kind_of(tuning, found | {"truth_complex": np.full(4, np.nan)}, 0) == "F0 below gray"


def test_a_slow_unit_is_driven_by_a_spike_in_ten_seconds() -> None:
    """The floor is in Hz where the rate at gray is low, and a share of it where it is high."""
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    found = measure(screen, QUICK, CENTERS, progress=False)
    best = found.curve(0).max(0)
    assert found.driven_U.all()
    assert not replace(found, response_DSFU=found.response_DSFU * 0.09 / best).driven_U.any()
    slow = replace(found, response_DSFU=found.response_DSFU * 0.11 / best)
    assert replace(slow, blank_U=np.full(4, 1.0)).driven_U.all()
    assert not replace(slow, blank_U=np.full(4, 1.2)).driven_U.any()


@pytest.mark.parametrize("size", [(31, 1), (1, 31)])
def test_lines_of_pixels_are_tuned_without_orientations(size: tuple[int, int]) -> None:
    line = replace(spec(), frame_shape=(1, *size))
    model = LN([line], duration_s=LAGS / RATE_HZ, patch=7, nonlinearity="exp")
    head = model.readout("known")
    with torch.no_grad():
        head.time_UL[:] = torch.as_tensor(COURSE)
        space = head.space_UP.view(4, 7, 7)
        (space[:, :, 3] if size[1] == 1 else space[:, 3])[:] = torch.tensor([-1.0, -1, 1, 2, 1, -1, -1]) * 0.3
    screen = Screen(model, "known", (0.0, 255.0))
    found = preferences(measure(screen, GRATINGS, np.zeros((4, 2)), progress=False))
    for name in ("orientation_deg", "osi", "circular_variance", "orientation_bandwidth_deg"):
        assert np.isnan(found[name]).all()
    assert found["driven"].all() and np.isfinite(found["spatial_frequency"]).all()
    ascent = replace(ASCENT, steps=3, naturalness=0.5)
    for kind in ("image", "clip"):
        pictures, hz = most_exciting(screen, torch.rand(9, LAGS, *size), [0], ascent, kind, progress=False)
        assert torch.isfinite(pictures).all() and np.isfinite(hz).all()


@pytest.mark.parametrize("name", sorted(MODELS_UNDER_CONTRACT))
def test_every_model_can_be_looked_into(name: str) -> None:
    """Gradients, gratings and pictures need nothing but the twin's contract, whatever its core and its frames' size."""
    twin = make_twin(
        MODELS_UNDER_CONTRACT[name] | {"frame_size": [12, 16]}, tiny_spec(height=14, width=18), predict="last"
    )
    screen = Screen(twin, "a", (0.0, 255.0))
    natural = 0.4 * torch.randn(3, 20, 14, 18, generator=torch.Generator().manual_seed(0))
    fields = gradient_fields(screen, natural, 10, progress=False)
    assert fields.map_ULHW.shape == (5, 10, 14, 18) and np.square(fields.map_ULHW).sum((1, 2, 3)).min() > 0
    found = preferences(measure(screen, QUICK, np.full((5, 2), 7.0), progress=False))
    assert np.isfinite(found["best_hz"]).all() and found["orientation_deg"].shape == (5,)
    ascent = replace(ASCENT, steps=8, picture_s=0.1)
    _, best_hz = most_exciting(screen, natural, [0, 3], ascent, "clip", progress=False)
    assert (best_hz >= found["blank_hz"][[0, 3]] * 0.99).all()


def test_everything_is_written(tmp_path: Path) -> None:
    summary = tuned(
        known_ln(gain=0.2),
        tmp_path,
        gratings=replace(GRATINGS, directions=8),
        mei=replace(ASCENT, steps=5),
        natural=6,
        known={("known", "a"): 0.7},
    )
    rows = list(csv.DictReader((tmp_path / "out" / "tuning.csv").open()))
    assert [row["unit"] for row in rows] == list("abcd")
    assert float(rows[0]["orientation_deg"]) == pytest.approx(20, abs=6)
    assert rows[0]["truth_spatial_frequency"] == "" and rows[1]["knowable_fraction"] == ""
    assert json.loads((tmp_path / "out" / "tuning.json").read_text()) == summary
    assert summary["groups"]["all"]["orientation_within_15deg"] == 1.0
    assert summary["groups"]["all, half of the oracle"]["units"] == 1
    assert len(summary["most_exciting"]) == 4 and all(e["truth_mei_hz"] is None for e in summary["most_exciting"])
    with np.load(tmp_path / "out" / "tuning.npz") as arrays:
        assert arrays["known/f0_DSFU"].shape == (8, 4, 3, 4)
        assert arrays["known/mei_clip"].shape == (2, LAGS, HEIGHT, WIDTH)
    written = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert written == {"tuning_known.png", "population.png", "exciting_known.png", "clips_known.gif"}
    section = report_section(summary, tmp_path / "out", "python run.py task=tuning")
    assert len(section.pictures) == 4 and len(section.tables) == 3  # one draw has no intervals
    assert section.explore is not None
    told = section.explore.plain()
    of = {column["key"]: column["values"] for column in told["columns"]}
    for name in ("osi", "direction_deg", "best_hz"):
        assert of[name] == pytest.approx([float(row[name]) for row in rows], rel=1e-6)
    curves = {panel["title"]: panel for panel in told["panels"]}
    over = ("direction", "spatial frequency", "temporal frequency", "contrast", "diameter")
    assert list(curves) == [f"By {name}" for name in over]
    by_direction = np.array(curves["By direction"]["values"])
    assert by_direction.max(1) == pytest.approx(of["best_hz"], rel=1e-3)
    # Of two opposite directions with the same response rounding names one, and another machine the other.
    at = [curves["By direction"]["x"].index(preferred) for preferred in of["direction_deg"]]
    assert by_direction[np.arange(4), at] == pytest.approx(by_direction.max(1), rel=1e-5)
    assert [len(curve) for curve in curves["By diameter"]["values"]] == [len(curves["By diameter"]["x"])] * 4
    assert not any("undriven" in text for text in section.text)
    # Rates far above those of natural pictures are named for what they are, where there are any.
    far = [e["mei_hz"] > 10 * e["natural_hz"] for e in summary["most_exciting"]]
    assert [e["far"] for e in summary["most_exciting"]] == far and 0 < sum(far) < 4
    assert f"Of 4 most exciting pictures, {sum(far)} drive" in section.text[2]
    near = summary | {"most_exciting": [e | {"far": False} for e in summary["most_exciting"]]}
    assert len(report_section(near, tmp_path / "out", "python run.py task=tuning").text) == 2


def test_some_units_alone(tmp_path: Path) -> None:
    """They have the numbers that they have among all, and what is shown for each alone is shown for them."""
    small = {"gratings": replace(GRATINGS, directions=8, draws=3), "mei": replace(ASCENT, steps=2), "mei_units": 1}
    (tmp_path / "all").mkdir()
    everyone = tuned(known_ln(gain=0.2), tmp_path / "all", **small, lab_units=4)
    some = tuned(known_ln(gain=0.2), tmp_path, **small, lab_units=4, units=["d", "b"])
    assert everyone["groups"]["all"]["units"] == 4 and some["groups"]["all"]["units"] == 2
    every, own = (list(csv.DictReader((tmp_path / x / "tuning.csv").open())) for x in ("all/out", "out"))
    assert [row["unit"] for row in own] == ["b", "d"]
    for row, among in zip(own, (every[1], every[3]), strict=True):
        for name in ("osi", "best_hz", "preferred_size_px", "osi_low", "truth_orientation_deg", "spatial_frequency"):
            assert float(row[name]) == pytest.approx(float(among[name]), rel=1e-4)
        assert float(row["orientation_error_deg"]) < 8
    assert {e["unit"] for e in some["most_exciting"]} <= {"b", "d"}
    with np.load(tmp_path / "out" / "tuning.npz") as arrays:
        assert arrays["known/unit_ids"].tolist() == ["b", "d"] and arrays["known/f0_DSFU"].shape[-1] == 2
    section = report_section(some, tmp_path / "out", "python run.py task=tuning")
    assert section.explore is not None and section.explore.plain()["names"] == ["b", "d"]


def test_true_neurons_are_shown_the_most_exciting_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivit_core.analysis.tuning.tuning.true_screen", lambda recording, screen: screen)
    few = {"mei": replace(ASCENT, steps=2), "mei_units": 1, "natural": 4, "lab_units": 0}
    summary = tuned(known_ln(gain=0.2), tmp_path, **few)
    assert [e["kind"] for e in summary["most_exciting"]] == ["image", "clip"]
    for e in summary["most_exciting"]:  # the twin itself in the true neurons' place
        assert e["truth_mei_hz"] == pytest.approx(e["mei_hz"], rel=1e-5)
        assert e["truth_natural_hz"] == pytest.approx(e["natural_hz"], rel=1e-5)
    for name in ("orientation_deg", "direction_deg", "spatial_frequency", "temporal_frequency_hz", "osi"):
        compared = summary["against_truth"][name]
        assert compared["units"] == 4 and compared["error_median"] == 0
    (table,) = (
        table
        for table in report_section(summary, tmp_path / "out", "run").tables
        if table.title == "Most exciting pictures"
    )
    assert table.columns[-2:] == ("truly (Hz)", "the natural one truly (Hz)")


# Most exciting pictures -----------------------------------------------------------------------------------------------

ASCENT = Ascent(
    steps=20,
    step=0.5,
    budget=0.2,
    jitter_px=0,
    naturalness=0.0,
    settle_s=0.1,
    picture_s=LAGS / RATE_HZ,
    diverse=3,
    diversity=0.5,
    seed=0,
)
SEEN = torch.randn(8, LAGS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))  # weighs nothing in ASCENT


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def test_most_exciting_pictures_of_a_linear_unit_are_its_filter() -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    clips, hz = most_exciting(screen, SEEN, [0, 2], ASCENT, "clip", progress=False)
    for clip, unit in zip(clips.numpy(), (0, 2), strict=True):
        assert cosine(clip, COURSE[:, None, None] * fields_UHW()[unit]) > 0.95
    images, _ = most_exciting(screen, SEEN, [0, 2], ASCENT, "image", progress=False)
    for image, unit in zip(images.numpy(), (0, 2), strict=True):
        assert abs(cosine(image[0], fields_UHW()[unit])) > 0.95
    # The response that is told is that of the picture, and as large as the budget allows.
    norm = 0.2 * screen.natural_contrast * (HEIGHT * WIDTH * LAGS) ** 0.5
    np.testing.assert_allclose(clips.flatten(1).norm(dim=1), norm, rtol=1e-3)
    np.testing.assert_allclose(hz, 0.2 * RATE_HZ * np.exp(0.2 * norm * 120 / 40), rtol=0.1)


def test_steps_begin_with_the_picture_and_rates_are_told_after_gray(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    bins: list[int] = []
    rates = screen.rates
    monkeypatch.setattr(screen, "rates", lambda clips: bins.append(clips.shape[1]) or rates(clips))
    images, hz = most_exciting(screen, SEEN, [0], replace(ASCENT, steps=3), "image", progress=False)
    assert bins == [LAGS] * 3 + [LAGS + 6]  # and 0.1 s of gray
    told = rates(torch.cat([torch.zeros(1, 6, HEIGHT, WIDTH), images.expand(-1, LAGS, -1, -1)], 1))[0, 6:, 0].mean()
    assert hz[0] == pytest.approx(float(told.detach()))


def test_pictures_keep_their_budget_and_range() -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    images, _ = most_exciting(screen, SEEN, [1], replace(ASCENT, budget=0.9, jitter_px=1), "image", progress=False)
    assert images.abs().max() <= 1 + 1e-6
    assert images.square().mean().sqrt() <= 0.9 * screen.natural_contrast + 1e-6


def smoothed(clips_BTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Clips whose pixels and frames are means of near ones, and the filter's power at each frequency of ``rfftn`` in
    twice their size."""
    sizes = [2 * size for size in clips_BTHW.shape[1:]]
    gain_THF = torch.ones(1, 1, 1)
    for axis, size in enumerate(sizes):
        frequency = (torch.fft.rfftfreq if axis == 2 else torch.fft.fftfreq)(size)
        along = 0.6 + 0.4 * torch.cos(2 * np.pi * frequency)
        gain_THF = gain_THF * along.reshape([-1 if i == axis else 1 for i in range(3)])
    spectrum = torch.fft.rfftn(clips_BTHW, s=sizes, dim=(1, 2, 3)) * gain_THF
    made = torch.fft.irfftn(spectrum, s=sizes, dim=(1, 2, 3))
    return made[:, : clips_BTHW.shape[1], : clips_BTHW.shape[2], : clips_BTHW.shape[3]], gain_THF.square()


def test_natural_power_is_that_of_the_frames() -> None:
    noise = torch.randn(400, LAGS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    flat = natural_power(noise)
    assert flat.shape == (2 * LAGS, 2 * HEIGHT, WIDTH + 1)
    torch.testing.assert_close(flat, torch.ones_like(flat), atol=0.35, rtol=0)
    clips, power_THF = smoothed(noise)
    found = natural_power(0.1 * clips)  # whatever the contrast
    both = torch.log(found), torch.log(power_THF)
    assert float(torch.corrcoef(torch.stack([each.flatten() for each in both]))[0, 1]) > 0.99
    # Frames are real, so that half of the frequencies stand for two; over all of them the mean is one.
    twice = torch.full((WIDTH + 1,), 2.0)
    twice[0] = twice[-1] = 1.0
    assert float((found * twice).sum() / (8 * LAGS * HEIGHT * WIDTH)) == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(natural_power(torch.zeros(3, 1, 4, 5)), torch.ones(1, 8, 6))  # one gray says nothing


@pytest.mark.parametrize("kind", ["image", "clip"])
def test_with_naturalness_a_linear_unit_has_the_average_of_natural_pictures_before_its_spikes(kind: Kind) -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    seen = torch.randn(400, LAGS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    for _ in range(4):
        seen, _ = smoothed(seen)
    (own,), _ = most_exciting(screen, seen, [0], ASCENT, kind, progress=False)
    (made,), _ = most_exciting(screen, seen, [0], replace(ASCENT, naturalness=1.0), kind, progress=False)
    power = natural_power(seen if kind == "clip" else seen[:, -1:])
    field = torch.as_tensor(fields_UHW()[0])
    linear = (torch.as_tensor(COURSE)[:, None, None] if kind == "clip" else 1) * field.expand(1, -1, -1)
    room = [2 * side if side > 1 else 1 for side in linear.shape]
    average = torch.fft.irfftn(torch.fft.rfftn(linear, s=room) * power, s=room)
    average = average[: linear.shape[0], :HEIGHT, :WIDTH]
    assert abs(cosine(own.numpy(), linear.numpy())) > 0.95
    assert abs(cosine(made.numpy(), average.numpy())) > 0.95
    assert abs(cosine(made.numpy(), linear.numpy())) < 0.9


def test_best_natural_picture() -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    generator = torch.Generator().manual_seed(0)
    natural = 0.3 * torch.randn(60, LAGS, HEIGHT, WIDTH, generator=generator)
    natural[17] = torch.as_tensor(COURSE[:, None, None] * fields_UHW()[3])
    clips, hz = best_natural(screen, natural, [3], ASCENT, "clip", progress=False)
    assert torch.equal(clips[0], natural[17])
    assert hz[0] == pytest.approx(0.2 * RATE_HZ * np.exp(0.2 * 3), rel=0.01)


def test_ascent_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="budget=0"):
        replace(ASCENT, budget=0.0)
    with pytest.raises(ValueError, match=r"naturalness=1\.5 is not from 0 to 1"):
        replace(ASCENT, naturalness=1.5)


def test_orientation_of_known_units_by_maps_agrees() -> None:
    """Tuning and maps count orientation alike."""
    fields = torch.as_tensor(fields_UHW())[:, None]
    by_map, _ = rf_maps.orientation(rf_maps.structure(fields), CENTERS, population().size_px / 4)
    assert rf_maps.orientation_error_deg(by_map, population().orientation_deg).max() < 5
