"""What each option of each group is worth: the default twin with one thing exchanged, at an equal cost of training.

    python benchmarks/choices.py --results FILE                   # all options on the simulated recordings, 3 seeds
    python benchmarks/choices.py --results FILE --groups readout likelihood --seeds 0 --steps 60
    python benchmarks/choices.py --results FILE -- data.root=FOLDER   # settings after -- go to every training

docs/choices.md has the command whose results are in ``choices.json``, where they go without ``--results``.

A step of an option and one of the default take turns, and the ratio of their times says how many steps the option is
given. They have the sizes of ``data.geometry``, which settings after -- may set, and what counts is the time of one
core. So another process that makes the machine slower changes no score, and trainings can run side by side
(``--jobs``). Each training is a process of its own. What is found is kept in a file: what is there is not trained
again, so that a run that was stopped goes on, on this machine or on another, and a seed that is missing is left out of
the table. Scores are of the test split, which neither training nor choice of the best checkpoint has seen. The gain is
paired unit by unit with the default, averaged over seeds, and the interval resamples the units. Bits of another
likelihood are no gain: the correlation compares those.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from hydra import compose, initialize_config_dir

from measuring import Sizes, Step, as_in_training, settings_of
from vivit_core.cli.schema import conf_dir

ROOT = Path(__file__).resolve().parents[1]
GROUPS: dict[str, dict[str, list[str]]] = {  # beginnings of options' names -> what must be set with them
    "readout": {},
    "model/attention": {},
    "model/tokenizer": {"tubelet": ["model/frontend=none"]},
    "model/energy": {},
    "model/modulator": {},
    "model/own_filter": {},
    "model/shifter": {},
    "model/history": {},
    "model/latent": {},
    "likelihood": {},
    "optim": {"muon": ["model/energy=none"]},  # blocks that begin with comparisons hardly learn, by whatever optimizer
}
SETTINGS = (  # choices that are single keys, and another core
    *("model.blocks=joint", "model.tokenizer.token_stride=[4,8,8]", "optim.cooldown_fraction=0.2", "model=resnet"),
)
EPOCHS = 3
UNCOMPILED = "model.compile=false"  # as a step is timed
TURNS = 3  # of the option and the default, for the cost of a step
COLUMNS = (
    *("option", "bits/spike", "of the oracle", "gain over the default", "correlation", "steps", "cost of a step"),
    *("parameters, 10⁶", "seeds"),
)
RESAMPLES = 10_000
MARKS = "<!-- benchmarks/choices.py: {} -->", "<!-- end: {} -->"


@dataclass(frozen=True)
class Choice:
    """One thing exchanged: the group ("" for a single key), the option, and the words on the command line."""

    group: str
    option: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.group}={self.option}" if self.group else self.option

    def with_settings(self, settings: Iterable[str]) -> list[str]:
        """Its words after these settings, without those that are of the part that it exchanges, and that its own part
        does not have."""
        if not self.group:
            return [*settings, *self.words]
        dotted, own = self.group.replace("/", ".") + ".", self.content()

        def fits(setting: str) -> bool:
            key, _, _ = setting.partition("=")
            return not key.startswith(dotted) or key.removeprefix(dotted).split(".")[0] in own

        return [*filter(fits, settings), *self.words]

    def content(self) -> Mapping[str, Any]:
        found: dict[str, Any] = yaml.safe_load((conf_dir() / self.group / f"{self.option}.yaml").read_text())
        return found

    def about(self) -> str:
        """The first comment of its YAML, which says what it is; of a single key, nothing."""
        if not self.group:
            return ""
        lines = []
        for line in (conf_dir() / self.group / f"{self.option}.yaml").read_text().splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.lstrip("# ").strip())
        return " ".join(line for line in lines if not line.startswith("@package"))


DEFAULT = Choice("", "default", ())


def choices(groups: Sequence[str]) -> Iterator[Choice]:
    """The options of these groups, as ``conf`` has them."""
    for group in groups:
        for path in sorted((conf_dir() / group).glob("*.yaml")):
            also = next((words for begin, words in GROUPS[group].items() if path.stem.startswith(begin)), [])
            yield Choice(group, path.stem, (f"{group}={path.stem}", *also))


def default_options() -> dict[str, str]:
    """The option of each group that the default twin has."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return dict(compose("config", overrides=["run_dir=none"], return_hydra_config=True).hydra.runtime.choices)


