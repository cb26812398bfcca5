"""A video of any length is predicted piece by piece as in one pass, in flat memory."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import known_models
import numpy as np
import pytest
import tiny_models
import torch
from films import gray, write
from small_recordings import small_arrays

from vivit_core.analysis.video.section import report_section
from vivit_core.analysis.video.video import predict_video
from vivit_core.data import rates as rate_files
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.video.files import open_video
from vivit_core.models.ensemble import Ensemble
from vivit_core.plotting.film import RatesBeside
from vivit_core.specs import RecordingSpec

DEFAULTS: dict[str, Any] = {
    "recordings": None, "behavior": None, "transforms": {}, "frame_rate_hz": None, "degrees_per_pixel": None,
    "pixel_scale": 1.0, "pixel_offset": 0.0, "film": None, "film_s": 0.2, "about": {"checkpoint": "best.ckpt"},
    "progress": False,
}  # fmt: skip


def predicted(model: Any, video: Path, folder: Path, **changed: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The summary, and the rates of each recording as they were written."""
    out = folder / f"rates{len(list(folder.glob('*.h5')))}.h5"
    summary = predict_video(model, video, out, **{**DEFAULTS, "pictures": folder / "pictures", **changed})
    with h5py.File(out) as file:
        assert json.loads(file.attrs["about"])["recordings"] == summary["recordings"]
        return summary, {g.attrs["recording_id"]: g["rates"][()] for g in file["recordings"].values()}


def close(made: np.ndarray, expected: np.ndarray) -> None:
    assert made.shape == expected.shape and np.abs(made - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_twin_that_remembers_goes_on_from_its_own_counts(tmp_path: Path) -> None:
    """Each trial anew, with samples of its own; piece by piece as in one pass."""
    history = {"_target_": "vivit_core.models.histories.spikes.OwnSpikes", "bases": 2, "lags": 4, "shown": 0.5}
    model = tiny_models.twin(tiny_models.vivit(modulator=None, history=history), tiny_models.spec("a", behavior=0))
    with torch.no_grad():
        model.history("a").weight_UK.fill_(0.5)
    own = model.specs["a"]
    frames = np.random.default_rng(0).integers(0, 255, (60, *own.frame_shape[1:]), dtype=np.uint8)
    starts = np.array([0, 20, 40])
    trials = Trials(starts, starts + 20, np.array(["x", "x", "y"]), np.array(["train", "val", "test"]))
    frames[20:40] = frames[:20]
    counts = np.zeros((60, own.n_units), np.uint8)
    film = write_recording(
        tmp_path / "film.h5", recording_id="film", frame_rate_hz=own.frame_rate_hz, frames=frames, counts=counts,
        trials=trials,
    )  # fmt: skip
    model.feedback, model.seed = "samples", 5
    _, rates = predicted(model, film, tmp_path)
    assert not np.allclose(rates["a"][:20], rates["a"][20:40])
    model.seed = 5
    close(rates["a"][:20], model.rates("a", frames[:20]))
    model.feedback = "expected"
    _, rates = predicted(model, film, tmp_path)
    close(rates["a"][:20], rates["a"][20:40])


@pytest.mark.parametrize("kind", ["twin", "ln"])
def test_every_bin_is_that_of_one_pass(tmp_path: Path, kind: str) -> None:
    """Of 150 bins, which are no multiple of the tokens' frames, nor of the pieces'."""
    specs = [tiny_models.spec("a"), tiny_models.spec("b", units=3)]
    node = tiny_models.vivit(tokenizer=tiny_models.STEM, frontend=tiny_models.BASIS)
    model = tiny_models.twin(node, *specs) if kind == "twin" else known_models.known_ln(0.3)
    own = model.specs[next(iter(model.specs))]
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (150, *own.frame_shape[1:]), dtype=np.uint8)
    np.save(tmp_path / "video.npy", frames)
    behavior = rng.standard_normal((150, own.behavior_dim)).astype(np.float32)
    np.savez(tmp_path / "behavior.npz", gaze=behavior)
    summary, rates = predicted(
        model, tmp_path / "video.npy", tmp_path, frame_rate_hz=own.frame_rate_hz, behavior=tmp_path / "behavior.npz"
    )
    assert list(rates) == list(model.specs)
    for name, made in rates.items():
        close(made, model.rates(name, frames, behavior))
        assert summary["recordings"][name]["bins"] == 150
        assert summary["recordings"][name]["mean_rate_hz"] == pytest.approx(made.mean(), rel=1e-5)
        assert summary["recordings"][name]["pixel_mean"] == pytest.approx(frames.mean())
    assert (tmp_path / "pictures" / f"prediction_{own.recording_id}.png").is_file()


