"""The installed wheel has the configuration inside it and does what the checkout does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_runs_from_elsewhere(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
    )
    (wheel,) = tmp_path.glob("vivit_core-*.whl")
    installed = tmp_path / "installed"
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed), str(wheel)], check=True
    )
    ours = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    theirs = {
        path.relative_to(installed / "vivit_core" / "conf")
        for path in (installed / "vivit_core" / "conf").rglob("*.yaml")
    }
    assert ours and theirs == ours

    data = {
        path.relative_to(ROOT / "src")
        for path in (ROOT / "src" / "vivit_core").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert Path("vivit_core/report/templates/page.html") in data  # without which a report would fail elsewhere alone
    assert all((installed / path).is_file() for path in data)

    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "import vivit_core.cli.schema as c; print(c.__file__, c.conf_dir(), sep='\\n')"]
    printed = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert all(Path(line).is_relative_to(installed) for line in printed.splitlines())

    command = [
        sys.executable,
        str(installed / "bin" / "vivit-core"),
        "task=plan",
        "data.clip_length=32",
        "trainer=debug",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory to expect" in done.stdout
