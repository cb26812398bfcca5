"""What every model that predicts keeps: a twin, an LN model and an ensemble are used alike from here on.

Shape letters: B clips, C channels, T bins, H W pixels, D behavior numbers, U units.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.models.histories.base import Feedback, Observed
from vivit_core.models.layers import as_numbers, evaluating, finite_rates, missing, no_regularizer
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.specs import Batch, Clips, RecordingSpec

if TYPE_CHECKING:
    from vivit_core.models.streaming import Stream

Predict = Literal["all", "last"]


class Predictor(nn.Module, ABC):
    """Video and behavior in, expected counts of every unit out.

    Trainings, evaluations, comparisons and in-silico experiments take any predictor. ``load_predictor`` gives the one
    that a checkpoint holds.

    What a subclass has to do
    -------------------------
    - ``forward`` and ``likelihood``;
    - say where it is not ``causal``, and where it sees no behavior (``sees_behavior``);
    - ``description`` and ``from_description``, where it is kept in checkpoints.

    What it may do
    --------------
    ``stream``, ``centers_px``, ``gaussians_px``, ``regularizer``, ``set_progress``, ``check_geometry``: without them it
    refuses to stream, does not say where its units look, and adds nothing to the loss.

    Parameters
    ----------
    recordings : what is known of each recording.
    predict : "all" for every bin of a clip, "last" for the newest alone.

    Attributes
    ----------
    specs : the recordings by id.
    causal : no prediction uses a frame or behavior of a later bin.
    sees_behavior : whether behavior can change a prediction.
    observes : whose past counts can change one, where they are given: its own ones each unit's, or those of the whole
        population; None: nobody's.
    feedback : of a model that ``observes``, what stands in for past counts that are not given: none (their mean), the
        model's own expected counts, or samples of it.
    seed : of these samples.
    missing_values : of the last call of ``rates``.

    Raises
    ------
    ValueError
        Where recordings share an id, or there is none.
    """

    causal: bool = True
    sees_behavior: bool = True
    observes: Observed | None = None
    feedback: Feedback = "none"
    seed: int = 0

    def __init__(self, recordings: Sequence[RecordingSpec], predict: Predict) -> None:
        super().__init__()
        self.specs = {spec.recording_id: spec for spec in recordings}
        if len(self.specs) != len(recordings) or not recordings:
            raise ValueError(f"a model needs recordings with distinct ids; got {[s.recording_id for s in recordings]}")
        self.predict: Predict = predict
        self.missing_values = 0

    @property
    def kind(self) -> str:
        """What tables call a model like this."""
        return type(self).__name__

    @property
    def stride(self) -> int:
        """After how many bins a stream stands again as it stood: the frames of its longest token."""
        return 1

    def spec(self, recording_id: str) -> RecordingSpec:
        """What is known of a recording; refuses one that the model does not know."""
        if recording_id not in self.specs:
            raise ValueError(f"this model does not know recording {recording_id!r}; it knows {list(self.specs)}")
        return self.specs[recording_id]

    def index(self, recording_id: str) -> int:
        """The place of a recording among those that the model knows."""
        return list(self.specs).index(self.spec(recording_id).recording_id)

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Expected counts a bin: (B, T, U) for each recording, or (B, U) for ``predict="last"``."""

    @abstractmethod
    def likelihood(self, recording_id: str) -> Likelihood:
        """How counts of a recording's units scatter around what the model predicts."""

    @overload
    def rates(
        self,
        recording_id: str,
        frames: np.ndarray,
        behavior: np.ndarray | None = None,
        *,
        counts: np.ndarray | None = None,
    ) -> np.ndarray: ...

    @overload
    def rates(
        self,
        recording_id: str,
        frames: Iterator[np.ndarray],
        behavior: Iterator[np.ndarray] | None = None,
        clip_length: int | None = None,
    ) -> Iterator[np.ndarray]: ...

    @torch.no_grad()
    def rates(
        self,
        recording_id: str,
        frames: np.ndarray | Iterator[np.ndarray],
        behavior: np.ndarray | Iterator[np.ndarray] | None = None,
        clip_length: int | None = None,
        counts: np.ndarray | None = None,
    ) -> np.ndarray | Iterator[np.ndarray]:
        """Predicted rates of a stretch of video, in one pass; or of a video of any length, piece by piece.

        Time runs in the model's bins (``specs[recording_id].frame_rate_hz``), and frames and behavior are what
        ``data.transforms`` of the training made of the recording's:
        :func:`vivit_core.analysis.recording.load_recording` reads a file that way.

        Parameters
        ----------
        recording_id : whose units.
        frames : (T, H, W) or (C, T, H, W), pixel values as the recording has them, not normalized. A value that is
            missing (NaN or infinite), here or in ``behavior``, is at its mean; ``missing_values`` counts such values
            of the last call, and a warning says so. An iterator gives such arrays one after the other, each going on
            where the last one ended; what the model has to remember is carried from one to the next
            (:class:`vivit_core.models.streaming.Stream`), so that memory does not grow with the video.
        behavior : (T, D) in the order of ``specs[recording_id].behavior``, not normalized; None where there is none.
            For an iterator of frames, an iterator of as many bins each.
        clip_length : bins of the whole video, where an iterator's are known: then its rates equal those of one pass.
            It matters only where that is no multiple of the tokens' frames (:meth:`stream`).
        counts : (T, U) what was counted, for a model that ``observes``, NaN where nobody knows; a bin's rates follow
            the counts before it. None: nothing was. Where frames come piece by piece, a stream takes it
            (:meth:`vivit_core.models.streaming.Stream.observe`).

        Returns
        -------
        (T, U) in Hz, or (U,) for ``predict="last"``. For an iterator, an iterator of the (T, U) of each piece.

        Raises
        ------
        ValueError
            For an unknown recording, frames or behavior of a wrong shape or of no real numbers, and rates that are
            none; for an iterator and a model without a stream.
        """
        spec = self.spec(recording_id)
        if counts is not None and (self.observes is None or isinstance(frames, Iterator)):
            raise ValueError(
                f"a model of kind {self.kind} takes no counts; train one with model/history=spikes or population"
                if self.observes is None
                else "frames come piece by piece, and counts at once; take stream(…), and tell it counts by observe(…)"
            )
        if isinstance(frames, Iterator):
            if behavior is not None and not isinstance(behavior, Iterator):
                raise ValueError(
                    "frames come piece by piece, and behavior at once; give iter([…]) of pieces for both, or arrays"
                )
            return pieces_of(self.stream(recording_id, clip_length), frames, behavior)
        if isinstance(behavior, Iterator):
            raise ValueError("behavior comes piece by piece, and frames at once; give iter([…]) of pieces for both")
        video = torch.as_tensor(as_numbers(frames, f"frames of recording {recording_id}"))
        video = video[None] if video.dim() == 3 else video
        if video.dim() != 4 or (video.shape[0], *video.shape[2:]) != spec.frame_shape:
            channels, height, width = spec.frame_shape
            raise ValueError(
                f"recording {recording_id} has frames of shape {spec.frame_shape} (channels, height, width): "
                f"give ({channels}, bins, {height}, {width}), not {tuple(video.shape)}"
            )
        bins = video.shape[1]
        if not bins and self.predict == "last":
            raise ValueError("a video without a frame has no newest bin; give one frame at least")
        given = np.zeros((bins, 0)) if behavior is None else behavior
        given = as_numbers(given, f"behavior of recording {recording_id}")
        if given.shape != (bins, spec.behavior_dim):
            raise ValueError(
                f"recording {recording_id} needs behavior of shape ({bins}, {spec.behavior_dim}) "
                f"for {spec.behavior}, not {given.shape}"
            )
        device = next(self.parameters()).device
        beside = torch.as_tensor(given, dtype=torch.float32, device=device)
        clips = Clips(frames=video[None].to(device), behavior=beside[None])
        self.missing_values = missing(clips["frames"]) + missing(clips["behavior"])
        if self.missing_values:
            warnings.warn(
                f"recording {recording_id}: {self.missing_values} pixels or numbers of behavior are missing (NaN or "
                "infinite); their means stand in",
                stacklevel=2,
            )
        if counts is not None:
            clips |= observed_clips(counts, bins, spec.n_units, device)
        if not bins:  # as a stream of no frames
            return np.zeros((0, spec.n_units), np.float32)
        with evaluating(self):
            expected = self({recording_id: clips})[recording_id][0]
        return finite_rates((expected * spec.frame_rate_hz).cpu().numpy(), recording_id)

    def stream(self, recording_id: str, clip_length: int | None = None) -> Stream:
        """Predict one recording bin by bin, endlessly: see :class:`vivit_core.models.streaming.Stream`.

        Raises
        ------
        ValueError
            For a model that cannot, and an unknown recording.
        """
        raise ValueError(f"a model of kind {self.kind} has no stream; take a twin, for example of model=vivit_small")

    def regularizer(self) -> Tensor:
        """What the model adds to the loss, already weighted."""
        return no_regularizer(self)

    def set_progress(self, fraction: float) -> None:
        """Told after each optimizer step which part of the training is done (0 to 1), for schedules and bounds."""

    def check_geometry(self, clip_length: int) -> None:
        """Raise ValueError, with a remedy, where a clip of this many frames does not fit the model."""

    def centers_px(self, recording_id: str) -> np.ndarray:
        """Where the model looks for each unit, (U, 2) as x and y in pixels of the recording's own frame; NaN where it
        cannot say."""
        return np.full((self.spec(recording_id).n_units, 2), np.nan)

    def gaussians_px(self, recording_id: str) -> dict[str, np.ndarray] | None:
        """The Gaussian windows through which units look, in pixels of the recording's own frame: ``mean_px`` (U, 2) as
        x and y, ``std_px`` (U, 2), ``angle_deg`` (U,); None where there are none."""
        return None

    def description(self) -> dict[str, Any]:
        """Primitives from which :meth:`from_description` makes the same model, not yet with its weights.

        ``_target_`` names the class, ``recordings`` lists ``RecordingSpec.to_dict`` of each recording.

        Raises
        ------
        ValueError
            For a model that is not kept in checkpoints.
        """
        raise ValueError(f"a model of kind {self.kind} cannot be kept in a checkpoint: it has no description()")

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Predictor:
        """The model that :meth:`description` described. Nothing about the description may be taken for granted: it
        comes from a file.

        Raises
        ------
        ValueError
            Where it describes no such model.
        """
        raise ValueError(f"a model of kind {cls.__name__} cannot be read from a checkpoint")


