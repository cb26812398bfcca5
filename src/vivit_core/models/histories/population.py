"""Past spikes of the whole population, through a code of a few numbers.

Shape letters as in ``base``, R numbers of the code, V units too, N = U · K, S axes of a singular value decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vivit_core.models.histories.base import History, over_time

TINY = 1e-6  # of a sum of squares: where nothing was counted
MOST_NOISE = 100.0  # λ, where units have nothing in common
MOST_UNITS = 2_048  # among which a code is looked for; the work grows with their cube


class Population(History):
    """Past counts of all units of the recording are added up to a few numbers, and each unit weighs these.

    What neurons share beyond the stimulus and the behavior that a twin sees, such as slow changes of gain, shows in the
    counts of the others. The code has few numbers (``rank``), because a recording has too few bins for a coupling of
    each pair of units. In training a random part of the units is observed, another in each clip, so that the twin works
    where none, some or all of them are (OmniMouse, 2026, hides neurons in the same way).

    What is not known counts as the mean, and the code is divided by p + λ, p the known share of the counts and λ
    learned. That is the form of the best guess of a Gaussian number from noisy observations: where the noise is large
    (λ), the fewer are known the nearer is the guess to the mean; where it is small, a few tell as much as all.

    Parameters
    ----------
    mean_counts : given by the twin.
    bases, lags : of :class:`History`.
    rank : numbers of the code.
    shown : share of the training clips in which a part of the units is observed, drawn anew for each; none is in the
        others.
    """

    observed = "population"

    def __init__(self, mean_counts: Sequence[float], bases: int, lags: int, rank: int, shown: float) -> None:
        super().__init__(mean_counts, bases, lags, shown)
        if rank < 1:
            raise ValueError(f"model.history.rank={rank}: a code has at least one number")
        units = len(self.mean_U)
        self.encode_UR = nn.Parameter(torch.randn(units, rank) * units**-0.5)
        self.weight_RK = nn.Parameter(torch.randn(rank, bases) * bases**-0.5)
        self.decode_RU = nn.Parameter(torch.randn(rank, units) * 0.1 * rank**-0.5)  # small: it starts with little gain
        self.offset_U = nn.Parameter(torch.zeros(units))
        self.log_noise = nn.Parameter(torch.zeros(()))  # of λ

    def part(self, clips: int) -> Tensor:
        """Another part of them in each clip."""
        return torch.rand(clips, len(self.mean_U)) < torch.rand(clips, 1)

    @torch.no_grad()
    def find(self, left_over: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Numbers that follow most of what is left over of the other units: the first singular vectors of how each
        unit's counts go with the past of each other one, through each function of the basis. What of the first number
        is noise is the part of its variance that units have by themselves."""
        units, bases = len(self.mean_U), len(self.basis_KL)
        if units > MOST_UNITS:
            return False
        each_NL = self.basis_KL.repeat(units, 1)
        along_VUK, square_UKK = self.mean_U.new_zeros(units, units, bases), self.mean_U.new_zeros(units, bases, bases)
        for rest_TU, past_PU in left_over:
            seen_TUK = over_time(past_PU[None].repeat_interleave(bases, 2), each_NL)[0].unflatten(1, (units, bases))
            along_VUK += torch.einsum("tv,tuk->vuk", rest_TU, seen_TUK)
            square_UKK += torch.einsum("tuk,tuj->ukj", seen_TUK, seen_TUK)
        along_VUK.diagonal(dim1=0, dim2=1).zero_()  # what a unit's own past says, no other's does
        if not along_VUK.isfinite().all() or not along_VUK.any():
            return False
        size_UK = square_UKK.diagonal(dim1=1, dim2=2).clamp_min(TINY).sqrt()
        along_VN = (along_VUK / size_UK).flatten(1)
        _, found_VS = torch.linalg.eigh(along_VN @ along_VN.T)  # much smaller than the matrix itself; last is largest
        found_SN = (along_VN.T @ found_VS.flip(1)).T
        for number, found_N in enumerate(found_SN[: self.decode_RU.shape[0]]):
            found_UK = found_N.unflatten(0, (units, bases)) / size_UK
            of_unit_US, _, of_basis_SK = torch.linalg.svd(found_UK, full_matrices=False)
            self.encode_UR[:, number], self.weight_RK[number] = of_unit_US[:, 0], of_basis_SK[0]
        encode_U, weight_K = self.encode_UR[:, 0], self.weight_RK[0]
        kernel_1L = weight_K @ self.basis_KL
        code = [over_time((past_PU @ encode_U)[None, :, None], kernel_1L[None]) for _, past_PU in left_over]
        alone = float((encode_U.square() * torch.einsum("ukj,k,j->u", square_UKK, weight_K, weight_K)).sum())
        together = sum(float(own.square().sum()) for own in code) - alone
        self.log_noise.fill_(math.log(alone / together if together * MOST_NOISE > alone > 0 else MOST_NOISE))
        return True

    def looked(self, past_BPU: Tensor, known_BPU: Tensor) -> Tensor:
        code_BTR = over_time(past_BPU @ self.encode_UR, self.weight_RK @ self.basis_KL)
        share_BT1, noise = self.share_known(known_BPU.mean(2, keepdim=True)), self.log_noise.exp()
        code_BTR = (code_BTR * (1 + noise) / (share_BT1 + noise)).float()
        looked_BTW = torch.cat([code_BTR, share_BT1], dim=-1)
        return looked_BTW[:, :, None].expand(-1, -1, len(self.mean_U), -1)  # all units look at the same numbers

    def gain(self, past_BPU: Tensor, known_BPU: Tensor) -> Tensor:
        looked_BTW = self.looked(past_BPU, known_BPU)[:, :, 0]
        return (looked_BTW[..., :-1] @ self.decode_RU).float() + looked_BTW[..., -1:] * self.offset_U

    def weights(self) -> Tensor:
        return torch.cat([self.decode_RU.T, self.offset_U[:, None]], dim=1)

    @torch.no_grad()
    def take(self, weights_UW: Tensor) -> None:
        self.decode_RU.copy_(weights_UW[:, :-1].T)
        self.offset_U.copy_(weights_UW[:, -1])
