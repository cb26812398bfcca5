"""The tutorials run as they are written, in a folder of the reader's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
# A block of code; before one of YAML stands the name of the file that the reader is to save.
BLOCK = re.compile(r"(?:`(?P<file>[\w./]+)`:\n\n)?^```(?P<kind>bash|python|yaml)\n(?P<text>.*?)^```", re.M | re.S)
LEFT = re.compile(r"[\w./-]+/[\w./-]+\.(csv|json|html|ckpt|h5|png)|[\w-]+\.png")  # what a run leaves, as pages name it


class Reader:
    """Somebody who types what a page says, in a folder of their own.

    Parameters
    ----------
    folder : theirs; each page begins there.
    environment : of their shell.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        program = folder / "bin" / "vivit-core"  # what an installation puts on the path
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vivit_core "$@"\n')
        program.chmod(0o755)
        path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
        self.folder, self.environment = folder, {**os.environ, **environment, "PATH": path, "OMP_NUM_THREADS": "1"}

    def follow(self, page: str) -> Path:
        """Do all that a page says, from its top to its end; returns the folder in which that ends."""
        text = (PAGES / page).read_text(encoding="utf-8")
        here, session = self.folder, dict[str, Any]()
        for block in BLOCK.finditer(text):
            if block["kind"] == "yaml":
                file = here / block["file"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block["text"], encoding="utf-8")
            elif block["kind"] == "bash":
                here = self.type(block["text"], here)
            else:
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(here)
                    patch.setenv("MPLBACKEND", "agg")
                    exec(compile(block["text"], page, "exec"), session)
        return here

    def type(self, commands: str, here: Path) -> Path:
        """Type commands into a shell; returns the folder that they end in."""
        where = self.folder / "where"
        script = f"set -euo pipefail\n{commands}\npwd > {where}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=here, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return Path(where.read_text().strip())


def named(page: str) -> list[str]:
    """The files that a page says its commands leave."""
    text = re.sub(r"^```.*?^```", "", (PAGES / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    return [span for span in re.findall(r"`([^`\n]+)`", text) if LEFT.fullmatch(span)]


def missing(page: str, folder: Path) -> list[str]:
    """Files that a page names and that are not there in the end."""
    return [name for name in named(page) if not (folder / name).exists()]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(tmp_path_factory.mktemp("reader"), {})


@pytest.mark.parametrize("page", [page.name for page in PAGES.glob("*.md")])
def test_every_page_has_its_test_and_names_its_files(page):
    tested = Path(__file__).read_text(encoding="utf-8")
    assert page == "index.md" or f'"{page}"' in tested
    assert page == "index.md" or len(set(named(page))) >= 3  # whose being there the long test looks at
    for block in BLOCK.finditer((PAGES / page).read_text(encoding="utf-8")):
        assert (block["kind"] == "yaml") == (block["file"] is not None), block["text"]
        assert block["kind"] != "yaml" or block["text"].startswith("# @package")


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", ["train_and_report.md", "in_silico.md", "own_data.md"])
def test_a_tutorial_runs(page, reader):
    assert missing(page, reader.follow(page)) == []


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_size_tuning_figure_takes_less_than_two_minutes(reader):
    """In processors' time, of which two cores have twice as much: other work may delay a test."""
    page = "size_tuning.md"
    before = os.times()
    assert missing(page, reader.follow(page)) == []
    after = os.times()
    assert sum(after[:4]) - sum(before[:4]) < 2 * 120


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_the_tutorial_on_slurm_runs(slurm, tmp_path):
    page = "slurm_sweep.md"
    folder = Reader(tmp_path, slurm).follow(page)
    assert missing(page, folder) == []
