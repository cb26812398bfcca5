"""What several tests need: tiny simulated recordings, composing a configuration, the command line in this process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import settings

from vivit_core.cli import schema, validate
from vivit_core.parts.build import build

# A busy machine is no failure of what is tested.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# The default data set in small: made in about a second.
TINY_RECORDINGS = [
    "data/simulator/context=none",
    "data.simulator.recordings=2",
    "data.simulator.units=6",
    "data.simulator.train_trials=4",
    "data.simulator.val_trials=2",
    "data.simulator.test_trials=1",
    "data.simulator.repeated_stimuli=1",
    "data.simulator.repeats=2",
    "data.simulator.trial_s=1.0",
    "data.simulator.height=18",
    "data.simulator.width=26",
    "data.clip_length=60",
    "data.burn_in=20",
    "data.num_workers=0",
]


@pytest.fixture(scope="session", autouse=True)
def own_signals() -> None:
    """Tests stop trainings by signals: what protects all tests, a nohup or a shell's ``&``, is not to protect those."""
    for number, handler in {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def own_notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Notes of files read whole go into a folder of the tests, also in the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("notes")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that put tiny recordings in the place of the default ones, simulated once for all tests."""
    return [*TINY_RECORDINGS, f"data.cache={tmp_path_factory.mktemp('cache')}"]


Compose = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def compose() -> Compose:
    """``compose("group=name", "key=value", …)``: the validated, plain configuration."""

    def composed(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
            return validate.validate(hydra_compose("config", overrides=["run_dir=/run/folder", *overrides]))

    return composed


@pytest.fixture(scope="session")
def tiny_files(tiny: list[str], compose: Compose) -> list[Path]:
    """The tiny recordings' files."""
    data = compose(*tiny)["data"]
    files: list[Path] = build("data.simulator", data["simulator"]).make(Path(data["cache"]))
    return files


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Any]:
    """``command("key=value", …)``: what ``python run.py key=value …`` does, in this process and in an empty folder.

    Returns the exit code and all that was printed.
    """
    from vivit_core.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *words])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of a user of a cluster, which this machine becomes; skips, saying why, where it cannot."""
    from slurm_node import NoSlurm, SlurmNode

    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    try:
        with SlurmNode(folder) as node:
            yield {**os.environ, **node.environment, "OMP_NUM_THREADS": "1"}
    except NoSlurm as error:
        pytest.skip(f"SLURM cannot be installed here: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def drafts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test does not look at pictures, they are drawn small, without ticks and not laid out."""
    if "drawn" in request.fixturenames or request.node.get_closest_marker("pictures"):
        return
    from vivit_core.plotting import style

    written = style.written

    def draft(figure: Any, path: Path) -> Path:
        figure.set_layout_engine("none")
        figure.set_dpi(25)
        for axes in figure.axes:
            axes.xaxis.set_visible(False)
            axes.yaxis.set_visible(False)
        return written(figure, path)

    monkeypatch.setattr(style, "written", draft)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures in the order in which they were saved."""
    from vivit_core.plotting import style

    figures: list[Any] = []
    canvas = style.FigureCanvasAgg

    def keep(figure: Any) -> Any:
        figures.append(figure)
        return canvas(figure)

    monkeypatch.setattr(style, "FigureCanvasAgg", keep)
    return figures


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., Path]:
    """Installs projects from their wheels into a new environment; gives the folder of its programs.

    The environment has nothing of this checkout, and no package but the projects'. No index is asked: a .pth file lends
    it the libraries that the tests themselves run with. A folder that a .pth file names is searched for modules, but
    its own .pth files, one of which leads to this checkout, are not read.
    """

    def install(*projects: Path) -> Path:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        for project in projects:
            wheel = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
            subprocess.run([*pip, *wheel, str(project)], check=True)
        wheels = [str(path) for path in tmp_path.glob("*.whl")]
        assert len(wheels) == len(projects)
        venv.create(tmp_path / "venv", symlinks=True)
        (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
        libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site / "libraries.pth").write_text("\n".join(libraries))
        programs = tmp_path / "venv" / "bin"
        line = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", *wheels]
        subprocess.run([*pip, "--python", str(programs / "python"), *line], check=True)
        return programs

    return install
