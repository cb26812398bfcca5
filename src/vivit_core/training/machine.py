"""What the machine needs to be told."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from importlib.util import find_spec
from typing import Literal

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Let the C library keep large freed blocks for the next tensor instead of giving them back to the system.

    A training step on a CPU makes and frees the same large tensors again and again. By default each of them is mapped
    anew, and the system clears its pages first: an elementwise pass over new memory then takes two to three times as
    long as over memory that is there.

    Returns
    -------
    Whether it could be set (glibc alone has these settings).
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(
        libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1) and libc.mallopt(M_TOP_PAD, 256 << 20)
    )


PAYS_FROM = 1000  # passes; compiling takes half a minute to a minute, and saves a fifth to a half of a pass's blocks


def compiles(choice: bool | Literal["auto"], device: str, passes: int) -> bool:
    """Whether a training of so many passes is to compile its blocks.

    Raises
    ------
    ValueError
        Where compiling is demanded and the machine lacks what it needs.
    """
    if choice is False or (choice == "auto" and passes < PAYS_FROM):
        return False
    compiler = os.environ.get("CXX", "g++")
    there = find_spec("triton") is not None if device == "cuda" else shutil.which(compiler) is not None
    if choice is True and not there:
        need = "the package triton" if device == "cuda" else f"a C++ compiler ({compiler}; CXX names another)"
        raise ValueError(f"model.compile=true needs {need}, which is not here; install it, or set model.compile=auto")
    return there
