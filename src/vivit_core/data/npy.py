"""Opens .npy files of other people's folders: mapped into memory, never unpickled, never followed out of the folder."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vivit_core.specs import RecordingError

# What numpy raises where the bytes of an .npy or .npz file are damaged, or are pickled objects.
DAMAGED_NPY = (
    *(OSError, ValueError, EOFError, SyntaxError, OverflowError, MemoryError, KeyError, NotImplementedError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def open_npy(folder: Path, name: str, ndim: Sequence[int], kinds: str, what: str) -> np.ndarray:
    """Map a .npy file of a folder into memory; nothing in it is unpickled.

    Parameters
    ----------
    folder : its folder; links that lead out of it are refused.
    name : the file's path inside.
    ndim, kinds : ranks and kinds of numpy types that will do.
    what : the array that ought to be there, for the error.

    Raises
    ------
    RecordingError
        Where the file is missing, truncated, pickled, of another shape or type, or elsewhere.
    """
    path = folder / name
    require_file(folder, path, what)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED_NPY as error:
        raise RecordingError(
            path, "array", f"cannot be read: {error}", f"Write it again by np.save(…, allow_pickle=False): {what}"
        ) from error
    if not isinstance(array, np.ndarray):  # an .npz under another name
        array.close()
        raise RecordingError(path, "array", "is an archive of several arrays", f"Write by np.save: {what}")
    if array.ndim not in ndim or array.dtype.kind not in kinds:
        raise RecordingError(path, "array", f"has shape {array.shape} and type {array.dtype}", f"It ought to be {what}")
    return array


def require_file(folder: Path, path: Path, what: str) -> None:
    """Refuse a file that is missing or lies, by a link, outside of the folder."""
    if not path.is_file():
        dangling = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise RecordingError(path, "file", f"missing{dangling}", f"Complete the source; it ought to hold {what}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RecordingError(
            path, "file", f"is a link out of {folder}", "Copy the file into the folder; such links are not followed"
        )
