"""What training starts from: typical fields, time courses, unit variances, readouts at their receptive fields."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from tiny_models import BASIS, LIKELIHOOD, READOUT, RESIDUAL_STEM, STEM, factorized, resnet, vivit
from torch import Tensor, nn

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.from_data import FieldsWanted
from vivit_core.models.layers import Call, call_block
from vivit_core.models.ln import LN
from vivit_core.models.tokenizers.base import Tokens
from vivit_core.models.tokenizers.stem import ConvStem
from vivit_core.models.tokenizers.tubelet import Tubelet
from vivit_core.models.twin import Twin
from vivit_core.specs import RecordingSpec
from vivit_core.testing.twins import Parts, check_start
from vivit_core.training.initialize import (
    contrast,
    fields_of,
    initialize_from_data,
    placing_s,
    principal_courses,
    prototypes,
)
from vivit_core.training.machine import keep_freed_memory

CENTERS = np.array([[4.0, 3.0], [11.0, 8.0]])  # x, y
HEIGHT, WIDTH, BINS = 12, 16, 4000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """White noise seen by two units, each through one pixel, a frame late."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (BINS, HEIGHT, WIDTH), dtype=np.uint8)
    seen = np.stack([frames[:, int(y), int(x)] for x, y in CENTERS], 1) / 64.0 - 2.0
    rate = 0.3 * np.exp(0.8 * np.roll(seen, 1, axis=0))
    starts = np.arange(0, BINS, 500)
    split = np.array(["train"] * 6 + ["val", "test"])
    path = write_recording(
        tmp_path_factory.mktemp("start") / "a.h5",
        recording_id="a",
        frame_rate_hz=60.0,
        frames=frames,
        counts=rng.poisson(rate).astype(np.uint8),
        trials=Trials(starts, starts + 500, np.arange(len(starts)), split),
    )
    return Recording(path)


@pytest.fixture
def spec(recording: Recording) -> RecordingSpec:
    return RecordingSpec("a", 60.0, (1, HEIGHT, WIDTH), recording.info.unit_ids, (0.4, 0.4), 127.5, 74.0)


