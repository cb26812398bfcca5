"""Simulated units that use context: nothing changes without it, and the truth says where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from shipped import simulator
from tiny_models import unit_scores

from vivit_core.cli.schema import conf_dir
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import validate_recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.simulate import Context
from vivit_core.data.simulate.cells import Cells, Seen, smooth
from vivit_core.data.simulate.context import KINDS, Contexts, background, surround
from vivit_core.data.simulate.local_rate import local_rate
from vivit_core.data.simulate.world import Objects, Scene
from vivit_core.parts.build import build
from vivit_core.specs import RecordingError

DEFAULT: dict[str, Any] = yaml.safe_load((conf_dir() / "data" / "simulator" / "context" / "default.yaml").read_text())
CONTEXT: Context = build("data.simulator.context", DEFAULT)
RATE_HZ = 120.0
SMALL = simulator(
    recordings=1,
    units=24,
    train_trials=6,
    val_trials=1,
    test_trials=3,
    repeated_stimuli=1,
    repeats=2,
    trial_s=2.0,
    context=CONTEXT,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SMALL.make(tmp_path_factory.mktemp("cache"))[0]


def in_trials(recording: Recording, name: str) -> np.ndarray:
    test = recording.info.trials.of("test")
    pieces = [recording.truth(name, a, b) for a, b in zip(test.start, test.stop, strict=True)]
    return np.concatenate(pieces).astype(np.float64)


def test_without_context_nothing_has_changed() -> None:
    """The key of the cache, by which recordings that were simulated before are found again."""
    assert replace(SMALL, context=None)._fields().keys().isdisjoint({"context"})
    assert simulator().name == "simulated-383b38a6ccfe2f99"
    assert len({SMALL.name, replace(SMALL, context=None).name, simulator(context=CONTEXT).name}) == 3


def test_without_context_the_arrays_are_those_that_were_simulated_before_there_was_any(tmp_path: Path) -> None:
    """But for what differs from machine to machine: the last bit of a product, and with it, rarely, a pixel."""
    plain = simulator(
        recordings=1, units=2, train_trials=1, val_trials=1, test_trials=0, repeated_stimuli=1, repeats=2, trial_s=0.5,
        height=20, width=30,
    )  # fmt: skip
    with h5py.File(plain.make(tmp_path)[0]) as file:
        pixels, counts, rate = (file[name][()] for name in ("stimulus/frames", "responses/counts", "truth/rate"))
        names = [name for group in ("truth", "units") for name in file[group]]
    assert not [name for name in names if name.startswith(("context", "rate_"))]
    assert pixels.mean() == pytest.approx(144.44221527, abs=1e-3)
    assert np.abs(pixels[100, 7, 9:14].astype(int) - [194, 194, 191, 187, 178]).max() <= 1
    assert rate.sum(0) == pytest.approx([31.000948, 17.573935], rel=1e-4)
    assert np.abs(counts.sum(0).astype(int) - [23, 18]).max() <= 1


def test_the_file_is_valid_and_kinds_have_their_shares(path: Path) -> None:
    validate_recording(path)
    recording = Recording(path)
    kinds = recording.unit_column("context")
    assert kinds is not None and {kind: int((kinds == kind).sum()) for kind in (*KINDS, "local")} == {
        "surround": 7, "adaptation": 5, "motion": 6, "local": 6,
    }  # fmt: skip
    assert recording.unit_column("nothing") is None


def test_a_context_changes_the_units_of_its_kind_alone(path: Path) -> None:
    recording = Recording(path)
    kinds, rate = recording.unit_column("context"), in_trials(recording, "rate")
    for kind in KINDS:
        without = in_trials(recording, f"rate_without_{kind}")
        own = kinds == kind
        assert np.allclose(without[:, ~own], rate[:, ~own], rtol=2e-3, atol=1e-5)  # kept in half precision
        assert (without[:, own] >= rate[:, own] * 0.998 - 1e-5).all()  # it only suppresses
        assert (without[:, own].mean(0) > 1.1 * rate[:, own].mean(0)).all()


def test_what_a_local_observer_can_know(path: Path) -> None:
    recording = Recording(path)
    kinds, rate, local = (
        recording.unit_column("context"),
        in_trials(recording, "rate"),
        in_trials(recording, "rate_local"),
    )
    every = np.ones(rate.shape, bool)
    truth, best = unit_scores(rate, rate, every).by_name["bps"], unit_scores(local, rate, every).by_name["bps"]
    assert (best <= truth + 1e-3).all()
    lost = 1 - best / truth
    assert np.abs(lost[kinds == "local"]).max() < 0.02  # of a local unit it knows all
    for kind in KINDS:
        assert np.median(lost[kinds == kind]) > 0.04, kind


def test_the_best_local_rate_is_out_of_fold_and_monotone() -> None:
    """Noise that has nothing to do with the drive is not explained; a function of the drive is, entirely."""
    rng = np.random.default_rng(0)
    drive = rng.gamma(1.0, 1.0, (8, 500, 2)).astype(np.float32)
    gain = np.ones_like(drive)
    rate = np.stack([drive[..., 0] ** 2, rng.gamma(1.0, 1.0, drive.shape[:2])], -1).astype(np.float32)
    stimuli = np.array([f"s{i}" for i in range(8)])
    best = local_rate(rate, drive, gain, stimuli)
    middle = drive[..., 0] < 4
    assert np.corrcoef(best[..., 0][middle], rate[..., 0][middle])[0, 1] > 0.999
    assert np.corrcoef(best[..., 1].ravel(), rate[..., 1].ravel())[0, 1] < 0.05
    other = rate.copy()
    other[0] *= 7
    changed = local_rate(other, drive, gain, stimuli) != best
    assert not changed[0].any() and changed[1].mean() > 0.9  # a stimulus is predicted by what the others show


# Where it comes from --------------------------------------------------------------------------------------------------


def test_weights_are_known_at_moments_of_the_test_trials(path: Path) -> None:
    recording = Recording(path)
    kinds, found = recording.unit_column("context"), recording.context_weights()
    assert found is not None and len(found.bins_M) == CONTEXT.moments
    test = recording.info.trials.of("test")
    assert all(((test.start <= b) & (b < test.stop)).any() for b in found.bins_M)
    sums = found.weights_UMRC.sum((2, 3))
    assert np.allclose(sums[kinds == "surround"], 1, atol=2e-2) and not sums[kinds == "local"].any()
    assert np.allclose(found.shares_UMRC.sum((2, 3))[kinds == "surround"], 1, atol=2e-2)
    centers = recording.truth("center_px")
    away = np.hypot(
        found.x_px_C - centers[:, 0, None, None, None], found.y_px_R[:, None] - centers[:, 1, None, None, None]
    )
    far = found.weights_UMRC[(kinds == "surround") | (kinds == "motion")].max(1)
    distances = away[(kinds == "surround") | (kinds == "motion")][:, 0]
    assert distances[far > 0].min() >= CONTEXT.far_px[0] and distances[far > 0].max() <= CONTEXT.far_px[1]
    lags = found.lag_shares_UML[kinds == "adaptation"]
    assert np.allclose(lags.sum(-1), 1, atol=2e-2)
    seconds = (lags * found.lag_s_L).sum(-1).mean(1)
    assert (seconds > 0.1).all() and seconds.max() > 0.3  # the other contexts are of now
    assert (found.lag_shares_UML[kinds == "surround"] * found.lag_s_L).sum(-1).max() < 0.1


def test_moments_at_another_rate_are_in_its_bins(path: Path) -> None:
    whole, half = Recording(path), ResampledRecording(path, frame_rate_hz=RATE_HZ / 2)
    moments, resampled = whole.context_weights(), half.context_weights()
    assert moments is not None and resampled is not None
    assert np.abs(resampled.bins_M - moments.bins_M / 2).max() <= 1
    total = whole.truth("rate_local", 0, 240).sum(0)
    assert np.allclose(half.truth("rate_local", 0, 120).sum(0), total, rtol=1e-4)


def test_moments_of_trials_that_are_not_used_are_left_out(path: Path) -> None:
    whole, few = Recording(path), ResampledRecording(path, most_trials=1)
    moments, left = whole.context_weights(), few.context_weights()
    assert moments is not None and left is not None
    trials = few.info.trials
    used_M = np.array([((trials.start <= now) & (now < trials.stop)).any() for now in moments.bins_M])
    assert 0 < used_M.sum() < len(used_M)
    np.testing.assert_array_equal(left.bins_M, moments.bins_M[used_M])
    np.testing.assert_array_equal(left.weights_UMRC, moments.weights_UMRC[:, used_M])
    np.testing.assert_array_equal(left.lag_shares_UML, moments.lag_shares_UML[:, used_M])


def test_pixels_under_a_large_weight_change_the_signal_more() -> None:
    """A patch of the surround is blanked: where it is like the center, the suppression falls, elsewhere it does not."""
    cells = Cells.over((36, 64), RATE_HZ)
    y, x = np.mgrid[:36, :64]
    upright, lying = (127 + 100 * np.cos(2 * np.pi * 0.16 * along) for along in (x, y))
    frame = np.where((x > 32) & (y >= 18), lying, upright)  # the center, at the left, is upright
    center = int(np.hypot(*(cells.place_px_J2 - [10, 18]).T).argmin())
    away = np.hypot(*(cells.place_px_J2 - cells.place_px_J2[center]).T)
    far = np.flatnonzero((away > 24) & (away < 60))

    def signal(blank_x: int, blank_y: int) -> tuple[np.ndarray, float]:
        shown = frame.copy()
        shown[blank_y : blank_y + 14, blank_x : blank_x + 14] = 127
        seen = cells.see(np.repeat(shown[None].astype(np.uint8), 60, axis=0))
        weights, added = surround(seen.likeness_TJO(), seen.energy_TJ, center, far)
        return weights[-1], float(added[-1].sum())

    weights, whole = signal(0, 99)  # nothing is blanked
    place = cells.place_px_J2[far]
    alike, other = (weights[(place[:, 0] > 40) & side].mean() for side in (place[:, 1] < 12, place[:, 1] > 24))
    assert weights.sum() == pytest.approx(1, abs=1e-5) and alike > 10 * other
    fall_alike, fall_other = whole - signal(46, 2)[1], whole - signal(46, 20)[1]
    assert fall_alike > 0.05 * whole and fall_alike > 3 * fall_other


@pytest.mark.parametrize("kind", ["surround", "motion"])
def test_the_shares_in_a_file_say_where_pixels_matter(path: Path, kind: str) -> None:
    """The place with the largest share of the signal is blanked, then the one with the smallest: the drive that is kept
    rises with the first, and hardly changes with the second."""
    recording = Recording(path)
    kinds, found = recording.unit_column("context"), recording.context_weights()
    assert kinds is not None and found is not None
    known = (recording.truth(f"context_{name}") for name in ("suppression", "tau_s", "strength"))
    contexts = Contexts(Cells.over((36, 64), RATE_HZ), recording.truth("center_px"), CONTEXT.far_px, kinds, *known)
    rise: dict[str, list[float]] = {"most": [], "least": []}
    for m in (0, 9, 18, 27):
        now = int(found.bins_M[m])
        frames = recording.frames(now - 47, now + 1)[0]
        silent = np.zeros((1, len(frames), len(kinds)), np.float32)

        def kept(shown: np.ndarray, silent: np.ndarray = silent) -> np.ndarray:
            return np.log(contexts.kept(contexts.signal(shown[None], silent)))[0, -1]

        whole = kept(frames)
        for unit in np.flatnonzero(kinds == kind):
            share_J, far = found.shares_UMRC[unit, m].ravel(), contexts.far(unit)
            for which, cell in (("most", far[share_J[far].argmax()]), ("least", far[share_J[far].argmin()])):
                x, y = contexts.cells.place_px_J2[cell].round().astype(int)
                blanked = frames.copy()
                blanked[:, max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = 127
                rise[which].append(float((kept(blanked) - whole)[unit]))
    assert np.mean(rise["most"]) > 0.02
    assert np.mean(rise["most"]) > 4 * abs(np.mean(rise["least"]))
    assert np.mean(np.array(rise["most"]) > np.array(rise["least"])) > 0.8


@pytest.mark.parametrize(("background_px", "agrees"), [(0.5, True), (-0.5, False), (0.0, False)])
def test_motion_of_the_background_counts_where_it_is_the_centers(background_px: float, agrees: bool) -> None:
    rng = np.random.default_rng(2)
    world = rng.normal(0, 40, (36, 64 + 200)).cumsum(1)
    world = np.clip(127 + (world - world.mean(1, keepdims=True)) % 120 - 60, 0, 255)
    bins = np.arange(60)

    def shifted(px: float) -> np.ndarray:
        columns = (100 + np.arange(64) + (bins * px)[:, None]).round().astype(int)
        return world[:, columns].transpose(1, 0, 2)

    frames, center = shifted(background_px), shifted(0.5)
    frames[:, 10:27, 20:45] = center[:, 10:27, 20:45]
    cells = Cells.over((36, 64), RATE_HZ)
    seen = cells.see(frames.astype(np.uint8))
    away = np.hypot(*(cells.place_px_J2 - [32, 18]).T)
    near, far = np.flatnonzero(away <= 6), np.flatnonzero((away >= 16) & (away <= 60))
    agreement = background(seen, cells.still, near, far)[1].sum(1)[20:].mean()
    assert agreement > 0.4 if agrees else agreement < 0.25


def test_objects_move_over_the_scene_and_leave_the_rest_of_it() -> None:
    rng = np.random.default_rng(4)
    scene = Scene("noise", rng.uniform(0, 255, (80, 120)).astype(np.float32))
    still = np.zeros((12, 2), np.float32)
    plain = scene.render(still, (36, 64))
    texture = np.full((21, 21), 10, np.float32)
    one = Objects(
        start_px_K2=np.array([[-8, 3]], np.float32),
        velocity_px_K2=np.array([[1.5, -0.5]], np.float32),
        radius_px_K=np.array([8], np.float32),
        textures=[texture],
        room_px=(60, 40),
    )
    frames = plain.copy()
    one.paint(frames, still)
    y, x = np.mgrid[:36, :64]
    for t in range(12):
        away = np.hypot(x - (31.5 - 8 + 1.5 * t), y - (17.5 + 3 - 0.5 * t))
        assert (frames[t][away < 7.4] == 10).all()
        np.testing.assert_array_equal(frames[t][away > 8.6], plain[t][away > 8.6])
    panned = scene.render(still + [4, 0], (36, 64))
    one.paint(panned, still + [4, 0])
    np.testing.assert_array_equal(panned[:, :, :60], frames[:, :, 4:])  # they lie in the scene, not on the eye
    drawn = Objects.draw(scene, 0.25, (0.2, 0.6), rng)
    areas = np.pi * np.square(drawn.radius_px_K).sum()
    assert 0.05 < areas / scene.image.size < 0.6
    assert ((speed := np.hypot(*drawn.velocity_px_K2.T)) >= 0.199).all() and (speed <= 0.601).all()


def test_adaptation_falls_with_the_past_and_recovers() -> None:
    own = np.zeros((1, 600, 1), np.float32)
    own[:, 120:240] = 4.0
    signal = smooth(own, 1.0, RATE_HZ, axis=1)[0, :, 0]
    assert not signal[:120].any() and (np.diff(signal[120:240]) > 0).all() and (np.diff(signal[240:]) < 0).all()
    assert signal[359] == pytest.approx(signal[239] / np.e, rel=0.02)


def test_lags_say_when_the_place_has_shown_what_the_unit_adapts_to() -> None:
    own = np.zeros((240, 8), np.float32)
    own[60:72] = 1.0  # 0.5 to 0.6 s after the trial's begin
    all_adapt = replace(CONTEXT, surround=0.0, adaptation=1.0, motion=0.0)
    rng = np.random.default_rng(5)
    contexts = Contexts.draw(all_adapt, np.full((8, 2), 9, np.float32), (36, 64), RATE_HZ, rng)
    found = contexts.moments([(np.full((240, 36, 64), 127, np.uint8), own)], [[71, 191]])
    lags_UML = found["context_lag_shares"].astype(float)
    assert np.allclose(lags_UML[:, 0, 0], 1, atol=1e-3)  # now
    assert np.allclose(lags_UML[:, 1, 10], 1, atol=1e-3) and found["context_lag_s"][10] == pytest.approx(1.0)


def test_nothing_sees_the_future() -> None:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (2, 80, 36, 64), dtype=np.uint8)
    own = rng.gamma(1.0, 1.0, (2, 80, 8)).astype(np.float32)
    contexts = Contexts.draw(CONTEXT, rng.uniform([5, 5], [59, 31], (8, 2)).astype(np.float32), (36, 64), RATE_HZ, rng)
    before = contexts.signal(frames, own)
    frames[:, 50:], own[:, 50:] = 255 - frames[:, 50:], own[:, 50:] + 1
    after = contexts.signal(frames, own)
    assert np.allclose(before[:, :50], after[:, :50], rtol=1e-4, atol=1e-6) and not np.allclose(
        before[:, 50:], after[:, 50:]
    )
    assert isinstance(contexts.cells.see(frames[0]), Seen)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"surround": 0.9}, "add up to more than 1"),
        ({"motion": -0.1}, "motion=-0.1 is not inside"),
        ({"far_px": [60.0, 16.0]}, "far_px"),
        ({"surround_suppression": [0.4, 1.0]}, "surround_suppression"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build("data.simulator.context", {**DEFAULT, **changes})


def test_a_frame_too_small_for_a_surround_is_refused() -> None:
    with pytest.raises(ValueError, match=r"context\.far_px begins at .*set data/simulator/context=none"):
        simulator(context=CONTEXT, height=12, width=16)


@pytest.mark.parametrize(
    ("field", "change", "says"),
    [
        ("truth/context_weights", lambda values: values[:, :-1], "truth/context_weights: has shape"),
        ("truth/context_shares", lambda values: np.full_like(values, np.nan), "row 0, index .* is nan"),
        ("truth/context_bins", lambda values: values + 10**6, "truth/context_bins: row 0"),
        ("truth/context_lag_s", None, "truth/context_lag_s: missing"),
        ("truth/rate_local", lambda values: -values - 1, "truth/rate_local: row 0"),
        ("truth/rate_without_motion", lambda values: values[:5], "truth/rate_without_motion: has shape"),
    ],
)
def test_damage_names_its_field(
    path: Path, tmp_path: Path, field: str, change: Callable[[np.ndarray], np.ndarray] | None, says: str
) -> None:
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(path.read_bytes())
    with h5py.File(damaged, "r+") as file:
        values = file[field][()]
        del file[field]
        if change is not None:
            file[field] = change(values)
    with pytest.raises(RecordingError, match=says):
        validate_recording(damaged)
