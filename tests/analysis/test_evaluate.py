"""Evaluation against independent float64 computations on a small hand-made recording."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats
from shipped import PLAIN
from tiny_models import spec, twin, vivit
from torch import Tensor, nn

from vivit_core.analysis.behavior_controls import behavior_controls, partners, refuse_blind
from vivit_core.analysis.compare.compare import compare
from vivit_core.analysis.compare.numbers import Contender
from vivit_core.analysis.compare.section import report_section as section_of_comparison
from vivit_core.analysis.evaluate.draw import CLASSES, calibration_of
from vivit_core.analysis.evaluate.evaluate import evaluate
from vivit_core.analysis.evaluate.numbers import summarize, without_scores
from vivit_core.analysis.evaluate.section import report_section
from vivit_core.analysis.evaluate.verdict import verdict
from vivit_core.analysis.predict import Predictions, predict_split
from vivit_core.analysis.truth import centers_px
from vivit_core.cli.evaluation import table_of
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import ABOUT, Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.metrics import unit_scores
from vivit_core.metrics.base import Totals, UnitMetric
from vivit_core.metrics.calibration import probability_integral
from vivit_core.metrics.streamed_scores import StreamedScores
from vivit_core.models.likelihoods.base import Likelihood, float64_of
from vivit_core.models.likelihoods.negative_binomial import NegativeBinomial
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.likelihoods.zero_inflated_gamma import ZeroInflatedGamma
from vivit_core.models.ln import LN
from vivit_core.models.predictor import Predictor
from vivit_core.specs import Batch, RecordingSpec
from vivit_core.testing import small
from vivit_core.testing.twins import Parts
from vivit_core.training.module import validation_numbers
from vivit_core.training.monitors import check_monitors

UNITS, TRIAL, BURN_IN, CLIP = 4, 23, 5, 10
SHOWN = ["a", "b", "c", "d", "rep", "rep", "rep"]
SPLITS = ["train", "train", "val", "test", "test", "test", "test"]


class PixelTwin(Predictor):
    """Predicts from one pixel of the bin's own frame, so that each prediction tells which frame it belongs to."""

    def __init__(self, spec: RecordingSpec, gains: list[float], predict: Literal["all", "last"] = "all") -> None:
        super().__init__([spec], predict)
        self.gains = nn.Parameter(torch.tensor(gains))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        counts = {
            name: self.gains * (clips["frames"][:, 0, :, 0, 0, None] + 1.0) / 100 for name, clips in batch.items()
        }
        return counts if self.predict == "all" else {name: x[:, -1] for name, x in counts.items()}

    def likelihood(self, recording_id: str) -> Poisson:
        return Poisson(self.specs[recording_id].unit_mean_counts, "exp")


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    bins = TRIAL * len(SHOWN)
    frames = rng.integers(0, 256, (bins, 3, 4), dtype=np.uint8)
    for again in (5, 6):  # the repeats show the same frames
        frames[again * TRIAL : (again + 1) * TRIAL] = frames[4 * TRIAL : 5 * TRIAL]
    rate = np.stack(
        [(frames[:, 0, 0] + 1.0) / 300, (frames[:, 1, 1] + 1.0) / 200, np.full(bins, 0.5), np.full(bins, 0.1)], 1
    )
    counts = rng.poisson(rate).astype(np.uint8)
    counts[:, 3] = 0  # a silent unit
    valid = rng.random((bins, UNITS)) > 0.1
    starts = np.arange(0, bins, TRIAL)
    return {
        "recording_id": "hand",
        "frame_rate_hz": 50.0,
        "frames": frames,
        "counts": counts,
        "valid": valid,
        "trials": Trials(starts, starts + TRIAL, np.array(SHOWN), np.array(SPLITS)),
        "units": {"id": np.array(["u0", "u1", "u2", "u3"])},
        "truth": {"rate": rate.astype(np.float32)},
    }


def module_of(
    path: Path,
    clip_length: int = CLIP,
    burn_in: int = BURN_IN,
    behavior: Sequence[str] = (),
    more: Sequence[Path] = (),
    most_trials: int | None = None,
    frame_rate_hz: float | None = None,
) -> RecordingsDataModule:
    data = RecordingsDataModule(
        recordings=[str(path), *map(str, more)],
        root=None,
        simulator=None,
        cache="",
        behavior=list(behavior),
        clip_length=clip_length,
        burn_in=burn_in,
        evaluation_length=clip_length,
        evaluation_burn_in=burn_in,
        weighting="units",
        num_workers=0,
        seed=0,
        **(PLAIN | {"most_trials": most_trials, "frame_rate_hz": frame_rate_hz}),
    )
    data.configure(batch_size=3)
    data.setup()
    return data


@pytest.fixture
def data(tmp_path: Path) -> RecordingsDataModule:
    return module_of(write_recording(tmp_path / "hand.h5", **arrays()))


def scored_bins(split: str) -> np.ndarray:
    return np.concatenate([np.arange(i * TRIAL + BURN_IN, (i + 1) * TRIAL) for i, s in enumerate(SPLITS) if s == split])


def plain_bps(rate: np.ndarray, counts: np.ndarray) -> float:
    """One unit, the formula written out."""
    mean = counts.mean()
    if mean == 0:
        return math.nan
    model = sum(n * math.log(r) - r for n, r in zip(counts.tolist(), rate.tolist(), strict=True))
    own = sum(n * math.log(mean) - mean for n in counts.tolist())
    return (model - own) / (counts.sum() * math.log(2))


def predicted(twin: Any, data: RecordingsDataModule, split: Any = "test", **changes: Any) -> Predictions:
    found = dict(
        predict_split(twin, data, **({"ln": None, "split": split, "device": "cpu", "progress": False} | changes))
    )
    assert list(found) == ["hand"]
    return found["hand"]


def run(twin: Any, data: RecordingsDataModule, out: Path, **changes: Any) -> dict[str, Any]:
    return evaluate(twin, data, **({"ln": None, "out": out, "checkpoint": "best.ckpt", "progress": False} | changes))


