"""README's own-data command on recordings of other kinds than the simulator's: does the twin beat the linear model?

    python benchmarks/kinds.py                       # all of them, some 8 minutes each on one core
    python benchmarks/kinds.py bars gratings         # these

Each kind is made here by a small model of neurons that the project's simulator does not have, with shapes, rates and
trials as laboratories have them, and is trained on with the defaults alone: ``python run.py data.root=FOLDER``.
Expected responses are stored beside the counts, so that the table can say how much of what can be known was found.

Shape letters: T bins, H and W pixels, C colors, U units, L lags, N units in a subspace.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from measuring import machine
from vivit_core.data.recording import Trials, write_recording

ROOT = Path(__file__).resolve().parents[1]
CONTRAST = 45  # gray levels of one standard deviation
console = Console(soft_wrap=True, highlight=False)


@dataclass
class Made:
    """A recording before its counts are drawn.

    Attributes
    ----------
    frames : (T, H, W) or (T, H, W, C), mean 0, standard deviation about 1.
    rates_TU : spikes a second.
    stimulus_ids : one for each trial, in their order; all trials are equally long. ``rep…`` are tested.
    calcium_s : time constant of a calcium trace in place of counts; None for spikes.
    """

    frame_rate_hz: float
    frames: np.ndarray
    rates_TU: np.ndarray
    stimulus_ids: Sequence[str]
    calcium_s: float | None = None
    behavior: dict[str, np.ndarray] = field(default_factory=dict)


# Parts ----------------------------------------------------------------------------------------------------------------


def course(seconds: float, rate: float, undershoot: float) -> np.ndarray:
    """A biphasic time course (L,) that peaks after so many seconds."""
    t = np.arange(int(8 * seconds * rate) + 2) / rate / seconds
    kernel_L = t * np.exp(1 - t) - undershoot * t / 2 * np.exp(1 - t / 2)
    return kernel_L / np.abs(kernel_L).sum()


def passed(signal: np.ndarray, kernel_L: np.ndarray) -> np.ndarray:
    return lfilter(kernel_L, [1.0], signal, axis=0)


def seen(frames: np.ndarray, fields: Sequence[np.ndarray]) -> np.ndarray:
    """(T, N): what fields (H, W[, C]) make of each frame."""
    weights = np.stack([each.ravel() for each in fields], 1).astype(np.float32)
    return frames.reshape(len(frames), -1).astype(np.float32) @ weights


def blob(shape: tuple[int, int], y: float, x: float, sigma: float) -> np.ndarray:
    """A Gaussian whose sum is 1."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    found = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))
    return found / found.sum()


def gabor(
    shape: tuple[int, int], place: tuple[float, float], sigma: float, cycles: float, angle: float, phase: float
) -> np.ndarray:
    """Of unit norm and mean 0."""
    y, x = place
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    found = blob(shape, y, x, sigma) * np.cos(2 * np.pi * cycles * along + phase)
    found -= found.mean()
    return found / np.linalg.norm(found)


