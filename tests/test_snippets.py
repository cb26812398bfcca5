"""Python on pages that are no tutorials runs as it is written, with what the reader has by then."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import clips, spec, twin, vivit

from vivit_core.data.importers.arrays import ArraysImporter
from vivit_core.system.tables import write_table

DOCS = Path(__file__).resolve().parents[1] / "docs"


def run(page: str, title: str, names: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Python below a title of a page leaves, where the reader has some names; it runs in a folder."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


def test_spike_times_become_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bins run from onset to onset; a dropped frame stays on the screen; behavior is what was known at a bin's end."""
    onset_s = np.array([0.0, 0.1, 0.2, 0.4, 0.5])  # the frame that 0.3 s would have shown was dropped
    session = {
        "frame_s": 0.1,
        "trials": [(np.arange(5)[:, None, None] * np.ones((1, 3, 4)), onset_s + begin) for begin in (1.0, 9.0)],
        "spike_times_s": [
            np.array([9.35, 1.0, 1.05, 1.1]),  # in no order; at an onset a spike is in the bin that begins
            np.array([0.99, 1.6001, 5.0, 9.55]),  # before, behind and between trials there is no bin
        ],
        "sample_s": np.array([1.05, 1.1, 9.2]),
        "running": np.array([1.0, 2.0, 3.0]),
    }
    left = run("recordings.md", "From spike times to counts", session, tmp_path, monkeypatch)
    assert left["frames"][:, 0, 0].tolist() == [0, 1, 2, 2, 3, 4] * 2
    assert left["counts"].T.tolist() == [[2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], [0] * 11 + [1]]
    assert left["behavior"].tolist() == [2.0] * 7 + [3.0] * 5
    assert left["valid"].all() and left["trial_start"].tolist() == [0, 6]
    unset: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(ArraysImporter))
    given = {"recording_id": "r", "frame_rate_hz": 10, "counts_axis": "time_unit", "split": "train", "kind": "spikes"}
    importer = ArraysImporter(**unset | given)
    with importer.read(tmp_path / "X.npz") as made:
        assert made.trials.stop.tolist() == [6, 12] and list(made.behavior) == ["running"]


def test_a_picture_is_drawn_again_as_a_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "units.csv", [{"recording": "=r", "unit": str(i), "bps": i, "ln_bps": 0} for i in range(3)])
    run("analyses.md", "Draw it yourself", {}, tmp_path, monkeypatch)
    assert (tmp_path / "twin_against_ln.pdf").read_bytes().startswith(b"%PDF")


def reader_of_a_twin() -> dict[str, Any]:
    """What the page's reader has: a twin, and frames and behavior of one of its recordings."""
    of = spec("sim0")
    clip = clips(of, count=1, bins=8)
    return {
        "twin": twin(vivit(), of).eval(),
        "frames": clip["frames"][0].numpy(),
        "behavior": clip["behavior"][0].numpy(),
    }


def test_features_of_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight frames a core of bare tubelets of four makes two steps."""
    left = run("twin.md", "What the core computes", reader_of_a_twin(), tmp_path, monkeypatch)
    ((name, only),) = left["maps"].items()
    assert (name, only.x_BCTHW.shape, only.stride) == ("map 0", (1, 16, 2, 3, 4), 4)


@pytest.mark.pictures
def test_attention_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of_a_twin()
    left = run("twin.md", "Where it attends", reader, tmp_path, monkeypatch)
    assert left["seen"].shape == (8, *reader["twin"].specs["sim0"].frame_shape[1:])
    assert (tmp_path / "attention" / "attention_rollout.png").is_file()
