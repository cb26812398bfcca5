"""Rates that another program predicted, which stand beside models in a comparison.

Shape letters: T bins of a recording, N scored bins, U units.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivit_core.analysis.predict import Predictions
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Split
from vivit_core.data.recording.reader import Recording
from vivit_core.models.likelihoods.base import LEAST_RATE

LIKE_HZ = 3.0  # how near to the bins a second the ratio of predicted and measured is where rates are in Hz


@dataclass(frozen=True)
class Foreign:
    """What another program predicted.

    Attributes
    ----------
    path : the file that it is from.
    rates : recording id -> expected counts a bin (T, U), of all bins of a recording as the compared models see it, and
        of its units in their order; NaN in bins that are not scored.
    """

    path: Path
    rates: Mapping[str, np.ndarray]

    def predictions(self, data: RecordingsDataModule, split: Split) -> Iterator[tuple[str, Predictions]]:
        """Of the scored bins of a split, as :func:`predict_split` gives them. A rate of 0, of which one spike would
        cost everything, is taken for the least that a softplus gives here.

        Raises
        ------
        ValueError
            Where bins or units are others than a recording has, or scored ones have no rate; says which.
        """
        for recording, spec in zip(data.recordings, data.specs, strict=True):
            if spec.recording_id in self.rates:
                found = self.scored(recording, data, split)
                if found is not None:
                    yield spec.recording_id, found

    def scored(self, recording: Recording, data: RecordingsDataModule, split: Split) -> Predictions | None:
        info, burn_in = recording.info, data.evaluation_burn_in
        rates_TU, where = self.rates[info.recording_id], f"predictions={self.path}: {info.recording_id}"
        if rates_TU.shape != (info.n_frames, info.n_units):
            raise ValueError(
                f"{where} is an array of {rates_TU.shape}, and the recording has {info.n_frames} bins and "
                f"{info.n_units} units; give a rate for each bin of each unit, and NaN where none is predicted"
            )
        trials = info.trials.of(split)
        spans = [(a + burn_in, b) for a, b in zip(trials.start.tolist(), trials.stop.tolist(), strict=True)]
        if not (spans := sorted((a, b) for a, b in spans if a < b)):
            return None
        bins_N = np.concatenate([np.arange(*span) for span in spans])
        counts_NU, valid_NU = (
            np.concatenate([of(a, b) for a, b in spans]) for of in (recording.counts, recording.valid)
        )
        predicted_NU = rates_TU[bins_N].astype(np.float32)
        if not (np.isfinite(predicted_NU) & (predicted_NU >= 0)).all():
            wrong_N = ~(np.isfinite(predicted_NU) & (predicted_NU >= 0)).all(1)
            raise ValueError(
                f"{where} has no rate of 0 or more in {int(wrong_N.sum())} of {len(bins_N)} scored bins, the first of "
                f"which is {int(bins_N[wrong_N][0])}; give one for all bins of the {split} trials but the first "
                f"{burn_in} of each"
            )
        known_NU = np.where(valid_NU, counts_NU, 0.0)
        ratio = np.where(valid_NU, predicted_NU, 0.0).sum() / max(float(known_NU.sum()), 1e-9)
        if info.frame_rate_hz > LIKE_HZ**2 and 1 / LIKE_HZ < ratio / info.frame_rate_hz < LIKE_HZ:
            raise ValueError(
                f"{where} predicts {ratio:.3g} times as many spikes as there are, as if it were in spikes a second; "
                f"give expected counts a bin: divide by {info.frame_rate_hz:g} Hz"
            )
        return Predictions(bins_N, counts_NU, valid_NU, predicted_NU.clip(min=LEAST_RATE), None)


def read_foreign(path: Path) -> Foreign:
    """Read an npz file with an array for each recording, by its id.

    Raises
    ------
    ValueError
        Where it cannot be read, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            rates = {name: np.asarray(archive[name]) for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:  # TypeError: of an npy file
        raise ValueError(
            f"predictions={path}: not a readable .npz file ({error}); np.savez(FILE, **{{RECORDING_ID: rates}}) writes "
            "one"
        ) from error
    for name, array in rates.items():
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise ValueError(
                f"predictions={path}: {name} is an array of {array.shape} {array.dtype}; give numbers, (bins, units)"
            )
    if not rates:
        raise ValueError(f"predictions={path} holds no array; give one for each recording, by its id")
    return Foreign(path, rates)