def test_each_bin_is_scored_once_with_its_own_prediction(data: RecordingsDataModule) -> None:
    twin: Any = PixelTwin(data.specs[0], [1.0, 2.0, 3.0, 4.0])
    for split in ("train", "val", "test"):
        found = predicted(twin, data, split)
        bins = scored_bins(split)
        assert np.array_equal(found.bins_N, bins)
        made = arrays()
        assert np.array_equal(found.counts_NU, made["counts"][bins])
        assert np.array_equal(found.valid_NU, made["valid"][bins])
        expected = (made["frames"][bins, 0, 0, None] + 1.0) / 100 * np.array([1.0, 2.0, 3.0, 4.0])
        assert np.allclose(found.predicted_NU, expected, rtol=1e-6)
        assert found.predicted_NU.dtype == np.float32


def test_scores_agree_with_plain_computations(data: RecordingsDataModule, tmp_path: Path) -> None:
    twin: Any = PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7])
    ln: Any = PixelTwin(data.specs[0], [0.3, 0.3, 0.3, 0.3])
    summary = run(twin, data, tmp_path / "out", ln=ln)
    rows = list(csv.DictReader((tmp_path / "out" / "units.csv").open()))
    assert [row["unit"] for row in rows] == ["u0", "u1", "u2", "u3"]

    made, bins = arrays(), scored_bins("test")
    bps, ln_bps, truth_bps, corr, ln_corr = [], [], [], [], []
    for u, gain in enumerate([0.4, 0.5, 0.6, 0.7]):
        use = bins[made["valid"][bins, u]]
        counts = made["counts"][use, u].astype(np.float64)
        pixel = (made["frames"][use, 0, 0] + 1.0) / 100
        bps.append(plain_bps(gain * pixel, counts))
        ln_bps.append(plain_bps(0.3 * pixel, counts))
        truth_bps.append(plain_bps(made["truth"]["rate"][use, u].astype(np.float64), counts))
        corr.append(np.corrcoef(pixel, counts)[0, 1] if counts.any() else math.nan)
        ln_corr.append(corr[-1])
        assert int(rows[u]["bins"]) == len(use)
        assert float(rows[u]["spikes"]) == counts.sum()
        assert float(rows[u]["mean_rate_hz"]) == pytest.approx(counts.mean() * 50.0)
    for name, values in (
        ("bps", bps),
        ("ln_bps", ln_bps),
        ("truth_bps", truth_bps),
        ("corr", corr),
        ("ln_corr", ln_corr),
    ):
        assert [float(row[name]) for row in rows[:3]] == pytest.approx(values[:3], rel=1e-5, abs=1e-6)
        assert rows[3][name] == ""  # the silent unit
    assert summary["bps_mean"] == pytest.approx(np.nanmean(bps), rel=1e-5)
    assert summary["bps_median"] == pytest.approx(np.nanmedian(bps), rel=1e-5)
    assert summary["ln_bps_mean"] == pytest.approx(np.nanmean(ln_bps), rel=1e-5)
    assert summary["corr_mean"] == pytest.approx(np.nanmean(corr), rel=1e-5)
    assert summary["ln_corr_median"] == pytest.approx(np.nanmedian(ln_corr), rel=1e-5)
    known = [u for u in range(3) if truth_bps[u] > 0]
    assert known
    expected = sum(bps[u] for u in known) / sum(truth_bps[u] for u in known)
    assert summary["knowable_fraction"] == pytest.approx(expected, rel=1e-4)
    assert (summary["units"], summary["units_silent"], summary["bins"]) == (4, 1, len(bins))
    assert (summary["burn_in"], summary["causal"], summary["checkpoint"]) == (BURN_IN, True, "best.ckpt")
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    own = dict(summary["recordings"]["hand"])
    assert own.pop("about") == dict.fromkeys(ABOUT, "") and summary["subjects"] == {}
    shared = {name: value for name, value in summary.items() if name in own}
    assert own == shared and len(shared) == len(summary) - 7
    assert summary["left_out"] == summary["calcium"] == []


class TwoMice(PixelTwin):
    """The same pixel for the units of several recordings."""

    def __init__(self, specs: Sequence[RecordingSpec], gains: Sequence[float]) -> None:
        super().__init__(specs[0], list(gains))
        self.specs = {spec.recording_id: spec for spec in specs}


def test_scores_of_each_subject(tmp_path: Path) -> None:
    """Two recordings of one mouse, one of another: what the files say comes back in summary, report and table."""
    files = []
    for number, subject in enumerate(("m1", "m1", "m2")):
        made = arrays() | {"recording_id": f"r{number}", "subject": subject, "stimulus_kind": "noise"}
        made["counts"] = np.roll(made["counts"], number, 0)  # so that the recordings differ in their scores
        files.append(write_recording(tmp_path / f"r{number}.h5", **made))
    data = module_of(files[0], more=files[1:])
    assert {spec.recording_id: (spec.subject, spec.stimulus_kind) for spec in data.specs} == {
        "r0": ("m1", "noise"), "r1": ("m1", "noise"), "r2": ("m2", "noise"),
    }  # fmt: skip
    spec = data.specs[0]
    assert RecordingSpec.from_dict(spec.to_dict()) == spec  # and so into the checkpoint and back
    summary = run(TwoMice(data.specs, [0.4, 0.5, 0.6, 0.7]), data, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "units.csv").open()))
    bps = {
        name: [float(row["bps"]) for row in rows if row["recording"] == name and row["bps"]]
        for name in ("r0", "r1", "r2")
    }
    first, second = summary["subjects"]["m1"], summary["subjects"]["m2"]
    assert (first["recordings"], first["units"], second["recordings"]) == (["r0", "r1"], 8, ["r2"])
    assert first["bps_mean"] == pytest.approx(np.mean(bps["r0"] + bps["r1"]), rel=1e-6)
    assert second["bps_mean"] == pytest.approx(np.mean(bps["r2"]), rel=1e-6)
    assert summary["bps_mean_of_subjects"] == pytest.approx((first["bps_mean"] + second["bps_mean"]) / 2)
    assert summary["bps_mean_of_subjects"] != pytest.approx(summary["bps_mean"], abs=1e-3)
    tables = {table.title: table for table in report_section(summary, tmp_path / "out" / "pictures", "command").tables}
    assert [row[0] for row in tables["Subjects, means over units"].rows] == ["m1", "m2", "mean of subjects"]
    assert tables["What was recorded"].columns == ("recording", "subject", "stimulus kind")
    console = Console(width=160, file=io.StringIO())
    console.print(table_of(summary, "test", 160))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "m1: 2 recordings" in printed and "m2: " not in printed


