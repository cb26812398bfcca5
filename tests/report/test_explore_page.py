"""The page in a real browser: a person sorts, filters, chooses, zooms, prints, and sees the files' numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
from browser import CHROMIUM, WITHOUT, Browser
from made_report import RATE_HZ, write_evaluation, write_report

from vivit_core.analysis.explore import UNITS as OF_UNITS
from vivit_core.report.explore import Column, Curves, Explorer, Images
from vivit_core.report.page import publish
from vivit_core.report.section import Section
from vivit_core.report.sweep import sweep_section
from vivit_core.system.tables import read_table

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)

EVIL = '<img src=x onerror="hacked=1"></script><script>hacked=1</script>'
UNITS = {"retina": [EVIL, *(f"r{i:02d}" for i in range(29))], "V1 & <b>more</b>": [f"v{i:02d}" for i in range(30)]}
TABLE = "#explore-units-table"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_evaluation(folder, UNITS, bins=240, repeats=8)
    return write_report(folder)


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.console.clear()
    browser.open(page)
    return browser


@pytest.fixture(scope="module")
def units(page: Path) -> pandas.DataFrame:
    return read_table(page.parent / "units.csv", text=("recording", "unit", "context"))


def names_of(browser: Browser) -> list[str]:
    return browser.texts(f"{TABLE} tbody tr th")


def chosen(browser: Browser) -> str:
    return browser.text(".x-panel .x-name")


def test_a_table_sorts_by_any_column(opened: Browser, units: pandas.DataFrame) -> None:
    best = units.sort_values("bps", ascending=False)["unit"].tolist()
    assert names_of(opened)[:9] == best[:9] and chosen(opened) == best[0]
    opened.click(f'{TABLE} button[title="corr"]')
    assert names_of(opened)[:9] == units.sort_values("corr", ascending=False)["unit"].tolist()[:9]
    opened.click(f'{TABLE} button[title="corr"]')
    assert names_of(opened)[:9] == units.sort_values("corr")["unit"].tolist()[:9]
    assert opened.texts(f"{TABLE} [aria-sort=ascending]") == ["correlation"]
    # What is not known comes last, whichever way.
    for _ in range(2):
        opened.click(f'{TABLE} button[title="ln_bps"]')
        opened.js("document.querySelector('.x-rows').scrollTop = 1e6; new Promise(done => setTimeout(done, 100))")
        assert set(names_of(opened)[-2:]) == {EVIL, "v00"}
    assert opened.console == []


def test_a_table_is_filtered_by_words_numbers_and_recordings(opened: Browser, units: pandas.DataFrame) -> None:
    median = opened.texts(f"{TABLE} tfoot td")[2]
    assert float(median) == pytest.approx(units["bps"].median(), rel=1e-3)
    opened.click(".x-search input")
    opened.type("v1, bps > 0.4 and correlation <= 0.5")
    kept = units[(units["recording"] != "retina") & (units["bps"] > 0.4) & (units["corr"] <= 0.5)]
    assert 2 < len(kept) < 30
    assert opened.text(".x-status") == f"{len(kept)} of 60 units."
    assert set(names_of(opened)) == set(kept["unit"])
    assert float(opened.texts(f"{TABLE} tfoot td")[2]) == pytest.approx(kept["bps"].median(), rel=1e-3)
    assert opened.js("document.querySelectorAll('.x-points circle:not(.x-out)').length") == kept["ln_bps"].notna().sum()
    opened.type(", nonsense > 3")
    assert opened.text(".x-status") == "0 of 60 units. There is no number called nonsense."
    opened.js("const i = document.querySelector('.x-search input'); i.value = ''; i.dispatchEvent(new Event('input'))")
    opened.click(".x-chip[title=retina]")
    assert opened.text(".x-status") == "30 of 60 units." and not set(names_of(opened)) & set(UNITS["retina"])
    assert opened.js("document.querySelector('.x-chip[title=retina]').getAttribute('aria-pressed')") == "false"


def test_a_panel_follows_what_is_above_the_table(opened: Browser, units: pandas.DataFrame) -> None:
    """The best unit's rank, and what comes before and after it, change with the order and the filter."""
    buttons = "[...document.querySelectorAll('.x-step button')].map(b => b.disabled)"
    assert opened.js(buttons) == [True, False] and opened.text(".x-score small") == "above 100 % of 60"
    opened.click(f'{TABLE} button[title="bps"]')  # now the best is last
    assert opened.js(buttons) == [False, True]
    assert opened.js(f"document.querySelector('{TABLE}').hasAttribute('aria-activedescendant')") is False
    opened.click(".x-search input")
    opened.type("bps > 0.4")
    assert opened.text(".x-score small") == f"above 100 % of {(units['bps'] > 0.4).sum()}"
    best = chosen(opened)
    opened.js("const i = document.querySelector('.x-search input'); i.value = ''; i.dispatchEvent(new Event('input'))")
    opened.type("bps < 0.4")
    assert chosen(opened) == best and opened.text(".x-absent") == "not among those shown"
    assert opened.text(".x-score small") == "" and opened.js(buttons) == [True, True]
    assert opened.js(f"document.querySelector('{TABLE}').hasAttribute('aria-activedescendant')") is False
    opened.click(f"{TABLE} tbody tr")
    told = opened.js(f"document.querySelector('{TABLE}').getAttribute('aria-activedescendant')")
    assert opened.texts(f"#{told} th") == [chosen(opened)] and opened.texts(".x-absent") == []


