"""What is in a recording file, and what may be wrong with it, before anything is trained on it.

One pass over responses and behavior, samples of the frames; memory depends neither on the length of the recording nor
on the size of its frames.

Shape letters: T bins, U units, H W pixels, N trials, F stimulus features, L lags.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.inspect.alignment import fields_and_alignment
from vivit_core.analysis.inspect.findings import Finding, Look, quantiles
from vivit_core.analysis.inspect.plots import page
from vivit_core.analysis.inspect.responses import behavior, responses
from vivit_core.analysis.inspect.stimulus import chunks, stimulus
from vivit_core.analysis.tables import write_summary
from vivit_core.data.checks import lack
from vivit_core.data.recording.format import SPLITS
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import validate_recording
from vivit_core.names import file_name
from vivit_core.rf.placing import CLEAR
from vivit_core.specs import RecordingError, RecordingSpec


def inspect(
    paths: Sequence[Path],
    *,
    duration_s: float,
    max_frames: int,
    out: Path,
    progress: bool = True,
    burn_in: int = 0,
    frame_rate_hz: float | None = None,
) -> dict[str, Any]:
    """Look at recordings; write ``inspect.json`` and a picture of each.

    Parameters
    ----------
    paths : recording files; a broken one is a finding, and the others are looked at.
    duration_s : history of the receptive fields, s.
    max_frames : most training frames that receptive fields and alignment use (fewer of large frames).
    out : folder for the files.
    progress : show bars.
    burn_in, frame_rate_hz : bins of a trial that are not scored, at the rate to which a training would bring the
        recordings; None for the lowest among them.

    Returns
    -------
    dict
        The content of ``inspect.json``: ``recordings`` by id, each with its numbers and ``findings``, and ``faults``,
        their number.
    """
    out.mkdir(parents=True, exist_ok=True)
    recordings: dict[str, Any] = {}
    whole: dict[Path, Recording] = {}
    for path in paths:
        try:
            validate_recording(path)
            whole[path] = Recording(path)
        except RecordingError as error:
            broken = Finding("file", "fault", error.field, error.problem, error.remedy)
            recordings[distinct(path.stem, path, recordings)] = {"path": str(path), "findings": [asdict(broken)]}
    rate_hz = frame_rate_hz or min((recording.info.frame_rate_hz for recording in whole.values()), default=1.0)
    for path, recording in whole.items():
        look = look_at(
            recording,
            duration_s=duration_s,
            max_frames=max_frames,
            progress=progress,
            burn_in_s=burn_in / rate_hz,
        )
        name = distinct(look.summary["recording"], path, recordings)
        picture = page(out / "pictures" / f"inspect_{file_name(name)}.png", look)
        found = [asdict(finding) for finding in look.findings]
        recordings[name] = {"path": str(path), **look.summary, "picture": str(picture), "findings": found}
    faults = sum(f["level"] == "fault" for r in recordings.values() for f in r["findings"])
    return write_summary(out / "inspect.json", {"faults": faults, "recordings": recordings})


def distinct(name: str, path: Path, known: Container[str]) -> str:
    """The name under which a file is reported: its recording's, and its path where another file has that one too."""
    return f"{name} ({path})" if name in known else name


def look_at(
    recording: Recording, *, duration_s: float, max_frames: int, progress: bool, burn_in_s: float = 0.0
) -> Look:
    """All checks of one recording."""
    info = recording.info
    look = Look({}, [])
    numbers = responses(recording, look, progress)
    usable(recording, look, burn_in_s)
    behaviors = behavior(recording, look)
    stimulus(recording, look)
    chunks(recording, look)
    spec = RecordingSpec(
        recording_id=info.recording_id,
        frame_rate_hz=info.frame_rate_hz,
        frame_shape=info.frame_shape,
        unit_ids=info.unit_ids,
        unit_mean_counts=tuple(numbers["mean_counts_U"].tolist()),
        pixel_mean=look.summary["pixel_mean"],
        pixel_std=look.summary["pixel_std"] or 1.0,
    )
    fields_and_alignment(recording, spec, look, duration_s, max_frames, progress)
    by_split = {}
    for split in SPLITS:
        own = info.trials.of(split)
        shown = np.array([len(rows) for rows in own.by_stimulus().values()])
        by_split[split] = {
            "trials": len(own),
            "bins": own.n_bins,
            "seconds": own.n_bins / info.frame_rate_hz,
            "stimuli": len(shown),
            "repeated_stimuli": int((shown > 1).sum()),
            "repeats": int(shown.max()) if len(shown) else 0,
            "spikes": float(numbers["spikes"][split].sum()),
        }
    look.summary = {
        "recording": info.recording_id,
        "frames": info.n_frames,
        "seconds": info.n_frames / info.frame_rate_hz,
        "frame_rate_hz": info.frame_rate_hz,
        "frame_shape": list(info.frame_shape),
        "units": info.n_units,
        "kind": info.kind,
        "rate_hz": quantiles(look.mean_rate_hz_U),
        "valid_share": numbers["valid_share"],
        "snr": quantiles(look.snr_U),
        "units_with_field": int((look.snr_U >= CLEAR).sum()),
        "splits": by_split,
        "behavior": behaviors,
        **look.summary,
    }
    recording.close()
    return look


def usable(recording: Recording, look: Look, burn_in_s: float) -> None:
    """What a training asks of a recording at its start, and says of its trials."""
    info, trials = recording.info, recording.info.trials
    burn_in = round(burn_in_s * info.frame_rate_hz)
    for split in SPLITS:
        found = lack(recording, split, burn_in if split != "train" else 0)
        if found is not None:
            look.find(found.check, "fault", f"trials/split, {split}", found.what, found.remedy)
    test = trials.of("test")
    if len(test) and all(len(rows) == 1 for rows in test.by_stimulus().values()):
        look.find(
            "no_repeats",
            "note",
            "trials/stimulus_id, test",
            "no stimulus is shown twice",
            "Explainable variance and normalized correlation, which need repeats, stay empty",
        )
    if trials.unnamed:
        look.find(
            "unnamed_stimuli",
            "note",
            f"trials/stimulus_id, {trials.unnamed} of {len(trials)} trials",
            "say no stimulus",
            "Each is taken for a stimulus of its own; give repeats one stimulus_id",
        )
    lengths = trials.stop - trials.start
    if lengths.min() < lengths.max():
        look.find(
            "unequal_trials",
            "note",
            "trials/start and trials/stop",
            f"trials have {lengths.min()} to {lengths.max()} bins",
            "Those shorter than data.clip_length are not trained on",
        )
