"""Comparisons against the same computed trial by trial, and what cannot be compared."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_evaluate import BURN_IN, SHOWN, SPLITS, TRIAL, PixelTwin, arrays, module_of, short_recording
from tiny_models import POISSON, unit_scores

from vivit_core.analysis import bootstrap
from vivit_core.analysis.bootstrap import (
    Sums,
    difference,
    draws,
    enough_pieces,
    interval,
    intervals,
    pieces,
    resampled,
    shown_in,
)
from vivit_core.analysis.compare import cost
from vivit_core.analysis.compare.compare import compare
from vivit_core.analysis.compare.foreign import read_foreign
from vivit_core.analysis.compare.numbers import Contender
from vivit_core.analysis.compare.section import report_section
from vivit_core.cli.tasks import compare as compare_task
from vivit_core.cli.tasks.compare import names_of
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.metrics.bits_per_spike import BitsPerSpike
from vivit_core.metrics.oracle import share_of_oracle
from vivit_core.metrics.unit_scores import Scorer, all_metrics
from vivit_core.models.likelihoods.zero_inflated_gamma import ZeroInflatedGamma
from vivit_core.report.section import with_interval

SCORER = Scorer(POISSON)
GAINS = {"a": [0.4, 0.5, 0.6, 0.7], "b": [0.3, 0.9, 0.5, 0.7]}
LONGER = BURN_IN + 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "hand.h5", **arrays())


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MEASURED_S", 0.01)


def films(number: int, name: str = "film") -> list[bytes]:
    """As digests."""
    return [f"{name} {i}".encode() for i in range(number)]


def sums_of(sums_KSU: np.ndarray, scorer: Scorer = SCORER, shown_K: list[bytes] | None = None) -> Sums:
    shown_K = films(len(sums_KSU)) if shown_K is None else shown_K
    return Sums(scorer=scorer, sums_KSU=sums_KSU, shown_K=shown_K, trials=0, stimuli=0, bins=0)


def contender(name: str, path: Path, burn_in: int = BURN_IN, gains: list[float] | None = None) -> Contender:
    data = module_of(path, clip_length=burn_in + 6, burn_in=burn_in)
    model: Any = PixelTwin(data.specs[0], gains or GAINS[name])
    return Contender(name, f"{name}.ckpt", model, data)


def run(contenders: list[Contender], out: Path, **changes: Any) -> dict[str, Any]:
    return compare(contenders, **({"out": out, "resamples": 40, "piece_s": 10.0, "progress": False} | changes))


def test_scores_are_of_the_bins_that_all_can_predict(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "FEWEST", 3)  # for so few bins
    summary = run([contender("a", path), contender("b", path, LONGER)], tmp_path / "out")
    made = arrays()
    trials = [np.arange(i * TRIAL + LONGER, (i + 1) * TRIAL) for i, split in enumerate(SPLITS) if split == "test"]
    bins = np.concatenate(trials)
    assert (summary["burn_in"], summary["bins"], summary["units"]) == (LONGER, len(bins), 4)
    pixel = (made["frames"][bins, 0, 0, None] + 1.0) / 100
    expected = {
        name: unit_scores(pixel * gains, made["counts"][bins].astype(float), made["valid"][bins])
        for name, gains in GAINS.items()
    }
    oracle = unit_scores(made["truth"]["rate"][bins], made["counts"][bins].astype(float), made["valid"][bins])
    truth = oracle.by_name["bps"]
    for name, scores in expected.items():
        own = summary["models"][name]
        assert own["bps_mean"] == pytest.approx(np.nanmean(scores.by_name["bps"]), rel=1e-5)
        assert own["corr_mean"] == pytest.approx(np.nanmean(scores.by_name["corr"]), rel=1e-5)
        assert own["knowable_fraction"] == pytest.approx(share_of_oracle(scores.by_name["bps"], truth), rel=1e-4)
        assert own["bps_interval"][0] < own["bps_mean"] < own["bps_interval"][1]
        assert own["bins_per_s"] > 0 and own["parameters"] == 4
    gain = expected["b"].by_name["bps"] - expected["a"].by_name["bps"]
    (pair,) = summary["pairs"]
    assert (pair["of"], pair["to"]) == ("b", "a")
    assert pair["bps_gain_mean"] == pytest.approx(np.nanmean(gain), rel=1e-4)
    assert (pair["bps_units_better"], pair["bps_units_worse"]) == ((gain > 0).sum(), (gain < 0).sum())
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open()))
    assert [row["unit"] for row in rows] == ["u0", "u1", "u2", "u3"]
    assert [float(row["b_bps_gain"]) for row in rows[:3]] == pytest.approx(gain[:3], rel=1e-4)
    for row in rows[:3]:
        assert float(row["b_bps_gain_low"]) <= float(row["b_bps_gain_high"])
    assert rows[3]["a_bps"] == rows[3]["b_bps_gain_low"] == ""  # the silent unit
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == summary
    section = report_section(summary, tmp_path / "out" / "pictures", "again")
    assert all(picture.is_file() for picture, _ in section.pictures)


def test_a_resampling_is_the_score_of_the_trials_drawn() -> None:
    """Each resampling equals the scores of the chosen trials' bins laid end to end, the same trials for all models."""
    rng = np.random.default_rng(0)
    rate, counts = rng.uniform(0.1, 2, (5, 30, 3)), rng.poisson(0.8, (5, 30, 3)).astype(float)
    mask = rng.random(rate.shape) < 0.8
    mask[2, 20:] = False  # trials of unequal length

    def sums(predicted: np.ndarray) -> Sums:
        own = [SCORER.sums(*map(torch.as_tensor, (predicted[k], counts[k], mask[k]))).numpy() for k in range(5)]
        return sums_of(np.stack(own))

    models = {"a": {"r": sums(rate)}, "b": {"r": sums(rate[::-1].copy())}}
    drawn = resampled(models, resamples=30, seed=7, progress=False)
    weights = draws(films(5), resamples=30, seed=7).astype(int)
    assert weights.sum(1).tolist() == [5] * 30 and len({tuple(w) for w in weights.tolist()}) > 20
    for r, weight in enumerate(weights):
        chosen = np.repeat(np.arange(5), weight)
        for name, predicted in (("a", rate), ("b", rate[::-1])):
            scores = unit_scores(predicted[chosen], counts[chosen], mask[chosen])
            assert drawn[name][r, 0] == pytest.approx(scores.by_name["bps"], rel=1e-5)
            assert drawn[name][r, 1] == pytest.approx(scores.by_name["corr"], rel=1e-4, abs=1e-6)


