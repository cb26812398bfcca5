"""Every task that looks at a model, on a GPU that is not there: the same numbers as on the CPU (see ``emulated``)."""

from __future__ import annotations

import known_models
import numpy as np
import pytest
import test_sensorium2023 as sensorium
import tiny_models
import torch
from test_emulated import gpu  # noqa: F401
from test_video import DEFAULTS

from vivit_core.analysis.attention.attention import study_attention
from vivit_core.analysis.compare import cost
from vivit_core.analysis.compare.compare import compare
from vivit_core.analysis.compare.numbers import Contender
from vivit_core.analysis.evaluate.evaluate import evaluate
from vivit_core.analysis.export.sensorium2023 import export_sensorium2023
from vivit_core.analysis.receptive_fields.receptive_fields import receptive_fields
from vivit_core.analysis.stream.numbers import measure_stream
from vivit_core.analysis.tuning.most_exciting import Ascent
from vivit_core.analysis.tuning.protocols.surround import Surround
from vivit_core.analysis.tuning.tuning import tune
from vivit_core.analysis.video.video import predict_video
from vivit_core.stimuli.gratings import Gratings
from vivit_core.stimuli.noise import Noise

NOISE = Noise(kind="white", contrast=0.5, density=1.0, check_px=2, hold_bins=1, clips=2, clip_s=0.3, seed=0)
ASCENT = Ascent(
    steps=2, step=0.5, budget=0.2, jitter_px=1, naturalness=0.5, settle_s=0.1, picture_s=0.1,
    diverse=3,
    diversity=0.5,
    seed=0,
)  # fmt: skip
SURROUND = Surround(draws=3, seed=0, contrast=0.3, gaps_px=[0.0], jitter_px=0.5)
GRATINGS = Gratings(
    directions=4, spatial_frequencies=[0.12], temporal_frequencies_hz=[4.0], contrast=0.5, contrasts=[0.5, 1.0],
    sizes_px=[8.0], settle_s=0.1, analysed_s=0.25, draws=3, jitter_px=0.5, seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return known_models.data_of(known_models.recorded(tmp_path_factory.mktemp("known")))


def models(data):
    return {"twin": tiny_models.twin(tiny_models.vivit(), *data.specs), "ln": known_models.known_ln(0.3)}


def evaluated(device, data, out):
    twin, ln = models(data).values()
    return evaluate(twin, data, ln=ln, device=device, out=out, checkpoint="best", progress=False)


def compared(device, data, out):
    contenders = [Contender(name, name, model, data) for name, model in models(data).items()]
    summary = compare(contenders, device=device, out=out, resamples=10, piece_s=1.0, progress=False)
    for own in summary["models"].values():
        del own["bins_per_s"]
    return summary | {"device": None}


def fields(device, data, out):
    return receptive_fields(
        models(data)["twin"], data, noise=NOISE, duration_s=0.15, clips=2, clip_s=0.3, measured=False, out=out,
        known={}, device=device, progress=False,
    )  # fmt: skip


def tuned(device, data, out):
    return tune(
        models(data)["twin"], data, units=None, gratings=GRATINGS, protocols={"surround": SURROUND}, lab_units=2,
        mei=ASCENT, mei_units=1, mei_more=[], natural=2, out=out, known={}, device=device, progress=False,
    )  # fmt: skip


def attended(device, data, out):
    spec = tiny_models.spec()
    clip = tiny_models.clips(spec, count=1)
    model = tiny_models.vivit(tokenizer=tiny_models.RESIDUAL_STEM, energy=tiny_models.ENERGY, embedding_dim=48)
    twin = tiny_models.twin(model, spec).to(device)
    assert twin.core.cell_attention is not None
    return study_attention(
        twin, "a", clip, [clip], beside_truth={}, past=None, out=out, place=(1, 1), heads=1, units=2, megabytes=1.0
    )[0]


def streamed(device, data, out):
    spec = tiny_models.spec()
    clip = tiny_models.clips(spec, count=1, bins=24)
    twin = tiny_models.twin(tiny_models.vivit(), spec).to(device)
    video, behavior = clip["frames"][0].numpy(), clip["behavior"][0].numpy()
    measured = measure_stream(twin, "a", video, behavior, warm_up=2, progress=False)
    assert measured.largest_difference < 1e-5
    return {}


def shown(device, data, out):
    """A video, to a twin whose modulator is a recurrence."""
    model = tiny_models.vivit(modulator=tiny_models.MODULATORS["gru"])
    out.mkdir()
    np.save(out / "video.npy", np.random.default_rng(0).integers(0, 256, (30, 12, 16), dtype=np.uint8))
    options = DEFAULTS | {"frame_rate_hz": 60.0, "degrees_per_pixel": None, "pictures": out}
    summary = predict_video(
        tiny_models.twin(model, tiny_models.spec()), out / "video.npy", out / "a.npz", device=device, **options
    )
    with np.load(out / "a.npz") as rates:
        return summary["recordings"] | {name: x.tolist() for name, x in rates.items() if x.dtype.kind == "f"}


def submitted(device, data, out):
    mouse = sensorium.write(out / sensorium.MICE[0], 0)
    export_sensorium2023(
        sensorium.model(), mouse, out / "made", recording=None, transforms={}, device=device, progress=False
    )
    table = sensorium.submitted(out / "made", "final_test_main")
    return {"rates": [np.stack(rates).tolist() for rates in table["prediction"]]}


def assert_alike(one, other, where=""):
    """Numbers to rounding, everything else exactly."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_alike(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_alike(*pair, f"{where}/{i}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-4, nan_ok=True), where
    else:
        assert one == other, where


@pytest.mark.slow
@pytest.mark.parametrize("task", [evaluated, compared, fields, tuned, attended, streamed, shown, submitted])
def test_a_task_on_the_gpu_finds_what_it_finds_on_the_cpu(task, data, tmp_path, monkeypatch, request):
    monkeypatch.setattr(cost, "MEASURED_S", 0.01)
    expected = task("cpu", data, tmp_path / "cpu")
    request.getfixturevalue("gpu")
    torch.use_deterministic_algorithms(True)  # as it stays after a training, which evaluates itself
    try:
        found = task("cuda", data, tmp_path / "gpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert_alike(found, expected)
