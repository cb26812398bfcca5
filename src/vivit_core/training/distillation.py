"""Distillation: a twin learns the rates of another model, or of an ensemble, in the place of the measured counts.

A rate tells more than the counts that were drawn from it: it has no noise of its own, and it is known in every bin,
also where counts are invalid. So one twin can come close to an ensemble at a fraction of its cost (Hinton et al.
2015; the second step of the winners of Sensorium 2022 and 2023).

Shape letters: B clips, T bins, U units.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from vivit_core.models.ensemble import what_is_fixed
from vivit_core.models.likelihoods.base import LEAST_COUNTS, Likelihood
from vivit_core.models.likelihoods.loss import counted
from vivit_core.models.predictor import Predictor
from vivit_core.models.twin import Twin
from vivit_core.names import few
from vivit_core.specs import Batch, Clips

LEVEL = 1e-3  # nats that a rate wrong by its e-fold may cost at first order, at its own target
ALIKE = {"frame_rate_hz": "frame rate", "frame_shape": "frames", "behavior": "behaviors"}


class Teacher:
    """A trained model whose rates are the targets of a training. It is no part of what is trained, and is not kept in
    the checkpoints: they hold a checksum of it.

    Parameters
    ----------
    model : knows all recordings and units that are trained on.
    path : where it came from, for messages.
    share : of the loss that its rates have, above 0 and at most 1; the rest is the measured counts'.
    """

    def __init__(self, model: Predictor, path: str, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"teacher_share={share} must be above 0 and at most 1 (the teacher's rates alone)")
        self.model, self.path, self.share = model.eval().requires_grad_(False), path, share
        self.columns: dict[str, list[int]] = {}

    def check(self, twin: Twin) -> None:
        """Refuse a teacher that does not know what a twin is to learn.

        Raises
        ------
        ValueError
            Names recordings or units that it lacks, what it sees otherwise, and what rates do not suit.
        """
        self.check_known(list(twin.specs))
        if twin.latents is not None:
            raise ValueError(
                f"teacher={self.path}: model.latent says how counts belong together, and rates do not tell; set "
                "model/latent=none"
            )
        if twin.observes is not None:
            raise ValueError(
                f"teacher={self.path}: model.history learns what past counts change, and the teacher's rates know no "
                "counts; set model/history=none"
            )
        if self.model.predict != twin.predict:
            raise ValueError(
                f"teacher={self.path} predicts {self.model.predict} bins, and this training {twin.predict}; set "
                f"predict={self.model.predict}"
            )
        for name, spec in twin.specs.items():
            own = twin.likelihood(name)
            check_scatter(own)
            if self.share == 1 and any(True for _ in own.parameters()) and not self.scatters_like(own, name):
                raise ValueError(
                    f"teacher={self.path} has the likelihood {what_is_fixed(self.model.likelihood(name))}, which does "
                    f"not say what {what_is_fixed(own)} has to know of how counts scatter; rates alone do not tell; "
                    "set teacher_share below 1, so that counts do, or take the teacher's likelihood"
                )
            known = self.model.specs[name]
            place = {unit: i for i, unit in enumerate(known.unit_ids)}
            if missing := [unit for unit in spec.unit_ids if unit not in place]:
                raise ValueError(
                    f"teacher={self.path} does not know {len(missing)} of {spec.n_units} units of recording {name}: "
                    f"{few(missing)}; leave the recording out, or train a teacher that knows them"
                )
            for field, (here, there) in spec.differences(known, ALIKE).items():
                raise ValueError(
                    f"teacher={self.path}: the {ALIKE[field]} of recording {name} is {there} there and {here} here; a "
                    "twin learns from a teacher that sees the same: take the settings of the data of its training"
                )
            self.columns[name] = [place[unit] for unit in spec.unit_ids]

    def check_known(self, recordings: Sequence[str]) -> None:
        """Refuse a teacher that lacks recordings.

        Raises
        ------
        ValueError
            Names them.
        """
        if lacking := [name for name in recordings if name not in self.model.specs]:
            raise ValueError(
                f"teacher={self.path} does not know the recordings {few(lacking)}; it knows "
                f"{few(list(self.model.specs))}. Train on those, or take another teacher"
            )

    def hand_over(self, twin: Twin) -> None:
        """What a twin's likelihoods have to know of how counts scatter, from the teacher's, where they are of one kind:
        its rates alone do not tell."""
        for name in twin.specs:
            own = twin.likelihood(name)
            if self.scatters_like(own, name):
                known = self.model.likelihood(name).of_units(self.columns[name])
                known.scale_U = own.scale_U  # follows from the twin's own mean counts, as the readout's bias does
                own.load_state_dict(known.state_dict())

    def scatters_like(self, own: Likelihood, name: str) -> bool:
        """Whether parameters of the teacher's likelihood of a recording mean what those of this one mean."""
        theirs = self.model.likelihood(name)
        return type(own) is type(theirs) and what_is_fixed(own) == what_is_fixed(theirs)

    @property
    def checksum(self) -> str:
        """Of its weights: a training that continues asks whether it is the same teacher."""
        found = hashlib.sha256()
        for name, value in self.model.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:32]

    def __str__(self) -> str:
        rest = "" if self.share == 1 else f", the rest that of the counts (teacher_share={self.share:g})"
        return f"teacher={self.path}, an {self.model.kind}: its rates are {self.share:.0%} of the loss{rest}"

    @torch.no_grad()
    def rates(self, batch: Batch) -> dict[str, Tensor]:
        """Its expected counts a bin of the same clips, (B, T, U) or (B, U), for the units in this training's order."""
        device = next(iter(batch.values()))["frames"].device
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        seen: Batch = {name: Clips(frames=clips["frames"], behavior=clips["behavior"]) for name, clips in batch.items()}
        return {name: rate[..., self.columns[name]] for name, rate in self.model(seen).items()}

    def summed_loss(
        self, predicted: Mapping[str, Tensor], batch: Batch, burn_in: int, likelihood: Callable[[str], Likelihood]
    ) -> tuple[Tensor, Tensor]:
        """Nats summed over all (bin, unit) pairs after the burn-in, and their number; scalars, as
        :func:`vivit_core.models.likelihoods.loss.summed_loss` gives them.

        A pair costs the nats of the teacher's rate as if it were a count. Where its count is valid, that is ``share``
        of it, and the rest are the nats of the count. What a likelihood learns by itself (a dispersion) learns from
        counts alone, because rates do not scatter.
        """
        total, pairs = [], []
        for name, targets in self.rates(batch).items():
            rate, counts, valid = counted(predicted[name], batch[name], burn_in)
            after = counted(predicted[name], everywhere(batch[name]), burn_in)[2]
            scatter = likelihood(name)
            fixed = copy.deepcopy(scatter).requires_grad_(False)
            nats = torch.where(after, fixed.nats(rate, targets.to(rate.dtype)), 0.0)
            measured = scatter.nats(rate, torch.where(valid, counts, 0.0))  # with a share of 0 too: DDP asks for it
            nats = torch.where(valid, self.share * nats + (1 - self.share) * measured, nats)
            total.append(nats.sum())
            pairs.append(after.sum())
        return torch.stack(total).sum(), torch.stack(pairs).sum()


def everywhere(clips: Clips) -> Clips:
    """The same clips with all counts valid, as rates are."""
    return Clips(**{**clips, "valid": torch.ones_like(clips["valid"])})


def check_scatter(likelihood: Likelihood) -> None:
    """Refuse a likelihood of which the nats are not least where the rate is the target.

    Raises
    ------
    ValueError
        Names it.
    """
    rate = torch.tensor(likelihood.mean_counts).clamp_min(LEAST_COUNTS).requires_grad_()
    fixed = copy.deepcopy(likelihood).requires_grad_(False)
    (slope,) = torch.autograd.grad(fixed.nats(rate, rate.detach()).sum(), rate)
    if not (slope.abs() * rate).max() < LEVEL:
        raise ValueError(
            f"a teacher's rates are no targets of the likelihood {type(likelihood).__name__}, whose loss is not least "
            "where the rate is the target; take another likelihood, for example likelihood=poisson"
        )
