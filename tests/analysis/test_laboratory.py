"""The laboratory's protocols at units whose answers are known: rules made by hand, LN models, simulated neurons."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from known_models import CENTERS, HEIGHT, RATE_HZ, WIDTH, data_of, known_ln, population, recorded, spec
from matplotlib.figure import Figure
from PIL import Image
from shipped import simulator
from torch import Tensor

from vivit_core.analysis.bootstrap import INTERVAL, interval
from vivit_core.analysis.explore import explorer_columns
from vivit_core.analysis.screen import AnyScreen, Screen
from vivit_core.analysis.tuning import plots as tuning_plots
from vivit_core.analysis.tuning.laboratory import (
    TrueScreen,
    agreement,
    middle,
    pictures_for,
    run_protocols,
    sites_of,
    true_screen,
)
from vivit_core.analysis.tuning.laboratory_plots import draw_number
from vivit_core.analysis.tuning.measure import Tuning, measure
from vivit_core.analysis.tuning.more_exciting import more_pictures
from vivit_core.analysis.tuning.most_exciting import (
    Ascent,
    Kind,
    diverse_exciting,
    least_exciting,
    most_exciting,
    nearest,
    suppressing_surround,
)
from vivit_core.analysis.tuning.protocols.adaptation import Adaptation, decay_s
from vivit_core.analysis.tuning.protocols.base import (
    COVERAGE,
    Bench,
    Protocol,
    Site,
    bounds_of,
    first_fall,
    resamplings,
)
from vivit_core.analysis.tuning.protocols.motion import Motion
from vivit_core.analysis.tuning.protocols.natural import MOST_SCALED, NaturalSurround, partners, rms
from vivit_core.analysis.tuning.protocols.plaids import Plaids, partial_z
from vivit_core.analysis.tuning.protocols.sparse_noise import SparseNoise
from vivit_core.analysis.tuning.protocols.surround import Annuli, Surround
from vivit_core.analysis.tuning.section import laboratory, report_section
from vivit_core.analysis.tuning.tuning import tune
from vivit_core.cli.schema import conf_dir
from vivit_core.cli.tasks.tuning import chosen_protocols
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.simulate.neurons import true_neurons
from vivit_core.data.simulate.population import Population
from vivit_core.parts.build import build_all
from vivit_core.report.section import Table
from vivit_core.stimuli.gratings import Gratings
from vivit_core.stimuli.surrounds import Drift, ring

LAB: dict[str, Any] = yaml.safe_load((conf_dir() / "task" / "tuning.yaml").read_text())["lab"]
SHIPPED: dict[str, Protocol] = build_all("lab", LAB)
PLACE = (13.0, 10.0)
SITE = Site(0, PLACE, 8.0, Drift(0.0, 0.12, 4.0, 0.4), simple=False, analysed_s=0.5)
SURROUND = Surround(draws=4, seed=0, contrast=0.4, gaps_px=[0.0, 1.0, 2.0, 3.0], jitter_px=0.0)


class Rule(AnyScreen):
    """A screen before units that answer by a rule: frames (B, T, H, W) in contrast to rates (B, T, U) in Hz."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__(spec(), 120.0, 120.0)
        self.rule = rule

    def rates(self, contrast_BTHW: Tensor) -> Tensor:
        rates_BT = self.rule(contrast_BTHW)
        return rates_BT[..., None].expand(*rates_BT.shape, 4)


def bench(rule: Callable[[Tensor], Tensor], natural: Tensor | None = None) -> Bench:
    pictures = torch.zeros(0, HEIGHT, WIDTH) if natural is None else natural
    return Bench(Rule(rule), pictures, 0.25, 0.5, progress=False)


def power(clip_BTHW: Tensor, where_HW: Tensor) -> Tensor:
    return (clip_BTHW.square() * where_HW).sum((2, 3)) / where_HW.sum()


IN, OUT = 1 - ring((HEIGHT, WIDTH), PLACE, 6.0), ring((HEIGHT, WIDTH), PLACE, 12.0)


def divided(clip_BTHW: Tensor) -> Tensor:
    """5 Hz at gray; the center's power drives, the power further than 6 px away divides."""
    return 5 + 100 * power(clip_BTHW, IN) / (1 + 20 * power(clip_BTHW, OUT))


def test_a_divisive_surround_suppresses_as_it_must() -> None:
    found = SURROUND.run(bench(divided), [SITE], "surround").numbers
    # A drifting grating has half its squared contrast as power, on average over whole cycles.
    expected = 1 - 1 / (1 + 20 * 0.4**2 / 2)
    for name in ("iso_suppression", "cross_suppression"):
        value, low, high = found[name][0]
        assert value == pytest.approx(expected, abs=0.03)
        assert low <= value <= high
    assert found["orientation_tuned"][0, 0] == pytest.approx(0, abs=0.03)
    assert found["annulus_response"][0, 0] == pytest.approx(0, abs=1e-6)
    assert found["reach_px"][0].tolist() == [np.inf] * 3  # 3 px of gap still leave most of what is beyond 6 px


def test_an_oriented_surround_is_told_from_one_that_is_not() -> None:
    """The rule counts power along vertical bars alone, as differences from row to row are small there."""

    def oriented(clip: Tensor) -> Tensor:
        alike = torch.zeros_like(clip)
        alike[:, :, 1:-1] = (clip[:, :, :-2] + clip[:, :, 1:-1] + clip[:, :, 2:]) / 3
        alike[:, :, 1:-1] = (alike[:, :, 1:-1] + torch.roll(alike, 4, 2)[:, :, 1:-1]) / 2  # half a cycle of a cross one
        return 5 + 100 * power(clip, IN) / (1 + 20 * power(alike, OUT))

    found = SURROUND.run(bench(oriented), [SITE], "surround").numbers
    assert found["iso_suppression"][0, 0] > 0.5 > 0.2 > found["cross_suppression"][0, 0]
    assert found["orientation_tuned"][0] == pytest.approx(
        found["iso_suppression"][0, 0] - found["cross_suppression"][0, 0], abs=0.05
    )


