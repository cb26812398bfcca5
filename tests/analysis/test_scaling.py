"""How scores grow with data: a law whose numbers are known is found again, and what runs do not tell is said."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import is_picture

from vivit_core.analysis.scaling.law import EXPONENTS, Law, fit, resample
from vivit_core.analysis.scaling.numbers import Curve, TrainedRun, ceiling_of, foretold_of, numbers_of, with_law
from vivit_core.analysis.scaling.scaling import scaling
from vivit_core.analysis.scaling.section import report_section, sentence
from vivit_core.analysis.tables import write_summary

SWEEPS = 80
MINUTES = np.array([0.5, 1.0, 2.0, 4.0, 8.0])


def law_at(x: Any, ceiling: float, amount: float, exponent: float) -> np.ndarray:
    """The law as it is written down."""
    scores: np.ndarray = ceiling - amount * np.asarray(x, np.float64) ** -exponent
    return scores


# The law ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    ceiling=st.floats(-1, 3),
    amount=st.floats(0.05, 2),
    exponent=st.floats(0.1, 3.5),
    scale=st.floats(1e-2, 1e4),
)
def test_a_law_without_noise_is_found_again(ceiling: float, amount: float, exponent: float, scale: float) -> None:
    x = MINUTES * scale
    found = fit(x, law_at(x / scale, ceiling, amount, exponent))
    assert found.exponent_R[0] == pytest.approx(exponent, rel=1e-4)
    assert found.ceiling_R[0] == pytest.approx(ceiling, abs=1e-3 * amount / exponent)
    np.testing.assert_allclose(found.at(x)[0], law_at(x / scale, ceiling, amount, exponent), atol=1e-6)
    twice = law_at(16, ceiling, amount, exponent) - law_at(8, ceiling, amount, exponent)
    assert found.gain(x[-1])[0] == pytest.approx(twice, abs=1e-5)


def test_it_is_the_least_squares_law() -> None:
    """No other law of a fine grid is nearer to noisy scores."""
    rng = np.random.default_rng(0)
    y = law_at(MINUTES, 1.0, 0.4, 0.7) + rng.normal(0, 0.02, 5)
    found = fit(MINUTES, y)
    error = float(((found.at(MINUTES)[0] - y) ** 2).sum())
    ceiling, amount, exponent = np.meshgrid(
        np.linspace(0.8, 1.5, 71), np.linspace(0.1, 1.0, 91), np.geomspace(0.2, 2, 81), indexing="ij"
    )
    others = ceiling[..., None] - amount[..., None] * MINUTES ** -exponent[..., None]
    assert error <= ((others - y) ** 2).sum(-1).min()


def test_each_resampling_is_fitted_alone() -> None:
    rng = np.random.default_rng(1)
    y = law_at(MINUTES, 1.0, 0.4, 0.7) + rng.normal(0, 0.05, (7, 5))
    together = fit(MINUTES, y)
    for row in range(7):
        alone = fit(MINUTES, y[row])
        np.testing.assert_allclose(
            together.at(MINUTES)[row], alone.at(MINUTES)[0], rtol=1e-7
        )  # as near as the search comes


def test_more_data_are_never_worse() -> None:
    found = fit(MINUTES, [0.5, 0.4, 0.45, 0.35, 0.3])
    assert found.amount_R[0] == 0 and found.ceiling_R[0] == pytest.approx(0.4) and found.gain(8.0)[0] == 0


def test_a_logarithm_has_no_end() -> None:
    assert fit(MINUTES, 0.3 + 0.1 * np.log(MINUTES)).endless[0]
    assert not fit(MINUTES, law_at(MINUTES, 1, 0.4, EXPONENTS[0] * 1.5)).endless[0]


@pytest.mark.parametrize("x", [[1, 2], [1, 1, 2, 2], [0, 1, 2], [-1, 1, 2]])
def test_too_few_amounts_are_no_law(x: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 3 different amounts of data above 0"):
        fit(np.array(x, float), np.ones(len(x)))


# Its uncertainty ----------------------------------------------------------------------------------------------------


def made(rng: np.random.Generator, x_N: np.ndarray, units: int, noise: float, exponent: float = 0.8) -> np.ndarray:
    """Units of one kind, each with its own law, and trainings that differ by chance; (N, U)."""
    ceiling_U, amount_U = rng.normal(1.0, 0.3, units), rng.normal(0.4, 0.1, units)
    law_NU = ceiling_U - amount_U * x_N[:, None] ** -exponent
    chance: np.ndarray = rng.normal(0, noise, len(x_N))[:, None] + rng.normal(0, 0.05, law_NU.shape)
    return law_NU + chance


def test_intervals_hold_the_truth() -> None:
    """Gains of twice the data over simulated sweeps of five amounts and two seeds: about 95 % hold the true gain."""
    x_N = np.repeat(MINUTES, 2)
    true = float(law_at(16, 1.0, 0.4, 0.8) - law_at(8, 1.0, 0.4, 0.8))
    held, wide = 0, []
    for index in range(SWEEPS):
        bps_NU = made(np.random.default_rng([2, index]), x_N, 40, 0.015)
        law = fit(x_N, bps_NU.mean(1))
        drawn = fit(x_N, resample(x_N, bps_NU, law, 150, index)).gain(8.0)
        low, high = np.percentile(drawn, [2.5, 97.5])
        held += low <= true <= high
        wide.append(high - low)
    assert 0.87 <= held / SWEEPS <= 1.0, held
    assert np.median(wide) < 0.06  # and they say something: the rise from 0.5 to 8 minutes is 0.62


def test_units_are_drawn_alike_for_all_runs() -> None:
    """Where all units have the law's shape and nothing is left by chance, drawing units moves all runs together."""
    shift_U = np.linspace(-1, 1, 30)
    bps_NU = law_at(MINUTES, 1, 0.4, 0.7)[:, None] + shift_U
    drawn = resample(MINUTES, bps_NU, fit(MINUTES, bps_NU.mean(1)), 300, 0)
    assert drawn[:, 0].std() == pytest.approx(shift_U.std() / np.sqrt(30), rel=0.2)
    np.testing.assert_allclose(drawn - drawn[:, :1], np.tile(drawn[0] - drawn[0, 0], (300, 1)), atol=1e-6)


