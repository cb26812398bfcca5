"""What a page holds to be explored: the values of the files, in few bytes, and text that stays text."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from made_report import write_evaluation, write_report

from vivit_core.analysis.evaluate.explore import unit_explorer
from vivit_core.report import explore
from vivit_core.report.explore import Clip, Column, Curves, Explorer, Images, Place, Scores, Series
from vivit_core.system.tables import read_table

EVIL = '</script><script>hacked=1</script><!--<img src=x onerror="hacked=1">&amp;\u2028'


def small(**changes: object) -> Explorer:
    columns = [Column("a", "A", [1.0, None]), Column("b", "B", [0.25, 3.0], low="a")]
    told = {
        "key": "units", "title": "Units", "group": "recording", "name": "unit", "groups": ["r", "r"],
        "names": ["u", "v"], "columns": columns, "axes": ("a", "b"), "sort": "b", "panels": [],
    } | changes  # fmt: skip
    return Explorer(**told)  # type: ignore[arg-type]


def unpacked(clip: dict, data: list) -> tuple[np.ndarray, np.ndarray]:
    """Rates (traces, T) and counts (R, T) of a row, as the page's script reads them."""
    top, most, text = data
    content = base64.b64decode(text)
    number = len(clip["traces"]) + clip["error"]
    size = 2 * number * clip["bins"]
    values = np.frombuffer(content[:size], "<u2").reshape(number, -1).astype(float)
    rates = np.where(values == explore.UNKNOWN, np.nan, values / (explore.UNKNOWN - 1) * top)
    both = np.frombuffer(content[size:], np.uint8)
    levels = np.stack([both & 15, both >> 4], 1).ravel()[: clip["repeats"] * clip["bins"]]
    return rates, levels.reshape(clip["repeats"], -1) * most / explore.LEVELS


