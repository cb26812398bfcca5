"""What each option of each group is worth: the default twin with one thing exchanged, at equal wall-clock time.

    python benchmarks/choices.py                                  # all options on the simulated recordings, 3 seeds
    python benchmarks/choices.py --groups readout likelihood --seeds 0 --minutes 2
    python benchmarks/choices.py -- data.root=FOLDER              # settings after -- go to every training

Each training is a process of its own, one after the other; what has been trained is not trained again, so a run that
was stopped goes on. The default is trained first and last of each seed, because a machine may become slower meanwhile:
the table tells both. Scores are of the test split, which neither training nor choice of the best checkpoint has seen.
The gain is paired unit by unit with the default, averaged over seeds, and the interval resamples the units. Bits of
another likelihood are no gain: the correlation compares those. Run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from measuring import machine
from vivit_core.cli.schema import conf_dir

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = "default", "default, again"
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
COLUMNS = (
    *("option", "bits/spike", "of the oracle", "gain over the default", "correlation", "steps", "cost of a step"),
    "parameters, 10⁶",
)
RESAMPLES = 10_000


@dataclass(frozen=True)
class Choice:
    """One thing exchanged: the group, the option, and the words on the command line."""

    group: str
    option: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.group}={self.option}" if self.group else self.option


def choices(groups: Sequence[str]) -> Iterator[Choice]:
    """The options of these groups, as ``conf`` has them."""
    for group in groups:
        for path in sorted((conf_dir() / group).glob("*.yaml")):
            also = next((words for begin, words in GROUPS[group].items() if path.stem.startswith(begin)), [])
            yield Choice(group, path.stem, (f"{group}={path.stem}", *also))


def about(choice: Choice) -> str:
    """The first comment of its YAML, which says what it is."""
    lines = []
    for line in (conf_dir() / choice.group / f"{choice.option}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(line for line in lines if not line.startswith("@package"))


def train(choice: Choice, seed: int, minutes: float, more: Sequence[str], folder: Path) -> str | None:
    """Train and evaluate it in a process of its own; returns the last line of what went wrong."""
    if (folder / "summary.json").exists():
        return None
    words = [*choice.words, f"seed={seed}", f"trainer.max_minutes={minutes:g}", "resume=never", *more]
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as out:
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *words, f"hydra.run.dir={folder}"], stdout=out, stderr=out, cwd=ROOT
        )
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    return lines[-1] if lines else f"status {done.returncode}"


@dataclass(frozen=True)
class Found:
    """Scores, steps and cost of a training; NaN where something is not known."""

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
            "clips_per_s": metrics["system/samples_per_sec"].median(),
            "parameters": sum(value.numel() for name, value in weights.items() if name.startswith("twin.")),
        },
    )


def row_of(name: str, own_of: Mapping[int, Found], default_of: Mapping[int, Found]) -> list[str]:
    """A line of the table: over the seeds that both have."""
    seeds = sorted(own_of.keys() & default_of.keys())
    own, default = ([of[seed] for seed in seeds] for of in (own_of, default_of))

    def mean(of: Sequence[Found], key: str) -> float:
        return float(np.mean([each.numbers[key] for each in of]))

    gain_U = np.nanmean([a.bps_U - b.bps_U for a, b in zip(own, default, strict=True)], axis=0)
    rng = np.random.default_rng(0)
    means = np.nanmean(gain_U[rng.integers(len(gain_U), size=(RESAMPLES, len(gain_U)))], axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    share, alike = mean(own, "share"), own[0].likelihood == default[0].likelihood
    return [
        name,
        f"{mean(own, 'bps'):.3f}",
        "" if np.isnan(share) else f"{share:.3f}",
        f"{np.nanmean(gain_U):+.3f} [{low:+.3f}, {high:+.3f}]" if alike else f"bits of {own[0].likelihood}",
        f"{mean(own, 'corr'):.3f}",
        f"{mean(own, 'steps'):.0f}",
        f"{mean(default, 'clips_per_s') / mean(own, 'clips_per_s'):.2f}",
        f"{mean(own, 'parameters') / 1e6:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groups", nargs="+", default=[g for g in GROUPS if (conf_dir() / g).is_dir()], choices=GROUPS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=14.5, help="of each training")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/choices")
    parser.add_argument("settings", nargs="*", help="for every training, after --")
    asked = parser.parse_args()

    first, last = (Choice("", name, ()) for name in DEFAULTS)
    every = list(choices(asked.groups))
    results: dict[str, dict[int, Found]] = {}
    refused: dict[str, str] = {}
    for seed in asked.seeds:
        for number, choice in enumerate([first, *every, last]):
            print(f"seed {seed}, {number + 1} of {len(every) + 2}: {choice.name}", flush=True)
            folder = asked.folder / f"seed{seed}" / re.sub(r"[^\w.]+", "-", choice.name)
            if problem := train(choice, seed, asked.minutes, asked.settings, folder):
                refused[choice.name] = problem
                print(f"  {problem}", flush=True)
            else:
                results.setdefault(choice.name, {})[seed] = found(folder)

    print(f"\n{machine('cpu')}; {asked.minutes:g} minutes of training each, seeds {asked.seeds} {asked.settings}\n")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for name, own in results.items():
        print(f"| {' | '.join(row_of(f'`{name}`', own, results[DEFAULTS[0]]))} |")
    for name, problem in refused.items():
        print(f"| `{name}` | {problem} {'| ' * (len(COLUMNS) - 1)}|")
    print("\n| option | what it is |\n|---|---|")
    for choice in every:
        print(f"| `{choice.name}` | {about(choice)} |")


if __name__ == "__main__":
    main()
