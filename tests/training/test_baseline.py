"""The LN baseline: what it computes, that it is causal, and that filters are found where they were planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_models import unit_scores

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.ln import LN
from vivit_core.models.load import checkpoint_of, load_predictor, load_twin
from vivit_core.rf import stretches
from vivit_core.rf.placing import unit_centers
from vivit_core.rf.stretches import TrialStretches
from vivit_core.specs import Clips, RecordingSpec
from vivit_core.system.kept import Kept
from vivit_core.training import baseline
from vivit_core.training.baseline import fit_baseline, fit_ln
from vivit_core.training.ln_fitter import Filters, Fitter, total

RATE_HZ, HEIGHT, WIDTH, LAGS, TRIAL = 40.0, 14, 18, 8, 400
COURSE = np.array([0.0, 0.0, -0.1, -0.3, -0.4, 0.2, 1.0, 0.4])  # oldest first
CENTERS = np.array([[5.0, 6.0], [16.0, 1.0], [9.0, 9.0]])  # x, y; the second lies in a corner; the third is complex


def spec_of(recording: Recording) -> RecordingSpec:
    trials = recording.info.trials
    train = [(a, b) for a, b, s in zip(trials.start, trials.stop, trials.split, strict=True) if s == "train"]
    frames = np.concatenate([recording.frames(a, b)[0] for a, b in train])
    counts = np.concatenate([recording.counts(a, b) for a, b in train])
    return RecordingSpec(
        recording_id=recording.info.recording_id,
        frame_rate_hz=RATE_HZ,
        frame_shape=recording.info.frame_shape,
        unit_ids=recording.info.unit_ids,
        unit_mean_counts=tuple(counts.mean(0).tolist()),
        pixel_mean=float(frames.mean()),
        pixel_std=float(frames.std()),
    )


def planted() -> dict[str, Any]:
    """White noise seen by two LN units and an energy unit, with their true rates."""
    rng = np.random.default_rng(3)
    bins = 26 * TRIAL
    frames = rng.integers(0, 256, (bins, HEIGHT, WIDTH), dtype=np.uint8)
    contrast = (frames - 127.5) / 73.9
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    drives, fields = [], []
    for unit, (cx, cy) in enumerate(CENTERS):
        phase = np.pi * (x - cx) / 2
        envelope = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 1.3**2))
        lobes = [envelope] if unit < 2 else [envelope * np.cos(phase), envelope * np.sin(phase)]
        outputs = []
        for lobe in lobes:
            field = lobe / np.linalg.norm(lobe)
            outputs.append(np.convolve((contrast * field).sum((1, 2)), COURSE[::-1] / np.linalg.norm(COURSE))[:bins])
        fields.append(lobes[0] / np.linalg.norm(lobes[0]))
        drives.append(outputs[0] if unit < 2 else 0.6 * (outputs[0] ** 2 + outputs[1] ** 2))
    rate = 0.25 * np.exp(np.clip(np.stack(drives, 1), None, 3.0) * 0.9 - 0.4)
    starts = np.arange(0, bins, TRIAL)
    split = np.array(["train"] * 22 + ["val"] * 2 + ["test"] * 2)
    return {
        "fields": np.stack(fields),
        "recording": {
            "recording_id": "planted",
            "frame_rate_hz": RATE_HZ,
            "frames": frames,
            "counts": rng.poisson(rate).astype(np.uint8),
            "trials": Trials(starts, starts + TRIAL, np.arange(len(starts)), split),
            "truth": {"rate": rate.astype(np.float32)},
        },
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    made = planted()
    recording = Recording(write_recording(tmp_path_factory.mktemp("ln") / "planted.h5", **made["recording"]))
    return SimpleNamespace(recording=recording, spec=spec_of(recording), fields=made["fields"])


@pytest.fixture(scope="module")
def fitted(world: SimpleNamespace) -> LN:
    return fit(world)


def fit(world: SimpleNamespace, **changes: Any) -> LN:
    data: Any = SimpleNamespace(recordings=[world.recording], specs=[world.spec])
    return fit_ln(
        data, **({"duration_s": LAGS / RATE_HZ, "patch": 7, "nonlinearity": "exp", "progress": False} | changes)
    )


def small_spec(units: int = 2, rate_hz: float = 20.0) -> RecordingSpec:
    return RecordingSpec("r", rate_hz, (2, 5, 6), tuple("abcdef"[:units]), (0.5,) * units, 100.0, 50.0)


def random_ln(seed: int = 0, **changes: Any) -> LN:
    torch.manual_seed(seed)
    model = LN([small_spec()], **({"duration_s": 0.2, "patch": 3, "nonlinearity": "exp"} | changes))
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.4)
    readout = model.readout("r")
    readout.corner_U2[:] = torch.tensor([[-1, 4], [2, 1]])  # the first window hangs over the border
    readout.range_U2[:] = torch.tensor([[-1.0, 1.5], [-2.0, 2.0]])
    return model


def clip(seed: int = 0, bins: int = 9) -> Clips:
    generator = torch.Generator().manual_seed(seed)
    return Clips(frames=torch.randint(0, 256, (2, 2, bins, 5, 6), generator=generator, dtype=torch.uint8))


@pytest.mark.parametrize("nonlinearity", ["exp", "softplus"])
def test_output_is_the_written_formula(nonlinearity: str) -> None:
    model = random_ln(nonlinearity=nonlinearity)
    given = clip()
    found = model({"r": given})["r"].detach().numpy()
    w = {name: value.detach().double().numpy() for name, value in model.readout("r").named_parameters()}
    contrast = (given["frames"].double().numpy().mean(1) - 100.0) / 50.0
    for b in range(2):
        for t in range(9):
            for u, (row, column) in enumerate([(-1, 4), (2, 1)]):
                drive = 0.0
                for lag in range(4):  # frames back
                    for i in range(3):
                        for j in range(3):
                            y, x = row + i, column + j
                            if t >= lag and 0 <= y < 5 and 0 <= x < 6:
                                drive += (
                                    w["time_UL"][u, 3 - lag] * w["space_UP"][u, 3 * i + j] * contrast[b, t - lag, y, x]
                                )
                drive = np.clip(drive, *[(-1.0, 1.5), (-2.0, 2.0)][u])
                total = w["bias_U"][u] + w["linear_U"][u] * drive + w["quadratic_U"][u] * drive**2
                expected = np.exp(total) if nonlinearity == "exp" else np.log1p(np.exp(total))
                assert found[b, t, u] == pytest.approx(expected, rel=1e-4)


def test_future_frames_change_nothing_before_them() -> None:
    model, given = random_ln(), clip()
    changed = clip()
    changed["frames"][:, :, 5] = 255 - changed["frames"][:, :, 5]
    before, after = model({"r": given})["r"], model({"r": changed})["r"]
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5], after[:, 5])  # and the bin sees its own frame


def test_last_is_the_newest_bin_of_all() -> None:
    everything, newest = random_ln(), random_ln(predict="last")
    assert torch.equal(newest({"r": clip()})["r"], everything({"r": clip()})["r"][:, -1])


def test_unfitted_model_predicts_the_mean() -> None:
    for nonlinearity in ("exp", "softplus"):
        model = LN([small_spec()], duration_s=0.2, patch=3, nonlinearity=nonlinearity)
        assert torch.allclose(model({"r": clip()})["r"], torch.tensor(0.5))


def test_checkpoint_holds_all(tmp_path: Path) -> None:
    model = random_ln()
    torch.save(checkpoint_of(model), tmp_path / "ln.ckpt")
    again = load_predictor(tmp_path / "ln.ckpt")
    assert torch.equal(again({"r": clip()})["r"], model({"r": clip()})["r"])
    assert again.specs == model.specs
    with pytest.raises(ValueError, match=r"holds a model of kind LN and no twin; load_predictor loads it"):
        load_twin(tmp_path / "ln.ckpt")


def test_lags_follow_the_frame_rate() -> None:
    model = LN([small_spec(rate_hz=30.0)], duration_s=0.3, patch=3, nonlinearity="exp")
    assert model.readout("r").time_UL.shape == (2, 9)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="patch=4"):
        LN([small_spec()], duration_s=0.2, patch=4, nonlinearity="exp")
    with pytest.raises(ValueError, match=r"duration_s=0\.01"):
        LN([small_spec()], duration_s=0.01, patch=3, nonlinearity="exp")
    with pytest.raises(ValueError, match="does not know recording 'other'"):
        random_ln()({"other": clip()})


def test_only_the_asked_split_is_read_and_in_bounded_number(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TrialStretches.read(world.recording, "train", LAGS, max_frames=2200)
    assert len(data.frames_THW) == 2200  # 100 of each of 22 trials
    assert np.array_equal(data.frames_THW[:100], world.recording.frames(TRIAL - 100, TRIAL)[0])
    assert not data.use_TU.reshape(22, 100, 3)[:, : LAGS - 1].any()
    assert data.use_TU.reshape(22, 100, 3)[:, LAGS - 1 :].all()
    val = TrialStretches.read(world.recording, "val", LAGS, max_frames=10_000)
    assert np.array_equal(val.frames_THW, world.recording.frames(22 * TRIAL, 24 * TRIAL)[0])
    pixels = data.frames_THW[0].size
    monkeypatch.setattr(stretches, "PIXELS", 2200.0 * pixels)  # frames of any size take the same memory
    assert np.array_equal(TrialStretches.read(world.recording, "train", LAGS, 20_000).frames_THW, data.frames_THW)


def test_centers_of_simple_and_complex_units(world: SimpleNamespace) -> None:
    centers_px, courses, snr = unit_centers(world.recording, world.spec, duration_s=LAGS / RATE_HZ, max_frames=20_000)
    assert np.abs(centers_px - CENTERS).max() < 1.5
    assert (snr > 1.2).all()
    # A simple unit's course is the planted one; a complex unit has no linear one.
    for course in courses[:2]:
        assert np.corrcoef(course, COURSE)[0, 1] > 0.9
        assert np.linalg.norm(course) == pytest.approx(1.0, abs=1e-4)
    assert not courses[2].any()


def test_noise_is_not_clear(tmp_path: Path) -> None:
    arrays = planted()["recording"]
    arrays = {
        **arrays,
        "counts": np.random.default_rng(0).poisson(0.3, arrays["counts"].shape).astype(np.uint8),
        "truth": None,
    }
    recording = Recording(write_recording(tmp_path / "noise.h5", **arrays))
    _, _, snr = unit_centers(recording, spec_of(recording), duration_s=LAGS / RATE_HZ, max_frames=20_000)
    assert (snr < 1.5).all()


def test_fit_recovers_planted_filters_and_nears_the_truth(world: SimpleNamespace, fitted: LN) -> None:
    readout = fitted.readout("planted")
    index, inside = readout.window_index()
    for unit in range(2):
        field = np.zeros(HEIGHT * WIDTH)
        field[index[unit][inside[unit]]] = readout.space_UP[unit][inside[unit]].detach().numpy()
        kernel = np.outer(readout.time_UL[unit].detach().numpy() * readout.linear_U[unit].item(), field)
        planted_kernel = np.outer(COURSE, world.fields[unit])
        assert np.corrcoef(kernel.ravel(), planted_kernel.ravel())[0, 1] > 0.9
    start, stop = 24 * TRIAL, 26 * TRIAL
    clips = Clips(frames=torch.as_tensor(world.recording.frames(start, stop))[None])
    with torch.no_grad():
        predicted = fitted({"planted": clips})["planted"][0].numpy()
    counts = world.recording.counts(start, stop)
    scores = unit_scores(predicted, counts, np.ones(counts.shape, bool)).by_name["bps"]
    truth = unit_scores(world.recording.truth("rate", start, stop), counts, np.ones(counts.shape, bool)).by_name["bps"]
    assert (scores[:2] > 0.8 * truth[:2]).all()
    assert 0 < scores[2] < truth[2]


def test_large_counts_are_fitted_as_small_ones(tmp_path: Path) -> None:
    """Multi-unit activity, or a trace in large units: rates above e⁵ counts a bin."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (10 * TRIAL, 8, 8), dtype=np.uint8)
    rate = np.exp(1.2 * (frames[:, 4:5, 4] - 127.5) / 73.9)
    starts = np.arange(0, 10 * TRIAL, TRIAL)
    trials = Trials(starts, starts + TRIAL, np.arange(10), np.array(["train"] * 7 + ["val"] * 2 + ["test"]))
    scores = []
    for size in (0.2, 200.0):
        counts = np.random.default_rng(1).poisson(size * rate).astype(np.uint16)
        settings: dict[str, Any] = {"recording_id": "a", "frame_rate_hz": RATE_HZ, "frames": frames, "trials": trials}
        recording = Recording(write_recording(tmp_path / f"{size:g}.h5", counts=counts, **settings))
        model = few(recording, spec_of(recording), duration_s=0.1, patch=3)
        with torch.no_grad():
            shown = torch.as_tensor(recording.frames(9 * TRIAL, 10 * TRIAL))[None]
            predicted = model({"a": Clips(frames=shown)})["a"][0].numpy()
        test = counts[9 * TRIAL :]
        scores.append(unit_scores(predicted, test, np.ones(test.shape, bool)).by_name["bps"][0])
    assert counts.max() > 1000 and scores[1] > 0.9 * scores[0] > 0.5