def test_the_gap_that_halves_a_suppression() -> None:
    """Only power between 4 and 6 px from the center divides, so a gap of 1 px leaves about half, and 2 px nothing."""
    near = ring((HEIGHT, WIDTH), PLACE, 8.0, 12.0)
    found = SURROUND.run(
        bench(lambda clip: 5 + 100 * power(clip, IN) / (1 + 5 * power(clip, near))), [SITE], "surround"
    )
    assert 0.5 < found.numbers["reach_px"][0, 0] < 1.5
    curve, values = found.curves["by_gap"]
    assert curve.x == (0.0, 1.0, 2.0, 3.0) and (np.diff(values[0]) >= -1e-9).all()


def test_annuli_find_where_a_field_ends() -> None:
    annuli = Annuli(draws=3, seed=0, contrast=0.4, inner_px=[2.0, 4.0, 6.0, 8.0, 12.0], jitter_px=0.0)
    found = annuli.run(bench(lambda clip: 5 + 100 * power(clip, IN)), [SITE], "annuli").numbers
    assert found["field_px"][0, 0] == pytest.approx(6.0, abs=0.7)  # the rule's disc
    assert found["outside_response"][0, 0] == pytest.approx(0.0, abs=0.01)
    whole = annuli.run(bench(lambda clip: 5 + 100 * clip.square().mean((2, 3))), [SITE], "annuli").numbers
    assert whole["field_px"][0].tolist() == [np.inf] * 3 and 0.8 < whole["outside_response"][0, 0] < 1


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_units_that_are_not_driven_have_no_numbers(name: str) -> None:
    natural = 0.3 * torch.randn(30, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    small = {"draws": 3} if name not in ("sparse_noise",) else {"clips": 3}
    protocol: Any = replace(SHIPPED[name], **small)  # type: ignore[type-var]
    found = protocol.run(bench(lambda clip: 5 + 0 * clip.mean((2, 3)), natural), [SITE], name)
    assert set(found.numbers) == set(protocol.titles)
    assert all(np.isnan(values).all() and values.shape == (1, 3) for values in found.numbers.values())
    assert len(found.shown) >= 3 and all(frame.shape == (HEIGHT, WIDTH) for frame in found.shown.values())


def fading(tau_s: float, strength: float) -> Callable[[Tensor], Tensor]:
    """The center's power drives; its running mean, which forgets with ``tau_s``, divides."""
    keep = float(np.exp(-1 / (tau_s * RATE_HZ)))

    def rule(clip: Tensor) -> Tensor:
        drive_BT = power(clip, IN)
        trace, out = torch.zeros(len(drive_BT)), []
        for t in range(drive_BT.shape[1]):
            out.append(drive_BT[:, t] / (1 + strength * trace))
            trace = keep * trace + (1 - keep) * drive_BT[:, t]
        return 2 + 100 * torch.stack(out, 1)

    return rule


ADAPTATION = Adaptation(
    draws=3,
    seed=0,
    adapter_contrast=0.5,
    test_contrast=0.25,
    before_s=0.1,
    adapter_s=1.5,
    delays_s=[0.05, 0.2, 0.4, 0.8],
    test_s=0.1,
    after_s=0.05,
)


def test_adaptation_and_its_recovery() -> None:
    found = ADAPTATION.run(bench(fading(0.5, 4.0)), [SITE], "adaptation").numbers
    trace = 0.5**2 / 2 * (1 - np.exp(-1.5 / 0.5)) * np.exp(-0.05 / 0.5)
    assert found["index"][0, 0] == pytest.approx(1 - 1 / (1 + 4 * trace), rel=0.2)
    assert found["recovery_s"][0, 0] == pytest.approx(0.5, rel=0.25)
    assert 0 < found["last_index"][0, 0] < found["index"][0, 0]
    none = ADAPTATION.run(bench(fading(0.5, 0.0)), [SITE], "adaptation").numbers
    assert none["index"][0, 0] == pytest.approx(0, abs=1e-6) and np.isnan(none["recovery_s"][0, 0])


def test_what_an_adapter_leaves_behind_is_no_response_to_the_test() -> None:
    """A linear unit that is slow to fall silent does not adapt."""

    def slow(clip: Tensor) -> Tensor:
        drive_BT, level, out = power(clip, IN), torch.zeros(len(clip)), []
        for t in range(clip.shape[1]):
            level = 0.9 * level + 0.1 * drive_BT[:, t]
            out.append(level)
        return 2 + 100 * torch.stack(out, 1)

    found = ADAPTATION.run(bench(slow), [SITE], "adaptation").numbers
    assert found["index"][0, 0] == pytest.approx(0, abs=1e-4)


def test_a_time_of_recovery() -> None:
    x = np.array([0.05, 0.2, 0.6])
    curves = np.stack([0.8 * np.exp(-x / tau) for tau in (0.1, 0.5, 3.0)], 1)
    np.testing.assert_allclose(decay_s(x, curves), [0.1, 0.5, 3.0], rtol=0.05)
    flat, rising, below = np.full(3, 0.8), np.array([0.1, 0.3, 0.8]), -0.8 * np.exp(-x / 0.5)
    slow, quick = 0.8 * np.exp(-x / 50.0), np.array([0.8, 0.0, 0.0]) + np.exp(-x / 0.005)
    np.testing.assert_array_equal(decay_s(x, np.stack([flat, rising, slow], 1)), np.inf)  # longer than was looked
    assert np.isnan(decay_s(x, np.stack([below, quick], 1))).all()


def test_partial_correlations_tell_pattern_from_component() -> None:
    angles = np.deg2rad(np.arange(12) * 30)
    grating = np.exp(3 * (np.cos(angles) - 1))[:, None]
    component = np.roll(grating, 2, 0) + np.roll(grating, -2, 0)
    noise = 0.02 * np.random.default_rng(0).standard_normal((12, 1))
    pattern_z, component_z = partial_z(grating + noise, grating, component)
    assert pattern_z[0] > component_z[0] + 1.28
    pattern_z, component_z = partial_z(component + noise, grating, component)
    assert component_z[0] > pattern_z[0] + 1.28


def test_components_lie_on_both_sides_of_a_pattern() -> None:
    plaids = Plaids(draws=1, seed=0, contrast=0.2, directions=12, angle_deg=120.0)
    tuned = {deg: float(np.exp(3 * np.cos(np.deg2rad(deg - 90)) - 3)) for deg in plaids.directions_deg}
    response = {f"grating {deg:g}°": np.array([10 * r]) for deg, r in tuned.items()}
    response |= {
        f"plaid {deg:g}°": np.array([10 * (tuned[(deg + 60) % 360] + tuned[(deg - 60) % 360])]) for deg in tuned
    }
    found = plaids.numbers(response, 0.1)
    assert found["component_z"][0] > 10 > 1 > abs(found["pattern_z"][0])


@pytest.mark.parametrize("seed", range(5))
def test_a_unit_that_follows_a_prediction_exactly_has_numbers_whatever_rounding_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grating = np.exp(3 * (np.cos(np.deg2rad(np.arange(12) * 30)) - 1))[:, None]
    component = np.roll(grating, 2, 0) + np.roll(grating, -2, 0)

    def rounded(values: np.ndarray) -> np.ndarray:
        """Some values by one step of their last digit up or down."""
        return values + np.spacing(values) * rng.integers(-1, 2, values.shape)

    for sign in (1, -1):
        pattern_z, component_z = partial_z(sign * rounded(component), rounded(grating), rounded(component))
        assert sign * component_z[0] > 10 > 1 > abs(pattern_z[0])
        pattern_z, component_z = partial_z(sign * rounded(grating), rounded(grating), rounded(component))
        assert sign * pattern_z[0] > 10 > 1 > abs(component_z[0])


@pytest.fixture(scope="module")
def energy() -> Bench:
    """Complex cells of the simulator, which prefer a direction; without normalization."""
    units = replace(population(), complex=np.ones(4, bool), direction=np.array([1, 1, -1, -1], np.int8))
    return Bench(Energy(units), torch.zeros(0, HEIGHT, WIDTH), 0.25, 0.5, progress=False)


class Energy(Rule):
    def __init__(self, units: Population) -> None:
        super().__init__(lambda clip: clip)
        self.units = units

    def rates(self, contrast_BTHW: Tensor) -> Tensor:
        energy_NTU, _ = self.units.filter((127.5 + 127.5 * contrast_BTHW).numpy())
        return torch.as_tensor(3 + 10 * energy_NTU)


def directed(bench: Bench) -> list[Site]:
    """The units at their places, with the gratings they prefer."""
    units = population()
    turned = np.array([1, 1, -1, -1])
    return [
        Site(
            u,
            (float(CENTERS[u, 0]), float(CENTERS[u, 1])),
            12.0,
            # ±1 moves along ±(sin, cos) of the orientation in (x, y), y downwards.
            Drift(float(units.orientation_deg[u] - 90 * turned[u]) % 360, 0.12, 4.0, 0.4),
            simple=False,
            analysed_s=0.5,
        )
        for u in range(4)
    ]


def test_energy_units_follow_a_plaids_components(energy: Bench) -> None:
    plaids = Plaids(draws=3, seed=0, contrast=0.2, directions=12, angle_deg=120.0)
    shown: dict[str, int] = {}
    show = energy.screen.show

    def counted(clips: Iterator[Tensor], total: int, what: str, progress: bool) -> Any:
        shown[what] = shown.get(what, 0) + total
        return show(clips, total, what, progress)

    energy.screen.show = counted  # type: ignore[method-assign]
    try:
        found = plaids.run(energy, directed(energy), "plaids")
    finally:
        energy.screen.show = show  # type: ignore[method-assign]
    assert shown == {"plaids": 2 * 12 * 3}  # equal for all units, because they prefer the same frequencies
    assert (found.numbers["component_z"][:, 0] > 1.28).all() and (found.numbers["pattern_index"][:, 0] < -1.28).all()


def test_motion_of_directional_units(energy: Bench) -> None:
    found = Motion(draws=6, seed=0, contrast=0.2, gap_px=0.0).run(energy, directed(energy), "motion").numbers
    assert (found["direction_index"][:, 0] > 0.2).all()
    assert np.abs(found["same_suppression"][:, 0]).max() < 0.3  # they look no further than their disc
    assert (found["opponency"][:, 0] < 0.3).all()  # energies add up
    assert (found["direction_index"][:, 1] <= found["direction_index"][:, 0]).all()


def test_a_surround_that_moves_along_suppresses() -> None:
    """The rule takes the surround's motion from its phase: what came one pixel from the left."""

    def rule(clip: Tensor) -> Tensor:
        came = torch.zeros_like(clip)
        came[:, 1:] = (clip[:, 1:] - torch.roll(clip[:, :-1], 1, 3)).square()
        went = torch.zeros_like(clip)
        went[:, 1:] = (clip[:, 1:] - torch.roll(clip[:, :-1], -1, 3)).square()
        right = power(went.sqrt(), OUT) > 2 * power(came.sqrt(), OUT)
        return 5 + 100 * power(clip, IN) * torch.where(right, 0.25, 1.0)

    site = replace(SITE, drift=Drift(0.0, 0.1, 6.0, 0.4))  # one pixel a frame at 60 Hz
    found = Motion(draws=4, seed=0, contrast=0.2, gap_px=0.0).run(bench(rule), [site], "motion").numbers
    assert found["same_suppression"][0, 0] > 0.7 > 0.1 > abs(found["opposite_suppression"][0, 0])
    assert found["center_surround_index"][0, 0] == pytest.approx(0.6, abs=0.05)  # (1 − 1/4) / (1 + 1/4)


def test_motion_that_raises_no_rate_has_no_index() -> None:
    """Alone, the center drives; every surround takes more than that."""
    rng = np.random.default_rng(0)
    motion = Motion(draws=2, seed=0, contrast=0.2, gap_px=0.0)
    response = {name: -rng.random(3) for name in motion.conditions(SITE, bench(divided), rng)} | {"center": np.ones(3)}
    found = motion.numbers(response, 0.1)
    assert np.isnan(found["center_surround_index"]).all() and (found["direction_index"] == 1).all()


def test_lags_that_leave_no_bin_are_refused() -> None:
    noise: Any = replace(SHIPPED["sparse_noise"], clips=2, clip_s=0.101, lags_s=0.1)  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"lags_s=0.1 is 6 bins and clip_s=0.101 no more"):
        noise.run(bench(divided), [SITE], "noise")


