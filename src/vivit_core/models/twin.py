"""The twin: one core for all recordings, a readout for each.

    twin(batch) → expected counts a bin, for each recording in the batch

Shape letters: B clips, C channels, T bins, H W pixels, D behavior numbers, U units.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.checkpoint import read_checkpoint as read_checkpoint
from vivit_core.models.layers import missing, normalized
from vivit_core.models.readouts.gaussian import GaussianReadout
from vivit_core.models.streaming import Stream
from vivit_core.parts.build import build, part
from vivit_core.parts.schema import problems_of
from vivit_core.specs import Batch, Clips, RecordingSpec

FORMAT = "vivit-core twin 1"


MOST_RESIZED = 4  # sides of the common frame over those of the recordings', in what a checkpoint asks for


class Twin(nn.Module):
    """Video and behavior in, expected counts of every unit out.

    Parameters
    ----------
    model : plain dict of the model group: the core's ``_target_`` with its arguments, ``modulator`` (a node or None)
        and ``frame_size``
        (height and width to which every recording's frames are resized, or None where they all agree).
    readout : plain dict of the readout group.
    recordings : what is known of each recording; one readout each.
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
        recordings: Sequence[RecordingSpec],
        predict: Literal["all", "last"] = "all",
    ) -> None:
        super().__init__()
        self._description = {
            "format": FORMAT,
            "model": dict(model),
            "readout": dict(readout),
            "recordings": [spec.to_dict() for spec in recordings],
            "predict": predict,
        }
        self.specs = {spec.recording_id: spec for spec in recordings}
        if len(self.specs) != len(recordings) or not recordings:
            raise ValueError(f"a twin needs recordings with distinct ids; got {[s.recording_id for s in recordings]}")
        self.predict: Literal["all", "last"] = predict
        self.missing_values = 0  # of the last call of ``rates``
        self.frame_size = common_frame_size(model.get("frame_size"), recordings)
        behavior_dim = same("behaviors", {s.recording_id: s.behavior_dim for s in recordings}, "data.behavior")
        channels = same("channels", {s.recording_id: s.frame_shape[0] for s in recordings}, "the recordings")

        node = {key: value for key, value in model.items() if key not in ("modulator", "frame_size")}
        self.core = build("model", node, in_channels=channels)
        self.causal: bool = self.core.causal
        level_channels = list(self.core.level_channels)
        modulator = model.get("modulator")
        self.modulator = None
        if modulator is not None:
            sizes = {"channels": level_channels[-1], "behavior_dim": behavior_dim, "stride": self.core.stride}
            self.modulator = build("model.modulator", modulator, **sizes)
            level_channels = [*self.modulator.extra_channels, *level_channels]
        make = part("readout", readout)
        self.readouts = nn.ModuleList(
            make(channels=level_channels, frame_size=self.frame_size, mean_counts=spec.unit_mean_counts)
            for spec in recordings
        )

    @property
    def heads(self) -> list[GaussianReadout]:
        """The readouts, in the order of ``specs``."""
        return cast(list[GaussianReadout], list(self.readouts))

    def readout(self, recording_id: str) -> GaussianReadout:
        return self.heads[self._index(recording_id)]

    def _index(self, recording_id: str) -> int:
        if recording_id not in self.specs:
            raise ValueError(f"this twin has no readout for recording {recording_id!r}; it knows {list(self.specs)}")
        return list(self.specs).index(recording_id)

    def adapt(self, recording_id: str, clips: Clips) -> tuple[Tensor, Tensor]:
        """Frames and behavior of one recording, normalized with its training statistics, at the common frame size.

        A missing value (NaN or infinite) is at its mean.
        """
        spec = self.specs[recording_id]
        frames = normalized(clips["frames"], spec.pixel_mean, spec.pixel_std)
        if tuple(frames.shape[-2:]) != self.frame_size:
            flat = F.interpolate(
                frames.flatten(0, 2)[:, None], self.frame_size, mode="bilinear", antialias=True, align_corners=False
            )
            frames = flat.view(*frames.shape[:3], *self.frame_size)
        behavior = clips["behavior"].float()
        if spec.behavior_dim:
            mean, std = behavior.new_tensor(spec.behavior_mean), behavior.new_tensor(spec.behavior_std)
            behavior = normalized(behavior, mean, std)
        return frames, behavior

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Expected counts a bin: (B, T, U) for each recording, or (B, U) for ``predict="last"``."""
        adapted = {rid: self.adapt(rid, clips) for rid, clips in batch.items()}
        frames = torch.cat([frames for frames, _ in adapted.values()])
        behavior = torch.cat([behavior for _, behavior in adapted.values()])
        bins = frames.shape[2]
        levels = self.core(frames)
        if self.modulator is not None:
            levels = self.modulator(levels, behavior)
        counts, row = {}, 0
        for rid, (own, _) in adapted.items():
            rows = slice(row, row := row + own.shape[0])
            mine = [level.rows(rows) for level in levels]
            counts[rid] = self.readout(rid)(mine, bins, last=self.predict == "last")
        return counts

    @torch.no_grad()
    def rates(self, recording_id: str, frames: np.ndarray, behavior: np.ndarray | None = None) -> np.ndarray:
        """Predicted rates of a stretch of video, in one pass.

        Time runs in the model's bins (``specs[recording_id].frame_rate_hz``), and frames and behavior are what
        ``data.transforms`` makes of the recording's (read by
        :class:`vivit_core.data.resample.ResampledRecording`).

        Parameters
        ----------
        recording_id : whose units.
        frames : (T, H, W) or (C, T, H, W), pixel values as the recording has them, not normalized. A value that is
            missing (NaN or infinite), here or in ``behavior``, is at its mean; ``missing_values`` counts such values
            of the last call, and a warning says so.
        behavior : (T, D) in the order of ``specs[recording_id].behavior``, not normalized; None where there is none.

        Returns
        -------
        (T, U) in Hz, or (U,) for ``predict="last"``.

        Raises
        ------
        ValueError
            For an unknown recording, and frames or behavior of a wrong shape.
        """
        spec = self.specs[recording_id] if recording_id in self.specs else self._index(recording_id)
        assert isinstance(spec, RecordingSpec)
        video = torch.as_tensor(np.asarray(frames))
        video = video[None] if video.dim() == 3 else video
        if video.dim() != 4 or (video.shape[0], *video.shape[2:]) != spec.frame_shape:
            channels, height, width = spec.frame_shape
            raise ValueError(
                f"recording {recording_id} has frames of shape {spec.frame_shape} (channels, height, width): "
                f"give ({channels}, bins, {height}, {width}), not {tuple(video.shape)}"
            )
        bins = video.shape[1]
        given = np.zeros((bins, 0), np.float32) if behavior is None else np.asarray(behavior, np.float32)
        if given.shape != (bins, spec.behavior_dim):
            raise ValueError(
                f"recording {recording_id} needs behavior of shape ({bins}, {spec.behavior_dim}) "
                f"for {spec.behavior}, not {given.shape}"
            )
        device = next(self.parameters()).device
        training = self.training
        self.eval()
        clips = Clips(frames=video[None].to(device), behavior=torch.as_tensor(given)[None].to(device))
        self.missing_values = missing(clips["frames"]) + missing(clips["behavior"])
        if self.missing_values:
            warnings.warn(
                f"recording {recording_id}: {self.missing_values} pixels or numbers of behavior are missing (NaN or "
                "infinite); their means stand in",
                stacklevel=2,
            )
        counts = self({recording_id: clips})[recording_id][0]
        self.train(training)
        return (counts * spec.frame_rate_hz).cpu().numpy()

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
        readout = self.readout(recording_id).stream()
        self.eval()
        old = 0 if clip_length is None else -clip_length % self.core.stride
        return Stream(
            self.specs[recording_id],
            partial(self.adapt, recording_id),
            self.core.stream(old),
            self.modulator.stream(old) if self.modulator is not None else None,
            readout,
            next(self.parameters()).device,
        )

    def penalty(self) -> Tensor:
        """The regularizers of all parts, already weighted; the readouts' is a mean over recordings."""
        total = torch.stack([head.penalty() for head in self.heads]).mean() + self.core.penalty()
        return total if self.modulator is None else total + self.modulator.penalty()

    def set_progress(self, fraction: float) -> None:
        """Tell the readouts which part of the training is done (0 to 1), for their schedules."""
        for head in self.heads:
            head.set_progress(fraction)

    def readout_gaussians(self, recording_id: str) -> dict[str, np.ndarray]:
        """``mean_px`` (U, 2) as x, y; ``std_px`` (U, 2); ``angle_deg`` (U,), on the common frame."""
        return {name: value.cpu().numpy() for name, value in self.readout(recording_id).gaussians().items()}

    def check_geometry(self, clip_length: int) -> None:
        """Raise ValueError, with a remedy, where a clip of this many frames does not fit the core."""
        self.core.check_geometry(clip_length, *self.frame_size)

    def description(self) -> dict[str, Any]:
        """Primitives from which ``from_description`` makes the same twin (without its weights)."""
        return self._description

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Twin:
        if description.get("format") != FORMAT:
            raise ValueError(
                f"this checkpoint holds {str(description.get('format'))[:40]!r}, not {FORMAT!r}; it was not "
                "written by this version"
            )
        known = {"format", "model", "readout", "recordings", "predict"}
        if description.keys() != known:
            raise ValueError(f"a twin's description has {sorted(known)}, and this one {sorted(description)}")
        if description["predict"] not in ("all", "last"):
            raise ValueError(f"predict={str(description['predict'])[:40]} should be 'all' or 'last'")
        problems = problems_of("model", description["model"]) + problems_of("readout", description["readout"])
        if problems:
            raise ValueError("; ".join(problems))
        recordings = [RecordingSpec.from_dict(values) for values in recordings_in(description)]
        return cls(description["model"], description["readout"], recordings, description["predict"])


def recordings_in(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The recordings that a description lists, as dicts."""
    recordings = description.get("recordings")
    if not isinstance(recordings, list) or not all(isinstance(values, dict) for values in recordings):
        raise ValueError("recordings is no list of dicts")
    return recordings


def common_frame_size(wanted: Sequence[int] | None, recordings: Sequence[RecordingSpec]) -> tuple[int, int]:
    sizes = {spec.recording_id: spec.frame_shape[1:] for spec in recordings}
    if wanted is not None:
        if len(wanted) != 2 or min(wanted) < 1:
            raise ValueError(
                f"model.frame_size={list(wanted)} must be two positive numbers, [height,width] in px, or null"
            )
        return int(wanted[0]), int(wanted[1])
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"recordings have frames of different sizes {sizes}; set "
            "model.frame_size=[height,width] to bring them to one"
        )
    height, width = recordings[0].frame_shape[1:]
    return height, width


def same(what: str, values: dict[str, int], where: str) -> int:
    if len(set(values.values())) > 1:
        raise ValueError(
            f"recordings differ in their number of {what}: {values}; one core needs the same for all (see {where})"
        )
    return next(iter(values.values()))
