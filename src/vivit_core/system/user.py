"""Who runs the program, where the machine does not say."""

from __future__ import annotations

import getpass
import os
import tempfile


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
