"""A task is one file and one YAML: its signature is its schema, and nothing else has to know of it."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from vivit_core.cli import schema, tasks
from vivit_core.cli.schema import SHARED, ConfigError, EveryRun
from vivit_core.cli.task import TASKS, arguments_in, names_in, score_of, task_named
from vivit_core.parts.groups import consent

CONF = schema.conf_dir()
NAMES = names_in(TASKS)

HELLO = '''
"""task=hello: a task that somebody adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from vivit_core.cli.context import RunContext
from vivit_core.parts.schema import Count, Positive
from vivit_core.stimuli.gratings import Gratings

SCORE = "{word}/times"


def hello(
    context: RunContext,
    *,
    out: Path,
    word: Literal["hello", "goodbye"],
    times: Count,
    pause_s: Positive,
    place: tuple[int, int] | None,
    gratings: Gratings,
) -> float:
    """Say it."""
    found = [type(value).__name__ for value in (out, word, times, pause_s, place, gratings)]
    about = [context.seed, context.command_line, sorted(context.overridden), str(context.run.path)]
    out.write_text(json.dumps({"types": found, "about": about, "directions": gratings.directions}))
    return float(times)
'''


@pytest.fixture
def hello(tmp_path: Path) -> Iterator[list[str]]:
    """The words that choose the task; its module and its file of settings are there, and nothing else is told of it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "hello.py").write_text(HELLO)
    (tmp_path / "conf" / "task").mkdir(parents=True)
    tuning = (CONF / "task" / "tuning.yaml").read_text()
    gratings = yaml.safe_load(tuning)["gratings"]
    settings = {"task": "hello", "out": "???", "word": "hello", "times": 2, "pause_s": 0.5, "place": [1, 2]}
    text = "# @package _global_\n" + yaml.safe_dump({**settings, "gratings": gratings})
    (tmp_path / "conf" / "task" / "hello.yaml").write_text(text)
    tasks.__path__.append(str(tmp_path / "code"))
    yield ["--config-dir", str(tmp_path / "conf"), "task=hello"]
    tasks.__path__.remove(str(tmp_path / "code"))
    sys.modules.pop(f"{TASKS}.hello", None)


Command = Callable[..., tuple[int, str]]


@pytest.mark.slow
def test_a_new_task_runs(hello: list[str], command: Command, tmp_path: Path) -> None:
    code, printed = command(*hello, "out=said.json", "gratings.directions=8", "seed=3")
    assert code == 0, printed
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["types"] == ["PosixPath", "str", "int", "float", "tuple", "Gratings"] and said["directions"] == 8
    seed, line, keys, folder = said["about"]
    assert seed == 3 and keys == ["gratings.directions", "out", "seed", "task"]
    assert line.endswith("task=hello out=said.json gratings.directions=8 seed=3") and "/outputs/hello/" in folder
    code, printed = command("-m", *hello, "out=said.json", "times=1,2")
    assert code == 0 and "hello/times" in printed and "2.0000" in printed, printed


def test_all_that_is_wrong_with_a_new_tasks_settings_is_told_at_once(
    hello: list[str], command: Command, tmp_path: Path
) -> None:
    wrong = ["times=0", "pause_s=soon", "word=hallo", "+tims=3", "place=[1]", "gratings.directions=half", "~gratings"]
    code, printed = command(*hello, *wrong[:-1])
    assert code == 1 and "7 problems" in printed, printed
    for said in (
        "out has no value; say out=", "times=0 should be greater than 0", 'pause_s="soon" should be a valid number',
        'word="hallo" should be', "tims does not exist; did you mean times?", "place=[1]",
        'gratings.directions="half" should be a valid integer',
    ):  # fmt: skip
        assert said in printed, (said, printed)
    code, printed = command(*hello, "out=said.json", wrong[-1])
    assert code == 1 and "gratings is missing: task=hello needs it" in printed
    assert not (tmp_path / "said.json").exists() and not list(tmp_path.glob("outputs/hello/*"))


def test_a_task_of_another_package_is_taken_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hello", "plan"):
        (tmp_path / "mylab" / "tasks").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mylab" / "tasks" / f"{name}.py").write_text(HELLO.replace("def hello", f"def {name}"))
    for folder in ("mylab", "mylab/tasks"):
        (tmp_path / folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with consent(["mylab"]):
        assert task_named("hello").__module__ == "mylab.tasks.hello"
        assert task_named("plan").__module__ == "vivit_core.cli.tasks.plan"  # ours stays ours
    for packages in ([], ["nolab"]):
        with consent(packages), pytest.raises(ConfigError, match="task=hello does not exist; there are attention"):
            task_named("hello")
    (tmp_path / "mylab" / "tasks" / "empty.py").touch()
    with consent(["mylab"]), pytest.raises(ConfigError, match=r"mylab\.tasks\.empty has no function empty"):
        task_named("empty")


@pytest.mark.parametrize("words", [["task=trian"], ["task=trai"], ["task=train_"]])
def test_a_task_spelt_wrong_is_named(words: list[str], command: Command) -> None:
    code, printed = command(*words)
    assert code == 1 and "did you mean task=train?" in printed and "Traceback" not in printed, printed


def test_a_file_of_settings_for_no_task_names_the_nearest(hello: list[str], command: Command, tmp_path: Path) -> None:
    file = tmp_path / "conf" / "task" / "hello.yaml"
    file.write_text(file.read_text().replace("task: hello", "task: hallo"))
    code, printed = command(*hello, "out=said.json")
    assert code == 1 and "task=hallo does not exist; did you mean task=hello?" in printed, printed


# The shipped ones ---------------------------------------------------------------------------------------------------


def test_each_has_its_settings() -> None:
    assert sorted(path.stem for path in (CONF / "task").glob("*.yaml")) == NAMES and len(NAMES) == 15


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_is_the_files_keys(name: str) -> None:
    """Of each key the signature says the type, the docstring what it means, and ``conf`` alone the value."""
    task = task_named(name)
    values = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text())
    assert set(arguments_in(task)) - SHARED == set(values) - {"task"} and values["task"] == name
    parameters = inspect.signature(task).parameters
    assert next(iter(parameters)) == "context"
    assert all(p.default is p.empty and p.kind is p.KEYWORD_ONLY for n, p in parameters.items() if n != "context")
    told = re.findall(r"^    ((?:\w+, )*\w+) : ", inspect.getdoc(task) and str(task.__doc__), flags=re.MULTILINE)
    assert {word for words in told for word in words.split(", ")} == set(parameters)


def test_the_roots_keys_are_every_runs_or_may_be_a_tasks() -> None:
    root = yaml.safe_load((CONF / "config.yaml").read_text())
    groups = [next(iter(entry)).split("@")[-1] for entry in root.pop("defaults") if isinstance(entry, dict)]
    groups = [n for n in groups if not n.startswith("override") and n not in ("experiment", "hparams_search")]
    assert {*groups, *root} - {"hydra"} == {*SHARED, *EveryRun.__dataclass_fields__}
    assert SHARED.isdisjoint(EveryRun.__dataclass_fields__)


def test_no_task_asks_hydra() -> None:
    for path in Path(inspect.getfile(tasks)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("hydra", "omegaconf")], path.name


def test_scores_are_named_by_the_tasks_themselves() -> None:
    assert score_of(task_named("compare"), {"split": "val"}) == "val/bps_gain_mean"
    assert score_of(task_named("plan"), {}) is None