class Overdispersed(Likelihood):
    """Counts whose variance is r + a r² (negative binomial), with an a for each unit."""

    def __init__(self, mean_counts: Sequence[float], a: list[float]) -> None:
        super().__init__(mean_counts, "exp")
        self.register_buffer("a", torch.tensor(a))

    def nats(self, rate: Tensor, counts: Tensor) -> Tensor:
        return (counts + 1 / self.a) * (self.a * rate).log1p() - torch.xlogy(counts, rate)

    def null_nats(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        mean, a = counts / bins, float64_of(self.a)
        return (counts + bins / a) * np.log1p(a * mean) - counts * np.log(np.where(counts > 0, mean, 1.0))


class OverdispersedTwin(PixelTwin):
    a = (0.5, 1.0, 2.0, 4.0)

    def likelihood(self, recording_id: str) -> Any:
        return Overdispersed(self.specs[recording_id].unit_mean_counts, list(self.a))


def bits_of(rate: np.ndarray, counts: np.ndarray, a: float) -> float:
    """Of one unit, by scipy's negative binomial."""
    own, null = (stats.nbinom.logpmf(counts, 1 / a, 1 / (1 + a * r)).sum() for r in (rate, counts.mean()))
    return float((own - null) / (counts.sum() * math.log(2)))


@pytest.mark.slow
def test_a_twin_s_likelihood_scores_twin_ln_and_truth_alike(data: RecordingsDataModule, tmp_path: Path) -> None:
    gains, a = [0.4, 0.5, 0.6, 0.7], OverdispersedTwin.a
    ln = PixelTwin(data.specs[0], [0.3] * 4)
    summary = run(OverdispersedTwin(data.specs[0], gains), data, tmp_path / "own", ln=ln)
    assert summary["likelihood"] == summary["recordings"]["hand"]["likelihood"] == "Overdispersed"
    rows = list(csv.DictReader((tmp_path / "own" / "units.csv").open()))
    made, bins = arrays(), scored_bins("test")
    for u in range(3):
        use = bins[made["valid"][bins, u]]
        counts, pixel = made["counts"][use, u].astype(float), (made["frames"][use, 0, 0] + 1.0) / 100
        rates = {"bps": gains[u] * pixel, "ln_bps": 0.3 * pixel, "truth_bps": made["truth"]["rate"][use, u]}
        for name, rate in rates.items():
            assert float(rows[u][name]) == pytest.approx(bits_of(rate, counts, a[u]), rel=1e-5, abs=1e-6), name

    plain = run(PixelTwin(data.specs[0], gains), data, tmp_path / "poisson", ln=ln)
    assert plain["likelihood"] == "Poisson" and abs(plain["bps_mean"] - summary["bps_mean"]) > 0.01
    assert plain["corr_mean"] == summary["corr_mean"]

    # A comparison has one ruler, the first model's.
    models = {"own": OverdispersedTwin(data.specs[0], gains), "poisson": PixelTwin(data.specs[0], gains)}
    for names, expected in ((["own", "poisson"], summary), (["poisson", "own"], plain)):
        contenders = [Contender(name, f"{name}.ckpt", models[name], data) for name in names]
        compared = compare(contenders, out=tmp_path / names[0], resamples=5, piece_s=1.0, progress=False)
        assert compared["likelihood"] == expected["likelihood"]
        for own in compared["models"].values():
            assert own["bps_mean"] == pytest.approx(expected["bps_mean"], rel=1e-9)
        assert (
            f"likelihood of {names[0]} ({expected['likelihood']})"
            in section_of_comparison(compared, tmp_path, "again").text[0]
        )

    # A model that knows more units, in another order, scores each with what it knows of that unit.
    ids = ["x", "u3", "u1", "u0", "u2"]
    wide = RecordingSpec.from_dict(
        {**data.specs[0].to_dict(), "unit_ids": ids, "unit_mean_counts": [0.1, 0.2, 0.3, 0.4, 0.5]}
    )
    twin = OverdispersedTwin(wide, [9.0, 0.7, 0.5, 0.4, 0.6])
    twin.a = (9.0, a[3], a[1], a[0], a[2])
    run(twin, data, tmp_path / "wide", ln=ln)
    assert (tmp_path / "wide" / "units.csv").read_text() == (tmp_path / "own" / "units.csv").read_text()
    some = twin.likelihood("hand").of_units([3, 2])
    assert some.mean_counts == (0.4, 0.3) and some.a.tolist() == [a[0], a[1]]


class Missed(UnitMetric):
    """Mean squared error: the lower the better."""

    name = "missed"
    title = "squared error per bin"
    method = "(r̂ − n)², a mean over bins."
    higher_is_better = False

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        return ((rate - counts).square(),)

    def score(self, totals: Totals, sums: np.ndarray) -> np.ndarray:
        return np.asarray(sums[0] / totals.bins)


@pytest.fixture
def missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line more in ``METRICS``."""
    monkeypatch.setattr(unit_scores, "METRICS", (*unit_scores.METRICS, Missed()))


@pytest.mark.slow
@pytest.mark.usefixtures("missed")
def test_a_metric_is_a_class_and_a_line(tmp_path: Path) -> None:
    """All that shows scores derives from the metrics."""
    data = moving(tmp_path, ["running", "eye_position", "eye_velocity"])
    model: Any = PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7])
    ln: Any = PixelTwin(data.specs[0], [0.3] * 4)
    summary = run(model, data, tmp_path / "out", ln=ln, with_behavior_controls=True)
    found = predicted(model, data)
    error = np.where(found.valid_NU, (found.predicted_NU.astype(float) - found.counts_NU) ** 2, np.nan)
    rows = list(csv.DictReader((tmp_path / "out" / "units.csv").open()))
    assert [float(row["missed"]) for row in rows] == pytest.approx(np.nanmean(error, 0).tolist(), rel=1e-5)
    assert {"ln_missed", "shuffled_missed", "none_missed", "frozen_gaze_missed"} <= rows[0].keys()
    assert summary["missed_mean"] == pytest.approx(np.nanmean(error, 0).mean(), rel=1e-5)
    assert summary["methods"]["missed"] == Missed.method
    for own in (summary, summary["recordings"]["hand"]):
        assert {"missed_mean", "missed_median", "ln_missed_mean", "ln_missed_median"} <= own.keys()
    assert summary["behavior"]["none"]["missed_mean"] is not None
    printed = table_of(summary, "test", 160).columns
    assert "squared error/bin" in [column.header for column in printed]
    assert f"{summary['missed_mean']:.3f}".replace("0.", ".", 1) in "".join(str(c) for x in printed for c in x.cells)
    section = report_section(summary, tmp_path, "again")
    assert "squared error per bin" in section.tables[0].columns
    assert ("missed", Missed.method) in section.notes[0].rows
    assert "missed_mean" in without_scores(data, split="test", out=tmp_path, checkpoint="", causal=True)

    metric = StreamedScores(UNITS, Poisson((1.0,) * UNITS, "exp"))
    metric.update(*(torch.as_tensor(x) for x in (found.predicted_NU, found.counts_NU, found.valid_NU)))
    assert validation_numbers({"hand": metric})["missed_mean"] == pytest.approx(summary["missed_mean"], rel=1e-6)
    stop = {"_target_": "vivit_core.training.callbacks.early_stopping.EarlyStopping", "monitor": "val/missed_mean"}
    check_monitors({"early_stopping": stop | {"mode": "min"}}, ["hand"])
    with pytest.raises(ValueError, match="would keep the worst val/missed_mean"):
        check_monitors({"early_stopping": stop | {"mode": "max"}}, ["hand"])

    both = [Contender("a", "a.ckpt", ln, data), Contender("b", "b.ckpt", model, data)]
    compared = compare(both, out=tmp_path / "compared", resamples=5, piece_s=1.0, progress=False)
    (pair,) = compared["pairs"]
    assert compared["models"]["b"]["missed_mean"] == pytest.approx(summary["missed_mean"], rel=1e-6)
    gain = summary["missed_mean"] - summary["ln_missed_mean"]
    assert pair["missed_gain_mean"] == pytest.approx(gain, rel=1e-4) and gain > 0
    assert pair["missed_units_worse"] > 0 == pair["missed_units_better"]
    tables = section_of_comparison(compared, tmp_path, "again").tables
    assert "squared error per bin" in tables[0].columns and "in squared error per bin" in tables[1].columns
    assert "b_missed" in (tmp_path / "compared" / "compare.csv").read_text()


def test_no_metric_of_a_package_takes_another_column(data: RecordingsDataModule, tmp_path: Path) -> None:
    run(PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7]), data, tmp_path)
    columns = next(csv.reader((tmp_path / "units.csv").open()))
    ours = {metric.name for metric in unit_scores.METRICS}
    others = [name for name in columns if name not in ours and not {"bps", "ln"}.intersection(name.split("_"))]
    assert set(others) == unit_scores.TAKEN


def test_the_report_shows_whether_counts_scatter_as_predicted(data: RecordingsDataModule, tmp_path: Path) -> None:
    """The twin's own likelihood says how; what it knows of a unit stands beside that unit. Some say nothing."""
    twin = OverdispersedTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7])
    summary = run(twin, data, tmp_path / "none")
    assert not any("calibration" in path.name for path, _ in report_section(summary, tmp_path / "none", "").pictures)

    scatter = NegativeBinomial((1.0,) * UNITS, "exp", 0.1)
    with torch.no_grad():
        scatter.log_dispersion_U.copy_(torch.tensor(twin.a).log())
    twin.likelihood = lambda recording_id: scatter  # type: ignore[method-assign]
    summary = run(twin, data, tmp_path / "own")
    shown = report_section(summary, tmp_path / "own" / "pictures", "").pictures
    assert any(path.name == "calibration_hand.png" for path, _ in shown)
    found = predicted(twin, data)
    recording = data.recordings[0]
    share = calibration_of(twin, recording, "hand", found)
    valid, a = found.valid_NU, np.array(twin.a)
    said = stats.nbinom(1 / a, 1 / (1 + a * found.predicted_NU.astype(float)))
    expected = probability_integral(said.cdf(found.counts_NU - 1.0)[valid], said.cdf(found.counts_NU)[valid], CLASSES)
    np.testing.assert_allclose(share, expected, rtol=1e-5)
    assert calibration_of(twin, recording, "hand", replace(found, valid_NU=np.zeros_like(valid))) is None