def series_of(units: int, bins: int, repeats: int, seed: int = 0) -> tuple[Series, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rates_TU = rng.gamma(2, 10, (bins, units))
    rates_TU[3] = np.nan
    counts = rng.poisson(0.3, (repeats, bins, units)).astype(float)
    traces = {("measured", "measured"): rates_TU, ("twin", "twin"): rates_TU / 3}
    clip = Clip(0.01, "film", traces, rates_TU / 9, counts, repeats)
    return Series("rates", {"r": clip}), rates_TU, counts


def test_no_text_ends_the_block_that_holds_it():
    columns = [Column("b", EVIL, [EVIL, "x"])]
    told = small(names=[EVIL, "v"], groups=[EVIL, "r"], columns=columns, axes=()).json
    assert not set("<>&\u2028") & set(told)
    back = json.loads(told)
    assert back["names"][0] == EVIL and back["columns"][0]["values"][0] == EVIL and back["groups"][0] == EVIL


@pytest.mark.parametrize("repeats", [1, 7])
def test_rates_and_counts_come_back(repeats):
    series, rates_TU, counts = series_of(3, 41, repeats)
    told = explore.plain_series(series, ["r"] * 3, ["r"])
    clip = told["clips"][0]
    assert (clip["bins"], clip["repeats"], clip["of"], clip["bin_s"]) == (41, repeats, repeats, 0.01)
    for unit in range(3):
        rates, back = unpacked(clip, told["data"][unit])
        top = np.nanmax(rates_TU[:, unit])
        for row, factor in enumerate((1, 1 / 3, 1 / 9)):
            np.testing.assert_allclose(rates[row], rates_TU[:, unit] * factor, atol=top / 1e4)
        np.testing.assert_array_equal(back, counts[..., unit])  # spikes to the last one


def test_a_calcium_signal_keeps_its_shape():
    series, _, counts = series_of(1, 20, 4)
    clip = series.clips["r"]
    signal = counts * 77.7
    told = explore.plain_series(Series("x", {"r": Clip(0.01, "film", clip.traces, None, signal, 4)}), ["r"], ["r"])
    _, back = unpacked(told["clips"][0], told["data"][0])
    np.testing.assert_allclose(back, signal[..., 0], atol=signal.max() / 30 + 1e-9)


def test_joined_bins_hold_means_of_rates_and_sums_of_spikes(monkeypatch):
    monkeypatch.setattr(explore, "MOST_BINS", 10)
    monkeypatch.setattr(explore, "FEWEST_BINS", 10)
    series, rates_TU, counts = series_of(2, 43, 3)
    told = explore.plain_series(series, ["r"] * 2, ["r"])
    clip = told["clips"][0]
    assert clip["bins"] == 9 and clip["bin_s"] == 0.05
    rates, back = unpacked(clip, told["data"][1])
    parts = [slice(5 * i, 5 * i + 5) for i in range(9)]
    np.testing.assert_allclose(rates[0], [np.nanmean(rates_TU[p, 1]) for p in parts], rtol=1e-3)
    np.testing.assert_array_equal(back.T, [counts[:, p, 1].sum(1) for p in parts])


@pytest.mark.parametrize("units", [10, 1000, 9000])
def test_a_page_stays_small_however_many_units_there_are(units):
    trace = np.broadcast_to(np.linspace(0, 9, 1200)[:, None], (1200, units))
    counts = np.broadcast_to(np.float16(1), (60, 1200, units))
    traces = {("measured", "measured"): trace, ("twin", "twin"): trace, ("LN", "ln"): trace}
    told = explore.plain_series(Series("x", {"r": Clip(0.01, "film", traces, trace, counts, 60)}), ["r"] * units, ["r"])
    assert sum(len(data[2]) for data in told["data"] if data) <= 1.4 * explore.SERIES_BYTES
    clip = told["clips"][0]
    assert clip["bins"] >= explore.FEWEST_BINS and clip["bins"] * clip["bin_s"] == pytest.approx(12, abs=0.2)
    assert (told["left_out"] == 0) == (units <= 1000)
    if units == 10:
        assert clip["bins"] == explore.MOST_BINS and clip["repeats"] == explore.MOST_REPEATS


@pytest.mark.parametrize("units", [50, 500, 2000])
def test_pictures_of_fields_stay_small_however_many_units_there_are(units, monkeypatch):
    monkeypatch.setattr(explore, "IMAGES_BYTES", 300_000)
    rng = np.random.default_rng(0)
    pictures = [*rng.uniform(-1, 1, (units, 40, 40)), None]
    told = explore.plain_images(Images("Field", pictures))
    drawn = [png for png in told["pngs"] if png]
    assert sum(map(len, drawn)) <= 1.4 * explore.IMAGES_BYTES
    left_out = told["pngs"].count("")
    assert told["pngs"][-1] is None and len(drawn) + left_out == units
    assert (left_out == 0) == (units <= 500) and told["pngs"][0] and told["pngs"][-2]
    assert len(drawn) > 400 or units == 50
    if units == 50:
        assert drawn[0] == explore.png_of(explore.signed(explore.smaller(pictures[0], explore.MOST_PX)))


@pytest.mark.parametrize(("units", "repeats"), [(833, 1), (3750, 10)])
def test_however_large_a_page_a_repeat_is_drawn(units, repeats):
    """Of three rates and a standard error; a page whose models are so many that it has no room says so itself."""
    trace = np.ones((600, units))
    traces = {(name, "twin"): trace for name in ("measured", "twin", "LN")}
    clip = Clip(0.01, "film", traces, trace if repeats > 1 else None, np.ones((repeats, 600, units)), repeats)
    told = explore.plain_series(Series("x", {"r": clip}), ["r"] * units, ["r"])
    assert told["clips"][0]["repeats"] >= 1
    assert sum(len(data[2]) for data in told["data"] if data) <= 1.4 * explore.SERIES_BYTES


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"names": ["u"]}, "each of 1 rows"),
        ({"names": ["u", "u"]}, "two rows have one recording and one unit"),
        ({"columns": [Column("b", "B", [1, 2]), Column("b", "B", [1, 2])], "axes": ()}, "two columns have one key"),
        ({"sort": "nowhere"}, "no column is called nowhere"),
        ({"axes": ("a", "x")}, "no column is called x"),
        ({"panels": [Scores("s", [("t", [("n", "twin", "lost")])])]}, "no column is called lost"),
        ({"panels": [Images("pictures", [None])]}, "pictures is not of 2 rows"),
        ({"panels": [Place("place", {}, np.zeros((3, 5)))]}, "place is not of 2 rows"),
        ({"panels": [Curves("curve", "x", "y", [1.0], np.zeros((1, 1)))]}, "curve is not of 2 rows"),
        ({"panels": [series_of(3, 10, 1)[0]]}, "r has 2 rows, and rates of 3"),
    ],
)
def test_what_does_not_fit_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        _ = small(**changes).json


