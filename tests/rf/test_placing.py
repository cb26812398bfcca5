"""Where units look: energy places a unit at the pixel where its field lies, and not beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vivit_core.rf.placing import (
    alone,
    contrast_energies,
    place,
    place_by_energy,
    place_clearest,
    usual,
    without_fading,
)

HEIGHT, WIDTH = 20, 24
HIGH, WIDE = 48, 48


@pytest.mark.parametrize("parity", [0, 1])
def test_energy_places_units_without_a_bias(parity: int) -> None:
    """On every second pixel of either kind: energies are seen around pixels 0, 2, 4 and so on."""
    generator = torch.Generator().manual_seed(parity)
    frames_THW = 0.3 * torch.randn(2000, HEIGHT, WIDTH, generator=generator)
    centers_U2 = np.array([(x, y) for x in (8, 12, 16) for y in (6, 10, 12)]) + parity
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    rest_TU = []
    for at_x, at_y in centers_U2:
        window = torch.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * 1.8**2))
        waves = [window * wave(1.0 * (x - at_x)) for wave in (torch.cos, torch.sin)]
        energy_T = sum((frames_THW * wave).sum((1, 2)).square() for wave in waves)
        rest_TU.append(energy_T - energy_T.mean())
    found_U2, _, _ = place_by_energy(contrast_energies(frames_THW, coarse=True), torch.stack(rest_TU, dim=1), 2)
    wrong_U2 = found_U2.numpy() - centers_U2
    assert np.abs(wrong_U2).max() < 1.0
    assert np.abs(wrong_U2.mean(0)).max() < 0.2, f"half a pixel to a side? {wrong_U2.mean(0)}"


def pink(number: int, generator: torch.Generator) -> torch.Tensor:
    """Pictures (N, H, W) whose amplitudes fall as 1/f."""
    f = torch.hypot(torch.fft.fftfreq(HIGH)[:, None], torch.fft.rfftfreq(WIDE)[None])
    noise = torch.randn(number, HIGH, WIDE, generator=generator)
    pictures = torch.fft.irfft2(torch.fft.rfft2(noise) / f.clamp_min(1 / WIDE), s=(HIGH, WIDE))
    return (pictures - pictures.mean((1, 2), keepdim=True)) / pictures.std((1, 2), keepdim=True)


def complex_cells(frames_THW: torch.Tensor, centers_U2: np.ndarray, std: float) -> torch.Tensor:
    """Energies (T, U) of waves in windows of so many pixels."""
    y, x = torch.meshgrid(torch.arange(HIGH), torch.arange(WIDE), indexing="ij")
    found = []
    for at_x, at_y in centers_U2:
        window = torch.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * std**2))
        waves = [window * wave(1.8 / std * (x - at_x)) for wave in (torch.cos, torch.sin)]
        waves = [wave - window * wave.sum() / window.sum() for wave in waves]
        found.append(sum((frames_THW * wave).sum((1, 2)).square() for wave in waves))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("std", [1.5, 4.0])
def test_flashed_pictures_place_cells_of_any_size(std: float) -> None:
    """All places see contrast when a picture comes, and none when it goes: that says nothing of places."""
    generator = torch.Generator().manual_seed(0)
    frames_THW = (
        pink(600, generator).repeat_interleave(4, 0) * torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(600)[:, None, None]
    )
    centers_U2 = np.array([(x, y) for x in (10, 18, 28) for y in (12, 20)])
    rate_TU = complex_cells(frames_THW, centers_U2, std)
    counts_TU = torch.poisson(0.3 * rate_TU / rate_TU.mean(0), generator=generator)
    found_U2, clear_U, _ = place_by_energy(contrast_energies(frames_THW, coarse=True), counts_TU - counts_TU.mean(0), 2)
    wrong_U = np.hypot(*(found_U2.numpy() - centers_U2).T)
    assert wrong_U.max() < 4 and np.median(wrong_U) < 1.5, wrong_U
    assert clear_U.min() > 1.2, clear_U


def test_who_is_placed_by_energy_keeps_the_map_of_pixels() -> None:
    """From which time courses are taken: those of others must not depend on it, not even by the sign of a zero."""
    generator = torch.Generator().manual_seed(0)
    frames_THW = torch.randn(3000, HIGH, WIDE, generator=generator)
    energy_T1 = complex_cells(frames_THW, np.array([(20, 16)]), 2.0)
    rest_TU = torch.cat([frames_THW[:, 10:12, 30:32].mean((1, 2))[:, None], energy_T1 - energy_T1.mean()], dim=1)
    placed = place_clearest(frames_THW, lambda: contrast_energies(frames_THW, coarse=True), rest_TU, 2)
    assert placed.by_energy_U.tolist() == [False, True]
    assert torch.equal(placed.map_UHW, place([frames_THW], rest_TU, 2, ridge=0.5)[2])
    clearer_UHW = placed.clearer_UHW()
    assert torch.equal(clearer_UHW[0], placed.map_UHW[0])
    assert divmod(int(clearer_UHW[1].argmax()), WIDE) in {(y, x) for y in (16, 17) for x in (20, 21)}


def test_gratings_that_fill_the_frame_place_no_unit() -> None:
    """Where they are seen only says which are seen. Chance had the corners, where windows are cut off."""
    generator = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(HIGH), torch.arange(WIDE), indexing="ij")
    angle, cycles = (torch.pi * torch.arange(16) / 8).repeat(3), torch.tensor([0.05, 0.1, 0.2]).repeat_interleave(16)
    shown_T = torch.randint(48, (300,), generator=generator).repeat_interleave(20)
    along_THW = torch.cos(angle[shown_T])[:, None, None] * x + torch.sin(angle[shown_T])[:, None, None] * y
    frames_THW = torch.sin(
        2 * torch.pi * (cycles[shown_T][:, None, None] * along_THW - torch.arange(6000)[:, None, None] / 15)
    )
    rate_TU = complex_cells(frames_THW, np.array([(10, 12), (20, 22), (30, 14)]), 2.5)
    counts_TU = torch.poisson(rate_TU / rate_TU.mean(0), generator=generator)
    for found in (
        place([frames_THW], counts_TU - counts_TU.mean(0), 4, ridge=0.5),
        place_by_energy(contrast_energies(frames_THW, coarse=True), counts_TU - counts_TU.mean(0), 4),
    ):
        middle = (np.array([WIDE, HIGH]) - 1) / 2
        assert np.abs(found[0].numpy() - middle).max() <= 1  # of cells of two pixels
        assert found[1].tolist() == [1, 1, 1]


def test_a_silent_unit_has_no_clearness() -> None:
    frames_THW = torch.randn(500, HIGH, WIDE, generator=torch.Generator().manual_seed(2))
    assert place([frames_THW], torch.zeros(500, 2), 3, ridge=0.5)[1].tolist() == [0, 0]


def test_no_trace_goes_on_from_a_bin_that_is_not_used() -> None:
    """Where a trial begins, all that is left of the one before would look as if it came at once."""
    trace_TU, use_TU = torch.full((40, 1), 0.9).cumprod(0) + 5, torch.ones(40, 1, dtype=torch.bool)
    use_TU[20] = False
    found_TU = without_fading(trace_TU * use_TU, use_TU)
    assert found_TU[[0, 20, 21]].tolist() == [[0], [0], [0]] and found_TU[22:].any()


def test_chance_is_asked_where_something_is_shown() -> None:
    """Of noise in one corner of the frame it is the same everywhere there, though the other corners stay gray."""
    shown_HW = torch.zeros(HIGH, WIDE, dtype=torch.bool)
    shown_HW[:30, :28] = True
    energy_UHW = torch.rand(4000, HIGH, WIDE, generator=torch.Generator().manual_seed(4)) * shown_HW
    inside = usual(energy_UHW, shown_HW)[shown_HW]
    assert inside.min() > 0.45 and inside.max() < 0.55


def test_what_comes_everywhere_at_once_is_left_out() -> None:
    """Whatever part each place has of it; what one place has for itself stays. In a small frame nothing is left out."""
    generator = torch.Generator().manual_seed(5)
    flash_T = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(500)
    part_HW, own_T = 1 + torch.rand(24, 24, generator=generator), torch.rand(2000, generator=generator)
    energy_THW = flash_T[:, None, None] * part_HW
    energy_THW[:, 10, 12] += own_T
    left_THW = alone(energy_THW)
    size_HW = left_THW.std(0)
    assert size_HW[10, 12] > 10 * size_HW.flatten().sort().values[-2]
    assert np.corrcoef(left_THW[:, 10, 12], own_T)[0, 1] > 0.95
    assert torch.equal(alone(energy_THW[:, :12, :12]), energy_THW[:, :12, :12])


def test_what_came_of_a_trace_is_what_it_was_made_of() -> None:
    """Also where noise of single bins lies on it."""
    generator = torch.Generator().manual_seed(3)
    came_TU = torch.rand(20_000, 2, generator=generator) - 0.5
    trace_TU = came_TU.clone()
    left_U = torch.tensor([0.9, 0.0])
    for t in range(1, len(trace_TU)):
        trace_TU[t] += left_U * trace_TU[t - 1]
    noise_TU = 0.3 * torch.randn(trace_TU.shape, generator=generator)
    for noise, exact in ((0.0, 0.02), (1.0, 0.06)):
        found_TU = without_fading(trace_TU + noise * noise_TU, torch.ones(trace_TU.shape, dtype=torch.bool))
        wanted_TU = came_TU + noise * (noise_TU - torch.cat([torch.zeros(1, 2), left_U * noise_TU[:-1]]))
        assert (found_TU - wanted_TU)[1:, 0].square().mean().sqrt() < exact
