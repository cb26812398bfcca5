"""Long tests of whole trainings: of recordings that differ in all they may, and of one that no memory holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest

from vivit_core.data.simulate import Simulator

KINDS = {
    "fast": {"seed": 21, "frame_rate_hz": 120.0, "height": 18, "width": 32, "units": 24, "degrees_per_pixel": 0.03},
    "slow": {"seed": 22, "frame_rate_hz": 60.0, "height": 16, "width": 24, "units": 20, "degrees_per_pixel": 0.045},
}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_each_beats_its_own_ln(command, tmp_path: Path) -> None:
    for name, fields in KINDS.items():
        (path,) = Simulator(recordings=1, train_trials=60, **fields).make(tmp_path / "cache")  # type: ignore[arg-type]
        shutil.copy(path, tmp_path / f"{name}.h5")
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            file.attrs["recording_id"] = name
            if name == "slow":
                del file["behavior/eye_velocity"]
    code, printed = command(
        f"data.recordings=[{tmp_path}/fast.h5,{tmp_path}/slow.h5]", "data.clip_length=150", "data.burn_in=25",
        "model.frame_size=[18,32]", "model.frontend.lags=12", "model.tokenizer.patch_size=[5,6,8]",
        "model.tokenizer.channels=24", "model.window=150", "model.embedding_dim=48", "model.spatial_depth=2",
        "model.temporal_depth=2", "model.compile=false", "trainer.batch_size=4", "trainer.epochs=4",
        "trainer.steps_per_epoch=80", "trainer.max_minutes=60",
    )  # fmt: skip
    assert code == 0, printed
    assert "120 Hz is brought to 60 Hz" in printed and "has no behaviour 'eye_velocity'" in printed
    summary = json.loads(next(Path("outputs").rglob("summary.json")).read_text())
    for name, scores in summary["recordings"].items():
        assert scores["bps_mean"] > scores["ln_bps_mean"] > 0.3, name
