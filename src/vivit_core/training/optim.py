"""AdamW with honest groups, Muon for the matrices of a transformer's blocks, and the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vivit_core.models.attention.blocks import Block
from vivit_core.models.cores.base import Core
from vivit_core.models.readouts.base import Readout
from vivit_core.models.shifters.base import Shifter

CORE = ("core", "modulator")  # the parts of a twin that its recordings share
MATRICES = ("attention/decay", "context/decay")  # the groups of the blocks' matrices


@dataclass(frozen=True)
class Optimization:
    """How a twin is trained: with AdamW.

    Parameters
    ----------
    lr : peak learning rate of the readouts.
    weight_decay : AdamW's, on the weights of linear, convolutional and recurrent layers alone.
    betas : AdamW's two decay rates of the moments.
    core_lr_scale : learning rate of core and modulator as a part of the readouts'; 0 freezes them.
    attention_lr_scale : learning rate of the transformer's blocks as a part of the core's. At a rate that is good for
        convolutions and readouts, a few hundred steps teach blocks nothing.
    context_lr_scale : learning rate of blocks that begin with comparisons, and of the layers around them
        (``Core.context``), as a part of the core's. At a rate that blocks want that begin at random, they lose what
        they began with before units have learned to read it.
    window_lr_scale : learning rate of the readouts' windows (place, size and angle) and of shifts, in ``lr``. Adam
        moves a number by at most about its learning rate in a step, and a place is in pixels. Where it is 0, all that
        decides them stays as it starts (``Readout.places``, ``Shifter.places``). Masks and queries are no windows.
    warmup_epochs : epochs over which the learning rate rises linearly, from its first part at the first step; may be a
        fraction.
    min_lr_fraction : part of the peak at which the course ends, with the last step.
    cooldown_fraction : None: the learning rate follows a cosine over all steps after the warm-up. Otherwise it stays at
        its peak, and falls linearly over this last part of the steps (Hägele et al. 2024, "Scaling laws and
        compute-optimal training beyond fixed training durations"), so that one training, continued, gives several
        lengths.
    readouts_first : share of the steps, the first ones, in which the readouts learn alone. Then core and modulator
        begin, with a warm-up of their own. Fresh readouts send a trained core gradients that mean nothing yet (Kumar et
        al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution").

    Raises
    ------
    ValueError
        For a number out of its range.
    """

    lr: float
    weight_decay: float
    betas: list[float]
    core_lr_scale: float
    attention_lr_scale: float
    context_lr_scale: float
    window_lr_scale: float
    warmup_epochs: float
    min_lr_fraction: float
    cooldown_fraction: float | None
    readouts_first: float

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optim.lr={self.lr} must be positive")
        if self.weight_decay < 0:
            raise ValueError(f"optim.weight_decay={self.weight_decay} must not be negative")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"optim.betas={list(self.betas)} must be two numbers in [0, 1), for example [0.9, 0.999]")
        if self.core_lr_scale < 0:
            raise ValueError(
                f"optim.core_lr_scale={self.core_lr_scale} must not be negative; 0 leaves the core as it is"
            )
        if not self.attention_lr_scale > 0:
            raise ValueError(f"optim.attention_lr_scale={self.attention_lr_scale} must be positive")
        if not self.context_lr_scale > 0:
            raise ValueError(f"optim.context_lr_scale={self.context_lr_scale} must be positive")
        if self.window_lr_scale < 0:
            raise ValueError(
                f"optim.window_lr_scale={self.window_lr_scale} must not be negative; 0 leaves windows and "
                "shifts as they start"
            )
        if self.warmup_epochs < 0:
            raise ValueError(f"optim.warmup_epochs={self.warmup_epochs} must not be negative")
        if not 0 <= self.min_lr_fraction <= 1:
            raise ValueError(f"optim.min_lr_fraction={self.min_lr_fraction} must lie in [0, 1]")
        if self.cooldown_fraction is not None and not 0 < self.cooldown_fraction <= 1:
            raise ValueError(
                f"optim.cooldown_fraction={self.cooldown_fraction} must lie in (0, 1]; null makes the course a cosine"
            )
        if not 0 <= self.readouts_first < 1:
            raise ValueError(
                f"optim.readouts_first={self.readouts_first} must lie in [0, 1), for example 0.3; "
                "optim.core_lr_scale=0 keeps the core as it is to the end"
            )
        if self.readouts_first > 0 and self.core_lr_scale == 0:
            raise ValueError(
                f"optim.readouts_first={self.readouts_first} says when the core begins to learn, and with "
                "optim.core_lr_scale=0 it never does; set optim.core_lr_scale=0.1, or leave optim.readouts_first out"
            )

    def check(self, twin: nn.Module) -> None:
        """Raise ValueError, with a remedy, for a twin that cannot be trained so."""

    def optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer of these groups of parameters, each with a ``name`` and its peak learning rate."""
        return AdamW(groups, betas=(self.betas[0], self.betas[1]), fused=True)  # one pass over all weights

    def peaks(self) -> dict[str, float]:
        """Peak learning rates of groups that do not learn at ``lr``, by the group's name or its first word."""
        return {
            "core": self.lr * self.core_lr_scale,
            "attention": self.lr * self.core_lr_scale * self.attention_lr_scale,
            "context": self.lr * self.core_lr_scale * self.context_lr_scale,
            "windows": self.lr * self.window_lr_scale,
        }

    def build(
        self,
        twin: nn.Module,
        epochs: int,
        steps_per_epoch: int,
        scaled: Collection[str] = CORE,
        steps: Callable[[], int] | None = None,
    ) -> tuple[Optimizer, LambdaLR]:
        """The optimizer and its schedule, which takes one step after each optimizer step.

        Parameters
        ----------
        twin : whose parameters are optimized, those that require a gradient.
        epochs, steps_per_epoch : length of the training.
        scaled : parts of the twin that learn at ``core_lr_scale``.
        steps : tells how many of the steps are made, where that may change in training; None: all. The warm-up keeps
            its share of them.
        """
        planned, warmup = epochs * steps_per_epoch, round(self.warmup_epochs * steps_per_epoch)
        if warmup >= planned:
            rank_zero_warn(
                "the learning rate is still rising when the training ends: "
                f"optim.warmup_epochs={self.warmup_epochs} of {epochs}"
            )
        peaks = self.peaks()
        groups = [
            {
                "name": name,
                "params": [parameter for parameter in members.values() if parameter.requires_grad],
                "lr": peaks.get(name, peaks.get(name.split("/")[0], self.lr)),
                "weight_decay": self.weight_decay if name.endswith("/decay") else 0.0,
            }
            for name, members in parameter_groups(twin, scaled, still=self.window_lr_scale == 0).items()
            if any(parameter.requires_grad for parameter in members.values())
        ]
        optimizer = self.optimizer(groups)

        def fraction(step: int, first: bool) -> float:
            made = planned if steps is None else steps()
            warming = round(warmup * made / planned)
            course = self.lr_fraction(step, made, warming)
            if first:
                return course
            begun = step - self.core_begins(made)  # steps since then
            return min(course, (begun + 1) / (warming + 1)) if begun >= 0 else 0.0

        of = {first: partial(fraction, first=first) for first in (True, False)}
        names = [str(group["name"]).split("/")[0] for group in optimizer.param_groups]
        return optimizer, LambdaLR(optimizer, [of[name not in ("core", "attention", "context")] for name in names])

    def core_begins(self, steps: int) -> int:
        """The first of so many steps (0 = the first) in which the core learns."""
        return min(round(self.readouts_first * steps), steps - 1)

    def lr_fraction(self, step: int, steps: int, warmup: int) -> float:
        """Part of the peak learning rate with which step ``step`` (0 = the first) of ``steps`` is taken."""
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.cooldown_fraction is not None:
            falling = max(1, round(self.cooldown_fraction * (steps - warmup)))  # steps
            left = max(0, steps - 1 - step) / falling  # the last step is at the end of the course
            return self.min_lr_fraction + (1 - self.min_lr_fraction) * min(1.0, left)
        done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
        return self.min_lr_fraction + (1 - self.min_lr_fraction) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class MuonOptimization(Optimization):
    """How a twin is trained: with Muon for the matrices of the transformer's blocks, AdamW for all else. Where blocks
    begin with comparisons, the layers around them count as theirs (``Core.context``).

    Muon (Jordan et al. 2024; torch's own) takes the momentum of a matrix and brings all its singular values to about
    one before the step, so that rare directions learn as fast as common ones. The update is scaled to the size of
    AdamW's (Liu et al. 2025, "Muon is scalable for LLM training"), so that learning rate and decay mean the same.

    Parameters
    ----------
    muon_lr : peak learning rate of the matrices; core_lr_scale applies to it too, and context_lr_scale where blocks
        begin with comparisons; attention_lr_scale does not: that is of the blocks' norms and biases.
    muon_momentum : part of the momentum that a step leaves.

    Raises
    ------
    ValueError
        For a number out of its range; in ``check`` for a twin without blocks.
    """

    muon_lr: float
    muon_momentum: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.muon_lr > 0:
            raise ValueError(f"optim.muon_lr={self.muon_lr} must be positive")
        if not 0 <= self.muon_momentum < 1:
            raise ValueError(f"optim.muon_momentum={self.muon_momentum} must lie in [0, 1), for example 0.95")

    def check(self, twin: nn.Module) -> None:
        if not set(MATRICES) & set(parameter_groups(twin)):
            raise ValueError(
                "optim=muon is for the matrices of a transformer's blocks, and this model has none; "
                "set optim=adamw, or a model with blocks (model=vivit_small)"
            )

    def peaks(self) -> dict[str, float]:
        own = self.muon_lr * self.core_lr_scale
        return {**super().peaks(), **dict(zip(MATRICES, (own, own * self.context_lr_scale), strict=True))}

    def optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        matrices = [group for group in groups if group["name"] in MATRICES]
        rest = [group for group in groups if group["name"] not in MATRICES]
        parts = [super().optimizer(rest)]
        if matrices:  # none where the core is frozen
            parts.insert(0, Muon(matrices, momentum=self.muon_momentum, adjust_lr_fn="match_rms_adamw"))
        return CombinedOptimizer(parts)


class CombinedOptimizer(Optimizer):
    """Several optimizers as one, for those who expect one: a schedule, a checkpoint, Lightning.

    Parameters
    ----------
    parts : each of other parameters. Their groups and their state are this one's own.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.share()

    def share(self) -> None:
        """Let the parts work with this one's groups and state."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.share()


def readouts_rate(optimizer: Optimizer) -> float:
    """The readouts' learning rate as it is now; its peak is ``optim.lr``. The first group's where no readout learns."""
    groups = optimizer.param_groups
    return float(next((group for group in groups if group["name"].startswith("readouts/")), groups[0])["lr"])


def parameter_groups(
    twin: nn.Module, scaled: Collection[str] = CORE, still: bool = False
) -> dict[str, dict[str, nn.Parameter]]:
    """Every parameter by name, in exactly one of the groups ``core/decay``, ``core/plain``, ``attention/decay``,
    ``attention/plain``, ``context/decay``, ``context/plain``, ``readouts/decay``, ``readouts/plain``,
    ``windows/plain``.

    What decays is decided by the module's type: the weights of linear, convolutional and recurrent layers.
    Everything else is plain: norms, biases, positions, registers, temporal bases, and the readouts' windows and
    features (which have an L1 of their own). ``core`` are the twin's parts that ``scaled`` names, but for the
    transformer's blocks in them, which are ``attention``, or ``context`` with all around them where a
    core says so (``Core.context``); ``windows`` is what readouts and shifters
    call so (``Readout.windows``, ``Shifter.windows``), or all that decides them where they are to stand ``still``
    (``places``). Empty groups are left out.
    """
    groups: dict[str, dict[str, nn.Parameter]] = {
        f"{part}/{kind}": {}
        for part in ("core", "attention", "context", "readouts", "windows")
        for kind in ("decay", "plain")
    }
    looking = [module for module in twin.modules() if isinstance(module, Readout | Shifter)]
    windows = {id(parameter) for module in looking for parameter in (module.places() if still else module.windows())}
    attention = {
        id(parameter) for module in twin.modules() if isinstance(module, Block) for parameter in module.parameters()
    }
    cores = [module for module in twin.modules() if isinstance(module, Core)]
    context = {id(parameter) for core in cores for parameter in core.context()}
    decays = {
        id(module.weight)
        for module in twin.modules()
        if isinstance(module, nn.Linear | _ConvNd) and isinstance(module.weight, nn.Parameter)
    } | {
        id(parameter)
        for module in twin.modules()
        if isinstance(module, nn.RNNBase)
        for name, parameter in module.named_parameters(recurse=False)
        if name.startswith("weight")
    }
    for name, parameter in twin.named_parameters():  # names a shared parameter once
        shared = "context" if id(parameter) in context else "attention" if id(parameter) in attention else "core"
        part = shared if name.split(".")[0] in scaled else "windows" if id(parameter) in windows else "readouts"
        groups[f"{part}/{'decay' if id(parameter) in decays else 'plain'}"][name] = parameter
    return {name: members for name, members in groups.items() if members}