def test_natural_pictures_in_their_own_and_a_foreign_surround() -> None:
    natural = 0.2 * torch.randn(6, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    natural *= torch.linspace(1, 3, 6)[:, None, None]  # of different contrast

    def rule(clip: Tensor) -> Tensor:
        """20 Hz for a center, 14 with its own surround, 10 with another one of the own one's contrast, else nothing."""
        rates = torch.zeros(clip.shape[:2])
        for picture in natural:
            own_center = ((clip - picture) * IN).abs().amax((2, 3)) < 1e-5
            own = (clip - picture).abs().amax((2, 3)) < 1e-5
            around, expected = power(clip, OUT), power(picture[None, None], OUT)
            alike = (around / expected - 1).abs() < 0.35
            told = torch.where(own, 14.0, torch.where(around == 0, 20.0, torch.where(alike, 10.0, 0.0)))
            rates = torch.where(own_center, told, rates)
        return rates

    lab = NaturalSurround(draws=6, seed=0, before_s=0.1, picture_s=0.2)
    found = lab.run(bench(rule, natural), [replace(SITE, diameter_px=8.0)], "natural").numbers
    assert found["own_suppression"][0, 0] == pytest.approx(0.3)
    assert found["foreign_suppression"][0, 0] == pytest.approx(0.5)
    assert found["own_minus_foreign"][0] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="draws=7, and the recording gives 6"):
        replace(lab, draws=7).run(bench(rule, natural), [SITE], "natural")


