"""What a twin knows of a recording's training trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vivit_core.data.resample import ResampledRecording
from vivit_core.data.statistics import training_statistics


@pytest.mark.filterwarnings("ignore:overflow")
def test_bins_that_are_not_valid_have_no_part_in_mean_counts(make: Callable[..., Path]) -> None:
    """Whatever stands there: the sum of two that fill float32 is infinite."""
    counts, valid = np.ones((120, 3), np.float32), np.ones((120, 3), bool)
    counts[10:12, 1], valid[10:12, 1] = np.finfo(np.float32).max, False
    view = ResampledRecording(make(counts=counts, valid=valid), 50.0)
    assert np.isinf(view.counts(5, 6)[0, 1])
    assert training_statistics(view, {}).unit_mean_counts == (2.0, 2.0, 2.0)
