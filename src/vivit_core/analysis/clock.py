"""How long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def clocked(call: Callable[[], object]) -> float:
    """Seconds of one call, with a GPU's work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
