"""Whether a map of a unit is faithful: what the unit's rate loses where the map's places are masked.

A map names tokens, or cells. Where it is faithful, masking what it names changes the rate more than masking as many
others. A tenth is masked. Two other tenths are set beside it: some drawn at random, and those that lie nearest to the
unit, which a map has to beat that claims to know more than where the unit lies.

A masked token is silent, as with ``patch_dropout``: zeros stand in its place before the blocks. A masked cell has no
energy, as if its part of the frame were gray, for the attention among cells alone. Each mask makes the twin predict
the newest bin of a clip again, from the masked part on.

The gradient of the unit's log rate by how present each token is gives a map of its own. It is at once what attention
weighs and what becomes of that.

Shape letters: B masks, U units, T time steps, N places of tokens, R S rows and columns of cells, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.attention.blocks import attending_core, on_device
from vivit_core.analysis.attention.maps import AttentionMaps, extract_attention
from vivit_core.analysis.attention.rollout import rollout
from vivit_core.analysis.attention.surrounds import OWN_PX, surround_maps
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips

PART = 0.1  # of all tokens, or cells, that is masked
DRAWS = 2  # random masks for a unit and moment
OF_CELLS, OF_TOKENS = 4, 2  # moments of a clip, in its second half; blocks take longer
TOKENS_S = 1.25  # of a clip's end, of whose tokens a tenth is masked: what counts lies in the last few of them
AT_ONCE = 16  # masks in one pass
MOST_TOKENS = 16_384  # in one pass through the blocks, where one clip has less


class Newest:
    """The newest bin of a clip, predicted with some of its tokens or cells masked.

    Parameters
    ----------
    twin : with a ViViT core; it is put into evaluation.
    recording_id : whose units.
    clip : one clip.
    """

    @torch.no_grad()
    def __init__(self, twin: Twin, recording_id: str, clip: Clips) -> None:
        twin.eval()
        self.twin, self.recording_id, self.core = twin, recording_id, attending_core(twin)
        given = on_device(clip, next(twin.parameters()).device)
        frames, self.behavior = twin.adapt(recording_id, given)
        self.bins = frames.shape[2]
        self.tokens = self.core.tokenizer(frames if self.core.frontend is None else self.core.frontend(frames))
        self.cells = self.core.cells(frames)
        self.x_BTND = self.core.lifted(self.tokens, self.cells)
        self.faded: Tensor | None = None
        if self.cells is not None and self.core.cell_attention is not None:
            self.faded = self.core.cell_attention.faded(self.cells)[:, -1:]
        own = twin.own_filter(recording_id)
        self.own = None if own is None else own(twin.seen(recording_id, given)).newest()
        self.maps = self.modulated([*self.tokens.maps, *self.gain_of(self.faded), self.of_tokens(self.x_BTND)])

    def of_tokens(self, x_BTND: Tensor) -> FeatureMap:
        """The last map, made of tokens."""
        core, tokens = self.core, self.tokens
        x = core.attend_space(x_BTND, tokens.height, tokens.width)
        x = core.attend_both(core.attend_time(x), tokens.height, tokens.width)
        return core.tokenizer.restore(tokens, core.norm(x))

    def with_tokens(self, mask_BTN: Tensor) -> Tensor:
        """Log rates (B, U) with tokens left (1) or masked (0)."""
        last = self.of_tokens(self.x_BTND * mask_BTN.to(self.x_BTND)[..., None])
        return self.log_rates(self.modulated([*self.tokens.maps, *self.gain_of(self.faded), last]))

    def with_cells(self, mask_BRS: Tensor) -> Tensor:
        """Log rates (B, U) with cells left (1) or masked (0); of a twin whose cells attend."""
        assert self.faded is not None
        gain = self.gain_of(self.faded * mask_BRS.to(self.faded)[:, None, None])
        # A modulator puts maps of its own first, and changes the last one alone.
        return self.log_rates([*self.maps[:-2], *gain, self.maps[-1]])

    def gain_of(self, faded: Tensor | None) -> list[FeatureMap]:
        attention, energy = self.core.cell_attention, self.core.energy
        if faded is None or attention is None or energy is None:
            return []
        return [attention.as_map(attention.compared(faded, energy.usual))]

    def modulated(self, maps: list[FeatureMap]) -> list[FeatureMap]:
        maps = as_many(maps)
        if self.twin.modulator is None:
            return maps
        count = len(maps[0].x_BCTHW)
        return self.twin.modulator(maps, self.behavior.expand(count, *self.behavior.shape[1:]))

    def log_rates(self, maps: list[FeatureMap]) -> Tensor:
        drive = self.twin.readout(self.recording_id)(as_many(maps), self.bins, last=True)
        drive = drive if self.own is None else drive.plus(self.own)
        return self.twin.likelihood(self.recording_id).rate(*drive).log()


def as_many(maps: Sequence[FeatureMap]) -> list[FeatureMap]:
    """Maps of one clip as if they were of as many as the others are of."""
    count = max(len(own.x_BCTHW) for own in maps)
    return [replace(own, x_BCTHW=own.x_BCTHW.expand(count, *own.x_BCTHW.shape[1:])) for own in maps]


def relevance_of_tokens(newest: Newest, units: Sequence[int]) -> np.ndarray:
    """How much each token's presence changes each of these units' rates, (units, T, N): the absolute gradient of the
    log rate by a factor on the token. Zeros for a unit that reads no tokens."""
    core, shape = newest.core, newest.x_BTND.shape[1:3]
    several = max(1, min(AT_ONCE, MOST_TOKENS // shape.numel()))
    found = np.zeros((len(units), *shape), np.float32)
    checkpointing, core.checkpointing = core.checkpointing, True  # many clips at once would not fit into memory
    try:
        for first in range(0, len(units), several):
            some = list(units[first : first + several])
            there = newest.x_BTND.new_ones(len(some), *shape).requires_grad_()
            at = torch.tensor(some, device=there.device)
            own = newest.with_tokens(there).index_select(1, at).diagonal().sum()
            (by,) = torch.autograd.grad(own, there)
            found[first : first + several] = by.abs().cpu().numpy()
    finally:
        core.checkpointing = checkpointing
    return found


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How far a unit's log rate moves, mean over moments, where a tenth is masked.

    Attributes
    ----------
    units : (N,) that were tried.
    named : (N,) for each map, with what it names masked.
    nearest : (N,) with those masked that lie nearest to the unit.
    random : (N,) the mean over random ones.
    """

    units: np.ndarray
    named: Mapping[str, np.ndarray]
    nearest: np.ndarray
    random: np.ndarray

    def summary(self) -> dict[str, dict[str, float] | int]:
        """Medians over units, and the part of units for which a map's tenth counts more than random ones."""
        moved = {**self.named, "nearest": self.nearest, "random": self.random}
        return {
            "units": len(self.units),
            "moved": {name: float(np.median(own)) for name, own in moved.items()},
            "above_random": {name: float(np.mean(own > self.random)) for name, own in self.named.items()},
        }


