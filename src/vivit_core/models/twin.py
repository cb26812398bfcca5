"""The twin: one core for all recordings, a readout and a likelihood for each.

    twin(batch) → expected counts a bin, for each recording in the batch

Shape letters: B clips, C channels, T bins, H W pixels, D behavior numbers, U units.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.models.cores.base import Core
from vivit_core.models.frames import common_frame_size, resized, same, shifted
from vivit_core.models.histories.base import History, Past
from vivit_core.models.latents.base import Latent
from vivit_core.models.layers import as_numbers, normalized
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.likelihoods.loss import counted
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.modulators.base import Modulator
from vivit_core.models.own_filter import OwnFilters
from vivit_core.models.predictor import Predict, Predictor, predict_in, recordings_in
from vivit_core.models.readouts.base import Drive, Readout
from vivit_core.models.shifters.base import Shifter, behavior_columns
from vivit_core.models.streaming import Stream
from vivit_core.parts.build import build, part
from vivit_core.parts.groups import BESIDE_THE_CORE, class_of
from vivit_core.parts.schema import problems_of
from vivit_core.specs import Batch, Clips, RecordingSpec

MOST_RESIZED = 4  # sides of the common frame over those of the recordings', in what a checkpoint asks for


class Twin(Predictor):
    """Video and behavior in, expected counts of every unit out.

    Parameters
    ----------
    model : plain dict of the model group: the core's ``_target_`` with its arguments, ``own_filter``, ``modulator``,
        ``history``, ``latent`` and ``shifter`` (nodes or None) and ``frame_size``
        (height and width to which every recording's frames are resized, or None where they all agree).
    readout, likelihood : plain dicts of those groups.
    recordings : what is known of each recording; one readout and one likelihood each.
    predict : "all" for every bin of a clip, "last" for the newest alone.

    Raises
    ------
    ValueError
        Where recordings do not fit one core (channels, frame sizes, behaviors), or the model's numbers do not fit
        each other.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        readout: Mapping[str, Any],
        likelihood: Mapping[str, Any],
        recordings: Sequence[RecordingSpec],
        predict: Predict = "all",
    ) -> None:
        super().__init__(recordings, predict)
        self._description = {
            "_target_": f"{Twin.__module__}.{Twin.__qualname__}",
            "model": dict(model),
            "readout": dict(readout),
            "likelihood": dict(likelihood),
            "recordings": [spec.to_dict() for spec in recordings],
            "predict": predict,
        }
        self.frame_size = common_frame_size(model.get("frame_size"), recordings)
        behavior_dim = same("behaviors", {s.recording_id: s.behavior_dim for s in recordings}, "data.behavior")
        channels = same("channels", {s.recording_id: s.frame_shape[0] for s in recordings}, "the recordings")

        node = {key: value for key, value in model.items() if key not in (*BESIDE_THE_CORE, "frame_size")}
        core = build("model", node, in_channels=channels)
        if not isinstance(core, Core):
            raise ValueError(f"a twin is made around a core, and {type(core).__name__} is none; set model=vivit_small")
        self.core = core
        self.causal = core.causal
        map_channels = list(core.map_channels)
        modulator = model.get("modulator")
        self.modulator: Modulator | None = None
        if modulator is not None:
            sizes = {"channels": map_channels[-1], "behavior_dim": behavior_dim, "stride": core.stride}
            self.modulator = build("model.modulator", modulator, **sizes)
            map_channels = [*self.modulator.extra_channels, *map_channels]
        scatter, read = part("likelihood", likelihood), part("readout", readout)
        self.likelihoods = nn.ModuleList(scatter(mean_counts=spec.unit_mean_counts) for spec in recordings)
        placed = class_of("readout", readout["_target_"]).needs_positions
        self.readouts = nn.ModuleList(
            read(
                channels=map_channels,
                frame_size=self.frame_size,
                mean_drive=self.likelihood(spec.recording_id).mean_drive(),
                **({"position_um": positions_of(spec)} if placed else {}),
            )
            for spec in recordings
        )
        self.own_filters: nn.ModuleList | None = None
        if (own_filter := model.get("own_filter")) is not None:
            linear = part("model.own_filter", own_filter)
            self.own_filters = nn.ModuleList(linear(spec=spec) for spec in recordings)
        self.histories: nn.ModuleList | None = None
        if (history := model.get("history")) is not None:
            remember = part("model.history", history)
            self.histories = nn.ModuleList(remember(mean_counts=spec.unit_mean_counts) for spec in recordings)
            self.observes = self.history(recordings[0].recording_id).observed

        self.latents: nn.ModuleList | None = None
        if (latent := model.get("latent")) is not None:
            if predict != "all" or not all(isinstance(own, Poisson) for own in self.likelihoods):
                raise ValueError(
                    "model.latent says how Poisson counts of a clip's bins belong together: set likelihood=poisson and "
                    "predict=all, or model/latent=none"
                )
            share = part("model.latent", latent)
            self.latents = nn.ModuleList(share(mean_counts=spec.unit_mean_counts) for spec in recordings)
        self.shifters: nn.ModuleList | None = None
        if (shifter := model.get("shifter")) is not None:
            self.eyes = {spec.recording_id: behavior_columns(spec, shifter["behavior"]) for spec in recordings}
            shift = part("model.shifter", shifter)
            self.shifters = nn.ModuleList(shift(numbers=spec.behavior[shifter["behavior"]]) for spec in recordings)
        self.sees_behavior = self.modulator is not None or self.shifters is not None

    @property
    def kind(self) -> str:
        """The core's class."""
        return type(self.core).__name__

    @property
    def stride(self) -> int:
        return self.core.stride

    def readout(self, recording_id: str) -> Readout:
        return cast(Readout, self.readouts[self.index(recording_id)])

    def likelihood(self, recording_id: str) -> Likelihood:
        return cast(Likelihood, self.likelihoods[self.index(recording_id)])

    def history(self, recording_id: str) -> History:
        """Of a twin that ``observes``."""
        assert self.histories is not None
        return cast(History, self.histories[self.index(recording_id)])

    def shifter(self, recording_id: str) -> Shifter:
        """Of a twin that has one for each recording."""
        assert self.shifters is not None
        return cast(Shifter, self.shifters[self.index(recording_id)])

    def own_filter(self, recording_id: str) -> OwnFilters | None:
        return None if self.own_filters is None else cast(OwnFilters, self.own_filters[self.index(recording_id)])

    def latent(self, recording_id: str) -> Latent | None:
        return None if self.latents is None else cast(Latent, self.latents[self.index(recording_id)])

    def more_nats(self, predicted: Mapping[str, Tensor], batch: Batch, burn_in: int) -> Tensor | float:
        """What the counts of a batch cost together, less what they cost one by one; 0 without a latent."""
        if self.latents is None:
            return 0.0
        own = [
            cast(Latent, self.latent(name)).more_nats(*counted(rate, batch[name], burn_in))
            for name, rate in predicted.items()
        ]
        return torch.stack(own).sum()

    def adapt(self, recording_id: str, clips: Clips) -> tuple[Tensor, Tensor]:
        """Frames and behavior of one recording, normalized with its training statistics, frames shifted and at the
        common frame size.

        A missing value (NaN or infinite) is at its mean.
        """
        spec = self.specs[recording_id]
        frames = normalized(clips["frames"], spec.pixel_mean, spec.pixel_std)
        behavior = self.normalized_behavior(recording_id, clips["behavior"])
        if self.shifters is not None:
            frames = shifted(frames, self.shift(recording_id, behavior))
        if tuple(frames.shape[-2:]) != self.frame_size:
            frames = resized(frames, self.frame_size)
        return frames, behavior

    def seen(self, recording_id: str, clips: Clips) -> Tensor:
        """Frames of one recording as its units' windows look at them, in the recording's own size and pixels: shifted
        by eye position where the twin has a shifter. What own filters see."""
        if self.shifters is None:
            return clips["frames"]
        spec = self.specs[recording_id]
        frames = normalized(clips["frames"], spec.pixel_mean, spec.pixel_std)  # a missing value is at its mean
        behavior = self.normalized_behavior(recording_id, clips["behavior"])
        return shifted(frames, self.shift(recording_id, behavior)) * spec.pixel_std + spec.pixel_mean

    def normalized_behavior(self, recording_id: str, behavior_BTD: Tensor) -> Tensor:
        spec, behavior = self.specs[recording_id], behavior_BTD.float()
        if not spec.behavior_dim:
            return behavior
        mean, std = behavior.new_tensor(spec.behavior_mean), behavior.new_tensor(spec.behavior_std)
        return normalized(behavior, mean, std)

    def shift(self, recording_id: str, behavior_BTD: Tensor) -> Tensor:
        """Of a twin with a shifter: what normalized behavior shifts windows by, (B, T, 2) px to the right and down."""
        shift: Tensor = self.shifter(recording_id)(behavior_BTD[..., self.eyes[recording_id]])
        return shift

    @torch.no_grad()
    def shift_px(self, recording_id: str, behavior: np.ndarray) -> np.ndarray:
        """How far a recording's units look to the right and down of where they look at the mean eye position.

        Parameters
        ----------
        recording_id : whose units.
        behavior : (T, D) raw values, as for ``rates``.

        Returns
        -------
        (T, 2) x and y, in pixels of the recording's frames; zeros without a shifter.
        """
        if self.shifters is None:
            return np.zeros((len(behavior), 2), np.float32)
        given = torch.as_tensor(as_numbers(behavior, "behavior"), device=next(self.parameters()).device)[None]
        shift: np.ndarray = self.shift(recording_id, self.normalized_behavior(recording_id, given))[0].cpu().numpy()
        return shift

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Expected counts a bin: (B, T, U) for each recording, or (B, U) for ``predict="last"``."""
        drives = self.drives(batch, self.predict == "last")
        return {rid: self.rate(rid, drive, batch[rid]) for rid, drive in drives.items()}

    def drives(self, batch: Batch, last: bool) -> dict[str, Drive]:
        """What video and behavior make of each recording's units, without past counts: of all bins, or of the last."""
        adapted = {rid: self.adapt(rid, clips) for rid, clips in batch.items()}
        frames = torch.cat([frames for frames, _ in adapted.values()])
        behavior = torch.cat([behavior for _, behavior in adapted.values()])
        bins = frames.shape[2]
        maps = self.core(frames)
        if self.modulator is not None:
            maps = self.modulator(maps, behavior)
        clips = [own.shape[0] for own, _ in adapted.values()]
        theirs = zip(*(feature_map.split(clips) for feature_map in maps), strict=True)
        drives = {}
        for rid, mine in zip(adapted, theirs, strict=True):
            drives[rid] = self.readout(rid)(list(mine), bins, last=last)
            if (own := self.own_filter(rid)) is not None:
                added = own(self.seen(rid, batch[rid]))
                drives[rid] = drives[rid].plus(added.newest() if last else added)
        return drives

    def rate(self, recording_id: str, drive: Drive, clips: Clips) -> Tensor:
        """Expected counts, from what readouts and, where past counts are seen, the history make of clips."""
        likelihood, observed_BU = self.likelihood(recording_id), clips.get("observed")
        if self.histories is None:
            return likelihood.rate(*drive)
        history = self.history(recording_id)
        if not self.training and self.feedback != "none":
            return self.fed(recording_id, drive, clips)
        if self.training and observed_BU is None and "counts" in clips:
            observed_BU = history.drawn(len(clips["counts"])).to(clips["counts"].device)
        if observed_BU is None:
            return likelihood.rate(*drive)
        log_gain = history(clips["counts"], clips["valid"] & observed_BU[:, None])
        return likelihood.rate(*drive.with_gain(log_gain[:, -1] if self.predict == "last" else log_gain))

    def fed(self, recording_id: str, drive: Drive, clips: Clips) -> Tensor:
        """The same bin by bin, where the twin's own counts stand in for those that nobody observed."""
        if self.predict == "last":
            raise ValueError(f"history={self.feedback} goes on from each bin's rates, and predict=last gives no others")
        past = self.past(recording_id, clips=len(drive.value))
        counts = None
        if "observed" in clips:
            known = clips["valid"] & clips["observed"][:, None]
            counts = torch.where(known, clips["counts"], torch.nan)
        rates = []
        for t in range(drive.value.shape[1]):
            rates.append(past.rate(drive.each(itemgetter((slice(None), t)))))
            past.observe(None if counts is None else counts[:, t])
        return torch.stack(rates, dim=1)

    def past(self, recording_id: str, clips: int = 1) -> Past:
        """Before the first bin of clips, nothing was counted."""
        seed = (self.seed, zlib.crc32(recording_id.encode()))
        return Past(self.history(recording_id), self.likelihood(recording_id), self.feedback, seed, clips)

    def stream(self, recording_id: str, clip_length: int | None = None) -> Stream:
        """Predict one recording bin by bin, endlessly; the twin is put into evaluation.

        Parameters
        ----------
        recording_id : whose units.
        clip_length : bins of the clip that is to be reproduced. It matters only where that is no multiple of the
            tokens' frames: a clip is padded at its old end, so that its first token ends early, while a stream, whose
            end nobody knows, begins with a whole token.

        Raises
        ------
        ValueError
            For an acausal twin and an unknown recording.
        """
        read, likelihood = self.readout(recording_id).stream(), self.likelihood(recording_id)
        past = None if self.histories is None else self.past(recording_id)

        own = self.own_filter(recording_id)
        filtered = None if own is None else own.stream()

        def counts(maps: Any, clip: Clips) -> Tensor:
            drive = read(maps)
            if filtered is not None:
                drive = drive.plus(filtered(self.seen(recording_id, clip)))
            if past is None:
                return likelihood.rate(*drive)
            return past.rate(drive.each(lambda x: x[None]))[0]

        self.eval()
        old = 0 if clip_length is None else -clip_length % self.core.stride
        return Stream(
            self.specs[recording_id],
            partial(self.adapt, recording_id),
            self.core.stream(old),
            self.modulator.stream(old) if self.modulator is not None else None,
            counts,
            next(self.parameters()).device,
            past,
        )

    def regularizer(self) -> Tensor:
        """The regularizers of all parts, already weighted; the readouts' is a mean over recordings."""
        own = [self.readout(recording_id).regularizer() for recording_id in self.specs]
        total = torch.stack(own).mean() + self.core.regularizer()
        return total if self.modulator is None else total + self.modulator.regularizer()

    def set_progress(self, fraction: float) -> None:
        for recording_id in self.specs:
            self.readout(recording_id).set_progress(fraction)

    def centers_px(self, recording_id: str) -> np.ndarray:
        """The readout's centers."""
        centers = self.readout(recording_id).centers()
        if centers is None:
            return super().centers_px(recording_id)
        return (centers.cpu().numpy() + 0.5) * self.scale(recording_id) - 0.5

    def gaussians_px(self, recording_id: str) -> dict[str, np.ndarray] | None:
        gaussians = self.readout(recording_id).gaussians()
        if gaussians is None:
            return None
        found = {name: value.cpu().numpy() for name, value in gaussians.items()}
        return {
            "mean_px": (found["mean_px"] + 0.5) * self.scale(recording_id) - 0.5,
            "std_px": found["std_px"] * self.scale(recording_id).mean(),
            "angle_deg": found["angle_deg"],
        }

    def scale(self, recording_id: str) -> np.ndarray:
        """Pixels of a recording's own frame in one of the common frame, (2,) across and down."""
        _, height, width = self.specs[recording_id].frame_shape
        return np.array([width / self.frame_size[1], height / self.frame_size[0]])

    def check_geometry(self, clip_length: int) -> None:
        self.core.check_geometry(clip_length, *self.frame_size)

    def description(self) -> dict[str, Any]:
        return self._description

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Twin:
        known = {"_target_", "model", "readout", "likelihood", "recordings", "predict"}
        if description.keys() != known:
            raise ValueError(f"a twin's description has {sorted(known)}, and this one {sorted(description)}")
        nodes = {name: description[name] for name in ("model", "readout", "likelihood")}
        if problems := [problem for name, node in nodes.items() for problem in problems_of(name, node)]:
            raise ValueError("; ".join(problems))
        recordings = [RecordingSpec.from_dict(values) for values in recordings_in(description)]
        twin = cls(**nodes, recordings=recordings, predict=predict_in(description))
        largest = max(max(spec.frame_shape[1:]) for spec in recordings)
        if max(twin.frame_size) > MOST_RESIZED * largest:
            raise ValueError(
                f"model.frame_size={list(twin.frame_size)} is over {MOST_RESIZED} times the recordings' {largest} px"
            )
        return twin


def positions_of(spec: RecordingSpec) -> Tensor:
    """Where a recording's units lie, (U, 2 or 3), micrometers.

    Raises
    ------
    ValueError
        Where it does not say.
    """
    if not spec.unit_position_um:
        raise ValueError(
            f"recording {spec.recording_id} does not say where its units lie, from which this readout predicts where "
            "they look; write it into the file as units/position_um, or take readout=gaussian"
        )
    return torch.tensor(spec.unit_position_um)
