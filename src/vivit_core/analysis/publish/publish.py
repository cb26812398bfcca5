"""A trained twin becomes a folder that can be shared: weights, description, card and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_core.analysis.publish.card import About, card
from vivit_core.analysis.publish.scores import Scores
from vivit_core.models.checkpoint import version
from vivit_core.models.predictor import Predictor
from vivit_core.models.published import CARD, shared, write_published
from vivit_core.system.files import atomic_write, new_folder, write_text

PICTURES = {  # of an evaluation, and of the training
    "distribution": "Scores over units, beside the linear-nonlinear model's",
    "performance": "Scores by place and by rate",
    "rasters": "Repeats of a stimulus, and averages over them, measured and predicted",
    "rates": "Measured and predicted rates",
    "learning_curve": "Loss and validation score over the training",
}
MOST_BYTES = 2 << 20  # of a picture


def write_folder(
    out: Path,
    model: Predictor,
    baseline: Predictor | None,
    settings: Mapping[str, Any] | None,
    scores: Scores,
    about: About,
) -> list[str]:
    """Write the folder; returns the names of its files.

    Parameters
    ----------
    out : a new folder.
    model, baseline : the twin, and its linear baseline.
    settings : of its training; None where they are not known.
    scores : of its evaluation.
    about : what its publisher says.

    Raises
    ------
    ValueError
        Where the folder is not new, or the model cannot be kept.
    OSError
        Where the disk is full.
    """
    data = None if settings is None else settings["data"]
    simulated = data is not None and data["recordings"] is None and data["root"] is None
    pictures = []
    with new_folder(out) as making:
        for kind, caption in PICTURES.items():
            for path in sorted((scores.folder / "pictures").glob(f"{kind}*.png"))[:1]:
                if path.stat().st_size <= MOST_BYTES:
                    with atomic_write(making / "pictures" / f"{kind}.png") as temporary:
                        shutil.copyfile(path, temporary)
                    pictures.append((f"pictures/{kind}.png", caption))
        told = card(
            model,
            scores,
            about,
            simulated=simulated,
            pictures=pictures,
            version=version(),
        )
        write_text(making / CARD, told)
        files = write_published(making, model, baseline, shared(settings))
    return [CARD, *(path for path, _ in pictures), *(path.name for path in files)]
