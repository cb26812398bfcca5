"""From the .mat files of Mahuas et al. 2020 to a recording file.

Mahuas, Isacchini, Marre, Ferrari & Mora 2020, "A new inference approach for training shallow and deep generalized
linear models of noisy interacting neurons", NeurIPS 33. Ganglion cells of a rat's retina, and a bar that moves over 31
positions. A folder holds

    nonrepeat_data_bars.mat  spikes_train (U, bins, sequences), stimulus (31, 1, bins, sequences), Xell, Yell
    test_data_bars.mat       spikes_test (U, bins, repeats), stimulus_test (31, 1, bins)

in bins of 1.667 ms. Other files have no stimulus and are left out.

Shape letters: T bins, U units.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from einops import rearrange, reduce

from vivit_core.data.importers.common import Importer, SourceRecording
from vivit_core.data.importers.sliceable import pixel_type, span
from vivit_core.data.importers.sources import split_by_stimulus
from vivit_core.data.npy import require_file
from vivit_core.data.recording.format import Trials
from vivit_core.parts.schema import Count, Positive, SplitFraction
from vivit_core.specs import RecordingError

TRAIN, TEST = "nonrepeat_data_bars.mat", "test_data_bars.mat"
MOST = 65535  # spikes, or value of a pixel
PAPER = "Mahuas et al. 2020, NeurIPS 33"


@dataclass(frozen=True)
class Mahuas2020Importer(Importer):
    """Import the folder of .mat files; a trial is a sequence, and the test trials are repeats of one."""

    guarded = True

    bin_ms: Positive  # of the source
    pool: Count  # bins of the source in one bin: counts are summed, the newest frame is kept
    val_fraction: SplitFraction  # of the training sequences
    seed: int  # of the draw of val sequences

    def name_of(self, source: Path) -> str:
        return "mahuas2020"

    @contextmanager
    def read(self, source: Path) -> Iterator[SourceRecording]:
        if not source.is_dir():
            raise RecordingError(source, "source", "is no folder", f"Give the folder that holds {TRAIN} and {TEST}")
        train = _load(source, TRAIN, {"spikes_train": 3, "stimulus": 4})
        test = _load(source, TEST, {"spikes_test": 3, "stimulus_test": 3})
        spikes_train, spikes_test = train["spikes_train"], test["spikes_test"]
        for file, spikes, stimulus in (
            (TRAIN, spikes_train, train["stimulus"]),
            (TEST, spikes_test, test["stimulus_test"]),
        ):
            if spikes.shape[1] != stimulus.shape[2] or (stimulus.ndim == 4 and stimulus.shape[3] != spikes.shape[2]):
                raise RecordingError(
                    source / file,
                    "spikes and stimulus",
                    f"have shapes {spikes.shape} and {stimulus.shape}",
                    "They ought to be (units, bins, sequences) and (height, width, bins[, sequences])",
                )
        if len(spikes_test) != len(spikes_train) or train["stimulus"].shape[:2] != test["stimulus_test"].shape[:2]:
            raise RecordingError(
                source / TEST, "spikes_test and stimulus_test",
                f"have {len(spikes_test)} units and frames of {test['stimulus_test'].shape[:2]}, but {TRAIN} "
                f"{len(spikes_train)} and {train['stimulus'].shape[:2]}",
                "Take both files from one recording",
            )  # fmt: skip
        sequences, repeats = spikes_train.shape[2], spikes_test.shape[2]
        counts = [self._counts(spikes_train), self._counts(spikes_test)]
        frames = [
            self._frames(rearrange(train["stimulus"], "h w t n -> n t h w")),
            np.repeat(self._frames(rearrange(test["stimulus_test"], "h w t -> 1 t h w")), repeats, axis=0),
        ]
        lengths = np.repeat([counts[0].shape[1], counts[1].shape[1]], [sequences, repeats])
        stops = np.cumsum(lengths)
        ids = np.array([f"sequence {i}" for i in range(sequences)])
        remedy = "put all of them into train by importer.val_fraction=0"
        split = split_by_stimulus(ids, self.val_fraction, 0.0, self.seed, remedy)
        units: dict[str, Any] = {"id": [f"cell {u}" for u in range(len(spikes_train))]}
        left_out = [
            f"{p.name}: not {TRAIN} or {TEST}" for p in sorted(source.glob("*.mat")) if p.name not in (TRAIN, TEST)
        ]
        for name in ("Xell", "Yell"):
            if name in train and train[name].ndim == 2 and train[name].shape[1] == len(spikes_train):
                units[f"ellipse_{name[0].lower()}"] = rearrange(train[name], "points u -> u points")
        for file, bins in ((TRAIN, spikes_train.shape[1]), (TEST, spikes_test.shape[1])):
            if bins % self.pool:
                left_out.append(
                    f"{file}: the last {bins % self.pool} bins of each trial do not fill a bin of {self.pool}"
                )
        yield SourceRecording(
            recording_id=self.id_of(source),
            frame_rate_hz=1e3 / (self.bin_ms * self.pool),
            frames=np.concatenate([rearrange(f, "n t h w -> (n t) h w") for f in frames]),
            counts=np.concatenate([rearrange(c, "n t u -> (n t) u") for c in counts]),
            trials=Trials(
                stops - lengths,
                stops,
                np.concatenate([ids, np.full(repeats, "test sequence")]),
                np.concatenate([split, np.full(repeats, "test")]),
            ),
            units=units,
            about={"species": "rat", "area": "retina", "source": PAPER},
            left_out=left_out,
            notes=[f"{self.pool} bins of {self.bin_ms:g} ms make one: counts summed, the newest frame kept"],
        )

    def _counts(self, spikes: np.ndarray) -> np.ndarray:
        """(sequences, T, U), summed over the bins of a pool."""
        whole = spikes[:, : spikes.shape[1] // self.pool * self.pool]
        return reduce(whole, "u (t pool) n -> n t u", "sum", pool=self.pool)

    def _frames(self, stimulus: np.ndarray) -> np.ndarray:
        """(sequences, T, H, W), the newest frame of each pool."""
        newest = stimulus[:, self.pool - 1 :: self.pool]
        return newest.astype(pixel_type(newest))


def _load(source: Path, file: str, wanted: dict[str, int]) -> dict[str, np.ndarray]:
    """The numeric arrays of a .mat file, those wanted checked for their rank."""
    path = source / file
    require_file(source, path, f"{', '.join(wanted)} (MATLAB 5)")
    try:
        content = scipy.io.loadmat(path)
    except NotImplementedError as error:
        raise RecordingError(path, "file", "is of MATLAB 7.3", "Save it again by save(…, '-v7')") from error
    except Exception as error:  # scipy has no error of its own for a damaged file, and raises a dozen others
        raise RecordingError(path, "file", f"cannot be read: {error}", "Download it again") from error
    for name, ndim in wanted.items():
        values = content.get(name)
        if not isinstance(values, np.ndarray) or values.ndim != ndim or values.dtype.kind not in "biuf":
            there = (
                f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else f"missing: {sorted(content)}"
            )
            raise RecordingError(path, name, there, f"It ought to be an array of numbers with {ndim} axes")
        least, most, whole = span(values)
        if not whole or least < 0 or most > MOST:
            raise RecordingError(
                path, name, f"holds fractions, NaN, negative numbers or some above {MOST}", "Download it again"
            )
        content[name] = values.astype(np.uint16)
    return {name: values for name, values in content.items() if isinstance(values, np.ndarray)}
