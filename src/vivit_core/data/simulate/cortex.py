"""Where simulated units lie in the tissue: a retinotopic map of the frame.

Shape letters: U units, H W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# --- the choices, units in the names ---
SHEET_UM = 1000.0  # what the frame's width takes up of the cortex along its middle row
SCATTER_PX = 1.5  # standard deviation of a receptive field's place around what the map says, along each axis
DEPTH_UM = (100.0, 600.0)  # below the surface; says nothing of the place


def positions(center_px: FloatArray, frame_shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """Positions (U, 3) in micrometers, two along the cortex and the depth, of units whose receptive fields lie there.

    The map is the complex logarithm (Schwartz 1977), from a point one frame's width to the left of the frame: a pixel
    at the left border takes up twice the cortex of one at the right. Fields scatter around it, and the axes along the
    cortex are turned by some angle, as those of a microscope are.

    Parameters
    ----------
    center_px : (U, 2) x, y of the receptive fields.
    frame_shape : H, W.
    rng : of scatter, turn and depth.
    """
    height, width = frame_shape
    x_U, y_U = (center_px + SCATTER_PX * rng.standard_normal(center_px.shape)).T
    from_fovea_U = np.maximum(1 + x_U / width, 0.1) + 1j * (y_U - (height - 1) / 2) / width
    along_U = SHEET_UM / np.log(2) * np.log(from_fovea_U) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    depth_U = rng.uniform(*DEPTH_UM, len(center_px))
    return np.stack([along_U.real, along_U.imag, depth_U], axis=1).astype(np.float32)
