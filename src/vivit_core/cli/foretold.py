"""How long the stages of a training will take: as this machine did such work before, and as its first steps tell."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vivit_core.cli import runs
from vivit_core.cli.console import tell
from vivit_core.cli.schema import Budget
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.system.activity import duration
from vivit_core.system.work import Work
from vivit_core.training.budget import BUDGET, TimeBudget
from vivit_core.training.ranks import ProcessGroup


@dataclass(frozen=True)
class Foretold:
    """The work of a training's stages.

    Attributes
    ----------
    baseline, start, training, evaluation : the fit of LN, starting values from data, the steps of the budget that are
        not made yet with their validations, the evaluation on the test split; None of what is left out.
    most_s : what is left of the time limit of the training; infinite without one.
    decided_s : what the steps that its budget decided will take; None where it has not.
    """

    baseline: Work | None
    start: Work | None
    training: Work
    evaluation: Work | None
    most_s: float
    decided_s: float | None = None

    @property
    def training_s(self) -> float | None:
        """About how long the training will take; None where nobody knows and nothing limits it."""
        found = self.training.expected_s
        if self.decided_s is not None:
            return self.decided_s
        if found is None:
            return None if math.isinf(self.most_s) else self.most_s
        return min(found, self.most_s)

    @property
    def estimate_s(self) -> float | None:
        """The same, where it is more than the limit alone."""
        return None if self.training.expected_s is None and self.decided_s is None else self.training_s

    def line(self) -> str:
        """How long the whole will take, stage by stage; what no clock of this machine has told is unknown."""
        trained = self.training_s
        parts = {"the training": trained}
        if self.start is not None:
            parts = {"starting values": self.start.expected_s, **parts}
        if self.baseline is not None:
            parts = {"the linear baseline (LN)": self.baseline.expected_s, **parts}
        if self.evaluation is not None:
            parts["the evaluation"] = self.evaluation.expected_s
        said = {name: "unknown" if seconds is None else duration(seconds) for name, seconds in parts.items()}
        if trained is not None and self.training.expected_s is None and self.decided_s is None:
            said["the training"] = f"at most {duration(trained)}"
        unknown = " and what is unknown" if None in parts.values() else ""
        whole = duration(sum(seconds for seconds in parts.values() if seconds is not None)) + unknown
        if not any(parts.values()):
            whole = "unknown, because this machine has done nothing like it yet"
        return f"expected from here on: {whole} ({', '.join(f'{name} {text}' for name, text in said.items())})"


def foretold(
    model: Mapping[str, Any],
    baseline: Mapping[str, Any] | None,
    datamodule: RecordingsDataModule,
    budget: Budget,
    where: str,
    begun: Mapping[str, Any] | None,
) -> Foretold:
    """The work that is ahead of a training whose recordings are known.

    Parameters
    ----------
    model, baseline : their nodes. A rate is that of the same model; sizes of frames and clips scale it.
    datamodule : set up.
    budget : of the training.
    where : the device, and by how many processes it is trained; another one has a rate of its own.
    begun : the checkpoint from which it goes on; None where it begins.
    """
    parts = [model, budget.precision, where]
    kind = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]
    frames = dict.fromkeys(("train", "test"), 0.0)  # pixels in all trials
    responses = 0.0
    for recording in datamodule.recordings:
        height, width = recording.info.frame_shape[1:]
        for split in frames:
            frames[split] += recording.info.trials.of(split).n_bins * height * width
        responses += recording.info.trials.of("train").n_bins * recording.info.n_units
    pixels = max(math.prod(recording.info.frame_shape[1:]) for recording in datamodule.recordings)
    own = model.get("own_filter") is not None  # found unit by unit, which takes longer than all else
    known = {} if begun is None else begun.get(BUDGET) or {}
    made = 0 if begun is None else begun["global_step"]
    # What was decided under another limit, or of other steps, is decided anew.
    asked = 60 * budget.max_minutes, budget.epochs * budget.steps_per_epoch
    same = (known.get("limit_s"), known.get("most")) == asked and known["steps"] is not None
    clips = max(0, budget.epochs * budget.steps_per_epoch - made) * budget.accumulate * budget.batch_size
    start = Work("starting values, unit by unit", responses) if own else Work("starting values", frames["train"])
    return Foretold(
        baseline=None if baseline is None or begun is not None else Work("LN", responses),
        start=start if begun is None else None,
        training=Work(f"training {kind}", clips * datamodule.clip_length * pixels),
        evaluation=Work(f"evaluation {kind}", frames["test"]) if datamodule.scorable("test") else None,
        most_s=max(0.0, 60 * budget.max_minutes - known.get("spent", 0.0)),
        decided_s=max(0, known["steps"] - made) * known["step_s"] if same else None,
    )


def time_budget(
    run: runs.RunFolder, budget: Budget, processes: ProcessGroup, datamodule: RecordingsDataModule
) -> TimeBudget | None:
    """What decides how many steps there is time for, and says so; None without a limit."""
    if math.isinf(budget.max_minutes):
        return None

    def decided(found: TimeBudget, line: str) -> None:
        if processes.rank == 0:
            if datamodule.scorable("test"):
                after_s = evaluation_s(found, budget, datamodule, processes.size) or 0.0
                line += f"; the evaluation after them takes about {duration(after_s)}"
            tell(line)
            runs.note_in_run(run, "steps", found.steps)

    return TimeBudget(60 * budget.max_minutes, budget.epochs * budget.steps_per_epoch, decided)


def evaluation_s(
    found: TimeBudget | None, budget: Budget, datamodule: RecordingsDataModule, processes: int
) -> float | None:
    """About how long the evaluation on the test split takes, which the first of the processes makes alone; None where
    no step was timed, or nothing is scored."""
    if found is None or found.steps is None or not datamodule.scorable("test"):
        return None
    return processes * found.forward_s(len(datamodule.evaluation_dataloader("test")), budget.accumulate)
