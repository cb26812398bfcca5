"""The laboratory's stimuli show what they say, in pixels, seconds and contrast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vivit_core.stimuli.adaptation import AdapterAndTest
from vivit_core.stimuli.base import Stimulus
from vivit_core.stimuli.motion import CenterSurroundMotion
from vivit_core.stimuli.pictures import PictureInPicture
from vivit_core.stimuli.surrounds import CenterSurround, Drift, Plaid, ring

SIZE, RATE_HZ = (24, 30), 60.0
DRIFT = Drift(direction_deg=30.0, cycles_per_px=0.12, hz=4.0, contrast=0.4, phase_deg=50.0)
BOTH = CenterSurround(DRIFT, DRIFT, center_px=(16.0, 10.0), diameter_px=9.0, gap_px=0.0, outer_px=None, duration_s=0.5)
MOTION = CenterSurroundMotion(
    center_deg=0.0,
    surround_deg=180.0,
    opponent=False,
    cycles_per_px=0.1,
    speed_px_per_s=RATE_HZ,  # one pixel a frame
    contrast=0.15,
    center_px=(16.0, 10.0),
    diameter_px=11.0,
    gap_px=2.0,
    duration_s=0.5,
    seed=3,
)
PULSES = AdapterAndTest(
    DRIFT,
    replace(DRIFT, contrast=0.2),
    center_px=(16.0, 10.0),
    diameter_px=9.0,
    before_s=0.1,
    adapter_s=0.5,
    delay_s=0.2,
    test_s=0.1,
    after_s=0.1,
)


def away_from(center_px: tuple[float, float]) -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(x - center_px[0], y - center_px[1])


def alike(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.flatten(), b.flatten())[0, 1])


def test_a_disc_and_its_surround_make_the_whole_grating() -> None:
    whole = DRIFT.over(SIZE, np.arange(30) / RATE_HZ)
    torch.testing.assert_close(BOTH.frames(SIZE, RATE_HZ), whole, atol=1e-6, rtol=0)
    assert whole.abs().max() == pytest.approx(0.4, abs=0.01)


@given(
    x=st.floats(-3, 32),
    y=st.floats(-3, 26),
    diameter=st.floats(2, 14),
    gap=st.floats(0, 4),
    more=st.floats(3, 12) | st.none(),
)
@settings(max_examples=30, deadline=None)
def test_an_annulus_is_gray_inside_and_outside(x: float, y: float, diameter: float, gap: float, more: Any) -> None:
    inner = diameter + 2 * gap
    outer = None if more is None else inner + more
    annulus = CenterSurround(None, DRIFT, (x, y), diameter, gap, outer, 0.2)
    shown = annulus.frames(SIZE, RATE_HZ).numpy()
    away = away_from((x, y))
    edge = 0.5 + 1e-6  # borders fade over a pixel
    assert not shown[:, away <= inner / 2 - edge].any()
    whole = DRIFT.over(SIZE, np.arange(12) / RATE_HZ).numpy()
    within = away >= inner / 2 + edge
    if outer is not None:
        assert not shown[:, away >= outer / 2 + edge].any()
        within &= away <= outer / 2 - edge
    np.testing.assert_allclose(shown[:, within], whole[:, within], atol=1e-6)


def test_a_cross_surround_is_turned_by_a_right_angle() -> None:
    """Its pattern is the center's, turned about the frame's middle; the center stays."""
    square, middle = (25, 25), (12.0, 12.0)
    cross = CenterSurround(DRIFT, DRIFT.turned(90.0), middle, 9.0, 0.0, None, 0.2).frames(square, RATE_HZ)
    iso = CenterSurround(DRIFT, DRIFT, middle, 9.0, 0.0, None, 0.2).frames(square, RATE_HZ)
    center, around = 1 - ring(square, middle, 8.0), ring(square, middle, 10.0)
    torch.testing.assert_close(cross * (center > 0.99), iso * (center > 0.99))
    torch.testing.assert_close(cross * around, torch.rot90(iso, 1, (1, 2)) * around, atol=1e-5, rtol=0)
    assert (cross - iso)[:, around > 0.99].abs().max() > 0.3


def test_plaids_add_two_gratings_and_move_between_them() -> None:
    plaid = Plaid(DRIFT, angle_deg=120.0, second_phase_deg=DRIFT.phase_deg, duration_s=0.5)
    shown = plaid.frames(SIZE, RATE_HZ)
    times = np.arange(30) / RATE_HZ
    parts = [replace(DRIFT, direction_deg=deg).over(SIZE, times) for deg in (90.0, -30.0)]
    torch.testing.assert_close(shown, parts[0] + parts[1], atol=1e-5, rtol=0)
    assert shown.abs().max() > 0.7
    one = replace(plaid, angle_deg=0.0).frames(SIZE, RATE_HZ)
    torch.testing.assert_close(one, DRIFT.over(SIZE, times))
    # A plaid moves without changing, along its direction: (speed of a component) / cos(half the angle).
    east = Plaid(replace(DRIFT, direction_deg=0.0, hz=0.12 * RATE_HZ * 0.5), 120.0, 10.0, 0.5).frames(SIZE, RATE_HZ)
    torch.testing.assert_close(east[5, :, 1:], east[4, :, :-1], atol=1e-4, rtol=0)


def test_noise_moves_in_the_center_and_the_other_way_around_it() -> None:
    shown = MOTION.frames(SIZE, RATE_HZ)
    away = torch.as_tensor(away_from(MOTION.center_px))
    inside, outside = away <= 4.0, away >= 8.5
    for own, step in ((inside, 1), (outside, -1)):
        stays = own & torch.roll(own, step, 1)  # where the pixel that it comes from is of the same part
        stays[:, [0, -1]] = False
        torch.testing.assert_close(shown[7][stays], torch.roll(shown[6], step, 1)[stays], atol=1e-5, rtol=0)
    assert not shown[:, (away > 6.1) & (away < 6.9)].any()  # the gap
    alone = replace(MOTION, surround_deg=None).frames(SIZE, RATE_HZ)
    torch.testing.assert_close(alone[:, inside], shown[:, inside])
    assert not alone[:, outside].any()
    assert alike(replace(MOTION, seed=4).frames(SIZE, RATE_HZ), shown) < 0.3


def test_noise_has_its_contrast_and_frequency_and_upwards_is_to_smaller_y() -> None:
    noise = MOTION.noise(SIZE, RATE_HZ, 90.0, 0)
    assert noise.square().mean((1, 2)).sqrt().numpy() == pytest.approx([0.15] * 30, rel=1e-4)
    torch.testing.assert_close(noise[1], torch.roll(noise[0], -1, 0), atol=1e-5, rtol=0)
    power = torch.fft.fft2(noise[0]).abs().square()
    away = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.fftfreq(SIZE[1]))
    assert float((power * torch.as_tensor(away)).sum() / power.sum()) == pytest.approx(0.1, rel=0.15)
    opponent = replace(MOTION, surround_deg=None, opponent=True).frames(SIZE, RATE_HZ)
    assert opponent.square().sum() > 1.3 * replace(MOTION, surround_deg=None).frames(SIZE, RATE_HZ).square().sum()


@pytest.mark.parametrize("direction_deg", [0.0, 90.0, 225.0])
def test_no_noise_moves_the_other_way_where_frames_are_few(direction_deg: float) -> None:
    """At 14 Hz and 30 frames a second, a third of the noise's frequencies would turn by more than half a cycle."""
    fast = replace(MOTION, speed_px_per_s=140.0, duration_s=4.0)
    shown = fast.noise(SIZE, 30.0, direction_deg, 0).numpy() * np.hanning(120)[:, None, None]
    power = np.square(np.abs(np.fft.fftn(shown)))
    t, y, x = np.meshgrid(*map(np.fft.fftfreq, shown.shape), indexing="ij", sparse=True)
    angle = np.deg2rad(direction_deg)
    against = t * (x * np.cos(angle) - y * np.sin(angle)) > 1e-6
    assert power[against].sum() < 0.005 * power.sum()
    assert fast.noise(SIZE, 30.0, direction_deg, 0).square().mean().sqrt() == pytest.approx(0.15, rel=0.02)


