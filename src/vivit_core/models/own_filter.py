"""Each unit's own linear filter, which the baseline found, as a part of what drives it.

Shape letters: B clips, C channels, T bins, H W pixels, U units, K features of a filter's response.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.ln import LinearFilters, lags_of
from vivit_core.specs import RecordingSpec

KNEE = 3.0  # of a response's standard deviations, up to which its features follow it linearly is one over this


class OwnFilters(nn.Module):
    """What the linear baseline knows of a recording's units, for a twin to begin with.

    A twin's units share the core's features, and each looks at them through one window. So a unit that wants a filter
    of its own shape has to wait until the core has learned one like it. But the linear baseline (LN), which every
    training fits first, has found each unit's filter already. Its response s goes into the drive of the unit through a
    curve that the training learns: four weights, of the two halves of u = asinh(s) and of their squares, so that with a
    softplus or an exponential behind it, the rate may follow any power of s.

    The filters themselves do not learn: they are LN's, from the training trials, chosen on the validation trials. The
    core explains what they leave.

    Parameters
    ----------
    spec : of the recording, given by the twin.
    duration_s : length of the temporal filters, s.
    patch : side of a unit's window, px; odd.
    """

    FEATURES = 4
    scale_U: Tensor

    def __init__(self, spec: RecordingSpec, duration_s: float, patch: int) -> None:
        super().__init__()
        self.linear = LinearFilters(spec, max(1, lags_of(duration_s, spec)), patch)
        self.linear.requires_grad_(False)
        self.register_buffer("scale_U", torch.zeros(spec.n_units))  # one over a response's deviation; 0: no filter
        self.weight = nn.Parameter(torch.zeros(spec.n_units, self.FEATURES))

    @torch.no_grad()
    def initialize(self, found: LinearFilters, frames_BCTHW: Tensor) -> None:
        """Take over filters, and the size of their responses to some frames."""
        own = self.linear
        lags, cut = own.time_UL.shape[1], (found.patch - own.patch) // 2
        time_UL = found.time_UL[:, -lags:]
        own.time_UL.copy_(F.pad(time_UL, (lags - time_UL.shape[1], 0)))
        space_UPP = found.space_UP.unflatten(1, (found.patch, found.patch))
        own.space_UP.copy_(F.pad(space_UPP, (-cut, -cut, -cut, -cut)).flatten(1))
        own.corner_U2.copy_(found.corner_U2 + cut)
        deviation_U = own.filtered(frames_BCTHW).flatten(0, 1).std(0)
        self.scale_U.copy_(torch.where(deviation_U > 1e-6, 1 / deviation_U, 0.0))

    def features(self, s_U: Tensor) -> Tensor:
        """What a response (…, U) is made of, (…, U, K)."""
        u = torch.asinh(KNEE * s_U * self.scale_U)
        halves = torch.stack([u.clamp_min(0), (-u).clamp_min(0)], dim=-1)
        return torch.cat([halves, halves.square()], dim=-1)

    def looked(self, frames_BCTHW: Tensor) -> Tensor:
        """(B, T, U, K) of clips."""
        with torch.autocast(frames_BCTHW.device.type, enabled=False), torch.no_grad():
            return self.features(self.linear.filtered(frames_BCTHW))

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """What is added to the drive, (B, T, U)."""
        return (self.looked(frames_BCTHW) * self.weight).sum(-1)

    def stream(self) -> Callable[[Tensor], Tensor]:
        filtered = self.linear.stream()

        def advance(frame_BCTHW: Tensor) -> Tensor:
            return (self.features(filtered(frame_BCTHW)) * self.weight).sum(-1)

        return advance
