"""The report: one page that stands alone, keeps what others wrote, and shows text as text."""

from __future__ import annotations

import dataclasses
import html.parser
import io
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, WITHOUT, Browser
from PIL import Image
from rich.console import Console

from vivit_core.cli import console as cli_console
from vivit_core.report import page as report_page
from vivit_core.report import section as report_section
from vivit_core.report.page import publish
from vivit_core.report.section import Section, Table


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def section(key: str = "evaluate", *, text: str = "plain", pictures: list[tuple[Path, str]] | None = None) -> Section:
    table = Table("numbers", ("name", "bits", "units", "unknown"), [("a", 0.123456, 1234, None), ("b", -2.0, 5, None)])
    return Section(key, f"the {key}", [text], [table], pictures or [], f"python run.py task={key}")


class Page(html.parser.HTMLParser):
    """What a browser would read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self.images, self.open = "", [], []
        self.sections: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(given["src"])
        if tag == "section":
            self.sections.append(given["id"])
        for name in ("src", "href"):
            assert given.get(name, "#").startswith(("#", "data:")), given

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_page_stands_alone_and_says_everything(tmp_path):
    shown = [(picture(tmp_path / "a.png"), "first"), (picture(tmp_path / "b.gif"), "second")]
    path = publish(tmp_path / "run", section(pictures=shown))
    assert path == tmp_path / "run" / "report.html"
    page = Page(path)
    assert "script" not in page.tags and len(page.images) == 2
    assert page.images[0].startswith("data:image/png;base64,") and page.images[1].startswith("data:image/gif;base64,")
    for words in ("the evaluate", "plain", "0.1235", "1,234", "-2", "–", "first", "python run.py task=evaluate"):
        assert words in page.text
    assert not re.search(r"https?:", path.read_text())


def test_all_text_is_escaped(tmp_path):
    evil = (
        '</p><script>alert("1")</script><!-- section x --> & <img src=http://x> -->\n<!-- end of section evaluate -->'
    )
    made = Section(
        "evaluate", evil, [evil], [Table(evil, (evil,), [(evil,)])], [(picture(tmp_path / "a.png"), evil)], evil
    )
    publish(tmp_path, made)
    page = Page(publish(tmp_path, section("compare")))
    assert "script" not in page.tags and len(page.images) == 1
    assert page.sections == ["evaluate", "compare"]
    assert page.text.count(evil) == 8  # link, title, paragraph, table's title, column, cell, caption, command
    assert "task=compare" in page.text


def test_a_newer_section_takes_the_place_of_the_older_and_leaves_the_others(tmp_path):
    for key in ("tuning", "zebra", "evaluate", "attention"):
        publish(tmp_path, section(key, text=f"old {key}"))
    page = Page(publish(tmp_path, section("evaluate", text="new \\1 \\g<0> words")))
    assert page.sections == ["evaluate", "attention", "tuning", "zebra"]
    assert "new \\1 \\g<0> words" in page.text and "old evaluate" not in page.text and "old attention" in page.text


@pytest.mark.slow
def test_tasks_that_publish_at_the_same_time_lose_nothing(tmp_path):
    code = """if True:
        import sys; from pathlib import Path; from vivit_core.report.page import Section, publish
        for i in range(20):
            publish(Path(sys.argv[1]), Section(sys.argv[2], sys.argv[2], [f"round {i}"], [], [], ""))
    """
    keys = [f"key{i}" for i in range(3)]
    others = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), key]) for key in keys]

    def here(key: str) -> None:
        for i in range(20):
            publish(tmp_path, Section(key, key, [f"round {i}"], [], [], ""))

    threads = [threading.Thread(target=here, args=(f"thread{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    pages = 0
    while any(process.poll() is None for process in others):
        if (tmp_path / "report.html").is_file():
            Page(tmp_path / "report.html")  # never half a page
            pages += 1
    for thread in threads:
        thread.join()
    assert all(process.wait() == 0 for process in others) and pages
    page = Page(tmp_path / "report.html")
    assert page.sections == sorted([*keys, "thread0", "thread1", "thread2"])
    assert page.text.count("round 19") == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == [".report.lock", "report.html"]


def test_a_failure_leaves_the_page_as_it_was(tmp_path, monkeypatch):
    before = publish(tmp_path, section()).read_text()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(report_page, "page_of", broken)
    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path, section("compare"))
    assert (tmp_path / "report.html").read_text() == before
    assert not list(tmp_path.glob(".report-*"))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda path: section("two words"), "two words"),
        (lambda path: section(pictures=[(path / "a.svg", "")]), "a.svg"),
        (lambda path: Table("t", ("a", "b"), [("x",)]), "a row of 1 cells for 2 columns"),
    ],
)
def test_what_cannot_be_shown_is_refused(make, named, tmp_path):
    with pytest.raises(ValueError, match=re.escape(named)):
        make(tmp_path)


@pytest.mark.parametrize(
    "config",
    ["model: [", "a: 1", "model: 3", "[1, 2]", "model: {_target_: x}\nreadout: 1", "\x00", "{" * 2000, "x: !!python/x"],
)
def test_what_stands_in_a_trainings_folder_does_not_cost_the_task_its_own_report(config, tmp_path, caplog):
    run = tmp_path / "training"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(config)
    (run / "environment.json").write_text("{}")
    (run / "report.html").write_bytes(b"\xff\xfe mine")
    torch.save({"twin": {}, "state_dict": {}}, run / "checkpoints" / "best.ckpt")
    page = Page(publish(tmp_path / "own", section(), run / "checkpoints" / "best.ckpt"))
    assert page.sections == ["evaluate"]
    assert len(caplog.records) == 1 and f"does not tell of the training in {run}" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()
    assert (run / "report.html").read_bytes() == b"\xff\xfe mine"


def test_a_folder_that_cannot_be_written_is_left_with_a_warning(tmp_path, monkeypatch, caplog):
    training = tmp_path / "training"
    monkeypatch.setattr(report_page, "training_of", lambda _: training)
    monkeypatch.setattr(report_page, "training_section", lambda _: section("train"))
    training.mkdir()
    write = report_page.write

    def refused(folder, blocks):
        if folder == training:
            raise PermissionError("read-only")
        return write(folder, blocks)

    monkeypatch.setattr(report_page, "write", refused)
    page = Page(publish(tmp_path / "own", section(), tmp_path / "x.ckpt"))
    assert page.sections == ["train", "evaluate"] and "read-only" in caplog.text


def test_a_section_on_several_checkpoints_goes_to_each_ones_training(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "training_of", lambda checkpoint: checkpoint.parent)
    monkeypatch.setattr(report_page, "training_section", lambda run: section("train", text=f"of {run.name}"))
    checkpoints = [tmp_path / name / "best.ckpt" for name in ("a", "b")]
    publish(tmp_path / "a", section())
    assert Page(publish(tmp_path / "own", section("compare"), checkpoints)).sections == ["compare"]
    pages = {name: Page(tmp_path / name / "report.html") for name in ("a", "b")}
    assert pages["a"].sections == ["train", "evaluate", "compare"] and pages["b"].sections == ["train", "compare"]
    assert "of a" in pages["a"].text and "of b" in pages["b"].text


def test_notes_stand_below_the_pictures(tmp_path):
    made = section(pictures=[(picture(tmp_path / "a.png"), "shown")])
    made = dataclasses.replace(made, notes=[Table("a note", ("x",), [("y",)])])
    text = Page(publish(tmp_path, made)).text
    assert text.index("numbers") < text.index("shown") < text.index("a note")


def test_a_narrow_terminal_cuts_no_number_off(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [123456.0, 3.426e-08, 765400000.0, 1.234, 0.5678]
    table = Table("numbers", ("a long name", *"bcdef"), [("sim0-01234567", *numbers)])
    printed = io.StringIO()
    monkeypatch.setattr(cli_console, "console", Console(file=printed, width=40, soft_wrap=True))
    cli_console.show(Section("k", "title", [], [table], [], "command"))
    assert "…" not in printed.getvalue()
    wanted = "".join(map(report_section.cell, numbers)) + "sim0-01234567"
    assert sorted(c for c in printed.getvalue() if c.isdigit()) == sorted(c for c in wanted if c.isdigit())


@pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
def test_a_browser_opens_it_without_complaint(tmp_path):
    """Shows every picture, and writes nothing to its console."""
    shown = [(picture(tmp_path / f"{i}.png", seed=i), f"picture {i}") for i in range(2)]
    shown.append((picture(tmp_path / "film.gif"), "film"))
    browser = Browser(tmp_path)
    try:
        browser.open(publish(tmp_path / "run", section(pictures=shown)))
        assert browser.js("[...document.images].map(i => i.naturalWidth)") == [30, 30, 30]
        assert browser.js("document.title") == "Digital twin run"
        assert Image.open(browser.screenshot(tmp_path / "screenshot.png")).size == (1200, 1000)
        assert browser.console == []
    finally:
        browser.close()
