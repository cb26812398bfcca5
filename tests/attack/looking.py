"""What is there: whether every file is whole, and what a training, an import or a sweep came to. Called in forks."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

KEPT = re.compile(r"\.held|\..*\.lock")  # hidden files that stay: locks of files
# Of a run folder whose process was killed before it could say whose it is: nobody goes on with it. Nor does anybody
# with the outcomes of a sweep that was killed: its trainings go on in another sweep.
NAMELESS = (".config.yaml.", ".overrides.yaml.", ".environment.json.")
TRAINED = "trained.json"  # a note for who begins again, written where the training itself was not complete before
UNLIKE = ("checkpoint", "seconds")  # of a summary, which differ from run to run


def digest(values: Any) -> str:
    """Of arrays, tensors and plain values, to the bit."""
    made = hashlib.sha256()
    for name in sorted(values):
        value = values[name]
        array = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
        made.update(f"{name} {array.dtype} {array.shape}".encode())
        made.update(np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array.tolist()).encode())
    return made.hexdigest()[:16]


def rows_of(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n"), "its last line is cut"
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert all(len(row) == len(header) for row in rows), "a row is cut"
    return [dict(zip(header, row, strict=True)) for row in rows]


def page_of(path: Path) -> list[str]:
    """The sections of a report."""
    text = path.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>"), "the page is cut"
    begun = re.findall(r"<!-- section (\S+) -->", text)
    ended = re.findall(r"<!-- end of section (\S+) -->", text)
    assert begun == ended or not begun, "a section is cut"
    return ended


def recording_of(path: Path) -> str:
    from fuzzing import read_recording

    return read_recording(path)


def read(path: Path) -> Any:
    """Read a file to its end as what its name says it is; raises where it is not."""
    import torch
    import yaml
    from matplotlib.image import imread

    if path.suffix == ".ckpt":
        return torch.load(path, weights_only=True, map_location="cpu")
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    readers: dict[str, Any] = {
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".yaml": lambda path: yaml.safe_load(path.read_text(encoding="utf-8")),
        ".csv": rows_of,
        ".png": imread,
        ".html": page_of,
        ".h5": recording_of,
    }
    return readers[path.suffix](path) if path.suffix in readers else path.read_bytes()


def halves(folder: str, leftovers_too: bool = False, begun: str | None = None) -> list[str]:
    """Files that are not whole; and, where asked for, hidden ones that nobody needs any more.

    Parameters
    ----------
    folder : where they are sought.
    leftovers_too : whether what begins with a dot is to be gone, but for locks.
    begun : a glob of run folders of which all but the newest were killed, and which nobody goes on with.
    """
    found = []
    given_up = sorted(Path(folder).glob(begun), key=lambda path: path.stat().st_mtime_ns)[:-1] if begun else []
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            nameless = path.name.startswith(NAMELESS) and not (path.parent / "environment.json").is_file()
            unsummed = path.parent.name == "outcomes" and not (path.parent.parent / "sweep_summary.csv").is_file()
            kept = KEPT.fullmatch(path.name) or nameless or unsummed or {*path.parents} & {*given_up}
            if leftovers_too and not kept:
                found.append(f"{path} is left ({path.stat().st_size} bytes)")
            continue
        try:
            read(path)
        except Exception as error:
            found.append(f"{path} ({path.stat().st_size} bytes) is not whole: {type(error).__name__}: {error}"[:400])
    return found


def left(folders: list[str]) -> list[str]:
    """Whatever is in folders that are to be empty."""
    return [f"{path} is left" for folder in folders for path in sorted(Path(folder).rglob("*")) if path.is_file()]


# Facts: equal, to the bit, in what was disturbed and what was not -----------------------------------------------------


def without(summary: Any) -> Any:
    if isinstance(summary, dict):
        return {key: without(value) for key, value in summary.items() if key not in UNLIKE}
    return summary


def training(outputs: str) -> dict[str, Any]:
    """Facts of the finished trainings under a folder, by their seeds."""
    found: dict[str, Any] = {}
    for finished in sorted(Path(outputs).rglob("finished.json")):
        run = finished.parent
        rows = rows_of(run / "metrics.csv")
        steps = [(row["step"], bool(row.get("val/loss"))) for row in rows]
        seed = json.loads((run / "environment.json").read_text())["seed"]
        assert seed not in found, f"two finished trainings of seed {seed}"
        found[seed] = {
            "weights": {path.name: weights(path) for path in sorted((run / "checkpoints").glob("*"))},
            "metrics": [{k: v for k, v in row.items() if not k.startswith(("system/", "time"))} for row in rows],
            "twice": sorted({step for step, _ in steps if steps.count((step, _)) > 1}),
            "summary": without(json.loads((run / "summary.json").read_text())),
            "units": rows_of(run / "units.csv"),
            "report": page_of(run / "report.html"),
            "files": sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.name != TRAINED),
            "score": json.loads(finished.read_text()),
        }
    return json.loads(json.dumps(found))


def weights(path: Path) -> list[Any]:
    content = read(path)
    moments = {
        f"{i} {name}": value
        for i, state in content.get("optimizer_states", [{"state": {}}])[0]["state"].items()
        for name, value in state.items()
    }
    return [digest(content["state_dict"]), digest(moments), content["global_step"], content["epoch"]]


def sweep(outputs: str) -> dict[str, Any]:
    """Facts of the newest sweep under a folder, and of its trainings."""
    newest = max(Path(outputs).rglob("sweep_summary.csv"), key=lambda path: path.stat().st_mtime_ns)
    rows = [{k: v for k, v in row.items() if k != "run"} for row in rows_of(newest)]
    return {"trainings": training(outputs), "rows": rows}


def recordings(folder: str) -> dict[str, Any]:
    """What a training reads of the recordings in a folder."""
    return {path.name: recording_of(path) for path in sorted(Path(folder).glob("*.h5"))}


# What is tried --------------------------------------------------------------------------------------------------------


def make_recordings(
    folder: str, ids: Sequence[str] = ("a", "b"), units: Sequence[str] = ("u0", "u1"), behavior: str = "pupil"
) -> None:
    """Recordings of 240 bins and 8×8 px, with trials of each split; the files are a.h5, b.h5, …"""
    from vivit_core.data.recording.format import Trials
    from vivit_core.data.recording.writer import write_recording

    starts = np.arange(6) * 40
    split = np.array(["train", "train", "train", "val", "test", "test"])
    for seed, name in enumerate(ids):
        rng = np.random.default_rng(seed)
        write_recording(
            Path(folder) / f"{'abcdef'[seed]}.h5",
            recording_id=name,
            frame_rate_hz=30.0,
            frames=rng.integers(0, 256, (240, 8, 8)).astype(np.uint8),
            counts=rng.poisson(0.5, (240, len(units))),
            units={"id": list(units)},
            trials=Trials(starts, starts + 40, np.array([*"abcd", "e", "e"]), split),
            behavior={behavior: rng.normal(size=(240, 1)).astype(np.float32)},
        )


def simulate(cache: str, settings: dict[str, Any]) -> list[str]:
    """What a training does first where it has no recordings."""
    from vivit_core.data.simulate import Simulator
    from vivit_core.specs import RecordingError

    try:
        return [str(path) for path in Simulator(**settings).make(Path(cache))]
    except RecordingError as error:
        raise SystemExit(str(error)) from None


def simulations(cache: str) -> dict[str, Any]:
    return {path.name: recordings(str(path)) for path in Path(cache).iterdir() if path.is_dir()}


def evaluations(outputs: str) -> dict[str, Any]:
    """Facts of the training and of its newest evaluation, whose section stands in both reports."""
    newest = max(Path(outputs).rglob("evaluate/*/summary.json"), key=lambda path: path.stat().st_mtime_ns).parent
    (training_page,) = Path(outputs).glob("train/*/report.html")
    return {
        "summary": without(json.loads((newest / "summary.json").read_text())),
        "units": rows_of(newest / "units.csv"),
        "reports": [page_of(training_page), page_of(newest / "report.html")],
        "files": sorted(str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()),
    }