class RememberingTwin(PixelTwin):
    """Doubles a unit's rate after a bin with a spike of its own, where it is told of it."""

    observes = "own"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        counts = super().forward(batch)
        for name, clips in batch.items():
            if "observed" in clips:
                fired = (clips["counts"] > 0) & clips["valid"] & clips["observed"][:, None]
                counts[name] = counts[name] * (1.0 + torch.nn.functional.pad(fired, (0, 0, 1, 0))[:, :-1].float())
        return counts


@pytest.mark.slow
def test_scores_with_past_counts_stand_apart(
    data: RecordingsDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("evaluate.evaluate.draw_recording", "evaluate.evaluate.draw_units", "compare.compare.draw"):
        monkeypatch.setattr(f"vivit_core.analysis.{name}", lambda *args: None)  # no pictures, which take seconds
    gains = [0.4, 0.5, 0.6, 0.7]
    plain = run(PixelTwin(data.specs[0], gains), data, tmp_path / "plain")
    summary = run(RememberingTwin(data.specs[0], gains), data, tmp_path / "own")
    assert plain["observed"] == summary["observed"] == summary["recordings"]["hand"]["observed"] == "none"
    assert plain["history"] == plain["recordings"]["hand"]["history"] == {}
    assert summary["bps_mean"] == plain["bps_mean"] and summary["behavior"] == {}
    told = summary["history"]
    assert told["observed"] == "own" and told["bps_mean"] != summary["bps_mean"]
    assert told == summary["recordings"]["hand"]["history"]
    rows = list(csv.DictReader((tmp_path / "own" / "units.csv").open()))
    assert "observed_bps" not in (tmp_path / "plain" / "units.csv").read_text()
    made, bins = arrays(), scored_bins("test")
    for u in range(3):
        use = bins[made["valid"][bins, u]]
        fired = (made["counts"][use - 1, u] > 0) & made["valid"][use - 1, u] & (use % TRIAL > 0)
        rate = gains[u] * (made["frames"][use, 0, 0] + 1.0) / 100 * (1.0 + fired)
        counts = made["counts"][use, u].astype(float)
        null = stats.poisson.logpmf(counts, counts.mean()).sum()
        expected = (stats.poisson.logpmf(counts, rate).sum() - null) / (counts.sum() * math.log(2))
        assert float(rows[u]["observed_bps"]) == pytest.approx(expected, rel=1e-5), u
    assert told["bps_mean"] == pytest.approx(np.mean([float(row["observed_bps"]) for row in rows[:3]]))
    section = report_section(summary, tmp_path, "")
    assert any("can be told each unit's own counts of earlier bins" in words for words in section.text)
    (table,) = [table for table in section.tables if table.title.startswith("Without and with past counts")]
    assert [row[0] for row in table.rows] == ["none", "own"] * 2
    assert not any("past counts" in table.title for table in report_section(plain, tmp_path, "").tables)

    # A twin that knows more units, in another order, is told of those that the recording has.
    wide = RecordingSpec.from_dict(
        {**data.specs[0].to_dict(), "unit_ids": ["x", "u3", "u1", "u0", "u2"], "unit_mean_counts": [0.5] * 5}
    )
    twins = RememberingTwin(data.specs[0], gains), RememberingTwin(wide, [9.0, 0.7, 0.5, 0.4, 0.6])
    own, other = (predicted(twin, data, observing=True).observed_NU for twin in twins)
    assert np.array_equal(own, other) and predicted(twins[0], data).observed_NU is None

    # A comparison tells nobody.
    models = {"plain": PixelTwin(data.specs[0], gains), "told": twins[0]}
    contenders = [Contender(name, f"{name}.ckpt", model, data) for name, model in models.items()]
    compared = compare(contenders, out=tmp_path / "compared", resamples=5, piece_s=1.0, progress=False)
    assert compared["models"]["told"]["bps_mean"] == compared["models"]["plain"]["bps_mean"]
    text = section_of_comparison(compared, tmp_path, "again").text
    assert any(words.startswith("told can be told past counts. No model was told any") for words in text)


def test_correlation_to_the_average_over_repeats(data: RecordingsDataModule, tmp_path: Path) -> None:
    run(PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7]), data, tmp_path)
    row = next(csv.DictReader((tmp_path / "units.csv").open()))
    made = arrays()
    means, pixels = [], []
    for t in range(BURN_IN, TRIAL):
        shown = [i * TRIAL + t for i in (4, 5, 6) if made["valid"][i * TRIAL + t, 0]]
        if len(shown) >= 2:
            means.append(np.mean([float(made["counts"][k, 0]) for k in shown]))
            pixels.append(float(made["frames"][shown[0], 0, 0]))
    assert float(row["corr_to_average"]) == pytest.approx(np.corrcoef(means, pixels)[0, 1], rel=1e-4)


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    made = {**arrays(), "truth": None}
    made["trials"] = Trials(made["trials"].start, made["trials"].stop, np.arange(len(SHOWN)), made["trials"].split)
    data = module_of(write_recording(tmp_path / "real.h5", **made))
    summary = run(PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7]), data, tmp_path)
    for name in ("knowable_fraction", "ln_bps_mean", "ln_corr_median", "normalized_corr_mean"):
        assert summary[name] is None
        assert summary["recordings"]["hand"][name] is None


