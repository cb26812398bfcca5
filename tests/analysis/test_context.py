"""What context tells, where the answer is known: the true rates find all of it, the best local observer nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shipped import PLAIN
from tiny_models import unit_scores
from torch import Tensor, nn

from vivit_core.analysis.evaluate import evaluate as evaluation
from vivit_core.analysis.evaluate.section import report_section
from vivit_core.analysis.predict import Predictions, predict_split
from vivit_core.cli.evaluation import table_of
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.metrics.oracle import share_of_context
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.predictor import Predictor
from vivit_core.specs import Batch, RecordingSpec

KINDS = ["surround", "local", "motion", "surround"]
TRIAL, TESTS, BURN_IN = 60, 12, 5


def written(folder: Path, name: str = "context", seed: int = 0, context: bool = True) -> Path:
    """Units whose rates are a local part times what their context leaves of it."""
    rng = np.random.default_rng(seed)
    bins = (1 + TESTS) * TRIAL
    local = np.exp(rng.normal(0.0, 0.7, (bins, 4)))
    kept = np.where(np.array(KINDS) == "local", 1.0, rng.choice([0.2, 1.8], (bins, 4)))
    start = np.arange(0, bins, TRIAL)
    truth: dict[str, np.ndarray] = {"rate": (local * kept).astype(np.float32)}
    if context:
        truth["rate_local"] = local.astype(np.float32)
    return write_recording(
        folder / f"{name}.h5",
        recording_id=name,
        frame_rate_hz=50.0,
        frames=rng.integers(0, 256, (bins, 3, 4), dtype=np.uint8),
        counts=rng.poisson(local * kept).astype(np.uint8),
        trials=Trials(start, start + TRIAL, np.arange(1 + TESTS), np.array(["train"] + ["test"] * TESTS)),
        units={"id": np.array([f"{name}-{unit}" for unit in "abcd"])} | ({"context": KINDS} if context else {}),
        truth=truth,
    )


def module_of(*paths: Path) -> RecordingsDataModule:
    data = RecordingsDataModule(
        recordings=[str(path) for path in paths], root=None, simulator=None, cache="", behavior=[], clip_length=TRIAL,
        burn_in=BURN_IN, evaluation_length=None, evaluation_burn_in=BURN_IN, weighting="units", num_workers=0, seed=0,
        **PLAIN,
    )  # fmt: skip
    data.setup()
    return data


class Constant(Predictor):
    """Stands in for a twin; what it predicts is replaced."""

    def __init__(self, specs: list[RecordingSpec]) -> None:
        super().__init__(specs, "all")
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {
            name: self.gain.expand(*clips["frames"].shape[:3:2], self.specs[name].n_units)
            for name, clips in batch.items()
        }

    def likelihood(self, recording_id: str) -> Poisson:
        return Poisson(self.specs[recording_id].unit_mean_counts, "exp")


Predicted = Callable[[str, np.ndarray, np.ndarray], np.ndarray]  # from a recording's id, its true and its local rates


def evaluated(
    data: RecordingsDataModule, predicted: Predicted, out: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The evaluation of a twin that predicts this."""
    recordings: dict[str, Recording] = {view.recording_id: view for view in data.recordings}

    def known(*arguments: Any, **named: Any) -> Iterator[tuple[str, Predictions]]:
        for name, found in predict_split(*arguments, **named):
            recording = recordings[name]
            rate = recording.truth("rate")[found.bins_N]
            local = recording.truth("rate_local")[found.bins_N] if "rate_local" in recording.truths else rate
            found.predicted_NU = predicted(name, rate, local).astype(np.float32)
            yield name, found

    monkeypatch.setattr(evaluation, "predict_split", known)
    twin = Constant(data.specs)
    return evaluation.evaluate(twin, data, ln=None, out=out, checkpoint="best.ckpt", progress=False)


