"""Killed at every write event, and some microseconds after it; on one file system, on two, and on full ones. What is
begun again as a user would ends as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacking import TIMEOUT, Attack
from forks import Forks

pytestmark = [pytest.mark.long, TIMEOUT]
DELAYS_US = (0, 60, 600, 6000)  # after a write event
CLIPS = ["data.clip_length=16", "data.burn_in=4", "data.evaluation_length=16", "data.evaluation_burn_in=4"]
TWIN = ["model.embedding_dim=8", "model.attention.heads=2", "model.spatial_depth=1", "model.temporal_depth=1"]
TINY = [
    *("trainer=debug", "data.num_workers=0", "data.behavior=[pupil]", "model/tokenizer=tubelet"),
    *("model.tokenizer.patch_size=[2,4,4]", *TWIN, *CLIPS),
]
SIMULATED = {
    "recordings": 2, "units": 3, "train_trials": 2, "val_trials": 1, "test_trials": 1, "repeated_stimuli": 1,
    "repeats": 2, "trial_s": 0.5, "height": 8, "width": 8, "frame_rate_hz": 120.0, "degrees_per_pixel": 0.03,
    "seed": 0, "context": None, "eye_tracker": None,
}  # fmt: skip
IMPORT = ["task=import", "importer=arrays", "importer.recording_id=x", "importer.frame_rate_hz=30"]


@dataclass(frozen=True)
class Place:
    """Where one try writes."""

    folder: Path  # where it is called; holds `lab`, where it needs one
    out: Path
    temporary: Path
    lab: Path  # what it reads

    def __post_init__(self) -> None:
        for folder in (self.folder, self.out, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Scenario:
    """A piece of work that is killed and begun again, and how one sees that it came out right."""

    function: str
    arguments: Callable[[Place], list[Any]]
    facts: str  # a function of `looking`, of the folder `out`
    prepare: Callable[[Forks, Place], None] = lambda forks, place: None
    begun: str | None = None  # run folders, of which those of killed processes are given up


def recordings(place: Place) -> str:
    return f"data.recordings=[{place.lab}/a.h5]"


def import_words(place: Place) -> list[str]:
    return [
        *IMPORT,
        "importer.trial_length=50",
        f"source={place.lab}/x.npz",
        f"out={place.out}/x.h5",
        f"outputs={place.out}/o",
    ]


def trained(forks: Forks, place: Place) -> None:
    """A finished training, to be evaluated; made once and copied."""
    shutil.copytree(place.lab / "trained", place.out, dirs_exist_ok=True)


def checkpoint_in(place: Place) -> str:
    (found,) = place.out.glob("train/*/checkpoints/best.ckpt")
    return f"checkpoint={found}"


SCENARIOS = {
    "training": Scenario(
        "forks:command", lambda p: [[*TINY, recordings(p), f"outputs={p.out}", "resume=auto"]], "looking:training"
    ),
    "training in a chosen folder": Scenario(
        "forks:command",
        lambda p: [[*TINY, recordings(p), f"outputs={p.out}", f"hydra.run.dir={p.out}/run", "seed=3"]],
        "looking:training",
    ),
    "import": Scenario("forks:command", lambda p: [import_words(p)], "looking:recordings"),
    "simulation": Scenario("looking:simulate", lambda p: [str(p.out), SIMULATED], "looking:simulations"),
    "sweep": Scenario(
        "forks:command",
        lambda p: [["-m", *TINY, recordings(p), f"outputs={p.out}", "seed=0,1", "trainer.epochs=1", "baseline=null"]],
        "looking:sweep",
    ),
    "report": Scenario(
        "forks:command",
        lambda p: [["task=evaluate", checkpoint_in(p), "split=val", "trainer=debug", f"outputs={p.out}"]],
        "looking:evaluations",
        prepare=trained,
        begun="evaluate/*",
    ),
}


def call(forks: Forks, scenario: Scenario, place: Place, **job: Any) -> dict[str, Any]:
    """Do the work once."""
    output = place.folder.with_name(place.folder.name + ".out")
    under = [str(place.out), str(place.temporary)]
    environment = {"TMPDIR": str(place.temporary)}
    given = {"output": output, "under": under, "environment": environment, "blank": True}
    return forks.ask(scenario.function, *scenario.arguments(place), folder=place.folder, **(given | job))


def look(forks: Forks, function: str, place: Place, *arguments: Any) -> Any:
    answer = forks.ask(function, *arguments, folder=place.folder, output=place.folder.with_name("look.out"))
    assert answer["code"] == 0, answer["said"][-600:]
    return answer["value"]


def differences(is_: Any, should_be: Any, where: str = "") -> list[str]:
    if isinstance(is_, dict) and isinstance(should_be, dict):
        keys = sorted({*is_, *should_be})
        return [line for key in keys for line in differences(is_.get(key), should_be.get(key), f"{where}/{key}")]
    if isinstance(is_, list) and isinstance(should_be, list):
        lines = [f"{where} lacks {one!r:.200}" for one in should_be if one not in is_]
        lines += [f"{where} has {one!r:.200} too much" for one in is_ if one not in should_be]
        if lines:
            return lines
    return [] if is_ == should_be else [f"{where} is {is_!r:.300} and should be {should_be!r:.300}"]


def after_kill(forks: Forks, place: Place) -> list[str]:
    return look(forks, "looking:halves", place, str(place.out))


def again(forks: Forks, scenario: Scenario, place: Place, facts: Any) -> list[str]:
    """Begin again, and compare with what was not disturbed."""
    done = call(forks, scenario, place)
    if done["code"] != 0:
        return [f"begun again it ends with {done['code']}: {done['said'][-900:]}"]
    wrong = look(forks, "looking:halves", place, str(place.out), True, scenario.begun)
    wrong += look(forks, "looking:left", place, [str(place.temporary)])
    return wrong + differences(look(forks, scenario.facts, place, str(place.out)), facts)


@pytest.fixture(scope="module")
def lab(attack: Attack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is read: a recording, arrays to import, a finished training."""
    folder = tmp_path_factory.mktemp("lab")
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, (300, 4))
    np.savez(folder / "x.npz", frames=rng.integers(0, 255, (300, 8, 8), dtype=np.uint8), counts=counts)
    place = Place(folder / "work", folder / "trained", folder / "tmp", folder)

    def warm(forks: Forks) -> None:
        forks.ask("looking:make_recordings", str(folder), folder=folder / "work", warm=True)
        shutil.rmtree(place.out)
        answer = call(forks, SCENARIOS["training"], place, warm=True)
        assert answer["code"] == 0, answer["said"]
        look(forks, "looking:halves", place, str(place.out))

    attack.each(warm)
    return folder


