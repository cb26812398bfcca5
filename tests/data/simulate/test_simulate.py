"""The simulator: the same each time, made once, an eye and neurons with the properties that docs/simulator.md gives."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from shipped import simulator

from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import validate_recording
from vivit_core.data.simulate import cortex, world
from vivit_core.data.simulate.population import Population, convolve, ornstein_uhlenbeck, temporal_kernel
from vivit_core.system.files import known_whole

SMALL = simulator(
    recordings=1,
    units=12,
    train_trials=6,
    val_trials=2,
    test_trials=2,
    repeated_stimuli=2,
    repeats=3,
    trial_s=2.0,
    height=20,
    width=30,
)
BRIEF = replace(SMALL, units=2, train_trials=1, val_trials=1, test_trials=0, repeated_stimuli=1, repeats=2, trial_s=0.5)


def arrays(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return SMALL.make(tmp_path_factory.mktemp("cache"))[0]


# --- the data set ---


def test_equal_fields_make_equal_arrays_and_another_seed_others(small, tmp_path):
    again, other = SMALL.make(tmp_path)[0], replace(BRIEF, seed=1).make(tmp_path)[0]
    assert again.parent != other.parent
    first, second = arrays(small), arrays(again)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    brief, other_brief = arrays(BRIEF.make(tmp_path)[0]), arrays(other)
    for name in ("stimulus/frames", "responses/counts", "truth/rate", "truth/center_px", "behavior/eye_position"):
        assert not np.array_equal(brief[name], other_brief[name]), name


def test_units_lie_in_the_tissue_as_their_fields_lie_in_the_frame(small):
    """By a smooth map with scatter: a straight one explains most of it, a bent one all but the scatter."""
    rng = np.random.default_rng(0)
    center = rng.uniform([0, 0], [63, 35], (200, 2))
    position = cortex.positions(center, (36, 64), rng)
    x, y, depth = ((position - position.mean(0)) / position.std(0)).T
    errors = []
    for functions in ([x, y], [x, y, x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3], [depth]):
        basis = np.stack([np.ones(200), *functions], 1)
        fit = basis @ np.linalg.lstsq(basis, center, rcond=None)[0]
        errors.append(np.sqrt(np.square(fit - center).mean()))
    straight, bent, by_depth = errors
    assert cortex.SCATTER_PX * 0.9 < bent < cortex.SCATTER_PX * 1.1 < straight < 4 < 10 < by_depth
    assert 600 < np.abs(position[:, None, :2] - position[None, :, :2]).max() < 1500
    recording = Recording(small)
    found = recording.unit_column("position_um")
    assert found.shape == (12, 3) and recording.info.position_dim == 3 and np.isfinite(found).all()


def test_recordings_have_populations_and_scenes_of_their_own(tmp_path):
    a, b = (arrays(path) for path in replace(BRIEF, recordings=2).make(tmp_path))
    assert not np.array_equal(a["truth/center_px"], b["truth/center_px"])
    assert not np.array_equal(a["stimulus/frames"], b["stimulus/frames"])


def test_what_was_simulated_is_known_where_it_lies(tmp_path):
    """So that the first training on it need not read it once more."""
    paths = replace(BRIEF, seed=7).make(tmp_path)
    assert all(map(known_whole, paths))
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["sim0.h5", "simulator.json"]


def test_the_second_call_reads_the_cache(small):
    before = small.stat().st_mtime_ns
    assert SMALL.make(small.parent.parent) == [small]
    assert small.stat().st_mtime_ns == before


def test_a_killed_simulation_leaves_nothing_that_is_taken_for_a_data_set(small, tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    tiny = BRIEF
    with monkeypatch.context() as patch:
        patch.setattr("vivit_core.data.simulate.simulate.write_recording", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny.make(tmp_path)
    assert not (tmp_path / tiny.name).exists()
    assert validate_recording(tiny.make(tmp_path)[0]).n_units == 2
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [tiny.name]


def _make(cache: Path) -> list[Path]:
    return BRIEF.make(cache)


def test_two_processes_at_once_make_one_data_set(tmp_path):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        one, other = pool.map(_make, [tmp_path, tmp_path], chunksize=1)
    assert one == other
    assert validate_recording(one[0]).n_units == 2


def test_the_file_is_what_the_contract_says(small):
    info = validate_recording(small)
    assert info.recording_id == "sim0"
    assert info.frame_shape == (1, 20, 30)
    assert info.frame_rate_hz == 120
    assert info.behavior == {"eye_velocity": 40, "eye_position": 2}
    assert all(info.behavior_causal.values())
    assert info.has_truth
    assert info.degrees_per_pixel == SMALL.degrees_per_pixel
    splits = {split: len(info.trials.of(split)) for split in ("train", "val", "test")}
    assert splits == {"train": 6, "val": 2, "test": 2 + 2 * 3}
    assert info.n_frames == 16 * 240


def test_repeats_show_and_promise_the_same_and_spike_anew(small):
    trials, data = Recording(small).info.trials, arrays(small)
    rows = np.flatnonzero(trials.stimulus_id == "repeat-0")
    assert len(rows) == 3
    first, *others = (slice(trials.start[row], trials.stop[row]) for row in rows)
    for other in others:
        for name in ("stimulus/frames", "behavior/eye_velocity", "behavior/eye_position", "truth/rate"):
            np.testing.assert_array_equal(data[name][first], data[name][other], err_msg=name)
        assert not np.array_equal(data["responses/counts"][first], data["responses/counts"][other])
    for stimulus in set(trials.stimulus_id):
        assert len(set(trials.split[trials.stimulus_id == stimulus])) == 1


def test_no_quarter_of_a_photograph_serves_two_splits():
    served = [place for split in ("train", "val", "test") for place in world.quarters(split)]
    assert len(served) == len(set(served)) == 4 * len(world.PHOTOGRAPHS)
    photograph = np.arange(36.0).reshape(6, 6)
    pieces = [world.cut_quarter(photograph, quarter) for quarter in range(4)]
    assert sorted(np.concatenate([piece.ravel() for piece in pieces])) == list(range(36))


def test_counts_are_what_the_truth_promises(tmp_path):
    path = replace(SMALL, units=30, train_trials=40).make(tmp_path)[0]
    data = arrays(path)
    counts, rate = data["responses/counts"].sum(0), data["truth/rate"].astype(np.float64).sum(0)
    # The noise gains have mean 1, but the slow shared one moves all units together: hence 6 % beside the Poisson error.
    assert abs(counts.sum() / rate.sum() - 1) < 0.06 + 4 / np.sqrt(rate.sum())
    trials = 40 + 2 + 2 + 6
    error = np.sqrt(rate + (0.45 * rate) ** 2 / trials)  # Poisson, and one independent draw of the gains a trial
    assert (np.abs(counts - rate) < 4 * error).all()
    mean_hz = data["truth/mean_rate_hz"]
    assert (mean_hz > 2.99).all() and (mean_hz < 20.01).all()
    assert rate.min() > 0
    # More variable than Poisson: the noise is there.
    assert np.mean((data["responses/counts"] - data["truth/rate"]) ** 2) > 1.02 * data["truth/rate"].mean()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("units", 0), ("seed", -1), ("trial_s", 0.0), ("trial_s", 0.001), ("trial_s", 0.2), ("repeats", 1),
        ("height", 0), ("frame_rate_hz", 5.0), ("frame_rate_hz", -1.0),
    ],
)  # fmt: skip
def test_impossible_fields_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        simulator(**{field: value})


def test_a_slow_video_has_as_many_cosines_of_velocity_as_bins(tmp_path):
    info = validate_recording(replace(BRIEF, frame_rate_hz=30.0).make(tmp_path)[0])
    assert info.behavior == {"eye_velocity": 4 * 7, "eye_position": 2}  # 0.2 s are 7 bins


def test_units_that_answer_to_nothing_are_named_with_what_helps():
    still = np.zeros((1, 10, 24), np.float32)
    with pytest.raises(
        ValueError, match=r"24 of 24 units answer to nothing .*train_trials or data\.simulator\.trial_s"
    ):
        population().calibrate(still, still, still + 1)


def test_a_large_room_lets_the_gaze_change_rates_no_more():
    """Gains rose with e to the power of the room: from 0.2 degrees a pixel on, baselines were above the mean rate."""
    assert simulator().name == "simulated-383b38a6ccfe2f99"  # nothing changes where the room is as before
    assert "gaze_room_deg" not in simulator()._fields()
    plain = Population.draw(64, (36, 64), 120.0, np.random.default_rng([0, 0, 1]))
    np.testing.assert_array_equal(simulator().population(0).gaze_gain, plain.gaze_gain)
    spans = []
    for degrees in (0.03, 0.5):
        cells = simulator(degrees_per_pixel=degrees)
        position = degrees * np.random.default_rng(0).uniform(-230, 230, (1, 500, 2)).astype(np.float32)
        spans.append(np.log(cells.population(0).gain(position, np.zeros_like(position))))
    np.testing.assert_allclose(spans[1], spans[0], rtol=0.02, atol=1e-6)


# --- the eye ---


def test_saccades_follow_the_main_sequence():
    path = world.eye_path(120, 1000, (20.0, 20.0), np.random.default_rng(0))
    speed = np.hypot(*np.diff(path.position_T2.astype(np.float64), axis=0).T) * 1000
    peak = np.array([speed[round(t * 1000) : round(t * 1000) + 80].max() for t in path.onset_s[:-1]])
    amplitude = path.amplitude_deg[:-1]
    large = amplitude > 0.5  # below, drift adds to the velocity
    expected = 1.875 * amplitude / (0.021 + 0.0022 * amplitude)
    np.testing.assert_allclose(peak[large], expected[large], rtol=0.15)
    slope = np.polyfit(np.log(amplitude[large]), np.log(peak[large]), 1)[0]
    assert 0.7 < slope < 1.0  # rises with amplitude, but less than in proportion


def test_fixations_and_drift_have_the_durations_and_the_diffusion_they_should():
    rng = np.random.default_rng(1)
    path = world.eye_path(200, 1000, (20.0, 20.0), rng)
    fixation_s = np.diff(path.onset_s) - world.saccade_duration_s(path.amplitude_deg[:-1])
    assert fixation_s.min() > world.FIXATION_MIN_S - 1e-6
    assert np.median(fixation_s) == pytest.approx(world.FIXATION_MEDIAN_S, rel=0.1)
    first, last = (path.onset_s[:-1] + 0.12) * 1000, path.onset_s[1:] * 1000
    steps = [
        np.diff(path.position_T2[round(a) : round(b) : 20].astype(np.float64), axis=0)
        for a, b in zip(first, last, strict=True)
        if b - a > 60
    ]
    squared_arcmin2 = np.mean(np.square(np.concatenate(steps) * 60).sum(1))
    assert squared_arcmin2 == pytest.approx(4 * world.DRIFT_ARCMIN2_PER_S * 0.02, rel=0.15)


def test_the_eye_stays_in_its_room_and_moves_without_jumps():
    path = world.eye_path(60, 1000, (0.8, 0.5), np.random.default_rng(2))
    assert (np.abs(path.position_T2) <= np.array([0.8, 0.5]) + 1e-5).all()
    assert np.abs(np.diff(path.position_T2, axis=0)).max() < 0.15  # degrees a millisecond
    assert path.position_T2.std() > 0.1


def test_render_shifts_by_fractions_of_a_pixel():
    y, x = np.mgrid[:80, :100]
    image = (127.5 + 60 * np.sin(x / 5) + 40 * np.cos(y / 7)).astype(np.float32)
    gaze = np.array([[0, 0], [3, -2], [0.5, 0.25], [-7.3, 4.6]], np.float32)
    frames = world.Scene("waves", image).render(gaze, (20, 30))
    for frame, (dx, dy) in zip(frames, gaze, strict=True):
        rows, columns = np.mgrid[:20, :30]
        expected = 127.5 + 60 * np.sin((columns + 35 + dx) / 5) + 40 * np.cos((rows + 30 + dy) / 7)
        assert np.abs(frame - expected).max() < 1.0


def test_scenes_have_room_contrast_and_their_middle_gray():
    rng = np.random.default_rng(0)
    for name, quarter in world.quarters("val"):
        scene = world.Scene.draw(name, quarter, (36, 64), rng)
        room_x, room_y = scene.room_px((36, 64))
        assert room_x >= 29 and room_y >= 15
        assert scene.image.min() >= 0 and scene.image.max() <= 255
        assert abs(scene.image.mean() - 127.5) < 8
        assert 12 < scene.image.std() < 45


# --- the neurons ---


def population(n_units=24, shape=(20, 30), seed=0) -> Population:
    return Population.draw(n_units, shape, 120.0, np.random.default_rng(seed))


def test_reverse_correlation_of_simple_cells_finds_their_centers():
    cells = population(40, seed=3)
    inside = (np.abs(cells.center_px - [14.5, 9.5]) < [11, 6]).all(1)
    rng = np.random.default_rng(0)
    frames = rng.choice([0, 255], (10, 1200, 20, 30)).astype(np.uint8)
    energy, pool = cells.filter(frames)
    cells = cells.calibrate(energy, pool, np.ones_like(energy))
    drive = cells.drive(energy, pool)
    lags = range(3, 12)
    chosen = np.flatnonzero(inside & ~cells.complex)
    assert len(chosen) >= 5
    contrast = frames.astype(np.float32) / 127.5 - 1
    for u in chosen:
        sta = np.stack([np.einsum("nt,nthw->hw", drive[:, lag:, u], contrast[:, : 1200 - lag]) for lag in lags])
        power = np.square(sta).sum(0)
        power = np.maximum(power - 3 * np.median(power), 0)
        y, x = np.mgrid[:20, :30]
        center = np.array([(power * x).sum(), (power * y).sum()]) / power.sum()
        assert np.abs(center - cells.center_px[u]).max() < 1.5, (u, center, cells.center_px[u])


def test_complex_cells_do_not_care_about_phase_and_simple_cells_do():
    cells = replace(
        population(2),
        complex=np.array([True, False]),
        direction=np.zeros(2, np.int8),
        center_px=np.full((2, 2), 10, np.float32),
        size_px=np.full(2, 8, np.float32),
        spatial_frequency=np.full(2, 0.15, np.float32),
        orientation_deg=np.full(2, 90, np.float32),
    )
    x = np.arange(30)
    energies = []
    for phase in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        grating = np.broadcast_to(127.5 + 100 * np.cos(2 * np.pi * 0.15 * (x - 10) + phase), (1, 40, 20, 30))
        energies.append(cells.filter(np.rint(grating).astype(np.uint8))[0].max(1)[0])
    complex_cell, simple_cell = np.array(energies).T
    assert complex_cell.min() > 0.8 * complex_cell.max()
    assert simple_cell.min() < 0.1 * simple_cell.max()


def test_directional_cells_prefer_the_direction_that_the_truth_names():
    cells = replace(
        population(2),
        complex=np.ones(2, bool),
        direction=np.array([1, -1], np.int8),
        center_px=np.full((2, 2), 10, np.float32),
        size_px=np.full(2, 10, np.float32),
        spatial_frequency=np.full(2, 0.12, np.float32),
        orientation_deg=np.full(2, 90, np.float32),  # upright bars; (sin, cos) of 90° points to the right
        temporal_rate_per_s=np.full(2, 90, np.float32),
    )
    x, t = np.arange(30), np.arange(120)[:, None] / 120
    mean = {}
    for way in (1, -1):
        wave = 127.5 + 100 * np.cos(2 * np.pi * (0.12 * x - way * 7 * t))
        frames = np.broadcast_to(wave[None, :, None, :], (1, 120, 20, 30))
        mean[way] = cells.filter(np.rint(frames).astype(np.uint8))[0][0, 30:].mean(0)
    assert mean[1][0] > 3 * mean[-1][0]
    assert mean[-1][1] > 3 * mean[1][1]


def test_orientation_is_counterclockwise_from_horizontal():
    cells = replace(
        population(1),
        center_px=np.array([[14.5, 9.5]], np.float32),
        size_px=np.full(1, 12, np.float32),
        spatial_frequency=np.full(1, 0.12, np.float32),
        orientation_deg=np.full(1, 45, np.float32),
    )
    even = cells.gabors()[:, 0].reshape(20, 30)
    # Along the bar from lower left to upper right (y points down) the filter keeps its sign, across it changes.
    assert even[8, 16] > 0 and even[12, 12] > 0
    assert even[12, 17] < 0 and even[7, 12] < 0


def test_filters_are_blind_to_gray_and_to_the_future():
    cells = population()
    np.testing.assert_allclose(cells.gabors().sum(0), 0, atol=1e-4)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, 100, 20, 30), np.uint8)
    changed = frames.copy()
    changed[:, 60:] = rng.integers(0, 256, (1, 40, 20, 30), np.uint8)
    for before, after in zip(cells.filter(frames), cells.filter(changed), strict=True):
        scale = np.abs(before).max((0, 1))
        np.testing.assert_allclose(before[:, :60] / scale, after[:, :60] / scale, atol=1e-4)
        assert np.abs(before[:, 60:] / scale - after[:, 60:] / scale).max() > 0.01


def test_the_eyes_gain_is_causal_suppresses_then_rebounds():
    cells = replace(population(), gaze_gain=np.zeros((24, 2), np.float32))
    position, velocity = np.zeros((1, 100, 2), np.float32), np.zeros((1, 100, 2), np.float32)
    velocity[0, 50:53] = 60
    gain = cells.gain(position, velocity)[0]
    np.testing.assert_allclose(gain[:50], 1, atol=1e-3)
    after_s = np.arange(50) / 120
    assert (after_s[gain[50:].argmin(0)] < 0.08).all() and (gain.min(0) < 0.85).all()
    assert (after_s[gain[50:].argmax(0)] > 0.08).all() and (gain.max(0) > 1.1).all()
    np.testing.assert_allclose(gain[90:], 1, atol=1e-2)


def test_gaze_gain_is_derivable_from_eye_position():
    cells = population()
    position = np.random.default_rng(0).normal(size=(1, 50, 2)).astype(np.float32)
    gain = cells.gain(position, np.zeros_like(position))
    np.testing.assert_allclose(np.log(gain), position @ cells.gaze_gain.T, atol=1e-4)


def test_convolve_equals_the_plain_sum_and_kernels_keep_what_is_sustained():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(2, 50, 3)).astype(np.float32)
    kernel = temporal_kernel(3, np.array([70.0, 90, 120]), np.array([0.02, 0.03, 0.02]), 120.0)
    plain = np.zeros(signal.shape)
    for t in range(50):
        for lag in range(min(t + 1, len(kernel))):
            plain[:, t] += signal[:, t - lag].astype(np.float64) * kernel[lag]
    np.testing.assert_allclose(convolve(signal, kernel), plain, atol=1e-5)
    assert (kernel.max(0) > 0).all() and (kernel.min(0) < 0).all()  # biphasic
    assert (kernel.sum(0) > 0.1).all()
    assert (kernel[:3] == 0).all()  # nothing before the latency


def test_noise_is_stationary_with_variance_one_and_forgets_at_its_pace():
    noise = ornstein_uhlenbeck((4000, 60, 1), 0.1, 120.0, np.random.default_rng(0))[..., 0]
    np.testing.assert_allclose(noise.var(0), 1, atol=0.12)
    assert np.mean(noise[:, 10] * noise[:, 22]) == pytest.approx(np.exp(-1), abs=0.06)


def test_half_of_the_units_are_complex_and_fields_lie_anywhere():
    cells = population(400, (36, 64))
    assert cells.complex.sum() == 200
    assert cells.size_px.min() >= 4 and cells.size_px.max() <= 14
    x, y = cells.center_px.T
    assert x.min() < 2 and x.max() > 61 and y.min() < 2 and y.max() > 33
    assert (cells.spatial_frequency <= 0.25).all()
    assert ((cells.mean_rate_hz >= 3) & (cells.mean_rate_hz <= 20)).all()
    assert ((cells.temporal_frequency_hz > 2) & (cells.temporal_frequency_hz < 15)).all()