def test_an_acausal_behavior_is_said(data: RecordingsDataModule, tmp_path: Path) -> None:
    twin = PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7])
    object.__setattr__(data.specs[0], "behavior_causal", False)
    assert run(twin, data, tmp_path)["causal"] is False


def test_units_are_matched_by_id(data: RecordingsDataModule, tmp_path: Path) -> None:
    """A model that knows more units, in another order, gives each unit its own prediction."""
    spec = data.specs[0]
    wide = RecordingSpec.from_dict(
        {**spec.to_dict(), "unit_ids": ["x", "u3", "u1", "u0", "u2"], "unit_mean_counts": [0.1] * 5}
    )
    run(PixelTwin(wide, [9.0, 0.7, 0.5, 0.4, 0.6]), data, tmp_path / "wide")
    run(PixelTwin(spec, [0.4, 0.5, 0.6, 0.7]), data, tmp_path / "own")
    assert (tmp_path / "wide" / "units.csv").read_text() == (tmp_path / "own" / "units.csv").read_text()


def test_unknown_units_and_recordings_are_refused(data: RecordingsDataModule, tmp_path: Path) -> None:
    spec = data.specs[0]
    narrow = RecordingSpec.from_dict({**spec.to_dict(), "unit_ids": ["u3", "u1"], "unit_mean_counts": [0.1] * 2})
    with pytest.raises(ValueError, match=r"2 of its 4 units: u0, u2"):
        run(PixelTwin(narrow, [1.0, 1.0]), data, tmp_path)
    other = RecordingSpec.from_dict({**spec.to_dict(), "recording_id": "other"})
    with pytest.raises(ValueError, match=r"does not know recording 'hand'; it knows \['other'\]"):
        run(PixelTwin(other, [1.0] * 4), data, tmp_path)


def test_a_model_of_the_newest_bin(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "hand.h5", **arrays())
    one_by_one = module_of(path, clip_length=BURN_IN + 1)
    twin: Any = PixelTwin(one_by_one.specs[0], [1.0, 2.0, 3.0, 4.0], predict="last")
    found = predicted(twin, one_by_one)
    assert np.array_equal(found.bins_N, scored_bins("test"))
    assert np.allclose(found.predicted_NU[:, 1], (arrays()["frames"][found.bins_N, 0, 0] + 1.0) / 50)
    with pytest.raises(ValueError, match="evaluation_length - 1"):
        predicted(twin, module_of(path))