def filtered(browser: Browser, query: str) -> set[str]:
    browser.js(
        f"(i => {{ i.value = {json.dumps(query)}; i.dispatchEvent(new Event('input')); }})"
        "(document.querySelector('.x-search input'))"
    )
    return set(names_of(browser))


def test_a_filter_takes_titles_with_commas_words_and_small_numbers(browser: Browser, tmp_path: Path) -> None:
    columns = [
        Column("bps", "bits per spike", [0.1, 0.2, 0.3]),
        Column("ln_bps", "bits per spike, LN", [0.3, 0.2, None]),
        Column("kind", "kind", ["simple", "complex", "not simple"]),
        Column("size", "size", ["[4,4]", "[8,8]", "[4,8]"]),
        Column("code", "code", ["7", "8", "07"]),
        Column("tiny", "tiny", [1e-9, 2e-9, 3e-9]),
    ]
    explore = Explorer(
        OF_UNITS, "Units", "recording", "unit", ["r"] * 3, ["a", "b", "c"], columns, ("bps", "bps"), "bps"
    )
    browser.open(publish(tmp_path, Section("tuning", "x", [], [], [], "x", explore=explore)))
    assert filtered(browser, "bits per spike, LN > 0.25") == {"a"}
    assert filtered(browser, "bits per spike > 0.15, bits per spike, LN > 0.1, r") == {"b"}
    assert filtered(browser, "kind = Simple") == {"a"} and filtered(browser, "simple") == {"a", "c"}
    assert filtered(browser, "size = [8,8], kind = complex and bps > 0.1") == {"b"}
    assert filtered(browser, "code = 7") == {"a"} and filtered(browser, "kind = x") == set()
    assert filtered(browser, "tiny = 2e-9") == {"b"} and filtered(browser, "bps = 0.2000001") == {"b"}
    assert filtered(browser, "LN > 0.1") == set()
    assert browser.text(".x-status") == "0 of 3 units. There is no number called LN."


def test_numbers_among_words_stand_by_their_size(browser: Browser, tmp_path: Path) -> None:
    values = ["0.5", "null", "1e-3", "16", "0.25"]
    jobs = [
        {"job": i, "x": value, "status": status, "reason": None, "val/bps_mean": i / 10, "run": None}
        for i, (value, status) in enumerate(zip(values, [*["finished"] * 4, "pruned"], strict=True))
    ]
    browser.open(publish(tmp_path, sweep_section(["x"], ["val/bps_mean"], jobs, [], "x")))
    rows = "#explore-jobs-table"
    # What was pruned has the largest number, and did not finish.
    assert browser.texts(f"{rows} tbody th") == ["job 3", "job 2", "job 1", "job 0", "job 4"]
    browser.click(f'{rows} button[title="x"]')
    assert browser.texts(f"{rows} tbody td:nth-child(2)") == ["1e-3", "0.25", "0.5", "16", "null"]
    ticks = browser.js(
        "[...document.querySelector('.x-parallel-axis').querySelectorAll('.x-tick')]"
        ".sort((a, b) => b.getAttribute('y') - a.getAttribute('y')).map(e => e.firstChild.textContent)"
    )
    assert ticks == ["1e-3", "0.25", "0.5", "16", "null"]


