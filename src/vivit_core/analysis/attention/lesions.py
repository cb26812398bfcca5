"""What a twin predicts without what its attention finds: the rest of it stays as it is.

Shape letters: B sequences, h heads, N tokens, d numbers of a head, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vivit_core.analysis.attention.blocks import Kind, attending_core, blocks_of, on_device
from vivit_core.models.attention.base import AttentionMask
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch

Mix = Callable[[Tensor, AttentionMask], Tensor]
Lesion = dict[Kind, Mix]  # what takes the place of attention, by kind of block


def evenly(v_BhNd: Tensor, mask: AttentionMask) -> Tensor:
    """Every token attends alike to all that it may attend to."""
    tokens = v_BhNd.shape[2]
    allowed = mask.matrix(tokens, v_BhNd.device)
    if allowed is None:
        return v_BhNd.mean(2, keepdim=True).expand_as(v_BhNd)
    weights = allowed.to(v_BhNd.dtype)
    return (weights / weights.sum(-1, keepdim=True)) @ v_BhNd


def alone(v_BhNd: Tensor, mask: AttentionMask) -> Tensor:
    """Every token attends to itself alone."""
    return v_BhNd


LESIONS: dict[str, Lesion] = {
    "uniform": {"spatial": evenly, "temporal": evenly},
    "own_place": {"spatial": alone},
    "newest": {"temporal": alone},
}
HELD = "held"  # the blocks' output at its mean


class Lesioned:
    """A twin, called as it is, with one of the lesions.

    Parameters
    ----------
    twin : left as it is between calls.
    lesion : what takes the place of attention; empty: nothing does.
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
        attentions = [(attention, mix) for kind, mix in self.lesion.items() for attention in blocks_of(core)[kind]]
        hook = None
        if self.held_D is not None:
            held_D = self.held_D
            hook = core.norm.register_forward_hook(lambda module, given, made: held_D.to(made).expand_as(made))
        try:
            for attention, mix in attentions:
                attention.mix = mix
            yield
        finally:
            for attention, _ in attentions:
                attention.mix = None
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