def test_a_foreign_surround_is_of_another_film() -> None:
    films = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    assert (films[partners(films)] != films).all()
    assert partners(np.zeros(6, int)).tolist() == [3, 4, 5, 0, 1, 2]  # of one film


def test_a_foreign_surround_has_the_contrast_of_a_skewed_picture_and_shows_what_pixels_can() -> None:
    """Dark pictures with bright spots reach far above 1; one is nearly gray."""
    rng = torch.Generator().manual_seed(0)
    skewed = (-torch.rand(6, HEIGHT, WIDTH, generator=rng).log() - 1).clamp(-1, 4)
    skewed[3] *= 1e-3
    lab = NaturalSurround(draws=6, seed=0, before_s=0.1, picture_s=0.2)
    table = bench(divided, skewed)
    plan: Any = lab.conditions(SITE, table, np.random.default_rng(0))
    around = ring((HEIGHT, WIDTH), SITE.center_px, SITE.diameter_px)
    own, foreign = ([one.surround * around for one in plan[name]] for name in ("own", "foreign"))
    ratio = np.array([rms(b) / rms(a) for a, b in zip(own, foreign, strict=True)])
    assert np.delete(ratio, 0) == pytest.approx(1.0, abs=0.05)
    assert ratio[0] * rms(own[0]) == pytest.approx(MOST_SCALED * rms(skewed[3] * around))  # picture 3 is its partner
    assert all(b.max() <= skewed.max() and b.min() >= skewed.min() for b in foreign)


def test_sparse_noise_finds_places_and_signs() -> None:
    screen = Screen(known_ln(gain=0.2, linear=1.0), "known", (0.0, 255.0))
    lab = Bench(screen, torch.zeros(0, HEIGHT, WIDTH), 0.25, 0.5, progress=False)
    noise = SparseNoise(contrast=0.8, density=0.1, check_px=2, hold_bins=2, clips=20, clip_s=2.0, lags_s=0.1, seed=0)
    sites = [replace(SITE, unit=u) for u in range(4)]
    found = noise.run(lab, sites, "noise").numbers
    error = np.hypot(found["x_px"][:, 0] - CENTERS[:, 0], found["y_px"][:, 0] - CENTERS[:, 1])
    assert error.max() < 1.5
    assert (found["diameter_px"][:, 0] < 10).all()
    assert (found["x_px"][:, 1] <= found["x_px"][:, 0] + 1e-9).all() and np.isfinite(found["x_px"]).all()


def test_intervals_are_over_draws() -> None:
    weights = resamplings(5, 0)
    assert weights.shape == (201, 5) and np.allclose(weights.sum(1), 1) and (weights[0] == 0.2).all()
    assert np.array_equal(weights, resamplings(5, 0)) and not np.array_equal(weights, resamplings(5, 1))
    found = replace(SURROUND, draws=2, jitter_px=2.0).run(bench(divided), [SITE], "surround").numbers
    assert np.isfinite(found["iso_suppression"][0, 0]) and np.isnan(found["iso_suppression"][0, 1:]).all()
    wide = replace(SURROUND, jitter_px=2.0, draws=6).run(bench(divided), [SITE], "surround").numbers
    narrow = replace(SURROUND, draws=6).run(bench(divided), [SITE], "surround").numbers
    spread = {name: np.ptp(of["iso_suppression"][0, 1:]) for name, of in (("wide", wide), ("narrow", narrow))}
    assert spread["wide"] > spread["narrow"]


def test_few_draws_hold_what_endlessly_many_would_say_less_often_than_an_interval_promises() -> None:
    """As often as the report says, of normally distributed draws around 0."""
    rng = np.random.default_rng(0)
    for draws, share in COVERAGE.items():
        means = rng.normal(0, 1, (4000, draws)) @ resamplings(draws, 0)[1:].T
        low, high = np.percentile(means, INTERVAL, axis=1)
        assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(share, abs=0.015), draws


@settings(deadline=None)
@given(values=st.lists(st.floats(-9, 9) | st.just(np.inf), min_size=1, max_size=300))
def test_an_interval_holds_what_it_would_if_infinite_resamplings_were_very_large(values: list[float]) -> None:
    low, high = interval(np.array(values))
    of_large = interval(np.minimum(values, 1e6))
    assert min(low, 1e6) <= of_large[0] and high >= of_large[1]
    # It is open where a resampling at the percentile, or the next one, is infinite.
    assert np.isinf(high) == (of_large[1] > 9)


def test_there_is_no_interval_of_the_draws_that_went_well() -> None:
    values = np.arange(200.0)
    assert bounds_of(values) == interval(values)
    few, many = values.copy(), values.copy()
    few[:10], many[:11] = np.nan, np.nan
    assert bounds_of(few) == interval(values[10:]) and np.isnan(bounds_of(many)).all()
    assert np.isnan(bounds_of(np.zeros(0))).all()


def test_a_unit_that_is_driven_in_some_draws_has_no_interval() -> None:
    """It answers at one of four phases, so that none of the drawn ones drives it in a third of the resamplings."""

    def choosy(clip: Tensor) -> Tensor:
        near = clip[:, 0, 10, 13] > 0.4 * np.sqrt(0.5)
        return 5 + 100 * power(clip, IN) * near[:, None]

    found = SURROUND.run(bench(choosy), [SITE], "surround").numbers["iso_suppression"]
    assert found[0, 0] == pytest.approx(0.0, abs=0.05) and np.isnan(found[0, 1:]).all()


