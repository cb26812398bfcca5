"""Evaluation against independent float64 computations on a small hand-made recording."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vivit_core.analysis.evaluate import evaluate, predict_split, runs
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording import Trials, write_recording
from vivit_core.specs import Batch, RecordingSpec

UNITS, TRIAL, BURN_IN, CLIP = 4, 23, 5, 10
SHOWN = ["a", "b", "c", "d", "rep", "rep", "rep"]
SPLITS = ["train", "train", "val", "test", "test", "test", "test"]


class PixelTwin(nn.Module):
    """Predicts from one pixel of the bin's own frame, so that each prediction tells which frame it belongs to."""

    causal = True

    def __init__(self, spec: RecordingSpec, gains: list[float], predict: Literal["all", "last"] = "all") -> None:
        super().__init__()
        self.specs, self.predict = {spec.recording_id: spec}, predict
        self.gains = nn.Parameter(torch.tensor(gains))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        counts = {
            name: self.gains * (clips["frames"][:, 0, :, 0, 0, None] + 1.0) / 100 for name, clips in batch.items()
        }
        return counts if self.predict == "all" else {name: x[:, -1] for name, x in counts.items()}


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


def module_of(path: Path, clip_length: int = CLIP, burn_in: int = BURN_IN) -> RecordingsDataModule:
    data = RecordingsDataModule(
        recordings=[str(path)],
        root=None,
        simulator=None,
        cache="",
        behavior=[],
        clip_length=clip_length,
        burn_in=burn_in,
        evaluation_length=clip_length,
        evaluation_burn_in=burn_in,
        weighting="units",
        num_workers=0,
        seed=0,
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


def run(twin: Any, data: RecordingsDataModule, out: Path, **changes: Any) -> dict[str, Any]:
    return evaluate(twin, data, **({"ln": None, "out": out, "checkpoint": "best.ckpt", "progress": False} | changes))


def test_each_bin_is_scored_once_with_its_own_prediction(data: RecordingsDataModule) -> None:
    twin: Any = PixelTwin(data.specs[0], [1.0, 2.0, 3.0, 4.0])
    for split in ("train", "val", "test"):
        found = predict_split(twin, data, ln=None, split=split, device="cpu", progress=False)["hand"]  # type: ignore[arg-type]
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
    shared = {name: value for name, value in summary.items() if name != "recordings"}
    assert summary["recordings"] == {"hand": shared}


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
    for name in ("knowable_fraction", "ln_bps_mean", "ln_corr_median", "normalised_corr_mean"):
        assert summary[name] is None
        assert summary["recordings"]["hand"][name] is None


def test_an_acausal_behaviour_is_said(data: RecordingsDataModule, tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match=r"knows no recording 'hand'; it knows \['other'\]"):
        run(PixelTwin(other, [1.0] * 4), data, tmp_path)


def test_a_model_of_the_newest_bin(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "hand.h5", **arrays())
    one_by_one = module_of(path, clip_length=BURN_IN + 1)
    twin: Any = PixelTwin(one_by_one.specs[0], [1.0, 2.0, 3.0, 4.0], predict="last")
    found = predict_split(twin, one_by_one, ln=None, split="test", device="cpu", progress=False)["hand"]
    assert np.array_equal(found.bins_N, scored_bins("test"))
    assert np.allclose(found.predicted_NU[:, 1], (arrays()["frames"][found.bins_N, 0, 0] + 1.0) / 50)
    with pytest.raises(ValueError, match="evaluation_length - 1"):
        predict_split(twin, module_of(path), ln=None, split="test", device="cpu", progress=False)


def test_runs_of_bins() -> None:
    assert runs(np.array([3, 4, 5, 9, 11, 12])) == [(3, 6), (9, 10), (11, 13)]
