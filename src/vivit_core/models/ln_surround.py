"""LN with a surround: the linear-nonlinear model, divided by the contrast energy around its center.

What is around counts alike, whatever its orientation and wherever it moves: the classical model of the surround, beside
which a comparison of places has to show its worth.

Shape letters: B clips, C channels, T bins (= frames), H W pixels, J places at which energy is seen, U units, R rings, G
time constants, K = R · G features of the gain, N frames of all clips, X = U · R.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.ln import LN, LNReadout, lags_of
from vivit_core.models.own_filter import BEND, MOST, slow_means
from vivit_core.models.predictor import Predict
from vivit_core.specs import RecordingSpec

STD_PX = 1.5  # of the blur before contrast is measured
REACH = 3.0  # standard deviations from a slope's middle to its border
APART = 2  # px from one place to the next


class SurroundReadout(LNReadout):
    """The models of one recording's units."""

    slopes: Tensor
    keep_G: Tensor
    usual_UR: Tensor

    def __init__(
        self,
        spec: RecordingSpec,
        lags: int,
        patch: int,
        nonlinearity: Literal["exp", "softplus"],
        ring_px: Sequence[float],
        tau_s: Sequence[float],
    ) -> None:
        super().__init__(spec, lags, patch, nonlinearity)
        at = torch.arange(-math.ceil(REACH * STD_PX), math.ceil(REACH * STD_PX) + 1) / STD_PX
        blur = torch.exp(-at.square() / 2)
        slope_HW = (at * blur)[:, None] * blur
        slopes = torch.stack([slope_HW, slope_HW.T])[:, None] / slope_HW.norm()
        self.register_buffer("slopes", slopes, persistent=False)
        self.register_buffer("keep_G", torch.exp(-1 / (torch.tensor(tau_s) * spec.frame_rate_hz)), persistent=False)
        self.register_buffer("usual_UR", torch.zeros(spec.n_units, len(ring_px)))  # one over a mean; 0: none is known
        self.ring_px = tuple(ring_px)
        self.gain_UK = nn.Parameter(torch.zeros(spec.n_units, len(ring_px) * len(tau_s)))

    def rings(self) -> Tensor:
        """How much each place counts in each ring around each unit, (U · R, J): alike within, together one."""
        _, height, width = self.spec.frame_shape
        device = self.corner_U2.device
        y_J, x_J = torch.cartesian_prod(
            torch.arange(0, height, APART, device=device), torch.arange(0, width, APART, device=device)
        ).T
        center_U2 = self.corner_U2 + self.patch // 2
        away_UJ = torch.hypot((y_J - center_U2[:, :1]).float(), (x_J - center_U2[:, 1:]).float())
        edges = (-1.0, *self.ring_px)
        within_URJ = torch.stack([(away_UJ > low) & (away_UJ <= high) for low, high in pairwise(edges)], dim=1)
        counted_URJ = within_URJ.float()
        return (counted_URJ / counted_URJ.sum(2, keepdim=True).clamp_min(1)).flatten(0, 1)

    def energy(self, frames_BCTHW: Tensor, rings_XJ: Tensor) -> Tensor:
        """Contrast energy in each ring as it is in each bin, (B, T, U, R): the square of the contrast's slope."""
        x = rearrange(self.contrast(frames_BCTHW), "b t h w -> (b t) 1 h w")
        half = self.slopes.shape[-1] // 2
        x = F.pad(x, (half, half, half, half), mode="replicate")  # the frame's border is no edge
        seen_NJ = F.conv2d(x, self.slopes, stride=APART).square().sum(1).flatten(1)
        return (seen_NJ @ rings_XJ.T).view(len(frames_BCTHW), -1, *self.usual_UR.shape)

    def features(self, faded_URG: Tensor) -> Tensor:
        """What faded energies (…, U, R, G) are to the gain, (…, U, K)."""
        return torch.log1p(BEND * (faded_URG * self.usual_UR[:, :, None]).clamp_max(MOST)).flatten(-2)

    def faded(self, frames_BCTHW: Tensor) -> Tensor:
        """Energies of clips as the bins before leave them, (B, T, U, R, G)."""
        energy_BTX = self.energy(frames_BCTHW, self.rings()).flatten(2)
        return slow_means(energy_BTX, self.keep_G).unflatten(2, self.usual_UR.shape)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Expected counts a bin, (B, T, U)."""
        log_gain_BTU = (self.features(self.faded(frames_BCTHW)) * self.gain_UK).sum(-1)
        return super().forward(frames_BCTHW) * log_gain_BTU.exp()

    def stream_rates(self) -> Callable[[Tensor], Tensor]:
        driven, rings_XJ = super().stream_rates(), self.rings()
        faded_URG = torch.zeros(*self.usual_UR.shape, len(self.keep_G), device=rings_XJ.device)

        def advance(frame_BCTHW: Tensor) -> Tensor:
            nonlocal faded_URG
            now_UR = self.energy(frame_BCTHW, rings_XJ)[0, 0]
            faded_URG = self.keep_G * faded_URG + (1 - self.keep_G) * now_UR[:, :, None]
            return driven(frame_BCTHW) * (self.features(faded_URG) * self.gain_UK).sum(-1).exp()

        return advance


class SurroundLN(LN):
    """A linear-nonlinear model of each unit, times a gain from the contrast energy in rings around its center.

    rate = f(bias + a s + q s²) · exp(Σ w log(1 + 3 e)), with s as in :class:`LN`, and e the mean energy in a ring that
    fades with a time constant, in units of its mean in the training trials: one weight w for each ring and each time
    constant. Where w is below zero this is a division by a power of the energy (normalization: Heeger 1992; a surround
    of its own strength: Cavanaugh, Bair & Movshon 2002). Energy is that of the contrast's slope, in all directions
    alike. ``training.surround.fit_surround_ln`` fits it.

    Parameters
    ----------
    recordings, duration_s, patch, nonlinearity, predict : of :class:`LN`.
    ring_px : outer radii of the rings around a unit's center, px; each begins where the one before ends.
    tau_s : times in which energies fade to a part of 1/e, s.

    Raises
    ------
    ValueError
        For radii that do not grow, and times that are none; and as :class:`LN`.
    """

    def __init__(
        self,
        recordings: Sequence[RecordingSpec],
        duration_s: float,
        patch: int,
        nonlinearity: Literal["exp", "softplus"],
        ring_px: list[float],
        tau_s: list[float],
        predict: Predict = "all",
    ) -> None:
        super().__init__(recordings, duration_s, patch, nonlinearity, predict)
        if not ring_px or any(not low < high for low, high in pairwise([0.0, *ring_px, math.inf])):
            raise ValueError(f"model.ring_px={ring_px}: give radii above 0 that grow, at least one")
        if not tau_s or not 0 < min(tau_s) <= max(tau_s) < math.inf:
            raise ValueError(f"model.tau_s={tau_s}: give times above 0, at least one")
        self.ring_px, self.tau_s = list(ring_px), list(tau_s)
        self.readouts = nn.ModuleList(
            SurroundReadout(spec, lags_of(duration_s, spec), patch, nonlinearity, ring_px, tau_s)
            for spec in self.specs.values()
        )

    def readout(self, recording_id: str) -> SurroundReadout:
        return cast(SurroundReadout, super().readout(recording_id))

    def description(self) -> dict[str, Any]:
        return super().description() | {"ring_px": self.ring_px, "tau_s": self.tau_s}