def faithfulness_of_cells(twin: Twin, recording_id: str, clip: Clips, units: Sequence[int]) -> Faithfulness | None:
    """Of units' maps of their surround (``surround_maps``). Cells at a unit's own place are never masked.

    Parameters
    ----------
    twin, recording_id : whose units.
    clip : one clip.
    units : that are tried; those whose rate comes in part from their surround.

    Returns
    -------
    None where the twin's cells compare nothing, its readout does not say where it looks, or there are no units.
    """
    trials: list[dict[str, np.ndarray]] = []
    for part in parts_of(clip, OF_CELLS):
        maps, newest = surround_maps(twin, recording_id, part), Newest(twin, recording_id, part)
        if maps is None or not len(units):
            return None
        chosen = list(units)
        center_N2 = twin.centers_px(recording_id)[chosen]
        away_NRS = np.hypot(maps.xs - center_N2[:, 0, None, None], maps.ys[:, None] - center_N2[:, 1, None, None])
        scores = {"alike": maps.alike[chosen], "agree": maps.agree[chosen], "nearest": -away_NRS}
        rng = np.random.default_rng(len(trials))
        trials.append(moved(newest.with_cells, chosen, scores, away_NRS > OWN_PX, rng))
    return averaged(np.array(units), trials)


def faithfulness_of_tokens(twin: Twin, recording_id: str, clip: Clips, units: Sequence[int]) -> Faithfulness | None:
    """Of the rollout from units' windows, and of the gradient (``relevance_of_tokens``), over the tokens of the last
    ``TOKENS_S`` before each moment; what was before is not shown.

    Parameters and the result are as for ``faithfulness_of_cells``.
    """
    trials: list[dict[str, np.ndarray]] = []
    bins = round(TOKENS_S * twin.specs[recording_id].frame_rate_hz)
    for part in parts_of(clip, OF_TOKENS):
        part = Clips(frames=part["frames"][:, :, -bins:], behavior=part["behavior"][:, -bins:])
        maps = extract_attention(twin, {recording_id: part}, mean_of_heads=True)[recording_id]
        if maps.windows is None or not len(units):
            return None
        newest = Newest(twin, recording_id, part)
        time, rows, columns = maps.grid.shape
        scores = {
            "rollout": rolled_out(maps, units),
            "gradient": relevance_of_tokens(newest, units),
            "nearest": nearest_tokens(maps, twin.centers_px(recording_id)[list(units)]),
        }
        everywhere = np.ones((len(units), time, rows * columns), bool)
        trials.append(moved(newest.with_tokens, units, scores, everywhere, np.random.default_rng(len(trials))))
    return averaged(np.array(units), trials)