def test_where_a_curve_first_falls() -> None:
    curve = np.array([[4.0, 1.0, 4.0], [2.0, 1.0, 4.0], [0.0, 1.0, 4.0]])
    np.testing.assert_allclose(first_fall([0.0, 1.0, 2.0], curve, np.array([3.0, 1.0, 1.0])), [0.5, 0.0, np.inf])
    np.testing.assert_array_equal(first_fall([0.0, 1.0, 2.0], curve, np.full(3, np.nan)), np.nan)


# --- the true neurons -------------------------------------------------------------------------------------------------
QUICK = Gratings(
    directions=4,
    spatial_frequencies=[0.1],
    temporal_frequencies_hz=[4.0],
    contrast=0.4,
    contrasts=[0.2, 0.4],
    sizes_px=[6.0, 12.0],
    settle_s=0.1,
    analysed_s=0.25,
    draws=3,
    jitter_px=0.5,
    seed=0,
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> ResampledRecording:
    settings = simulator(
        recordings=1, units=6, train_trials=3, val_trials=1, test_trials=1, repeated_stimuli=0, trial_s=0.5
    )
    (path,) = settings.make(tmp_path_factory.mktemp("cache"))
    return ResampledRecording(path, 120.0)


def test_a_twin_that_is_the_true_population_agrees_with_it(simulated: ResampledRecording) -> None:
    info = simulated.info
    own = replace(
        spec(), recording_id="sim0", frame_rate_hz=120.0, frame_shape=info.frame_shape,
        unit_ids=tuple(reversed(info.unit_ids)), unit_mean_counts=(0.1,) * 6,
    )  # fmt: skip
    looking = Rule(lambda clip: clip)
    looking.spec = own
    true = true_screen(simulated, looking)
    assert true is not None
    # The units in the twin's order, whatever the file's.
    clip = 0.4 * torch.randn(1, 30, *info.frame_shape[1:], generator=torch.Generator().manual_seed(0))
    expected = true.neurons.rates((120 + 120 * clip).numpy())[..., ::-1]
    np.testing.assert_allclose(true.rates(clip).numpy(), expected)

    centers_U2 = true.neurons.population.center_px[::-1].astype(float)
    tuning = measure(true, QUICK, centers_U2, progress=False)
    sites = sites_of(tuning, centers_U2, [0, 3])
    assert [site.unit for site in sites] == [0, 3] and {site.diameter_px for site in sites} <= {6.0, 12.0}
    table = Bench(true, torch.zeros(0, *info.frame_shape[1:]), 0.1, 0.25, progress=False)
    (run,) = run_protocols({"near": replace(SURROUND, draws=1, gaps_px=[0.0])}, table, table, sites)
    of = run.columns(6)
    assert np.isfinite(of["near_iso_suppression"]).sum() == 2
    told = agreement(of, "near_iso_suppression")
    assert told["units"] == 2 and told["error_median"] == 0
    # A twin that sees frames of another size is not compared.
    looking.spec = replace(own, frame_shape=(1, 10, 10))
    assert true_screen(simulated, looking) is None
    looking.spec = replace(own, frame_rate_hz=60.0)
    assert true_screen(simulated, looking) is None


def test_a_unit_that_no_disc_drives_has_half_the_frame(caplog: pytest.LogCaptureFixture) -> None:
    """It had the smallest disc, of whose responses below zero none is less than full."""
    one = np.ones((4, 1, 1, 2))
    sizes_AU = np.array([[-0.2, 1.0], [-0.1, 4.0], [-0.3, 4.1], [5.0, 3.0]])
    tuning = Tuning(
        replace(QUICK, sizes_px=[3.0, 6.0, 9.0]), (HEIGHT, WIDTH), 60.0, np.zeros(2), 5 * one, 0 * one,
        np.zeros((2, 3), int), np.zeros(2, bool), 5 * one, np.zeros(2), np.zeros((15, 2)), np.zeros((0, 2)), sizes_AU,
    )  # fmt: skip
    with caplog.at_level("INFO"):
        sites = sites_of(tuning, np.full((2, 2), 5.0), [0, 1])
    assert [site.diameter_px for site in sites] == [min(HEIGHT, WIDTH) / 2, 6.0]
    assert "1 of 2 units answer to no disc" in caplog.text


@pytest.mark.long
def test_protocols_tell_which_true_neurons_use_which_context(tmp_path: Path) -> None:
    """Twelve seconds of training trials calibrate the neurons; the settings are those that ship."""
    sys.path.insert(0, str(conf_dir().parent / "benchmarks"))
    try:
        from laboratory import by_kind
    finally:
        sys.path.pop(0)
    found = by_kind(["surround", "adaptation"], 16, 0, tmp_path)
    surround, adaptation = found.loc["surround"], found.loc["adaptation"]
    assert surround.at["iso_suppression", "surround"] > 0.4 > 0.1 > abs(surround.at["iso_suppression", "local"])
    assert surround.at["orientation_tuned", "surround"] > 0.3 > 0.1 > abs(surround.at["orientation_tuned", "local"])
    assert adaptation.at["index", "adaptation"] > 0.6 > 0.4 > adaptation.at["index", "local"]
    assert adaptation.at["recovery_s", "adaptation"] > 10 * adaptation.at["recovery_s", "local"]


def test_agreement_is_over_units_that_both_know() -> None:
    of = {"a": np.array([1.0, 2, 3, np.nan, 5]), "truth_a": np.array([1.5, 2, 2, 4, np.nan])}
    told = agreement(of, "a")
    assert told["units"] == 3 and told["error_median"] == 0.5
    assert told["correlation"] == pytest.approx(np.corrcoef([1, 2, 3], [1.5, 2, 2])[0, 1])
    assert np.isnan(agreement({"a": np.array([np.nan]), "truth_a": np.array([1.0])}, "a")["error_median"])


def test_numbers_beyond_what_was_shown_count_in_medians_and_are_told() -> None:
    of = {"a": np.array([np.inf, np.inf, 6, 9, 3, np.nan]), "truth_a": np.array([np.inf, 9, 6, 9, 4, 1.0])}
    found = agreement(of, "a")
    assert found["units"] == 5 and found["beyond"] == 2 and found["error_median"] == 0.0
    assert found["twin_median"] == found["truth_median"] == 9.0
    assert found["correlation"] == pytest.approx(np.corrcoef([6, 9, 3], [6, 9, 4])[0, 1])
    of = {
        "a": np.array([np.inf, 6, np.inf]),
        "a_low": np.array([6, 3, np.nan]),
        "a_high": np.array([np.inf, 6, np.nan]),
    }
    found = middle({**of, "truth_a": of["a"]})
    assert found == {
        "units": 3, "beyond": 2, "open_intervals": 1, "without_interval": 1, "median": np.inf, "interval_width": np.inf,
    }  # fmt: skip


def test_an_interval_of_rounding_alone_has_no_width() -> None:
    of = {"a": np.array([0.1 * 3, 60.0]), "a_low": np.array([0.3, 60.0]), "a_high": np.array([0.1 * 3, 60 + 1.4e-14])}
    assert middle({**of, "truth_a": of["a"]})["interval_width"] == 0.0
    wide = {**of, "a_high": np.array([0.3001, 60.5])}
    assert middle({**wide, "truth_a": of["a"]})["interval_width"] == pytest.approx((0.0001 + 0.5) / 2)


def told_by_page(draws: int) -> tuple[list[Table], str]:
    of = {"title": "preferred size (px)", "units": 3, "beyond": 2, "open_intervals": 2, "without_interval": 1}
    of |= {"median": None, "interval_width": None}
    compared = {"units": 3, "beyond": 2, "twin_median": None, "truth_median": 9.0, "error_median": None}
    summary = {"gratings": {"preferred_size_px": of}, "draws": draws, "protocols": {}}
    summary["against_truth"] = {"preferred_size_px": compared | {"correlation": None}}
    tables: list[Table] = []
    text: list[str] = []
    laboratory(summary, tables, text)
    return tables, " ".join(text)


def test_the_page_says_what_is_beyond_and_how_wide_intervals_of_few_draws_are() -> None:
    (medians, truth), said = told_by_page(draws=4)
    assert medians.rows == [("gratings", "preferred size (px)", 3, "beyond", "beyond")]
    assert truth.rows == [("gratings", "preferred size (px)", 3, "beyond", 9.0, "beyond", None)]
    assert said.count("gratings, preferred size (px): 2 of 3") == 2
    assert "has no interval of it: gratings, preferred size (px): 1 of 3" in said
    assert "fewer than 10 draws are too narrow" in said and "0.79 of 4 draws" in said
    (_, _), enough = told_by_page(draws=10)
    (_, _), none = told_by_page(draws=2)
    assert "too narrow" not in enough + none and "has no interval" not in none


def test_a_picture_counts_what_has_no_place_on_its_axes() -> None:
    rows = [
        {"x": 6.0, "x_low": 3.0, "x_high": np.inf, "truth_x": 6.0},
        {"x": 9.0, "x_low": 6.0, "x_high": 9.0, "truth_x": 6.0},
        {"x": np.inf, "x_low": 9.0, "x_high": np.inf, "truth_x": 9.0},
    ]
    alone = [{"x": row["x"]} for row in rows]
    for shown, words in ((rows, "median error 3, 3 units, 1 beyond"), (alone, "twin, 1 beyond")):
        axes = Figure().subplots()
        draw_number(axes, shown, "x", "a number")
        assert words in axes.get_xlabel()
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()
    columns = {column.key: column for column in explorer_columns(pandas.DataFrame(rows), {"x": "size (px)"})}
    assert explorer_columns(pandas.DataFrame({"bps": [-np.inf, 1.0]}), {})[0].title == "bps; infinite for 1"
    titles = [columns[key].title for key in ("x", "x_high", "truth_x")]
    assert titles == ["size (px); infinite for 1", "size (px), to; infinite for 2", "truth x"]


def test_preferred_values_are_compared_as_angles_and_ratios() -> None:
    of = {"orientation_deg": np.array([178.0, 90.0]), "neuron_orientation_deg": np.array([2.0, 80.0])}
    told = agreement(of, "orientation_deg")
    assert told["error_median"] == pytest.approx(7.0) and np.isnan(told["twin_median"])
    assert np.isnan(agreement({name: values * 1.0 for name, values in of.items()}, "orientation_deg")["correlation"])
    of = {"direction_deg": np.array([350.0, 90.0]), "neuron_direction_deg": np.array([10.0, 270.0])}
    assert agreement(of, "direction_deg")["error_median"] == pytest.approx(100.0)
    of = {"spatial_frequency": np.array([0.1, 0.1]), "neuron_spatial_frequency": np.array([0.2, 0.05])}
    told = agreement(of, "spatial_frequency")
    assert told["error_median"] == pytest.approx(1.0) and told["truth_median"] == pytest.approx(0.125)


# --- the whole --------------------------------------------------------------------------------------------------------
def test_everything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plot_tuning", "plot_population"):  # which test_tuning.py looks at
        monkeypatch.setattr(tuning_plots, name, lambda *args: None)
    protocols = {
        "near": replace(SURROUND, draws=3, gaps_px=[0.0, 2.0]),
        "MyNatural": NaturalSurround(draws=3, seed=0, before_s=0.1, picture_s=0.1),  # whose file has another name
    }
    summary = tune(
        known_ln(gain=0.2),
        data_of(recorded(tmp_path)),
        units=None,
        gratings=QUICK,
        protocols=protocols,
        lab_units=2,
        mei=None,
        mei_units=0,
        mei_more=[],
        natural=4,
        out=tmp_path / "out",
        known={},
        progress=False,
    )
    assert json.loads((tmp_path / "out" / "tuning.json").read_text()) == summary
    rows = list(csv.DictReader((tmp_path / "out" / "tuning.csv").open()))
    ran = [row for row in rows if row["near_iso_suppression"]]
    assert len(ran) == 2 and all(row["truth_near_iso_suppression"] == "" for row in rows)
    for row in ran:
        low, value, high = (float(row[f"near_iso_suppression{end}"]) for end in ("_low", "", "_high"))
        assert low <= value <= high and abs(value) < 0.5
        low, value, high = (float(row[f"best_hz{end}"]) for end in ("_low", "", "_high"))
        assert low <= value <= high
    assert [name for name in rows[0] if not defined(name, summary["methods"])] == []
    others = [row for row in rows if not row["near_iso_suppression"]]
    assert others and all(row["osi"] and not row["osi_low"] for row in others)
    of_osi = summary["gratings"]["osi"]
    assert of_osi["units"] == 2 and of_osi["median"] == pytest.approx(np.median([float(row["osi"]) for row in ran]))
    widths = [float(row["osi_high"]) - float(row["osi_low"]) for row in ran]
    assert of_osi["interval_width"] == pytest.approx(np.median(widths))
    assert summary["gratings"]["orientation_deg"]["median"] is None
    told = summary["protocols"]["near"]
    assert told["units"] == 2 and told["over"] == "phases and places"
    assert told["numbers"]["iso_suppression"]["median"] == pytest.approx(
        np.median([float(row["near_iso_suppression"]) for row in ran])
    )
    with np.load(tmp_path / "out" / "tuning.npz") as arrays:
        assert arrays["near_by_gap_x"].tolist() == [0.0, 2.0]
        assert np.isfinite(arrays["known/near_by_gap_UX"]).all(1).sum() == 2
    section = report_section(summary, tmp_path / "out", "python run.py task=tuning")
    assert [(note.title, len(note.rows)) for note in section.notes] == [
        ("How the numbers are defined", len(summary["methods"]))
    ]
    names = [path.name for path, _ in section.pictures]
    assert all(path.is_file() for path, _ in section.pictures)
    assert sum(name.startswith("protocol_") for name in names) == 2 and "against_truth.png" not in names
    assert "The laboratory: medians over units" in [table.title for table in section.tables]
    assert section.explore is not None
    panels = {panel["title"]: panel for panel in section.explore.plain()["panels"]}
    assert panels["near: iso surround by distance"]["x"] == [0.0, 2.0]


def defined(column: str, methods: Mapping[str, str]) -> bool:
    """Whether a column is an id, or a number that has a method: bounds and the true neuron's have the number's."""
    number = column.removesuffix("_low").removesuffix("_high").removeprefix("truth_").removeprefix("neuron_")
    return column in ("recording", "unit") or column in methods or number in methods


# --- other pictures than the most exciting ----------------------------------------------------------------------------
ASCENT = Ascent(
    steps=25,
    step=0.5,
    budget=0.3,
    jitter_px=0,
    naturalness=0.0,
    settle_s=0.1,
    picture_s=0.15,
    diverse=3,
    diversity=0.0,
    seed=0,
)
SEEN = torch.randn(8, 9, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))  # weighs nothing in ASCENT


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / one.norm() / other.norm())