def test_pieces_do_not_change_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).uniform(1, 2, (6, SCORER.n_sums, 4))
    found = {"a": {"r": sums_of(sums)}}
    whole = resampled(found, resamples=25, seed=1, progress=False)["a"]
    monkeypatch.setattr(bootstrap, "AT_ONCE", SCORER.n_sums * 4 * 3)
    assert np.array_equal(whole, resampled(found, resamples=25, seed=1, progress=False)["a"], equal_nan=True)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from("abc")), min_size=1, max_size=6),
    st.integers(0, 9),
    st.floats(0.3, 40),
    st.integers(0, 1000),
)
def test_pieces_hold_each_scored_bin_once(
    shown: list[tuple[int, str]], burn_in: int, longest: float, first: int
) -> None:
    lengths = np.array([length for length, _ in shown])
    stop = first + np.cumsum(lengths)
    names = np.array([name for _, name in shown])
    trials = Trials(stop - lengths, stop, names, np.array(["test"] * len(shown)))
    cuts = pieces(trials, burn_in, longest)
    bins = sorted(bin for parts in cuts for a, b in parts for bin in range(a, b))
    assert bins == [bin for a, b in zip(trials.start, stop, strict=True) for bin in range(a + burn_in, b)]
    sizes = [max(b - a for a, b in parts) for parts in cuts]
    assert all(1 <= size <= max(1, np.ceil(longest)) for size in sizes)
    unique = sum(max(int(lengths[names == name].max()) - burn_in, 0) for name in set(names))
    assert len(cuts) >= min(unique, bootstrap.FEWEST)
    for parts in cuts:  # the same part of one stimulus in all its trials
        trial = [int(np.searchsorted(stop, a, side="right")) for a, _ in parts]
        assert (
            len(set(names[trial]))
            == len({a - int(trials.start[t]) for (a, _), t in zip(parts, trial, strict=True)})
            == 1
        )


def test_the_interval_covers_the_truth() -> None:
    """Of experiments with 30 trials, about 95 % of the intervals of a gain hold the gain of endless data."""
    rng = np.random.default_rng(3)
    held, experiments = 0, 60
    rate = rng.uniform(0.2, 2.0, 20)
    endless = rng.poisson(rate, (20000, 20)).astype(float)

    def gain(counts_KT: np.ndarray) -> dict[str, dict[str, Sums]]:
        found = {}
        for name, predicted in (("a", np.full(20, rate.mean())), ("b", rate)):
            # Trials in the place of units: the sums of each.
            values = (torch.as_tensor(np.repeat(predicted[:, None], len(counts_KT), 1)), torch.as_tensor(counts_KT.T))
            sums_SK = SCORER.sums(*values, torch.ones(values[0].shape, dtype=torch.bool)).numpy()
            found[name] = {"r": sums_of(sums_SK.T[..., None])}
        return found

    everything = np.ones(endless.shape, bool).reshape(-1, 1)
    tiled = np.tile(rate, 20000)[:, None]
    true = (
        unit_scores(tiled, endless.reshape(-1, 1), everything).by_name["bps"]
        - unit_scores(np.full_like(tiled, rate.mean()), endless.reshape(-1, 1), everything).by_name["bps"]
    )[0]
    for i in range(experiments):
        drawn = resampled(gain(rng.poisson(rate, (30, 20)).astype(float)), 200, i, progress=False)
        low, high = np.percentile(drawn["b"][:, 0, 0] - drawn["a"][:, 0, 0], [2.5, 97.5])
        held += low <= true <= high
    assert 0.85 * experiments <= held <= experiments