def default_twin() -> str:
    """A hash of what the default twin is made of, and of how it learns."""
    settings = settings_of()
    parts = {name: settings[name] for name in ("model", "readout", "likelihood", "optim")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def cost(choice: Choice, settings: Sequence[str]) -> float:
    """A core's time of its training step over that of the default's, which take turns."""
    steps = []
    for own in (choice, DEFAULT):
        composed = settings_of(*own.with_settings(settings), UNCOMPILED)
        steps.append(Step(composed, Sizes.of(composed, "cpu"), "cpu"))
    took: list[list[float]] = [[], []]
    for _ in range(1 + TURNS):  # the first ones warm up
        for step, seconds in zip(steps, took, strict=True):
            began = time.process_time()
            step()
            seconds.append(time.process_time() - began)
    return statistics.median(a / b for a, b in zip(took[0][1:], took[1][1:], strict=True))


def train(words: Sequence[str], folder: Path, threads: int | None = None) -> str | None:
    """Train and evaluate in a process of its own; returns the last line of what went wrong."""
    log = folder.parent / f"{folder.name}.log"  # names of single keys hold dots
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "run.py"), *words, "resume=never", f"hydra.run.dir={folder}"]
    env = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with open(log, "w") as out:
        done = subprocess.run(command, stdout=out, stderr=out, cwd=ROOT, env=env)
    if done.returncode == 0:
        return None
    advice = "(debug=true adds the traceback)"  # under what went wrong
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip() not in ("", advice)]
    return lines[-1] if lines else f"status {done.returncode}"


@dataclass(frozen=True)
class Found:
    """Scores, steps and size of a trained twin; NaN where something is not known.

    ``commit`` is the one that it was trained at.
    """

    likelihood: str
    bps_U: Sequence[float]
    numbers: Mapping[str, float]
    commit: str


def found(folder: Path) -> Found:
    """What a training left."""
    summary = json.loads((folder / "summary.json").read_text())
    metrics = pd.read_csv(folder / "metrics.csv")
    content = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    weights = content["state_dict"]
    environment = json.loads((folder / "environment.json").read_text())
    share = summary["knowable_fraction"]
    return Found(
        summary["likelihood"],
        pd.read_csv(folder / "units.csv")["bps"].round(4).to_list(),
        {
            "bps": summary["bps_mean"],
            "corr": summary["corr_mean"],
            "share": np.nan if share is None else share,
            "steps": int(metrics["step"].max() + 1),
            "parameters": sum(value.numel() for name, value in weights.items() if name.startswith("twin.")),
        },
        str(environment["git"]["commit"])[:7],
    )


class Results:
    """What has been found, in a file.

    Attributes
    ----------
    cost_of : option -> a core's time of a step over that of the default's.
    of : option -> seed -> what its training gave.

    Raises
    ------
    SystemExit
        Where the file's trainings had other settings, or stand beside another default twin.
    """

    def __init__(self, path: Path, given: Sequence[str]) -> None:
        self.path, self.given, self.default = path, list(given), default_twin()
        self.cost_of: dict[str, float] = {}
        self.of: dict[str, dict[int, Found]] = {}
        self.lock = Lock()
        if not path.exists():
            return
        known = json.loads(path.read_text())
        if known["settings"] != self.given:
            raise SystemExit(
                f"{path} holds trainings of {known['settings']}, not of {self.given}; name another --results"
            )
        if known["default"] != self.default:
            raise SystemExit(
                f"{path} holds trainings beside another default twin than today's; name another --results, or take the "
                "file away to train all of them again"
            )
        self.cost_of = known["costs"]
        for option, seeds in known["found"].items():
            self.of[option] = {int(seed): Found(**own) for seed, own in seeds.items()}

    def add(self, option: str, seed: int, own: Found) -> None:
        with self.lock:
            self.of.setdefault(option, {})[seed] = own
            self.save()

    def save(self) -> None:
        of = {
            option: {str(seed): asdict(own) for seed, own in sorted(seeds.items())} for option, seeds in self.of.items()
        }
        known = {"settings": self.given, "default": self.default, "costs": self.cost_of, "found": of}
        text = json.dumps(known, indent=1)
        text = re.sub(r"(?<=[\d\"N],)\n +(?=[-\dN])", " ", text)  # one line for the units of a twin
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".part")
        partial.write_text(text + "\n")
        partial.replace(self.path)


