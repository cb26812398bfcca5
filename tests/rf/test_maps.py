"""Places and orientations of maps, against the simulator's own Gabors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from einops import rearrange

from vivit_core.data.simulate.population import Population
from vivit_core.rf import maps as rf_maps

HEIGHT, WIDTH = 30, 44


@pytest.fixture(scope="module")
def population() -> Population:
    """Units of every orientation; some of them are cut by the border."""
    return Population.draw(60, (HEIGHT, WIDTH), 120.0, np.random.default_rng(0))


def gabors(population: Population) -> torch.Tensor:
    """The even and the odd one of each unit, (U, 2, H, W)."""
    return torch.as_tensor(rearrange(population.gabors(), "(h w) (k u) -> u k h w", h=HEIGHT, k=2))


def test_envelope_finds_place_and_size_of_the_simulators_gabors(population: Population) -> None:
    found = rf_maps.fit_envelope(rf_maps.energy(gabors(population)))
    error = np.linalg.norm(found.center_U2 - population.center_px, axis=1)
    assert np.median(error) < 0.1 and np.quantile(error, 0.9) < 1.0
    inside = ((population.center_px > 3) & (population.center_px < np.array([WIDTH, HEIGHT]) - 4)).all(1)
    ratio = 4 * np.sqrt(2) * found.std_U[inside] / population.size_px[inside]
    assert 0.9 < np.median(ratio) < 1.1
    assert (found.explained_U > 0.8).mean() > 0.9


def test_a_field_cut_by_the_border_is_placed_where_it_is() -> None:
    y, x = np.mgrid[:20, :30]
    cut = torch.as_tensor(np.exp(-0.5 * ((x - 29.3) ** 2 + (y - 5.0) ** 2) / 2.5**2) + 0.2)[None]
    found = rf_maps.fit_envelope(cut)
    np.testing.assert_allclose(found.center_U2, [[29.3, 5.0]], atol=1e-3)
    np.testing.assert_allclose(found.std_U, 2.5, atol=1e-3)
    mass = float((cut[0].numpy() * x).sum() / cut.sum())
    assert mass < 27  # which the center of mass does not say


def test_a_flat_map_has_no_place() -> None:
    """Nor has one that varies by no more than rounding."""
    energy = torch.full((3, 8, 10), 7.0) * (1 + 1e-7 * torch.randn(8, 10, generator=torch.Generator().manual_seed(0)))
    energy[0] = 0
    energy[2, 3, 4] += 1
    found = rf_maps.fit_envelope(energy)
    np.testing.assert_array_equal(np.isnan(found.center_U2), [[True] * 2, [True] * 2, [False] * 2])
    np.testing.assert_array_equal(np.isnan(found.std_U), [True, True, False])
    np.testing.assert_array_equal(np.isnan(found.explained_U), [True, True, False])
    # A place that is known is of no use where nothing has a slope.
    place = np.tile([4.0, 3.0], (3, 1))
    for center in (found.center_U2, place):
        angle, coherence = rf_maps.orientation(torch.zeros(3, 3, 8, 10), center, np.full(3, 2.0))
        assert np.isnan(angle).all() and np.isnan(coherence).all()


def test_many_units_are_fitted_in_pieces(population: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    energy = rf_maps.energy(gabors(population))[:10]
    whole = rf_maps.fit_envelope(energy)
    monkeypatch.setattr(rf_maps, "UNITS_AT_ONCE", 4)
    in_pieces = rf_maps.fit_envelope(energy)
    np.testing.assert_allclose(in_pieces.center_U2, whole.center_U2, atol=1e-6)
    np.testing.assert_allclose(in_pieces.std_U, whole.std_U, atol=1e-6)
    np.testing.assert_allclose(in_pieces.explained_U, whole.explained_U, atol=1e-6)


@pytest.mark.parametrize("size", [(31, 1), (1, 31)])
def test_frames_one_pixel_wide_have_places_but_no_orientation(size: tuple[int, int]) -> None:
    bump = torch.exp(-0.5 * ((torch.arange(31.0) - 12) / 2) ** 2).reshape(1, 1, *size)
    found = rf_maps.fit_envelope(rf_maps.energy(bump))
    assert found.center_U2.max() == pytest.approx(12, abs=0.01) and found.center_U2.min() == pytest.approx(0, abs=0.1)
    angle, coherence = rf_maps.orientation(rf_maps.structure(bump), found.center_U2, found.std_U)
    assert np.isnan(angle).all() and np.isnan(coherence).all()


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_orientation_follows_the_simulators_convention(population: Population, noise: float) -> None:
    """A sign or an axis the wrong way round would leave only units near 0 and 90 degrees right."""
    fields = gabors(population)
    fields = fields + noise * torch.randn(fields.shape, generator=torch.Generator().manual_seed(0))
    for kind, own in (("complex", fields), ("simple", fields[:, :1])):
        found, coherence = rf_maps.orientation(rf_maps.structure(own), population.center_px, population.size_px / 4)
        error = rf_maps.orientation_error_deg(found, population.orientation_deg)
        oriented = coherence > 0.3
        assert oriented.mean() > 0.8, kind
        assert np.median(error[oriented]) < 4 and np.quantile(error[oriented], 0.9) < 15, kind


def test_orientation_of_a_grating_written_out() -> None:
    """Phase grows upwards to the right, so the bars run downwards to the right: 135 degrees, counterclockwise."""
    y, x = np.mgrid[:20, :20]
    grating = torch.as_tensor(np.cos(2 * np.pi * 0.1 * (x - y)))[None, None]
    found, coherence = rf_maps.orientation(rf_maps.structure(grating), np.array([[10.0, 10.0]]), np.array([3.0]))
    assert rf_maps.orientation_error_deg(found, np.array([135.0]))[0] < 1 and coherence[0] > 0.95


def test_orientation_error_knows_the_circle() -> None:
    assert rf_maps.orientation_error_deg(np.array([179.0, 10.0, 0.0]), np.array([1.0, 100.0, 180.0])).tolist() == [
        2,
        90,
        0,
    ]
