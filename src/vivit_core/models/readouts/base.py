"""What every readout keeps: from feature maps to the drive of one recording's units.

Shape letters: B clips, F bins, C channels, H W cells, U units, T time steps of a map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from einops import einsum, rearrange
from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import no_regularizer


class Drive(NamedTuple):
    """What a readout makes of the feature maps; ``Likelihood.rate`` makes a rate of both.

    Attributes
    ----------
    value : (B, F, U), or (B, U) for the newest bin alone: the sum of what is read of all maps but gains.
    log_gain : of the same shape, the logarithm of what multiplies the rate; None: there is no map of a gain.
    """

    value: Tensor
    log_gain: Tensor | None = None

    def each(self, of: Callable[[Tensor], Tensor]) -> Drive:
        """A function of both."""
        return Drive(of(self.value), None if self.log_gain is None else of(self.log_gain))

    def newest(self) -> Drive:
        """Of the newest bin alone, (B, U)."""
        return self.each(lambda x: x[:, -1])

    def with_gain(self, log_gain: Tensor | None) -> Drive:
        """With another gain on top of its own; None: as it is."""
        if log_gain is None:
            return self
        return Drive(self.value, log_gain if self.log_gain is None else self.log_gain + log_gain)

    def plus(self, other: Drive) -> Drive:
        """Both added up."""
        return Drive(self.value + other.value, self.log_gain).with_gain(other.log_gain)


Reader = Callable[[Tensor], Tensor]
"""From features of one map, (B, C, T, H, W), to what each unit reads of them, (B, T, U) in float32."""


def through_window(features_UC: Tensor, window_UHW: Tensor) -> Reader:
    """Every unit's weighted sum of a map's features over its window, the same in all channels.

    Window and features are multiplied out once, so that all bins of all units are one matrix product, and nothing of
    size bins × units × cells is made.
    """
    weights = einsum(features_UC, window_UHW, "u c, u h w -> u h w c").flatten(1)

    def read(x_BCTHW: Tensor) -> Tensor:
        flat = rearrange(x_BCTHW, "b c t h w -> b t (h w c)")
        return nn.functional.linear(flat, weights.to(flat.dtype)).float()

    return read


def seen_through_window(x_BCTHW: Tensor, window_UHW: Tensor) -> Tensor:
    """What every unit's window sees of each channel, (B, T, U, C) in float32: what ``through_window`` weighs."""
    return einsum(x_BCTHW.float(), window_UHW, "b c t h w, u h w -> b t u c")


