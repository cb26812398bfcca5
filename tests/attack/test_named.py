"""Names that act where they are not taken as text, through everything that is written: all of it is parsed back."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from attacking import TIMEOUT, Attack
from forks import Forks
from hostile_names import NAMES

from vivit_core.names import hydra_value, key_name, text_of_csv

pytestmark = [pytest.mark.long, TIMEOUT]
TINY = [
    *("trainer=debug", "data.num_workers=0", "model/tokenizer=tubelet", "model.tokenizer.patch_size=[2,4,4]"),
    *("model.embedding_dim=8", "model.attention.heads=2", "model.spatial_depth=1", "model.temporal_depth=1"),
    *("data.clip_length=16", "data.burn_in=4", "data.evaluation_length=16", "data.evaluation_burn_in=4"),
]


class Names:
    """The names of one try. Each of :data:`NAMES` is once a recording's and a unit's, and where it can be a behavior's
    and a folder's."""

    def __init__(self, number: int) -> None:
        def after(many: int) -> str:
            return NAMES[(2 * number + many) % len(NAMES)]

        self.ids, self.units = [after(0), after(1)], [after(2), after(3)]
        self.models = ["the truth" if name == "truth" else name for name in self.units]  # which names another column
        plain = [name for name in NAMES if "/" not in name and name not in (".", "..")]
        folders = [name for name in plain if len(name.encode()) < 200]
        self.behavior, self.folder = plain[(2 * number) % len(plain)], folders[number % len(folders)]

    def __str__(self) -> str:
        return f"recordings {self.ids}, units {self.units}, behavior {self.behavior!r:.50}, folder {self.folder!r:.50}"


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.comments: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def words_of(names: Names, lab: Path) -> list[str]:
    return [*TINY, f"data.root={hydra_value(str(lab))}", f"data.behavior={hydra_value([names.behavior])}"]


def steps(names: Names, inside: Path) -> dict[str, list[str]]:
    """What is done, one after the other, each in a folder of its own."""
    words, run = words_of(names, inside / "lab"), inside / "run"
    best, last = (str(run / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    of_best = f"checkpoint={hydra_value(best)}"

    def into(name: str) -> str:
        return f"hydra.run.dir={hydra_value(str(inside / name))}"

    return {
        "training": [*words, into("run")],
        "evaluation": ["task=evaluate", of_best, "split=val", "trainer=debug", into("evaluation")],
        "attention": ["task=attention", of_best, f"recording={hydra_value(names.ids[1])}", into("attention")],
        "compare": [
            *("task=compare", f"checkpoints={hydra_value([best, last])}", f"names={hydra_value(names.models)}"),
            *("resamples=50", into("compare")),
        ],
        "sweep": [
            *("-m", *words, "trainer.epochs=1", "baseline=null", "seed=0,1"),
            f"hydra.sweep.dir={hydra_value(str(inside / 'sweep'))}",
        ],
    }  # fmt: skip


def units_of(path: Path) -> set[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {(text_of_csv(row["recording"]), text_of_csv(row["unit"])) for row in csv.DictReader(file)}


def wrong_outputs(names: Names, inside: Path) -> list[str]:
    """What does not come back as it went in."""
    wrong = []
    every = {(recording, unit) for recording in names.ids for unit in names.units}
    for folder in ("run", "evaluation"):
        summary = json.loads((inside / folder / "summary.json").read_text(encoding="utf-8"))
        if set(summary["recordings"]) != set(names.ids):
            wrong.append(f"{folder}/summary.json tells of {[*summary['recordings']]}")
        if units_of(inside / folder / "units.csv") != every:
            wrong.append(f"{folder}/units.csv tells of {units_of(inside / folder / 'units.csv')}")
    if units_of(inside / "compare" / "compare.csv") != every:
        wrong.append("compare/compare.csv tells of others")
    with (inside / "run" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    if not {"val/bps_mean", *(f"val/bps_{key_name(name)}" for name in names.ids)} <= set(header):
        wrong.append(f"metrics.csv has the columns {header}")
    with (inside / "sweep" / "sweep_summary.csv").open(newline="", encoding="utf-8") as file:
        if [row["status"] for row in csv.DictReader(file)] != ["finished"] * 2:
            wrong.append("sweep_summary.csv does not tell of two finished jobs")
    for path in sorted(inside.rglob("report.html")):
        page = Page(path)
        shown = " ".join(page.texts)
        missing = [
            name for name in names.ids if path.parent.name in ("run", "evaluation") and name.strip() not in shown
        ]
        data = re.findall(r'class="explore">([^<]*)</script>', path.read_text(encoding="utf-8"))
        ours = len(data) + bool(data)  # what can be explored, and the page's one script
        if missing or page.tags.count("script") != ours or "onload" in page.attributes:
            wrong.append(f"{path.relative_to(inside)} lacks {missing}, or acts")
    return wrong


def test_names_through_every_output(attack: Attack, tmp_path: Path) -> None:
    def attempt(forks: Forks, number: int, names: Names) -> list[str]:
        here = tmp_path / str(number)
        inside = here / "work" / names.folder
        made = forks.ask(
            "looking:make_recordings", inside / "lab", names.ids, names.units, names.behavior, folder=here / "cwd"
        )
        try:
            assert made["code"] == 0, made["said"]
            for name, words in steps(names, inside).items():
                done = forks.ask("forks:command", words, folder=here / "cwd", blank=name == "sweep")
                if done["code"] != 0 or "Traceback" in done["said"]:
                    return [f"the {name} ends with {done['code']}: {done['said'][-900:]}"]
            outside = [p for p in here.rglob("*") if p.is_file() and inside not in p.parents and p.name != "cwd.out"]
            wrong = [f"{path} is outside" for path in outside]
            return wrong + looking_at(forks, here, inside) + wrong_outputs(names, inside)
        finally:
            shutil.rmtree(here, ignore_errors=True)

    attack("names, through every output", 0.08, [Names(i) for i in range((len(NAMES) + 1) // 2)], attempt)


def looking_at(forks: Forks, here: Path, inside: Path) -> list[str]:
    answer = forks.ask("looking:halves", inside, True, folder=here / "cwd")
    return answer["value"] if answer["code"] == 0 else [answer["said"][-600:]]