def test_a_unit_that_is_clicked_opens_with_the_numbers_of_the_file(opened: Browser, units: pandas.DataFrame) -> None:
    opened.click(f"{TABLE} tbody tr:nth-child(4)")
    name = names_of(opened)[3]
    assert chosen(opened) == name
    row = units[units["unit"] == name].iloc[0]
    told = opened.js("[...document.querySelectorAll('.x-panel dd')].map(e => [e.dataset.key, e.textContent])")
    assert {key for key, _ in told} == set(row.dropna().index) - {"recording", "unit"}
    for key, text in told:
        if key != "context":
            assert float(text.replace(",", "")) == pytest.approx(row[key], rel=6e-4), key
    scores = opened.js("[...document.querySelectorAll('.x-score .x-value')].map(e => e.dataset.key)")
    assert {"bps", "ln_bps", "truth_bps", "corr", "normalized_corr", "knowable_fraction"} <= set(scores)
    low, high = map(float, re.findall(r"[-\d.]+", opened.text(".x-score .x-interval")))
    assert (low, high) == (pytest.approx(row["bps_low"], rel=1e-3), pytest.approx(row["bps_high"], rel=1e-3))
    rank = (units["bps"] < row["bps"]).sum() / 59
    assert opened.text(".x-score small") == f"above {round(100 * rank)} % of 60"
    center = [opened.js(f"document.querySelector('.x-center').getAttribute('{name}')") for name in ("cx", "cy")]
    assert [float(v) for v in center] == pytest.approx(list(row[["readout_x_px", "readout_y_px"]]), abs=0.01)


def test_a_point_that_is_clicked_opens_too(opened: Browser, units: pandas.DataFrame) -> None:
    with_ln = units[units["ln_bps"].notna()].reset_index()
    alone = int(with_ln["bps"].argsort().iloc[-3])
    opened.js(f"document.querySelectorAll('.x-points circle')[{alone}].id = 'one'")
    opened.click("#one")
    assert chosen(opened) == with_ln["unit"][alone]
    assert opened.texts(f"{TABLE} [aria-selected=true] th") == [with_ln["unit"][alone]]
    above = (with_ln["bps"] > with_ln["ln_bps"]).sum()
    assert opened.text(".x-picture .x-say") == f"above the line: {above} of 58 units"
    opened.js("document.querySelector('[data-axis=x]').value = 'mean_rate_hz'")
    opened.js("document.querySelector('[data-axis=x]').dispatchEvent(new Event('change'))")
    assert opened.js("document.querySelectorAll('.x-points circle').length") == 60
    assert opened.js("document.querySelectorAll('.x-diagonal').length") == 0


def test_keys_do_what_the_mouse_does(opened: Browser, units: pandas.DataFrame) -> None:
    best = units.sort_values("bps", ascending=False)["unit"].tolist()
    opened.js(f"document.querySelector('{TABLE}').focus()")
    opened.press("ArrowDown", "ArrowDown", "ArrowUp")
    assert chosen(opened) == best[1]
    opened.press("End")
    assert chosen(opened) == best[-1] and opened.texts(f"{TABLE} [aria-selected=true] th") == [best[-1]]
    box = "document.querySelector('{}').getBoundingClientRect().{}"
    row, rows = (
        [opened.js(box.format(of, side)) for side in ("top", "bottom")]
        for of in (f"{TABLE} [aria-selected=true]", ".x-rows")
    )
    assert rows[0] <= row[0] and row[1] <= rows[1]  # the row was scrolled to
    opened.press("Home")
    assert chosen(opened) == best[0]
    opened.js("document.querySelector('.x-picture svg').focus()")
    opened.press("ArrowLeft")
    with_ln = units[units["ln_bps"].notna()].sort_values("ln_bps")["unit"].tolist()
    assert chosen(opened) == with_ln[with_ln.index(best[0]) - 1]