def test_an_adapter_then_a_test_pulse() -> None:
    shown = PULSES.frames(SIZE, RATE_HZ)
    contrast_T = shown.abs().amax((1, 2)).numpy()
    assert PULSES.duration_s == pytest.approx(1.0) and len(shown) == 60
    on = np.flatnonzero(contrast_T)
    assert on.tolist() == [*range(6, 36), *range(48, 54)]
    assert contrast_T[6:36].max() == pytest.approx(0.4, rel=0.02)
    assert contrast_T[48:54].max() == pytest.approx(0.2, rel=0.05)
    away = torch.as_tensor(away_from(PULSES.center_px))
    assert not shown[:, away > 5.5].any()
    assert np.flatnonzero(replace(PULSES, adapter=None).frames(SIZE, RATE_HZ).abs().amax((1, 2))).tolist() == [
        *range(48, 54)
    ]


def test_pictures_in_their_own_and_in_a_foreign_surround() -> None:
    first, second = 0.3 * torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
    own = PictureInPicture(first, first, (16.0, 10.0), 9.0, 0.1, 0.2)
    shown = own.frames(SIZE, RATE_HZ)
    assert len(shown) == 18 and not shown[:6].any()
    torch.testing.assert_close(shown[6:], first.expand(12, -1, -1), atol=1e-6, rtol=0)
    foreign = replace(own, surround=second).frames(SIZE, RATE_HZ)[-1]
    away = torch.as_tensor(away_from((16.0, 10.0)))
    torch.testing.assert_close(foreign[away <= 4.0], first[away <= 4.0])
    torch.testing.assert_close(foreign[away >= 5.0], second[away >= 5.0])
    assert not replace(own, surround=None).frames(SIZE, RATE_HZ)[-1][away >= 5.0].any()
    with pytest.raises(ValueError, match=r"\(24, 30\) px, and the frame \(20, 30\)"):
        own.frames((20, 30), RATE_HZ)


