"""Small models and batches for the tests of models: those of ``vivit_core.testing``, and more."""

from __future__ import annotations

from typing import Any

import torch

from vivit_core.metrics.unit_scores import Scorer
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.twin import Twin
from vivit_core.specs import RecordingSpec
from vivit_core.testing.small import ABSOLUTE as ABSOLUTE
from vivit_core.testing.small import ATTENTION as ATTENTION
from vivit_core.testing.small import BASIS as BASIS
from vivit_core.testing.small import GRU as GRU
from vivit_core.testing.small import LIKELIHOOD as LIKELIHOOD
from vivit_core.testing.small import READOUT as READOUT
from vivit_core.testing.small import RELATIVE as RELATIVE
from vivit_core.testing.small import RESIDUAL_STEM as RESIDUAL_STEM
from vivit_core.testing.small import STEM as STEM
from vivit_core.testing.small import TUBELET as TUBELET
from vivit_core.testing.small import WINDOW as WINDOW
from vivit_core.testing.small import batch as batch
from vivit_core.testing.small import clips as clips
from vivit_core.testing.small import spec as spec
from vivit_core.testing.small import vivit as vivit

ENERGY = {
    "_target_": "vivit_core.models.energy.OrientedEnergy",
    "orientations": 3,
    "std_px": 1.0,
    "cycles_per_std": 0.3,
    "fading": 0.5,
    "reach": 2.0,
}
OWN_FILTER: dict[str, Any] = {
    "_target_": "vivit_core.models.own_filter.OwnFilters",
    "duration_s": 0.05,
    "patch": 5,
    "orientations": 4,
    "stds_px": [1.0],
    "cycles_per_std": [0.3],
    "pool_width": 1.5,
    "pool_tau_s": 0.02,
    "slow_tau_s": [0.05, 0.3],
}
GAIN = {"_target_": "vivit_core.models.modulators.behavior_gain.BehaviorGain", "hidden": 6, "numbers": 4}
MODULATORS = {
    name: {"_target_": f"vivit_core.models.modulators.{path}", "hidden": 6}
    for name, path in (("film", "film.FiLM"), ("gru", "gru.GRU"), ("concat", "concat.Concat"))
}  # that are no ConvGRU and no gain
SHIFTERS = {
    "affine": {"_target_": "vivit_core.models.shifters.affine.AffineShifter", "behavior": "gaze", "most_px": 6.0},
    "gaze": {
        "_target_": "vivit_core.models.shifters.gaze.GazeShifter",
        "behavior": "gaze",
        "most_px": 6.0,
        "hidden": 3,
    },
}
FACTORIZED = {
    "_target_": "vivit_core.models.readouts.factorized.FactorizedReadout",
    "cell_px": 2.0,
    "std_px": 2.0,
    "mask_l1": 0.01,
    "mask_smooth": 0.01,
    "l1": 0.01,
}
ASKING = {
    "_target_": "vivit_core.models.readouts.attention.AttentionReadout",
    "heads": 2,
    "head_dim": 16,
    "wavelength_px": 12.0,
    "std_px": 1.5,
    "l1": 0.01,
}
RETINOTOPIC = READOUT | {
    "_target_": "vivit_core.models.readouts.retinotopic.RetinotopicReadout",
    "hidden": 3,
    "deviation_l2": 0.01,
}
LN = {"_target_": "vivit_core.models.ln.LN", "duration_s": 0.05, "nonlinearity": "exp"}
POISSON = Poisson((), "exp")
unit_scores = Scorer(POISSON).scores_of
CORE = {"checkpointing": False, "causal": True, "compile": "auto"}


def resnet(**changes: Any) -> dict[str, Any]:
    return {
        "_target_": "vivit_core.models.cores.resnet.ResNet",
        "widths": [8, 12],
        "depth": 2,
        "kernel": [3, 3],
        "tokenizer": TUBELET,
        "frontend": None,
        "dropout": 0.0,
        "drop_path": 0.0,
        "modulator": GRU,
        "frame_size": None,
        **CORE,
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
        **CORE,
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
    "overlapping": vivit(tokenizer=TUBELET | {"patch_size": [5, 8, 6], "token_stride": [3, 4, 2]}),
    "joint": vivit(blocks="joint", spatial_depth=1, temporal_depth=1),
    "residual-stem": vivit(tokenizer=RESIDUAL_STEM, frontend=BASIS),
    "residual-stem-two-steps": vivit(tokenizer=RESIDUAL_STEM | {"patch_size": [8, 4, 8]}, frontend=BASIS),
    "residual-stem-overlapping": vivit(
        tokenizer=RESIDUAL_STEM | {"patch_size": [8, 8, 16], "token_stride": [4, 4, 8]}, frontend=BASIS
    ),
    "residual-stem-gain": vivit(tokenizer=RESIDUAL_STEM, frontend=BASIS, modulator=GAIN),
    "residual-stem-fine": vivit(
        tokenizer=RESIDUAL_STEM | {"patch_size": [3, 6, 4], "widths": [6], "depth": 1}, modulator=None
    ),
    "energies": vivit(tokenizer=RESIDUAL_STEM, frontend=BASIS, embedding_dim=48, energy=ENERGY),
    "energies-overlapping": vivit(
        tokenizer=TUBELET | {"patch_size": [5, 8, 6], "token_stride": [3, 4, 2]}, embedding_dim=48, energy=ENERGY
    ),
    "energies-joint": vivit(blocks="joint", embedding_dim=48, energy=ENERGY),
    "resnet": resnet(tokenizer=STEM, frontend=BASIS),
    "resnet-bare": resnet(modulator=None),
    "factorized": factorized(),
}


# Every readout that is no plain Gaussian.
READOUTS_UNDER_CONTRACT: dict[str, dict[str, Any]] = {
    "factorized": FACTORIZED,
    "attention": ASKING,
    "retinotopic": RETINOTOPIC,
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
    if "dropout" in model.get("tokenizer", {}):
        changed = changed | {"tokenizer": model["tokenizer"] | {"dropout": 0.2}}
    return changed | ({"attention": model["attention"] | {"dropout": 0.2}} if "attention" in model else {})


def twin(model: dict[str, Any], *specs: RecordingSpec, readout: dict[str, Any] = READOUT, **arguments: Any) -> Twin:
    torch.manual_seed(0)
    likelihood = arguments.pop("likelihood", LIKELIHOOD)
    return Twin(model, readout, likelihood, specs or (spec(),), **arguments)
