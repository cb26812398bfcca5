"""The linear-nonlinear baseline: one separable space-time filter a unit, then a point nonlinearity.

Shape letters: B clips, C channels, T bins (= frames), H W pixels, P pixels of a frame, U units, L lags.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from vivit_core.models.layers import inverse_softplus, normalized
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.predictor import Predict, Predictor, predict_in, recordings_in
from vivit_core.models.streaming import Stream
from vivit_core.parts.build import build
from vivit_core.specs import Batch, RecordingSpec


class LinearFilters(nn.Module):
    """A separable space-time filter for each unit of a recording.

    A unit sees a square window of ``patch`` pixels. Pixels of the window that lie outside the frame have zero contrast.

    Parameters
    ----------
    spec : of the recording.
    lags : frames that a filter reaches back over, the bin's own included.
    patch : side of a window, px.
    learned : whether the filters are parameters.
    """

    corner_U2: Tensor
    space_UP: Tensor
    time_UL: Tensor  # chronological: the last column weighs the bin's own frame

    def __init__(self, spec: RecordingSpec, lags: int, patch: int, learned: bool = True) -> None:
        super().__init__()
        self.spec, self.patch = spec, patch
        units, (_, height, width) = spec.n_units, spec.frame_shape
        for name, numbers in (("space_UP", patch * patch), ("time_UL", lags)):
            zeros = torch.zeros(units, numbers)
            if learned:
                self.register_parameter(name, nn.Parameter(zeros))
            else:
                self.register_buffer(name, zeros)
        middle = torch.tensor([height // 2 - patch // 2, width // 2 - patch // 2])
        self.register_buffer("corner_U2", middle.repeat(units, 1))  # (row, column) of the window's first pixel

    def contrast(self, frames_BCTHW: Tensor) -> Tensor:
        """Gray frames in units of the training trials' pixel standard deviation, mean zero; (B, T, H, W)."""
        shown = normalized(frames_BCTHW, self.spec.pixel_mean, self.spec.pixel_std)
        return shown[:, 0] if shown.shape[1] == 1 else reduce(shown, "b c t h w -> b t h w", "mean")

    def window_index(self) -> tuple[Tensor, Tensor]:
        """See :func:`window_index`."""
        return window_index(self.corner_U2, self.patch, self.spec.frame_shape[1:])

    def filters(self) -> Tensor:
        """Every unit's window laid into the frame, (U, P)."""
        return laid_into_frame(self.space_UP, self.corner_U2, self.patch, self.spec.frame_shape[1:])

    def filtered(self, frames_BCTHW: Tensor) -> Tensor:
        """What each unit's filter makes of each bin, (B, T, U); before the clip there was no contrast."""
        bins = frames_BCTHW.shape[2]
        pixels_BTP = rearrange(self.contrast(frames_BCTHW), "b t h w -> b t (h w)")
        # One product with all windows laid into the frame is faster than gathering every unit's pixels.
        filters_UP = self.filters()
        seen_BUT = rearrange(pixels_BTP @ filters_UP.T, "b t u -> b u t")
        lags = self.time_UL.shape[1]
        padded = nn.functional.pad(seen_BUT, (lags - 1, 0))
        time_U1L = rearrange(self.time_UL, "u l -> u 1 l")
        drive_BUT = nn.functional.conv1d(padded, time_U1L, groups=len(filters_UP))[..., :bins]
        return rearrange(drive_BUT, "b u t -> b t u")

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Takes frames (1, C, 1, H, W) one by one; gives what the filters make of the newest bin, (U,)."""
        filters_UP = self.filters()
        seen_LU = filters_UP.new_zeros(self.time_UL.shape[1], len(filters_UP))  # of the last frames, oldest first

        def advance(frame_BCTHW: Tensor) -> Tensor:
            nonlocal seen_LU
            now_U = filters_UP @ self.contrast(frame_BCTHW).flatten()
            seen_LU = torch.cat([seen_LU[1:], now_U[None]])
            return (seen_LU.T * self.time_UL).sum(1)

        return advance


LEAST_LOG, MOST_LOG = -20.0, 5.0  # what goes into an exponential: from 10⁻⁹ counts a bin to 150, or so many means


class LNReadout(LinearFilters):
    """The linear-nonlinear models of one recording's units.

    An exponential is bounded: at 150 counts a bin, or 150 times the mean count of the unit that has most.
    """

    range_U2: Tensor

    def __init__(self, spec: RecordingSpec, lags: int, patch: int, nonlinearity: Literal["exp", "softplus"]) -> None:
        super().__init__(spec, lags, patch)
        units = spec.n_units
        self.nonlinearity = nonlinearity
        mean_counts = torch.tensor(spec.unit_mean_counts, dtype=torch.float32).clamp_min(1e-6)
        self.linear_U = nn.Parameter(torch.ones(units))
        self.quadratic_U = nn.Parameter(torch.zeros(units))
        # Unfitted, it predicts each unit's mean.
        self.bias_U = nn.Parameter(mean_counts.log() if nonlinearity == "exp" else inverse_softplus(mean_counts))
        # The drive as seen in training; outside of it the quadratic is not known, so the drive is clamped to it.
        self.register_buffer("range_U2", torch.tensor([-torch.inf, torch.inf]).repeat(units, 1))
        self.most_log = MOST_LOG + math.log(max(1.0, *spec.unit_mean_counts))

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Expected counts a bin, (B, T, U)."""
        return self.rate(self.filtered(frames_BCTHW))

    def stream_rates(self) -> Callable[[Tensor], Tensor]:
        """Takes frames (1, C, 1, H, W) one by one; gives the expected counts of the newest bin, (U,)."""
        filtered = self.stream()
        return lambda frame_BCTHW: self.rate(filtered(frame_BCTHW))

    def rate(self, drive: Tensor) -> Tensor:
        """The point nonlinearity: (…, U) filter outputs to expected counts."""
        drive = drive.clamp(self.range_U2[:, 0], self.range_U2[:, 1])
        total = self.bias_U + self.linear_U * drive + self.quadratic_U * drive.square()
        if self.nonlinearity == "softplus":
            return nn.functional.softplus(total)
        return total.clamp(LEAST_LOG, self.most_log).exp()


