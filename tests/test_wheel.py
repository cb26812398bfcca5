"""The installed wheel has the configuration inside it and does what the checkout does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_runs_in_a_fresh_environment(installed: Callable[..., Path], tmp_path: Path) -> None:
    programs = installed(ROOT)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    ours = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    conf = site / "vivit_core" / "conf"
    assert ours and {path.relative_to(conf) for path in conf.rglob("*.yaml")} == ours

    data = {
        path.relative_to(ROOT / "src")
        for path in (ROOT / "src" / "vivit_core").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert Path("vivit_core/report/templates/page.html") in data  # without which a report would fail elsewhere alone
    assert all((site / path).is_file() for path in data)

    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(program: str, *words: str) -> str:
        line = [str(programs / program), *words]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    printed = run("python", "-c", "import vivit_core.cli.schema as c; print(c.__file__, c.conf_dir(), sep='\\n')")
    assert all(Path(line).is_relative_to(site) for line in printed.splitlines()), printed
    loading = "import vivit_core; print(vivit_core.load_twin('simulated').specs['sim0'].n_units)"
    assert run("python", "-c", loading) == "64\n"
    assert "memory to expect" in run("vivit-core", "task=plan", "data.clip_length=32", "trainer=debug")
