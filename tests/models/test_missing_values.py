"""A missing value (NaN or infinite) is at its mean, and counted: in a clip, in ``rates`` and bin by bin, alike."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import LIKELIHOOD, MODELS_UNDER_CONTRACT, READOUT, spec
from tiny_models import LN as LN_NODE

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import validate_recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.statistics import Moments, training_statistics
from vivit_core.data.transforms import PositionBasis, RaisedCosines, Smooth, Speed, SplitBySign, Velocity
from vivit_core.models.layers import missing
from vivit_core.models.ln import LN
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips

BINS = 12


def shown(holes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Frames and behavior; with holes, or with the training's means where those are."""
    known = spec()
    rng = np.random.default_rng(0)
    frames = rng.normal(120, 50, (1, BINS, 12, 16)).astype(np.float32)
    behavior = rng.normal(size=(BINS, 3)).astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        frames[0, 5, 2:4, 3] = value if holes else known.pixel_mean
        behavior[5, 1] = behavior[7] = value if holes else known.behavior_mean[0]
    frames[0, 6] = np.nan if holes else known.pixel_mean  # a whole frame
    return frames, behavior


@pytest.mark.parametrize("name", MODELS_UNDER_CONTRACT)
def test_what_is_missing_is_at_its_mean_in_clips_rates_and_streams(name: str) -> None:
    torch.manual_seed(0)
    twin = Twin(MODELS_UNDER_CONTRACT[name], READOUT, LIKELIHOOD, [spec()]).eval()
    frames, behavior = shown(holes=True)
    expected = twin.rates("a", *shown(holes=False))
    assert twin.missing_values == 0
    with pytest.warns(UserWarning, match=r"recording a: 198 pixels or numbers of behavior are missing"):
        rates = twin.rates("a", frames, behavior)
    assert twin.missing_values == 2 + 12 * 16 + 1 + 3
    np.testing.assert_allclose(rates, expected, rtol=1e-5)

    stream = twin.stream("a", clip_length=BINS)
    with pytest.warns(UserWarning, match="bin 5: 3 pixels or numbers") as told:
        streamed = np.stack([stream.step(frames[:, t], behavior[t]) for t in range(BINS)])
    assert len(told) == 1 and stream.missing_values == 198
    np.testing.assert_allclose(streamed, expected, rtol=1e-4)


def test_the_baseline_takes_what_is_missing_alike() -> None:
    ln = LN([spec()], duration_s=LN_NODE["duration_s"], patch=3, nonlinearity="exp")
    for value in ln.parameters():
        torch.nn.init.normal_(value, std=0.3)
    with torch.no_grad():
        holes, means = (ln({"a": Clips(frames=torch.as_tensor(shown(holes=h)[0])[None])})["a"] for h in (True, False))
    torch.testing.assert_close(holes, means)


def test_whole_numbers_are_not_searched_for_what_is_missing() -> None:
    twin = Twin(MODELS_UNDER_CONTRACT["bare"], READOUT, LIKELIHOOD, [spec()]).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin.rates("a", np.zeros((BINS, 12, 16), np.uint8), np.zeros((BINS, 3)))


ODD = {
    "mirrored": lambda x: x[..., ::-1].copy()[..., ::-1],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "longdouble": lambda x: x.astype(np.longdouble),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "float64": lambda x: x.astype(np.float64),
}


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", ODD)
def test_arrays_of_any_layout_give_the_same_rates(name: str, kind: type) -> None:
    twin = Twin(MODELS_UNDER_CONTRACT["bare"], READOUT, LIKELIHOOD, [spec()]).eval()
    frames, behavior = shown(holes=False)
    frames = frames.clip(0, 255).astype(kind)
    odd, beside = ODD[name](frames), ODD[name](behavior)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(twin.rates("a", odd, beside), twin.rates("a", frames, behavior))
        np.testing.assert_array_equal(twin.stream("a").run(odd, beside), twin.stream("a").run(frames, behavior))
        np.testing.assert_array_equal(twin.shift_px("a", beside), twin.shift_px("a", behavior))


@pytest.mark.parametrize("kind", ["complex64", "object", "U4"])
def test_what_is_no_real_number_is_refused(kind: str) -> None:
    twin = Twin(MODELS_UNDER_CONTRACT["bare"], READOUT, LIKELIHOOD, [spec()]).eval()
    frames, behavior = shown(holes=False)
    for wrong, beside, what in ((frames.astype(kind), behavior, "frame"), (frames, behavior.astype(kind), "behavior")):
        with pytest.raises(ValueError, match=rf"{what}.* of recording a: give real numbers and not .*astype"):
            twin.rates("a", wrong, beside)
        with pytest.raises(ValueError, match=rf"{what}.* of recording a: give real numbers and not"):
            twin.stream("a").run(wrong, beside)


