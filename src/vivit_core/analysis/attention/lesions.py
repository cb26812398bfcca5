"""What a twin predicts without what its attention finds: the rest of it stays as it is.

Shape letters: B sequences, h heads, Q queries, K keys, D embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vivit_core.analysis.attention.blocks import Kind, attending_core, blocks_of, on_device
from vivit_core.models.attention.base import Positions
from vivit_core.models.layers import evaluating
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch

Reweigh = Callable[[Tensor, Positions, Tensor | None], Tensor]
Lesion = dict[Kind, Reweigh]  # what is made of the weights, by kind of block
Held = tuple[Tensor, Tensor]  # the mean of a part's output, and where it takes its place


def evenly(weights_BhQK: Tensor, positions: Positions, seen_QK: Tensor | None) -> Tensor:
    """Every token attends alike to all that it may attend to."""
    seen = torch.ones_like(weights_BhQK) if seen_QK is None else seen_QK.to(weights_BhQK).expand_as(weights_BhQK)
    return seen / seen.sum(-1, keepdim=True)


def at_own_place(weights_BhQK: Tensor, positions: Positions, seen_QK: Tensor | None) -> Tensor:
    """Every token attends to tokens of its own place alone, as it weighs them; a register to itself."""
    number = len(positions.steps)
    own = torch.arange(number, device=positions.steps.device) % int((positions.steps == positions.steps[0]).sum())
    return among(weights_BhQK, own[:, None] == own)


def of_newest_step(weights_BhQK: Tensor, positions: Positions, seen_QK: Tensor | None) -> Tensor:
    """Every token attends to tokens of its own time step alone, as it weighs them."""
    return among(weights_BhQK, positions.steps[:, None] == positions.steps)


def among(weights_BhQK: Tensor, allowed_QK: Tensor) -> Tensor:
    """The weights of some keys, which sum to one again."""
    kept = weights_BhQK * allowed_QK
    total = kept.sum(-1, keepdim=True)
    even = allowed_QK / allowed_QK.sum(-1, keepdim=True)  # where all of them had nothing
    return torch.where(total > 0, kept / total, even.to(kept))


LESIONS: dict[str, Lesion] = {
    "uniform": {"spatial": evenly, "temporal": evenly, "joint": evenly},
    "own_place": {"spatial": at_own_place, "joint": at_own_place},
    "newest": {"temporal": of_newest_step, "joint": of_newest_step},
}
OF_CELLS = {"uniform": True, "own_place": False}  # whether cells still know how much there is around them
HELD = "held"  # the blocks' output at its mean, and that of cells
UNMIXED = "unmixed"  # each attention's output at its mean: tokens keep what they tell of themselves


class Lesioned:
    """A twin, called as it is, with one of the lesions.

    Parameters
    ----------
    twin : left as it is between calls.
    lesion : what is made of the weights; empty: nothing is.
    held : parts of the twin, their output at every place and time, (D,) each, and which of it is put there, (D,).
    """

    def __init__(self, twin: Twin, lesion: Lesion, held: Mapping[nn.Module, Held] | None = None) -> None:
        self.twin, self.lesion, self.held, self.predict = twin, lesion, held or {}, twin.predict

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        with self.lesioned():
            counts: dict[str, Tensor] = self.twin(batch)
        return counts

    @contextmanager
    def lesioned(self) -> Iterator[None]:
        own = blocks_of(attending_core(self.twin))
        attentions = [(attention, change) for kind, change in self.lesion.items() for attention in own[kind]]
        hooks = [part.register_forward_hook(always(*own)) for part, own in self.held.items()]
        try:
            for attention, change in attentions:
                attention.reweigh = change
            yield
        finally:
            for attention, _ in attentions:
                attention.reweigh = None
            for hook in hooks:
                hook.remove()


def always(mean_D: Tensor, held_D: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that puts this in the place of what a part makes."""
    return lambda part, given, made: torch.where(held_D, mean_D.to(made), made)


@torch.no_grad()
def lesions(twin: Twin, batches: Iterable[Batch]) -> dict[str, Lesioned]:
    """The twin with each lesion, by name.

    Parameters
    ----------
    twin : with a ViViT core.
    batches : some clips, over which outputs are averaged.

    Raises
    ------
    ValueError
        For a core without attention, and where there are no clips.
    """
    core, device = attending_core(twin), next(twin.parameters()).device
    cells = core.cell_attention
    attentions: list[nn.Module] = [attention for own in blocks_of(core).values() for attention in own]
    attentions += [] if cells is None else [cells]
    total: dict[nn.Module, Tensor] = {}
    tokens: Counter[nn.Module] = Counter()

    def add(part: nn.Module, given: Any, made: Tensor) -> None:
        flat = made.flatten(0, -2)
        total[part] = total.get(part, 0.0) + flat.double().sum(0)
        tokens[part] += len(flat)

    hooks = [part.register_forward_hook(add) for part in (core.norm, *attentions)]
    try:
        with evaluating(twin):
            for batch in batches:
                twin({name: on_device(clips, device) for name, clips in batch.items()})
    finally:
        for hook in hooks:
            hook.remove()
    if not tokens:
        raise ValueError("there are no clips over which the blocks' output could be averaged")
    mean = {part: (own / tokens[part], torch.ones_like(own, dtype=torch.bool)) for part, own in total.items()}
    found = {
        HELD: Lesioned(twin, {}, {part: mean[part] for part in (core.norm, *([] if cells is None else [cells]))}),
        UNMIXED: Lesioned(twin, {}, {part: mean[part] for part in attentions}),
    }
    for name, lesion in LESIONS.items():
        held: dict[nn.Module, Held] = {}
        if cells is not None and (known := OF_CELLS.get(name)) is not None:
            of_mean, where = mean[cells]
            where = where.clone()
            where[cells.LEVEL] = not known
            held[cells] = of_mean, where
        found[name] = Lesioned(twin, lesion, held)
    return found