def test_an_ensembles_members_lie_apart(tmp_path: Path) -> None:
    """Its mean rate, and beside it the spread over its members, as those of one pass."""
    members = [tiny_models.twin(tiny_models.vivit(modulator=None), tiny_models.spec("a", behavior=0)) for _ in range(3)]
    with torch.no_grad():
        for number, member in enumerate(members):
            for parameter in member.parameters():
                parameter.add_(0.02 * (number + 1) * torch.randn(parameter.shape, generator=torch.manual_seed(number)))
    both = Ensemble(members)
    frames = np.random.default_rng(0).integers(0, 255, (70, *both.specs["a"].frame_shape[1:]), dtype=np.uint8)
    np.save(tmp_path / "video.npy", frames)
    summary, rates = predicted(both, tmp_path / "video.npy", tmp_path, frame_rate_hz=both.specs["a"].frame_rate_hz)
    with h5py.File(tmp_path / "rates0.h5") as file:
        apart = file["recordings/a/spread"][()]
    close(rates["a"], both.rates("a", frames))
    close(apart, both.spread("a", frames))
    assert summary["recordings"]["a"]["mean_spread_hz"] == pytest.approx(apart.mean(), rel=1e-5)
    (table,) = report_section(summary, tmp_path, "python run.py task=predict").tables
    assert table.columns[-1] == "members apart by (Hz)" and table.rows[0][-1] > 0


def test_a_recordings_trials_begin_anew_each(tmp_path: Path) -> None:
    arrays = small_arrays()
    path = write_recording(tmp_path / "r.h5", **arrays)
    own = RecordingSpec(
        "mine", 50.0, (1, 4, 6), ("u", "v"), (0.2, 0.3), 120.0, 50.0, {"eye": 2}, (0.0,) * 2, (1.0,) * 2
    )
    model = tiny_models.twin(tiny_models.vivit(), own)
    summary, rates = predicted(model, path, tmp_path, recordings=["mine"])
    view = ResampledRecording(path, 50.0)
    trials = list(zip(view.info.trials.start, view.info.trials.stop, strict=True))
    expected = [model.rates("mine", view.frames(*t), view.behavior(*t, own.behavior)) for t in trials]
    close(rates["mine"], np.concatenate(expected))
    assert summary["recordings"]["mine"]["behavior_at_mean"] == []
    with pytest.raises(ValueError, match=r"eye has 30 rows; give one for each of the 120 frames .* 6 trials"):
        np.savez(tmp_path / "b.npz", eye=np.zeros((30, 2)))
        predicted(model, path, tmp_path, behavior=tmp_path / "b.npz")


def test_what_was_done_is_said(tmp_path: Path) -> None:
    own = replace(tiny_models.spec(), degrees_per_pixel=0.2)
    model = tiny_models.twin(tiny_models.vivit(), own)
    path = write(tmp_path / "film.mp4", gray(20), 30)
    film = tmp_path / "film.gif"
    summary, rates = predicted(
        model, path, tmp_path, degrees_per_pixel=0.1, film=film, pixel_scale=0.01, recordings=["a"]
    )
    how = " | ".join(summary["recordings"]["a"]["how"])
    for words in (
        "30 Hz brought to 120 Hz",
        "each pixel 0.5 times as wide as the recording's of 0.2°",
        "colors become their luminance",
        "0.01 x + 0",
        "behavior at its mean: gaze",
        "far from the training's",
    ):
        assert words in how
    assert rates["a"].shape == (80, 5)
    assert open_video(film).n_frames == 4  # of 24 bins at 120 Hz, 20 pictures a second
    section = report_section(summary, tmp_path, "python run.py")
    assert (
        section.tables[0].rows[0][:3] == ("a", 5, 80)
        and len(section.pictures) == 1
        and how.split(" | ")[1] in str(section.text)
    )


