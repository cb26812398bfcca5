"""LN with a surround: what it computes, the contract of every model, and that a planted surround is found."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.ln import LN
from vivit_core.models.ln_surround import APART, REACH, STD_PX, SurroundLN
from vivit_core.models.load import checkpoint_of, load_predictor
from vivit_core.models.own_filter import BEND
from vivit_core.specs import Clips, RecordingSpec
from vivit_core.training import surround
from vivit_core.training.surround import fit_alone, fit_surround

SPEC = RecordingSpec("r", 20.0, (2, 9, 12), ("a", "b"), (0.5, 0.2), 100.0, 50.0)
SETTINGS: dict[str, Any] = {
    "duration_s": 0.2, "patch": 3, "nonlinearity": "exp", "ring_px": [3.0, 8.0], "tau_s": [0.1, 0.5],
}  # fmt: skip


def random_model(seed: int = 0, **changes: Any) -> SurroundLN:
    torch.manual_seed(seed)
    model = SurroundLN([SPEC], **(SETTINGS | changes))
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    readout = model.readout("r")
    readout.corner_U2[:] = torch.tensor([[-1, 9], [3, 4]])  # the first window hangs over the border
    readout.usual_UR[:] = torch.tensor([[0.5, 0.7], [1.1, 0.0]])
    return model


def clip(bins: int = 11) -> Clips:
    generator = torch.Generator().manual_seed(0)
    return Clips(
        frames=torch.randint(0, 256, (2, 2, bins, 9, 12), generator=generator, dtype=torch.uint8),
        behavior=torch.zeros(2, bins, 0),
    )


def test_the_gain_is_the_written_formula() -> None:
    """Beside slow float64: energy place by place, ring by ring, bin by bin."""
    model, given = random_model(), clip()
    readout = model.readout("r")
    found = model({"r": given})["r"].detach().double().numpy()
    driven = super(type(readout), readout).forward(given["frames"]).detach().double().numpy()
    contrast = (given["frames"].double().numpy().mean(1) - 100.0) / 50.0
    half = int(np.ceil(REACH * STD_PX))
    at = np.arange(-half, half + 1) / STD_PX
    down = (at * np.exp(-(at**2) / 2))[:, None] * np.exp(-(at**2) / 2)
    down /= np.linalg.norm(down)
    padded = np.pad(contrast, ((0, 0), (0, 0), (half, half), (half, half)), mode="edge")
    keep, weight = np.exp(-1 / (np.array([0.1, 0.5]) * 20.0)), readout.gain_UK.detach().double().numpy()
    for unit, (row, column) in enumerate([(0, 10), (4, 5)]):
        faded = np.zeros((2, 2, 2))  # clips, rings, time constants
        for t in range(11):
            inside: list[list[np.ndarray]] = [[], []]
            for y in range(0, 9, APART):
                for x in range(0, 12, APART):
                    cut = padded[:, t, y : y + 2 * half + 1, x : x + 2 * half + 1]
                    energy = (cut * down).sum((1, 2)) ** 2 + (cut * down.T).sum((1, 2)) ** 2
                    away = np.hypot(y - row, x - column)
                    if away <= 8:
                        inside[int(away > 3)].append(energy)
            now = np.stack([np.mean(ring, axis=0) for ring in inside], axis=1)
            faded = keep * faded + (1 - keep) * now[:, :, None]
            features = np.log1p(BEND * faded * readout.usual_UR[unit].double().numpy()[:, None])
            expected = driven[:, t, unit] * np.exp((features.reshape(2, 4) * weight[unit]).sum(1))
            np.testing.assert_allclose(found[:, t, unit], expected, rtol=1e-4)


def test_without_weights_it_is_ln() -> None:
    model, ln = random_model(), LN([SPEC], 0.2, 3, "exp")
    with torch.no_grad():
        model.readout("r").gain_UK.zero_()
    names = ln.readout("r").state_dict()
    ln.readout("r").load_state_dict({name: x for name, x in model.readout("r").state_dict().items() if name in names})
    assert torch.equal(model({"r": clip()})["r"], ln({"r": clip()})["r"])


def test_future_frames_change_nothing_before_them() -> None:
    model, changed = random_model(), clip()
    changed["frames"][:, :, 5] = 255 - changed["frames"][:, :, 5] // 2
    before, after = model({"r": clip()})["r"], model({"r": changed})["r"]
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.allclose(before[:, 5], after[:, 5])
    newest = random_model(predict="last")({"r": clip()})["r"]
    assert torch.equal(newest, before[:, -1])


def test_a_stream_equals_the_clip() -> None:
    model, given = random_model(), clip(30)
    stream = model.stream("r")
    streamed_hz = [stream.step(given["frames"][0, :, t].numpy(), np.zeros(0, np.float32)) for t in range(30)]
    with torch.no_grad():
        whole_hz = model({"r": given})["r"][0].numpy() * SPEC.frame_rate_hz
    np.testing.assert_allclose(np.stack(streamed_hz), whole_hz, rtol=1e-4)


def test_every_weight_has_a_gradient_and_a_checkpoint_holds_all(tmp_path: Path) -> None:
    model = random_model()
    model({"r": clip()})["r"].sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name
    torch.save(checkpoint_of(model), tmp_path / "ln.ckpt")
    again = load_predictor(tmp_path / "ln.ckpt")
    assert isinstance(again, SurroundLN) and again.specs == model.specs
    assert torch.equal(again({"r": clip()})["r"], model({"r": clip()})["r"])


@pytest.mark.parametrize(
    "wrong", [{"ring_px": []}, {"ring_px": [5.0, 5.0]}, {"ring_px": [0.0]}, {"tau_s": [0.1, -1.0]}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"model.{next(iter(wrong))}=.*at least one"):
        random_model(**wrong)


# The fit

TRIAL, HEIGHT, WIDTH = 100, 14, 18


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Noise whose contrast in the center and around it changes from frame to frame, seen by a unit that the contrast
    around divides, and by one that it does not concern."""
    rng = np.random.default_rng(0)
    bins = 24 * TRIAL
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    around = np.hypot(y - 7, x - 9) > 4
    level_T = rng.uniform(0.05, 1.0, bins).repeat(10)[:bins]  # of the surround, .25 s each
    noise = rng.standard_normal((bins, HEIGHT, WIDTH)) * np.where(around, level_T[:, None, None], 0.5)
    frames = np.clip(127.5 + 60 * noise, 0, 255).astype(np.uint8)
    drive_T = (frames[:, 6:9, 8:11].mean((1, 2)) - 127.5) / 10
    rate_TU = 0.5 * np.exp(np.stack([drive_T - 1.5 * np.log1p(3 * level_T), drive_T - 1.0], axis=1))
    start = np.arange(0, bins, TRIAL)
    split = np.array(["train"] * 18 + ["val"] * 3 + ["test"] * 3)
    path = write_recording(
        tmp_path_factory.mktemp("surround") / "planted.h5",
        recording_id="planted", frame_rate_hz=40.0, frames=frames, counts=rng.poisson(rate_TU).astype(np.uint8),
        trials=Trials(start, start + TRIAL, np.arange(len(start)), split),
    )  # fmt: skip
    recording = Recording(path)
    spec = RecordingSpec("planted", 40.0, (1, HEIGHT, WIDTH), recording.info.unit_ids,
                         tuple(recording.counts(0, 18 * TRIAL).mean(0).tolist()), 127.5, 35.0)  # fmt: skip
    node = {"_target_": "vivit_core.models.ln_surround.SurroundLN", "duration_s": 0.1, "patch": 5,
            "nonlinearity": "exp", "ring_px": [4.0, 9.0], "tau_s": [0.03]}  # fmt: skip
    data: Any = SimpleNamespace(recordings=[recording], specs=[spec])
    return SimpleNamespace(recording=recording, spec=spec, node=node, data=data, rate_TU=rate_TU)


