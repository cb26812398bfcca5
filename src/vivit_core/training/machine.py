"""What the machine needs to be told."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["32-true", "bf16-mixed"]
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


def exact_float32() -> None:
    """Let float32 be float32 on a GPU: by default torch's convolutions compute in TF32 there, with 10 bits for 23, so
    that a stream would differ from its clip in the third digit. Training in bfloat16 loses nothing by it."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def bf16_is_native() -> bool:
    """Whether the GPU computes in bfloat16 itself (from compute capability 8.0 on); others emulate it, or refuse it for
    convolutions."""
    return torch.cuda.get_device_capability() >= (8, 0)


def precision_on_gpu(chosen: Precision | None, budget: Precision, native: bool) -> Precision:
    """What a GPU trains in: what was chosen (``trainer.precision``), else the budget's, but float32 instead of bfloat16
    where the GPU does not compute in it (``bf16_is_native``)."""
    if chosen is not None:
        return chosen
    return "32-true" if budget == "bf16-mixed" and not native else budget


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
    lacks = lacks_to_compile(device)
    if choice is True and lacks is not None:
        raise ValueError(f"model.compile=true needs {lacks}, which is not here; install it, or set model.compile=auto")
    return lacks is None


def lacks_to_compile(device: str) -> str | None:
    """What torch's compiler needs on this machine and does not find; None where it has all."""
    known: tuple[str, ...] = ("g++",)
    named, variable = "C++ compiler", "CXX"
    if device == "cuda":
        if find_spec("triton") is None:
            return "the package triton"
        if torch.cuda.get_device_capability() < (7, 0):
            return "a GPU of compute capability 7.0 or more"
        # Triton compiles each kernel's launcher with it.
        named, known, variable = "C compiler", ("gcc", "clang"), "CC"
    chosen = os.environ.get(variable)
    if not any(shutil.which(name) for name in ([chosen] if chosen else known)):
        return f"a {named} ({chosen or known[0]}; {variable} names another)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's header files (Debian: python3-dev)"
    return None