def test_a_film_as_mp4(tmp_path: Path) -> None:
    model = tiny_models.twin(tiny_models.vivit(), tiny_models.spec(behavior=0))
    np.save(tmp_path / "v.npy", gray(60, 12, 16))
    predicted(model, tmp_path / "v.npy", tmp_path, frame_rate_hz=120, film=tmp_path / "f.mp4")
    assert open_video(tmp_path / "f.mp4").frame_rate_hz == 20
    shown = (tmp_path / "f.mp4").read_bytes()
    with pytest.raises(ValueError, match=r"film=.*f\.mp4: stands there already; name a new file"):
        predicted(model, tmp_path / "f.mp4", tmp_path, frame_rate_hz=120, film=tmp_path / "f.mp4")
    assert (tmp_path / "f.mp4").read_bytes() == shown  # the video itself, which it would have replaced
    with pytest.raises(ValueError, match=r"film=.*f\.mov: a film is \.mp4 or \.gif"):
        predicted(model, tmp_path / "v.npy", tmp_path, frame_rate_hz=120, film=tmp_path / "f.mov")


@pytest.mark.parametrize("fails", ["film", "rates"])
def test_rates_and_film_are_both_made_or_neither(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the same command may be given again."""
    model = tiny_models.twin(tiny_models.vivit(), tiny_models.spec(behavior=0))
    np.save(tmp_path / "v.npy", gray(120, 12, 16))

    def full(self: Any, *args: Any) -> None:
        if fails == "rates":
            assert all(list(own.pieces) for own in args[0])
            assert (tmp_path / ".f.waiting.gif").exists() and not (tmp_path / "f.gif").exists()
        raise OSError("no space left")

    def predict() -> None:
        film = tmp_path / "f.gif"
        predicted(model, tmp_path / "v.npy", tmp_path, frame_rate_hz=120, film=film, film_s=0.1)

    with monkeypatch.context() as patch:
        if fails == "film":
            patch.setattr(RatesBeside, "film", full)
        else:
            patch.setattr(rate_files, "write_h5", full)
        with pytest.raises(OSError, match="no space left"):
            predict()
    assert {path.name for path in tmp_path.iterdir()} <= {"v.npy", "pictures"}
    predict()
    assert (tmp_path / "f.gif").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    model = known_models.known_ln(0.3)
    peaks = []
    for bins in (400, 400, 2400):  # the first makes what is made once
        np.save(tmp_path / "v.npy", np.zeros((bins, known_models.HEIGHT, known_models.WIDTH), np.uint8))
        tracemalloc.start()
        predicted(model, tmp_path / "v.npy", tmp_path, frame_rate_hz=60)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    frames_bytes = 2000 * known_models.HEIGHT * known_models.WIDTH
    assert peaks[2] - peaks[1] < 0.25 * frames_bytes, peaks


def test_what_cannot_be_predicted_is_refused(tmp_path: Path) -> None:
    own = tiny_models.spec(behavior=0)
    np.save(tmp_path / "v.npy", gray(3, 12, 16))
    model = tiny_models.twin(tiny_models.vivit(), own)
    with pytest.raises(ValueError, match=r"is shorter than a bin of the model, 0\.00833"):
        predicted(model, tmp_path / "v.npy", tmp_path, frame_rate_hz=1000)
    with pytest.raises(ValueError, match="does not know recording 'z'"):
        predicted(model, tmp_path / "v.npy", tmp_path, frame_rate_hz=120, recordings=["z"])
    with pytest.raises(ValueError, match="acausal model"):
        predicted(
            tiny_models.twin(tiny_models.vivit(causal=False), own), tmp_path / "v.npy", tmp_path, frame_rate_hz=120
        )
    model.readout("a").bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="recording a: rates are NaN or infinite; give frames"):
        predicted(model, tmp_path / "v.npy", tmp_path, frame_rate_hz=120)
    assert not list(tmp_path.glob("*.h5")) and not list(tmp_path.glob(".*"))


def test_names_of_any_kind_are_drawn_as_they_are(tmp_path: Path, drawn: list[Any]) -> None:
    own = replace(tiny_models.spec(behavior=0, units=2), unit_ids=("$x^2$", "_\x1b[31m"), recording_id="../<b>")
    model = tiny_models.twin(tiny_models.vivit(), own)
    np.save(tmp_path / "v.npy", gray(9, 12, 16))
    summary, rates = predicted(model, tmp_path / "v.npy", tmp_path, frame_rate_hz=120, film=tmp_path / "f.gif")
    labels = [axes.get_ylabel() for axes in drawn[0].axes]
    assert labels[1:] == [r"\$x^2\$", r" _\x1b[31m"] and list(rates) == ["../<b>"]
    assert len(list((tmp_path / "pictures").iterdir())) == 1 and summary["recordings"].keys() == {"../<b>"}