@pytest.mark.parametrize("kind", ["image", "clip"])
def test_the_least_exciting_picture_of_a_linear_unit_is_the_most_exciting_one_turned_over(kind: Kind) -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    most, most_hz = most_exciting(screen, SEEN, [0, 2], ASCENT, kind, progress=False)
    least, least_hz = least_exciting(screen, SEEN, [0, 2], ASCENT, kind, progress=False)
    assert [cosine(a, b) < -0.95 for a, b in zip(most, least, strict=True)] == [True, True]
    blank_hz = screen.rates(torch.zeros(1, 20, HEIGHT, WIDTH))[0, -1, [0, 2]].detach().numpy()
    assert (least_hz < 0.9 * blank_hz).all() and (most_hz > 1.1 * blank_hz).all()
    budget = ASCENT.budget * screen.natural_contrast
    assert least.square().mean((1, 2, 3)).sqrt().numpy() == pytest.approx([budget] * 2, rel=1e-3)


@pytest.mark.parametrize(("kind", "gain"), [("image", 0.3), ("clip", 0.1)])  # a clip can fit the filter's time too
def test_diverse_pictures_differ_and_excite(kind: Kind, gain: float) -> None:
    """A unit that squares its filter's response likes an image and its negative alike, and nothing else."""
    screen = Screen(known_ln(linear=0.0, quadratic=1.0, gain=gain), "known", (0.0, 255.0))
    fifty = replace(ASCENT, steps=50)  # with fewer, what pushes them apart is noise too
    two = replace(fifty, diverse=2, diversity=2.0)
    pictures, hz = diverse_exciting(screen, SEEN, [1, 3], two, kind, progress=False)
    assert pictures.shape == (2, 2, 1 if kind == "image" else 9, HEIGHT, WIDTH) and hz.shape == (2, 2)
    _, most_hz = most_exciting(screen, SEEN, [1, 3], fifty, kind, progress=False)
    for unit in range(2):
        assert cosine(*pictures[unit]) < -0.6
        assert (hz[unit] > 0.9 * most_hz[unit]).all()


