"""Recordings as Lightning's trainer takes them. ``data`` itself knows no trainer: who evaluates needs none."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.loaders import EvaluationLoader, TrainingLoader


class TrainingData(LightningDataModule):
    """What a trainer asks of the recordings, and the place that it keeps for resuming.

    Parameters
    ----------
    recordings : where the batches come from.
    """

    def __init__(self, recordings: RecordingsDataModule) -> None:
        super().__init__()
        self.recordings = recordings

    def prepare_data(self) -> None:
        self.recordings.prepare_data()

    def setup(self, stage: str) -> None:
        self.recordings.setup()

    def train_dataloader(self) -> TrainingLoader:
        return self.recordings.train_dataloader()

    def val_dataloader(self) -> EvaluationLoader:
        return self.recordings.val_dataloader()

    # Lightning 2.6 gives a loader its state back only where it thinks an epoch is unfinished, so that a run resumed
    # from an epoch's end would begin again with sample 0. The data module is always given its state.
    def state_dict(self) -> dict[str, Any]:
        return self.recordings.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.recordings.load_state_dict(state_dict)
