"""The loss of a batch, and the one place that says which (bin, unit) pairs count.

Shape letters: B clips, T bins, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.specs import Batch, Clips


def counted(predicted: Tensor, clips: Clips, burn_in: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction and measurement side by side, with the pairs that count.

    A pair counts where the measurement is valid and the bin lies after the burn-in. In evaluation the clips' ``score``
    takes the burn-in's place: it leaves the burn-in out already, and serves each bin of a split once. There, clips that
    show the same share a prediction.

    Parameters
    ----------
    predicted : (B, T, U) expected counts a bin, or (B, U) for the newest bin alone; a row for each of the frames'.
    clips : of the same recording.
    burn_in : bins at the start of a clip that do not count.

    Returns
    -------
    predicted (float32 or wider), counts and the mask of pairs that count, each (B, T, U) or (B, U).
    """
    counts, valid = clips["counts"], clips["valid"]
    bins = counts.shape[1]
    if "row" in clips:
        predicted = predicted[clips["row"]]
    if "score" in clips:
        mask = valid & clips["score"][..., None]
    else:
        if burn_in >= bins:
            raise ValueError(
                f"a clip of {bins} bins has nothing left after a burn-in of {burn_in}; "
                "make data.clip_length longer or data.burn_in shorter"
            )
        mask = valid.clone()
        mask[:, :burn_in] = False
    if predicted.dim() == 2:
        counts, mask = counts[:, -1], mask[:, -1]
    if predicted.shape != counts.shape:
        raise ValueError(
            f"predictions of shape {tuple(predicted.shape)} do not fit counts of shape {tuple(counts.shape)}"
        )
    return predicted if predicted.dtype == torch.float64 else predicted.float(), counts, mask


def summed_loss(
    predicted: Mapping[str, Tensor], batch: Batch, burn_in: int, likelihood: Callable[[str], Likelihood]
) -> tuple[Tensor, Tensor]:
    """Nats summed over the pairs that count, and their number; both scalars, over all recordings.

    The loss is sum / number: a mean over pairs, not over recordings, so that its scale does not depend on batch, time
    or unit count. Sum and number are given apart so that several batches, accumulated or on several ranks, can be
    brought to one mean exactly.

    Parameters
    ----------
    predicted : expected counts a bin for each recording, positive.
    batch : the clips they were made from.
    burn_in : bins at the start of a clip that do not count.
    likelihood : of a recording's units (``Predictor.likelihood``).
    """
    total, pairs = [], []
    for recording_id, rate in predicted.items():
        rate, counts, mask = counted(rate, batch[recording_id], burn_in)
        counts = torch.where(mask, counts, 0.0)  # an invalid count may be NaN, whose gradient no later mask takes out
        total.append(torch.where(mask, likelihood(recording_id).nats(rate, counts), 0.0).sum())
        pairs.append(mask.sum())
    return torch.stack(total).sum(), torch.stack(pairs).sum()