class LN(Predictor):
    """A linear-nonlinear model of each unit of each recording.

    rate = f(bias + a s + q s²), s = Σ over lags and a window's pixels of time · space · contrast. Bin t sees frames
    up to and including t; frames before the clip have zero contrast. ``training.baseline.fit_ln`` fits it.

    Parameters
    ----------
    recordings : what the model knows of each recording.
    duration_s : length of the temporal filter, s; the number of lags follows from each recording's frame rate.
    patch : side of a unit's square window, px.
    nonlinearity : f.
    predict : every bin of the clip, (B, T, U), or only the newest, (B, U).

    Raises
    ------
    ValueError
        For a duration below one frame, or a window that is not an odd number of pixels.

    References
    ----------
    Chichilnisky (2001), A simple white noise analysis of neuronal light responses. Network 12:199-213.
    """

    sees_behavior = False

    def __init__(
        self,
        recordings: Sequence[RecordingSpec],
        duration_s: float,
        patch: int,
        nonlinearity: Literal["exp", "softplus"],
        predict: Predict = "all",
    ) -> None:
        super().__init__(recordings, predict)
        if patch < 1 or patch % 2 == 0:
            raise ValueError(
                f"LN's patch={patch} (model=ln: model.patch, else baseline.patch): a window has a middle pixel; give "
                "an odd number of pixels"
            )
        for spec in recordings:
            if lags_of(duration_s, spec) < 1:
                raise ValueError(
                    f"LN's duration_s={duration_s} (model=ln: model.duration_s, else baseline.duration_s): shorter "
                    f"than a frame of recording {spec.recording_id} "
                    f"({spec.frame_rate_hz} Hz); give at least {1 / spec.frame_rate_hz:.4f} s"
                )
        self.duration_s, self.patch, self.nonlinearity = duration_s, patch, nonlinearity
        self.readouts = nn.ModuleList(
            LNReadout(spec, lags_of(duration_s, spec), patch, nonlinearity) for spec in self.specs.values()
        )

    def readout(self, recording_id: str) -> LNReadout:
        """The models of one recording's units."""
        return cast(LNReadout, self.readouts[self.index(recording_id)])

    def likelihood(self, recording_id: str) -> Poisson:
        scatter = Poisson(self.specs[recording_id].unit_mean_counts, self.nonlinearity)
        scatter.scale_U = None  # LN's softplus gives counts as they are
        return scatter

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Expected counts a bin of each recording: (B, T, U), or (B, U) for ``predict="last"``."""
        counts = {recording_id: self.readout(recording_id)(clips["frames"]) for recording_id, clips in batch.items()}
        return counts if self.predict == "all" else {name: x_BTU[:, -1] for name, x_BTU in counts.items()}

    @torch.no_grad()
    def stream(self, recording_id: str, clip_length: int | None = None) -> Stream:
        own = self.readout(recording_id)
        rates = own.stream_rates()
        self.eval()
        return Stream(
            own.spec,
            lambda clips: (clips["frames"], clips["behavior"]),
            nn.Identity(),
            None,
            lambda maps, clip: rates(clip["frames"]),
            own.space_UP.device,
        )

    def centers_px(self, recording_id: str) -> np.ndarray:
        """The centers of gravity of the squared spatial filters."""
        own = self.readout(recording_id)
        index_UP, inside_UP = (x.cpu().numpy() for x in own.window_index())
        weight_UP = own.space_UP.detach().double().cpu().numpy() ** 2 * inside_UP
        total_U = weight_UP.sum(1)
        width = own.spec.frame_shape[2]
        with np.errstate(invalid="ignore"):
            x, y = ((weight_UP * place_UP).sum(1) / total_U for place_UP in (index_UP % width, index_UP // width))
        return np.stack([x, y], 1)

    def description(self) -> dict[str, Any]:
        return {
            "_target_": f"{type(self).__module__}.{type(self).__qualname__}",
            "recordings": [spec.to_dict() for spec in self.specs.values()],
            "duration_s": self.duration_s,
            "patch": self.patch,
            "nonlinearity": self.nonlinearity,
            "predict": self.predict,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> LN:
        node = {key: value for key, value in description.items() if key not in ("recordings", "predict")}
        recordings = [RecordingSpec.from_dict(values) for values in recordings_in(description)]
        model = build("baseline", node, recordings=recordings, predict=predict_in(description))
        assert isinstance(model, cls)
        return model


def window_index(corner_U2: Tensor, patch: int, frame_size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Each window's pixels as indices into the flat frame, and which of them lie inside it; both (U, patch²)."""
    height, width = frame_size
    step = torch.arange(patch, device=corner_U2.device)
    rows = rearrange(corner_U2[:, :1] + step, "u r -> u r 1")
    columns = rearrange(corner_U2[:, 1:] + step, "u c -> u 1 c")
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return rearrange(index, "u r c -> u (r c)"), rearrange(inside, "u r c -> u (r c)")


def laid_into_frame(space_UP: Tensor, corner_U2: Tensor, patch: int, frame_size: tuple[int, ...]) -> Tensor:
    """Windows (U, patch²), each at its place in a frame of zeros, (U, P)."""
    index, inside = window_index(corner_U2, patch, frame_size)
    return space_UP.new_zeros(len(index), math.prod(frame_size)).scatter_add(1, index, space_UP * inside)


def lags_of(duration_s: float, spec: RecordingSpec) -> int:
    """Frames in ``duration_s`` of a recording."""
    return round(duration_s * spec.frame_rate_hz)
