"""A slow gain that units share: attention, arousal, whatever else no stimulus and no measured behavior tells.

Shape letters: B clips, T bins, S steps of ``hold`` bins, K steps too, U units, R numbers of the gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.latents.base import Latent

NEWTON = 8  # steps to the most probable course of the gain
FARTHEST = 2.0  # that one step moves a number, in its standard deviations
MOST = 5.0  # of the gain's logarithm


class SharedGain(Latent):
    """Each unit's rate is multiplied by exp(c·z − |c|²/2): z are a few numbers that drift, c the unit's own weights.

    Each z is a Gaussian of variance 1 that forgets: from one step to the next it keeps a part, which is learned. A step
    is ``hold`` bins, in which it stands still. The gain's mean is 1, so that rates stay expected counts. This is the
    shared noise of Goris et al. (2014), of low rank and slow; Bashiri et al. (2021) let a Gaussian of low rank stand
    below a twin in the same way, of single images.

    z is not observed. The counts' probability is an integral over it, which is approximated as Laplace did: by a
    Gaussian around the most probable course of z in the clip, found by Newton's method. The last step is
    differentiated, so that gradients know how that course moves.

    Parameters
    ----------
    mean_counts : given by the twin.
    rank : numbers of the gain.
    hold : bins of a step.
    memory : steps that z remembers at the start: then e⁻¹ is left.
    std : of the gain's logarithm at the start.

    References
    ----------
    Goris, Movshon, Simoncelli (2014), Nature Neuroscience 17:858. Bashiri et al. (2021), NeurIPS 34.
    """

    def __init__(self, mean_counts: Sequence[float], rank: int, hold: int, memory: float, std: float) -> None:
        super().__init__()
        if rank < 1 or hold < 1:
            raise ValueError(f"model.latent.rank={rank}, hold={hold}: give at least one number, and at least one bin")
        if not (memory > 0 and std > 0):
            raise ValueError(f"model.latent.memory={memory} and std={std} must be above zero")
        units = len(mean_counts)
        self.hold, self.rank = hold, rank
        # All of one sign, as a common gain is; apart enough that a second number becomes another one.
        self.weight_UR = nn.Parameter(std * rank**-0.5 * (1 + 0.5 * torch.randn(units, rank)))
        self.log_memory_R = nn.Parameter(torch.full((rank,), math.log(memory)))

    def log_covariance(self) -> Tensor:
        return self.weight_UR @ self.weight_UR.T

    def course(self, steps: int) -> Tensor:
        """(R, S, K) from independent numbers of variance 1 to the course of each z: z = course · numbers."""
        keep_R11 = rearrange(torch.exp(-torch.exp(-self.log_memory_R)), "r -> r 1 1")
        at = torch.arange(steps, device=keep_R11.device)
        ago_SK = (at[:, None] - at).clamp_min(0)
        new_K = torch.where(at == 0, 1.0, (1 - keep_R11.square()).sqrt())
        return torch.where(at[:, None] >= at, keep_R11**ago_SK * new_K, 0.0)

    def more_nats(self, rate_BTU: Tensor, counts_BTU: Tensor, mask_BTU: Tensor) -> Tensor:
        with torch.autocast(rate_BTU.device.type, enabled=False):
            kind = self.weight_UR.dtype
            expected_BSU = self.in_steps(torch.where(mask_BTU, rate_BTU.to(kind), 0.0))
            counted_BSU = self.in_steps(torch.where(mask_BTU, counts_BTU.to(kind), 0.0))
            course_RSK = self.course(expected_BSU.shape[1])
            with torch.no_grad():
                x_BKR = expected_BSU.new_zeros(*expected_BSU.shape[:2], len(course_RSK))
                for _ in range(NEWTON):
                    x_BKR = self.newton(x_BKR, expected_BSU, counted_BSU, course_RSK)
            x_BKR = self.newton(x_BKR, expected_BSU, counted_BSU, course_RSK)
            log_gain_BSU = self.log_gain(x_BKR, course_RSK)
            more = expected_BSU * log_gain_BSU.expm1() - counted_BSU * log_gain_BSU
            curvature = self.curvature(expected_BSU * log_gain_BSU.exp(), course_RSK)
            volume = factor(curvature).diagonal(dim1=-2, dim2=-1).log().sum()
            return more.sum() + 0.5 * x_BKR.square().sum() + volume

    def in_steps(self, x_BTU: Tensor) -> Tensor:
        """Sums over the bins of each step."""
        whole = F.pad(x_BTU, (0, 0, 0, -x_BTU.shape[1] % self.hold))
        return rearrange(whole, "b (s h) u -> b s h u", h=self.hold).sum(2)

    def log_gain(self, x_BKR: Tensor, course_RSK: Tensor) -> Tensor:
        z_BSR = einsum(course_RSK, x_BKR, "r s k, b k r -> b s r")
        return (z_BSR @ self.weight_UR.T - 0.5 * self.weight_UR.square().sum(1)).clamp(max=MOST)

    def curvature(self, gained_BSU: Tensor, course_RSK: Tensor) -> Tensor:
        """(B, K R, K R) second derivatives of the nats by the independent numbers."""
        inner = einsum(gained_BSU, self.weight_UR, self.weight_UR, "b s u, u r, u q -> b s r q")
        half = einsum(course_RSK, inner, "r s k, b s r q -> b s k r q")  # no larger than the result
        whole = einsum(half, course_RSK, "b s k r q, q s m -> b k r m q")
        flat = rearrange(whole, "b k r m q -> b (k r) (m q)")
        return flat + torch.eye(flat.shape[-1], device=flat.device, dtype=flat.dtype)

    def newton(self, x_BKR: Tensor, expected_BSU: Tensor, counted_BSU: Tensor, course_RSK: Tensor) -> Tensor:
        """A step nearer to the most probable numbers."""
        gained_BSU = expected_BSU * self.log_gain(x_BKR, course_RSK).exp()
        slope = x_BKR - einsum(course_RSK, (counted_BSU - gained_BSU) @ self.weight_UR, "r s k, b s r -> b k r")
        lower = factor(self.curvature(gained_BSU, course_RSK))
        step = torch.cholesky_solve(rearrange(slope, "b k r -> b (k r) 1"), lower)
        return x_BKR - rearrange(step, "b (k r) 1 -> b k r", r=x_BKR.shape[2]).clamp(-FARTHEST, FARTHEST)


def factor(curvature: Tensor) -> Tensor:
    """Its Cholesky factor; NaN where it has none, because rates are no numbers: such a step is skipped, and no training
    ends by it."""
    lower, failed_B = torch.linalg.cholesky_ex(curvature)
    return torch.where(rearrange(failed_B, "b -> b 1 1") != 0, torch.nan, lower)
