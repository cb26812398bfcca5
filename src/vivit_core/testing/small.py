"""Small models, recordings and batches, in which a part can be tried in a second."""

from __future__ import annotations

from typing import Any

import torch

from vivit_core.specs import Batch, Clips, RecordingSpec

Node = dict[str, Any]

TUBELET: Node = {
    "_target_": "vivit_core.models.tokenizers.tubelet.Tubelet",
    "patch_size": [4, 4, 4],
    "token_stride": None,
}
STEM: Node = {
    "_target_": "vivit_core.models.tokenizers.stem.ConvStem",
    "patch_size": [4, 4, 4],
    "channels": 6,
    "kernel": 5,
    "stride": 2,
    "dropout": 0.0,
    "smoothness": 0.0,
}
RESIDUAL_STEM: Node = {
    "_target_": "vivit_core.models.tokenizers.residual_stem.ResidualStem",
    "patch_size": [4, 4, 8],
    "token_stride": None,
    "stem": {key: value for key, value in STEM.items() if key != "patch_size"},
    "step": 4,
    "cell": 4,
    "widths": [4, 6],
    "depth": 2,
    "kernel": [3, 3],
    "dropout": 0.0,
    "context": 3,
}
BASIS: Node = {"_target_": "vivit_core.models.frontends.temporal_basis.TemporalBasis", "bases": 3, "lags": 7}
ATTENTION: Node = {
    "_target_": "vivit_core.models.attention.rotary.RotaryAttention",
    "heads": 2,
    "qk_norm": True,
    "dropout": 0.0,
    "rope_base_space": 100.0,
    "rope_base_time": 1000.0,
}
ABSOLUTE: Node = {
    "_target_": "vivit_core.models.attention.absolute.AbsoluteAttention",
    "heads": 2,
    "qk_norm": True,
    "dropout": 0.0,
    "places": [2, 3],
    "steps": 16,
}
RELATIVE: Node = ABSOLUTE | {
    "_target_": "vivit_core.models.attention.relative_bias.RelativeBiasAttention",
    "places": [1, 2],
    "steps": 3,
}
WINDOW: Node = ATTENTION | {
    "_target_": "vivit_core.models.attention.window.WindowAttention",
    "neighborhood": [1, 0],
}
GRU: Node = {"_target_": "vivit_core.models.modulators.convgru.ConvGRU", "hidden": 5, "kernel": 3, "gain": 3}
READOUT: Node = {
    "_target_": "vivit_core.models.readouts.gaussian.GaussianReadout",
    "std_px": 2.0,
    "std_min_px": 0.3,
    "std_max_px": 6.0,
    "std_settle": 0.5,
    "l1": 0.01,
}
LIKELIHOOD: Node = {"_target_": "vivit_core.models.likelihoods.poisson.Poisson", "output": "exp"}

ABOUT: Node = {"recording_id": None, "degrees_per_pixel": None} | dict.fromkeys(
    ("subject", "area", "species", "source", "licence", "stimulus_kind"), ""
)
"""What an importer is told of a recording beside its own settings: nothing."""


def vivit(**changes: Any) -> Node:
    """A model node: a ViViT of 2 + 2 blocks on bare tubelets, with a ConvGRU; or another with these keys changed."""
    return {
        "_target_": "vivit_core.models.cores.vivit.ViViT",
        "embedding_dim": 16,
        "blocks": "factorized",
        "spatial_depth": 2,
        "temporal_depth": 2,
        "tokenizer": TUBELET,
        "attention": ATTENTION,
        "frontend": None,
        "energy": None,
        "registers": 2,
        "ff_ratio": 4.0,
        "ff_dropout": 0.0,
        "drop_path": 0.0,
        "patch_dropout": 0.0,
        "checkpointing": False,
        "causal": True,
        "window": None,
        "compile": "auto",
        "modulator": GRU,
        "own_filter": None,
        "history": None,
        "latent": None,
        "shifter": None,
        "frame_size": None,
    } | changes


def spec(name: str = "a", height: int = 12, width: int = 16, units: int = 5, behavior: int = 3) -> RecordingSpec:
    """A recording of these sizes, gray, at 120 Hz."""
    means = tuple(0.05 + 0.1 * u for u in range(units))
    behaviors = {"gaze": behavior} if behavior else {}
    ids = tuple(f"{name}{u}" for u in range(units))
    positions = tuple((40.0 * u, float(15 * u * u % 70), 200.0 + 10 * u) for u in range(units))
    return RecordingSpec(
        name, 120.0, (1, height, width), ids, means, 120.0, 50.0, behaviors, (0.5,) * behavior, (2.0,) * behavior,
        unit_position_um=positions,
    )  # fmt: skip


def clips(of: RecordingSpec, count: int = 2, bins: int = 17, seed: int = 0) -> Clips:
    """Noise: ``count`` clips of so many bins, a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, *of.frame_shape[:1], bins, *of.frame_shape[1:]), generator=generator)
    behavior = torch.randn(count, bins, of.behavior_dim, generator=generator)
    return Clips(
        frames=frames.to(torch.uint8),
        behavior=behavior,
        counts=torch.poisson(torch.full((count, bins, of.n_units), 0.4), generator=generator),
        valid=torch.rand(count, bins, of.n_units, generator=generator) < 0.9,
        observed=torch.ones(count, of.n_units, dtype=torch.bool),
    )


def batch(*specs: RecordingSpec, **arguments: Any) -> Batch:
    """Clips of several recordings."""
    return {s.recording_id: clips(s, seed=i, **arguments) for i, s in enumerate(specs)}