def test_one_long_trial_is_drawn_in_pieces(tmp_path: Path) -> None:
    """A recording of one film has a spread too."""
    made = arrays()
    splits = np.array(["train", "train", "val", "train", "test", "train", "train"])
    path = write_recording(tmp_path / "film.h5", **made | {"trials": replace(made["trials"], split=splits)})
    summary = run([contender("a", path), contender("b", path)], tmp_path / "out")
    assert summary["recordings"]["hand"] == {"units": 4, "trials": 1, "stimuli": 1, "pieces": bootstrap.FEWEST}
    assert summary["bins"] == TRIAL - BURN_IN
    for own in summary["models"].values():
        assert own["bps_interval"][0] < own["bps_interval"][1]
    with pytest.raises(ValueError, match="piece_s=0 s"):
        run([contender("a", path), contender("b", path)], tmp_path / "out", piece_s=0.0)


def test_repeats_of_a_stimulus_are_drawn_together(path: Path, tmp_path: Path) -> None:
    """Of the four test trials three show one film: as many pieces as the two films have, each with all its showings."""
    summary = run([contender("a", path), contender("b", path)], tmp_path / "out", piece_s=0.06)  # 3 bins at 50 Hz
    own = summary["recordings"]["hand"]
    assert (own["trials"], own["stimuli"], own["pieces"]) == (4, 2, 2 * (TRIAL - BURN_IN) // 3)


def test_equal_models_are_seldom_surely_better() -> None:
    """Two models that err on each film in their own slow way, alike in all its showings, are equally good. Drawn as
    trials of their own, showings of one film would make every third unit surely better or worse."""
    rng = np.random.default_rng(5)
    number, showings, bins, units = 14, 5, 40, 300
    rate = rng.uniform(0.2, 1.5, (number, bins, units))
    errors = [np.exp(0.3 * rng.normal(size=(number, 1, units))) for _ in "ab"]
    counts = torch.as_tensor(rng.poisson(rate[:, None], (number, showings, bins, units)).astype(float))
    everything = torch.ones(counts.shape[1:], dtype=torch.bool)

    def sums(error: np.ndarray, together: bool) -> Sums:
        predicted = torch.as_tensor((rate * error)[:, None]).expand(counts.shape)
        own = [SCORER.sums(p, n, everything).numpy() for p, n in zip(predicted, counts, strict=True)]
        if not together:
            every = ((p, n) for ps, ns in zip(predicted, counts, strict=True) for p, n in zip(ps, ns, strict=True))
            own = [SCORER.sums(p, n, everything[0]).numpy() for p, n in every]
        return sums_of(np.stack(own))

    def surely(together: bool) -> float:
        found = {name: {"r": sums(error, together)} for name, error in zip("ab", errors, strict=True)}
        drawn = resampled(found, 400, 0, progress=False)
        low, high = intervals(drawn["b"][:, 0] - drawn["a"][:, 0], np.ones(units, bool))
        return float(((low > 0) | (high < 0)).mean())

    assert surely(together=True) < 0.17
    assert surely(together=False) > 0.3


BITS = Scorer(POISSON, [BitsPerSpike()])


def as_good(
    rng: np.random.Generator, errors: dict[str, np.ndarray], units: int, shown: list[bytes]
) -> dict[str, dict[str, Sums]]:
    """A recording's sums of models that err by these factors on its films, (films, 1, units or 1)."""
    rate = rng.uniform(0.2, 1.5, (len(shown), 20, units))
    counts = rng.poisson(rate).astype(float)
    found = {}
    for name, error in errors.items():
        p = rate * error
        parts = (np.ones_like(p), counts, counts**2, p, counts * np.log(p))
        sums = np.stack([x.sum(1) for x in parts], 1)
        found[name] = {"r": sums_of(sums, BITS, shown)}
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_equal_models_of_the_same_films_are_seldom_surely_better_on_average(shared: bool) -> None:
    """Two models that err on each film in their own way, alike in all recordings that show it. Were the films drawn
    for each recording apart, two of five mean gains would be surely above or below zero."""
    surely, experiments = 0, 50
    for seed in range(experiments):
        rng = np.random.default_rng(seed)
        found: dict[str, dict[str, Sums]] = {"a": {}, "b": {}}
        errors = {name: np.exp(0.3 * rng.normal(size=(30, 1, 1))) for name in found}
        for recording in range(4):
            order = rng.permutation(30)  # each shows the films in an order of its own
            if not shared:
                errors = {name: np.exp(0.3 * rng.normal(size=(30, 1, 1))) for name in found}
            names = films(30, "film" if shared else f"film of {recording}")
            own = as_good(rng, {name: e[order] for name, e in errors.items()}, 10, [names[film] for film in order])
            for name in found:
                found[name][str(recording)] = own[name]["r"]
        drawn = resampled(found, 150, seed, progress=False)
        low, high = interval((drawn["b"][:, 0] - drawn["a"][:, 0]).mean(1))
        surely += low > 0 or high < 0
    assert surely / experiments < 0.17


def test_what_the_report_says_of_chance_was_measured() -> None:
    """Of two equally good models, one unit in eight is surely better or worse by chance with ten pieces, and one in
    twenty with a hundred."""
    for number, expected in ((10, 1 / 8), (100, 1 / 20)):
        rng = np.random.default_rng(number)
        errors = {name: np.exp(0.3 * rng.normal(size=(number, 1, 600))) for name in "ab"}
        drawn = resampled(as_good(rng, errors, 600, films(number)), 300, 0, progress=False)
        low, high = intervals(drawn["b"][:, 0] - drawn["a"][:, 0], np.ones(600, bool))
        assert ((low > 0) | (high < 0)).mean() == pytest.approx(expected, abs=0.03)


def test_a_piece_is_known_by_its_longest_showing() -> None:
    """So that a recording in which one showing ended early still draws as those that show all of the film."""
    recording: Any = SimpleNamespace(frames=lambda a, b: np.arange(a, b), behavior=lambda a, b, _: np.zeros((b - a, 0)))
    both, whole, part = shown_in(recording, [[(0, 3), (3, 8)], [(3, 8)], [(0, 3)]])
    assert both == whole != part


def test_the_same_frames_are_drawn_alike_in_whatever_order(tmp_path: Path) -> None:
    """Two recordings that show the same test films, each in its own order and for its own units; and another one."""
    made = arrays()
    order = [0, 1, 2, 4, 3, 5, 6]  # of the test trials the repeated film comes first
    bins = np.concatenate([np.arange(i * TRIAL, (i + 1) * TRIAL) for i in order])
    trials = replace(made["trials"], stimulus_id=made["trials"].stimulus_id[order])
    turned = {"recording_id": "turned", "frames": made["frames"][bins], "trials": trials}
    other = {"recording_id": "other", "frames": made["frames"] // 2}
    drawn = []
    for changes in ({}, turned, other):
        path = write_recording(tmp_path / f"{len(drawn)}.h5", **(made | changes))
        (recording,) = module_of(path).recordings
        cuts = pieces(recording.info.trials.of("test"), BURN_IN, 6.0)
        drawn.append(draws(shown_in(recording, cuts), resamples=20, seed=0))
    number = drawn[0].shape[1] // 2  # of each film's pieces
    assert np.array_equal(drawn[1], np.concatenate([drawn[0][:, number:], drawn[0][:, :number]], axis=1))
    assert (drawn[2] != drawn[0]).mean() > 0.5


def test_what_is_surely_better_is_so_at_the_near_end_of_its_interval() -> None:
    """One unit gains in each resampling, one in most of them, one loses in each; and one gains in too few pieces."""
    gain_U, metrics = np.array([5.0, 0.5, -5.0, 5.0]), [metric.name for metric in all_metrics()]
    gain_RU = gain_U + np.linspace(-1, 1, 101)[:, None]
    nothing = np.zeros((101, len(metrics), 4))
    drawn, point = {"a": nothing, "b": nothing + gain_RU[:, None]}, {"a": nothing[0], "b": nothing[0] + gain_U}
    for models, sign, counted in (("ab", 1, [3, 1, 1, 1]), ("ba", -1, [1, 3, 1, 1])):
        found = difference(*models, point, drawn, np.array([True, True, True, False]))
        for name in metrics:
            words = ("better", "worse", "surely_better", "surely_worse")
            assert [found[f"{name}_units_{word}"] for word in words] == counted
            assert found[f"{name}_gain_mean"] == pytest.approx(sign * 5.5 / 4)
            bounds = np.sort(sign * (5.5 / 4 + np.array([-0.95, 0.95])))
            assert found[f"{name}_gain_interval"] == pytest.approx(bounds)


def test_a_bound_between_a_number_and_infinity_is_infinite() -> None:
    """Of a hundred resamplings it lies between the third from the end and the fourth."""
    for infinite, bound in ((2, 0.0), (3, np.inf)):
        values = np.append(np.zeros(100 - infinite), np.full(infinite, np.inf))
        assert interval(values) == [0.0, bound] and interval(-values) == [-bound, 0.0]


def test_a_unit_with_events_in_few_pieces_has_no_interval() -> None:
    """Every trace has a residue below the floor; one has events in 3 of 30 pieces. A resampling without them has no
    score for it, and does not make the mean infinite."""
    rng = np.random.default_rng(0)
    scorer = Scorer(ZeroInflatedGamma((0.2,) * 4, "exp", 0.05), [BitsPerSpike()])
    chance = np.full((30, 1, 4), 0.1)
    chance[3:, :, 0], chance[:3, :, 0] = 0, 0.3
    residue = rng.uniform(0, 0.008, (30, 60, 4))
    counts = np.where(rng.random(residue.shape) < chance, rng.gamma(2, 1, residue.shape), residue)
    predicted, everything = torch.full((60, 4), 0.15), torch.ones((60, 4), dtype=torch.bool)
    own = np.stack([scorer.sums(predicted, torch.as_tensor(n), everything).numpy() for n in counts])
    sums = sums_of(own, scorer)
    assert enough_pieces(sums).tolist() == [False, True, True, True]
    drawn_RU = resampled({"a": {"r": sums}}, 200, 0, progress=False)["a"][:, 0]
    assert np.isnan(drawn_RU[:, 0]).any() and not np.isinf(drawn_RU).any()


def test_an_infinite_resampling_leaves_a_unit_its_other_bound() -> None:
    drawn_RU = np.random.default_rng(0).normal(size=(1000, 3))
    drawn_RU[:300, 1], drawn_RU[:300, 2] = -np.inf, np.inf
    low_U, high_U = intervals(drawn_RU, np.array([True] * 3))
    for unit in range(3):
        assert [low_U[unit], high_U[unit]] == pytest.approx(interval(drawn_RU[:, unit]))
    assert low_U[1] == -np.inf and 1 < high_U[1] < 3 and high_U[2] == np.inf


def test_an_interval_in_words_keeps_the_bound_that_is_known() -> None:
    assert with_interval(0.5, [0.1, 0.7]) == "0.500 [0.100, 0.700]"
    assert with_interval(0.5, [0.1, None]) == "0.500 [0.100, ∞]"
    assert with_interval(0.5, [None, 0.7]) == "0.500 [−∞, 0.700]"
    assert with_interval(0.5, [None, None]) == "0.500" and with_interval(None, [None, None]) == "–"


def test_units_without_a_spike_are_compared_to_the_end(tmp_path: Path) -> None:
    """Nothing is known of them, and nothing breaks after all was computed."""
    made = arrays()
    made["counts"][3 * TRIAL :] = 0
    path = write_recording(tmp_path / "silent.h5", **made)
    summary = run([contender("a", path), contender("b", path)], tmp_path / "out")
    assert summary["models"]["a"]["bps_mean"] is None and summary["units_without_interval"] == 4
    section = report_section(summary, tmp_path / "out" / "pictures", "again")
    assert section.explore is None and all(picture.is_file() for picture, _ in section.pictures)


def test_a_unit_that_spikes_in_few_pieces_has_no_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FEWEST", 5)  # for so few bins
    made = arrays()
    made["counts"][:, 1] = 0
    made["counts"][[5 * TRIAL + 10, 5 * TRIAL + 17], 1] = 3
    path = write_recording(tmp_path / "rare.h5", **made)
    both = [contender("a", path), contender("b", path)]
    summary = run(both, tmp_path / "out")
    assert summary["units_without_interval"] == 2  # this one and the silent one
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open()))
    assert rows[1]["b_bps_gain"] != "" and rows[1]["b_bps_gain_low"] == rows[1]["b_bps_gain_high"] == ""
    assert rows[0]["b_bps_gain_low"] != ""
    text = " ".join(report_section(summary, tmp_path / "out" / "pictures", "again").text)
    assert "2 units spiked in fewer than 5 pieces" in text
    summary = run(both, tmp_path / "out", split="val")
    assert "This split chose the checkpoints" in " ".join(report_section(summary, tmp_path, "again").text)


