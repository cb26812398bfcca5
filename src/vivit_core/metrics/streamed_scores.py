"""The scores of units while a model trains, a batch at a time in each process.

Only a training imports this: torchmetrics takes seconds to load.

Shape letter: U units.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from vivit_core.metrics.unit_scores import UnitScores, scores_of_sums, unit_sums


class StreamedScores(Metric):
    """Bits per spike and single-trial correlation of one recording's units, from sums that add up exactly over batches
    and ranks: the numbers of :func:`vivit_core.metrics.unit_scores.unit_scores`.

    Parameters
    ----------
    n_units : units of the recording.
    """

    full_state_update = False
    higher_is_better = True
    sums: Tensor

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self.n_units = n_units
        self.add_state("sums", torch.zeros(7, n_units, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, counts: Tensor, mask: Tensor) -> None:
        """Add bins: expected and measured counts and the pairs that count, each (..., U)."""
        if not predicted.shape == counts.shape == mask.shape or predicted.shape[-1] != self.n_units:
            raise ValueError(
                f"predictions {tuple(predicted.shape)}, counts {tuple(counts.shape)} and mask {tuple(mask.shape)} "
                f"must have one shape, with {self.n_units} units last"
            )
        self.sums += unit_sums(predicted.detach(), counts, mask)

    def compute(self) -> UnitScores:
        return scores_of_sums(self.sums.cpu().numpy())
