"""The embedded default data set: recordings of neurons whose truth is known, made once into a cache.

Shape letters: N trials, T bins (= frames), H W pixels, U units, 2 = (x, y), D numbers of a behavior.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from vivit_core.data.behavior import expand, raised_cosine_basis, split_by_sign
from vivit_core.data.recording.format import POSITION, SHIFT, Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.simulate.cells import CELL_PX
from vivit_core.data.simulate.context import KINDS, Context, Contexts
from vivit_core.data.simulate.cortex import positions
from vivit_core.data.simulate.eye_tracker import EyeTracker, Tracked
from vivit_core.data.simulate.local_rate import local_rate
from vivit_core.data.simulate.population import GAZE_ROOM_DEG, KERNEL_S, FloatArray, Population
from vivit_core.data.simulate.schedule import schedule
from vivit_core.data.simulate.shown import Shown, Told
from vivit_core.data.simulate.world import SCENE_PX, SWAY_DEG, Objects, Scene, eye_path, quarters, sway, velocity
from vivit_core.system.files import remember_whole, write_text
from vivit_core.system.locks import locked
from vivit_core.system.terminal import track

log = logging.getLogger(__name__)

VERSION = 4  # to be raised with every change that changes the arrays
CONTEXT_VERSION = 2  # to be raised with every change that changes only the arrays of recordings with context
SETTINGS = "simulator.json"  # beside the recordings: what made them
SLOWEST_HZ = 20.0  # temporal kernels are of a few hertz
VELOCITY_COSINES = 10  # fewer where there are fewer bins
VELOCITY_COSINES_S = 0.2


@dataclass(frozen=True)
class Simulator:
    """Simulated recordings of V1-like neurons while an eye moves over photographs; see docs/simulator.md.

    Equal fields give equal arrays on one machine (on another, the last bit of a matrix product may differ).
    """

    seed: int  # of everything random
    recordings: int  # files, each with a population of its own
    units: int  # a recording
    train_trials: int  # a recording
    val_trials: int  # a recording
    test_trials: int  # a recording, each stimulus shown once
    repeated_stimuli: int  # further test stimuli (the same photograph and eye path), each shown `repeats` times
    repeats: int  # trials of each repeated stimulus
    trial_s: float  # seconds that one photograph is looked at
    frame_rate_hz: float
    height: int  # pixels
    width: int  # pixels
    degrees_per_pixel: float  # visual angle; sets how far the eye moves in pixels
    context: Context | None  # what units use of the movie beside their fields and of its past; None: nothing
    eye_tracker: EyeTracker | None  # what is wrong with the eye's position; None: nothing

    def __post_init__(self) -> None:
        at_least = {"recordings": 1, "units": 1, "train_trials": 1, "val_trials": 0, "test_trials": 0}
        at_least |= {"repeated_stimuli": 0, "repeats": 2, "height": 1, "width": 1}
        problems = [
            f"{name}={getattr(self, name)} is below {least}"
            for name, least in at_least.items()
            if getattr(self, name) < least
        ]
        problems += [
            f"{name}={getattr(self, name)} is not above 0"
            for name in ("trial_s", "frame_rate_hz", "degrees_per_pixel")
            if not getattr(self, name) > 0
        ]
        if self.seed < 0:
            problems.append(f"seed={self.seed} is below 0")
        if 0 < self.frame_rate_hz < SLOWEST_HZ:
            problems.append(
                f"frame_rate_hz={self.frame_rate_hz:g} is below {SLOWEST_HZ:g}: units follow a few hertz, which "
                f"slower frames do not show; set it to {SLOWEST_HZ:g} or more"
            )
        if 0 < self.trial_s < KERNEL_S:
            problems.append(
                f"trial_s={self.trial_s:g} is shorter than the {KERNEL_S:g} s in which units answer; set it to "
                f"{KERNEL_S:g} or more"
            )
        if (
            self.context is not None
            and (farthest := np.hypot(self.height, self.width) / 2) < self.context.far_px[0] + CELL_PX
        ):
            problems.append(
                f"context.far_px begins at {self.context.far_px[0]}, and nothing lies further than {farthest:.3g} px "
                f"from the center of a frame of {self.height} x {self.width} px; set "
                "data/simulator/context=none, or a lower data.simulator.context.far_px"
            )
        if problems:
            raise ValueError("the simulator cannot work with these fields: " + "; ".join(problems))

    @property
    def name(self) -> str:
        """Folder of this data set in a cache: a hash of the fields and of the simulator's version."""
        fields = json.dumps(self._fields(), sort_keys=True)
        return f"simulated-{hashlib.sha256(fields.encode()).hexdigest()[:16]}"

    def _fields(self) -> dict[str, Any]:
        fields = {"version": VERSION, **asdict(self)}
        if self.context is None:
            del fields["context"]
        else:
            fields["context"]["version"] = CONTEXT_VERSION
        if self.eye_tracker is None:
            del fields["eye_tracker"]
        if self.room_deg > GAZE_ROOM_DEG:
            fields["gaze_room_deg"] = GAZE_ROOM_DEG
        return fields

    @property
    def ids(self) -> list[str]:
        """Of the recordings."""
        return [f"sim{index}" for index in range(self.recordings)]

    def unit_ids(self, recording_id: str) -> tuple[str, ...]:
        """Of a recording's units."""
        return tuple(f"{recording_id}-{u:03d}" for u in range(self.units))

    def make(self, cache: Path) -> list[Path]:
        """Simulate into `cache`, or find there what was simulated before.

        Parameters
        ----------
        cache
            Folder; made where missing. Several processes may ask at once: one works, the others wait.

        Returns
        -------
        list of Path
            One recording file for each of `recordings`.
        """
        folder = Path(cache) / self.name
        paths = [folder / f"{name}.h5" for name in self.ids]
        if folder.is_dir():
            return paths
        Path(cache).mkdir(parents=True, exist_ok=True)
        with locked(Path(cache) / f".{self.name}.lock"):
            if folder.is_dir():
                return paths
            unfinished = Path(cache) / f".{self.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            unfinished.mkdir()
            trials = chain.from_iterable(self._record(i, unfinished / path.name) for i, path in enumerate(paths))
            for _ in track(trials, "simulating trials", self.recordings * self.n_trials):
                pass
            write_text(unfinished / SETTINGS, json.dumps(self._fields(), indent=2) + "\n")
            unfinished.rename(folder)
            for path in paths:
                remember_whole(path)  # read back when it was written, but known by its former place
            log.info("simulated %d recordings into %s", self.recordings, folder)
        return paths

    @property
    def n_trials(self) -> int:
        """Trials of one recording."""
        return self.train_trials + self.val_trials + self.test_trials + self.repeated_stimuli * self.repeats

    @property
    def n_bytes(self) -> int:
        """About what all recordings take: pixels, and counts and the true rates of each unit."""
        bins = self.recordings * self.n_trials * self.n_bins
        return bins * (self.height * self.width + (16 if self.context is None else 24) * self.units)

    @property
    def room_deg(self) -> float:
        """How far from a scene's middle the eye may look at most."""
        return self.degrees_per_pixel * max(SCENE_PX, self.height, self.width) / 2

    @property
    def n_bins(self) -> int:
        """Bins of one trial."""
        return round(self.trial_s * self.frame_rate_hz)

    def population(self, index: int) -> Population:
        """The neurons of a recording, whose scales are not set yet."""
        units = np.random.default_rng([self.seed, index, 1])
        drawn = Population.draw(self.units, (self.height, self.width), self.frame_rate_hz, units)
        return drawn.in_room(self.room_deg)

    def gain(self, index: int, position_NT2: FloatArray) -> FloatArray:
        """The true gain (N, T, U) that the eye gives a recording's units, from its true position in degrees in whole
        trials."""
        return self.population(index).gain(position_NT2, velocity(position_NT2, self.frame_rate_hz))

    def _record(self, index: int, path: Path) -> Iterator[int]:
        """Simulate one recording and write it; yields each trial that is shown."""
        shows, _, noise, more, where, wrong = (np.random.default_rng([self.seed, index, s]) for s in range(6))
        shape = (self.height, self.width)
        trials = self.trials(shows)
        stimulus_N, split_N = trials.stimulus_id, trials.split
        tracked = None
        if self.eye_tracker is not None:
            tracked = self.eye_tracker.draw(self.n_trials, self.n_bins, self.frame_rate_hz, wrong)
        frames_NTHW, position_NT2, told = yield from self._show(stimulus_N, split_N, shows, more, tracked)
        velocity_NT2 = velocity(position_NT2, self.frame_rate_hz)

        population = self.population(index)
        energy_NTU, pool_NTU = population.filter(frames_NTHW)
        gain_NTU = population.gain(position_NT2, velocity_NT2)
        train = split_N == "train"
        population = population.calibrate(energy_NTU[train], pool_NTU[train], gain_NTU[train])
        drive_NTU = population.drive(energy_NTU, pool_NTU)
        own_NTU = energy_NTU / population.energy_scale
        del energy_NTU, pool_NTU
        units_of: dict[str, Any] = {"id": list(self.unit_ids(path.stem))}
        units_of[POSITION] = positions(population.center_px, shape, where)
        truth_of: dict[str, NDArray] = {}
        if self.context is not None:
            contexts = Contexts.draw(self.context, population.center_px, shape, self.frame_rate_hz, more)
            shown = Shown(frames_NTHW, stimulus_N, split_N, own_NTU)
            population, drive_NTU, truth_of = self._in_context(population, contexts, shown, drive_NTU, gain_NTU)
            units_of["context"] = contexts.kind_U.tolist()
        del own_NTU
        if told is not None:
            shift_NT2 = (position_NT2 - told.position_NT2) / self.degrees_per_pixel
            truth_of[SHIFT] = rearrange(shift_NT2, "n t d -> (n t) d")
            frames_NTHW, position_NT2 = told.frames_NTHW, told.position_NT2
            velocity_NT2 = velocity(position_NT2, self.frame_rate_hz)
        rate_NTU = population.rate(drive_NTU, gain_NTU)
        counts_NTU = population.spike(rate_NTU, noise)

        cosines = min(VELOCITY_COSINES, round(VELOCITY_COSINES_S * self.frame_rate_hz) + 1)
        basis = raised_cosine_basis(cosines, VELOCITY_COSINES_S, self.frame_rate_hz)
        velocity_TD = split_by_sign(rearrange(velocity_NT2, "n t d -> (n t) d"))
        directions = ("right", "down", "left", "up")  # split_by_sign puts the positive parts first
        write_recording(
            path,
            recording_id=path.stem,
            frame_rate_hz=self.frame_rate_hz,
            frames=rearrange(frames_NTHW, "n t h w -> (n t) h w"),
            counts=rearrange(counts_NTU, "n t u -> (n t) u"),
            trials=trials,
            behavior={
                "eye_velocity": expand(velocity_TD, basis, trials),
                "eye_position": rearrange(position_NT2, "n t d -> (n t) d"),
            },
            behavior_units={"eye_velocity": "degrees per second", "eye_position": "degrees"},
            behavior_names={
                "eye_velocity": [f"{d}_{i}" for d in directions for i in range(cosines)],
                "eye_position": ["x", "y"],
            },
            behavior_causal={"eye_velocity": basis.causal, "eye_position": True},
            units=units_of,
            truth={
                "rate": rearrange(rate_NTU, "n t u -> (n t) u") / self.frame_rate_hz,
                "mean_rate_hz": rate_NTU[train].mean((0, 1)),
                **population.truth(),
                **truth_of,
            },
            source=f"vivit-core simulator, version {VERSION}, photographs of scikit-image",
            stimulus_kind="photographs under a moving eye",
            degrees_per_pixel=self.degrees_per_pixel,
        )

    def trials(self, rng: np.random.Generator) -> Trials:
        """Of a recording, in an order that ``rng`` draws."""
        numbers = {"train": self.train_trials, "val": self.val_trials, "test": self.test_trials}
        return schedule(numbers, self.repeated_stimuli, self.repeats, self.n_bins, rng)

    def _show(
        self,
        stimulus_N: NDArray[np.str_],
        split_N: NDArray[np.str_],
        rng: np.random.Generator,
        more: np.random.Generator,
        tracked: Tracked | None,
    ) -> Generator[int, None, tuple[NDArray[np.uint8], FloatArray, Told | None]]:
        """Frames (N, T, H, W) and eye position in degrees (N, T, 2), and both as a tracker tells; equal stimuli are
        shown equally. Yields each trial that is done.

        `more` draws what only a world for neurons with context has: moving objects, and the body's sway.
        """
        shape = (self.height, self.width)
        frames_NTHW = np.empty((self.n_trials, self.n_bins, *shape), np.uint8)
        position_NT2 = np.empty((self.n_trials, self.n_bins, 2), np.float32)
        told = None if tracked is None else Told(np.empty_like(frames_NTHW), np.empty_like(position_NT2))
        for split in ("train", "val", "test"):
            places = quarters(split)
            places = [places[i] for i in rng.permutation(len(places))]
            for i, stimulus in enumerate(dict.fromkeys(stimulus_N[split_N == split])):
                scene = Scene.draw(*places[i % len(places)], shape, rng)
                x, y = (self.degrees_per_pixel * room for room in scene.room_px(shape))
                swayed_T2 = np.zeros((self.n_bins, 2), np.float32)
                if self.context is not None:
                    room = min(SWAY_DEG, x / 3), min(SWAY_DEG, y / 3)
                    swayed_T2 = sway(self.trial_s, self.frame_rate_hz, np.array(room), more)
                    x, y = x - room[0], y - room[1]
                room_deg = (x, y) if tracked is None else tracked.room((x, y))
                path = eye_path(self.trial_s, self.frame_rate_hz, room_deg, rng)
                shown = stimulus_N == stimulus
                objects = None
                if self.context is not None:
                    least, most = self.context.object_speed_deg_per_s
                    degree_px = 1 / (
                        self.degrees_per_pixel * self.frame_rate_hz
                    )  # pixels a frame, at a degree a second
                    speed_px = least * degree_px, most * degree_px
                    objects = Objects.draw(scene, self.context.object_cover, speed_px, more)

                frames_NTHW[shown] = self._seen(scene, objects, path.position_T2 + swayed_T2)
                position_NT2[shown] = path.position_T2
                if tracked is not None and told is not None:
                    for n in np.flatnonzero(shown):
                        told.position_NT2[n] = tracked.told(path.position_T2, int(n))
                        told.frames_NTHW[n] = self._seen(scene, objects, told.position_NT2[n] + swayed_T2)
                yield from np.flatnonzero(shown).tolist()
        return frames_NTHW, position_NT2, told

    def _seen(self, scene: Scene, objects: Objects | None, gaze_T2: FloatArray) -> NDArray[np.uint8]:
        """The frames (T, H, W) around each gaze, in degrees from the scene's center."""
        gaze_px_T2 = gaze_T2 / self.degrees_per_pixel
        frames_THW = scene.render(gaze_px_T2, (self.height, self.width))
        if objects is not None:
            objects.paint(frames_THW, gaze_px_T2)
        return frames_THW

    def _in_context(
        self, population: Population, contexts: Contexts, shown: Shown, local_NTU: FloatArray, gain_NTU: FloatArray
    ) -> tuple[Population, FloatArray, dict[str, NDArray]]:
        """The population with its scale in context, the drive that its contexts leave, and what is true of them."""
        train = shown.split_N == "train"
        signal_NTU = contexts.signal(shown.frames_NTHW, shown.own_NTU)
        contexts = contexts.calibrate(signal_NTU[train], local_NTU[train], gain_NTU[train])
        drive_NTU = local_NTU * contexts.kept(signal_NTU)
        population = population.aimed(drive_NTU[train], gain_NTU[train])

        def a_bin(rate_NTU: FloatArray) -> NDArray[np.float16]:
            return (rearrange(rate_NTU, "n t u -> (n t) u") / self.frame_rate_hz).astype(np.float16)

        truth = contexts.truth()
        for kind in KINDS:
            without_NTU = local_NTU * contexts.kept(signal_NTU, without=kind)
            truth[f"rate_without_{kind}"] = a_bin(population.rate(without_NTU, gain_NTU))
        rate_NTU = population.rate(drive_NTU, gain_NTU)
        truth["rate_local"] = a_bin(local_rate(rate_NTU, local_NTU, gain_NTU, shown.stimulus_N))
        return population, drive_NTU, truth | self._moments(contexts, shown)

    def _moments(self, contexts: Contexts, shown: Shown) -> dict[str, NDArray]:
        """The true weights at moments spread evenly over the test stimuli, and the bins (M,) of the moments."""
        tests = dict.fromkeys(shown.stimulus_N[shown.split_N == "test"])
        rows = [int(np.flatnonzero(shown.stimulus_N == name)[0]) for name in tests]  # of repeats, the first
        wanted = 0 if self.context is None else self.context.moments
        bins = {}
        for i, row in enumerate(rows):
            n = len(range(i, wanted, len(rows)))  # of this trial, after its first fifth
            bins[row] = np.unique(np.linspace(0.2, 1, n + 2)[1:-1] * (self.n_bins - 1)).astype(int).tolist()
        chosen = {row: own for row, own in bins.items() if own}
        if not chosen:
            return {}
        found = contexts.moments([(shown.frames_NTHW[n], shown.own_NTU[n]) for n in chosen], list(chosen.values()))
        return found | {"context_bins": np.array([n * self.n_bins + t for n, own in chosen.items() for t in own])}