@pytest.mark.parametrize(("what", "expected"), [("truth", 1.0), ("local", 0.0)])
def test_the_truth_finds_all_of_context_and_the_local_best_nothing(
    what: str, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module_of(written(tmp_path, "one"), written(tmp_path, "two", seed=1))
    out = tmp_path / "out"
    summary = evaluated(data, lambda _, rate, local: rate if what == "truth" else local, out, monkeypatch)
    assert list(summary["context"]) == ["motion", "surround", "local"]
    for own in (summary, *summary["recordings"].values()):
        assert own["contextual_fraction"] == pytest.approx(expected, abs=1e-6)
        assert own["contextual_fraction_interval"] == pytest.approx([expected] * 2, abs=1e-6)
        for kind, found in own["context"].items():
            assert found["units"] == KINDS.count(kind) * (2 if own is summary else 1)
            fraction = found["contextual_fraction"]
            assert fraction is None if kind == "local" else fraction == pytest.approx(expected, abs=1e-6)
    for row in csv.DictReader((out / "units.csv").open()):
        kind = KINDS["abcd".index(row["unit"][-1])]
        assert row["context"] == kind
        assert (row["contextual_fraction"] == "") == (kind == "local")
        if kind != "local":
            assert float(row["contextual_fraction"]) == pytest.approx(expected, abs=1e-6)
            assert float(row["truth_bps"]) > float(row["local_bps"]) + 0.1
    assert json.loads((out / "summary.json").read_text()) == summary


def test_each_recording_has_its_own_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module_of(written(tmp_path, "all"), written(tmp_path, "nothing", seed=1))
    summary = evaluated(data, lambda name, *rates: rates[name == "nothing"], tmp_path / "out", monkeypatch)
    for name, expected in (("all", 1.0), ("nothing", 0.0)):
        own = summary["recordings"][name]
        assert [own["contextual_fraction"], *own["contextual_fraction_interval"]] == pytest.approx(
            [expected] * 3, abs=1e-6
        )
    low, high = summary["contextual_fraction_interval"]
    assert 0.3 < low < summary["contextual_fraction"] < high < 0.7


def test_it_is_told_by_kind_with_intervals_in_table_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin that knows what surrounds do, and half of what motion does; its error on a local unit is not context's."""
    known = np.array(KINDS) == "surround"

    def predicted(name: str, rate: np.ndarray, local: np.ndarray) -> np.ndarray:
        return np.where(known, rate, np.sqrt(rate * local)) * np.where(np.array(KINDS) == "local", 1.3, 1.0)

    path = written(tmp_path)
    data = module_of(path, written(tmp_path, "plain", context=False))
    summary = evaluated(data, predicted, tmp_path / "out", monkeypatch)
    assert summary["context"]["surround"]["contextual_fraction"] == pytest.approx(1.0, abs=1e-6)
    motion = summary["context"]["motion"]
    low, high = motion["contextual_fraction_interval"]
    assert 0.2 < low < motion["contextual_fraction"] < high < 0.95 and high - low > 0.005

    recording = Recording(path)
    bins = np.concatenate([np.arange(n * TRIAL + BURN_IN, (n + 1) * TRIAL) for n in range(1, 1 + TESTS)])
    counts, valid = recording.counts(0, recording.info.n_frames)[bins], np.ones((len(bins), 4), bool)
    rate, local = (recording.truth(name)[bins] for name in ("rate", "rate_local"))
    own, truth, best = (
        unit_scores(x, counts, valid).by_name["bps"] for x in (predicted("context", rate, local), rate, local)
    )
    assert motion["local_bps_mean"] == pytest.approx(best[2], rel=1e-5)
    assert motion["contextual_fraction"] == pytest.approx((own[2] - best[2]) / (truth[2] - best[2]), rel=1e-5)
    some = [0, 2, 3]  # those with context
    expected = (own[some] - best[some]).sum() / (truth[some] - best[some]).sum()
    assert summary["contextual_fraction"] == pytest.approx(expected, rel=1e-5)

    assert summary["behavior"] == {}
    plain = summary["recordings"]["plain"]
    assert (plain["contextual_fraction"], plain["context"]) == (None, {})
    assert "of context" in [column.header for column in table_of(summary, "test", 160).columns]
    section = report_section(summary, tmp_path, "again")
    table = next(table for table in section.tables if table.title.startswith("What context tells"))
    assert [row[0] for row in table.rows] == ["motion", "surround", "local"]
    assert table.rows[0][-1] == f"{low:.3f} … {high:.3f}" and table.rows[2][-1] is None
    assert {"local_bps", "contextual_fraction"} <= summary["methods"].keys()


def test_without_context_nothing_is_said_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module_of(written(tmp_path, context=False))
    summary = evaluated(data, lambda _, rate, local: rate, tmp_path / "out", monkeypatch)
    assert (summary["contextual_fraction"], summary["context"]) == (None, {})
    assert "of context" not in [column.header for column in table_of(summary, "test", 160).columns]
    assert not [t for t in report_section(summary, tmp_path, "again").tables if "context" in t.title]


def test_a_share_of_context_leaves_out_what_is_not_known() -> None:
    truth, local = np.array([1.0, np.nan, 0.8, 2.0]), np.array([0.6, 0.1, 0.5, -np.inf])
    model = np.array([0.8, 0.2, np.nan, 1.0])
    assert share_of_context(model, truth, local) == pytest.approx(0.5)
    assert np.isnan(share_of_context(model, local, local))
    both = share_of_context(np.stack([model, truth]), np.stack([truth, truth]), np.stack([local, local]))
    assert both == pytest.approx([0.5, 1.0])
