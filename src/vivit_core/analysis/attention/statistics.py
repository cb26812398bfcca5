"""Entropy, distance and lags of each head, over many clips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum, reduce
from torch import Tensor, nn

from vivit_core.analysis.attention.blocks import Kind, attending_core, blocks_of, heads_of
from vivit_core.analysis.attention.maps import watched_pass
from vivit_core.analysis.attention.token_grid import token_grid, tokens_of
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips


@dataclass(frozen=True, eq=False)
class AttentionStatistics:
    """What each head does on average, over clips, time steps and places.

    Attributes
    ----------
    clips : that were averaged over.
    entropy_bits : of a query's weights, by kind, (L, h). Of spatial heads over all tokens, registers included.
    distance_px : (L, h) mean distance between the centers of query and key, in pixels of the recording, weighted by
        attention; keys that are registers are left out.
    to_registers : (L, h) attention that goes to registers.
    lag_ms : (L, h) mean distance in time, weighted by attention.
    lags_ms : (lags,) how far back the steps lie; negative where they lie ahead, which only an acausal model sees.
    profile : (L, h, lags) attention by lag; sums to one.
    uniform : what a head that attends evenly would have: ``spatial_entropy_bits``, ``distance_px``,
        ``temporal_entropy_bits``, ``lag_ms``.
    degrees_per_pixel : of the recording, where known.
    """

    clips: int
    entropy_bits: dict[Kind, np.ndarray]
    distance_px: np.ndarray
    to_registers: np.ndarray
    lag_ms: np.ndarray
    lags_ms: np.ndarray
    profile: np.ndarray
    uniform: dict[str, float]
    degrees_per_pixel: float | None

    def summary(self) -> dict[str, Any]:
        """Plain lists, a row a layer, a number a head."""
        degrees = self.degrees_per_pixel
        return {
            "clips": self.clips,
            "spatial": {
                "entropy_bits": self.entropy_bits["spatial"].tolist(),
                "distance_px": self.distance_px.tolist(),
                "distance_deg": None if degrees is None else (self.distance_px * degrees).tolist(),
                "to_registers": self.to_registers.tolist(),
            },
            "temporal": {
                "entropy_bits": self.entropy_bits["temporal"].tolist(),
                "lag_ms": self.lag_ms.tolist(),
                "lags_ms": self.lags_ms.tolist(),
                "profile": self.profile.tolist(),
            },
            "uniform": self.uniform,
        }


@torch.no_grad()
def measure_attention(twin: Twin, recording_id: str, clips: Iterable[Clips]) -> AttentionStatistics:
    """Entropy, distance and lags of each head, summed up on the way: no map is kept.

    Temporal numbers are of queries that have their whole reach before them (the window, or the clip), so that each
    had the same choice.

    Parameters
    ----------
    twin : with a ViViT core.
    recording_id : whose clips.
    clips : some clips at a time, all of one length.

    Raises
    ------
    ValueError
        For a core without attention, and for clips of different lengths.
    """
    core, spec = attending_core(twin), twin.specs[recording_id]
    device = next(twin.parameters()).device
    rest = iter(clips)
    some = next(rest, None)
    if some is None:
        raise ValueError(f"recording {recording_id}: there are no clips to look at")
    length, seen = some["frames"].shape[2], 0
    grid = token_grid(twin, recording_id, tokens_of(twin, recording_id, some), length)
    time, *_ = grid.shape
    reach = time if core.mask.window is None else min(time, core.mask.window)
    lags = torch.arange(0 if core.causal else 1 - time, reach, device=device)
    lag_QK = torch.arange(time, device=device)[:, None] - torch.arange(time, device=device)
    of_lag = (lag_QK == lags[:, None, None]).float()  # (lags, Q, K)
    distance_NN = torch.as_tensor(distances(grid.centers_px), dtype=torch.float32, device=device)
    shape = {kind: (len(own), heads_of(core)) for kind, own in blocks_of(core).items()}
    entropy = {kind: np.zeros(own) for kind, own in shape.items()}
    distance, to_registers = np.zeros(shape["spatial"]), np.zeros(shape["spatial"])
    profile = np.zeros((*shape["temporal"], len(lags)))
    queries = {kind: np.zeros((depth, 1)) for kind, (depth, _) in shape.items()}

    def take(kind: Kind, layer: int, which: np.ndarray, weights_ShQK: Tensor) -> None:
        first = grid.registers if kind == "spatial" else reach - 1 if core.causal else 0
        w = weights_ShQK[:, :, first:]
        queries[kind][layer] += w.shape[0] * w.shape[2]
        entropy[kind][layer] -= summed(torch.special.xlogy(w, w), "s h q k -> h") / np.log(2)
        if kind == "spatial":
            places = w[..., grid.registers :]
            to_registers[layer] += summed(w[..., : grid.registers], "s h q k -> h")
            distance[layer] += summed((places * distance_NN).sum(-1) / places.sum(-1), "s h q -> h")
        else:
            profile[layer] += einsum(w.sum(0), of_lag[:, first:], "h q k, lag q k -> h lag").double().cpu().numpy()

    while some is not None:
        if some["frames"].shape[2] != length:
            raise ValueError(f"heads are compared over clips of one length; got {length} and {some['frames'].shape[2]}")
        seen += len(some["frames"])
        watched_pass(twin, {recording_id: some}, take)
        some = next(rest, None)

    step_ms = 1e3 * core.stride / spec.frame_rate_hz
    back = lags.cpu().numpy()
    even = np.ones(len(back)) if core.causal else time - np.abs(back)
    profile /= np.maximum(queries["temporal"], 1)[..., None]
    return AttentionStatistics(
        clips=seen,
        entropy_bits={kind: entropy[kind] / np.maximum(queries[kind], 1) for kind in shape},
        distance_px=distance / np.maximum(queries["spatial"], 1),
        to_registers=to_registers / np.maximum(queries["spatial"], 1),
        lag_ms=profile @ np.abs(back) * step_ms,
        lags_ms=back * step_ms,
        profile=profile,
        uniform={
            "spatial_entropy_bits": float(np.log2(grid.is_register.size)),
            "distance_px": float(distance_NN.mean()),
            "temporal_entropy_bits": float(np.log2(reach)),
            "lag_ms": float(even @ np.abs(back) / even.sum() * step_ms),
        },
        degrees_per_pixel=spec.degrees_per_pixel,
    )


def summed(values: Tensor, pattern: str) -> np.ndarray:
    return reduce(values.double(), pattern, "sum").cpu().numpy()


def distances(centers_px: np.ndarray) -> np.ndarray:
    """(N, N) between the places' centers."""
    return np.linalg.norm(centers_px[:, None] - centers_px, axis=-1)


