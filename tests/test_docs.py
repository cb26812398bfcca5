"""The site builds, a broken link or reference stops it, and what its pages name is there."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from vivit_core.analysis.tuning.numbers import METHODS
from vivit_core.cli.evaluation import table_of
from vivit_core.parts.build import build_all

ROOT = Path(__file__).resolve().parents[1]


def built(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`make docs` in a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_site_builds_and_holds_every_key_and_module(tmp_path: Path) -> None:
    done = built(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    settings = (tmp_path / "site" / "reference" / "settings" / "index.html").read_text(encoding="utf-8")
    for key in ("embedding_dim", "geometry.frame_shape", "trial_s", "warmup_epochs"):
        assert f"<code>{key}</code>" in settings, key
    python = (tmp_path / "site" / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    for name in ("write_recording", "load_twin", "RecordingsDataModule"):
        assert name in python, name


def test_promises_name_tests_that_there_are() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"tests/[\w/]+\.py", page))
    assert len(named) > 20 and [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_a_broken_link_or_reference_is_an_error(tmp_path: Path) -> None:
    for name in ("docs", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / "mkdocs.yml", tmp_path / "mkdocs.yml")
    (tmp_path / "src" / "vivit_core").mkdir(parents=True)  # without its modules the references take no time
    with (tmp_path / "docs" / "glossary.md").open("a", encoding="utf-8") as page:
        page.write("\n[a](gone.md) [b](concepts.md#gone_anchor) ![c](gone.png)\n")
    done = built(tmp_path, tmp_path / "site")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    warnings = [line for line in said.splitlines() if "WARNING" in line]
    assert [sum(name in line for line in warnings) for name in ("gone.md", "gone_anchor", "gone.png")] == [1, 1, 1], (
        said
    )


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    page
    for page in (ROOT / "docs").rglob("*.md")
    if page.name != "log.md"  # its old entries name what there was
)
PACKAGE = ROOT / "src" / "vivit_core"
FOLDERS = ("src", "conf", "tests", "docs", "sweeps", "benchmarks", "tools")
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")] + [ROOT / "run.py"]
CODE = {path: path.read_text(encoding="utf-8") for path in SOURCES}
CONF = {path: path.read_text(encoding="utf-8") for path in (ROOT / "conf").rglob("*.yaml")}
KEYS = {key for text in CONF.values() for key in re.findall(r"^ *\"?([\w/@]+)\"?:", text, flags=re.MULTILINE)}
ROOTS = {path.stem for path in (ROOT / "conf").iterdir()} | set(
    re.findall(r"^(?: +- [\w/]+@)?(\w+):", "\n".join(CONF.values()), flags=re.MULTILINE)
)  # of settings: groups, also under another name, and the keys of tasks
OBJECTS = {
    "twin": ("models/twin.py", "models/predictor.py"),
    "stream": ("models/streaming.py",),
    "spec": ("specs.py",),
    "recording": ("data/resample.py",),
}  # what the pages' code calls by such a name


# Of a run or of a user.
FILE = re.compile(r"\d.*|.*\.(csv|json|npz|npy|html|ckpt|mat|h5|png|md|safetensors|onnx|pt2|journal)")


def wrong(word: str) -> bool:
    """Whether a word in backticks is written as a path, a module, a test or a setting of ours, and there is none."""
    word = word.rstrip(".,;:").split("(")[0].split("=")[0]
    first = re.split(r"[./]", word)[0]
    if "/" in word and not (first and (first in FOLDERS or (PACKAGE / first).is_dir())):
        return False  # a path of somebody else's
    if re.fullmatch(r"[\w./*{},-]*\.(py|yaml|toml)(::\w+…?)?", word):
        path, _, test = word.partition("::")
        found = [text for own, text in {**CODE, **CONF}.items() if str(own).endswith(f"/{path}")]
        there = found or (ROOT / path).is_file() or path == "overrides.yaml"
        return not there or bool(test and not is_test(test, found))
    if re.fullmatch(r"test_\w+…?", word):
        return not is_test(word, CODE.values())
    if "/" in word:
        return not word.endswith((".json", "…")) and not is_place(word.rstrip("/")) and not is_number(word)
    if not re.fullmatch(r"(\w+\.)+\w+", word) or FILE.fullmatch(word):
        return False
    if first in ROOTS and (word.split(".")[-1] in KEYS or (ROOT / "conf" / word.replace(".", "/")).is_dir()):
        return False
    if first in OBJECTS:
        return not any(word.split(".")[1] in CODE[PACKAGE / file] for file in OBJECTS[first])
    known = {path.stem for path in PACKAGE.rglob("*")} | {"vivit_core", *ROOTS}
    return first in known and not is_module_or_name(word.removeprefix("vivit_core."))


def is_test(name: str, texts: Iterable[str]) -> bool:
    return any(f"def {name.rstrip('…')}" in text for text in texts)


def is_place(path: str) -> bool:
    places = (ROOT, PACKAGE, ROOT / "conf")
    return any(list(place.glob(path + end)) for place in places for end in ("", ".yaml"))


def is_number(name: str) -> bool:
    """Whether the package logs a number of this name."""
    return any(f'"{name}"' in text for path, text in CODE.items() if PACKAGE in path.parents)


def is_module_or_name(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or a name that stands in one."""
    words = dotted.split(".")
    for cut in range(len(words), 0, -1):
        path = PACKAGE.joinpath(*words[:cut])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                rest = words[cut:]
                return not rest or re.search(rf"\b{rest[0]}\b", CODE[file]) is not None
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_modules_and_settings_that_pages_name_are_there(page: Path) -> None:
    blocks = re.compile(r"(^`[^`\n]+`:\n\n)?```.*?```", flags=re.DOTALL | re.MULTILINE)  # with the reader's own files
    spans = re.findall(r"`([^`\n]+)`", blocks.sub("", page.read_text(encoding="utf-8")))
    assert [word for span in spans for word in span.split() if wrong(word)] == []


