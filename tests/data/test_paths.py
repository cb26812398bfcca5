"""Which files of a folder are recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivit_core.data.paths import inside


def test_hidden_files_and_folders_hold_no_recordings(tmp_path: Path) -> None:
    """Also of a root that is itself below a hidden folder, as a cache is."""
    root = tmp_path / ".cache"
    for name in (".simulated-abc.unfinished/sim0.h5", ".a.h5"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    with pytest.raises(ValueError, match=r"holds no \*\.h5 file"):
        inside(root)
    (root / "simulated-abc").mkdir()
    (root / "simulated-abc" / "sim0.h5").touch()
    assert inside(root) == [root / "simulated-abc" / "sim0.h5"]
