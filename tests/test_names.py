"""Names from outside are data: through every output with names that are made to act there."""

from __future__ import annotations

import csv
import io
import json
import logging
import logging.config
import re
import shlex
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hostile_names import ACTING, BROKEN, NAMES
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import TextColumn
from tiny_models import POISSON

from hydra_plugins.vivit_core_sweeps import LocalLauncher
from vivit_core.analysis.attention import plots as attention_plots
from vivit_core.analysis.compare import plots as compare_plots
from vivit_core.analysis.evaluate import plots as evaluate_plots
from vivit_core.analysis.inspect import plots as inspect_plots
from vivit_core.analysis.receptive_fields import plots as receptive_fields_plots
from vivit_core.analysis.receptive_fields.fields import Fields
from vivit_core.analysis.scaling import plots as scaling_plots
from vivit_core.analysis.scaling.numbers import Curve, numbers_of, with_law
from vivit_core.analysis.truth import known_fractions
from vivit_core.analysis.tuning import plots as tuning_plots
from vivit_core.cli import console as cli_console
from vivit_core.cli import sweeps
from vivit_core.cli.evaluation import table_of
from vivit_core.cli.schema import conf_dir
from vivit_core.cli.sweeps import Job
from vivit_core.data.recording.checksum import write_checksum
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.validate import validate_recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.metrics.streamed_scores import StreamedScores
from vivit_core.names import (
    LONGEST,
    NAME_BYTES,
    command,
    csv_text,
    few,
    file_name,
    hydra_value,
    key_name,
    printable,
    problem_of,
    setting,
    short,
    text_of_csv,
)
from vivit_core.plotting import rates as plotting_rates
from vivit_core.plotting import sweep as plotting_sweep
from vivit_core.report.page import publish
from vivit_core.report.section import Section, Table
from vivit_core.specs import RecordingError
from vivit_core.system import terminal
from vivit_core.system.stops import TrainingStopped
from vivit_core.system.tables import read_table, write_table
from vivit_core.training.callbacks.stop_signals import StopSignals
from vivit_core.training.module import validation_numbers

EVERY = [*NAMES, *ACTING, *BROKEN]
ODD = "../_$x$ \\ [/] <b> {0} %s 🧠 \x1b[31m" + "long " * 40  # all in one, for what shows a single name


# Files and keys -----------------------------------------------------------------------------------------------------


def test_a_file_name_is_portable_short_and_its_own() -> None:
    made = [file_name(name) for name in EVERY]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in made}) == len(EVERY)
    for name in made:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*[A-Za-z0-9_-]", name) and len(name.encode()) <= NAME_BYTES, (
            name
        )
        assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name)
    assert [file_name(name) for name in ("sim0", "a.b.c", "_hidden", "mean")] == ["sim0", "a.b.c", "_hidden", "mean"]
    assert file_name("Sim0") == "Sim0-fe5d4f4d25"  # on any machine, in any version: pictures are found by it
    assert file_name(file_name("Sim0")) != file_name("Sim0")


def test_a_key_name_is_one_word_and_never_the_mean() -> None:
    made = [key_name(name) for name in EVERY]
    assert len(set(made)) == len(EVERY) and "mean" not in made
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) and len(name) <= NAME_BYTES for name in made)
    assert [key_name(name) for name in ("sim0", "Sim0", "a.b.c")] == ["sim0", "Sim0", "a.b.c"]


def test_no_recording_takes_another_number_s_name() -> None:
    metrics = {name: StreamedScores(1, POISSON) for name in NAMES}
    counts = torch.tensor([[1.0], [2.0], [1.0], [0.0]])
    for i, metric in enumerate(metrics.values()):
        metric.update(torch.full_like(counts, 1.0 + i), counts, torch.ones_like(counts, dtype=torch.bool))
    numbers = validation_numbers(metrics)
    assert len([name for name in numbers if name.startswith("bps_")]) == len(NAMES) + 1
    assert numbers[f"bps_{key_name('mean')}"] != numbers["bps_mean"] != numbers["bps_sim0"]


