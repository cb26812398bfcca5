"""task=export: a recording's stream for a rig, in files that run without this package; or a benchmark's submission."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vivit_core.analysis.export.files import check_kind, export_stream
from vivit_core.analysis.export.sensorium2023 import check_library, export_sensorium2023
from vivit_core.cli.console import tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.trained import load_trained
from vivit_core.models.ensemble import Ensemble
from vivit_core.models.twin import Twin
from vivit_core.names import setting


def export(
    context: RunContext,
    *,
    checkpoint: Path,
    average: bool,
    out: Path,
    format: Literal["torch", "onnx", "sensorium2023"],
    recording: str | None,
    source: Path | None,
) -> None:
    """Export the streaming step of a recording: frame, behavior and state in, rates and state out. Or predict the test
    trials of a benchmark, and write what is submitted to it.

    Parameters
    ----------
    context : the run.
    checkpoint : of a causal twin, or of an ensemble of such; for a submission, of any model.
    average : take the averaged weights, which ``callbacks=ema`` keeps.
    out : a new folder.
    format : of the programs, or the benchmark.
    recording : id of the one whose units are predicted; None: the only one, or for a submission all.
    source : the benchmark's own folders; None where programs are exported.

    Raises
    ------
    ValueError
        Where the checkpoint is of no twin or holds no averaged weights, the recording is not said, the stream cannot
        be exported, or the benchmark's folders are not those that the model knows.
    """
    if (source is None) == (format == "sensorium2023"):
        raise ValueError(
            "format=sensorium2023 predicts the trials of the competition's folders; say where they are by source=FOLDER"
            if source is None
            else f"source={source}: format={format} reads none; leave it out, or say format=sensorium2023"
        )
    if format == "sensorium2023":
        assert source is not None
        submit(context, checkpoint, average, source, out, recording)
        return
    check_kind(format)
    trained = load_trained(checkpoint, average)
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
    if trained.weights is not None:
        tell(trained.weights)
    if isinstance(twin, Twin) and twin.histories is not None:
        tell("past counts are not seen by it: rates are those that the stream gives where nothing is observed")
    tell(f"time its bins: task=stream checkpoint={checkpoint} recording={name} exports=[{out}]")


def submit(
    context: RunContext, checkpoint: Path, average: bool, source: Path, out: Path, recording: str | None
) -> None:
    """Write a submission to Sensorium 2023."""
    check_library()
    trained = load_trained(checkpoint, average)
    transforms = trained.transforms
    context.describe()
    files = export_sensorium2023(
        trained.model,
        source,
        out,
        recording=recording,
        transforms=transforms,
        device=context.device,
        tell=tell,
    )
    if trained.weights is not None:
        tell(trained.weights)
    for file in files:
        tell(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
