"""Entropy, distance and lags of each head, over many clips.

Shape letters as in ``maps``, S sequences of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum, reduce
from torch import Tensor, nn

from vivit_core.analysis.attention.blocks import Kind, attending_core, blocks_of, core_with_blocks, heads_of, on_device
from vivit_core.analysis.attention.lesions import evenly
from vivit_core.analysis.attention.maps import watched_pass
from vivit_core.analysis.attention.token_grid import TokenGrid, token_grid, tokens_of
from vivit_core.models.attention.base import Attention
from vivit_core.models.layers import evaluating
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips


@dataclass(frozen=True, eq=False)
class AttentionStatistics:
    """What each head does on average, over clips, time steps and places.

    Attributes
    ----------
    clips : that were averaged over.
    entropy_bits : of a query's weights, by kind, (L, h); over all tokens, registers included.
    distance_px : (L, h), of spatial or joint blocks, mean distance between the centers of query and key, in pixels of
        the recording, weighted by attention; keys that are registers are left out, and a query that attends to them
        alone has 0.
    to_registers : (L, h) attention that goes to registers.
    lag_ms : (L, h), of temporal or joint blocks, mean distance in time, weighted by attention.
    lags_ms : (lags,) how far back the steps lie; negative where they lie ahead, which only an acausal model sees.
    profile : (L, h, lags) attention by lag; sums to one.
    even_profile : (lags,) the same of a head that attends evenly to all that it may see; zeros where none is over time.
    uniform : what a head that attends evenly to all that it may see would have, of the kinds of block that there are:
        ``spatial_entropy_bits``, ``temporal_entropy_bits``, ``joint_entropy_bits``, ``distance_px``, ``lag_ms``.
    degrees_per_pixel : of the recording, where known.
    """

    clips: int
    entropy_bits: dict[Kind, np.ndarray]
    distance_px: np.ndarray
    to_registers: np.ndarray
    lag_ms: np.ndarray
    lags_ms: np.ndarray
    profile: np.ndarray
    even_profile: np.ndarray
    uniform: dict[str, float]
    degrees_per_pixel: float | None

    def summary(self) -> dict[str, Any]:
        """Plain lists, a row a layer, a number a head. Distances of joint blocks stand under ``spatial``, their lags
        under ``temporal``."""
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
            "joint": {"entropy_bits": self.entropy_bits["joint"].tolist()},
            "uniform": self.uniform,
        }


@torch.no_grad()
def measure_attention(twin: Twin, recording_id: str, clips: Iterable[Clips]) -> AttentionStatistics:
    """Entropy, distance and lags of each head, summed up on the way: no map is kept.

    Numbers of blocks over time are of queries that have their whole reach before them (the window, or the clip), so
    that each had the same choice.

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
    core, spec = core_with_blocks(twin), twin.specs[recording_id]
    device = next(twin.parameters()).device
    rest = iter(clips)
    some = next(rest, None)
    if some is None:
        raise ValueError(f"recording {recording_id}: there are no clips to look at")
    length, seen = some["frames"].shape[2], 0
    grid = token_grid(twin, recording_id, tokens_of(twin, recording_id, some), length)
    time, *_ = grid.shape
    reach = time if core.window is None else min(time, core.window)
    lags = torch.arange(0 if core.causal else 1 - time, reach, device=device)
    lag_QK = torch.arange(time, device=device)[:, None] - torch.arange(time, device=device)
    of_lag = (lag_QK == lags[:, None, None]).float()  # (lags, Q, K)
    distance_NN = torch.as_tensor(distances(grid.centers_px), dtype=torch.float32, device=device)
    each = grid.is_register.size  # tokens of a time step

    def measured(kind: Kind, weights_ShQK: Tensor) -> dict[str, np.ndarray]:
        """Of some sequences' weights, summed over queries: by head what there is to say of a kind, and how many
        queries there were."""
        steps, tokens = {"spatial": (1, each), "temporal": (time, 1), "joint": (time, each)}[kind]
        w = weights_ShQK.unflatten(3, (steps, tokens)).unflatten(2, (steps, tokens))  # (S, h, T, M, T, M)
        first = reach - 1 if kind != "spatial" and core.causal else 0
        w = w[:, :, first:, 0 if kind == "temporal" else grid.registers :]
        found = {
            "queries": np.full(w.shape[1], float(w.shape[0] * w.shape[2] * w.shape[3])),
            "entropy": -summed(torch.special.xlogy(w, w), "s h t q u k -> h") / np.log(2),
        }
        if kind != "temporal":
            by_token = w.sum(4)
            places = by_token[..., grid.registers :]
            found["to_registers"] = summed(by_token[..., : grid.registers], "s h t q k -> h")
            at_places = places.sum(-1).clamp_min(torch.finfo(places.dtype).tiny)
            found["distance"] = summed((places * distance_NN).sum(-1) / at_places, "s h t q -> h")
        if kind != "spatial":
            by_step = w.sum(5).sum((0, 3))
            found["profile"] = einsum(by_step, of_lag[:, first:], "h t u, lag t u -> h lag").double().cpu().numpy()
        return found

    blocks = blocks_of(core)
    sums: dict[tuple[Kind, int], dict[str, np.ndarray]] = {}
    even: dict[Kind, dict[str, np.ndarray]] = {}

    def take(kind: Kind, layer: int, which: np.ndarray, weights_ShQK: Tensor) -> None:
        found, own = measured(kind, weights_ShQK), sums.setdefault((kind, layer), {})
        for name, value in found.items():
            own[name] = own.get(name, 0.0) + value
        if kind not in even:
            even[kind] = measured(kind, even_weights(blocks[kind][layer], grid, weights_ShQK))

    while some is not None:
        if some["frames"].shape[2] != length:
            raise ValueError(f"heads are compared over clips of one length; got {length} and {some['frames'].shape[2]}")
        seen += len(some["frames"])
        watched_pass(twin, {recording_id: some}, take)
        some = next(rest, None)

    def mean(name: str, kinds: Sequence[Kind], *size: int) -> np.ndarray:
        """(L, h, …) of all blocks of these kinds."""
        own = [sums[kind, layer] for kind in kinds for layer in range(len(blocks[kind]))]
        each_query = [block[name] / block["queries"].reshape(-1, *(1 for _ in size)) for block in own]
        return np.stack(each_query) if own else np.zeros((0, heads_of(core), *size))

    def mean_even(name: str, kinds: Sequence[Kind]) -> np.ndarray | None:
        return next((even[kind][name][0] / even[kind]["queries"][0] for kind in kinds if kind in even), None)

    in_space: list[Kind] = ["spatial", "joint"]
    in_time: list[Kind] = ["temporal", "joint"]
    step_ms = 1e3 * core.stride / spec.frame_rate_hz
    back = lags.cpu().numpy()
    profile, even_profile = mean("profile", in_time, len(lags)), mean_even("profile", in_time)
    uniform = {f"{kind}_entropy_bits": mean_even("entropy", [kind]) for kind in blocks}
    uniform["distance_px"] = mean_even("distance", in_space)
    uniform["lag_ms"] = None if even_profile is None else even_profile @ np.abs(back) * step_ms
    return AttentionStatistics(
        clips=seen,
        entropy_bits={kind: mean("entropy", [kind]) for kind in blocks},
        distance_px=mean("distance", in_space),
        to_registers=mean("to_registers", in_space),
        lag_ms=profile @ np.abs(back) * step_ms,
        lags_ms=back * step_ms,
        profile=profile,
        even_profile=np.zeros(len(lags)) if even_profile is None else even_profile,
        uniform={name: float(value) for name, value in uniform.items() if value is not None},
        degrees_per_pixel=spec.degrees_per_pixel,
    )