def pink(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A picture whose amplitudes fall as 1/f, as natural ones do."""
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    spectrum = np.fft.rfft2(rng.normal(size=shape)) / np.maximum(f, 1 / max(shape))
    found = np.fft.irfft2(spectrum, s=shape)
    return (found - found.mean()) / found.std()


def film(rng: np.random.Generator, seconds: float, rate: float, shape: tuple[int, int], cut_s: float) -> np.ndarray:
    """(T, H, W): pictures that drift, and a cut every ``cut_s`` seconds."""
    height, width = shape
    found = np.empty((int(seconds * rate), height, width), np.float32)
    for begin in range(0, len(found), int(cut_s * rate)):
        scene = pink(rng, (2 * height + 8, 2 * width + 8))
        (y, x), (down, right) = rng.uniform(0, shape), rng.normal(0, 12 / rate, 2)
        for at in range(begin, min(begin + int(cut_s * rate), len(found))):
            row, column = int(np.clip(y, 0, height)), int(np.clip(x, 0, width))
            found[at] = scene[row : row + height, column : column + width]
            y, x = y + down, x + right
    return found


def cortex(rng: np.random.Generator, frames: np.ndarray, rate: float, hz_U: np.ndarray) -> np.ndarray:
    """(T, U): simple and complex cells, whose drive is divided by itself."""
    height, width = shape = frames.shape[1:]
    found = []
    for hz in hz_U:
        sigma = rng.uniform(2, 5)
        where = rng.uniform(0.2 * height, 0.8 * height), rng.uniform(0.2 * width, 0.8 * width)
        cycles, angle = rng.uniform(0.2, 0.35) / sigma, rng.uniform(0, np.pi)
        fields = [gabor(shape, where, sigma, cycles, angle, phase) for phase in (0, np.pi / 2)]
        pair_TN = passed(seen(frames, fields), course(rng.uniform(0.03, 0.06), rate, 0.5))
        drive_T = np.maximum(pair_TN[:, 0], 0) if rng.random() < 0.4 else np.hypot(*pair_TN.T)
        drive_T = drive_T**1.5
        drive_T = drive_T / (2 * drive_T.mean() + drive_T)
        found.append(hz * drive_T / drive_T.mean())
    return np.stack(found, 1)


def numbered(number: int) -> list[str]:
    return [f"s{each}" for each in range(number)]


# Kinds ----------------------------------------------------------------------------------------------------------------


def bars(rng: np.random.Generator) -> Made:
    """15 minutes of 24 random bars at 50 Hz; one complex cell."""
    frames = rng.choice([-1.0, 1.0], (45_000, 24, 1))
    x = np.arange(24) - 11.0
    fields = [np.exp(-(x**2) / 18) * np.cos(2 * np.pi * 0.15 * x + phase) for phase in (0, np.pi / 2)]
    energy_T = (passed(seen(frames, fields), course(0.03, 50, 0.6)) ** 2).sum(1) ** 1.1
    return Made(50, frames, 12 * energy_T[:, None] / energy_T.mean(), numbered(90))


def checkers(rng: np.random.Generator) -> Made:
    """12 minutes of 20×20 random checks at 30 Hz; 25 ganglion cells of six rectified subunits each."""
    frames = rng.choice([-1.0, 1.0], (21_600, 20, 20))
    found = []
    for _ in range(25):
        y, x = rng.uniform(4, 16, 2)
        fields = [blob((20, 20), y + rng.normal(0, 1.3), x + rng.normal(0, 1.3), 0.9) for _ in range(6)]
        subunits_TN = passed(rng.choice([-1, 1]) * seen(frames, fields), course(rng.uniform(0.04, 0.07), 30, 0.5))
        drive_T = np.maximum(subunits_TN, 0).sum(1) ** 1.5
        found.append(rng.uniform(3, 15) * drive_T / drive_T.mean())
    return Made(30, frames, np.stack(found, 1), numbered(72))


def thalamus(rng: np.random.Generator) -> Made:
    """A film of 16×16 pixels at 60 Hz, 10 minutes and 10 s that are shown 12 times; one cell with a contrast gain."""
    frames = np.concatenate([film(rng, 600, 60, (16, 16), 2), *[film(rng, 10, 60, (16, 16), 2)] * 12])
    field = blob((16, 16), 8, 7, 1.4) - 0.8 * blob((16, 16), 8, 7, 3.9)
    drive_T = passed(seen(frames, [field]), course(0.02, 60, 0.9))[:, 0]
    seconds = np.exp(-np.arange(60) / 30)
    drive_T = drive_T / np.sqrt(passed(drive_T**2, seconds / seconds.sum()) + 0.3 * drive_T.var())
    return Made(60, frames, 15 * np.maximum(drive_T + 0.2, 0)[:, None] ** 1.3, numbered(60) + ["rep"] * 12)


def calcium(rng: np.random.Generator) -> Made:
    """Clips of 10 s, 36×64 pixels at 30 Hz, of which two are shown eight times; 80 traces, pupil and running."""
    repeated = [film(rng, 10, 30, (36, 64), 10) for _ in range(2)]
    frames = np.concatenate([film(rng, 540, 30, (36, 64), 10), *[each for each in repeated for _ in range(8)]])
    pupil_T = 8 * gaussian_filter1d(rng.normal(size=len(frames)), 90)
    running_T = np.maximum(12 * gaussian_filter1d(rng.normal(size=len(frames)), 60), 0)
    gain_TU = np.exp(0.35 * pupil_T[:, None] * rng.uniform(0.3, 1, 80))
    ids = numbered(54) + [f"rep{each}" for each in range(2) for _ in range(8)]
    rates_TU = cortex(rng, frames, 30, rng.uniform(1, 8, 80)) * gain_TU
    return Made(30, frames, rates_TU, ids, calcium_s=0.4, behavior={"pupil": pupil_T, "running": running_T})


def flashes(rng: np.random.Generator) -> Made:
    """Pictures of 40×40 pixels for 100 ms, then 100 ms of gray, in bins of 10 ms; one sequence 20 times; 40 cells."""
    pictures = np.stack([pink(rng, (40, 40)) for _ in range(420)])
    shown = [rng.permutation(400)[:50] for _ in range(60)] + [400 + np.arange(50) % 20] * 20
    frames = np.zeros((80 * 1000, 40, 40), np.float32)
    for number, picture in enumerate(np.concatenate(shown)):
        frames[20 * number : 20 * number + 10] = pictures[picture]
    return Made(100, frames, cortex(rng, frames, 100, rng.uniform(2, 15, 40)), numbered(60) + ["rep"] * 20)


def gratings(rng: np.random.Generator) -> Made:
    """16 directions, 3 spatial frequencies, 2 s each, shown six times, of 48×48 pixels at 60 Hz; 30 cells."""
    rows, columns = np.mgrid[:48, :48] - 24.0
    phase_T = 2 * np.pi * 4 * np.arange(120) / 60
    kinds = [(direction, cycles) for direction in range(16) for cycles in (0.04, 0.08, 0.15)]
    order = rng.permutation(np.repeat(np.arange(len(kinds)), 6))
    frames = np.zeros((150 * len(order), 48, 48), np.float32)
    for trial, number in enumerate(order):
        direction, cycles = kinds[number]
        along = columns * np.cos(direction * np.pi / 8) + rows * np.sin(direction * np.pi / 8)
        frames[150 * trial + 30 : 150 * (trial + 1)] = np.sin(2 * np.pi * cycles * along - phase_T[:, None, None])
    return Made(60, frames, cortex(rng, frames, 60, rng.uniform(1, 10, 30)), [f"s{number}" for number in order])


def flicker(rng: np.random.Generator) -> Made:
    """10 minutes of one flickering field at 60 Hz; 6 ganglion cells that adapt."""
    signal_T = lfilter([1], [1, -0.6], rng.normal(size=36_000))
    found = []
    for _ in range(6):
        drive_T = passed(rng.choice([-1, 1]) * signal_T, course(rng.uniform(0.02, 0.05), 60, 0.8))
        drive_T /= drive_T.std()
        before_T = passed(np.maximum(drive_T, 0), np.exp(-np.arange(90) / 30) / 30)
        found.append(8 * np.maximum(drive_T - before_T + 0.2, 0) ** 1.5)
    return Made(60, (signal_T / signal_T.std())[:, None, None], np.stack(found, 1), numbered(60))


def little(rng: np.random.Generator) -> Made:
    """4 minutes of film, 32×32 pixels at 60 Hz; 5 cells that hardly fire."""
    frames = film(rng, 240, 60, (32, 32), 2)
    return Made(60, frames, cortex(rng, frames, 60, rng.uniform(0.5, 1.5, 5)), numbered(24))


def colors(rng: np.random.Generator) -> Made:
    """10 minutes of film in two colors, 16×18 pixels at 30 Hz; 40 traces of ganglion cells."""
    first, other = (film(rng, 600, 30, (16, 18), 5) for _ in range(2))
    frames = np.stack([first, 0.6 * first + 0.8 * other], -1)
    found = []
    for _ in range(40):
        where = rng.uniform(4, 12), rng.uniform(4, 14)
        field = blob((16, 18), *where, 1.6) - 0.7 * blob((16, 18), *where, 4.5)
        drive_T = seen(frames, [field[..., None] * rng.uniform(-1, 1, 2)])[:, 0]
        drive_T = passed(drive_T, course(rng.uniform(0.05, 0.12), 30, 0.7))
        found.append(rng.uniform(1, 4) * np.maximum(drive_T / drive_T.std(), 0) ** 1.4)
    return Made(30, frames, np.stack(found, 1), numbered(120), calcium_s=0.5)


def simple(rng: np.random.Generator, frames: np.ndarray, rate: float, hz_U: np.ndarray) -> np.ndarray:
    """Spikes a second (T, U) of simple cells that nothing normalizes, with a center and a wide surround."""
    height, width = frames.shape[1:]
    found = []
    for hz in hz_U:
        where, sigma = (rng.uniform(0.25, 0.75) * height, rng.uniform(0.25, 0.75) * width), rng.uniform(1, 2)
        field = blob((height, width), *where, sigma) - 0.6 * blob((height, width), *where, 3 * sigma)
        drive_T = passed(seen(frames, [field])[:, 0], course(rng.uniform(0.03, 0.06), rate, 0.5))
        rate_T = np.maximum(drive_T / drive_T.std() + 0.2, 0) ** 1.4
        found.append(hz * rate_T / rate_T.mean())
    return np.stack(found, 1)


def sparse(rng: np.random.Generator) -> Made:
    """8 minutes of darkness with checks of 24×24 pixels for .1 s, 5 % of the time, at 60 Hz; 6 simple cells."""
    frames = np.full((30_000, 24, 24), -2.8, np.float32)
    for start in range(0, len(frames), 6):
        if rng.random() < 0.05:
            frames[start : start + 6] = rng.choice([-2.8, 2.8], (24, 24))
    return Made(60, frames, simple(rng, frames, 60, np.full(6, 10.0)), numbered(100))


def crowds(rng: np.random.Generator) -> Made:
    """7 minutes of film of 24×24 pixels at 30 Hz; multi-unit activity of 50 counts a bin on 4 electrodes."""
    frames = film(rng, 400, 30, (24, 24), 2)
    return Made(30, frames, simple(rng, frames, 30, np.full(4, 1500.0)), numbered(40))


KINDS: dict[str, Callable[[np.random.Generator], Made]] = {
    make.__name__: make
    for make in (bars, checkers, thalamus, calcium, flashes, gratings, flicker, little, colors, sparse, crowds)
}


# Files and trainings --------------------------------------------------------------------------------------------------


def splits(stimulus_ids: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A tenth of the stimuli for validation, a tenth and all repeated ones for the test."""
    distinct = [each for each in dict.fromkeys(stimulus_ids) if not each.startswith("rep")]
    distinct = [distinct[at] for at in rng.permutation(len(distinct))]
    tenth = max(1, len(distinct) // 10)
    of = {each: "val" if at < tenth else "test" if at < 2 * tenth else "train" for at, each in enumerate(distinct)}
    return [of.get(each, "test") for each in stimulus_ids]


def write(kind: str, folder: Path, seed: int) -> None:
    """Make a kind's recording, the only one in the folder."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    made = KINDS[kind](rng)
    expected_TU = made.rates_TU / made.frame_rate_hz
    if made.calcium_s is None:
        counts_TU = rng.poisson(expected_TU)
    else:
        decay = [1, -np.exp(-1 / (made.calcium_s * made.frame_rate_hz))]
        events_TU = rng.gamma(1.0, expected_TU)
        noise_TU = np.abs(rng.normal(0, 0.05, expected_TU.shape))
        counts_TU = (lfilter([1], decay, events_TU, axis=0) + noise_TU).astype(np.float32)
        expected_TU = lfilter([1], decay, expected_TU, axis=0) + noise_TU.mean()
    length = len(made.frames) // len(made.stimulus_ids)
    start = length * np.arange(len(made.stimulus_ids))
    folder.mkdir(parents=True)
    write_recording(
        folder / f"{kind}.h5",
        recording_id=kind,
        frame_rate_hz=made.frame_rate_hz,
        frames=np.clip(127.5 + CONTRAST * made.frames, 0, 255).astype(np.uint8),
        counts=counts_TU,
        trials=Trials(start, start + length, np.array(made.stimulus_ids), np.array(splits(made.stimulus_ids, rng))),
        behavior=made.behavior,
        truth={"rate": expected_TU},
        kind="spikes" if made.calcium_s is None else "calcium",
    )


def train(kind: str, folder: Path, settings: Sequence[str]) -> dict[str, float]:
    """The summary of a training with the defaults, and the minutes that it took, all included."""
    out = folder / "run"
    began = time.monotonic()
    command = [sys.executable, str(ROOT / "run.py"), f"data.root={folder / 'data'}", f"hydra.run.dir={out}", *settings]
    if status := subprocess.run(command).returncode:
        raise RuntimeError(f"{kind}: {' '.join(command)} ended with status {status}")
    found = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found | {"minutes": (time.monotonic() - began) / 60}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="a new folder for recordings and runs (default: in /tmp)")
    parser.add_argument("--set", nargs="*", default=[], dest="settings", help="settings of every training")
    given = parser.parse_args(words)
    if unknown := sorted(set(given.kinds) - set(KINDS)):
        parser.error(f"no such kind: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="kinds_"))).absolute()
    own = machine("cpu")
    table = Table(title=f"python run.py data.root=FOLDER: {own['name']}, {own['threads']} threads")
    for name in ("kind", "twin", "LN", "what can be known", "twin's corr", "LN's", "min"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind in given.kinds or KINDS:
        write(kind, folder / kind / "data", given.seed)
        found = train(kind, folder / kind, given.settings)
        names = ("bps_mean", "ln_bps_mean", "truth_bps_mean", "corr_mean", "ln_corr_mean")
        table.add_row(kind, *(f"{found[name]:.3f}" for name in names), f"{found['minutes']:.1f}")
        console.print(table)
    console.print(f"recordings and runs are in {folder}")


if __name__ == "__main__":
    main()
