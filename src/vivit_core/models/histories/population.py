"""Past spikes of the whole population, through a code of a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vivit_core.models.histories.base import History, over_time


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

    def drawn(self, clips: int) -> Tensor:
        shown_B1, part_B1 = torch.rand(clips, 1) < self.shown, torch.rand(clips, 1)
        return shown_B1 & (torch.rand(clips, len(self.mean_U)) < part_B1)

    def gain(self, past_BPU: Tensor, known_BPU: Tensor) -> Tensor:
        code_BTR = over_time(past_BPU @ self.encode_UR, self.weight_RK @ self.basis_KL)
        share_BT1, noise = self.share_known(known_BPU.mean(2, keepdim=True)), self.log_noise.exp()
        log_gain_BTU = ((code_BTR * (1 + noise) / (share_BT1 + noise)) @ self.decode_RU).float()
        return log_gain_BTU + self.offset_U * share_BT1
