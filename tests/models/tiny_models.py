"""Small models and batches for the contract tests."""

from __future__ import annotations

from typing import Any

import torch

from vivit_core.models.twin import Twin
from vivit_core.specs import Batch, Clips, RecordingSpec

TUBELET = {"_target_": "vivit_core.models.tokenizers.tubelet.Tubelet", "patch_size": [4, 4, 4]}
STEM = {
    "_target_": "vivit_core.models.tokenizers.stem.ConvStem",
    "patch_size": [4, 4, 4],
    "channels": 6,
    "kernel": 5,
    "stride": 2,
}
BASIS = {"_target_": "vivit_core.models.frontends.temporal_basis.TemporalBasis", "bases": 3, "lags": 7}
RESIDUAL_STEM = {
    "_target_": "vivit_core.models.tokenizers.residual_stem.ResidualStem",
    "patch_size": [4, 4, 8],
    "stem": {key: value for key, value in STEM.items() if key != "patch_size"},
    "cell": 4,
    "widths": [4, 6],
    "depth": 2,
    "kernel": [3, 3],
}
ATTENTION = {"_target_": "vivit_core.models.attention.rotary.Attention", "heads": 2}
GRU = {"_target_": "vivit_core.models.modulators.convgru.ConvGRU", "hidden": 5, "gain": 3}
READOUT = {
    "_target_": "vivit_core.models.readouts.gaussian.GaussianReadout",
    "std_px": 2.0,
    "std_min_px": 0.3,
    "std_max_px": 6.0,
    "std_settle": 0.5,
    "l1": 0.01,
    "output": "exp",
}
LN = {"_target_": "vivit_core.models.ln.LN", "duration_s": 0.05}


def vivit(**changes: Any) -> dict[str, Any]:
    return {
        "_target_": "vivit_core.models.cores.vivit.ViViT",
        "embedding_dim": 16,
        "spatial_depth": 2,
        "temporal_depth": 2,
        "tokenizer": TUBELET,
        "attention": ATTENTION,
        "frontend": None,
        "registers": 2,
        "modulator": GRU,
        "frame_size": None,
    } | changes


def resnet(**changes: Any) -> dict[str, Any]:
    return {
        "_target_": "vivit_core.models.cores.resnet.ResNet",
        "widths": [8, 12],
        "depth": 2,
        "kernel": [3, 3],
        "tokenizer": TUBELET,
        "frontend": None,
        "modulator": GRU,
        "frame_size": None,
    } | changes


def factorized(**changes: Any) -> dict[str, Any]:
    return {
        "_target_": "vivit_core.models.cores.factorized_cnn.FactorizedCNN",
        "channels": [4, 6, 8],
        "first_kernel": [5, 5],
        "kernel": [3, 3],
        "stride": 2,
        "smoothness": 0.01,
        "modulator": GRU | {"kernel": 1},
        "frame_size": None,
    } | changes


# Every core and modulator there is, in the combinations that are shipped.
MODELS_UNDER_CONTRACT: dict[str, dict[str, Any]] = {
    "bare": vivit(modulator=None),
    "bare-gru": vivit(),
    "basis": vivit(frontend=BASIS),
    "stem": vivit(tokenizer=STEM, frontend=BASIS),
    "stem-full-resolution": vivit(tokenizer=STEM | {"stride": 1}, modulator=None),
    "spatial-only": vivit(temporal_depth=0),
    "temporal-only": vivit(spatial_depth=0, registers=0),
    "residual-stem": vivit(tokenizer=RESIDUAL_STEM, frontend=BASIS),
    "residual-stem-fine": vivit(
        tokenizer=RESIDUAL_STEM | {"patch_size": [3, 6, 4], "widths": [6], "depth": 1}, modulator=None
    ),
    "resnet": resnet(tokenizer=STEM, frontend=BASIS),
    "resnet-bare": resnet(modulator=None),
    "factorized": factorized(),
}


# What may be dropped in training, for each core.
DROPOUTS = {
    "vivit_core.models.cores.vivit.ViViT": {"ff_dropout": 0.2, "drop_path": 0.2, "patch_dropout": 0.2},
    "vivit_core.models.cores.resnet.ResNet": {"dropout": 0.2, "drop_path": 0.2},
    "vivit_core.models.cores.factorized_cnn.FactorizedCNN": {},
}


def dropping(model: dict[str, Any]) -> dict[str, Any]:
    """The model with every kind of dropout on."""
    changed = model | DROPOUTS[model["_target_"]]
    if model.get("tokenizer", TUBELET) != TUBELET:
        changed = changed | {"tokenizer": model["tokenizer"] | {"dropout": 0.2}}
    return changed | ({"attention": model["attention"] | {"dropout": 0.2}} if "attention" in model else {})


def spec(name: str = "a", height: int = 12, width: int = 16, units: int = 5, behavior: int = 3) -> RecordingSpec:
    means = tuple(0.05 + 0.1 * u for u in range(units))
    behaviors = {"gaze": behavior} if behavior else {}
    ids = tuple(f"{name}{u}" for u in range(units))
    return RecordingSpec(
        name, 120.0, (1, height, width), ids, means, 120.0, 50.0, behaviors, (0.5,) * behavior, (2.0,) * behavior
    )


def twin(model: dict[str, Any], *specs: RecordingSpec, readout: dict[str, Any] = READOUT, **arguments: Any) -> Twin:
    torch.manual_seed(0)
    return Twin(model, readout, specs or (spec(),), **arguments)


def clips(of: RecordingSpec, count: int = 2, bins: int = 17, seed: int = 0) -> Clips:
    generator = torch.Generator().manual_seed(seed)
    return Clips(
        frames=torch.randint(0, 256, (count, *of.frame_shape[:1], bins, *of.frame_shape[1:]), generator=generator).to(
            torch.uint8
        ),
        behavior=torch.randn(count, bins, of.behavior_dim, generator=generator),
    )


def batch(*specs: RecordingSpec, **arguments: Any) -> Batch:
    return {s.recording_id: clips(s, seed=i, **arguments) for i, s in enumerate(specs)}
