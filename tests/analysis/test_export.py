"""What is exported for a rig gives the stream's rates, in torch and in onnxruntime; what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from known_models import known_ln
from tiny_models import BASIS, ENERGY, GAIN, OWN_FILTER, RESIDUAL_STEM, TUBELET, clips, factorized, spec, twin, vivit

from vivit_core.analysis.export import files
from vivit_core.analysis.export.files import ABOUT, ENDINGS, FORMAT, STATE, ExportedStream, export_stream
from vivit_core.analysis.stream import plots
from vivit_core.analysis.stream.numbers import distribution, export_of, measure_export
from vivit_core.cli.tasks.export import export
from vivit_core.models.cores.cell_attention import CellAttention
from vivit_core.models.load import checkpoint_of
from vivit_core.models.streamed_step import StreamedStep, export_step, noise
from vivit_core.models.twin import Twin
from vivit_core.system.files import NoRoomError
from vivit_core.testing.twins import Parts


def small() -> Twin:
    """Two phases, few operations."""
    tubelet = TUBELET | {"patch_size": [2, 4, 4]}
    return twin(vivit(tokenizer=tubelet, spatial_depth=0, registers=0, temporal_depth=1, window=4))


def blind() -> Twin:
    """One phase, no behavior."""
    return twin(factorized(modulator=None), spec(behavior=0))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for kind in ENDINGS:
        export_stream(small(), "a", kind, folder / kind)
    return {kind: folder / kind for kind in ENDINGS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDINGS)
def test_an_export_takes_arrays_as_a_stream_does(made: dict[str, Path], kind: str) -> None:
    exported, same = ExportedStream(str(made[kind])), ExportedStream(made[kind])
    frame, behavior = noise(exported.spec, np.random.default_rng(3))
    mirrored = frame[..., ::-1].copy().astype(">f8")[..., ::-1]
    np.testing.assert_array_equal(exported.step(mirrored, behavior), same.step(frame, behavior))
    with pytest.raises(ValueError, match="frame of recording a: give real numbers and not complex64"):
        exported.step(frame.astype("complex64"), behavior)
    frame[0, :2, 0] = behavior[1] = np.nan
    with pytest.warns(UserWarning, match="recording a, bin 1: 3 pixels or numbers") as told:
        for _ in range(2):
            exported.step(frame, behavior)
    assert len(told) == 1 and exported.missing_values == 6
    if kind == "onnx":  # whose operators make numbers of a NaN
        return
    frame[:] = 1e38
    with pytest.raises(ValueError, match="recording a: rates are NaN or infinite"):
        for _ in exported.phases:
            exported.step(frame, behavior)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDINGS)
def test_an_export_gives_the_streams_rates(made: dict[str, Path], kind: str) -> None:
    exported, model = ExportedStream(made[kind]), small()
    own, rng, stream = model.specs["a"], np.random.default_rng(3), model.stream("a")
    for _ in range(400):
        stream.step(np.full(own.frame_shape, own.pixel_mean, np.float32), np.array(own.behavior_mean))
    assert exported.kind == kind and exported.spec == own and len(exported.phases) == 2
    for _ in range(15):
        frame, behavior = noise(own, rng)
        expected = stream.step(frame, behavior)
        assert np.abs(exported.step(frame[0], behavior) - expected).max() <= 1e-4 * expected.max()
    with pytest.raises(ValueError, match=r"frames of shape \(1, 12, 16\) and behavior of \(3,\), not"):
        exported.step(frame[0, :4], behavior)
    with pytest.raises(ValueError, match=r"not \(1, 12, 16\) and \(0,\)"):
        exported.step(frame)


def default() -> Twin:
    """What the default twin has, small: a stem on a temporal basis, energies that cells compare with their surround,
    filters of each unit's own, a gain by behavior, and memory of a few tokens. Two phases."""
    model = vivit(
        tokenizer=RESIDUAL_STEM | {"patch_size": [2, 4, 8], "widths": [4], "depth": 1},
        frontend=BASIS,
        energy=ENERGY,
        own_filter=OWN_FILTER,
        modulator=GAIN,
        embedding_dim=48,
        spatial_depth=1,
        temporal_depth=1,
        registers=0,
        window=4,
    )
    return Parts(model).twin((12, 16))


def streamed(twin: Twin, shown: list[tuple[np.ndarray, np.ndarray]], gray: int = 0) -> np.ndarray:
    """Rates (T, U) of the frames and behaviors, after so many gray frames."""
    stream, own = twin.stream("a"), twin.specs["a"]
    for _ in range(gray):
        stream.step(np.full(own.frame_shape, own.pixel_mean, np.float32), np.array(own.behavior_mean))
    return np.stack([stream.step(*one) for one in shown])


@pytest.fixture(scope="module")
def default_step() -> tuple[Twin, StreamedStep]:
    """Made once, because tracing takes most of the time."""
    twin = default()
    return twin, export_step(twin, "a")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDINGS)