def test_a_wrong_name_is_seen() -> None:
    gone = "training/start.py src/vivit_core/tasks.py conf/model/vit.yaml data.geometri models/head/ "
    gone += "test_of_no_such_name… training.machine.no_such_name vivit_core.tasks "
    gone += "tests/test_docs.py::test_gone twin.rate_of"
    assert [word for word in gone.split() if not wrong(word)] == []
    there = "training/machine.py data.cache models/readouts/ val/bps_mean system/gpu_memory twin.rates test_a_wrong…"
    assert [word for word in there.split() if wrong(word)] == []


def test_make_targets_that_pages_name_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= targets, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_pages_imports_what_there_is(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vivit_core"):
                module = (node.module or "").removeprefix("vivit_core").lstrip(".")
                for alias in node.names:
                    assert is_module_or_name(f"{module}.{alias.name}".lstrip(".")) or (
                        not module and alias.name in CODE[PACKAGE / "__init__.py"]
                    ), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_pages_asks_objects_for_what_they_have(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OBJECTS:
                files = OBJECTS[node.value.id]
                assert any(re.search(rf"\b{node.attr}\b", CODE[PACKAGE / file]) for file in files), ast.unparse(node)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_pages_outside_the_site(name: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_badges_say_what_is_so() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    badges = re.findall(r"!\[([^\]]*)\]\(https://img.shields.io/badge/([^)]*)\)", readme)
    least = project["requires-python"].removeprefix(">=")
    assert badges == [
        (f"Python {least} or newer", f"python-{least}%2B-blue"),
        (f"License: {project['license']}", f"license-{project['license']}-green"),
    ]


def test_the_design_names_every_folder() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)/` \|", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_pages_show_the_table_that_a_training_prints() -> None:
    numbers = ("bps_mean", "bps_median", "corr_mean", "corr_median")
    scores = dict.fromkeys((*numbers, *(f"ln_{name}" for name in numbers), "knowable_fraction"), 0.5) | {"units": 1}
    said = {
        "burn_in": 1,
        "trials": 1,
        "trials_left_out": 0,
        "units_silent": 0,
        "recordings": {},
        "subjects": {},
        "event": "spike",
    }

    def printed(contextual_fraction: float | None) -> list[str]:
        own = scores | said | {"contextual_fraction": contextual_fraction}
        return [str(column.header) for column in table_of(own, "test", 160).columns]

    heads = {
        page.name: re.split(r"\s*\|\s*|\s{2,}", line.strip(" |"))
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r"[| ]*recording[| ]+units[| ]+bits/spike", line)
    }
    local = dict.fromkeys(("own_data.md", "train_and_report.md"), printed(None))
    assert heads == local | {"get_started.md": printed(0.5)}


def test_the_page_of_settings_names_every_group() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    groups = {str(path.parent.relative_to(ROOT / "conf")) for path in CONF if path.parent != ROOT / "conf"}
    # The sweeper is chosen by config.yaml, and not on the command line.
    assert [group for group in sorted(groups - {"hydra/sweeper"}) if f"`{group}`" not in page] == []


def test_pages_define_the_numbers_of_tuning() -> None:
    """In the words of ``tuning.json``, those of gratings."""
    page = (ROOT / "docs" / "analyses.md").read_text(encoding="utf-8")
    assert [name for name, method in METHODS.items() if f"| `{name}` | {method} |\n" not in page] == []
    page = (ROOT / "docs" / "laboratory.md").read_text(encoding="utf-8")
    lab = build_all("lab", yaml.safe_load((ROOT / "conf" / "task" / "tuning.yaml").read_text())["lab"])
    for name, protocol in lab.items():
        assert protocol.methods.keys() == protocol.titles.keys(), name
        assert [number for number in protocol.titles if f"`{number}`" not in page] == [], name


def test_the_gallery_has_what_its_script_would_put_there() -> None:
    """Every picture that ``docs/gallery.py`` names stands in the page, under its caption, and no other one does."""
    made = runpy.run_path(str(ROOT / "docs" / "gallery.py"))
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^!\[.*\]\(gallery/(.*)\)\n\n(.*)$", page, re.MULTILINE))
    assert sorted(shown) == sorted(path.name for path in (ROOT / "docs" / "gallery").iterdir())
    captions = [caption for _, _, pictures in made["TASKS"].values() for _, caption in pictures]
    assert list(shown.values()) == [*captions, *(caption for *_, caption in made["OTHERS"])]