def test_a_planted_surround_is_found(planted: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the unit that has one, and its rates come nearer to the truth than LN's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = fit_alone(planted.data, planted.node)
    assert isinstance(model, SurroundLN)
    divides_U = model.readout("planted").gain_UK[:, 1].detach()
    assert divides_U[0] < -0.5 and abs(divides_U[1]) < 0.2
    test = slice(21 * TRIAL, 24 * TRIAL)
    shown = Clips(frames=torch.as_tensor(planted.recording.frames(test.start, test.stop))[None])
    ln = fit_alone(planted.data, {key: planted.node[key] for key in ("duration_s", "patch", "nonlinearity")}
                   | {"_target_": "vivit_core.models.ln.LN"})  # fmt: skip
    assert type(ln) is LN
    with torch.no_grad():
        found, plain = (made({"planted": shown})["planted"][0].numpy() for made in (model, ln))
    truth = planted.rate_TU[test]
    error, of_ln = (np.square(np.log(rates) - np.log(truth)).mean(0) for rates in (found, plain))
    assert error[0] < 0.5 * of_ln[0] and error[1] < 1.2 * of_ln[1]


def test_the_fit_holds_out_trials_where_none_validates(
    planted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does nothing where there are too few for that."""
    own = surround.stretches
    model = SurroundLN([planted.spec], **{key: value for key, value in planted.node.items() if key != "_target_"})
    readout, likelihood = model.readout("planted"), model.likelihood("planted")
    begun = readout.gain_UK.detach().clone()

    def only(most: int) -> None:
        some = {"train": most, "val": 0}
        monkeypatch.setattr(surround, "stretches", lambda r, split, *of: own(r, split, *of)[: some[split]])

    only(3)
    assert fit_surround(readout, likelihood, planted.recording) == 0 and torch.equal(readout.gain_UK, begun)
    only(18)
    assert fit_surround(readout, likelihood, planted.recording) > 0
