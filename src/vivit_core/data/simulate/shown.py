"""What the trials of one recording show, and what a wrong eye tracker makes of it.

Shape letters: N trials, T bins (= frames), H W pixels, U units, 2 = (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivit_core.data.simulate.population import FloatArray


@dataclass(frozen=True, eq=False)
class Shown:
    """What the trials of one recording show."""

    frames_NTHW: NDArray[np.uint8]
    stimulus_N: NDArray[np.str_]
    split_N: NDArray[np.str_]
    own_NTU: FloatArray  # energy of each unit's own filters, in units of its mean


@dataclass(frozen=True, eq=False)
class Told:
    """What a wrong eye tracker makes of a recording."""

    frames_NTHW: NDArray[np.uint8]  # where it says that the eye looked
    position_NT2: FloatArray  # degrees