class Readout(nn.Module, ABC):
    """Feature maps in, the drive of every unit of one recording out; the likelihood makes a rate of it.

    A twin has one for each recording. The maps come finest first, each with its own frames a step, and each says where
    its cells lie (``FeatureMap``): a bin is served by the newest step that had ended (``FeatureMap.to_bins``). What is
    read of the maps is added up, with a bias for each unit: those of a gain (``FeatureMap.gain``) to the logarithm of
    what multiplies the rate, all others to the drive.

    What a subclass has to do
    -------------------------
    - take ``channels``, ``frame_size`` and ``mean_drive`` in its constructor, all given by the twin: channels of each
      map, height and width of the frame in pixels, and (U,) the drive at which each unit fires at its mean, which it
      hands on. With ``needs_positions`` it is given ``position_um`` too. All other arguments are its YAML's keys;
    - ``reader``: how it reads one map. A readout that cannot read each map by itself has ``forward`` and ``stream`` of
      its own instead: no bin sees a step that ends after it, ``last`` gives the same numbers for the newest bin alone,
      and a stream gives the same numbers bin by bin.

    What it may do
    --------------
    ``regularizer``, ``set_progress``, ``initialize``, ``windows``, ``weighed`` and the two that say where units look;
    the docstring of each says what it is good for, and what happens without it.

    What the contract tests check (``vivit_core.testing.check_readout``)
    -------------------------------------------------------------------
    Odd frames and several maps, ``last`` beside all bins, no look ahead, a gradient for every parameter, a stream that
    equals the clip, the round trip through a checkpoint, that ``initialize`` is obeyed by ``centers``.

    Parameters
    ----------
    mean_drive : (U,) drive at which a unit fires at its mean, given by the twin; the bias starts there.

    Attributes
    ----------
    needs_positions : it takes ``position_um``, (U, 2 or 3), where units lie in the tissue, in micrometers. Recordings
        that do not say it are refused.
    """

    needs_positions: ClassVar[bool] = False

    def __init__(self, mean_drive: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(mean_drive.clone())

    @abstractmethod
    def reader(self, index: int, feature_map: FeatureMap) -> Reader:
        """How the units read map number ``index``, which lies as ``feature_map`` says."""

    def forward(self, maps: list[FeatureMap], bins: int, last: bool) -> Drive:
        """The drive of ``bins`` bins; with ``last`` of the newest alone."""
        read = []
        for index, feature_map in enumerate(maps):
            x = feature_map.x_BCTHW[:, :, -1:] if last else feature_map.x_BCTHW
            values = self.reader(index, feature_map)(x)
            read.append(values[:, 0] if last else feature_map.to_bins(values, bins))
        return self.added(read, [feature_map.gain for feature_map in maps])

    def stream(self) -> Callable[[list[FeatureMap | None]], Drive]:
        """A function that takes what each bin changes of the maps (None: nothing), and gives the bin's drive (U,)."""
        readers: list[Reader | None] = []
        held: list[Tensor | None] = []  # a map's last word holds until it speaks again
        gain: list[bool] = []

        def advance(maps: list[FeatureMap | None]) -> Drive:
            missing = len(maps) - len(held)
            readers.extend([None] * missing)
            held.extend([None] * missing)
            gain.extend([False] * missing)
            for index, feature_map in enumerate(maps):
                if feature_map is None:
                    continue
                if (read := readers[index]) is None:
                    read = readers[index] = self.reader(index, feature_map)
                    gain[index] = feature_map.gain
                held[index] = read(feature_map.x_BCTHW)[0, 0]
            spoken = [(values, is_gain) for values, is_gain in zip(held, gain, strict=True) if values is not None]
            return self.added([values for values, _ in spoken], [is_gain for _, is_gain in spoken])

        return advance

    def added(self, read: list[Tensor], gain: list[bool]) -> Drive:
        """What was read of each map, summed up."""
        gains = [values for values, is_gain in zip(read, gain, strict=True) if is_gain]
        drive = sum((values for values, is_gain in zip(read, gain, strict=True) if not is_gain), self.bias)
        return Drive(drive, sum(gains[1:], gains[0]) if gains else None)

    def regularizer(self) -> Tensor:
        """What it adds to the loss, already weighted: nothing, unless it says otherwise."""
        return no_regularizer(self)

    def set_progress(self, fraction: float) -> None:
        """Told after each optimizer step which part of the training is done (0 to 1), for schedules and bounds."""

    def initialize(self, centers_U2: Tensor, clear_U: Tensor) -> None:
        """Begin by looking at these places: the units' receptive fields, found in the data.

        Parameters
        ----------
        centers_U2 : x and y, pixels.
        clear_U : how clear each is: 0, it may be chance; 1, twice as high as chance; up to 3.
        """

    def windows(self) -> list[nn.Parameter]:
        """The parameters that say where units look, in pixels; they learn at ``optim.window_lr_scale``."""
        return []

    def places(self) -> list[nn.Parameter]:
        """All parameters on which ``windows`` depend; where ``optim.window_lr_scale`` is 0 they stay as they start."""
        return self.windows()

    def weighed(self, index: int, feature_map: FeatureMap, units: slice) -> tuple[nn.Parameter, Tensor] | None:
        """The weights with which all units read map number ``index``, (U, …), and what those of some units weigh,
        (B, T, units, K): what is read is the sum of their products over K, all but the weights' first axis. None: it
        reads otherwise, and its weights are not fitted where the core stands still (``training/readout_fit.py``)."""
        return None

    def window_on(self, feature_map: FeatureMap) -> Tensor | None:
        """How much each unit reads of each cell of a map, (U, H, W), summing to one for each; None: it cannot say.

        ``task=attention`` follows units through the blocks by it.
        """
        return None

    def centers(self) -> Tensor | None:
        """Where units look, (U, 2) as x and y in pixels; None: it cannot say. Evaluations compare it with the truth."""
        return None

    def gaussians(self) -> dict[str, Tensor] | None:
        """Gaussian windows to be drawn, ``mean_px`` (U, 2) as x and y, ``std_px`` (U, 2), ``angle_deg`` (U,); None:
        there are none."""
        return None