def row_of(name: str, ratio: float, own_of: Mapping[int, Found], default_of: Mapping[int, Found]) -> list[str]:
    """A line of the table: over the seeds that both have."""
    seeds = sorted(own_of.keys() & default_of.keys())
    own, default = ([of[seed] for seed in seeds] for of in (own_of, default_of))

    def mean(key: str) -> float:
        return float(np.mean([each.numbers[key] for each in own]))

    gain_U = np.nanmean([np.subtract(a.bps_U, b.bps_U) for a, b in zip(own, default, strict=True)], axis=0)
    rng = np.random.default_rng(0)
    means = np.nanmean(gain_U[rng.integers(len(gain_U), size=(RESAMPLES, len(gain_U)))], axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    gain = f"{np.nanmean(gain_U):+.3f} [{low:+.3f}, {high:+.3f}]"
    if own[0].likelihood != default[0].likelihood:
        gain = f"bits of {own[0].likelihood}"
    return [
        name,
        f"{mean('bps'):.3f}",
        "" if np.isnan(mean("share")) else f"{mean('share'):.3f}",
        "" if name == f"`{DEFAULT.name}`" else gain,
        f"{mean('corr'):.3f}",
        f"{mean('steps'):.0f}",
        f"{ratio:.2f}",
        f"{mean('parameters') / 1e6:.2f}",
        ", ".join(map(str, seeds)),
    ]


def add_costs(results: Results, every: Sequence[Choice], settings: Sequence[str]) -> dict[str, str]:
    """Time steps of what has none yet; returns why others were refused."""
    as_in_training("cpu")
    torch.set_num_threads(1)  # more would wait for each other, which costs time too
    refused: dict[str, str] = {}
    for choice in every:
        if choice.name in results.cost_of:
            continue
        try:
            results.cost_of[choice.name] = 1.0 if choice is DEFAULT else round(cost(choice, settings), 3)
        except ValueError as error:
            refused[choice.name] = str(error)
            print(f"{choice.name}: {error}", flush=True)
            continue
        print(f"{choice.name}: a step costs {results.cost_of[choice.name]:.2f} of the default's", flush=True)
        results.save()
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groups", nargs="*", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--others", nargs="*", default=SETTINGS, help="settings that are choices too")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=324, help="of the default; others take as long")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, which share the cores")
    parser.add_argument("--minutes", type=float, default=np.inf, help="after which no further training begins")
    parser.add_argument("--folder", type=Path, help="of the trainings; without it one of its own for each --results")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/choices.json", help="what was found")
    parser.add_argument("--page", type=Path, help="a Markdown page whose tables are replaced")
    parser.add_argument("settings", nargs="*", help="for every training, after --")
    asked = parser.parse_args()
    ends = time.monotonic() + 60 * asked.minutes

    work = asked.folder or ROOT / "outputs/choices" / asked.results.stem
    usual = default_options()
    every = [choice for choice in choices(asked.groups) if usual[choice.group] != choice.option]
    every = [DEFAULT, *every, *(Choice("", word, (word,)) for word in asked.others)]
    results = Results(asked.results, [f"{asked.steps} steps of the default", *asked.settings])
    refused = add_costs(results, every, asked.settings)
    trained = [choice for choice in every if choice.name in results.cost_of]
    jobs = list(product(asked.seeds, trained))

    def run(job: tuple[int, Choice]) -> None:
        seed, choice = job
        if seed in results.of.get(choice.name, {}):
            return
        if time.monotonic() > ends:
            refused.setdefault(choice.name, "no time was left")
            return
        folder = work / f"seed{seed}" / re.sub(r"[^\w.]+", "-", choice.name)
        steps = max(1, round(asked.steps / results.cost_of[choice.name] / EPOCHS))
        words = [
            *(*choice.with_settings(asked.settings), UNCOMPILED, f"seed={seed}", "trainer.max_minutes=inf"),
            *("trainer.device=cpu", f"trainer.epochs={EPOCHS}", f"trainer.steps_per_epoch={steps}"),
        ]
        problem = train(words, folder, max(1, (os.cpu_count() or 1) // asked.jobs))
        print(f"seed {seed}, {1 + jobs.index(job)} of {len(jobs)}: {choice.name} {problem or ''}", flush=True)
        if problem is None:
            results.add(choice.name, seed, found(folder))
        else:
            problem = re.sub(r"\s*\([^()]*/[^()]*\)", "", problem)  # without where it is found, on this machine
            refused.setdefault(choice.name, f"failed: {problem.partition('. ')[0]}")

    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(run, jobs))

    options = [choice for choice in choices(list(GROUPS)) if usual[choice.group] != choice.option]  # whatever was asked
    for name, lines in (
        (asked.results.name, scores(every, results, refused)),
        ("what the options are", abouts(options)),
    ):
        text = "\n".join(lines)
        print(text)
        if asked.page is not None:
            write_between_marks(asked.page, name, text)


def scores(every: Sequence[Choice], results: Results, refused: Mapping[str, str]) -> Iterator[str]:
    """Markdown: the scores of all choices."""
    words = ", ".join(f"`{word}`" for word in results.given)
    commits = sorted({own.commit for seeds in results.of.values() for own in seeds.values()})
    yield f"Each training as long as {words}; trained at {', '.join(commits)}.\n"
    yield f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
    default_of = results.of.get(DEFAULT.name, {})
    for choice in every:
        own_of = results.of.get(choice.name, {})
        if own_of.keys() & default_of.keys():
            row = row_of(f"`{choice.name}`", results.cost_of[choice.name], own_of, default_of)
            yield f"| {' | '.join(row)} |"
        elif choice.name in refused:
            yield f"| `{choice.name}` | {refused[choice.name]} {'| ' * (len(COLUMNS) - 1)}|"


def abouts(every: Sequence[Choice]) -> Iterator[str]:
    """Markdown: what each choice is."""
    yield "| option | what it is |\n|---|---|"
    for choice in every:
        if about := choice.about():
            yield f"| `{choice.name}` | {about} |"


def write_between_marks(page: Path, name: str, text: str) -> None:
    """Put the text where the page has the marks of this name, in the place of what stands there."""
    begins, ends = (mark.format(name) for mark in MARKS)
    before, _, rest = page.read_text(encoding="utf-8").partition(begins)
    _, mark, after = rest.partition(ends)
    if not mark:
        raise SystemExit(f"{page} has no lines {begins} and {ends} after it, between which a table goes")
    page.write_text(f"{before}{begins}\n{text}\n{ends}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