@pytest.mark.parametrize("nonlinearity", ["exp", "softplus"])
def test_what_is_fitted_is_what_the_model_predicts(nonlinearity: Any) -> None:
    model = LN([replace(small_spec(), unit_mean_counts=(40.0, 0.1))], 0.2, 3, nonlinearity)
    readout = model.readout("r")
    with torch.no_grad():
        readout.bias_U.zero_()
    total = torch.tensor([-30.0, -3.0, 0.0, 6.0, 8.0, 12.0])
    rate, slope = Fitter.output(cast(Any, SimpleNamespace(readout=readout)), total.requires_grad_())
    torch.testing.assert_close(rate, readout.rate(total[:, None].expand(-1, 2))[:, 0], rtol=1e-4, atol=1e-7)
    (expected,) = torch.autograd.grad(rate.sum(), total)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-7)
    usual = total[(total > -15) & (total < 8)]  # by it ln_surround is fitted, and LN scored
    torch.testing.assert_close(
        model.likelihood("r").rate(usual), readout.rate(usual[:, None])[:, 0], rtol=1e-4, atol=2e-6
    )


@pytest.mark.parametrize("agree", [True, False])
def test_filters_that_do_not_generalize_are_not_kept(agree: bool) -> None:
    """Where validation trials say the opposite of training trials the unit keeps its mean."""
    rng = np.random.default_rng(0)

    def shown(bins: int, sign: float) -> TrialStretches:
        frames = rng.integers(0, 256, (bins, 5, 6), dtype=np.uint8)
        counts = rng.poisson(0.5 * np.exp(sign * 0.7 * (frames[:, 2, 3] - 127.5) / 73.9))[:, None]
        return TrialStretches(frames, counts.astype(np.float32), np.ones((bins, 1), bool))

    spec = replace(small_spec(1), frame_shape=(1, 5, 6), pixel_mean=127.5, pixel_std=73.9)
    readout = LN([spec], 0.2, 3, "exp").readout("r")
    newest = np.eye(4, dtype=np.float32)[3:]
    fitter = Fitter(readout, shown(600, 1), shown(300, 1 if agree else -1), np.array([[3.0, 2.0]]), newest)
    before = {name: value.clone() for name, value in readout.state_dict().items()}
    fitter.fit(0)
    kept = all(torch.equal(value, before[name]) for name, value in readout.state_dict().items())
    assert kept != agree