def test_units_are_matched_by_id_and_the_rest_is_counted(path: Path, tmp_path: Path) -> None:
    a, b = contender("a", path), contender("b", path)
    made = arrays()
    other = write_recording(
        tmp_path / "other.h5",
        **{
            **made,
            "counts": made["counts"][:, [2, 0]],
            "valid": made["valid"][:, [2, 0]],
            "units": {"id": np.array(["u2", "u0"])},
            "truth": {"rate": made["truth"]["rate"][:, [2, 0]]},
        },
    )
    narrow = contender("b", other, gains=[GAINS["b"][2], GAINS["b"][0]])
    whole, part = run([a, b], tmp_path / "whole"), run([contender("a", path), narrow], tmp_path / "part")
    assert part["units"] == 2 and part["left_out"] == {"recordings": 0, "units": 2}
    rows = {}
    for name in ("whole", "part"):
        with (tmp_path / name / "compare.csv").open() as file:
            rows[name] = {row["unit"]: row for row in csv.DictReader(file)}
    assert list(rows["part"]) == ["u0", "u2"]
    for unit, row in rows["part"].items():
        assert float(row["b_bps_gain"]) == pytest.approx(float(rows["whole"][unit]["b_bps_gain"]), rel=1e-6)
    assert whole["left_out"] == {"recordings": 0, "units": 0}