def test_the_least_exciting_image_is_not_gray() -> None:
    """All contrast drives this unit, and yet the image has the budget's."""
    screen = Rule(lambda clip: 5 + 100 * clip.square().mean((2, 3)))
    least, _ = least_exciting(screen, SEEN, [0], replace(ASCENT, steps=5), "image", progress=False)
    budget = ASCENT.budget * screen.natural_contrast
    assert float(least.square().mean().sqrt()) == pytest.approx(budget, rel=1e-3)


@pytest.mark.parametrize("kind", ["image", "clip"])
@pytest.mark.parametrize("naturalness", [0.0, 0.5, 1.0])
def test_the_least_exciting_picture_has_the_budgets_contrast_however_frequencies_are_weighted(
    kind: Kind, naturalness: float
) -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    smooth = SEEN.cumsum(3).cumsum(2)
    smooth = smooth - smooth.mean()
    weighted = replace(ASCENT, steps=5, naturalness=naturalness)
    least, _ = least_exciting(screen, smooth / smooth.std(), [0, 2], weighted, kind, progress=False)
    budget = ASCENT.budget * screen.natural_contrast
    assert least.square().mean((1, 2, 3)).sqrt().numpy() == pytest.approx([budget] * 2, rel=0.01)


def test_nearest_pairs() -> None:
    pictures = torch.tensor([0.0, 3.0, 4.0, 0.0, 10.0, 30.0])[:, None, None, None]
    torch.testing.assert_close(nearest(pictures, 3), torch.tensor([1.0, 10.0]))


