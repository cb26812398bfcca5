"""What a core, or a tokenizer in it, may begin from instead of at random.

Shape letters: B clips, C channels, T frames, H W pixels, F fields, K filters in time, P pixels of a side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor


class FieldsWanted(NamedTuple):
    """Which receptive fields a part can take over.

    Attributes
    ----------
    number : at most so many.
    side : px; at most so wide and high.
    lags : frames that they look back over; None where the part sees what a front end makes, and they weigh its filters.
    """

    number: int
    side: int
    lags: int | None = None


class FromData:
    """A part that can begin from data; without a word of its own it begins at random.

    A training asks ``fields_wanted``, calls ``initialize`` where there are such fields, and then ``normalize``. A core
    is given the video. A tokenizer, also one within another, is given what the core's front end makes of it; in a core
    without a front end it begins at random.
    """

    def fields_wanted(self) -> FieldsWanted | None:
        """The receptive fields that ``initialize`` takes; None: none."""
        return None

    def initialize(self, fields_FKPP: Tensor) -> None:
        """Begin with typical receptive fields of the units, found by the LN baseline.

        Parameters
        ----------
        fields_FKPP : unit norm; at most as many and as wide as ``fields_wanted`` says. K are the front end's filters,
            or the lags, oldest first.
        """

    def normalize(self, clips: Iterable[Tensor]) -> None:
        """Scale what is there to what it will see.

        Parameters
        ----------
        clips : (B, C, T, H, W) of each recording, which may differ in length. Each is made when it is asked for, once.
        """
