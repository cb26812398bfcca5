"""What a model costs: parameters, FLOPs, time of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from vivit_core.analysis.clock import clocked
from vivit_core.analysis.compare.foreign import Foreign
from vivit_core.analysis.compare.numbers import Contender
from vivit_core.data.recording.format import Split
from vivit_core.models.plan import ATTENTION_ON_CPU
from vivit_core.models.predictor import Predictor
from vivit_core.specs import Batch, Clips
from vivit_core.system.terminal import track

MEASURED_S = 2.0  # s for which each model's speed is measured


ROUNDS = 5  # rounds in which the models take turns at it
COSTS = "parameters", "flops_per_bin", "clip_bins", "clips_at_once", "bins_per_s"


@torch.no_grad()
def cost_of(
    contenders: Sequence[Contender], recordings: Sequence[str], device: str, split: Split, progress: bool
) -> dict[str, dict[str, Any]]:
    """Parameters, operations and speed of each model, on evaluation clips of the first recording that all know; of
    another program nothing is known."""
    costs: dict[str, dict[str, Any]] = {c.name: dict.fromkeys(COSTS) for c in contenders}
    passes: dict[str, tuple[Predictor, Batch, int]] = {}
    for c in contenders:
        if isinstance(c.model, Foreign):
            continue
        c.model.to(device).eval()
        own = next(batch for batch in c.datamodule.evaluation_dataloader(split) if recordings[0] in batch)
        clips = own[recordings[0]]
        batch: Batch = {recordings[0]: Clips(frames=clips["frames"].to(device), behavior=clips["behavior"].to(device))}
        first = torch.as_tensor(np.unique(clips["row"].numpy(), return_index=True)[1])
        bins = int(clips["score"][first].sum())  # a model that predicts the newest bin alone gives one a row
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
            c.model(batch)
        passes[c.name] = (c.model, batch, bins)
        costs[c.name] = {
            "parameters": sum(p.numel() for p in c.model.parameters()),
            "flops_per_bin": counter.get_total_flops() / bins,
            "clip_bins": clips["frames"].shape[2],
            "clips_at_once": len(clips["frames"]),
        }
    speeds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in track(range(ROUNDS + 1), "speed", disable=not progress):  # the first warms up
        for name, (model, batch, bins) in passes.items():
            done, seconds = 0, 0.0
            while done == 0 or (turn > 0 and seconds < MEASURED_S / ROUNDS):
                seconds += clocked(partial(model, batch))
                done += 1
            if turn > 0:
                speeds[name].append(done * bins / seconds)
    for name, measured in speeds.items():
        costs[name]["bins_per_s"] = float(np.median(measured))
    return costs


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
