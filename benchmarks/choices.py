"""What each option of each group is worth: the default twin with one thing exchanged, at an equal cost of training.

    python benchmarks/choices.py                                  # all options on the simulated recordings, 3 seeds
    python benchmarks/choices.py --groups readout likelihood --seeds 0 --steps 60
    python benchmarks/choices.py -- data.root=FOLDER              # settings after -- go to every training

A step of an option and one of the default take turns, and the ratio of their times says how many steps the option is
given. They have the sizes of ``data.geometry``, which settings after -- may set. So another process that makes the
machine slower changes no score, and trainings can run side by side (``--jobs``). Each training is a process of its
own; what has been trained is not trained again, so a run that was stopped goes on, and a seed that is missing is left
out of the table. Scores are of the test split, which neither training nor choice of the best checkpoint has seen. The
gain is paired unit by unit with the default, averaged over seeds, and the interval resamples the units. Bits of
another likelihood are no gain: the correlation compares those.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from hydra import compose, initialize_config_dir

from measuring import Sizes, Step, as_in_training, machine, settings_of
from vivit_core.cli.schema import conf_dir

ROOT = Path(__file__).resolve().parents[1]
GROUPS: dict[str, dict[str, list[str]]] = {  # beginnings of options' names -> what must be set with them
    "readout": {},
    "model/attention": {},
    "model/tokenizer": {"tubelet": ["model/frontend=none"]},
    "model/modulator": {},
    "model/shifter": {},
    "model/history": {},
    "model/latent": {},
    "likelihood": {},
    "optim": {},
}
SETTINGS = (  # choices that are single keys, and another core
    *("model.blocks=joint", "model.tokenizer.token_stride=[4,8,8]", "optim.cooldown_fraction=0.2"),
    *("data.weighting=equal", "data.weighting=subjects", "model=resnet"),
)
EPOCHS = 4
UNCOMPILED = "model.compile=false"  # as a step is timed
TURNS = 5  # of the option and the default, for the cost of a step
COLUMNS = (
    *("option", "bits/spike", "of the oracle", "gain over the default", "correlation", "steps", "cost of a step"),
    *("parameters, 10⁶", "seeds"),
)
RESAMPLES = 10_000
MARKS = "<!-- tables of benchmarks/choices.py -->", "<!-- end of the tables -->"


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


def cost(choice: Choice, settings: Sequence[str]) -> float:
    """Seconds of its training step over those of the default's, which take turns."""
    steps = []
    for own in (choice, DEFAULT):
        composed = settings_of(*own.with_settings(settings), UNCOMPILED)
        steps.append(Step(composed, Sizes.of(composed, "cpu"), "cpu"))
    took: list[list[float]] = [[], []]
    for _ in range(1 + TURNS):  # the first ones warm up
        for step, seconds in zip(steps, took, strict=True):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
    return statistics.median(a / b for a, b in zip(took[0][1:], took[1][1:], strict=True))


def train(words: Sequence[str], folder: Path, threads: int | None = None) -> str | None:
    """Train and evaluate in a process of its own; returns the last line of what went wrong."""
    if (folder / "summary.json").exists():
        return None
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "run.py"), *words, "resume=never", f"hydra.run.dir={folder}"]
    env = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with open(log, "w") as out:
        done = subprocess.run(command, stdout=out, stderr=out, cwd=ROOT, env=env)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    return lines[-1] if lines else f"status {done.returncode}"


@dataclass(frozen=True)
class Found:
    """Scores, steps and size of a trained twin; NaN where something is not known."""

    likelihood: str
    bps_U: np.ndarray
    numbers: Mapping[str, float]


def found(folder: Path) -> Found:
    """What a training left."""
    summary = json.loads((folder / "summary.json").read_text())
    metrics = pd.read_csv(folder / "metrics.csv")
    content = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    weights = content["state_dict"]
    share = summary["knowable_fraction"]
    return Found(
        summary["likelihood"],
        pd.read_csv(folder / "units.csv")["bps"].to_numpy(),
        {
            "bps": summary["bps_mean"],
            "corr": summary["corr_mean"],
            "share": np.nan if share is None else share,
            "steps": metrics["step"].max() + 1,
            "parameters": sum(value.numel() for name, value in weights.items() if name.startswith("twin.")),
        },
    )


def row_of(name: str, ratio: float, own_of: Mapping[int, Found], default_of: Mapping[int, Found]) -> list[str]:
    """A line of the table: over the seeds that both have."""
    seeds = sorted(own_of.keys() & default_of.keys())
    own, default = ([of[seed] for seed in seeds] for of in (own_of, default_of))

    def mean(key: str) -> float:
        return float(np.mean([each.numbers[key] for each in own]))

    gain_U = np.nanmean([a.bps_U - b.bps_U for a, b in zip(own, default, strict=True)], axis=0)
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


