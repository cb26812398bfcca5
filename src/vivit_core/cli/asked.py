"""What a training is asked for, from the settings of ``task=train`` to whatever reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vivit_core.cli.validate import moved
from vivit_core.models.predictor import Predict
from vivit_core.parts.schema import Node


@dataclass(frozen=True)
class Asked:
    """The keywords of :func:`vivit_core.cli.tasks.train.train` that say what is trained, on what, and how."""

    predict: Predict
    model: Node
    readout: Node
    likelihood: Node
    baseline: Node | None
    data: Node
    optim: Node
    callbacks: Mapping[str, Node | None]
    logger: Mapping[str, Node | None]
    init_from: Path | None

    def moved(self, old: str, new: str) -> Asked:
        """The same with the files of a run in another folder."""
        return replace(
            self,
            data=moved(self.data, old, new),
            callbacks=moved(self.callbacks, old, new),
            logger=moved(self.logger, old, new),
        )
