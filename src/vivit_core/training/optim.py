"""AdamW with honest groups, and the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from vivit_core.models.attention.blocks import Block
from vivit_core.models.readouts.base import Readout

CORE = ("core", "modulator")  # the parts of a twin that its recordings share


@dataclass(frozen=True)
class Optimization:
    """How a twin is trained.

    Parameters
    ----------
    lr : peak learning rate of the readouts.
    weight_decay : AdamW's, on the weights of linear and convolutional layers alone.
    betas : AdamW's two decay rates of the moments.
    core_lr_scale : learning rate of core and modulator as a part of the readouts'; 0 freezes them.
    attention_lr_scale : learning rate of the transformer's blocks as a part of the core's. At a rate that is good for
        convolutions and readouts, a few hundred steps teach blocks nothing.
    window_lr_scale : learning rate of the readouts' windows (place, size and angle), in ``lr``. Adam moves a number by
        at most about its learning rate in a step, and a place is in pixels.
    warmup_epochs : epochs over which the learning rate rises linearly, from its first part at the first step; may be a
        fraction.
    min_lr_fraction : part of the peak that the cosine ends at, with the last step.

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
    window_lr_scale: float
    warmup_epochs: float
    min_lr_fraction: float

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
        if self.window_lr_scale < 0:
            raise ValueError(
                f"optim.window_lr_scale={self.window_lr_scale} must not be negative; 0 leaves windows as they start"
            )
        if self.warmup_epochs < 0:
            raise ValueError(f"optim.warmup_epochs={self.warmup_epochs} must not be negative")
        if not 0 <= self.min_lr_fraction <= 1:
            raise ValueError(f"optim.min_lr_fraction={self.min_lr_fraction} must lie in [0, 1]")

    def build(
        self,
        twin: nn.Module,
        epochs: int,
        steps_per_epoch: int,
        scaled: Collection[str] = CORE,
        steps: Callable[[], int] | None = None,
    ) -> tuple[AdamW, LambdaLR]:
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
        scales = {
            "core": self.core_lr_scale,
            "attention": self.core_lr_scale * self.attention_lr_scale,
            "windows": self.window_lr_scale,
        }
        groups = [
            {
                "name": name,
                "params": [parameter for parameter in members.values() if parameter.requires_grad],
                "lr": self.lr * scales.get(name.split("/")[0], 1.0),
                "weight_decay": self.weight_decay if name.endswith("/decay") else 0.0,
            }
            for name, members in parameter_groups(twin, scaled).items()
            if any(parameter.requires_grad for parameter in members.values())
        ]
        optimizer = AdamW(groups, betas=(self.betas[0], self.betas[1]), fused=True)  # one pass over all weights

        def fraction(step: int) -> float:
            made = planned if steps is None else steps()
            return self.lr_fraction(step, made, round(warmup * made / planned))

        return optimizer, LambdaLR(optimizer, fraction)

    def lr_fraction(self, step: int, steps: int, warmup: int) -> float:
        """Part of the peak learning rate with which step ``step`` (0 = the first) of ``steps`` is taken."""
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
        return self.min_lr_fraction + (1 - self.min_lr_fraction) * 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(twin: nn.Module, scaled: Collection[str] = CORE) -> dict[str, dict[str, nn.Parameter]]:
    """Every parameter by name, in exactly one of the groups ``core/decay``, ``core/plain``, ``attention/decay``,
    ``attention/plain``, ``readouts/decay``, ``readouts/plain``, ``windows/plain``.

    What decays is decided by the module's type: the weights of linear and convolutional layers (also a ConvGRU's).
    Everything else is plain: norms, biases, positions, registers, temporal bases, and the readouts' windows and
    features (which have an L1 of their own). ``core`` are the twin's parts that ``scaled`` names, but for the
    transformer's blocks in them, which are ``attention``; ``windows`` is what the readouts call so
    (``Readout.windows``). Empty groups are left out.
    """
    groups: dict[str, dict[str, nn.Parameter]] = {
        f"{part}/{kind}": {} for part in ("core", "attention", "readouts", "windows") for kind in ("decay", "plain")
    }
    readouts = [module for module in twin.modules() if isinstance(module, Readout)]
    windows = {id(parameter) for readout in readouts for parameter in readout.windows()}
    attention = {
        id(parameter) for module in twin.modules() if isinstance(module, Block) for parameter in module.parameters()
    }
    decays = {
        id(module.weight)
        for module in twin.modules()
        if isinstance(module, nn.Linear | _ConvNd) and isinstance(module.weight, nn.Parameter)
    }
    for name, parameter in twin.named_parameters():  # names a shared parameter once
        shared = "attention" if id(parameter) in attention else "core"
        part = shared if name.split(".")[0] in scaled else "windows" if id(parameter) in windows else "readouts"
        groups[f"{part}/{'decay' if id(parameter) in decays else 'plain'}"][name] = parameter
    return {name: members for name, members in groups.items() if members}