@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_a_filter_of_either_sign_says_the_same(slope: float) -> None:
    """Its drive is clamped to the range that it was fitted with, which is no mirror image of itself."""
    readout = LN([small_spec()], 0.2, 3, "exp").readout("r")
    fitter: Any = SimpleNamespace(readout=readout, space_PK=torch.eye(9), time_LJ=torch.eye(4))
    filters = Filters(torch.arange(9.0), torch.tensor([0.0, 0, 0, 1]), torch.tensor([-1.0, slope, 0.1]))
    with torch.no_grad():
        Fitter.write(fitter, 0, filters, torch.tensor([-1.0, 3.0]))
    seen = torch.tensor([-4.0, 0.5, 2.0, 8.0])  # by the filter that was fitted
    sign = float((readout.space_UP[0] @ filters.space_K).sign())
    rate = readout.rate((sign * seen)[:, None].expand(-1, 2))[:, 0]
    torch.testing.assert_close(rate, total(seen.clamp(-1, 3), filters.point_3).exp())
    assert sign == np.sign(slope) and readout.linear_U[0] == 0.5


def test_a_unit_without_a_spike_is_no_harm(world: SimpleNamespace, tmp_path: Path) -> None:
    """It has no place and no time course; the others' stay what they are."""
    made = planted()["recording"]
    counts = np.concatenate([made["counts"], np.zeros((len(made["counts"]), 1), np.uint8)], 1)
    silent = {k: v for k, v in made.items() if k != "truth"} | {"counts": counts}
    settings: dict[str, Any] = {"duration_s": LAGS / RATE_HZ, "max_frames": 60_000}
    recording = Recording(write_recording(tmp_path / "silent.h5", **silent))
    centers_U2, courses_UL, snr_U = unit_centers(recording, spec_of(recording), **settings)
    height, width = made["frames"].shape[1:3]
    np.testing.assert_allclose(centers_U2[-1], [(width - 1) / 2, (height - 1) / 2], atol=1.0)
    assert snr_U[-1] == 0 and not courses_UL[-1].any()
    for own, without in zip(
        (centers_U2, courses_UL, snr_U),
        unit_centers(world.recording, world.spec, **settings),
        strict=True,
    ):
        np.testing.assert_allclose(own[:-1], without, rtol=1e-4, atol=1e-4)