Undisturbed = Callable[[str], tuple[Any, list[str]]]


@pytest.fixture(scope="module")
def undisturbed(attack: Attack, lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """``undisturbed("training")``: the facts of the work that nothing disturbs, and its write events."""
    known: dict[str, tuple[Any, list[str]]] = {}

    def get(name: str) -> tuple[Any, list[str]]:
        if name not in known:
            folder, scenario = tmp_path_factory.mktemp("undisturbed"), SCENARIOS[name]
            place = Place(folder / "work", folder / "out", folder / "tmp", lab)
            with attack.fork() as forks:
                scenario.prepare(forks, place)
                done = call(forks, scenario, place, warm=True)
                assert done["code"] == 0, done["said"]
                known[name] = look(forks, scenario.facts, place, str(place.out)), done["events"]
        return known[name]

    return get


@dataclass(frozen=True)
class Kill:
    at: int
    after_us: int
    event: str

    def __str__(self) -> str:
        return f"killed {self.after_us} µs after write event {self.at} ({self.event})"


def kills(events: list[str]) -> list[Kill]:
    """All of them; the first ``len(events)`` take each event once, with each of the delays."""
    delays = len(DELAYS_US)
    return [
        Kill(at, DELAYS_US[(at + turn) % delays], event)
        for turn in range(delays)
        for at, event in enumerate(events, start=1)
    ]


def killed(scenario: Scenario, facts: Any, place_of: Callable[[int], Place]) -> Callable[[Forks, int, Kill], list[str]]:
    def attempt(forks: Forks, number: int, kill: Kill) -> list[str]:
        place = place_of(number)
        try:
            scenario.prepare(forks, place)
            call(forks, scenario, place, at=kill.at, after_us=kill.after_us)
            return after_kill(forks, place) + again(forks, scenario, place, facts)
        finally:
            for folder in (place.folder, place.out, place.temporary):
                shutil.rmtree(folder, ignore_errors=True)

    return attempt


SHARES = {
    "training": 0.12, "training in a chosen folder": 0.07, "import": 0.03, "simulation": 0.03, "sweep": 0.07,
    "report": 0.05,
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_on_one_file_system(
    name: str, attack: Attack, lab: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    facts, events = undisturbed(name)

    def place_of(number: int) -> Place:
        return Place(tmp_path / f"{number}/work", tmp_path / f"{number}/out", tmp_path / f"{number}/tmp", lab)

    attack(f"{name}, killed", SHARES[name], kills(events), killed(SCENARIOS[name], facts, place_of))


@contextmanager
def other_file_system(beside: Path, size: str = "512m") -> Iterator[Path | None]:
    """A folder on another file system, in memory: one of its own where this user may mount one, else in /dev/shm; None
    where there is neither."""
    folder = beside / "memory"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "attack", str(folder)]
    if os.getuid() == 0 and shutil.which("mount") and subprocess.run(options, capture_output=True).returncode == 0:
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    shared = Path("/dev/shm")
    if size == "512m" and os.access(shared, os.W_OK) and shared.stat().st_dev != beside.stat().st_dev:
        made = shared / f"attack-{os.getpid()}"
        made.mkdir()
        try:
            yield made
        finally:
            shutil.rmtree(made)
        return
    yield None


@pytest.mark.parametrize(("name", "share"), [("training", 0.08), ("import", 0.02), ("sweep", 0.02)])
def test_killed_on_two_file_systems(
    name: str, share: float, attack: Attack, lab: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Outputs in memory, TMPDIR on the disk."""
    what = f"{name}, killed, outputs and TMPDIR apart"
    facts, events = undisturbed(name)
    with other_file_system(tmp_path) as memory:
        if memory is None:
            attack.skip(what, "no other file system: neither may this user mount one, nor is /dev/shm one")
        assert memory is not None

        def place_of(number: int) -> Place:
            return Place(tmp_path / f"{number}/work", memory / str(number), tmp_path / f"{number}/tmp", lab)

        attack(what, share, kills(events), killed(SCENARIOS[name], facts, place_of))


# Full disks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    share: float

    def __str__(self) -> str:
        return f"room for {self.share:.0%} of what it writes"


ROOMS = [Room((i + 0.5) / 64) for i in range(64)]


def size_of(folder: Path) -> int:
    """Bytes that a file system in memory takes for it."""
    seen = {(s.st_dev, s.st_ino): s.st_blocks * 512 for p in folder.rglob("*") for s in [p.stat()] if p.is_file()}
    return sum(seen.values())


@pytest.mark.parametrize(
    ("name", "share"), [("training", 0.04), ("import", 0.01), ("simulation", 0.01), ("sweep", 0.02), ("report", 0.02)]
)
def test_a_full_disk(
    name: str, share: float, attack: Attack, lab: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """A disk that fills up ends it in a line, without a half file; with room again it ends well."""
    scenario, what = SCENARIOS[name], f"{name}, disk full"
    facts, _ = undisturbed(name)
    with other_file_system(tmp_path, size="64m") as memory:
        mounted = memory is not None
        full = memory or tmp_path
        whole = Place(tmp_path / "whole/work", full / "out", tmp_path / "whole/tmp", lab)
        with attack.fork() as forks:
            scenario.prepare(forks, whole)
            before = size_of(whole.out)
            call(forks, scenario, whole)
        written = size_of(whole.out) - before
        largest = max(path.stat().st_size for path in whole.out.rglob("*") if path.is_file())
        shutil.rmtree(whole.out)

        def attempt(forks: Forks, number: int, room: Room) -> list[str]:
            here = tmp_path / str(number)
            memory = here / "out"
            if mounted:
                memory.mkdir(parents=True)
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "attack", str(memory)], check=True)
            place = Place(here / "work", memory, here / "tmp", lab)
            try:
                scenario.prepare(forks, place)
                if mounted:
                    blocks = (before + int(room.share * written)) // 4096 + 1
                    subprocess.run(["mount", "-o", f"remount,size={blocks * 4096}", str(memory)], check=True)
                    done = call(forks, scenario, place)
                    subprocess.run(["mount", "-o", "remount,size=64m", str(memory)], check=True)
                else:
                    done = call(forks, scenario, place, file_bytes=int(room.share * largest) + 1)
                wrong = after_kill(forks, place)
                if "Traceback" in done["said"] or done["code"] not in (0, 1):
                    wrong.append(f"a full disk ends it with {done['code']}: {done['said'][-900:]}")
                return wrong + again(forks, scenario, place, facts)
            finally:
                if mounted:
                    subprocess.run(["umount", "-l", str(memory)], check=True)
                shutil.rmtree(here, ignore_errors=True)

        attack(what if mounted else f"{what} (limit on files)", share, ROOMS, attempt)