@torch.no_grad()
def token_share(twin: Twin, recording_id: str, clips: Clips) -> np.ndarray:
    """How much of each unit's rate comes from the tokens.

    A readout reads several maps, and convolutions or behavior feed all of them. So the twin runs once as it is and once
    with zeros in place of what the blocks made of the tokens. This is the variance over the clips' bins of the
    difference that it makes to the logarithm of the rate, as a part of the sum of it and the variance of what is left.
    What behavior does through the modulator is left, and does not count.

    Returns
    -------
    (U,) from 0 to 1; NaN for a unit whose rate never changes.
    """
    found = []

    def look(readout: nn.Module, given: tuple[list[FeatureMap], int], keywords: dict[str, Any]) -> None:
        maps, bins = given
        rate = twin.likelihood(recording_id).rate(*readout.forward(maps, bins, last=False))
        found.append(rate[:, max(0, maps[-1].first_end) :].double().log().flatten(0, 1))

    def run() -> None:
        watched_pass(twin, {recording_id: clips}, lambda *_: None, lambda *_: np.zeros(0, int))

    looking = twin.readout(recording_id).register_forward_pre_hook(look, with_kwargs=True)
    try:
        run()
        silence = attending_core(twin).norm.register_forward_hook(lambda module, given, made: torch.zeros_like(made))
        try:
            run()
        finally:
            silence.remove()
    finally:
        looking.remove()
    whole, without = found
    of_tokens, left = (whole - without).var(0), without.var(0)
    return (of_tokens / (of_tokens + left)).cpu().numpy()  # 0 / 0 is NaN