PICTURE = PictureInPicture(torch.ones(SIZE), None, (16.0, 10.0), 9.0, before_s=0.3, picture_s=0.003)
ALL: list[Stimulus] = [BOTH, Plaid(DRIFT, 120.0, 0.0, 0.5), MOTION, PULSES]


@pytest.mark.parametrize("stimulus", ALL, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("size", [(24, 30), (31, 1), (1, 31), (1, 1)])
def test_every_stimulus_fits_its_frame_and_rate(stimulus: Stimulus, size: tuple[int, int]) -> None:
    for rate_hz in (60.0, 30.0, 119.88):
        shown = stimulus.frames(size, rate_hz)
        assert shown.dtype == torch.float32
        assert tuple(shown.shape) == (round(stimulus.duration_s * rate_hz), *size)
        assert torch.isfinite(shown).all() and shown.abs().max() <= 1 + 1e-6
    assert torch.equal(stimulus.frames(size, 60.0), replace(stimulus).frames(size, 60.0))  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: replace(DRIFT, contrast=1.2), r"Drift: contrast=1\.2"),
        (lambda: replace(DRIFT, cycles_per_px=0.6), "cycles_per_px=0.6"),
        (lambda: replace(DRIFT, cycles_per_px=0.5), "cycles_per_px=0.5 .* no direction can be told"),
        (lambda: replace(MOTION, cycles_per_px=0.5), "cycles_per_px=0.5 .* no direction can be told"),
        (lambda: replace(BOTH, diameter_px=0.0, gap_px=-1.0), "diameter_px=0.0 is not above 0; gap_px=-1.0 is below 0"),
        (lambda: replace(BOTH, outer_px=8.0), "outer_px=8.0 is not above the annulus's inner diameter, 9.0"),
        (lambda: Plaid(replace(DRIFT, contrast=0.6), 90.0, 0.0, 1.0), "the sum leaves the range"),
        (lambda: replace(MOTION, contrast=0.0), "contrast=0.0"),
        (lambda: replace(MOTION, contrast=3.0), r"contrast=3\.0 is above 0\.35, so much of the noise would leave"),
        (lambda: MOTION.frames(SIZE, 12.0), "= 6 Hz cannot be shown at 12 frames a second"),
        (lambda: replace(PULSES, test_s=0.0), "test_s=0.0"),
        (lambda: PICTURE.frames(SIZE, 120.0), r"PictureInPicture: picture_s=0\.003 .* set it above 0\.00833 s"),
        (lambda: replace(PULSES, test_s=0.005).frames(SIZE, 60.0), "test_s=0.005 .* set it above 0.0167 s"),
    ],
)
def test_what_cannot_be_shown_is_refused(made: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        made()
