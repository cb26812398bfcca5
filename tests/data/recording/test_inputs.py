"""What the writer asks of arrays before it writes anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vivit_core.data.recording.reader import Recording
from vivit_core.specs import RecordingError

MARKS = np.arange(120)[:, None] % 7 != 3


@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "float32"])
def test_marks_may_be_ones_and_zeros(kind: str, make: Callable[..., Path]) -> None:
    recording = Recording(make(valid=MARKS.astype(kind)))
    np.testing.assert_array_equal(recording.valid(0, 120), np.repeat(MARKS, 3, 1))


@pytest.mark.parametrize(
    ("value", "says"),
    [(np.nan, "row 5 holds nan"), (2.0, "row 5 holds 2"), (-1.0, "row 5 holds -1"), (0.5, "row 5 holds 0.5")],
)
def test_other_marks_are_refused(value: float, says: str, make: Callable[..., Path], tmp_path: Path) -> None:
    marks = MARKS.astype(np.float32)
    marks[5] = value
    with pytest.raises(RecordingError, match=rf"a\.h5: responses/valid: {says}, which is neither true nor false"):
        make(valid=marks)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "says"), [("bool", "true and false"), ("int64", "integers"), ("uint16", "integers"), ("U1", "text")]
)
def test_frames_are_bytes_or_floats(kind: str, says: str, make: Callable[..., Path], tmp_path: Path) -> None:
    frames = np.ones((120, 4, 6), kind)
    with pytest.raises(RecordingError, match=rf"a\.h5: stimulus/frames: holds {says} \(.*"):
        make(frames=frames)
    assert not list(tmp_path.iterdir())
    if kind != "U1":  # the remedy that it names
        assert Recording(make(frames=frames.astype(np.uint8))).info.frame_dtype == "uint8"
