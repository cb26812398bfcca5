"""The processes that fork, and the table of the attack at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attacking import MINUTES, SEED, Attack, Row, running, table

ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture(scope="session")
def attack(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    with running(pytestconfig.stash[ROWS], tmp_path_factory.mktemp("attack_notes")) as made:
        yield made


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if rows := config.stash.get(ROWS, []):
        terminalreporter.section(f"attack of {MINUTES:g} min, seed {SEED}")
        for line in table(rows):
            terminalreporter.write_line(line)
