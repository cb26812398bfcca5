"""The site builds, and a broken link or reference stops it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def built(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`make docs` in a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_site_builds_and_holds_every_key_and_module(tmp_path: Path) -> None:
    done = built(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    settings = (tmp_path / "site" / "reference" / "settings" / "index.html").read_text(encoding="utf-8")
    for key in ("embedding_dim", "simulator.trial_s", "warmup_epochs"):
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