def test_what_a_law_leaves_is_drawn_as_large_as_it_was_before_three_numbers_were_fitted() -> None:
    """Five runs that lie .1 above and below a law that does not rise; units that are all alike add nothing."""
    law = Law(np.ones(1), np.zeros(1), np.ones(1), 1.0)
    bps_NU = np.repeat(1 + 0.1 * np.array([1, -1, 1, -1, 0])[:, None], 4, 1)
    drawn_RN = resample(np.arange(1.0, 6.0), bps_NU, law, 50, 0)
    assert np.unique(drawn_RN.round(9)) == pytest.approx(1 + 0.1 * np.sqrt(5 / (5 - 3)) * np.array([-1, 0, 1]))
    assert resample(np.arange(1.0, 4.0), bps_NU[:3], law, 50, 0) == pytest.approx(1.0)  # three runs leave nothing


def test_units_are_drawn_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers of all at once."""
    bps_NU = made(np.random.default_rng(0), MINUTES, 40, 0.015)
    law = fit(MINUTES, bps_NU.mean(1))
    whole = resample(MINUTES, bps_NU, law, 100, 0)
    monkeypatch.setattr("vivit_core.analysis.scaling.law.DRAWN", 40 * 7)
    drawn: list[int] = []
    real = np.concatenate
    monkeypatch.setattr(np, "concatenate", lambda parts: (drawn.extend(map(len, parts)), real(parts))[1])
    np.testing.assert_allclose(resample(MINUTES, bps_NU, law, 100, 0), whole, rtol=1e-12)
    assert drawn.count(7) == 14 and 100 not in drawn


def ceiling(x_N: np.ndarray, bps_NU: np.ndarray) -> dict[str, Any]:
    return ceiling_of(with_law(Curve([], x_N, bps_NU), 400, 0))


def test_a_ceiling_is_told_only_where_the_runs_tell_it() -> None:
    rng = np.random.default_rng(3)
    long = np.repeat(np.geomspace(0.5, 64, 8), 2)
    known = ceiling(long, made(rng, long, 200, 0.005))
    assert known["left_interval"][0] < 0.4 * 64**-0.8 < known["left_interval"][1] < 0.1
    assert known["ceiling_known"] and known["ceiling_interval"][0] < 1.0 < known["ceiling_interval"][1] < 1.2

    short = np.repeat([0.5, 1.0, 1.5, 2.0], 2)  # the rise has hardly bent
    unknown = ceiling(short, made(rng, short, 200, 0.02, exponent=0.3))
    assert not unknown["ceiling_known"]

    logarithm = ceiling(MINUTES, np.tile((0.3 + 0.1 * np.log(MINUTES))[:, None], 50))
    assert not logarithm["ceiling_known"] and logarithm["ceiling_interval"][1] == np.inf

    three = np.array([0.5, 4.0, 32.0])  # any three points lie on some law
    exact = np.tile(law_at(three, 1, 0.4, 1.0)[:, None], 50)
    assert not ceiling(three, exact)["ceiling_known"]


# What the largest amount tells of the law of the others -------------------------------------------------------------


def foretold(x_N: np.ndarray, bps_NU: np.ndarray, seed: int = 0, resamples: int = 150) -> dict[str, Any]:
    found = foretold_of(Curve([], x_N, bps_NU), resamples, seed)
    assert found is not None
    return found


def lawful(rng: np.random.Generator, x_N: np.ndarray, units: int, spread: float, luck: float) -> np.ndarray:
    """Units that differ by a constant of their own, and runs that differ by luck that all units of a run share."""
    own = rng.normal(0, spread, units) + rng.normal(0, 0.01, (len(x_N), units))
    made: np.ndarray = law_at(x_N, 1.0, 0.4, 0.8)[:, None] + own + rng.normal(0, luck, len(x_N))[:, None]
    return made


@pytest.mark.parametrize("x_N", [MINUTES, np.repeat(MINUTES, 2), np.append(np.repeat(MINUTES[:4], 4), 5.0)])
def test_a_right_law_is_seldom_refused(x_N: np.ndarray) -> None:
    """The runs that are measured have luck of their own. Of the others there are few, which say little of how much."""
    rngs = (np.random.default_rng([4, index]) for index in range(30))
    refused = sum(not foretold(x_N, lawful(rng, x_N, 20, 0.0, 0.02), resamples=60)["held"] for rng in rngs)
    assert refused <= 3


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_a_law_that_misses_the_whole_rise_is_refused(spread: float) -> None:
    """However much units differ: they are the same in what is foretold and in what is measured."""
    x_N = np.repeat(MINUTES, 2)
    bps_NU = lawful(np.random.default_rng(0), x_N, 60, spread, 0.002)
    assert foretold(x_N, bps_NU)["held"]
    bps_NU[x_N == 8] -= float(law_at(8, 1.0, 0.4, 0.8) - law_at(4, 1.0, 0.4, 0.8))
    found = foretold(x_N, bps_NU)
    low, high = found["foretold_interval"]
    assert not found["held"] and found["measured"] < low < found["foretold"] < high


@settings(deadline=None, max_examples=15)
@given(spread=st.floats(0, 3), seed=st.integers(0, 9))
def test_what_units_have_of_their_own_at_all_amounts_changes_no_verdict(spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bps_NU = made(rng, MINUTES, 20, 0.02)
    own_U = rng.normal(0, spread, 20)
    alike, unlike = foretold(MINUTES, bps_NU, resamples=40), foretold(MINUTES, bps_NU + own_U, resamples=40)
    for name in ("foretold", "foretold_interval"):
        np.testing.assert_allclose(np.array(unlike[name]) - own_U.mean(), alike[name], atol=1e-5)


# From runs to files -------------------------------------------------------------------------------------------------


def run(
    index: int, minutes: float, bps: Mapping[tuple[str, str], float], truth: float = 1.5, **changed: Any
) -> TrainedRun:
    """A training whose units have these scores."""
    units = pandas.DataFrame(
        [(*unit, value, 100, 30.0, truth) for unit, value in bps.items()],
        columns=["recording", "unit", "bps", "bins", "spikes", "truth_bps"],
    ).set_index(["recording", "unit"])
    amounts = {"minutes": minutes, "recordings": 1, "units": len(bps), "parameters": 1000}
    given = {"name": f"sweep/{index}", "path": Path(f"runs/{index}"), "curve": "from nothing", "seed": 0}
    return TrainedRun(**{**given, "amounts": amounts, "likelihood": "Poisson", "units": units, **changed})


def scores(
    minutes: float, ceiling: float = 1.0, exponent: float = 0.8, units: int = 20
) -> dict[tuple[str, str], float]:
    rng = np.random.default_rng(0)
    mean = float(law_at(minutes, ceiling, 0.4, exponent))
    return {("a", f"u{u}"): mean + shift for u, shift in enumerate(rng.normal(0, 0.2, units))}


@pytest.mark.pictures
def test_two_curves_become_a_table_a_summary_and_a_picture(tmp_path: Path) -> None:
    runs = [run(i, x, scores(x)) for i, x in enumerate(MINUTES)]
    runs += [run(9 + i, x, scores(x, exponent=1.6), curve="frozen core") for i, x in enumerate([2.0, 1.0])]
    for column in ("a", "silent"):
        runs[0].units.loc[("a", column), :] = [np.nan, 100, 0.0, np.nan]  # which no run scores
    summary = scaling(runs, over="minutes", resamples=100, out=tmp_path, left_out=[{"job": "s/3", "reason": "failed"}])
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["units"] == 20 and summary["units_left_out"] == 2 and summary["recordings"] == {"a": 20}
    assert summary["oracle"] == pytest.approx(1.5) and summary["likelihood"] == "Poisson"
    own = summary["curves"]["from nothing"]
    true = [float(np.mean(list(scores(x).values()))) for x in MINUTES]
    assert own["at"] == MINUTES.tolist() and own["bps_mean"] == pytest.approx(true)
    assert own["knowable_fraction"] == pytest.approx(true[-1] / 1.5)
    law = own["law"]
    shift = true[0] - float(law_at(0.5, 1.0, 0.4, 0.8))
    assert law["ceiling"] == pytest.approx(1.0 + shift, abs=1e-3) and law["exponent"] == pytest.approx(0.8, rel=1e-3)
    assert law["amount"] == pytest.approx(0.4, rel=1e-3) and law["residual"] < 1e-5
    gain = float(law_at(16, 1.0, 0.4, 0.8) - law_at(8, 1.0, 0.4, 0.8))
    assert law["gain_of_twice"] == pytest.approx(gain, abs=1e-4)
    assert law["gain_of_twice_interval"] == pytest.approx([gain, gain], abs=1e-4)  # all units have one law
    low, high = law["test"]["foretold_interval"]
    assert law["test"]["held"] == (low <= law["test"]["measured"] <= high)
    assert law["test"]["at"] == 8 and law["test"]["foretold"] == pytest.approx(law["test"]["measured"], abs=1e-4)
    few = summary["curves"]["frozen core"]
    assert few["law"] is None and few["at"] == [1, 2]

    with (tmp_path / "scaling.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["minutes"]) for row in rows] == [*MINUTES, 1, 2]
    assert [row["curve"] for row in rows] == ["from nothing"] * 5 + ["frozen core"] * 2
    assert rows[0]["run"] == "runs/0" and float(rows[4]["bps_mean"]) == pytest.approx(true[-1])
    assert float(rows[0]["law_bps"]) == pytest.approx(true[0], abs=1e-5) and rows[5]["law_bps"] == ""
    picture = tmp_path / "pictures" / "scaling.png"
    assert is_picture(picture)

    section = report_section(summary, picture, "vivit-core task=scaling")
    said = " ".join(section.text)
    assert "twice the data (8 to 16) would add" in said and "frozen core: 2 different amounts" in said
    assert "s/3: failed" in said and "1.500 bits per spike" in said and "foretells" in said
    assert {"law", "gain_of_twice"} < dict(section.notes[0].rows).keys() == summary["methods"].keys()


def test_a_trained_core_is_worth_minutes(tmp_path: Path) -> None:
    """From nothing 1 - .4 / x, on the core 1 - .4 / x^1.8: x minutes on the core are x^1.8 from nothing."""
    runs = [run(i, x, scores(x, exponent=1.0)) for i, x in enumerate(MINUTES)]
    runs += [run(9 + i, x, scores(x, exponent=1.8), curve="frozen core") for i, x in enumerate(MINUTES)]
    summary = scaling(runs, over="minutes", resamples=50, out=tmp_path)
    worth = {own["at"]: own for own in summary["worth"]}
    assert [worth[x]["as"] for x in MINUTES[:4]] == pytest.approx(MINUTES[:4] ** 1.8, rel=0.02)
    assert worth[2.0]["as_interval"] == pytest.approx([2**1.8] * 2, rel=0.02)  # all units have one law
    assert worth[8.0]["as"] is None and worth[8.0]["most"] == 16  # 42 minutes: nothing was measured near them
    section = report_section(summary, tmp_path / "pictures" / "scaling.png", "")
    (table,) = [table for table in section.tables if "from nothing" in table.columns]
    assert table.rows[2][:2] == ("frozen core", 2.0) and str(table.rows[2][2]).startswith("3.48 [")
    assert str(table.rows[4][2]).startswith("over 16")


def test_a_core_that_does_harm_is_worth_less_than_was_measured(tmp_path: Path) -> None:
    runs = [run(i, x, scores(x)) for i, x in enumerate(MINUTES)]
    runs += [
        run(9 + i, x, {unit: bps - 1.5 for unit, bps in scores(x).items()}, curve="frozen core")
        for i, x in enumerate(MINUTES)
    ]
    summary = scaling(runs, over="minutes", resamples=50, out=tmp_path)
    first = summary["worth"][0]
    assert first["as"] is None and first["as_interval"] == [None, None]
    assert first["outside"] == ["under"] * 3 and first["least"] == MINUTES[0] / 2
    section = report_section(summary, tmp_path / "pictures" / "scaling.png", "")
    (table,) = [table for table in section.tables if "from nothing" in table.columns]
    assert table.rows[0][2] == f"under {MINUTES[0] / 2:g} [under {MINUTES[0] / 2:g}, under {MINUTES[0] / 2:g}]"


def test_what_the_runs_do_not_tell_is_said(tmp_path: Path) -> None:
    straight = [run(i, x, {("a", "u"): 0.3 + 0.1 * np.log(x)}, truth=np.nan) for i, x in enumerate(MINUTES)]
    summary = scaling(straight, over="minutes", resamples=50, out=tmp_path)
    law = summary["curves"]["from nothing"]["law"]
    assert summary["oracle"] is None and not law["ceiling_known"] and law["ceiling_interval"][1] is None
    said = " ".join(report_section(summary, tmp_path / "pictures" / "scaling.png", "").text)
    assert "Where it ends, these runs do not tell" in said and "oracle" not in said

    falling = [run(i, x, {("a", "u"): 0.3 - 0.1 * np.log(x)}) for i, x in enumerate(MINUTES[:3])]
    summary = scaling(falling, over="minutes", resamples=50, out=tmp_path)
    said = " ".join(report_section(summary, tmp_path / "pictures" / "scaling.png", "").text)
    assert "Scores do not rise with it" in said and "intervals know of other units alone" in said


def test_the_page_says_whether_the_largest_amount_was_foretold(tmp_path: Path) -> None:
    def said(x_N: np.ndarray, missing: float) -> str:
        bps_NU = lawful(np.random.default_rng(5), x_N, 20, 0.3, 0.004)
        bps_NU[-1] -= missing
        own = numbers_of(with_law(Curve([], x_N, bps_NU), 50, 0), np.full(20, np.nan), 100, 0)
        return sentence("from nothing", write_summary(tmp_path / "summary.json", own), "minutes")

    many = np.geomspace(0.25, 16, 7)
    assert re.search(r"foretells \d\.\d{3} \[.*\] of these units at 16, as was measured \(", said(many, 0.0))
    assert "of these units at 16, which is not what was measured (" in said(many, 0.5)
    three = said(MINUTES[1:], 0.5)  # smaller runs, which lie on their law and say nothing of luck
    assert re.search(r"foretells \d\.\d{3} of these units at 8, where .* three runs do not tell", three)


def test_other_things_than_minutes_can_grow(tmp_path: Path) -> None:
    grown = [
        run(i, 3.5, scores(x), amounts={"minutes": 3.5, "recordings": x, "units": 20 * x, "parameters": 10 * x})
        for i, x in enumerate([1, 2, 4, 8])
    ]
    for over, most in (("recordings", 8), ("units", 160), ("parameters", 80)):
        summary = scaling(grown, over=over, resamples=20, out=tmp_path)  # type: ignore[arg-type]
        assert summary["curves"]["from nothing"]["at"][-1] == most
    with pytest.raises(ValueError, match=r"over=minutes: all 4 runs that finished have 3\.5, so nothing grows"):
        scaling(grown, over="minutes", resamples=20, out=tmp_path)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first = run(0, 1.0, scores(1.0))
    other = run(1, 2.0, {("b", "u"): 0.5})
    unlike = run(1, 2.0, scores(2.0))
    unlike.units.loc[("a", "u3"), "spikes"] = 31.0
    normal = run(1, 2.0, scores(2.0), likelihood="Gaussian")
    for second, said in (
        (other, "sweep/0 and the other runs share no unit"),
        (unlike, r"sweep/0 and sweep/1 were scored on different test trials \(spikes differ"),
        (normal, "different likelihoods.*sweep/0 by Poisson, sweep/1 by Gaussian"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            scaling([first, second], over="minutes", resamples=20, out=tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="resamples=0: give at least 1"):
        scaling([first, unlike], over="minutes", resamples=0, out=tmp_path)
    assert not list(tmp_path.iterdir())