# Behavior's share

TRIALS = [(0, 23, "a"), (23, 33, "b"), (40, 70, "a"), (70, 90, "c")]  # of unequal lengths, with a gap


def moving(tmp_path: Path, names: list[str], trials: Any = TRIALS) -> RecordingsDataModule:
    """A recording whose behaviors tell which bin they are from."""
    rng = np.random.default_rng(0)
    bins = 90
    start, stop, stimulus = (np.array(column) for column in zip(*trials, strict=True))
    behavior = {
        "eye_position": np.stack([np.arange(bins), 1000.0 + np.arange(bins)], 1),
        "eye_velocity": 2000.0 + np.arange(bins)[:, None],
        "running": 3000.0 + np.arange(bins)[:, None],
    }
    path = write_recording(
        tmp_path / "moving.h5",
        recording_id="hand",
        frame_rate_hz=50.0,
        frames=rng.integers(0, 256, (bins + 20, 3, 4), dtype=np.uint8),
        counts=rng.poisson(0.5, (bins + 20, UNITS)).astype(np.uint8),
        behavior={
            name: np.concatenate([behavior[name], np.zeros((20, behavior[name].shape[1]))]).astype(np.float32)
            for name in names
        },
        trials=Trials(
            np.append(start, 90),
            np.append(stop, 110),
            np.append(stimulus, "t"),
            np.array(["test"] * len(start) + ["train"]),
        ),
        units={"id": np.array(["u0", "u1", "u2", "u3"])},
    )
    return module_of(path, behavior=names)


class MovingTwin(PixelTwin):
    """Predicts one behavior number of the bin for each unit."""

    offset = 0.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: clips["behavior"][..., :UNITS] + self.offset for name, clips in batch.items()}


def test_each_control_shows_another_behavior_of_the_right_bins(tmp_path: Path) -> None:
    data = moving(tmp_path, ["running", "eye_position", "eye_velocity"])
    twin: Any = MovingTwin(data.specs[0], [1.0] * UNITS)
    found = predicted(twin, data, controls=behavior_controls(data, "test", 3))
    assert np.array_equal(found.predicted_NU[:, 0], 3000.0 + found.bins_N)
    assert list(found.controls) == ["shuffled", "none", "frozen_gaze"]

    shuffled = found.controls["shuffled"]
    chosen = {}
    for start, stop, stimulus in TRIALS:
        rows = (found.bins_N >= start) & (found.bins_N < stop)
        source = shuffled[rows, 0] - 3000.0
        partner = next(t for t in TRIALS if t[0] <= source[0] < t[1])
        assert partner[2] != stimulus  # a repeat would have seen the same movements
        place = found.bins_N[rows] - start
        assert np.array_equal(source, partner[0] + place % (partner[1] - partner[0]))
        assert np.array_equal(shuffled[rows, 1] + 1000.0, shuffled[rows, 2])  # all behaviors are of one bin
        chosen[start] = partner[0]
    again = predicted(twin, data, controls=behavior_controls(data, "test", 3)).controls["shuffled"]
    assert np.array_equal(shuffled, again)
    assert len(set(chosen.values())) > 1

    assert np.allclose(found.controls["none"], np.array(data.specs[0].behavior_mean)[:UNITS])

    frozen = found.controls["frozen_gaze"]
    assert np.array_equal(frozen[:, 0], found.predicted_NU[:, 0])  # running is no gaze
    for start, stop, _ in TRIALS:
        rows = (found.bins_N >= start) & (found.bins_N < stop)
        assert np.allclose(frozen[rows, 1], np.arange(start, stop).mean())  # burn-in included
        assert np.allclose(frozen[rows, 2], 1000.0 + np.arange(start, stop).mean())
    assert (frozen[:, 3] == 0).all()  # the velocity


def test_behaviors_share_is_in_units_summary_pictures_and_report(tmp_path: Path) -> None:
    data = moving(tmp_path, ["running", "eye_position", "eye_velocity"])
    twin = MovingTwin(data.specs[0], [1.0] * UNITS)
    twin.offset = 5000.0
    summary = run(twin, data, tmp_path / "out", with_behavior_controls=True)
    rows = list(csv.DictReader((tmp_path / "out" / "units.csv").open()))
    found = predicted(twin, data, controls=behavior_controls(data, "test", 0))
    for name, values in found.controls.items():
        bps = [plain_bps(values[:, u], found.counts_NU[:, u]) for u in range(UNITS)]
        assert [float(row[f"{name}_bps"]) for row in rows] == pytest.approx(bps, rel=1e-5)
        lost = np.mean([float(row["bps"]) for row in rows]) - np.mean(bps)
        assert summary["behavior"][name]["bps_lost_mean"] == pytest.approx(lost, rel=1e-4, abs=1e-2)
    assert (tmp_path / "out" / "pictures" / "behavior_share.png").is_file()
    section = report_section(summary, tmp_path / "out" / "pictures", "again")
    assert any(table.title.startswith("Behavior") for table in section.tables)


def test_frozen_gaze_stands_still_at_no_speed_and_unknown_where_nobody_saw_it() -> None:
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    values[4:, 1] = np.nan  # the second trial's place
    trials = Trials([0, 4], [4, 8], ["a", "b"], ["test", "test"])
    recording = SimpleNamespace(info=SimpleNamespace(trials=trials), behavior=lambda start, stop, _: values[start:stop])
    own = SimpleNamespace(recording_id="r", behavior={"running": 1, "eye_position": 1, "eye_speed": 1}, behavior_dim=3)
    data: Any = SimpleNamespace(recordings=[recording], specs=[own])
    clips: Any = {"behavior": torch.as_tensor(values).view(2, 4, 3), "start": torch.tensor([0, 4])}
    frozen = behavior_controls(data, "test", 0)["frozen_gaze"]("r", clips)
    np.testing.assert_array_equal(frozen[..., 0], values[:, 0].reshape(2, 4))
    np.testing.assert_array_equal(frozen[..., 1], [[values[:4, 1].mean()] * 4, [np.nan] * 4])
    assert not frozen[..., 2].any()


