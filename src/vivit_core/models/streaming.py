"""Streaming: a twin that takes one frame at a time and says at once what the units will do in that bin.

Each part that looks back keeps what it needs and no more: the front end its last frames, the tokenizer the frames of
the unfinished token, each temporal block the keys and values of its window, the modulator its state, the readout each
map's last word. So a bin costs what is new in it, and an endless stream takes no more memory than a short one, unless
``model.window`` is null. What comes out equals what the twin predicts for the whole clip at once.

Shape letters: T bins, H W pixels, U units, D behavior numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_core.models.histories.base import Past
from vivit_core.models.layers import as_numbers, finite_rates, missing
from vivit_core.specs import Clips, RecordingSpec


class Stream:
    """One recording's units, bin after bin. Made by ``twin.stream(recording_id)``, which puts the twin into evaluation.

        stream = twin.stream("sim0")
        for frame, behavior in camera:
            rates_hz = stream.step(frame, behavior)
            stream.observe(counts)  # what the units did in this bin; for a model that observes past counts

    Parameters
    ----------
    spec : of the recording whose units are predicted.
    adapt : from raw clips to the core's frames and the modulator's behavior, as ``twin.adapt`` for this recording.
    core, modulator : the streams of the twin's own; ``modulator`` is None where it has none.
    counts : from what they change of the maps, and the raw clip of the bin, to the expected counts of the bin, (U,).
    device : where they compute.
    past : of a model that observes past counts (``Predictor.observes``): what it knows of them.

    Attributes
    ----------
    bins : so far.
    missing_values : so far; pixels and numbers of behavior that were NaN or infinite. Their means stood in, as in a
        clip, and the first of them is told in a warning.

    Raises
    ------
    ValueError
        For frames or behavior of a wrong shape or of no real numbers, and rates that are none.
    """

    def __init__(
        self,
        spec: RecordingSpec,
        adapt: Callable[[Clips], tuple[Tensor, Tensor]],
        core: Any,
        modulator: Any,
        counts: Callable[[Any, Clips], Tensor],
        device: torch.device,
        past: Past | None = None,
    ) -> None:
        self.spec, self.adapt, self.device, self.past = spec, adapt, device, past
        self.core, self.modulator, self.counts = core, modulator, counts
        self.bins, self.missing_values = 0, 0
        self.told = 0  # the bins that had gone by when counts were told last

    def run(self, frames: np.ndarray, behavior: np.ndarray | None = None) -> np.ndarray:
        """The rates of the next bins.

        Parameters
        ----------
        frames : (T, H, W) or (C, T, H, W), raw pixel values as in the recording.
        behavior : (T, D) raw values; None where the recording has none.

        Returns
        -------
        (T, U) in Hz.
        """
        video = np.asarray(frames)
        video = video[None] if video.ndim == 3 else video
        if video.ndim != 4:
            raise ValueError(
                f"recording {self.spec.recording_id}: give (bins, height, width) or (channels, bins, height, width), "
                f"not {np.shape(frames)}"
            )
        bins = video.shape[1]
        if behavior is not None and len(behavior) != bins:
            raise ValueError(f"recording {self.spec.recording_id}: {len(behavior)} bins of behavior, and {bins} frames")
        rates = [self.step(video[:, t], None if behavior is None else behavior[t]) for t in range(bins)]
        return np.stack(rates) if rates else np.zeros((0, self.spec.n_units), np.float32)

    def expected(self, clip: Clips) -> Tensor:
        """Expected counts (U,) of the bin whose frame and behavior this clip of one bin holds; what is remembered goes
        on by a bin."""
        pixels, behavior_11D = self.adapt(clip)
        maps = self.core(pixels)
        if self.modulator is not None:
            maps = self.modulator(maps, behavior_11D)
        return self.counts(maps, clip)

    @torch.no_grad()
    def observe(self, counts: np.ndarray) -> None:
        """Tell what was counted in the bin of the last step; where nobody does, ``Predictor.feedback`` stands in.

        Parameters
        ----------
        counts : (U,) spikes of the bin, NaN where nobody knows.

        Raises
        ------
        ValueError
            For a model that takes none, counts of a wrong shape, and before the first step.
        """
        if self.past is None:
            raise ValueError("this model takes no counts; train one with model/history=spikes or population")
        given = as_numbers(counts, f"counts of recording {self.spec.recording_id}")
        if given.shape != (self.spec.n_units,) or self.told == self.bins:
            raise ValueError(
                f"recording {self.spec.recording_id}: each step may be followed by one observe({self.spec.n_units} "
                f"counts), and this one, of shape {given.shape}, comes after {self.bins} steps, of which the "
                f"{self.told}th was told last"
            )
        self.told = self.bins
        self.past.observe(torch.as_tensor(given, dtype=torch.float32, device=self.device)[None])

    @torch.no_grad()
    def step(self, frame: np.ndarray, behavior: np.ndarray | None = None) -> np.ndarray:
        """The rates of the bin of this frame.

        Parameters
        ----------
        frame : (H, W) or (C, H, W), raw pixel values as in the recording.
        behavior : (D,) raw values in the order of ``twin.specs[recording_id].behavior``; None where the recording has
            none.

        Returns
        -------
        (U,) in Hz.
        """
        spec = self.spec
        given = as_numbers(frame, f"a frame of recording {spec.recording_id}")
        given = given[None] if given.ndim == 2 else given
        if given.shape != spec.frame_shape:
            raise ValueError(
                f"recording {spec.recording_id} has frames of shape {spec.frame_shape} (channels, height, width), "
                f"not {given.shape}"
            )
        moved = as_numbers(np.zeros(0) if behavior is None else behavior, f"behavior of recording {spec.recording_id}")
        if moved.shape != (spec.behavior_dim,):
            raise ValueError(
                f"recording {spec.recording_id} needs behavior of shape ({spec.behavior_dim},) for {spec.behavior}, "
                f"not {moved.shape}"
            )
        clip = Clips(
            frames=torch.as_tensor(given, device=self.device)[None, :, None],
            behavior=torch.as_tensor(moved, dtype=torch.float32, device=self.device)[None, None],
        )
        lost = missing(clip["frames"]) + missing(clip["behavior"])
        tell_first_missing(spec, self.bins, lost, self.missing_values)
        self.missing_values += lost
        counts = self.expected(clip)
        self.bins += 1
        return finite_rates((counts * spec.frame_rate_hz).cpu().numpy(), spec.recording_id)


def tell_first_missing(spec: RecordingSpec, number: int, lost: int, before: int) -> None:
    """Warn whoever called a stream's step of the first values that are missing.

    Parameters
    ----------
    spec : of the recording.
    number : of the bin.
    lost, before : values that are missing in it, and that were in earlier ones.
    """
    if lost and not before:
        warnings.warn(
            f"recording {spec.recording_id}, bin {number}: {lost} pixels or numbers of behavior are missing (NaN or "
            "infinite); their means stand in, now and in later bins (stream.missing_values counts them)",
            stacklevel=3,
        )