def test_the_page_holds_the_values_of_the_files(tmp_path: Path):
    units = {"one": [EVIL, "b", "c"], "two": ["b", "007"]}
    write_evaluation(tmp_path, units, bins=30, repeats=3)
    made = unit_explorer(tmp_path)
    assert made is not None
    told = json.loads(made.json)
    table = read_table(tmp_path / "units.csv", text=("recording", "unit", "context"))
    assert told["names"] == [name for names in units.values() for name in names]
    assert [told["groups"][i] for i in told["group_of"]] == table["recording"].tolist()
    of = {column["key"]: column for column in told["columns"]}
    assert set(of) == set(table.columns) - {"recording", "unit"}
    for key, column in of.items():
        if key != "context":
            np.testing.assert_allclose([np.nan if v is None else v for v in column["values"]], table[key], rtol=1e-6)
    assert (of["bps"]["low"], of["bps"]["high"]) == ("bps_low", "bps_high")
    assert told["axes"] == ["ln_bps", "bps"] and of["bps"]["quantity"] == of["ln_bps"]["quantity"] != ""
    rates = next(panel for panel in told["panels"] if panel["kind"] == "series")
    with np.load(tmp_path / "responses.npz") as file:
        expected, counts = file["two/predicted"], file["two/counts"]
    got, back = unpacked(rates["clips"][1], rates["data"][4])
    np.testing.assert_allclose(got[1], expected[:, 1], rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(back, counts[..., 1])


def test_without_an_evaluation_there_is_nothing_to_explore(tmp_path: Path):
    assert unit_explorer(tmp_path) is None
    rows = write_evaluation(tmp_path, {"r": ["a", "b"]}, bins=10, repeats=1)
    assert len(rows) == 2
    (tmp_path / "responses.npz").unlink()
    made = unit_explorer(tmp_path)  # of an evaluation that kept no rates, or whose file was taken away
    assert made is not None and [type(panel) for panel in made.panels] == [Scores]


def test_the_policy_names_the_pages_one_script(tmp_path: Path):
    write_evaluation(tmp_path, {"r": ["a"]}, bins=10, repeats=1)
    text = write_report(tmp_path).read_text()
    assert f"script-src {explore.script_hash()}" in text and text.count("<script>") == 1
    assert (
        "unsafe-inline'; base-uri" in text and "unsafe-eval" not in text and "eval(" not in explore.part("explore.js")
    )
    for forbidden in (
        "innerHTML",
        "insertAdjacentHTML",
        "document.write",
        "fetch(",
        "XMLHttpRequest",
        "http://",
        "import(",
    ):
        assert forbidden not in explore.part("explore.js").replace("http://www.w3.org/2000/svg", "")


def test_a_picture_is_made_smaller_by_means() -> None:
    """Stripes of one pixel become gray; every other pixel would show one of both."""
    stripes = np.tile([0.0, 1.0], (70, 35))
    found = explore.smaller(stripes, explore.MOST_PX)
    assert found.shape == (24, 24) and max(found.shape) <= explore.MOST_PX
    np.testing.assert_allclose(found[:, ::2][:, :-1], 1 / 3)
    np.testing.assert_allclose(found[1, 2], stripes[3:6, 6:9].mean())
    np.testing.assert_allclose(found[-1, -1], stripes[69:, 69:].mean())
    assert explore.smaller(stripes[:, :20][:32], explore.MOST_PX).shape == (32, 20)
