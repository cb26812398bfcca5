"""Where units look: energy places a unit at the pixel where its field lies, and not beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vivit_core.rf.regression import contrast_energies, place_by_energy

HEIGHT, WIDTH = 20, 24


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
    found_U2, _, _ = place_by_energy(contrast_energies(frames_THW), torch.stack(rest_TU, dim=1), 2)
    wrong_U2 = found_U2.numpy() - centers_U2
    assert np.abs(wrong_U2).max() < 1.0
    assert np.abs(wrong_U2.mean(0)).max() < 0.2, f"half a pixel to a side? {wrong_U2.mean(0)}"
