"""A recording file as a trained model sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vivit_core.data.resample import ResampledRecording
from vivit_core.models.checkpoint import settings_of
from vivit_core.models.load import predictor_in, read_trained
from vivit_core.parts.build import build_data
from vivit_core.parts.groups import consent


def load_recording(path: str | Path, checkpoint: str | Path, packages: Sequence[str] = ()) -> ResampledRecording:
    """A recording file as the model of a checkpoint sees it, and as all tasks show it: at the model's rate, with the
    pixels and behaviors that the training's ``data.transforms`` make, and its units in the model's order. A behavior
    that the file lacks is at the mean that the model knows.

    Parameters
    ----------
    path : of a recording that the model knows, by its recording id or its unit ids.
    checkpoint : of a twin, an ensemble or an LN model, or what else :func:`vivit_core.models.load.load_twin` loads.
    packages : other packages whose classes it may be made of, because you trust them: importing one runs its code.

    Returns
    -------
    ResampledRecording
        Its ``frames``, and its ``behavior`` of ``twin.specs[recording_id].behavior``, are what ``twin.rates`` takes.

    Raises
    ------
    ValueError
        Where the checkpoint cannot be read or does not say how its data were prepared, or the file is no recording that
        its model knows.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file; name a recording file")
    with consent(packages):
        content = read_trained(checkpoint)
        settings = settings_of(checkpoint, content)
        if settings is None:
            raise ValueError(
                f"{checkpoint} does not say how its data were prepared, because no training wrote it; open {path} by "
                "vivit_core.data.resample.ResampledRecording, with the rate and the transforms that the model learned"
            )
        datamodule = build_data(settings["data"] | {"recordings": [str(path)]})
        datamodule.configure(specs=list(predictor_in(checkpoint, content).specs.values()))
        datamodule.setup()
    recording: ResampledRecording = datamodule.recordings[0]
    return recording