def test_the_surround_that_suppresses_most() -> None:
    """The rule divides by what a vertical grating has in common with the surround; so the surround becomes it."""
    wave = torch.as_tensor(np.cos(2 * np.pi * 0.12 * np.arange(WIDTH))).float() * OUT
    wave = wave / wave.norm()

    def rule(clip: Tensor) -> Tensor:
        along = (clip * wave).sum((2, 3)).square()
        return 5 + 100 * power(clip, IN) / (1 + along)

    screen = Rule(rule)
    center = 0.4 * torch.randn(1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * IN
    found, hz, alone = suppressing_surround(screen, SEEN, [1], ASCENT, center, OUT[None], progress=False)
    torch.testing.assert_close(found[:, 0] * (OUT == 0), center * (OUT == 0))
    around = found[0, 0] * OUT
    assert abs(cosine(around, wave)) > 0.9
    assert alone[0] == pytest.approx(float(rule(center[:, None])[0, 0]), rel=1e-4)
    assert hz[0] < 0.6 * alone[0]
    assert around.square().sum() / OUT.sum() <= (ASCENT.budget * screen.natural_contrast) ** 2 * 1.01


def test_a_center_with_its_surround_stays_in_the_pixels_range() -> None:
    """In the border that both share: the center is white, and what suppresses is light there."""
    border = ((OUT > 0) & (OUT < 1)).float()
    screen = Rule(lambda clip: 50 * torch.exp(-power(clip, border) - (clip * border).sum((2, 3)) / border.sum()))
    short = replace(ASCENT, steps=5, budget=3.0)
    found, _, _ = suppressing_surround(screen, SEEN, [0], short, (1 - OUT)[None], OUT[None], progress=False)
    assert found[0, 0][border > 0].max() == 1.0 == found.abs().max()


def test_further_pictures_are_written_and_shown_to_the_true_neurons(tmp_path: Path) -> None:
    screen = Screen(known_ln(gain=0.2), "known", (0.0, 255.0))
    sites, short = [replace(SITE, unit=2)], replace(ASCENT, steps=3)
    sorts: list[Any] = ["least", "diverse", "surround"]
    told, kept = [], {}
    for kind, bins in (("image", 1), ("clip", 9)):
        most, most_hz = most_exciting(screen, SEEN, [2], short, kind, progress=False)
        rows, arrays = more_pictures(sorts, kind, screen, screen, SEEN, sites, most, most_hz, short, False)
        own = sorts if kind == "image" else sorts[:2]  # a surround is an image
        assert [row["sort"] for row in rows] == own and {(row["unit"], row["kind"]) for row in rows} == {(2, kind)}
        for row in rows:  # the twin itself in the true neurons' place
            assert row["truth_hz"] == pytest.approx(row["hz"], rel=1e-4)
            assert row["truth_ratio"] == pytest.approx(row["ratio"], rel=1e-4)
        shapes = {"least": (1, bins), "diverse": (3, bins), "surround": (1, bins)}
        assert {name: pictures.shape[1:3] for name, pictures in arrays.items()} == {name: shapes[name] for name in own}
        kept |= {f"known/{name}_{kind}": pictures for name, pictures in arrays.items()}
        kept[f"known/mei_{kind}"] = most.numpy()
        told += [row | {"unit": "c"} for row in rows]
    made = tuning_plots.plot_more(tmp_path, "known", kept, told, bin_s=1 / RATE_HZ)
    assert [path.name for path in made] == ["more_known.png", "further_clips_known.gif"]
    with Image.open(made[1]) as film:
        assert film.n_frames == 9 and film.height > 5 * HEIGHT * tuning_plots.ZOOM  # most, least and three diverse ones
    images = torch.as_tensor(kept["known/mei_image"])
    (alone,), _ = more_pictures(["least"], "image", screen, None, SEEN, sites, images, most_hz, short, False)
    assert np.isnan(alone["truth_ratio"]) and np.isfinite(alone["ratio"])


def test_natural_pictures_are_read_only_for_protocols_that_show_them(simulated: ResampledRecording) -> None:
    neurons = true_neurons(simulated.path)
    assert neurons is not None
    screen = TrueScreen.alone(neurons)
    none, _ = pictures_for({"surround": SURROUND}, screen, simulated, 0)  # it shows none
    assert none.shape == (0, *screen.frame_size)
    lab: Any = {"surround": SURROUND, "natural": replace(SHIPPED["natural_surround"], draws=5)}  # type: ignore[type-var]
    some, film_B = pictures_for(lab, screen, simulated, 5)
    assert some.shape == (5, *screen.frame_size) and some.abs().max() <= 1 and film_B.tolist() == [0] * 5
    with pytest.raises(ValueError, match=r"lab.natural shows 5 natural pictures, and recording sim0 gives 3"):
        pictures_for(lab, screen, simulated, 3)


# --- settings ---------------------------------------------------------------------------------------------------------
def test_protocols_are_chosen_by_name() -> None:
    chosen = chosen_protocols(["plaids", "surround"], LAB, 96)
    assert list(chosen) == ["plaids", "surround"] and isinstance(chosen["plaids"], Plaids)
    assert chosen_protocols([], LAB, 0) == {}
    with pytest.raises(ValueError, match="lab has no 'suround'; did you mean surround"):
        chosen_protocols(["suround"], LAB, 96)
    with pytest.raises(ValueError, match="lab has no 'plaids'; there are surround"):
        chosen_protocols(["plaids"], {"plaids": None, "surround": LAB["surround"]}, 96)
    with pytest.raises(ValueError, match="shows 24 natural pictures, and natural=8; set natural=24"):
        chosen_protocols(["natural_surround"], LAB, 8)


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("surround", {"gaps_px": [2.0, 1.0]}, "gaps_px"),
        ("surround", {"gaps_px": [1.0, 2.0]}, "does not begin at 0"),
        ("surround", {"draws": 0, "contrast": 2.0}, "draws=0 is below 1; contrast=2.0"),
        ("annuli", {"inner_px": [0.0, 3.0]}, "does not begin above 0"),
        ("plaids", {"angle_deg": 100.0}, "no whole number of steps"),
        ("plaids", {"contrast": 0.7}, "contrast=0.7 is not in 0 … 0.5"),
        ("motion", {"gap_px": -1.0}, "gap_px=-1.0"),
        ("natural_surround", {"draws": 1}, "draws=1 is below 2"),
        ("adaptation", {"delays_s": [0.1]}, "delays_s"),
        ("sparse_noise", {"lags_s": 2.0}, "lags_s=2.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(SHIPPED[name], **changes)  # type: ignore[type-var]