def test_time_is_zoomed_and_read(opened: Browser, page: Path) -> None:
    opened.js("document.querySelector('.x-time').focus()")
    whole = [0.0, 240 / RATE_HZ]

    def seen() -> list[float]:
        return [float(v) for v in opened.js("(d => [d.from, d.to])(document.querySelector('.x-time').dataset)")]

    assert seen() == whole
    left, right = 42 / 660, 652 / 660  # of the axis in the picture
    opened.drag(".x-time", (left + 0.25 * (right - left), 0.6), (left + 0.5 * (right - left), 0.6))
    assert seen() == pytest.approx([0.5, 1.0], abs=0.03)
    opened.press("+")
    assert seen()[1] - seen()[0] == pytest.approx(0.25, abs=0.02)
    opened.press("0")
    assert seen() == whole
    opened.mouse("mouseMoved", *opened.middle(".x-time", (left + 0.5 * (right - left), 0.7)))
    said = opened.text(".x-series .x-say")
    time = float(said.split(" s:")[0])
    with np.load(page.parent / "responses.npz") as file:
        recording = next(r for r, own in UNITS.items() if chosen(opened) in own)
        key = next(name for name in file.files if name.endswith("/predicted") and (name[0] == recording[0]))
        rates = file[key][:, UNITS[recording].index(chosen(opened))]
    expected = rates[int(time * RATE_HZ)]
    assert float(re.search(r"twin ([\d.]+)", said)[1]) == pytest.approx(expected, rel=2e-3)


def test_metrics_are_chosen(opened: Browser) -> None:
    before = opened.texts(f"{TABLE} thead th")
    opened.click(".x-columns summary")
    opened.click(".x-columns input[value=spikes]")
    opened.click(".x-columns input[value=corr]")
    after = opened.texts(f"{TABLE} thead th")
    assert set(before) - set(after) == {"correlation"} and set(after) - set(before) == {"spikes"}


def test_text_stays_text_and_no_other_script_runs(opened: Browser) -> None:
    opened.click(".x-search input")
    opened.type("onerror")
    assert names_of(opened) == [EVIL]
    opened.click(f"{TABLE} tbody tr")
    assert chosen(opened) == EVIL
    opened.js("document.querySelector('.x-search input').value = ''; 0")
    assert opened.js("typeof hacked") == "undefined"
    made = ".explorer img[src=x], .explorer b:not(.x-score b), .explorer script"
    assert opened.js(f"document.querySelectorAll('{made}').length") == 0

    assert opened.console == []
    opened.js("const e = document.createElement('script'); e.textContent = 'hacked = 2'; document.body.append(e); 0")
    assert opened.js("typeof hacked") == "undefined"
    assert opened.js("fetch('data:text/plain,x').then(() => 'fetched', () => 'refused')") == "refused"


def test_dark_narrow_and_paper(opened: Browser, tmp_path: Path) -> None:
    color = "getComputedStyle(document.querySelector('.x-panel')).backgroundColor"
    light = opened.js(color)
    try:
        opened.media(scheme="dark")
        dark = opened.js(color)
        assert sum(map(int, re.findall(r"\d+", dark))) < 200 < sum(map(int, re.findall(r"\d+", light)))
        opened.media()
        opened.size(400, 900)
        assert opened.js("document.documentElement.scrollWidth") <= 400  # nothing hangs over
        opened.size(1200, 1000)
        opened.media("print")
        assert opened.js("getComputedStyle(document.querySelector('.x-tools')).display") == "none"
        opened.media("")
        printed = opened.print(tmp_path / "page.pdf").read_bytes()
        pages = len(re.findall(rb"/Type /Page\b", printed))
        assert printed.startswith(b"%PDF") and 1 < pages < 6
    finally:
        opened.media()


def test_without_script_the_page_is_todays(browser: Browser, page: Path) -> None:
    browser.script(False)
    try:
        browser.open(page)
        root = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]

        def shown(selector: str) -> str | None:
            node = browser.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
            return browser.call("DOM.getOuterHTML", nodeId=node)["outerHTML"] if node else None

        assert shown(".explorer") is None and "Means over units" in (shown("caption") or "")
        assert "With script switched on" in (shown("noscript p") or "")
    finally:
        browser.script(True)


