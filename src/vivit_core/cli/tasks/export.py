"""task=export: a recording's stream for a rig, in files that run without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vivit_core.analysis.export.files import check_kind, export_stream
from vivit_core.cli.console import tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.trained import load_trained
from vivit_core.models.ensemble import Ensemble
from vivit_core.models.twin import Twin
from vivit_core.names import setting


def export(
    context: RunContext, *, checkpoint: Path, out: Path, format: Literal["torch", "onnx"], recording: str | None
) -> None:
    """Export the streaming step of a recording: frame, behavior and state in, rates and state out.

    Parameters
    ----------
    context : the run.
    checkpoint : of a causal twin, or of an ensemble of such.
    out : a new folder.
    format : of the programs.
    recording : id of the one whose units are predicted; None: the only one.

    Raises
    ------
    ValueError
        Where the checkpoint is of no twin, the recording is not said, or the stream cannot be exported.
    """
    check_kind(format)
    trained = load_trained(checkpoint)
    twin = trained.model
    if not isinstance(twin, Twin | Ensemble):
        raise ValueError(f"checkpoint={checkpoint}: a model of kind {twin.kind} is not exported; give a twin's")
    if recording is None and len(twin.specs) > 1:
        choices = " or ".join(setting("recording", name) for name in twin.specs)
        raise ValueError(f"the checkpoint knows {len(twin.specs)} recordings, and one is exported; say {choices}")
    name = recording or next(iter(twin.specs))
    twin.index(name)
    context.describe()
    files = export_stream(twin, name, format, out)
    size = sum(file.stat().st_size for file in files)
    tell(f"wrote {out}: {len(files)} files, {size / 1e6:.1f} MB; its rates equal the stream's to 1e-4 of the largest")
    tell(f"time its bins: task=stream checkpoint={checkpoint} recording={name} exports=[{out}]")
