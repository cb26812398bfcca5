"""Two thousand mutations of all the files that a user may be given: each is refused in a line, or read as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import breaking
import pytest
from attacking import TIMEOUT, Attack
from forks import Forks

pytestmark = [pytest.mark.long, TIMEOUT]
MANY = {
    "recording": 350, "recording without a checksum": 250, "resealed recording": 300, "recording's fields": 300,
    "checkpoint": 200, "checkpoint's nodes": 300, "npz": 150, "NWB": 150,
}  # fmt: skip
SHARE = 0.055  # of the attack's time, for each


class Mutation(int):
    """By its seed."""

    def __str__(self) -> str:
        return f"mutation {int(self)}"


@pytest.fixture(scope="module")
def ready(attack: Attack, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """``ready("npz")``: a good file, and the digest of what is read of it."""
    folder = tmp_path_factory.mktemp("good")

    def warm(forks: Forks) -> None:
        answer = forks.ask("breaking:preload", folder=folder, warm=True)
        assert answer["code"] == 0, answer["said"]

    attack.each(warm)

    def get(kind: str) -> tuple[Path, str]:
        good = folder / f"good {kind.replace(' ', '-')}{breaking.SUFFIX[kind]}"
        with attack.fork() as forks:
            made = forks.ask("breaking:make", kind, good, folder=folder)
            assert made["code"] == 0, made["said"]
            again = good.with_stem(good.stem.replace("good", "again"))  # where no other kind's recording stands
            answer = forks.ask("breaking:attempt", kind, None, good, again, folder=folder, warm=True)
        assert answer["code"] == 0 and "digest" in answer["value"], answer
        return good, answer["value"]["digest"]

    return get


def wrong_with(answer: dict[str, Any], path: Path, expected: str | None) -> list[str]:
    value = answer["value"]
    if value is None:
        how = "hangs" if answer["code"] is None else f"ends with {answer['code']}"
        return [f"reading {how}: {answer['said'][-700:]}"]
    if "ran" in value:
        return [f"{value['what']}: runs {value['ran']}"]
    if "digest" in value:
        return [] if expected in (None, value["digest"]) else [f"{value['what']}: is read as something else"]
    message = value["message"]
    if "\n" in message or str(path) not in message or not len(str(path)) + 30 <= len(message) < 1500:
        return [f"{value['what']}: is refused without help: {message!r:.700}"]
    return []


@pytest.mark.parametrize("kind", breaking.KINDS)
def test_mutated_files_are_refused_in_a_line_or_read(
    kind: str, attack: Attack, ready: Callable[[str], tuple[Path, str]], tmp_path: Path
) -> None:
    good, digest = ready(kind)

    def attempt(forks: Forks, number: int, seed: Mutation) -> list[str]:
        path = tmp_path / f"m{number}" / f"mutated{good.suffix}"
        limits = {"seconds": breaking.SECONDS, "memory": breaking.MEMORY}
        answer = forks.ask("breaking:attempt", kind, seed, good, path, folder=path.parent, **limits)
        for made in path.parent.iterdir():
            made.unlink()
        path.parent.rmdir()
        path.parent.with_name(path.parent.name + ".out").unlink()
        attack.counted["read" if "digest" in (answer["value"] or {}) else "refused"] += 1
        return wrong_with(answer, path, digest if kind in breaking.VOUCHED else None)

    attack(f"{kind}, mutated", SHARE, [Mutation(i) for i in range(MANY[kind])], attempt)