def even_weights(attention: Attention, grid: TokenGrid, weights_ShQK: Tensor) -> Tensor:
    """(1, 1, Q, K) of a head that attends evenly to all that it may see."""
    time, down, across = grid.shape
    positions = attention.positions(down, across, grid.registers, torch.arange(time, device=weights_ShQK.device))
    return evenly(weights_ShQK[:1, :1], positions, attention.seen(positions, positions))


def summed(values: Tensor, pattern: str) -> np.ndarray:
    return reduce(values.double(), pattern, "sum").cpu().numpy()


def distances(centers_px: np.ndarray) -> np.ndarray:
    """(N, N) between the places' centers."""
    return np.linalg.norm(centers_px[:, None] - centers_px, axis=-1)


@torch.no_grad()
def token_share(twin: Twin, recording_id: str, clips: Clips) -> np.ndarray:
    """How much of each unit's rate comes from the tokens.

    The twin runs once as it is and once with zeros in place of what the blocks made of the tokens. This is the variance
    over the clips' bins of the difference that it makes to the logarithm of the rate, as a part of the sum of it and
    the variance of what is left. What behavior does through the modulator is left, and does not count.

    Returns
    -------
    (U,) from 0 to 1; NaN for a unit whose rate never changes.
    """
    return share_of(twin, recording_id, clips, attending_core(twin).norm)


def cell_share(twin: Twin, recording_id: str, clips: Clips) -> np.ndarray | None:
    """The same of the attention among cells, with its mean in its place; None where there is none."""
    part = attending_core(twin).cell_attention
    return None if part is None else share_of(twin, recording_id, clips, part)


@torch.no_grad()
def share_of(twin: Twin, recording_id: str, clips: Clips, part: nn.Module) -> np.ndarray:
    """(U,) of what a part of the core makes, zeros in its place, from the first token on."""
    predict, device = twin.predict, next(twin.parameters()).device
    first = tokens_of(twin, recording_id, clips).first_end

    def run() -> Tensor:
        rates = twin({recording_id: on_device(clips, device)})[recording_id]
        return rates[:, max(0, first) :].double().log().flatten(0, 1)

    twin.predict = "all"
    try:
        with evaluating(twin):
            whole = run()
            silence = part.register_forward_hook(lambda module, given, made: torch.zeros_like(made))
            try:
                without = run()
            finally:
                silence.remove()
    finally:
        twin.predict = predict
    of_part, left = (whole - without).var(0), without.var(0)
    return (of_part / (of_part + left)).cpu().numpy()  # 0 / 0 is NaN
