"""Where the blocks of a ViViT begin that is given energies: with comparisons that physiology knows.

At random, blocks find in minutes nothing of what lies far or came before. So those whose tokens hold energies
(``OrientedEnergy``) begin with a few heads that make signals of context from them, and go on learning from there:

- in the first block over space, one head compares a token with all others by their orientations, one by the direction
  of their motion. A register stands for "none is alike": what is left of the attention beside it is a gate, near 1
  where many tokens are like this one (the gate of a surround: Coen-Cagli, Kohn & Schwartz 2015; of a background's
  motion: Ölveczky, Baccus & Meister 2003). The first head also brings the energy of the tokens that are alike;
- in the first block over time, two heads average a place's energies over a short and a long past (adaptation: Ohzawa,
  Sclar & Freeman 1985).

They write into numbers of the token that nothing else writes to at first. All other heads, and all feed-forward nets,
begin at random, as everywhere.

Joint blocks begin with the comparisons of space alone. Theirs see the tokens of the past too, all beside one register,
so that "none is alike" weighs less than in blocks over space.

Shape letters: h heads, d numbers of a head, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vivit_core.models.attention.base import Attention
from vivit_core.models.attention.blocks import Block
from vivit_core.models.energy import OrientedEnergy

LARGE = 4.0  # a weight of a comparison: the steps of a training add little noise to it


class Comparison(NamedTuple):
    """How sharply a head compares.

    Attributes
    ----------
    alike : score of two tokens that are the same; of unlike ones it is 0, of opposite ones minus this.
    none : score of the register.
    """

    alike: float
    none: float


LIKENESS = Comparison(alike=8.0, none=10.0)
DIRECTION = Comparison(alike=4.0, none=6.0)
GATE, ENERGY = 2.0, 0.5  # size of what heads write: of a gate between 0 and 1, and of standardized energies
SLIGHT = 0.1  # of how a head that begins at random looks at what tokens hold
PASTS = (1 / 8, 1 / 2)  # of the window, or of `STEPS` where there is none: how far back the two means over time reach
STEPS = 32


@dataclass(frozen=True)
class Numbers:
    """Which numbers of a token hold what, once energies are in it.

    Attributes
    ----------
    energy : the energies' own, from 0 on.
    one, zero : always 1, always 0: every norm subtracts a mean and scales, and what is read is told from the zero's.
    register : 1 in the first register, 0 in tokens.
    gates : what the heads over space write: gate of likeness, energy of what is alike, gate of motion.
    pasts : what the heads over time write: mean energies of each orientation.
    end : the first of all others.
    """

    energy: OrientedEnergy

    @property
    def one(self) -> int:
        return self.energy.numbers

    @property
    def zero(self) -> int:
        return self.one + 1

    @property
    def register(self) -> int:
        return self.one + 2

    @property
    def gates(self) -> range:
        return range(self.one + 3, self.one + 6)

    @property
    def pasts(self) -> range:
        return range(self.one + 6, self.one + 6 + len(PASTS) * self.energy.orientations)

    @property
    def end(self) -> int:
        return self.pasts.stop


def number_weights(layer: nn.Linear, heads: int) -> tuple[Tensor, Tensor]:
    """Weights (3, h, d, D) and biases (3, h, d) of queries, keys and values."""
    return layer.weight.unflatten(0, (3, heads, -1)), layer.bias.unflatten(0, (3, heads, -1))


COMPARISONS = (("likeness", LIKENESS), ("direction", DIRECTION))  # of the heads over space, one after the other


def no_room(energy: OrientedEnergy, dim: int, over_space: Attention | None, over_time: Attention | None) -> str:
    """Why a core of this width, with these first attentions, cannot hold comparisons; empty where it can."""
    if dim <= (end := Numbers(energy).end):
        return f"model.embedding_dim={dim} leaves no room for them; from {end + 1} on it does"
    if over_space is not None and (over_space.heads < len(COMPARISONS) or over_space.head_dim <= len(energy.likeness)):
        return (
            f"model.attention.heads={over_space.heads} of {over_space.head_dim} numbers leaves no room for them; at "
            f"least {len(COMPARISONS)} heads of {len(energy.likeness) + 1} numbers do"
        )
    if over_time is not None and over_time.head_dim < len(energy.energy):
        return f"heads of {over_time.head_dim} numbers cannot hold {len(energy.energy)} energies; fewer heads can"
    return ""


class Beginning:
    """Writes the comparisons into what a core is made of, in place, where there is room.

    Parameters
    ----------
    energy, lift : the energies, and the layer that makes numbers of a token of them.
    """

    def __init__(self, energy: OrientedEnergy, lift: nn.Linear) -> None:
        self.at = Numbers(energy)
        self.energy = energy
        lift.weight.zero_()
        lift.weight[: energy.numbers] = torch.diag(energy.sizes())
        lift.bias.zero_()
        lift.bias[self.at.one] = 1.0

    def keep(self, blocks: Sequence[nn.Module]) -> None:
        """No block but those told otherwise writes to the numbers that are read here."""
        for block in blocks:
            assert isinstance(block, Block)
            block.attention.out.weight[: self.at.end] = 0.0
            block.ff.fc2.weight[: self.at.end] = 0.0

    def read(self, row_D: Tensor, number: int, weight: Tensor | float) -> None:
        """Let a weight read a number of the token, told from zero."""
        row_D[number] += weight
        row_D[self.at.zero] -= weight

    def clear(self, attention: Attention, head: int) -> None:
        """A head that does nothing."""
        weight, bias = number_weights(attention.qkv, attention.heads)
        weight[:, head] = 0.0
        bias[:, head] = 0.0
        attention.out.weight.unflatten(1, (attention.heads, -1))[:, head] = 0.0

    def over_space(self, attention: Attention) -> Tensor:
        """Heads that compare; returns the register (D,) that stands for "none is alike"."""
        at, (weight, bias) = self.at, number_weights(attention.qkv, attention.heads)
        (q, k, v), (_, _, plain) = weight, bias
        write = attention.out.weight.unflatten(1, (attention.heads, -1))  # (D, h, d)
        steady = attention.steady()
        register_D = torch.zeros(weight.shape[-1])
        register_D[at.register] = 1.0
        told_D = nn.functional.layer_norm(register_D, register_D.shape)
        told = told_D[at.register] - told_D[at.zero]  # of the register, behind a norm
        for head, (name, how) in enumerate(COMPARISONS):
            numbers: range = getattr(self.energy, name)
            self.clear(attention, head)
            for number, own in zip(numbers, steady, strict=False):
                self.read(q[head, own], number, LARGE)
                self.read(k[head, own], number, LARGE)
            none = steady[len(numbers)]
            self.read(q[head, none], at.one, LARGE * how.none / how.alike)
            self.read(k[head, none], at.register, LARGE / told)
            plain[head, 0] = 1.0  # of tokens; of the register it is 0
            self.read(v[head, 0], at.register, -1.0 / told)
            write[at.gates[2 * head], head, 0] = GATE
        for number in self.energy.energy:
            self.read(v[0, 1], number, 1.0 / len(self.energy.energy))
        write[at.gates[1], 0, 1] = 2 * GATE * ENERGY
        if attention.q_scale is not None and attention.k_scale is not None:
            longer = (1 + (LIKENESS.none / LIKENESS.alike) ** 2) ** 0.5  # the query, by the register's part of it
            scale = (LIKENESS.alike * longer * attention.head_dim**-0.5) ** 0.5
            for own in steady[: len(self.energy.likeness) + 1]:
                attention.q_scale[own] = attention.k_scale[own] = scale
        return register_D

    def over_time(self, attention: Attention, window: int | None) -> None:
        """Two heads that average the past."""
        at, (weight, bias) = self.at, number_weights(attention.qkv, attention.heads)
        values = weight[2]
        write = attention.out.weight.unflatten(1, (attention.heads, -1))
        orientations = len(self.energy.energy)
        for head, past in enumerate(PASTS[: attention.heads]):
            steps = (STEPS if window is None else window) * past
            looks = weight[:2, head].clone()
            self.clear(attention, head)
            if (own := attention.looks_back(steps)) is None:
                # Positions do not turn queries and keys: were these all alike, they would have no gradient either.
                attention.fade(head, steps)
                weight[:2, head], own = SLIGHT * looks, 0
            bias[:2, head, own] = LARGE
            for o, number in enumerate(self.energy.energy):
                self.read(values[head, o], number, 1.0)
                write[at.pasts[head * orientations + o], head, o] = 2 * ENERGY

    def told(self) -> list[int]:
        """The numbers of a token that units read first."""
        return [*self.energy.energy, *self.at.gates, *self.at.pasts]