def test_without_gaze_there_is_nothing_to_freeze(tmp_path: Path) -> None:
    assert list(behavior_controls(moving(tmp_path, ["running"]), "test", 0)) == ["shuffled", "none"]


def test_what_cannot_be_controlled_is_refused(data: RecordingsDataModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sees no behavior.*hand"):
        refuse_blind(PixelTwin(data.specs[0], [1.0] * UNITS))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"of kind ViViT sees no behavior"):  # no part of it takes any
        refuse_blind(Parts(small.vivit(modulator=None)).twin())
    one = moving(tmp_path, ["running"], TRIALS[:1])
    with pytest.raises(ValueError, match=r"one test trial of recording \S+; leave it out .*behavior_controls=false"):
        behavior_controls(one, "test", 0)


def test_partners_are_other_trials() -> None:
    for stimuli in (["a", "a", "a", "b"], ["a"] * 5, ["a", "b"]):
        chosen = partners(np.array(stimuli), [1, 2])
        for trial, partner in enumerate(chosen):
            assert partner != trial
            assert stimuli[partner] != stimuli[trial] or len(set(stimuli)) == 1


# Where a model looks


def test_centers_are_in_pixels_of_the_recordings_own_frame(tmp_path: Path) -> None:
    """Of a twin that sees the frames at half their size, and of an LN whose window leaves the frame."""
    own = spec(height=24, width=32, units=2, behavior=0)
    path = write_recording(
        tmp_path / "a.h5",
        recording_id="a",
        frame_rate_hz=own.frame_rate_hz,
        frames=np.zeros((60, 24, 32), np.uint8),
        counts=np.ones((60, 2), np.uint8),
        trials=Trials([0, 30], [30, 60], ["x", "y"], ["train", "test"]),
        units={"id": np.array(["a1", "a0"])},  # another order than the model's
    )
    recording = Recording(path)
    small = twin(vivit(modulator=None, frame_size=[12, 16]), own)
    small.readout("a").initialize(torch.tensor([[0.0, 0.0], [15.0, 6.0]]), torch.ones(2))
    assert centers_px(small, recording, "a").tolist() == [[30.5, 12.5], [0.5, 0.5]]

    ln = LN([own], duration_s=0.05, patch=5, nonlinearity="exp")
    head = ln.readout("a")
    head.corner_U2.copy_(torch.tensor([[-2, 10], [5, 6]]))
    with torch.no_grad():
        weights = torch.zeros(2, 5, 5)
        weights[0, 0, 0] = 9.0  # outside of the frame: not seen
        weights[0, 3, 1], weights[0, 3, 3] = 1.0, -1.0
        weights[1, 4, 2] = 2.0
        head.space_UP.copy_(weights.flatten(1))
    assert centers_px(ln, recording, "a").tolist() == [[8.0, 9.0], [12.0, 1.0]]


def test_ln_stands_beside_every_number_and_methods_are_named(data: RecordingsDataModule, tmp_path: Path) -> None:
    twin, ln = (PixelTwin(data.specs[0], gains) for gains in ([0.4, 0.5, 0.6, 0.7], [0.3, 0.3, 0.3, 0.3]))
    summary = run(twin, data, tmp_path, ln=ln)
    row = next(csv.DictReader((tmp_path / "units.csv").open()))
    for name in ("bps", "knowable_fraction", "corr", "corr_to_average", "normalized_corr", "center_error_px"):
        assert f"ln_{name}" in row
        assert name in summary["methods"] and f"ln_{name}" not in summary["methods"]
    assert float(row["ln_corr_to_average"]) == pytest.approx(float(row["corr_to_average"]), rel=1e-6)  # same pixel
    assert "Schoppe" in summary["methods"]["normalized_corr"]


@pytest.mark.parametrize(
    ("gains", "improving", "says"),
    [
        ([0.3, 0.1, 0.05, 0.02], None, "Above the linear model on all 4 recordings."),
        ([0.3], False, "Above the linear model."),
        ([0.004, -0.009], None, "As good as the linear model on all 2 recordings."),
        (
            [-0.1, -0.3, 0.2, -0.02],
            True,
            "Below the linear model on 3 of 4 recordings, above the linear model on 1 of 4 recordings, and still "
            "improving when the training ended: more time may help.",
        ),
        (
            [-0.1, None, 0.0],
            False,
            "Below the linear model on 1 of 2 recordings, and no longer improving when the training ended: more time "
            "alone would not help.",
        ),
        ([None, None], True, None),
    ],
)
def test_a_sentence_says_what_the_scores_mean(
    gains: list[float | None], improving: bool | None, says: str | None
) -> None:
    own = [{"bps_mean": 0.5, "ln_bps_mean": None if gain is None else 0.5 - gain} for gain in gains]
    assert verdict({"recordings": dict(enumerate(own))}, improving) == says


def test_the_sentence_stands_in_the_report_and_ln_beside_each_mean_and_median(
    data: RecordingsDataModule, tmp_path: Path
) -> None:
    twin, ln = (PixelTwin(data.specs[0], gains) for gains in ([0.4, 0.5, 0.6, 0.7], [0.3, 0.3, 0.3, 0.3]))
    summary = run(twin, data, tmp_path, ln=ln)
    said = report_section(summary, tmp_path, "again", verdict(summary, None))
    assert "the linear model" in said.text[0]
    columns = said.tables[0].columns
    assert [
        columns[i + 1] for i, name in enumerate(columns) if name in ("bits per spike", "correlation", "median")
    ] == ["LN's"] * 4
    cells = [str(cell) for column in table_of(summary, "test", 160).columns for cell in column.cells]
    for name in ("bps_mean", "bps_median", "corr_mean", "corr_median"):
        both = " / ".join(f"{summary[key]:.3f}".replace("0.", ".", 1) for key in (name, f"ln_{name}"))
        assert both in cells


