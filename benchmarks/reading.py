"""Recordings whose frames compress as natural ones do, and how fast clips are read from them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from measuring import Row, Sizes, settings_of
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.parts.build import build_data

LARGE = ("stimulus/frames", "responses/counts", "responses/valid", "behavior/behavior")
FILES = {  # how large arrays are stored
    "uncompressed": {},
    "compressed": {"compression": "gzip", "compression_opts": 4, "shuffle": True},  # h5py's own level
    "compressed by lzf": {"compression": "lzf", "shuffle": True},
}
AHEAD = 2  # batches that each worker has read before the clock starts


def movie(frames: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W) uint8: a window that drifts over an image with the spectrum of natural ones."""
    side = 2 * max(height, width)
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) / np.maximum(np.hypot(fy, fx), 1 / side)
    image = np.fft.irfft2(spectrum, (side, side))
    image = np.clip(128 + 50 * (image - image.mean()) / image.std(), 0, 255).astype(np.uint8)
    walk = np.cumsum(rng.normal(size=(frames, 2)), axis=0).astype(int)
    room = side - np.array([height, width])
    top, left = np.abs(walk % (2 * room) - room).T  # it turns back at the borders
    return np.stack([image[y : y + height, x : x + width] for y, x in zip(top, left, strict=True)])


def write_recordings(folder: Path, sizes: Sizes, trials: int, trial_bins: int, stored: str = "uncompressed") -> None:
    """Recordings of ``sizes``: ``trials`` for training and one each for the other splits.

    ``write_recording`` compresses neither frames nor counts; files of other programs may be compressed.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    start = np.arange(trials + 2) * trial_bins
    bins = len(start) * trial_bins
    split = np.array(["val", "test", *["train"] * trials])
    for i in range(sizes.recordings):
        path = write_recording(
            folder / f"recording{i}.h5",
            recording_id=f"recording{i}",
            frame_rate_hz=120.0,
            frames=movie(bins, sizes.height, sizes.width, rng),
            counts=rng.poisson(0.1, (bins, sizes.units)).astype(np.float32),
            behavior={"behavior": rng.normal(size=(bins, sizes.behavior)).astype(np.float32)},
            trials=Trials(start, start + trial_bins, np.arange(len(start)).astype(str), split),
        )
        if FILES[stored]:
            store_again(path, FILES[stored])


def store_again(path: Path, how: Mapping[str, Any]) -> None:
    """Store a recording's large arrays compressed, with the same chunks."""
    plain = path.rename(path.with_suffix(".plain"))
    with h5py.File(plain) as old, h5py.File(path, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                new.create_group(name)
            elif name in LARGE:
                made = new.create_dataset(name, data=item[()], chunks=item.chunks, **how)
                made.attrs.update(item.attrs)
            else:
                old.copy(item, new, name)

        old.visititems(copy)
    plain.unlink()


def module_of(folder: Path, sizes: Sizes, workers: int, batches: int, pin_memory: bool = False) -> RecordingsDataModule:
    """The data module of a training on a folder's recordings."""
    data = settings_of(
        f"data.root={folder}",
        f"data.clip_length={sizes.bins}",
        f"data.burn_in={min(50, sizes.bins // 2)}",
        f"data.num_workers={workers}",
    )["data"]
    module: RecordingsDataModule = build_data(data)
    module.configure(batch_size=sizes.clips, batches_per_epoch=batches, pin_memory=pin_memory)
    module.setup()
    return module


def clips_per_s(module: RecordingsDataModule, sizes: Sizes, workers: int, seconds: float) -> float:
    """What the training's loader gives, once its workers are there. Without workers it is by seconds that this process
    computes, which other processes lengthen less than seconds that pass."""
    clock = time.perf_counter if workers else time.process_time
    read, began = -AHEAD * workers - 1, 0.0
    for _ in module.train_dataloader():
        read += 1
        if read == 0:
            began = clock()
        elif read > 0 and clock() - began > seconds:
            break
    return read * sizes.clips / (clock() - began)


def reading(
    folder: Path,
    sizes: Sizes,
    workers: list[int],
    seconds: float,
    trials: int,
    files: Iterable[str] = ("uncompressed", "compressed"),
) -> Iterator[Row]:
    """Clips a second from uncompressed and from compressed files, and how large those are."""
    for name in files:
        write_recordings(folder / name, sizes, trials, 2 * sizes.bins, name)
        megabytes = sum(path.stat().st_size for path in (folder / name).iterdir()) / 2**20
        for count in workers:
            module = module_of(folder / name, sizes, count, 100_000)
            rate = clips_per_s(module, sizes, count, seconds)
            yield f"reading, {name}, {count} workers", {"clips_per_s": rate, "files_mb": megabytes, "bins": sizes.bins}
