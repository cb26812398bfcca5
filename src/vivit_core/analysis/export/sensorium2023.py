"""A submission to the Sensorium 2023 competition: what a model predicts for the trials whose responses are kept back.

The files are those of the organizers' ``sensorium/utility/submission.py`` and README
(github.com/ecker-lab/sensorium_2023): a parquet table a tier, compressed by brotli, with a row a trial.

    mouse           name of the recording's folder
    trial_indices   number of the trial, from 0
    prediction      list (unit) of lists (bin), without the first 50 bins of the trial
    neuron_ids      the units' ids, in the order of the prediction

The score is the correlation over single trials, which knows no scale; predictions are expected responses a bin.

Shape letters: T bins of a trial, U units.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.video.showing import Showing
from vivit_core.data.importers.sensorium2023 import folders_of, name_of, tiers_of, unit_ids_of
from vivit_core.data.importers.sensorium2023_trials import TierVideo
from vivit_core.data.transforms import Transform
from vivit_core.data.video.match import Match, frames_a_bin
from vivit_core.models.predictor import Predictor
from vivit_core.system.files import atomic_write, check_new_folder, new_folder
from vivit_core.system.terminal import track

SKIPPED, RATE_HZ = 50, 30.0  # first bins of a trial that are not scored; bins a second
FILES = {  # tier -> its file
    "live_test_main": "predictions_live_main.parquet.brotli",
    "final_test_main": "predictions_final_main.parquet.brotli",
    "live_test_bonus": "predictions_live_test_bonus_ood.parquet.brotli",
    "final_test_bonus": "predictions_final_test_bonus_ood.parquet.brotli",
}
UPLOADS = {  # what is uploaded -> the tiers in it
    "submission_main.zip": ("live_test_main", "final_test_main"),
    "submission_live_bonus.zip": ("live_test_bonus",),
    "submission_final_bonus.zip": ("final_test_bonus",),
}


def check_library() -> None:
    """Refuse to begin without pyarrow.

    Raises
    ------
    ValueError
        Says how to install it.
    """
    if find_spec("pyarrow") is None:
        raise ValueError('format=sensorium2023 needs pyarrow: pip install "vivit-core[sensorium]"')


def export_sensorium2023(
    model: Predictor,
    source: Path,
    out: Path,
    *,
    recording: str | None,
    transforms: Mapping[str, Transform],
    device: str = "cpu",
    progress: bool = True,
    tell: Callable[[str], None] = print,
) -> list[Path]:
    """Predict the competition's test trials, and write what is submitted.

    Parameters
    ----------
    model : trained on recordings that ``importer=sensorium2023`` made; it may be a twin, an ensemble, or an LN model.
    source : a folder ``dynamic*-Video-*``, or the folder that holds several.
    out : a new folder.
    recording : id of the only one that is predicted; None: all that the model knows.
    transforms : with which the model was trained.
    device, progress : where to compute, and whether to show a bar.
    tell : is given lines on what was left out.

    Returns
    -------
    list of Path
        The tables, then the archives that are uploaded.

    Raises
    ------
    ValueError
        Where the folder is not new, no recording is known, units are missing, or the rate is another.
    OSError
        Where the disk is full.
    """
    check_library()
    check_new_folder(out)
    mice = [Mouse(model, folder) for folder in chosen(model, source, recording, tell)]
    model.to(device).eval()
    tables, archives = dict[str, str](), []
    with new_folder(out) as making:
        for tier, name in FILES.items():
            videos = [(mouse, TierVideo(mouse.folder, tier, RATE_HZ)) for mouse in mice if tier in mouse.tiers]
            if videos:
                with atomic_write(making / name) as temporary:
                    rows = (row for mouse, video in videos for row in mouse.rows(model, video, transforms))
                    number = sum(len(video.trials) for _, video in videos)
                    write_parquet(temporary, track(rows, f"predict {tier}", number, disable=not progress))
                tables[tier] = name
                tell(f"{tier}: {number} trials of {len(videos)} recordings")
            else:
                tell(f"{tier}: no trial in {source}")
        if not tables:
            raise ValueError(
                f"source={source}: holds no trial of {', '.join(FILES)}; give the folders with test trials"
            )
        for name, tiers in UPLOADS.items():
            if members := [tables[tier] for tier in tiers if tier in tables]:
                with (
                    atomic_write(making / name) as temporary,
                    zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
                ):
                    for member in members:
                        archive.write(making / member, member)
                archives.append(name)
    return [out / name for name in (*tables.values(), *archives)]


def chosen(model: Predictor, source: Path, recording: str | None, tell: Callable[[str], None]) -> list[Path]:
    """The folders of the recordings that the model knows, or of the one that is said."""
    folders = dict[str, Path]()
    for folder in folders_of(source):
        if (other := folders.setdefault(name_of(folder), folder)) != folder:
            raise ValueError(
                f"source={source}: {other.name} and {folder.name} are both of recording {name_of(folder)}; "
                "leave the one that is submitted"
            )
    if recording is not None:
        model.index(recording)
        if recording not in folders:
            raise ValueError(f"source={source}: holds no folder of recording {recording}; there are {list(folders)}")
        return [folders[recording]]
    if unknown := [name for name in folders if name not in model.specs]:
        tell(f"left out, because the checkpoint does not know them: {', '.join(unknown)}")
    known = [folder for name, folder in folders.items() if name in model.specs]
    if not known:
        raise ValueError(
            f"source={source}: the checkpoint knows {', '.join(model.specs)}, and the folders are of "
            f"{', '.join(folders)}; train on recordings that task=import importer=sensorium2023 made of them"
        )
    return known


class Mouse:
    """The test trials of one recording.

    Parameters
    ----------
    model : knows it.
    folder : ``dynamic*-Video-*``.

    Raises
    ------
    ValueError
        Where the model has another rate, or lacks units.
    """

    def __init__(self, model: Predictor, folder: Path) -> None:
        self.folder, self.spec = folder, model.specs[name_of(folder)]
        self.ids, self.tiers = unit_ids_of(folder), set(tiers_of(folder).tolist())
        if frames_a_bin(RATE_HZ, self.spec.frame_rate_hz) != 1:  # a bin of the model has to be one of the competition's
            raise ValueError(
                f"recording {self.spec.recording_id}: the model has {self.spec.frame_rate_hz:g} bins a second, the "
                f"competition {RATE_HZ:g}; train with data.frame_rate_hz={RATE_HZ:g}"
            )
        if self.ids.dtype.kind not in "iu":
            raise ValueError(f"{folder}: meta/neurons/unit_ids.npy holds no whole numbers; unzip the recording again")
        place = {unit: i for i, unit in enumerate(self.spec.unit_ids)}
        missing = [str(unit) for unit in self.ids.tolist() if str(unit) not in place]
        if missing:
            raise ValueError(
                f"recording {self.spec.recording_id}: the model lacks {len(missing)} of the {len(self.ids)} units of "
                f"{folder} ({', '.join(missing[:5])}); the competition scores all of them"
            )
        self.columns = [place[str(unit)] for unit in self.ids.tolist()]

    def rows(
        self, model: Predictor, video: TierVideo, transforms: Mapping[str, Transform]
    ) -> Iterator[Mapping[str, Any]]:
        """The table's rows of a tier, one a trial, in the order of trials."""
        showing = Showing(model, Match(video, self.spec, transforms=transforms), transforms, None, self.folder, 0)
        pieces = showing.pieces()
        for trial, (start, stop) in zip(video.trials, video.stretches, strict=True):
            if stop - start <= SKIPPED:
                raise ValueError(
                    f"{self.folder}/data/videos/{trial}.npy: has {stop - start} frames, of which the first {SKIPPED} "
                    "are not scored; unzip the recording again"
                )
            parts = list[np.ndarray]()
            while sum(map(len, parts)) < stop - start:
                parts.append(next(pieces)["rates"])
            responses_TU = np.concatenate(parts)[SKIPPED:, self.columns] / RATE_HZ
            yield {
                "mouse": self.folder.resolve().name,
                "trial_indices": trial,
                "prediction": responses_TU.T.astype(np.float32),
                "neuron_ids": self.ids,
            }


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A parquet table of the rows, one in memory at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            ("mouse", pa.string()),
            ("trial_indices", pa.int64()),
            ("prediction", pa.list_(pa.list_(pa.float32()))),
            ("neuron_ids", pa.list_(pa.uint32())),
        ]
    )
    with parquet.ParquetWriter(path, schema, compression="brotli") as writer:
        for row in rows:
            units, bins = row["prediction"].shape
            values = pa.ListArray.from_arrays(steps(units, bins), pa.array(row["prediction"].ravel()))
            columns: Sequence[Any] = [
                pa.array([row["mouse"]]),
                pa.array([row["trial_indices"]], pa.int64()),
                pa.ListArray.from_arrays(steps(1, units), values),
                pa.ListArray.from_arrays(steps(1, units), pa.array(row["neuron_ids"].astype(np.uint32))),
            ]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))


def steps(lists: int, length: int) -> Any:
    """Where each of some lists of one length begins, and the last one ends."""
    import pyarrow as pa

    return pa.array(np.arange(lists + 1, dtype=np.int32) * length)
