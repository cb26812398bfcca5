"""What the machine needs to be told."""

from __future__ import annotations

import ctypes
import sys

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