def test_what_another_analysis_found_joins_the_units(browser: Browser, tmp_path: Path) -> None:
    units = {"one": ["a", "b", "c"], "two": ["b"]}
    write_evaluation(tmp_path, units, bins=20, repeats=2)
    write_report(tmp_path)
    columns = [Column("osi", "OSI", [0.25, None, 0.75], shown=True), Column("bps", "not this", [9.0, 9.0, 9.0])]
    curve = Curves("By direction", "direction (°)", "response (Hz)", [0, 90, 180], np.array([[1.0, 5, 2]] * 3))
    field = Images("Field", [None, np.eye(5), None])
    groups, names = ["one", "one", "two"], ["c", "a", "b"]
    explore = Explorer(
        OF_UNITS, "x", "recording", "unit", groups, names, columns, ("osi", "osi"), "osi", [curve, field]
    )
    browser.console.clear()
    browser.open(publish(tmp_path, Section("tuning", "In-silico tuning", [], [], [], "x", explore=explore)))
    assert browser.texts(".explorer h3") == ["Units"] and browser.texts("nav[data-page] a")[0] == "Units"
    browser.click(f'{TABLE} button[title="osi"]')
    places = browser.texts(f"{TABLE} tbody td:nth-child(2)")
    assert list(zip(names_of(browser), places, strict=True))[:2] == [("b", "two"), ("c", "one")]
    browser.click(f"{TABLE} tbody tr:nth-child(2)")  # the one recording's c
    assert browser.text('.x-panel dd[data-key="osi"]') == "0.25"
    assert float(browser.text('.x-panel dd[data-key="bps"]')) != 9  # what was there first stays
    assert browser.texts(".x-curves circle title") == ["0: 1", "90: 5", "180: 2"]
    assert browser.js("document.querySelectorAll('.x-images img').length") == 0
    browser.click(".x-search input")
    browser.type("a")
    browser.click(f"{TABLE} tbody tr")
    assert browser.js("document.querySelector('.x-images img').naturalWidth") == 5
    assert browser.console == []


def test_a_sweep_is_lines_across_its_values(browser: Browser, tmp_path: Path) -> None:
    jobs = [
        {"job": i, "lr": lr, "size": size, "status": "finished", "reason": None, "val/bps_mean": score, "run": None}
        for i, (lr, size, score) in enumerate(
            [("1e-3", "[4,4]", 0.9), ("1e-3", "[8,8]", 0.8), ("1e-4", "[4,4]", 0.5), ("1e-4", "[8,8]", 0.2)]
        )
    ]
    jobs.append({**jobs[0], "job": 9, "lr": "1e-2", "status": "failed", "reason": "<b>lost", "val/bps_mean": None})
    section = sweep_section(["lr", "size"], ["val/bps_mean"], jobs, [], "python run.py -m lr=1e-3,1e-4")
    browser.console.clear()
    browser.open(publish(tmp_path, section))
    rows = "#explore-jobs-table"
    assert browser.texts(f"{rows} tbody th") == ["job 0", "job 1", "job 2", "job 3", "job 9"]
    assert browser.js("document.querySelectorAll('path.x-line:not(.x-over)').length") == 5
    assert [browser.texts(".x-parallel-axis")[i][:12] for i in (0, 1)] == ["lrlr0.00010.", "sizesize[4,4"]
    # The third axis is the score's: its upper half is kept.
    axis = browser.js("document.querySelectorAll('.x-parallel-axis line')[2].getAttribute('x1')")
    width, height, top, bottom = 4 * 150, 350, 62, 34
    share = float(axis) / width
    browser.drag(".x-picture svg", (share, (top - 5) / height), (share, (height - bottom - 140) / height))
    assert browser.texts(f"{rows} tbody th") == ["job 0", "job 1"] and browser.text(".x-status") == "2 of 5 jobs."
    browser.click(".x-picture .x-chip")
    assert browser.text(".x-status") == "5 of 5 jobs."
    browser.js("document.querySelector('.x-picture svg').focus()")
    browser.press("ArrowDown", "ArrowDown")
    assert browser.text(".x-panel .x-name") == "job 2"
    place = browser.js("""(() => { const p = document.querySelector('path.x-line[data-row="3"]'),
      at = p.getPointAtLength(0.97 * p.getTotalLength()); return [at.x, at.y]; })()""")
    browser.click(".x-picture svg", (place[0] / width, place[1] / height))
    assert browser.text(".x-panel .x-name") == "job 3" and browser.console == []


@pytest.mark.long
def test_a_thousand_units_fit_and_open_at_once(browser: Browser, tmp_path: Path) -> None:
    units = {f"animal{i}": [f"unit {j:03d}" for j in range(250)] for i in range(4)}
    write_evaluation(tmp_path, units, bins=600, repeats=40)
    path = write_report(tmp_path)
    size = path.stat().st_size
    seconds = min(browser.open(path) for _ in range(3))
    print(json.dumps({"megabytes": size / 1e6, "seconds": seconds}))
    assert size <= 15e6 and seconds <= 2
    assert browser.text(".x-status") == "1,000 of 1,000 units."