def test_the_default_twins_parts_are_exported(
    tmp_path: Path,
    kind: Literal["torch", "onnx"],
    default_step: tuple[Twin, StreamedStep],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (twin, step), rng = default_step, np.random.default_rng(4)
    monkeypatch.setattr(files, "export_step", lambda *given: step)
    export_stream(twin, "a", kind, tmp_path / "out")
    exported, shown = ExportedStream(tmp_path / "out"), [noise(twin.specs["a"], rng) for _ in range(30)]
    expected = streamed(twin, shown, gray=400)
    rates = np.stack([exported.step(*one) for one in shown])
    assert np.abs(rates - expected).max() <= 1e-4 * expected.max()


def test_the_default_twins_parts_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an export without one of them would be noticed."""
    twin, rng = default(), np.random.default_rng(4)
    shown = [noise(twin.specs["a"], rng) for _ in range(30)]
    expected, told = streamed(twin, shown), CellAttention.stream

    def matters() -> bool:
        return bool(np.abs(streamed(twin, shown) - expected).max() > 1e-2 * expected.max())

    assert np.ptp(expected, axis=0).min() > 1e-2 * expected.max() and not matters()
    with monkeypatch.context() as patch:
        patch.setattr(CellAttention, "stream", lambda self, usual: lambda cells: 0 * told(self, usual)(cells))
        assert matters()
    with monkeypatch.context() as patch:
        patch.setattr(twin.core, "with_energies", lambda tokens, numbers: tokens.x_BTND)
        assert matters()
    assert twin.own_filters is not None
    for weights in (twin.own_filters[0].weight, twin.own_filters[0].gain):
        kept = weights.detach().clone()
        with torch.no_grad():
            weights.zero_()
            assert matters()
            weights.copy_(kept)


@pytest.mark.slow
def test_onnx_needs_nothing_of_ours(made: dict[str, Path]) -> None:
    """As docs/twin.md has it."""
    about = json.loads((made["onnx"] / ABOUT).read_text())
    sessions = [onnxruntime.InferenceSession(made["onnx"] / name) for name in about["phases"]]
    with np.load(made["onnx"] / STATE) as archive:
        state = {f"state_{number}": archive[f"state_{number}"] for number in range(len(archive.files))}
    same = ExportedStream(made["onnx"])
    for number in range(5):
        frame, behavior = noise(same.spec, np.random.default_rng(number))
        inputs = {"frame": frame, "behavior": behavior, **state}
        rates, *left = sessions[number % len(sessions)].run(None, inputs)
        state = {f"state_{place}": value for place, value in enumerate(left)}
        assert rates == pytest.approx(same.step(frame, behavior), rel=1e-6)


def test_a_twin_that_sees_no_behavior(tmp_path: Path) -> None:
    exported = [
        export_stream(blind(), "a", kind, tmp_path / kind) and ExportedStream(tmp_path / kind) for kind in ENDINGS
    ]
    frame = noise(exported[0].spec, np.random.default_rng(0))[0]
    assert exported[0].step(frame) == pytest.approx(exported[1].step(frame), rel=1e-4)


def test_what_is_no_export_is_refused(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"not an exported stream, because it holds no stream\.json"):
        ExportedStream(tmp_path)
    (tmp_path / ABOUT).write_text('{"format": 0}')
    with pytest.raises(ValueError, match="not of this version; export it anew"):
        ExportedStream(tmp_path)
    for kind, folder in made.items():
        (tmp_path / ABOUT).write_text((folder / ABOUT).read_text())
        for name in json.loads((folder / ABOUT).read_text())["phases"]:
            (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ValueError, match="cannot be loaded") as caught:
            ExportedStream(tmp_path)
        assert "\n" not in str(caught.value), kind
    with pytest.raises(ValueError, match="stands there already; name a new folder"):
        export_stream(small(), "a", "torch", tmp_path)
    monkeypatch.setattr(files, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match=r'onnxscript not installed: pip install "vivit-core\[onnx\]"'):
        export_stream(small(), "a", "onnx", tmp_path / "new")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"recording": {}}, "does not fit"),
        ({"phases": None}, "TypeError"),
        ({"phases": []}, r"stream\.json names no program"),
        ({"phases": ["gone.pt2"]}, r"gone\.pt2"),
    ],
)
def test_a_description_that_lacks_something_is_refused_in_a_line(
    tmp_path: Path, changed: dict[str, Any], problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    about = {"format": FORMAT, "kind": "torch", "phases": [], "recording": spec().to_dict()} | changed
    (tmp_path / ABOUT).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=rf"cannot be loaded \(.*{problem}.*\); export it anew") as caught:
        ExportedStream(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err  # which torch.export would show
    (tmp_path / ABOUT).write_text(json.dumps({"format": FORMAT, "kind": "torch"}))
    with pytest.raises(ValueError, match=r"cannot be loaded \(KeyError: 'recording'\)"):
        ExportedStream(tmp_path)


def test_a_full_disk_leaves_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full is one without any room at all."""
    monkeypatch.setattr(files, "save_onnx", lambda program, path: Path("/dev/full").write_bytes(bytes(10)))
    (tmp_path / "out").mkdir()
    with pytest.raises(NoRoomError, match=r"no room to write .*phase_0\.onnx: No space left"):
        export_stream(blind(), "a", "onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_late_bins_are_counted(made: dict[str, Path]) -> None:
    found = distribution(np.array([1.0] * 998 + [9.0, 20.0]) / 1e3, 8e-3)
    assert found["p50_ms"] == 1 and found["late_fraction"] == 0.002 and found["most_ms"] == 20
    assert found["p999_ms"] == pytest.approx(9.011)
    shown = clips(spec(), count=1, bins=7)
    arguments = (shown["frames"][0].numpy(), shown["behavior"][0].numpy())
    timed = measure_export(export_of(made["onnx"], small(), "a"), *arguments, warm_up=3)
    assert timed.shape == (7,) and (timed > 0).all()
    with pytest.raises(ValueError, match=r"is of recording a, not of b as this checkpoint knows it"):
        export_of(made["onnx"], twin(vivit(), spec("b")), "b")


def test_an_export_of_another_checkpoint_is_refused(made: dict[str, Path]) -> None:
    """Of one that was trained on the same recordings."""
    model = small()
    assert export_of(made["torch"], model, "a").weights is not None
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=r"torch: is not of this checkpoint's weights, .* with task=export, and give"):
        export_of(made["torch"], model, "a")


def test_the_picture_shows_each_stream_beside_the_deadline(tmp_path: Path, drawn: list[Any]) -> None:
    of = {"stream": np.full(50, 2e-3), "torch, a": np.full(50, 4e-3), "onnx, b": np.array([1e-3] * 49 + [20e-3])}
    plots.latency(tmp_path / "latency.png", of, clip_seconds=0.1, bin_s=8e-3)
    (figure,) = drawn
    each, share = figure.axes
    points = {line.get_label(): line for line in each.lines}
    for name, late in (("stream", "0.00%"), ("torch, a", "0.00%"), ("onnx, b", "2.00%")):
        ((label, line),) = [(label, line) for label, line in points.items() if label.startswith(f"{name}: median")]
        assert line.get_ydata() == pytest.approx(of[name] * 1e3) and label.endswith(f"late {late}")
    assert any(label.startswith("deadline: a bin lasts 8 ms") for label in points)
    assert any(line.get_xdata()[0] == 8 and line.get_linestyle() == "--" for line in share.lines)
    (onnx,) = [line for line in share.lines if max(line.get_xdata()) == 20]
    assert onnx.get_ydata()[-1] == pytest.approx(1 / 50)  # one bin of fifty is beyond the deadline


def test_a_recording_has_to_be_said_where_there_are_several(tmp_path: Path) -> None:
    several = twin(vivit(), spec("a"), spec("b"))
    torch.save(checkpoint_of(several), tmp_path / "several.ckpt")
    torch.save(checkpoint_of(known_ln()), tmp_path / "ln.ckpt")
    arguments = {"out": tmp_path / "out", "format": "torch", "recording": None, "source": None, "average": False}
    with pytest.raises(ValueError, match=r"knows 2 recordings, and one is exported; say recording=a or recording=b"):
        export(None, checkpoint=tmp_path / "several.ckpt", **arguments)
    with pytest.raises(ValueError, match=r"does not know recording 'c'"):
        export(None, checkpoint=tmp_path / "several.ckpt", **arguments | {"recording": "c"})
    with pytest.raises(ValueError, match=r"a model of kind LN is not exported; give a twin's"):
        export(None, checkpoint=tmp_path / "ln.ckpt", **arguments)


def test_averaged_weights_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of zeros, so that every unit has one rate whatever it is shown."""
    model, path = blind(), tmp_path / "both.ckpt"
    zeros = {f"twin.{name}": torch.zeros_like(value) for name, value in model.state_dict().items()}
    torch.save(checkpoint_of(model) | {"average": {"state_dict": zeros}}, path)
    context: Any = SimpleNamespace(describe=lambda: None)
    rates = {}
    for average, told in ((False, "these are the trained weights"), (True, "these are the averaged weights")):
        out = tmp_path / str(average)
        export(context, checkpoint=path, out=out, format="torch", recording=None, source=None, average=average)
        assert told in capsys.readouterr().out
        rates[average] = ExportedStream(out).step(noise(spec(behavior=0), np.random.default_rng(0))[0])
    assert np.ptp(rates[True]) == 0 and np.ptp(rates[False]) > 0