def test_few_trials_are_said_to_be_few(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "hand.h5", **arrays())
    data = module_of(path)
    twin: Any = PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7])
    summary = run(twin, data, tmp_path / "all")
    assert (summary["trials"], summary["trials_left_out"]) == (4, 0)
    assert "4 trials, bins" in str(table_of(summary, "test", 160).title)
    assert not any("data.most_trials" in line for line in report_section(summary, tmp_path, "again").text)
    few = module_of(path, most_trials=3)
    summary = run(twin, few, tmp_path / "few")
    assert (summary["trials"], summary["trials_left_out"]) == (3, 1)
    assert summary["recordings"]["hand"]["trials_left_out"] == 1 and summary["bins"] == 3 * (TRIAL - BURN_IN)
    assert "3 trials of 4 (data.most_trials)" in str(table_of(summary, "test", 160).title)
    assert any("3 trials were scored, and 1 more" in line for line in report_section(summary, tmp_path, "again").text)


def test_one_recording_is_in_memory_at_a_time(tmp_path: Path) -> None:
    made = arrays()
    paths = [write_recording(tmp_path / f"{name}.h5", **{**made, "recording_id": name}) for name in ("a", "b")]
    data = module_of(paths[0], more=paths[1:])
    twin: Any = PixelTwin(data.specs[0], [1.0] * UNITS)
    twin.specs = {spec.recording_id: spec for spec in data.specs}
    read: list[str] = []
    forward = twin.forward
    twin.forward = lambda batch: (read.extend(batch), forward(batch))[1]
    found = predict_split(twin, data, ln=None, split="test", device="cpu", progress=False)
    assert next(found)[0] == "a" and set(read) == {"a"}
    assert next(found)[0] == "b"


def short_recording(path: Path) -> Path:
    """Test trials no longer than the burn-in."""
    made = arrays()
    own = made["trials"]
    stop = np.where(own.split == "test", own.start + BURN_IN, own.stop)
    return write_recording(path, **made | {"recording_id": "short", "trials": replace(own, stop=stop)})


def test_a_recording_without_a_bin_after_the_burn_in_is_named(tmp_path: Path) -> None:
    data = module_of(write_recording(tmp_path / "hand.h5", **arrays()), more=[short_recording(tmp_path / "short.h5")])
    twin: Any = PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7])
    twin.specs = {spec.recording_id: spec for spec in data.specs}
    summary = run(twin, data, tmp_path)
    assert summary["left_out"] == ["short"] and list(summary["recordings"]) == ["hand"]
    assert any(
        "burn-in" in words and words.endswith(": short.") for words in report_section(summary, tmp_path, "").text
    )


def test_calcium_is_not_called_spikes(data: RecordingsDataModule, tmp_path: Path) -> None:
    calcium = module_of(write_recording(tmp_path / "calcium.h5", **arrays(), kind="calcium"))
    for module, said in ((data, False), (calcium, True)):
        summary = run(PixelTwin(module.specs[0], [0.4, 0.5, 0.6, 0.7]), module, tmp_path)
        assert bool(summary["calcium"]) == said
        text = report_section(summary, tmp_path, "").text
        assert any(words.startswith("In hand responses are a calcium signal") for words in text) == said
        assert summary["event"] == "spike" and any("depend on its unit" in words for words in text) == said
    twin = PixelTwin(calcium.specs[0], [0.4, 0.5, 0.6, 0.7])
    assert calibration_of(twin, calcium.recordings[0], "hand", predicted(twin, calcium)) is None
    twin.likelihood = lambda recording_id: ZeroInflatedGamma((1.0,) * UNITS, "exp", 0.0)  # type: ignore[method-assign]
    assert calibration_of(twin, calcium.recordings[0], "hand", predicted(twin, calcium)) is not None
    text = report_section(summary | {"event": "bin above zero"}, tmp_path, "").text
    assert any("bits per bin above zero" in words for words in text)


def test_a_unit_without_an_event_is_silent_and_leaves_the_means_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its responses never rise above the likelihood's floor, so there is nothing by which its bits could be counted."""
    for name in ("draw_recording", "draw_units"):
        monkeypatch.setattr(f"vivit_core.analysis.evaluate.evaluate.{name}", lambda *args: None)
    made = arrays()
    made["counts"] = np.where(np.arange(UNITS) == 3, 0.004, made["counts"]).astype(np.float32)
    data = module_of(write_recording(tmp_path / "calcium.h5", **made, kind="calcium"))
    twin = PixelTwin(data.specs[0], [0.4, 0.5, 0.6, 0.7])
    twin.likelihood = lambda recording_id: ZeroInflatedGamma((1.0,) * UNITS, "exp", 0.01)  # type: ignore[method-assign]
    summary = run(twin, data, tmp_path)
    rows = list(csv.DictReader((tmp_path / "units.csv").open()))
    assert summary["units_silent"] == 1 and rows[3]["bps"] == rows[3]["bps_low"] == "" and float(rows[3]["spikes"]) > 0
    assert summary["bps_mean"] == pytest.approx(np.mean([float(row["bps"]) for row in rows[:3]]))


def test_normalized_correlations_are_averaged_over_reliable_units_alone() -> None:
    """And units that are half known are told where they look. Of four, one is of unknown reliability and truth."""
    scores = ("bps", "corr", "corr_to_average", "normalized_corr", "center_error_px")
    names = [*scores, *(f"ln_{name}" for name in scores), "truth_bps", "explainable_variance"]
    columns = {
        "signal_to_error": [3.0, 2.0, math.nan, 9.0],
        "normalized_corr": [0.5, 5.0, 7.0, 0.7],
        "corr_to_average": [0.1, 0.2, 0.3, 0.6],
        "knowable_fraction": [0.5, 0.4, math.nan, 0.6],
        "center_error_px": [2.0, 9.0, 1.0, 3.0],
    }
    rows = [
        dict.fromkeys(names, 1.0)
        | dict(zip(columns, own, strict=True))
        | {"recording": "r", "unit": "u", "context": ""}
        for own in zip(*columns.values(), strict=True)
    ]
    found = summarize(rows, 10)
    assert (found["units_reliable"], found["normalized_corr_mean"]) == (2, pytest.approx(0.6))
    assert (found["corr_to_average_mean"], found["corr_to_average_median"]) == pytest.approx((0.3, 0.25))
    assert (found["units_half_known"], found["units_half_known_near"]) == (2, 0.5)