def parts_of(clip: Clips, moments: int) -> list[Clips]:
    """The clip up to some moments of its second half, the last of which is its end."""
    bins = clip["frames"].shape[2]
    ends = sorted({bins - round(i * (bins // 2) / moments) for i in range(moments)})
    return [Clips(frames=clip["frames"][:1, :, :end], behavior=clip["behavior"][:1, :end]) for end in ends]


def rolled_out(maps: AttentionMaps, units: Sequence[int]) -> np.ndarray:
    """(units, T, N) rollout of the newest output from each unit's window; zeros for one that reads no place."""
    assert maps.windows is not None
    time, rows, columns = maps.grid.shape
    found = np.zeros((len(units), time, rows * columns))
    for own, unit in zip(found, units, strict=True):
        if maps.windows[unit].sum() > 0:
            own[:] = rollout(maps, maps.windows[unit].astype(np.float64)).tokens.reshape(time, -1)
    return found


def nearest_tokens(maps: AttentionMaps, center_N2: np.ndarray) -> np.ndarray:
    """(units, T, N) how near tokens are to each unit in space and time, in their own sides and steps; the newest at the
    unit's place is highest."""
    time = maps.grid.shape[0]
    at_N2 = maps.grid.centers_px[:, ::-1]
    sides = np.array([np.diff(edges).mean() for edges in (maps.grid.column_edges, maps.grid.row_edges)])
    away = np.linalg.norm((at_N2 - center_N2[:, None]) / sides, axis=-1)
    return -np.hypot(away[:, None], (time - 1 - np.arange(time))[None, :, None])


def moved(
    log_rates: Callable[[Tensor], Tensor],
    units: Sequence[int],
    scores: Mapping[str, np.ndarray],
    allowed: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """(units,) how far each unit's log rate moves with the tenth masked that each score puts highest, and the mean over
    random tenths.

    Parameters
    ----------
    log_rates : (B, U) of all units from masks (B, places …).
    units : whose scores these are.
    scores : (units, places …).
    allowed : (units, places …) true where places may be masked.
    rng : of the random tenths.
    """
    masked = {name: highest(own, allowed) for name, own in scores.items()}
    masked |= {f"random {draw}": highest(rng.random(allowed.shape), allowed) for draw in range(DRAWS)}
    several = max(1, min(AT_ONCE, MOST_TOKENS // allowed[0].size))

    def rates(own: np.ndarray) -> np.ndarray:
        parts = torch.as_tensor(1.0 - own, dtype=torch.float32).split(several)
        found: np.ndarray = torch.cat([log_rates(part) for part in parts]).cpu().numpy()
        return found[:, list(units)]

    with torch.no_grad():
        whole_N = rates(np.zeros(allowed[:1].shape))[0]
        moves = {name: np.abs(rates(own).diagonal() - whole_N) for name, own in masked.items()}
    random = np.mean([moves.pop(f"random {draw}") for draw in range(DRAWS)], axis=0)
    return moves | {"random": random}


def highest(scores: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(units, places …) true for the tenth of all places that scores highest of those allowed."""
    flat = np.where(allowed, scores, -np.inf).reshape(len(scores), -1)
    count = max(1, round(PART * flat.shape[1]))
    found = np.zeros(flat.shape, bool)
    np.put_along_axis(found, np.argsort(-flat, axis=1, kind="stable")[:, :count], True, axis=1)
    return (found & np.isfinite(flat)).reshape(scores.shape)


def averaged(units: np.ndarray, trials: Sequence[Mapping[str, np.ndarray]]) -> Faithfulness:
    means = {name: np.mean([trial[name] for trial in trials], axis=0) for name in trials[0]}
    nearest, random = means.pop("nearest"), means.pop("random")
    return Faithfulness(units, means, nearest, random)
