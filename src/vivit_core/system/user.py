"""Who runs the program, where the machine does not say, and where this user's cache is."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import platformdirs


def give_names() -> None:
    """A name and a home's stand-in for a user whom the machine does not know, as containers run programs.

    Without them torch's compiler and W&B raise KeyError, and triton makes a folder called ``~``.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["USER"] = f"uid{os.getuid()}"
    if os.path.expanduser("~") == "~":
        os.environ.setdefault("TRITON_HOME", tempfile.gettempdir())


def cache_folder(name: str) -> Path | None:
    """A folder of the user's cache, which may not be there yet; None where this user has no place for one."""
    try:
        return platformdirs.user_cache_path("vivit-core", appauthor=False) / name
    except RuntimeError:  # no HOME and no entry in the list of users, as in a container
        return None
