"""The scores of units while a model trains, a batch at a time in each process.

Only a training imports this: torchmetrics takes seconds to load.

Shape letters: U units.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from vivit_core.metrics.unit_scores import Scatter, Scorer, UnitScores


class StreamedScores(Metric):
    """All metrics of one recording's units, from sums that add up exactly over batches and ranks: the numbers of
    :meth:`vivit_core.metrics.unit_scores.Scorer.scores_of`.

    Parameters
    ----------
    n_units : units of the recording.
    likelihood : of these units. It stays part of the model that it is a part of, and becomes none of this one.
    """

    full_state_update = False
    higher_is_better = True
    sums: Tensor

    def __init__(self, n_units: int, likelihood: Scatter) -> None:
        super().__init__()
        self.n_units, self.scorer = n_units, Scorer(likelihood)
        self.add_state("sums", torch.zeros(self.scorer.n_sums, n_units, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, counts: Tensor, mask: Tensor) -> None:
        """Add bins: expected and measured counts and the pairs that count, each (..., U)."""
        if not predicted.shape == counts.shape == mask.shape or predicted.shape[-1] != self.n_units:
            raise ValueError(
                f"predictions {tuple(predicted.shape)}, counts {tuple(counts.shape)} and mask {tuple(mask.shape)} "
                f"must have one shape, with {self.n_units} units last"
            )
        self.sums += self.scorer.sums(predicted, counts, mask)

    def compute(self) -> UnitScores:
        return self.scorer.scores(self.sums.cpu().numpy())
