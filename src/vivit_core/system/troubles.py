"""What the system refused, in words: which file, what, and how to mend it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vivit_core.system.files import NoRoomError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


NO_PLACE = "No usable temporary directory"  # of Python's tempfile


def reason(error: OSError) -> str:
    """What was wrong, without Python's number and name."""
    return (error.strerror or str(error)).strip()


def trouble(error: OSError, places: Mapping[str, Path] | None = None) -> str | None:
    """A system's error in a line: where, what, and what to do; None where it names neither a file nor a full disk.

    Parameters
    ----------
    error : as Python raised it.
    places : setting -> the folder or file that it chooses, so that the remedy can name the setting.
    """
    if isinstance(error, NoRoomError):
        return str(error)
    places = places or {}
    if error.errno in FULL and error.filename is None:
        places = {**places, "the environment variable TMPDIR": _temporary()}
        room = {setting: free for setting, place in places.items() if (free := _free(place)) is not None}
        setting = min(room, key=lambda name: room[name])
        return (
            f"{places[setting]}: {reason(error)} ({room[setting] / 1e6:.0f} MB are free there); make room, or choose "
            f"another place by {setting}"
        )
    if isinstance(error, FileNotFoundError) and NO_PLACE in reason(error):
        return f"{reason(error)}; set the environment variable TMPDIR to a folder that you may write into"
    if error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else Path(str(error.filename))
    return f"{path}: {reason(error)}; {_remedy(error, _setting_of(path, places))}"


def _remedy(error: OSError, setting: str | None) -> str:
    by = f"by {setting}" if setting is not None else "(outputs=FOLDER for runs, data.cache=FOLDER for simulated data)"
    if error.errno in FULL:
        return f"make room, or choose another place {by}"
    if error.errno in REFUSED:
        return f"ask for the right to it, or choose another place {by}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n 4096), or close some"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST):
        return f"correct the path{f', which {setting} chooses' if setting is not None else ''}"
    return f"try again, or choose another place {by}"


def _setting_of(path: Path, places: Mapping[str, Path]) -> str | None:
    """The setting whose place holds ``path``: the innermost one."""
    path = Path(os.path.abspath(path))
    holding = {
        setting: absolute
        for setting, place in places.items()
        if path.is_relative_to(absolute := Path(os.path.abspath(place))) or absolute.is_relative_to(path)
    }
    return max(holding, key=lambda setting: len(holding[setting].parts)) if holding else None


def _temporary() -> Path:
    with suppress(OSError):
        return Path(tempfile.gettempdir())
    return Path("/tmp")


def _free(place: Path) -> int | None:
    """Bytes that are free where a place is, or is to be."""
    for folder in (place, *Path(os.path.abspath(place)).parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None
