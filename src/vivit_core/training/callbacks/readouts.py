"""The readouts' weights, fitted when the training has made its last step."""

from __future__ import annotations

from itertools import product

from lightning.pytorch import Callback, LightningModule, Trainer

from vivit_core.data.datamodule import PASS, RecordingsDataModule
from vivit_core.data.recording.reader import Recording
from vivit_core.system.activity import stage
from vivit_core.training.beside_rates import fit_beside_rates, parts_beside_rates
from vivit_core.training.budget import FORWARD
from vivit_core.training.callbacks.averaging import Averaging
from vivit_core.training.data import TrainingData
from vivit_core.training.module import TwinModule
from vivit_core.training.readout_fit import deciding, fit_readout

BESIDE = 0.5  # of the fit's clips, looked at once more for what is fitted beside the rates: it has fewer numbers

REGRESSION = 0.1  # of the time that the core takes for what the fit sees


class FitReadouts(Callback):
    """After the last optimizer step, and before the validation that follows it, gives each readout the weights that
    predict the training trials best, on the core as it is then (``training/readout_fit.py``).

    What weighs past counts, and what units share, is fitted after that, beside the rates that stand then
    (``training/beside_rates.py``). An average of the weights is fitted likewise, on its own core: without it its scores
    would be those of another kind of twin.

    A training that ends earlier, by early stopping or a signal, has no last step, and keeps its weights. So do twins
    that learn from a teacher.

    Parameters
    ----------
    bins : of a recording's training trials that the fit sees at most. Where a training has a limit of time, the fit
        takes its share of that (``AFTER`` in ``training/budget.py``) and sees as many as there is time for.

    Raises
    ------
    ValueError
        For a number below 1.
    """

    def __init__(self, bins: int) -> None:
        if bins < 1:
            raise ValueError(f"callbacks.readouts.bins={bins} must be 1 or more; callbacks.readouts=null fits nothing")
        self.bins = bins

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, TwinModule)
        self.reckon(trainer, pl_module)

    def reckon(self, trainer: Trainer, pl_module: TwinModule) -> None:
        """Say how much is to be done after the last step."""
        if self.fits(pl_module):
            data = data_of(trainer)
            looked_at = 0.0
            for bins in map(self.most, data.recordings):
                looked_at += (1 + REGRESSION) * (bins + deciding(bins))
                if parts_beside_rates(pl_module.twin):
                    beside = int(BESIDE * bins)
                    looked_at += beside + deciding(beside)
            fits = 1 + len(averagings(trainer))
            length, burn_in = windows_of(data)
            clips = fits * looked_at * length / (length - burn_in) / data.clip_length
            # The first of the processes fits alone, and a batch is of all of them together.
            passes = clips * trainer.world_size / data.batch_size
            pl_module.follow_with(passes / trainer.accumulate_grad_batches, fits)

    def fits(self, module: TwinModule) -> bool:
        return module.teacher is None

    def most(self, recording: Recording) -> int:
        """Bins of a recording that the fit sees where there is time."""
        return min(self.bins, recording.info.trials.of("train").n_bins)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TwinModule)
        if trainer.sanity_checking or trainer.global_step < pl_module.steps or not self.fits(pl_module):
            return
        data, twins = data_of(trainer), [pl_module.twin, *(averaging.twin for averaging in averagings(trainer))]
        if trainer.is_global_zero:
            length, burn_in = windows_of(data)
            budget = pl_module.budget
            known_s = None if budget is None or budget.steps is None else budget.step_s
            share = pl_module.last_share
            with stage("the readouts' last fit", known_s and FORWARD * share * pl_module.last_passes * known_s):
                for twin, recording in product(twins, data.recordings):
                    bins = max(1, int(share * self.most(recording)))
                    fit_readout(twin, recording, length, burn_in, bins)
                    fit_beside_rates(twin, recording, length, burn_in, int(BESIDE * bins))
        # One process for all: what a sum's rounding differs in between them would make twins of their own.
        for fitted in (part for twin in twins for part in (twin.readouts, twin.own_filters, *parts_beside_rates(twin))):
            if fitted is not None:
                own = {name: value.cpu() for name, value in fitted.state_dict().items()}
                fitted.load_state_dict(trainer.strategy.broadcast(own))


def averagings(trainer: Trainer) -> list[Averaging]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Averaging)]  # type: ignore[attr-defined]


def windows_of(data: RecordingsDataModule) -> tuple[int, int]:
    """Length and burn-in of the clips that are looked at, in bins: an evaluation's, whose past is as long as it will
    be; a training's where those would cost far more, as windows do of which one bin is scored."""
    length, burn_in = data.evaluation_length, data.evaluation_burn_in
    if length - burn_in < data.clip_length - data.burn_in or length > PASS * data.clip_length:
        return data.clip_length, data.burn_in
    return length, burn_in


def data_of(trainer: Trainer) -> RecordingsDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, TrainingData)
    return data.recordings