def test_fit_is_deterministic(world: SimpleNamespace, fitted: LN) -> None:
    again = fit(world)
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, nothing may be fitted."""

    def forbid() -> None:
        monkeypatch.setattr(baseline, "fit_recording", lambda *a: pytest.fail("it fits again"))

    return forbid


def same(one: LN, other: LN) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def few(recording: Recording, spec: RecordingSpec, **changes: Any) -> LN:
    return fit_ln(
        cast(Any, SimpleNamespace(recordings=[recording], specs=[spec])),
        **({"duration_s": LAGS / RATE_HZ, "patch": 7, "nonlinearity": "exp", "progress": False} | changes),
    )


def test_a_fit_is_found_again(
    world: SimpleNamespace, fitted: LN, tmp_path: Path, forbidden: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path)
    with caplog.at_level("INFO"):
        assert same(few(world.recording, world.spec, kept=kept), fitted)
        forbidden()
        assert same(few(world.recording, world.spec, kept=kept), fitted)
    first, second = (record.getMessage() for record in caplog.records if record.name == baseline.__name__)
    assert "LN: fitted; kept in" in first and str(tmp_path) in first and "VIVIT_CORE_CACHE=off" in first
    assert "1 of 1 recordings were fitted before" in second
    # Under another name, and for a model that predicts the newest bin alone, the fit is the same.
    other = few(world.recording, replace(world.spec, recording_id="other"), predict="last", kept=kept)
    assert torch.equal(other.readout("other").space_UP, fitted.readout("planted").space_UP)


def test_what_a_fit_depends_on_is_in_its_key(world: SimpleNamespace, tmp_path: Path) -> None:
    spec = replace(world.spec)

    def key(spec: RecordingSpec, duration_s: float = 0.2, patch: int = 7, nonlinearity: str = "exp", **of: Any) -> str:
        readout = LN([spec], duration_s, patch, nonlinearity).readout(spec.recording_id)  # type: ignore[arg-type]
        splits = [TrialStretches(**{name: getattr(shown, name) for name in NAMES}) for shown in (train, val)]
        for name, change in of.items():
            setattr(splits[0], name, change(getattr(splits[0], name).copy()))
        return baseline.key_of(readout, *splits)

    def flipped(values: np.ndarray) -> np.ndarray:
        values.ravel()[-1] = values.ravel()[-1] == 0
        return values

    train, val = (TrialStretches.read(world.recording, split, LAGS, 500) for split in ("train", "val"))
    train.use_TU = train.use_TU.astype(np.uint8)
    keys = [
        key(spec),
        key(spec, duration_s=0.25),
        key(spec, patch=9),
        key(spec, nonlinearity="softplus"),
        key(replace(spec, pixel_mean=spec.pixel_mean + 1e-3)),
        key(replace(spec, unit_mean_counts=(0.1, 0.2, 0.3))),
        *(key(spec, **{name: flipped}) for name in NAMES),
        key(spec, frames_THW=lambda frames: frames[1:]),
    ]
    assert len(set(keys)) == len(keys)
    assert key(spec) == keys[0]


NAMES = ("frames_THW", "counts_TU", "use_TU")


def test_a_node_is_fitted_once_unless_the_cache_is_off(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times: list[int] = []
    fit_recording = baseline.fit_recording
    monkeypatch.setattr(baseline, "fit_recording", lambda *a: times.append(1) or fit_recording(*a))  # type: ignore[func-returns-value]
    node = {"_target_": "vivit_core.models.ln.LN", "duration_s": 0.2, "patch": 3, "nonlinearity": "exp"}
    data: Any = SimpleNamespace(recordings=[world.recording], specs=[world.spec])
    first, second = fit_baseline(data, node), fit_baseline(data, node)
    assert len(times) == 1 and same(first, second)
    assert list((tmp_path / "vivit-core" / "ln").glob("*.npz"))
    monkeypatch.setenv("VIVIT_CORE_CACHE", "off")
    fit_baseline(data, node)
    assert len(times) == 2
