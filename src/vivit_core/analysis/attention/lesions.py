"""What a twin predicts without what its attention finds: the rest of it stays as it is.

Shape letters: B sequences, h heads, Q queries, K keys, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vivit_core.analysis.attention.blocks import Kind, attending_core, blocks_of, on_device
from vivit_core.models.attention.base import Positions
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch

Reweigh = Callable[[Tensor, Positions, Tensor | None], Tensor]
Lesion = dict[Kind, Reweigh]  # what is made of the weights, by kind of block


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
HELD = "held"  # the blocks' output at its mean


class Lesioned:
    """A twin, called as it is, with one of the lesions.

    Parameters
    ----------
    twin : left as it is between calls.
    lesion : what is made of the weights; empty: nothing is.
    held_D : the blocks' output at every place and time; None: it is their own.
    """

    def __init__(self, twin: Twin, lesion: Lesion, held_D: Tensor | None = None) -> None:
        self.twin, self.lesion, self.held_D, self.predict = twin, lesion, held_D, twin.predict

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        with self.lesioned():
            counts: dict[str, Tensor] = self.twin(batch)
        return counts

    @contextmanager
    def lesioned(self) -> Iterator[None]:
        core = attending_core(self.twin)
        attentions = [(own, change) for kind, change in self.lesion.items() for own in blocks_of(core)[kind]]
        hook = None
        if self.held_D is not None:
            held_D = self.held_D
            hook = core.norm.register_forward_hook(lambda module, given, made: held_D.to(made).expand_as(made))
        try:
            for attention, change in attentions:
                attention.reweigh = change
            yield
        finally:
            for attention, _ in attentions:
                attention.reweigh = None
            if hook is not None:
                hook.remove()


@torch.no_grad()
def lesions(twin: Twin, batches: Iterable[Batch]) -> dict[str, Lesioned]:
    """The twin with each lesion, by name.

    Parameters
    ----------
    twin : with a ViViT core.
    batches : some clips, over which the blocks' output is averaged.

    Raises
    ------
    ValueError
        For a core without attention, and where there are no clips.
    """
    core, device, training = attending_core(twin), next(twin.parameters()).device, twin.training
    total, tokens = torch.zeros(core.norm.normalized_shape, dtype=torch.float64, device=device), 0

    def add(module: object, given: object, made: Tensor) -> None:
        nonlocal total, tokens
        flat = made.flatten(0, -2)
        total, tokens = total + flat.double().sum(0), tokens + len(flat)

    hook = core.norm.register_forward_hook(add)
    try:
        twin.eval()
        for batch in batches:
            twin({name: on_device(clips, device) for name, clips in batch.items()})
    finally:
        hook.remove()
        twin.train(training)
    if not tokens:
        raise ValueError("there are no clips over which the blocks' output could be averaged")
    found = {HELD: Lesioned(twin, {}, total / tokens)}
    return found | {name: Lesioned(twin, lesion) for name, lesion in LESIONS.items()}
