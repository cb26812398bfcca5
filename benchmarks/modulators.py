"""What each modulator recovers of the gain that behavior is known to have, on small simulated recordings.

    python benchmarks/modulators.py                                   # every model/modulator
    python benchmarks/modulators.py --options gain film --seeds 0 1 2
    python benchmarks/modulators.py -- model/tokenizer=stem           # settings after -- go to every training

Simulated rates are a drive times a gain that follows from the eye: a gaze field, and what saccades do. The gain is
worth some bits per spike: those of the true rate, less those of the drive alone. A twin's own gain is its rate over its
rate with behavior held at its mean. Put in the place of the true gain, it recovers a part of these bits: the share. It
is 1 for the true gain and 0 for none, whatever the twin knows of the drive. Each training is a process of its own; what
has been trained is not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from choices import ROOT, choices, found, train
from measuring import machine
from vivit_core import load_twin
from vivit_core.cli.schema import conf_dir
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate import Simulator
from vivit_core.metrics.unit_scores import Scorer
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.predictor import Predictor
from vivit_core.parts.build import build

SIMULATED: dict[str, Any] = {
    "recordings": 1, "units": 48, "train_trials": 80, "val_trials": 6, "test_trials": 20, "repeated_stimuli": 0,
    "frame_rate_hz": 60.0, "height": 20, "width": 32,
}  # fmt: skip
BURN_IN, EPOCHS = 25, 4
SMALL = (
    *("model.embedding_dim=24", "model.attention.heads=2", "model.spatial_depth=1", "model.temporal_depth=1"),
    *("model.window=120", "model.compile=false", "model.tokenizer.patch_size=[4,8,8]", "trainer.device=cpu"),
    *("model.tokenizer.stem.channels=16", "model.tokenizer.stem.stride=2", "model.tokenizer.widths=[16]"),
    *("model.tokenizer.cell=4", f"trainer.epochs={EPOCHS}", "trainer.batch_size=4", "data.clip_length=150"),
    *(f"data.burn_in={BURN_IN}", "baseline=null"),
)
COLUMNS = ("option", "share of the gain", "correlation with its logarithm", "test bits/spike", "of the oracle")


@dataclass(frozen=True)
class Gains:
    """On the test trials without their burn-in, each (bins, U)."""

    rate: np.ndarray  # true
    gain: np.ndarray  # true
    found: np.ndarray  # the twin's


def gains(twin: Predictor, recording: Recording, simulator: Simulator, index: int) -> Gains:
    """What the twin makes of behavior in one recording, and what is true."""
    spec = twin.specs[recording.recording_id]
    test = recording.info.trials.of("test")
    parts: list[tuple[np.ndarray, ...]] = []
    for start, stop in zip(test.start, test.stop, strict=True):
        frames, behavior = recording.frames(start, stop), recording.behavior(start, stop, spec.behavior)
        still = np.tile(np.array(spec.behavior_mean, np.float32), (len(behavior), 1))
        moved, held = (twin.rates(spec.recording_id, frames, x) for x in (behavior, still))
        gain = simulator.gain(index, recording.behavior(start, stop, {"eye_position": 2})[None])[0]
        parts.append((recording.truth("rate", start, stop), gain, moved / held))
    return Gains(*(np.concatenate([own[BURN_IN:] for own in of]) for of in zip(*parts, strict=True)))


def measured(of: Gains) -> dict[str, np.ndarray]:
    """For each unit: its bits per spike with the true gain, with none and with the twin's, and how alike the logarithms
    of gains are."""
    drive = of.rate / of.gain
    every, scorer = np.ones(of.rate.shape, bool), Scorer(Poisson((), "exp"))

    def bits(gain: np.ndarray) -> np.ndarray:
        rate = drive * gain
        scores: np.ndarray = scorer.scores_of(rate * of.rate.mean(0) / rate.mean(0), of.rate, every).by_name["bps"]
        return scores

    logs = [np.log(gain) - np.log(gain).mean(0) for gain in (of.gain, of.found)]
    size = np.sqrt(np.square(logs[0]).sum(0) * np.square(logs[1]).sum(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        alike = np.where(size > 1e-9, (logs[0] * logs[1]).sum(0) / size, 0.0)
    return {"true": bits(of.gain), "none": bits(np.ones_like(of.gain)), "twin": bits(of.found), "alike": alike}


@dataclass(frozen=True)
class World:
    """Recordings whose gain is known, in a folder where twins of them are trained."""

    folder: Path
    simulator: Simulator
    recordings: Sequence[Recording]

    @classmethod
    def made(cls, folder: Path) -> World:
        node = yaml.safe_load((conf_dir() / "data/simulator/backimage.yaml").read_text())
        del node["defaults"]
        simulator: Simulator = build("data.simulator", node | SIMULATED | {"context": None, "eye_tracker": None})
        return cls(folder, simulator, [Recording(path) for path in simulator.make(folder / "recordings")])

    def recovered(
        self, option: str, seed: int, steps: int, more: Sequence[str] = ()
    ) -> tuple[dict[str, np.ndarray], Mapping[str, float]]:
        """Train a twin with this modulator: what :func:`measured` says of the units, and the twin's scores.

        Raises
        ------
        SystemExit
            Where the training fails.
        """
        (choice,) = (choice for choice in choices(["model/modulator"]) if choice.option == option)
        settings = [
            *(f"data.recordings=[{','.join(str(recording.path) for recording in self.recordings)}]", *SMALL),
            *(f"trainer.steps_per_epoch={steps // EPOCHS}", "trainer.max_minutes=inf", *more),
        ]
        folder = self.folder / f"seed{seed}-{steps}steps" / option
        if problem := train([*choice.with_settings(settings), f"seed={seed}"], folder):
            raise SystemExit(f"{option}, seed {seed}: {problem}")
        twin = load_twin(folder / "checkpoints" / "best.ckpt")
        rows = [measured(gains(twin, own, self.simulator, index)) for index, own in enumerate(self.recordings)]
        return together(rows), found(folder).numbers


def together(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The units of several recordings or trainings in one."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def share(bits: Mapping[str, np.ndarray]) -> float:
    """Of the true gain's bits per spike, the part that the twin's gain recovers."""
    return float((bits["twin"] - bits["none"]).mean() / (bits["true"] - bits["none"]).mean())


def main() -> None:
    every = [choice.option for choice in choices(["model/modulator"])]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--options", nargs="+", default=every, choices=every)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=240, help="of each training")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/modulators")
    parser.add_argument("settings", nargs="*", help="for every training, after --")
    asked = parser.parse_args()

    world = World.made(asked.folder)
    print(f"{machine('cpu')}; {asked.steps} steps, seeds {asked.seeds} {asked.settings}\n", flush=True)
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for option in asked.options:
        trainings = [world.recovered(option, seed, asked.steps, asked.settings) for seed in asked.seeds]
        bits = together([units for units, _ in trainings])
        means = (np.mean([scores[name] for _, scores in trainings]) for name in ("bps", "share"))
        numbers = (share(bits), bits["alike"].mean(), *means)
        print(f"| `{option}` | {' | '.join(f'{number:.3f}' for number in numbers)} |", flush=True)
    print(f"\nthe gain is worth {(bits['true'] - bits['none']).mean():.3f} of {bits['true'].mean():.3f} bits/spike")


if __name__ == "__main__":
    main()