# What a name may be -------------------------------------------------------------------------------------------------


def test_which_names_may_be_used() -> None:
    assert [name for name in NAMES if problem_of(name) is not None] == []
    assert problem_of("") and problem_of("x" * (LONGEST + 1)) and not problem_of("x" * LONGEST)
    assert all(problem_of(name) for name in [*ACTING[:-2], *ACTING[-1:], *BROKEN])
    assert problem_of(ACTING[-2]) is None  # turns text around where it is shown: every output takes that out


def written(path: Path, name: str = "a", **changed: Any) -> Path:
    rng, starts = np.random.default_rng(0), np.arange(3) * 40
    given: dict[str, Any] = {
        "frames": rng.integers(0, 256, (120, 16, 24)).astype(np.uint8),
        "counts": rng.poisson(0.5, (120, 2)),
        "trials": Trials(starts, starts + 40, np.array(["a", "b", "c"]), np.array(["train", "val", "test"])),
        "behavior": {"pupil": np.zeros((120, 1), np.float32)},
    }
    return write_recording(path, recording_id=name, frame_rate_hz=30.0, **{**given, **changed})


@pytest.mark.parametrize("name", ["", "x" * (LONGEST + 1), *ACTING[:2], "\0", *BROKEN], ids=ascii)
def test_a_writer_refuses_what_no_name_may_be(tmp_path: Path, name: str) -> None:
    column = np.zeros((120, 1), np.float32)
    starts = np.arange(3) * 40
    splits = np.array(["train", "val", "test"])
    for field, given in {
        "attribute recording_id": {"name": name},
        "units/id": {"units": {"id": ["a", name]}},
        "behavior": {"behavior": {name: column}},
        "trials/stimulus_id": {"trials": Trials(starts, starts + 40, np.array(["a", name, "b"], object), splits)},
    }.items():
        if field == "trials/stimulus_id" and (not name or len(name) > LONGEST):
            continue  # text of any length; what an empty one means is not a matter of names
        if field in ("units/id", "trials/stimulus_id") and name == "\0":
            continue  # NumPy drops it at a text's end
        with pytest.raises(RecordingError) as refused:
            written(tmp_path / "a.h5", **given)
        assert refused.value.field == field and str(tmp_path / "a.h5") in str(refused.value)
        assert "control characters" in refused.value.remedy and printable(str(refused.value)) == str(refused.value)
        assert list(tmp_path.iterdir()) == []


def test_a_writer_refuses_a_behavior_that_is_a_path(tmp_path: Path) -> None:
    for name in ("a/b", "..", "."):
        with pytest.raises(RecordingError, match="without a slash"):
            written(tmp_path / "a.h5", behavior={name: np.zeros((120, 1), np.float32)})


LATIN = "café".encode("latin-1")


def attribute(file: h5py.File) -> None:
    file.attrs["recording_id"] = np.bytes_(LATIN)


def unit(file: h5py.File) -> None:
    file["units/id"][1] = LATIN


def stimulus(file: h5py.File) -> None:
    file["trials/stimulus_id"][1] = LATIN


def behavior(file: h5py.File) -> None:
    file["behavior"].id.move(b"pupil", LATIN)