def costs(every: Sequence[Choice], settings: Sequence[str], path: Path) -> tuple[dict[str, float], dict[str, str]]:
    """The cost of each choice's step over the default's, kept in a file; and why others were refused."""
    as_in_training("cpu")
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    refused: dict[str, str] = {}
    for choice in every:
        if choice.name not in known:
            try:
                known[choice.name] = 1.0 if choice is DEFAULT else cost(choice, settings)
            except ValueError as error:
                refused[choice.name] = str(error)
                print(f"{choice.name}: {error}", flush=True)
                continue
            print(f"{choice.name}: a step costs {known[choice.name]:.2f} of the default's", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known, indent=1))
    return known, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groups", nargs="*", default=[g for g in GROUPS if (conf_dir() / g).is_dir()], choices=GROUPS)
    parser.add_argument("--others", nargs="*", default=SETTINGS, help="settings that are choices too")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=324, help="of the default; others take as long")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, which share the cores")
    parser.add_argument("--minutes", type=float, default=np.inf, help="after which no further training begins")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/choices")
    parser.add_argument("--page", type=Path, help="a Markdown page whose tables are replaced")
    parser.add_argument("settings", nargs="*", help="for every training, after --")
    asked = parser.parse_args()
    ends = time.monotonic() + 60 * asked.minutes

    usual = default_options()
    every = [choice for choice in choices(asked.groups) if usual[choice.group] != choice.option]
    every = [DEFAULT, *every, *(Choice("", word, (word,)) for word in asked.others)]
    cost_of, refused = costs(every, asked.settings, asked.folder / "costs.json")
    trained = [choice for choice in every if choice.name in cost_of]
    jobs = list(product(asked.seeds, trained))

    def run(job: tuple[int, Choice]) -> tuple[int, str, Path, str | None]:
        seed, choice = job
        folder = asked.folder / f"seed{seed}" / re.sub(r"[^\w.]+", "-", choice.name)
        steps = max(1, round(asked.steps / cost_of[choice.name] / EPOCHS))
        words = [
            *(*choice.with_settings(asked.settings), UNCOMPILED, f"seed={seed}", "trainer.max_minutes=inf"),
            *("trainer.device=cpu", f"trainer.epochs={EPOCHS}", f"trainer.steps_per_epoch={steps}"),
        ]
        if not (folder / "summary.json").exists() and time.monotonic() > ends:
            return seed, choice.name, folder, "no time was left"
        problem = train(words, folder, max(1, (os.cpu_count() or 1) // asked.jobs))
        print(f"seed {seed}, {1 + jobs.index(job)} of {len(jobs)}: {choice.name} {problem or ''}", flush=True)
        return seed, choice.name, folder, problem

    results: dict[str, dict[int, Found]] = {}
    with ThreadPoolExecutor(asked.jobs) as pool:
        for seed, name, folder, problem in pool.map(run, jobs):
            if problem is None:
                results.setdefault(name, {})[seed] = found(folder)
            else:
                refused.setdefault(name, problem)

    text = "\n".join(tables(every, cost_of, results, refused, [f"{asked.steps} steps of the default", *asked.settings]))
    print(text)
    if asked.page is not None:
        write_between_marks(asked.page, text)


def tables(
    every: Sequence[Choice],
    cost_of: Mapping[str, float],
    results: Mapping[str, Mapping[int, Found]],
    refused: Mapping[str, str],
    given: Sequence[str],
) -> Iterator[str]:
    """Markdown: the scores of all choices, and what each is; ``given`` is said above them."""
    at, words = machine("cpu"), ", ".join(f"`{word}`" for word in given)
    yield f"{at['name']}, {at['threads']} threads; each training as long as {words}.\n"
    yield f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
    default_of = results.get(DEFAULT.name, {})
    for choice in every:
        if results.get(choice.name, {}).keys() & default_of.keys():
            row = row_of(f"`{choice.name}`", cost_of[choice.name], results[choice.name], default_of)
            yield f"| {' | '.join(row)} |"
        elif choice.name in refused:
            yield f"| `{choice.name}` | {refused[choice.name]} {'| ' * (len(COLUMNS) - 1)}|"
    yield "\n| option | what it is |\n|---|---|"
    for choice in every:
        if about := choice.about():
            yield f"| `{choice.name}` | {about} |"


def write_between_marks(page: Path, text: str) -> None:
    """Put the text where the page has its marks, in the place of what stands there."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{page} has no lines {MARKS[0]} and {MARKS[1]} after it, between which the tables go")
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
