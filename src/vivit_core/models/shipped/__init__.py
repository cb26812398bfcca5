"""The trained twins that come with the package: published folders (``models/published``), each below this one.

``make pretrained`` trains them (``tools/pretrained.py``).
"""

from __future__ import annotations

from pathlib import Path

NAMES = ("simulated",)  # each is a folder here


def shipped(path: str | Path) -> Path | None:
    """The folder of the twin that a plain name stands for; None where ``path`` is no such name.

    The name wins over a file or folder here that is called alike; that is named by its full path, or in a text with
    ``./`` before it, which a ``Path`` leaves out.
    """
    return Path(__file__).parent / str(path) if str(path) in NAMES else None
