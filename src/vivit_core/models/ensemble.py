"""An ensemble: several trained models of the same units in one, which predicts the mean of their rates.

What the members err alone in averages out, so that the mean is mostly better than the best of them (Sensorium 2022 and
2023 were won so). How far they lie apart, the spread, says how sure the rate is.

Shape letters: M members, B clips, T bins, U units.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.predictor import Predict, Predictor
from vivit_core.models.streaming import Stream
from vivit_core.names import few
from vivit_core.parts.groups import class_of
from vivit_core.specs import Batch, Clips, RecordingSpec

# What members must have alike in a recording, and how a reader knows it. Each normalizes by statistics of its own.
ALIKE = {
    "unit_ids": "units",
    "frame_rate_hz": "frame rates",
    "frame_shape": "frames",
    "behavior": "behaviors",
}


class Ensemble(Predictor):
    """The mean rate of several models that know the same recordings, and their spread.

    Each member normalizes video and behavior by itself, so they may be of any kind: twins of different cores, of
    different seeds, and LN models.

    Parameters
    ----------
    members : at least two; none is an ensemble. Names and statistics of recordings are those of the first.

    Raises
    ------
    ValueError
        Where there are fewer, or they differ in their recordings, in units, frames, behaviors or rates of one, in the
        bins that they predict or in their likelihood, or one sees past counts; names what differs.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        check_members(members)
        super().__init__(list(members[0].specs.values()), members[0].predict)
        self.members = nn.ModuleList(members)
        self.causal = all(member.causal for member in members)
        self.sees_behavior = any(member.sees_behavior for member in members)

    @property
    def predict(self) -> Predict:
        """What the members predict; set, it is set for each of them."""
        return self.each[0].predict

    @predict.setter
    def predict(self, predict: Predict) -> None:
        for member in self.each if "members" in self._modules else []:  # none yet where the base class sets it
            member.predict = predict

    @property
    def each(self) -> list[Predictor]:
        """The members."""
        return [cast(Predictor, member) for member in self.members]

    @property
    def kind(self) -> str:
        """The members' kinds, each with how many there are."""
        kinds = [member.kind for member in self.each]
        return f"Ensemble of {' and '.join(f'{kinds.count(kind)} {kind}' for kind in dict.fromkeys(kinds))}"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of the members' expected counts a bin: (B, T, U) for each recording, or (B, U)."""
        predicted = [member(batch) for member in self.each]
        return {name: torch.stack([own[name] for own in predicted]).mean(0) for name in batch}

    def spread(self, recording_id: str, frames: np.ndarray, behavior: np.ndarray | None = None) -> np.ndarray:
        """How far the members' rates lie apart: their standard deviation, (T, U) in Hz.

        Parameters
        ----------
        recording_id, frames, behavior : as :meth:`rates` takes them, at once.

        Raises
        ------
        ValueError
            As :meth:`rates`; and where they come piece by piece.
        """
        if isinstance(frames, Iterator) or isinstance(behavior, Iterator):
            raise ValueError("a spread is of a video at once; give frames and behavior as arrays, or a piece at a time")
        return np.stack([member.rates(recording_id, frames, behavior) for member in self.each]).std(0)

    def likelihood(self, recording_id: str) -> Likelihood:
        """The members' likelihood, whose parameters are the means of theirs; a copy."""
        theirs = [member.likelihood(recording_id) for member in self.each]
        states = [likelihood.state_dict() for likelihood in theirs]
        common = copy.deepcopy(theirs[0]).requires_grad_(False)
        common.load_state_dict({name: torch.stack([own[name] for own in states]).mean(0) for name in states[0]})
        return common

    @property
    def stride(self) -> int:
        return math.lcm(*(member.stride for member in self.each))

    def stream(self, recording_id: str, clip_length: int | None = None) -> Stream:
        """The mean of the members' streams.

        Raises
        ------
        ValueError
            Where a member has none, and for an unknown recording.
        """
        spec = self.spec(recording_id)
        streams = [member.stream(recording_id, clip_length) for member in self.each]
        self.eval()
        return Stream(spec, as_they_are, MemberStreams(streams), None, mean_counts, next(self.parameters()).device)

    def check_geometry(self, clip_length: int) -> None:
        for member in self.each:
            member.check_geometry(clip_length)

    def centers_px(self, recording_id: str) -> np.ndarray:
        """The mean of the places where the members look."""
        return np.stack([member.centers_px(recording_id) for member in self.each]).mean(0)

    def description(self) -> dict[str, Any]:
        return {
            "_target_": f"{Ensemble.__module__}.{Ensemble.__qualname__}",
            "members": [member.description() for member in self.each],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Ensemble:
        kinds: list[type[Predictor]] = [class_of("predictor", own.get("_target_")) for own in members_in(description)]
        if description.keys() != {"_target_", "members"} or any(issubclass(kind, Ensemble) for kind in kinds):
            raise ValueError("an ensemble's description has members, none of which is an ensemble, and no more")
        return cls([kind.from_description(own) for kind, own in zip(kinds, members_in(description), strict=True)])


def as_they_are(clips: Clips) -> tuple[Any, Any]:
    """Each member adapts a frame by itself."""
    return clips, None


class MemberStreams:
    """The members' streams, side by side.

    Parameters
    ----------
    streams : one a member.
    """

    def __init__(self, streams: list[Stream]) -> None:
        self.streams = streams

    def __call__(self, clips: Clips) -> list[Tensor]:
        """Each one's expected counts of the bin of this frame, (U,)."""
        return [stream.expected(clips) for stream in self.streams]


def mean_counts(counts: list[Tensor], clip: Clips) -> Tensor:
    return torch.stack(counts).mean(0)


def members_in(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models that a description consists of: those of an ensemble, or itself."""
    if "members" not in description:
        return [dict(description)]
    members = description["members"]
    if not isinstance(members, list) or not all(isinstance(own, dict) for own in members):
        raise ValueError("members is no list of dicts")
    return members


def check_members(members: Sequence[Predictor]) -> None:
    """Refuse models that are no ensemble; names what differs."""
    if len(members) < 2:
        raise ValueError(f"an ensemble has at least two members, not {len(members)}")
    if any(isinstance(member, Ensemble) for member in members):
        raise ValueError("a member of an ensemble is none itself; give the checkpoints of its members")
    for number, member in enumerate(members, 1):
        if member.observes is not None:
            raise ValueError(
                f"member {number} sees past counts (model.history), and members would have to be told them apart; take "
                "members of model/history=none"
            )
    first = members[0]
    for number, member in enumerate(members[1:], 2):
        if member.predict != first.predict:
            raise ValueError(
                f"member {number} predicts {member.predict} bins and the first {first.predict} (predict); one ensemble "
                "does one of both"
            )
        lacking = [name for name in first.specs if name not in member.specs]
        more = [name for name in member.specs if name not in first.specs]
        if lacking or more:
            said = [f"does not know {', '.join(lacking)}"] * bool(lacking) + [f"knows {', '.join(more)}"] * bool(more)
            raise ValueError(
                f"member {number} {' and '.join(said)} beside the recordings of the first; the members of an ensemble "
                "know the same recordings"
            )
        for name, spec in first.specs.items():
            check_alike(number, name, spec, member.specs[name])
            own, theirs = (what_is_fixed(model.likelihood(name)) for model in (first, member))
            if own != theirs:
                raise ValueError(
                    f"member {number} has the likelihood {theirs} and the first {own}; rates can be averaged where "
                    "they are of one kind: take members of one likelihood"
                )


def check_alike(number: int, name: str, first: RecordingSpec, member: RecordingSpec) -> None:
    """Refuse a member that knows a recording otherwise."""
    for field, (here, there) in first.differences(member, ALIKE).items():
        told = f"{here} and {there}"
        if field == "unit_ids":
            odd = [unit for unit in dict.fromkeys([*here, *there]) if (unit in here) != (unit in there)]
            told = f"{few(odd)} in one alone" if odd else "in another order"
        raise ValueError(
            f"recording {name}: the first member and member {number} differ in their {ALIKE[field]} ({told}); the "
            "members of an ensemble see the same and predict the same units: train them with the same settings of the "
            "data"
        )


def what_is_fixed(likelihood: Likelihood) -> str:
    """What of a likelihood is not learned, and says what its rates are."""
    fixed = {name: value for name, value in vars(likelihood).items() if isinstance(value, bool | int | float | str)}
    said = [f"{name}={value}" for name, value in fixed.items() if name not in ("training", "output")]
    return type(likelihood).__name__ + (f"({', '.join(said)})" if said else "")
