"""What a picture in a file must be like, whoever drew it."""

from __future__ import annotations

from pathlib import Path

from matplotlib.image import imread


def is_picture(path: Path) -> bool:
    """Readable, of a sensible size, and not one flat color."""
    pixels = imread(path)
    return pixels.shape[0] > 200 and pixels.shape[1] > 300 and float(pixels.std()) > 0.01
