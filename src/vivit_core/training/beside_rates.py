"""What is fitted beside a twin's rates when readouts have had their last fit, and the rates stand."""

from __future__ import annotations

from torch import nn

from vivit_core.data.recording.reader import Recording
from vivit_core.models.twin import Twin
from vivit_core.training.history_fit import fit_history
from vivit_core.training.latent_fit import fit_latent
from vivit_core.training.predicted_clips import predicted_clips
from vivit_core.training.readout_fit import MEMORY


def parts_beside_rates(twin: Twin) -> list[nn.ModuleList]:
    """What of a twin is fitted so."""
    return [part for part in (twin.histories, twin.latents) if part is not None]


def fit_beside_rates(twin: Twin, recording: Recording, clip_length: int, burn_in: int, bins: int) -> None:
    """Fit a recording's weights of past counts, and its latent, where the twin has any. Nothing else changes.

    Parameters
    ----------
    twin : in evaluation, wherever it lies.
    recording, clip_length, burn_in : as for :func:`~vivit_core.training.readout_fit.fit_readout`.
    bins : about so many count; fewer where all units together see more than half of ``MEMORY`` numbers in them.
    """
    name = recording.info.recording_id
    history = None if twin.histories is None else twin.history(name)
    latent, likelihood = twin.latent(name), twin.likelihood(name)
    if history is None and latent is None:
        return
    numbers = recording.info.n_units if history is None else history.weights().numel()
    before = 0 if history is None else history.lags
    clips = predicted_clips(twin, recording, clip_length, burn_in, min(bins, MEMORY // 2 // numbers), before)
    if not clips:
        return
    if history is not None:
        fit_history(history, likelihood, clips)
    if latent is not None:
        fit_latent(latent, likelihood, clips)