def line_break(file: h5py.File) -> None:
    file.attrs["recording_id"] = "a\nb"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (attribute, "attribute recording_id"),
        (line_break, "attribute recording_id"),
        (unit, "units/id"),
        (stimulus, "trials/stimulus_id"),
        (behavior, "behavior"),
    ],
)
def test_a_reader_refuses_them_too(tmp_path: Path, change: Callable[[h5py.File], None], field: str) -> None:
    path = written(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    write_checksum(path)
    with pytest.raises(RecordingError) as refused:
        validate_recording(path)
    assert refused.value.field == field and printable(str(refused.value)) == str(refused.value)


def test_free_text_in_another_encoding_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["source"] = np.bytes_(LATIN)
    write_checksum(path)
    assert validate_recording(path).recording_id == "a"
    with pytest.raises(RecordingError, match="attribute area"):
        written(tmp_path / "b.h5", area="V\0")


# Terminal -----------------------------------------------------------------------------------------------------------


def test_printed_text_does_nothing() -> None:
    assert [printable(name) for name in NAMES] == NAMES
    for name in [*ACTING, *BROKEN]:
        assert printable(name).encode() and not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u202e]", printable(name))
    assert printable("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b" and printable("a\nb") == r"a\nb"
    assert short("x" * 300) == "x" * 26 + "…" + "x" * 13 and len(short("é" * 300, 9)) == 9


def test_long_lists_are_cut() -> None:
    assert few([]) == "" and few(list("abcdefgh")) == "a, b, c, d, e, f, g, h"
    assert few(list("abcdefghi")) == "a, b, c, d, e, f, g, h … (9 in all)"


@pytest.mark.parametrize("console", [Console, terminal.PlainConsole])
def test_a_table_shows_every_name(console: Callable[..., Console]) -> None:
    to = console(width=400)
    to.file = io.StringIO()
    section = Section("k", "t", [], [Table(f"of {name}", (name, "n"), [(name, 1)]) for name in EVERY], [], "c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_console, "console", to)
        cli_console.show(section)
    said = to.file.getvalue()
    assert "\x1b" not in said
    for name in EVERY:
        assert said.count(printable(name).strip()) >= 3, name


def test_a_plain_console_shows_every_name() -> None:
    console = terminal.PlainConsole(width=40)
    console.file = io.StringIO()
    for name in EVERY:
        console.print(f"report: {name}")
    assert console.file.getvalue() == "".join(f"report: {printable(name, lines=True)}\n" for name in EVERY).expandtabs()


def test_a_log_line_is_one_line() -> None:
    formatter = terminal.PlainFormatter("%(levelname)s %(message)s")
    for name in EVERY:
        record = logging.LogRecord("n", logging.INFO, "f", 1, "%s has\n%d of %r", (Path(name), 2, "x"), None)
        assert formatter.format(record) == f"INFO {printable(str(Path(name)))} has\n2 of 'x'"


@pytest.mark.parametrize("which", ["job_logging", "hydra_logging"])
def test_hydras_loggers_write_such_lines(which: str) -> None:
    """The second one's say what a sweep's jobs set."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = compose("config", return_hydra_config=True).hydra[which].formatters.simple
    form = logging.config.DictConfigurator({}).configure_formatter(OmegaConf.to_container(node))
    made = form.format(logging.makeLogRecord({"msg": "\t#0 : data.root=\x1b[31m\u202e"}))
    assert "\x1b" not in made and r"data.root=\x1b[31m\u202e" in made


def test_a_launcher_names_jobs_in_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    launcher = object.__new__(LocalLauncher)
    paths = SimpleNamespace(stdout="log")
    job = SimpleNamespace(job_id=7, task=lambda number: SimpleNamespace(paths=paths))
    words = ["data.root='a\n\x1b[31mjob 1: failed'"]
    with caplog.at_level(logging.INFO):
        launcher.submit(SimpleNamespace(map_array=lambda *_: [job]), [(words, "", 0, "", None)])
    assert caplog.records[0].getMessage() == r"job 0: data.root='a\n\x1b[31mjob 1: failed'  (local 7, log log)"


def test_a_progress_bar_shows_every_name() -> None:
    column = TextColumn("[progress.description]{task.description}")
    for name in EVERY:
        if name == ":warning:":
            continue  # rich draws it, in a line that goes away
        shown = column.render(SimpleNamespace(description=terminal.bar_text(name)))  # type: ignore[arg-type]
        assert shown.plain == short(name, terminal.BAR)
    assert list(terminal.track([1, 2], "[/]", disable=True)) == [1, 2]


def test_the_table_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = ("bps_mean", "bps_median", "corr_mean", "corr_median")
    shares = ("knowable_fraction", "contextual_fraction")
    own = dict.fromkeys((*numbers, *(f"ln_{name}" for name in numbers), *shares), 0.5) | {"units": 1, "units_silent": 0}
    summary = {"recordings": dict.fromkeys(NAMES, own), "burn_in": 3, "trials": 2, "trials_left_out": 0, **own}
    summary["event"] = "spike"
    summary["subjects"] = {name: own | {"recordings": ["a", "b"]} for name in NAMES}
    to = Console(file=io.StringIO(), width=400)
    to.print(table_of(summary, "test", 160))
    said = to.file.getvalue()  # type: ignore[attr-defined]
    assert all(name.strip() in said and f"{name}: 2 recordings".strip() in said for name in NAMES)
    assert re.findall(r"(?m)^ *all +1 ", said) and "silent" not in said


@pytest.mark.parametrize("value", [0.5, -0.123, -1.234])
def test_no_column_of_the_table_is_lost_in_a_terminal_of_80(value: float) -> None:
    """Of a share that stands in the last column, .500 was printed as .5, and that of context not at all."""
    numbers = ("bps_mean", "bps_median", "corr_mean", "corr_median")
    shares = {"knowable_fraction": 0.777, "contextual_fraction": -0.888}
    own = dict.fromkeys((*numbers, *(f"ln_{name}" for name in numbers)), value) | shares | {"units": 1000}
    names = ["sim0", "a longer recording 2026"]
    summary = {"recordings": dict.fromkeys(names, own), "burn_in": 3, "trials": 2, "trials_left_out": 0, **own}
    summary |= {"subjects": {}, "units_silent": 12, "event": "spike"}
    to = Console(file=io.StringIO(), width=80)
    to.print(table_of(summary, "test", 80))
    said = to.file.getvalue()  # type: ignore[attr-defined]
    assert all(said.count(word) >= 1 for word in ("bits/spike", "correlation", "oracle", "context", "sim0"))
    assert said.count(".777") == said.count("-.888") == 3
    assert "12 of the units silent there, and left out of bits per spike" in said
    assert said.count(f"{value:.3f}".replace("0.", ".", 1)) == 3 * 8


# CSV ----------------------------------------------------------------------------------------------------------------


def test_a_cell_of_a_csv_file_is_no_formula_and_reads_back(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [{"name": name, "rate_hz": -1.5, "bps": None} for name in EVERY])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "rate_hz", "bps"]
    assert len(rows) == len(EVERY) and {tuple(row[1:]) for row in rows} == {("-1.5", "")}
    for name, (cell, *_) in zip(EVERY, rows, strict=True):
        assert cell[0] not in "=+-@\t\r" or cell in ("+1", "-1")
        if name in NAMES:
            assert text_of_csv(cell) == name
    assert [csv_text(x) for x in ("-0.5", "1e-3", "-inf", "=1", "-a", "+1 ", "'")] == [
        "-0.5", "1e-3", "-inf", "'=1", "'-a", "'+1 ", "''",
    ]  # fmt: skip


def test_units_are_found_again_in_units_csv(tmp_path: Path) -> None:
    write_table(tmp_path / "units.csv", [{"recording": n, "unit": n, "knowable_fraction": 0.5} for n in NAMES])
    assert known_fractions(tmp_path) == {(name, name): 0.5 for name in NAMES}


def test_a_table_reads_back(tmp_path: Path) -> None:
    """Text of any kind, numbers to the last digit, integers beside gaps, headings that look like a formula."""
    rows = [
        {"id": name, "=bits": 0.1 + i / 3, "n": i if i % 2 else None, "x": (float("inf"), float("nan"))[i % 2]}
        for i, name in enumerate([*NAMES, "007", "NA", "nan", "1e5", "None", "a,b", 'a"b'])
    ]
    write_table(tmp_path / "a.csv", rows)
    table = read_table(tmp_path / "a.csv", text=("id",))
    assert table.columns.tolist() == ["id", "=bits", "n", "x"]
    assert table["id"].tolist() == [row["id"] for row in rows]
    assert table["=bits"].tolist() == [row["=bits"] for row in rows]
    assert table["n"].isna().tolist() == [row["n"] is None for row in rows]
    assert table["x"].isna().tolist() == [i % 2 == 1 for i in range(len(rows))]
    assert ",1," in (tmp_path / "a.csv").read_text().splitlines()[2]  # not 1.0
    for damaged in (
        b"", b"\xff\xfe\x00", b"id\r\n\xff\r\n", b"unit,bps\na,1\n", b'id,unit\r\n"a,1\r\n', b"id,unit\r\na,b,c\r\n",
        b"a,b\n1,2,3\n4,5,6,7\n", b"id,unit\r\na,b,c,d\r\na,b\r\n1,2,3,4,5\r\n",
    ):  # fmt: skip
        (tmp_path / "a.csv").write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "a.csv"))):
            read_table(tmp_path / "a.csv", text=("id",))


# Commands -----------------------------------------------------------------------------------------------------------


def composed(word: str) -> Any:
    """What the program gets of a word of the command line."""
    override = OverridesParser.create().parse_override(word)
    return OmegaConf.to_container(OmegaConf.create({"got": override.value()}), resolve=True)["got"]  # type: ignore[index, call-overload]


def test_a_printed_setting_can_be_typed() -> None:
    for name in [*NAMES, *ACTING]:
        (word,) = shlex.split(setting("data.recording", name))
        assert word.startswith("data.recording=") and composed(word) == name
    (word,) = shlex.split(setting("data.recordings", [*NAMES, None, True, 1, -0.5]))
    assert composed(word) == [*NAMES, None, True, 1, -0.5]
    path = "outputs/train/2026-11-26_03-20-57_a1b2c3/checkpoints/epoch000-bps0.1234.ckpt"
    assert setting("checkpoint", path) == f"checkpoint={path}"  # and stays readable where it may


def test_a_printed_command_can_be_typed() -> None:
    words = ["task=evaluate", f"checkpoint={hydra_value(Path('/a [lab]/ü/$x.ckpt'))}", "+a='b c'", "~d"]
    assert shlex.split(command(words)) == ["python", "run.py", *words]


def test_a_stopped_training_says_what_can_be_typed() -> None:
    trainer: Any = SimpleNamespace(
        estimated_stepping_batches=9.0, global_step=3, current_epoch=0, max_epochs=2, checkpoint_callback=None
    )
    path = Path("/a [lab]/ü=1/$x/last.ckpt")
    with pytest.raises(TrainingStopped) as stopped:
        StopSignals()._stop(trainer, path, frozenset())
    said = re.search(r"continue with the same words and (.*) \(resume=auto finds it\)", str(stopped.value))
    (word,) = shlex.split(said[1] if said else "")
    assert word.startswith("resume=") and composed(word) == str(path)


# Pages --------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.texts += [value or "" for name, value in attrs if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(folder: Path, name: str) -> Page:
    folder.mkdir(exist_ok=True)
    picture = folder / "a.png"
    Figure().savefig(picture)
    tables = [Table(name, (name, "n"), [(name, 1)])]
    return Page(publish(folder, Section("k", name, [name], tables, [(picture, name)], name, tables)))


def test_a_report_shows_every_name_as_text(tmp_path: Path) -> None:
    plain = page_of(tmp_path / "plain", "sim0")
    for i, name in enumerate(EVERY):
        page = page_of(tmp_path / "one" if i else tmp_path / "other", name)  # one is written again and again
        assert page.tags == plain.tags and page.attributes == plain.attributes, name
        if name in NAMES:
            assert sum(name in text for text in page.texts) >= 12, name
        raw = (tmp_path / "one" / "report.html").read_text() if i else ""
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", raw)


# Pictures -----------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
TITLES = [name for name in EVERY if len(name) < 100]
FRAME = RNG.uniform(size=(12, 16))
U = 4
UNITS = ["$x$", "_hidden", "\\", ODD]
BY_UNIT = RNG.uniform(0.1, 0.9, U)
PLACES = RNG.uniform(2, 10, (U, 2))
GAUSSIANS = {"mean_px": PLACES, "std_px": np.ones((U, 2)), "angle_deg": np.zeros(U)}
RATES = RNG.uniform(0, 9, (30, U))


def fields_of(folder: Path) -> list[Path]:
    maps = RNG.normal(size=(U, 5, 12, 16))
    found = Fields(maps, BY_UNIT, PLACES, BY_UNIT, BY_UNIT, BY_UNIT, BY_UNIT, np.ones(U))
    return receptive_fields_plots.plot_receptive_fields(
        folder, receptive_fields_plots.FieldsOfRecording(ODD, FRAME, 0.01, UNITS, GAUSSIANS, {"gradient": found}, {})
    )


def tuning_of(folder: Path) -> list[Path]:
    gratings = SimpleNamespace(
        directions_deg=np.arange(0, 360, 90), temporal_frequencies_hz=[1.0, 2.0], spatial_frequencies=[0.1, 0.2],
        contrasts=[0.1, 1.0], sizes_px=[2.0],
    )  # fmt: skip
    response = RNG.uniform(size=(4, 2, 2, U))
    tuning = SimpleNamespace(
        gratings=gratings, simple_U=np.array([True, False, True, False]), curve=lambda axis: response[:, 0, 0],
        response_DSFU=response, best_U3=np.zeros((U, 3), int), course_TU=RATES, blank_U=BY_UNIT, rate_hz=60.0,
        contrast_KU=response[:2, 0, 0], size_AU=response[:2, 0, 0],
    )  # fmt: skip
    names = ("best_hz", "circular_variance", "driven", "truth_orientation_deg", "modulation_ratio", "truth_complex",
             "contrast_exponent", "contrast_c50", "contrast_rmax_hz")  # fmt: skip
    found = dict.fromkeys(names, BY_UNIT)
    made = [tuning_plots.plot_tuning(folder / "tuning.png", ODD, UNITS, tuning, found)]  # type: ignore[arg-type]
    shown = {kind: RNG.uniform(-1, 1, (2, 3, 12, 16)) for kind in ("mei_clip", "natural_clip")}
    shown |= {kind: RNG.uniform(-1, 1, (2, 1, 12, 16)) for kind in ("mei_image", "natural_image")}
    arrays = {f"{key_name(ODD)}/{kind}": array for kind, array in shown.items()}
    excited = [
        {"unit": name, "kind": kind, "mei_hz": 1.0, "natural_hz": 1.0, "truth_mei_hz": 1.0, "truth_natural_hz": np.nan}
        for kind in ("image", "clip")
        for name in UNITS[:2]
    ]
    return made + tuning_plots.plot_exciting(folder, ODD, arrays, excited, 0.01)


def attention_of(folder: Path) -> list[Path]:
    made = attention_plots.heads(
        folder / "heads.png", frame_HW=FRAME, weights_LhHW=RNG.uniform(size=(1, 2, 12, 16)),
        to_registers_Lh=np.zeros((1, 2)), box=(1, 1, 4, 4), title=ODD,
    )  # fmt: skip
    relevance = RNG.uniform(size=(6, 12, 16))
    rolled = attention_plots.rolled(
        folder / "rolled.png", frames_FHW=relevance, relevance_FHW=relevance, step_edges=np.array([0, 3, 6]), step=1,
        frame_ms=10.0, box=(1, 1, 4, 4), title=ODD,
    )  # fmt: skip
    readouts = attention_plots.readouts(
        folder / "readouts.png", frame_HW=FRAME, relevance_UHW=RNG.uniform(size=(U, 12, 16)),
        in_time_UF=RNG.uniform(size=(U, 6)), frame_ms=10.0, windows=GAUSSIANS,
        names=[f"unit {short(name, 20)}" for name in UNITS], title=ODD,
    )  # fmt: skip
    return [made, rolled, readouts]


def inspected(folder: Path) -> list[Path]:
    look = SimpleNamespace(
        summary={"recording": ODD}, rate_NU=RNG.uniform(size=(3, U)), split_N=np.array(["train", "val", "test"]),
        mean_rate_hz_U=BY_UNIT, snr_U=BY_UNIT, map_UHW=RNG.normal(size=(2, 12, 16)), mapped_units=[0, 1],
        mapped_ids=UNITS[:2], center_U2=PLACES, lag_s_L=np.arange(3.0), link_L=np.arange(3.0),
        frames_KHW=RNG.uniform(size=(4, 12, 16)),
    )  # fmt: skip
    return [inspect_plots.page(folder / "inspect.png", look)]  # type: ignore[arg-type]


def swept(folder: Path) -> list[Path]:
    given: dict[str, Any] = {"others": [()] * len(TITLES), "scores": [0.1] * len(TITLES), "score_name": "val/bps_mean"}
    x = np.array([1.0, 2.0, 4.0])
    curves = {name: with_law(Curve([], x, np.tile(np.log(x)[:, None], (1, U))), 10, 0) for name in UNITS}
    found = {name: numbers_of(curve, BY_UNIT, 10, 0) for name, curve in curves.items()}
    return [
        plotting_sweep.sweep_axis(folder / f"{file_name(ODD)}.png", key=ODD, values=TITLES, **given),
        scaling_plots.growth(folder / "scaling.png", curves=curves, found=found, oracle=1.0, label="minutes"),
    ]


def of_models(folder: Path) -> list[Path]:
    others = dict.fromkeys(UNITS[1:], BY_UNIT)
    sure = {name: np.array([0, 1, -1, 0]) for name in others}
    costs = {"bps_mean": 0.1, "bps_interval": [0.0, 0.2], "parameters": 9, "flops_per_bin": 9, "bins_per_s": 9}
    return [
        compare_plots.against_first(folder / "first.png", first=("$x$", BY_UNIT), others=others, sure=sure),
        compare_plots.scores_and_costs(folder / "costs.png", models=dict.fromkeys(UNITS, costs)),
        evaluate_plots.twin_against_ln(folder / "ln.png", twin_bps=BY_UNIT, ln_bps=BY_UNIT, recording=UNITS),
    ]


def of_recording(folder: Path) -> list[Path]:
    trials = RNG.poisson(0.2, (3, 30, U)).astype(float)
    given: dict[str, Any] = {"titles": UNITS, "title": ODD}
    return [
        plotting_rates.rates(folder / "rates.png", times_s=np.arange(30) / 100, measured_hz=RATES, predicted_hz=RATES,
                       ln_hz=None, **given),
        evaluate_plots.rasters(folder / "rasters.png", kind="spikes", bin_s=0.01, trials_hz=trials, predicted_hz=RATES,
                       ln_hz=None, **given),
        evaluate_plots.averages(folder / "averages.png", bin_s=0.01, trials_hz={ODD: trials, "$": trials},
                          predicted_hz={ODD: RATES, "$": RATES}, ln_hz={}, **given),
        evaluate_plots.receptive_fields(folder / "fields.png", frame=FRAME, title=ODD, **GAUSSIANS),
        evaluate_plots.calibration(folder / "calibration.png", share=np.full(10, 0.1), title=ODD),
        evaluate_plots.behavior_share(folder / "share.png", bps=BY_UNIT, controls={"none": BY_UNIT}),
    ]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "draw", [of_recording, of_models, swept, fields_of, tuning_of, attention_of, inspected], ids=lambda f: f.__name__
)
def test_pictures_are_drawn_with_any_name(
    tmp_path: Path, drawn: list[Figure], draw: Callable[[Path], list[Path]]
) -> None:
    folder = tmp_path / "run" / "pictures"
    made = draw(folder)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(made)
    assert all(path.parent == folder and path.stat().st_size > 0 for path in made)
    for path in made:
        if path.suffix == ".png":
            assert min(imread(path).shape[:2]) > 150
    for figure in drawn:
        for text in figure.findobj(Text):
            if "mathdefault" not in text.get_text():  # a logarithmic axis's own
                assert not is_math_text(text.get_text()), text.get_text()
            assert not re.search(r"[\x00-\x09\x0b-\x1f]", text.get_text())
            assert len(text.get_text()) < 150


# Sweeps -------------------------------------------------------------------------------------------------------------


def test_a_sweep_over_any_values_is_summed_up(tmp_path: Path) -> None:
    values = [*NAMES, *ACTING]
    for number, name in enumerate(values):
        Job(tmp_path, number).note(status="finished", score=0.1, reason=f"{name} [/]")
    console = Console(file=io.StringIO(), width=600)
    rows = sweeps.summarize(tmp_path, [[f"data/x@[y]={name}"] for name in values], console, "again")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert len(rows) == len(values) and "\x1b" not in said
    assert all(said.count(printable(name).strip()) >= 2 for name in NAMES)
    with (tmp_path / "sweep_summary.csv").open(newline="", encoding="utf-8") as file:
        assert [text_of_csv(row[1]) for row in csv.reader(file)][1:][: len(NAMES)] == NAMES
    assert [path.parent for path in tmp_path.rglob("*.png")] == [tmp_path / "pictures"]


# All of it ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_on_recordings_of_any_name(
    tmp_path: Path, command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two recordings whose ids would leave the folder, take a metric's name and be markup, in a folder to be quoted."""
    ids = {"a": "../../$x$ [/]<b>=1", "b": "mean"}
    units = ["[pupil]", "=1+1"]
    lab = tmp_path / "a [lab], ü=1"
    lab.mkdir()
    monkeypatch.setattr("vivit_core.cli.console.console.width", 140)  # in 80 a name folds beside wide, negative scores
    for stem, name in ids.items():
        written(lab / f"{stem}.h5", name, units={"id": units}, behavior={})
    files = [str(lab / f"{stem}.h5") for stem in ids]
    before = set(tmp_path.rglob("*"))
    code, said = command(
        f"data.recordings={hydra_value(files)}", f"hydra.run.dir={hydra_value(str(lab / 'run'))}",
        "trainer=debug", "model.embedding_dim=24", "model.spatial_depth=1", "model.temporal_depth=1",
        "model.attention.heads=2", "data.behavior=[]", "data.clip_length=16", "data.burn_in=4",
        "data.evaluation_length=16", "data.evaluation_burn_in=4", "data.num_workers=0",
    )  # fmt: skip
    assert code == 0, said
    run = lab / "run"
    assert all(path.is_relative_to(run) for path in set(tmp_path.rglob("*")) - before)
    assert f"run folder: {run}\n" in said and ids["a"] in said
    assert any(isinstance(handler.formatter, terminal.PlainFormatter) for handler in logging.getLogger().handlers)
    assert {path.name for path in (run / "pictures").glob("validation_*")} == {
        f"validation_{file_name(name)}.png" for name in ids.values()
    }
    assert set(json.loads((run / "summary.json").read_text(encoding="utf-8"))["recordings"]) == set(ids.values())
    with (run / "metrics.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert {f"val/bps_{key_name(name)}" for name in ids.values()} | {"val/bps_mean"} <= set(header)
    with (run / "units.csv").open(newline="", encoding="utf-8") as file:
        assert [row["unit"] for row in csv.DictReader(file)] == ["[pupil]", "'=1+1"] * 2
    page = Page(run / "report.html")
    assert "b" not in page.tags and sum(ids["a"] in text for text in page.texts) >= 2

    kept = [path.name for path in (run / "checkpoints").glob("epoch*")]
    assert kept and all(re.fullmatch(r"epoch00\d-bps(-?\d+\.\d{4}|nan)\.ckpt", name) for name in kept)
    assert all(composed(f"checkpoint={name}") == name for name in kept)  # can be typed without any quotes
    printed = next(text for text in page.texts if text.startswith("python run.py task=evaluate"))
    words = [composed(word) for word in shlex.split(printed)[2:]]
    assert words == ["evaluate", str(run / "checkpoints" / "best.ckpt")]