def test_numbers_beyond_float32_are_missing_and_rates_that_are_none_refused() -> None:
    twin = Twin(MODELS_UNDER_CONTRACT["bare"], READOUT, LIKELIHOOD, [spec()]).eval()
    frames, behavior = (values.astype(np.float64) for values in shown(holes=False))
    frames[0, 5, 0, 0] = 1e300
    with pytest.warns(UserWarning, match="recording a: 1 pixels or numbers of behavior are missing"):
        twin.rates("a", frames, behavior)
    assert twin.missing_values == missing(torch.as_tensor(frames)) == 1
    stream = twin.stream("a")
    with pytest.warns(UserWarning, match="bin 5: 1 pixels"):
        stream.run(frames, behavior)
    assert stream.missing_values == 1
    frames[0, 5] = 1e38
    with pytest.raises(ValueError, match="recording a: rates are NaN or infinite"):
        twin.rates("a", frames, behavior)
    with pytest.raises(ValueError, match="recording a: rates are NaN or infinite"):
        twin.stream("a").run(frames, behavior)


# In recordings ------------------------------------------------------------------------------------------------------


@pytest.fixture
def blinking(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    pupil = rng.normal(3, 2, (400, 2)).astype(np.float32)
    pupil[10:30, 0] = pupil[200] = np.nan
    starts = np.arange(0, 400, 80)
    return write_recording(
        tmp_path / "a.h5",
        recording_id="a",
        frame_rate_hz=60.0,
        frames=rng.integers(0, 256, (400, 4, 5)).astype(np.uint8),
        counts=rng.poisson(0.5, (400, 2)),
        behavior={"pupil": pupil, "lost": np.full((400, 1), np.nan, np.float32)},
        trials=Trials(starts, starts + 80, np.arange(5), np.array(["train"] * 3 + ["val", "test"])),
    )


def test_statistics_are_of_what_is_there_and_the_rest_is_counted(
    blinking: Path, caplog: pytest.LogCaptureFixture
) -> None:
    validate_recording(blinking)
    recording = Recording(blinking)
    found = training_statistics(recording, {"pupil": 2, "lost": 1})
    train = recording.behavior(0, 240, {"pupil": 2})
    np.testing.assert_allclose(found.behavior_mean[:2], np.nanmean(train, 0), rtol=1e-5)
    np.testing.assert_allclose(found.behavior_std[:2], np.nanstd(train, 0), rtol=1e-5)
    assert (found.behavior_mean[2], found.behavior_std[2]) == (0.0, 1.0)
    assert "4.6 % of behavior 'pupil' is missing (NaN) in training trials" in caplog.text
    assert "100.0 % of behavior 'lost'" in caplog.text


def test_slower_bins_pool_what_is_there(blinking: Path) -> None:
    fine, coarse = Recording(blinking), ResampledRecording(blinking, 20.0)
    stored = fine.behavior(0, 240, {"pupil": 2}).reshape(80, 3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mean of nothing
        expected = np.nanmean(stored, 1)
    np.testing.assert_allclose(coarse.behavior(0, 80, {"pupil": 2})[:26], expected[:26], rtol=1e-5)
    assert np.isnan(coarse.behavior(4, 9, {"pupil": 2})[:, 0]).all()


@pytest.mark.parametrize(
    "transform",
    [
        Velocity("x"),
        Speed("x"),
        SplitBySign("x"),
        Smooth("x", tau_s=0.05),
        RaisedCosines("x", n=3, duration_s=0.1, causal=True),
        PositionBasis("x", n=4, low=-1.0, high=1.0),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_one_missing_value_reaches_no_further_than_its_transform(transform) -> None:
    trace = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    whole = transform(trace, 60.0)
    trace[100, 0] = np.nan
    holed = transform(trace, 60.0)
    past, ahead = transform.reach(60.0)
    touched = np.zeros(300, bool)
    touched[100 - ahead : 100 + past + 1] = True
    np.testing.assert_array_equal(holed[~touched], whole[~touched])
    if isinstance(transform, Smooth):
        assert np.isfinite(holed).all()
        assert np.isnan(transform(np.full((9, 1), np.nan, np.float32), 60.0)).all()


def test_moments_in_pieces_are_those_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(1e6, 3, (100, 3))
    values[:20, 1] = values[5, 2] = np.nan
    moments = Moments(3)
    for start in range(0, 100, 7):
        moments.add(values[start : start + 7])
    np.testing.assert_allclose(moments.mean, np.nanmean(values, 0))
    np.testing.assert_allclose(moments.std, np.nanstd(values, 0), rtol=1e-9)
    np.testing.assert_allclose(moments.missing, [0, 0.2, 0.01])