def test_recordings_without_a_bin_are_counted(path: Path, tmp_path: Path) -> None:
    summary = run([with_short_recording(name, path, tmp_path) for name in "ab"], tmp_path / "out")
    assert summary["left_out"] == {"recordings": 1, "units": 0} and list(summary["recordings"]) == ["hand"]
    section = report_section(summary, tmp_path / "out" / "pictures", "again")
    assert any("no trial is longer than the burn-in" in words for words in section.text)


def context_in(folder: Path) -> Any:
    """What the task knows of a run in a folder."""
    nothing = {"describe": lambda: None, "announce": lambda *_: None}
    return SimpleNamespace(device="cpu", seed=0, command_line="", run=SimpleNamespace(path=folder), **nothing)


def compare_a_and_b(context: Any) -> None:
    """The task on two checkpoints."""
    given: dict[str, Any] = {"checkpoints": [Path("a.ckpt"), Path("b.ckpt")], "predictions": []}
    compare_task.compare(context, **given, data={}, names=None, split="test", resamples=2, piece_s=1.0)


def test_recordings_that_not_all_models_know_are_left_out_and_counted(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with the same unit ids too, which a model that lacks them would take for its own."""
    foot = write_recording(tmp_path / "foot.h5", **{**arrays(), "recording_id": "foot"})
    data = {name: module_of(path, more=more) for name, more in (("a", [foot]), ("b", [foot]))}
    specs = {"a": data["a"].specs, "b": data["a"].specs[:1]}
    said: dict[str, Any] = {}

    def trained(file: Path) -> Any:
        model: Any = PixelTwin(specs[file.stem][0], GAINS[file.stem])
        model.specs |= {spec.recording_id: spec for spec in specs[file.stem]}

        def recordings(context: Any, node: Any, described: bool, leave_out: Any) -> Any:
            data[file.stem].configure(specs=specs[file.stem], leave_out=leave_out)
            data[file.stem].setup()
            return data[file.stem]

        return SimpleNamespace(path=file, model=model, recordings=recordings)

    def compared(contenders: Any, **given: Any) -> dict[str, Any]:
        said.update(run(contenders, tmp_path / "out"))
        return said

    monkeypatch.setattr(compare_task, "load_trained", trained)
    monkeypatch.setattr(compare_task, "compare_contenders", compared)
    monkeypatch.setattr(compare_task, "report_section", lambda *_: None)
    compare_a_and_b(context_in(tmp_path))
    assert list(said["recordings"]) == ["hand"] and said["left_out"] == {"recordings": 1, "units": 0}


def rates_of_bins(one: Contender) -> np.ndarray:
    """A model's predictions laid into all bins of its recording; NaN elsewhere."""
    info = one.datamodule.recordings[0].info
    rates_TU = np.full((info.n_frames, info.n_units), np.nan)
    for _, own in one.predictions("test", "cpu", False):
        rates_TU[own.bins_N] = own.predicted_NU
    return rates_TU


def test_another_program_s_rates_score_as_the_model_that_predicted_them(path: Path, tmp_path: Path) -> None:
    """A model that is not among the checkpoints."""
    a, b = contender("a", path), contender("b", path)
    file = tmp_path / "mine.npz"
    np.savez(file, hand=rates_of_bins(b))
    mine = Contender("mine", str(file), read_foreign(file), a.datamodule)
    summary = run([a, b, mine], tmp_path / "out")
    models = summary["models"]
    assert models["mine"]["bps_mean"] == pytest.approx(models["b"]["bps_mean"], rel=1e-6) != models["a"]["bps_mean"]
    assert models["mine"]["bps_interval"] == pytest.approx(models["b"]["bps_interval"], rel=1e-6)
    assert models["mine"]["model"] == "another program" and models["mine"]["parameters"] is None
    section = report_section(summary, tmp_path / "out" / "pictures", "again")
    (row,) = (row for row in section.tables[0].rows if row[0] == "mine")
    assert row[-3:] == (None, None, None) and row[1] == "another program"
    assert models["mine"]["causal"] is None and models["a"]["causal"] is True
    rates_TU = rates_of_bins(b)
    rates_TU[np.isfinite(rates_TU)] *= np.random.default_rng(0).random(np.isfinite(rates_TU).sum()) > 0.1
    np.savez(file, hand=rates_TU)  # as of a network that ends in a rectifier
    some = run([a, Contender("mine", str(file), read_foreign(file), a.datamodule)], tmp_path / "out")["models"]
    assert some["mine"]["bps_mean"] is not None and some["mine"]["bps_mean"] < models["mine"]["bps_mean"]
    with pytest.raises(ValueError, match="come after a model"):
        run([mine, a], tmp_path / "out")


def test_the_task_names_predictions_by_their_files(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the checkpoints; recordings of which they have no rates are left out for all."""
    foot = write_recording(tmp_path / "foot.h5", **{**arrays(), "recording_id": "foot"})
    data = module_of(path, more=[foot])
    model: Any = PixelTwin(data.specs[0], GAINS["a"])
    model.specs |= {spec.recording_id: spec for spec in data.specs}
    file = tmp_path / "mine.npz"
    np.savez(file, hand=rates_of_bins(contender("b", path)))
    given: list[Contender] = []

    def recordings(context: Any, node: Any, described: bool, leave_out: Any) -> Any:
        data.configure(specs=data.specs, leave_out=leave_out)
        data.setup()
        return data

    def compared(contenders: Any, **settings: Any) -> dict[str, Any]:
        given.extend(contenders)
        return run(contenders, tmp_path / "out")

    trained: Any = SimpleNamespace(path=Path("a.ckpt"), model=model, recordings=recordings)
    monkeypatch.setattr(compare_task, "load_trained", lambda path: trained)
    monkeypatch.setattr(compare_task, "compare_contenders", compared)
    monkeypatch.setattr(compare_task, "report_section", lambda *_: None)
    context = context_in(tmp_path)
    settings: dict[str, Any] = {"data": {}, "names": None, "split": "test", "resamples": 2, "piece_s": 1.0}
    gain = compare_task.compare(context, checkpoints=[Path("a.ckpt")], predictions=[file], **settings)
    assert [one.name for one in given] == ["a", "mine"] and [s.recording_id for s in given[1].specs] == ["hand"]
    assert gain is not None and gain != 0
    with pytest.raises(ValueError, match="names no model"):
        compare_task.compare(context, checkpoints=[], predictions=[file], **settings)
    with pytest.raises(ValueError, match="1 names for 1 checkpoints and 1 predictions"):
        compare_task.compare(context, checkpoints=[Path("a")], predictions=[file], **(settings | {"names": ["a"]}))


def test_rates_that_cannot_be_compared_are_refused(path: Path, tmp_path: Path) -> None:
    a, file = contender("a", path), tmp_path / "mine.npz"
    rates_TU = rates_of_bins(a)

    def refused(match: str, **arrays: Any) -> None:
        np.savez(file, **arrays)
        with pytest.raises(ValueError, match=match):
            run([a, Contender("mine", str(file), read_foreign(file), a.datamodule)], tmp_path / "out")

    missing, negative = rates_TU.copy(), rates_TU.copy()
    scored = np.flatnonzero(np.isfinite(rates_TU).all(1))
    missing[scored[2], 1], negative[scored[3:], 0] = np.nan, -1.0
    refused(rf"no rate of 0 or more in 1 of {len(scored)} scored bins, the first of which is {scored[2]}", hand=missing)
    refused(rf"no rate of 0 or more in {len(scored) - 3} of", hand=negative)
    refused(r"array of \(7, 4\), and the recording has \d+ bins and 4 units", hand=rates_TU[:7])
    refused(r"divide by 50 Hz", hand=50.0 * rates_TU)
    refused(r"share no recording", foot=rates_TU)
    refused(r"give numbers, \(bins, units\)", hand=rates_TU[0])
    refused("holds no array")
    np.save(tmp_path / "mine.npy", rates_TU)
    with pytest.raises(ValueError, match=r"np\.savez\(FILE"):
        read_foreign(tmp_path / "mine.npy")
    file.write_text("no zip")
    with pytest.raises(ValueError, match=r"not a readable \.npz file"):
        read_foreign(file)


def with_short_recording(name: str, path: Path, tmp_path: Path) -> Contender:
    """A model of two recordings, whose second has no trial longer than the burn-in."""
    data = module_of(path, more=[short_recording(tmp_path / f"{name}.h5")])
    model: Any = PixelTwin(data.specs[0], GAINS[name])
    model.specs[data.specs[1].recording_id] = data.specs[1]
    return Contender(name, f"{name}.ckpt", model, data)


def test_what_cannot_be_compared_is_refused(path: Path, tmp_path: Path) -> None:
    a = contender("a", path)
    with pytest.raises(ValueError, match="at least two"):
        run([a], tmp_path)
    with pytest.raises(ValueError, match="distinct names"):
        run([a, contender("a", path)], tmp_path)

    made = arrays()
    made["counts"][5 * TRIAL + 10 : 5 * TRIAL + 20, 0] += 1
    changed = write_recording(tmp_path / "changed.h5", **made)
    with pytest.raises(ValueError, match=r"recording hand: the test data of a and of b differ"):
        run([a, contender("b", changed)], tmp_path)

    with pytest.raises(ValueError, match=r"the val data of a and of b differ"):
        made = arrays()
        made["counts"][SPLITS.index("val") * TRIAL + BURN_IN :][:9] += 1
        run([a, contender("b", write_recording(tmp_path / "val.h5", **made))], tmp_path, split="val")

    few = contender("b", path)
    few.datamodule = module_of(path, clip_length=BURN_IN + 6, burn_in=BURN_IN, most_trials=1)
    with pytest.raises(ValueError, match=r"a leaves out 0 of its test trials and b \d+; .* data.most_trials=null"):
        run([a, few], tmp_path)
    slow = contender("b", path)
    slow.datamodule = module_of(path, clip_length=BURN_IN + 6, burn_in=BURN_IN, frame_rate_hz=25.0)
    with pytest.raises(ValueError, match=r"a sees it at 50 Hz and b at 25, .* data.frame_rate_hz"):
        run([a, slow], tmp_path)

    other = write_recording(tmp_path / "other.h5", **{**arrays(), "recording_id": "foot"})
    with pytest.raises(ValueError, match=r"share no recording.*a: hand; b: foot"):
        run([a, contender("b", other)], tmp_path)

    renamed = write_recording(tmp_path / "renamed.h5", **{**arrays(), "units": {"id": np.array(list("wxyz"))}})
    with pytest.raises(ValueError, match="none of the same units"):
        run([a, contender("b", renamed)], tmp_path)


def test_models_of_other_recordings_are_refused_before_any_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a twin that comes with the package would be simulated first."""

    def trained(path: Path) -> Any:
        return SimpleNamespace(path=path, model=SimpleNamespace(specs={path.stem: None}))  # and nothing to read

    monkeypatch.setattr(compare_task, "load_trained", trained)
    with pytest.raises(ValueError, match=r"share no recording.*a: a; b: b"):
        compare_a_and_b(None)


def test_names_of_checkpoints() -> None:
    one, two = Path("x/r1/checkpoints/best.ckpt"), Path("x/r2/checkpoints/best.ckpt")
    assert names_of([one, two]) == ["r1", "r2"]
    last = Path("x/r1/checkpoints/last.ckpt")
    assert names_of([one, last]) == [str(one), str(last)]


def test_the_report_holds_each_model_s_scores_and_rates(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "FEWEST", 3)  # for so few bins
    # The second model's burn-in is longer, so what is shown begins after that in both.
    summary = run([contender("a", path), contender("b", path, LONGER)], tmp_path / "out")
    section = report_section(summary, tmp_path / "out" / "pictures", "x")
    assert section.explore is not None
    told = section.explore.plain()
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open()))
    assert told["names"] == [row["unit"] for row in rows] and told["axes"] == ["a_bps", "b_bps"]
    for column in told["columns"]:
        values = [None if row[column["key"]] == "" else float(row[column["key"]]) for row in rows]
        assert column["values"] == [None if v is None else pytest.approx(v, rel=1e-6) for v in values], column["key"]
    of = {column["key"]: column for column in told["columns"]}
    assert of["b_bps_gain"]["low"] == "b_bps_gain_low" and of["a_bps"]["shown"] and of["b_bps_gain"]["shown"]
    made = arrays()
    first = SHOWN.index("rep") * TRIAL + LONGER
    pixel = (made["frames"][first : (SHOWN.index("rep") + 1) * TRIAL, 0, 0, None] + 1.0) / 100 * 50
    with np.load(tmp_path / "out" / "responses.npz") as file:
        for i, name in enumerate("ab"):
            np.testing.assert_allclose(file["hand/predicted"][i], pixel * GAINS[name], rtol=1e-5)
    clip = told["panels"][1]["clips"][0]
    assert clip["traces"] == [["measured", "measured"], ["a", "m0"], ["b", "m1"]] and clip["bins"] == TRIAL - LONGER