def observed_clips(counts: np.ndarray, bins: int, units: int, device: torch.device) -> Clips:
    """What one clip tells of counts that were observed, NaN where they were not."""
    given = torch.as_tensor(as_numbers(counts, "counts"), dtype=torch.float32, device=device)
    if given.shape != (bins, units):
        raise ValueError(f"give counts of shape ({bins}, {units}), bins and units, not {tuple(given.shape)}")
    known = given.isfinite()
    everyone = torch.ones(1, units, dtype=torch.bool, device=device)
    return Clips(counts=given.nan_to_num()[None], valid=known[None], observed=everyone)


def pieces_of(
    stream: Stream, frames: Iterator[np.ndarray], behavior: Iterator[np.ndarray] | None
) -> Iterator[np.ndarray]:
    """The rates of each piece of a video."""
    if behavior is None:
        yield from map(stream.run, frames)
        return
    for number, piece in enumerate(frames):
        beside = next(behavior, None)
        if beside is None:
            raise ValueError(f"behavior ends after {number} pieces, and the video goes on; give one for each")
        yield stream.run(piece, beside)
    if next(behavior, None) is not None:
        raise ValueError("the video ends, and behavior goes on; give as many pieces of both")


def recordings_in(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The recordings that a description lists, as dicts."""
    recordings = description.get("recordings")
    if not isinstance(recordings, list) or not all(isinstance(values, dict) for values in recordings):
        raise ValueError("recordings is no list of dicts")
    return recordings


def predict_in(description: Mapping[str, Any]) -> Predict:
    """Which bins a described model predicts."""
    predict = description.get("predict")
    if predict not in ("all", "last"):
        raise ValueError(f"predict={str(predict)[:40]} should be 'all' or 'last'")
    return predict