def test_readouts_filters_and_scales_start_from_training_trials(recording: Recording, spec: RecordingSpec) -> None:
    torch.manual_seed(0)
    twin = Twin(vivit(tokenizer=STEM, frontend=BASIS, modulator=None), READOUT, LIKELIHOOD, [spec])
    initialize_from_data(twin, [recording], ln=None)
    np.testing.assert_allclose(twin.gaussians_px("a")["mean_px"], CENTERS, atol=0.7)
    stem = twin.core.tokenizer
    assert isinstance(stem, ConvStem)
    with torch.no_grad():
        x, _ = stem.same(twin.core.frontend(contrast(twin, recording)))
        torch.testing.assert_close(stem.fields(x).std((0, 2, 3)), torch.ones(6), rtol=1e-3, atol=1e-3)
        mixed = stem.mix(stem.rectify(stem.fields(x)))
        torch.testing.assert_close(mixed.std((0, 2, 3)), torch.ones(6), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rate_hz", "trial", "hold", "late"), [(10.0, 20, 1, 1), (500.0, 500, 8, 40)])
def test_units_are_placed_at_any_rate(tmp_path: Path, rate_hz: float, trial: int, hold: int, late: int) -> None:
    """The front end's 24 lags are longer than slow trials, and end before the responses of a fast recording."""
    rng = np.random.default_rng(0)
    bins = 4000 * min(hold, 4)
    frames = rng.integers(0, 256, (bins // hold, HEIGHT, WIDTH), dtype=np.uint8).repeat(hold, 0)
    seen = np.stack([frames[:, int(y), int(x)] for x, y in CENTERS], 1) / 64.0 - 2.0
    starts = np.arange(0, len(frames), trial)
    path = write_recording(
        tmp_path / "a.h5", recording_id="a", frame_rate_hz=rate_hz, frames=frames,
        counts=rng.poisson(0.3 * np.exp(0.8 * np.roll(seen, late, axis=0))).astype(np.uint8),
        trials=Trials(starts, starts + trial, np.arange(len(starts)), np.array(["train"] * len(starts))),
    )  # fmt: skip
    recording = Recording(path)
    spec = RecordingSpec("a", rate_hz, (1, HEIGHT, WIDTH), recording.info.unit_ids, (0.4, 0.4), 127.5, 74.0)
    frontend = BASIS | {"lags": 24}
    twin = Twin(vivit(tokenizer=STEM, frontend=frontend, modulator=None), READOUT, LIKELIHOOD, [spec])
    initialize_from_data(twin, [recording], ln=None)
    np.testing.assert_allclose(twin.gaussians_px("a")["mean_px"], CENTERS, atol=0.7)


@pytest.mark.parametrize(
    ("rate_hz", "trial", "lags"),
    [
        (60.0, 300, 24),
        (30.0, 300, 24),
        (120.0, 300, 24),
        (500.0, 900, 100),
        (10.0, 300, 8),
        (60.0, 30, 10),
        (60.0, 9, 4),
        (60.0, 3, 2),
        (3.0, 300, 4),
        (0.5, 300, 4),
    ],
)
def test_how_long_the_kernels_are_that_place_units(rate_hz: float, trial: int, lags: int) -> None:
    trials = SimpleNamespace(start=np.zeros(3, int), stop=np.array([trial, trial, 9000]))
    file = SimpleNamespace(info=SimpleNamespace(trials=SimpleNamespace(of=lambda split: trials)))
    found = placing_s(SimpleNamespace(lags=24, bases=4), file, rate_hz)  # type: ignore[arg-type]
    assert found * rate_hz == pytest.approx(lags)


def test_likelihoods_and_histories_start_from_training_trials(recording: Recording, spec: RecordingSpec) -> None:
    scatter = {"_target_": "vivit_core.models.likelihoods.gaussian.Gaussian", "output": "softplus", "stabilized": False}
    history = {"_target_": "vivit_core.models.histories.spikes.OwnSpikes", "bases": 2, "lags": 4, "shown": 0.5}
    twin = Twin(vivit(modulator=None, history=history), READOUT, scatter, [spec])
    initialize_from_data(twin, [recording], ln=None, trained=("core", "modulator"))
    measured = recording.counts(0, 3000)
    np.testing.assert_allclose(twin.likelihood("a").std_U.detach(), measured.std(0) / 0.4, rtol=1e-4)
    np.testing.assert_allclose(twin.history("a").std_U, measured.std(0), rtol=1e-4)


def test_the_stem_takes_over_the_baselines_fields(recording: Recording, spec: RecordingSpec) -> None:
    torch.manual_seed(0)
    twin = Twin(vivit(tokenizer=STEM, frontend=BASIS, modulator=None), READOUT, LIKELIHOOD, [spec])
    ln = LN([spec], duration_s=0.1, patch=3, nonlinearity="exp")
    readout = ln.readout("a")
    with torch.no_grad():
        readout.time_UL[:, -2] = 1.0
        readout.space_UP[0, 4] = 1.0  # the middle pixel
        readout.space_UP[1] = torch.tensor([0.0, 1, 0, 1, -4, 1, 0, 1, 0])
    initialize_from_data(twin, [recording], ln)
    taken = twin.core.tokenizer.fields.weight[:2].detach().flatten(1)
    expected = torch.nn.functional.pad(
        fields_of(readout, twin.core.frontend.weight_KL.detach(), 5), (1, 1, 1, 1)
    ).flatten(1)
    likeness = torch.nn.functional.cosine_similarity(taken[:, None], expected[None], dim=-1).abs()
    assert likeness.amax(0).min() > 0.99


@pytest.mark.parametrize(
    "model", [resnet(tokenizer=STEM, frontend=BASIS), vivit(tokenizer=RESIDUAL_STEM, frontend=BASIS)]
)
def test_rivals_stems_start_as_the_vivits_own(model: dict[str, Any], recording: Recording, spec: RecordingSpec) -> None:
    made = []
    ln = LN([spec], duration_s=0.1, patch=3, nonlinearity="exp")
    with torch.no_grad():
        ln.readout("a").time_UL[:, -2] = 1.0
        ln.readout("a").space_UP[:] = torch.eye(9)[[4, 5]]
    for one in (model, vivit(tokenizer=STEM, frontend=BASIS)):
        torch.manual_seed(0)
        twin = Twin(one | {"modulator": None}, READOUT, LIKELIHOOD, [spec])
        stem = next(module for module in twin.core.modules() if isinstance(module, ConvStem))
        with torch.no_grad():
            for i, parameter in enumerate((stem.fields.weight, stem.fields.bias)):
                torch.manual_seed(i)
                parameter.normal_()
        initialize_from_data(twin, [recording], ln)
        np.testing.assert_allclose(twin.gaussians_px("a")["mean_px"], CENTERS, atol=0.7)
        made.append(stem.fields.weight)
    torch.testing.assert_close(made[0], made[1])


def test_the_factorized_cnn_starts_with_the_baselines_fields_and_unit_variances(
    recording: Recording, spec: RecordingSpec
) -> None:
    torch.manual_seed(0)
    twin = Twin(factorized(modulator=None), READOUT, LIKELIHOOD, [spec])
    ln = LN([spec], duration_s=0.1, patch=3, nonlinearity="exp")
    readout = ln.readout("a")
    with torch.no_grad():
        readout.time_UL[:, -2] = 1.0
        readout.space_UP[0, 4] = 1.0
        readout.space_UP[1] = torch.tensor([0.0, 1, 0, 1, -4, 1, 0, 1, 0])
    initialize_from_data(twin, [recording], ln)
    np.testing.assert_allclose(twin.gaussians_px("a")["mean_px"], CENTERS, atol=0.7)
    first = twin.core.first
    with torch.no_grad():
        fields = torch.einsum("okl,khw->olhw", first.time.weight[..., 0, 0], first.space.weight[:, 0, 0]).flatten(1)
        expected = torch.nn.functional.pad(fields_of(readout, torch.eye(5), 5), (1, 1, 1, 1)).flatten(1)
        likeness = torch.nn.functional.cosine_similarity(fields[:, None], expected[None], dim=-1)
        assert likeness.amax(0).min() > 0.95 and likeness.amin(0).max() < -0.95  # each with its negative
        x = contrast(twin, recording)
        for layer in twin.core.layers:
            torch.testing.assert_close(layer.time(layer.space(x)).std((0, 2, 3, 4)), torch.ones(len(layer.time.bias)))
            x = layer(x)


class Outside(Tubelet):
    """Somebody's stem, which nothing here knows: it filters, and cuts tubelets from what comes out."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__(4, dim, [4, 4, 4], None)
        self.mine = nn.Conv2d(in_channels, 4, 3, padding=1)

    def fields_wanted(self) -> FieldsWanted:
        return FieldsWanted(4, 3)

    @torch.no_grad()
    def initialize(self, fields_FKPP: Tensor) -> None:
        self.mine.weight[: len(fields_FKPP)] = fields_FKPP

    @torch.no_grad()
    def normalize(self, clips: Iterable[Tensor]) -> None:
        self.scale = torch.cat([x.flatten(2) for x in clips], -1).std()

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        flat = rearrange(x_BCTHW, "b c t h w -> (b t) c h w")
        return super().forward(rearrange(self.mine(flat), "(b t) c h w -> b c t h w", b=len(x_BCTHW)), call)


def test_somebody_s_stem_starts_from_data_too(recording: Recording, spec: RecordingSpec) -> None:
    twin = Twin(vivit(frontend=BASIS, modulator=None), READOUT, LIKELIHOOD, [spec])
    twin.core.tokenizer = Outside(3, 16)
    ln = LN([spec], duration_s=0.1, patch=3, nonlinearity="exp")
    with torch.no_grad():
        ln.readout("a").time_UL[:, -2] = 1.0
        ln.readout("a").space_UP[:] = torch.eye(9)[[4, 5]]
    initialize_from_data(twin, [recording], ln)
    frontend = twin.core.frontend
    expected = fields_of(ln.readout("a"), frontend.weight_KL.detach(), 3).flatten(1)
    likeness = torch.nn.functional.cosine_similarity(
        twin.core.tokenizer.mine.weight[:2].flatten(1)[:, None], expected[None], dim=-1
    ).abs()
    assert likeness.amax(0).min() > 0.99
    with torch.no_grad():
        torch.testing.assert_close(twin.core.tokenizer.scale, frontend(contrast(twin, recording)).std())


def test_a_start_that_breaks_its_contract_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(vivit(tokenizer=STEM, frontend=BASIS))
    check_start(parts)
    with monkeypatch.context() as patched:
        patched.setattr(ConvStem, "initialize", lambda self, fields_FKPP: None)
        with pytest.raises(AssertionError, match="ConvStem with 6 fields of 5 px changes no parameter"):
            check_start(parts)
    monkeypatch.setattr(ConvStem, "normalize", lambda self, clips: self.fields.weight.fill_(math.nan))
    with pytest.raises(AssertionError, match="rates are no numbers"):
        check_start(parts)


def test_prototypes_take_a_field_and_its_negative_for_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.linalg.qr(torch.randn(18, 3, generator=generator)).Q.T.view(3, 2, 3, 3)
    which = torch.arange(30) % 3
    sign = torch.where(torch.rand(30, generator=generator) < 0.5, -1.0, 1.0)
    fields = true[which] * sign[:, None, None, None] + 0.02 * torch.randn(30, 2, 3, 3, generator=generator)
    outlier = torch.randn(1, 2, 3, 3, generator=generator)
    found = prototypes(torch.cat([fields, outlier]), torch.cat([torch.ones(30), torch.zeros(1)]), 3)
    likeness = (found.flatten(1) @ true.flatten(1).T).abs()
    assert likeness.amax(0).min() > 0.99
    assert len(prototypes(fields, torch.ones(30), 100)) == 30
    assert len(prototypes(fields, torch.zeros(30), 100)) == 0


def test_principal_courses_span_the_units() -> None:
    rng = np.random.default_rng(0)
    two = rng.standard_normal((2, 9))
    courses = rng.standard_normal((20, 2)) @ two
    found = principal_courses(courses, 2)
    assert found is not None
    np.testing.assert_allclose(courses @ found.T @ found, courses, atol=1e-5)
    assert principal_courses(courses, 3) is None


def test_freed_memory_is_kept_where_glibc_is(tmp_path: Path) -> None:
    import platform

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
