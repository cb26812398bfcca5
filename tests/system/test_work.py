"""What is remembered of how long work took, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivit_core.system import activity
from vivit_core.system.activity import spared, stage, voice
from vivit_core.system.work import MOST, Work


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(activity, "LOOK_S", 1e9)
    return tmp_path


def test_the_last_rate_is_scaled_by_the_work() -> None:
    assert Work("LN", 10).expected_s is None
    Work("LN", 10).took(5.0)
    assert Work("LN", 30).expected_s == 15.0 and Work("simulating", 30).expected_s is None
    Work("LN", 10).took(20.0)
    assert Work("LN", 5).expected_s == 10.0
    Work("LN", 100).took(7.0, share=0.5)
    assert Work("LN", 100).expected_s == pytest.approx(14.0)


def test_far_less_work_tells_nothing_of_more() -> None:
    Work("LN", 10).took(50.0)  # as a run to see that everything runs does first
    assert Work("LN", 100).expected_s == 500.0 and Work("LN", 101).expected_s is None
    Work("LN", 1000).took(60.0)
    assert Work("LN", 10).expected_s == pytest.approx(0.6)
    Work("LN", 99).took(50.0)
    assert Work("LN", 1000).expected_s == pytest.approx(60.0)
    Work("LN", 100).took(50.0)
    assert Work("LN", 1000).expected_s == pytest.approx(500.0)


def test_the_oldest_kinds_are_forgotten() -> None:
    for number in range(MOST + 3):
        Work(f"training {number}", 1.0).took(2.0)
    assert Work("training 2", 1.0).expected_s is None and Work("training 3", 1.0).expected_s == 2.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"LN": "x"}',
        '{"LN": NaN}',
        '{"LN": [-1.0, 1]}',
        '{"LN": [true, 1]}',
        '{"LN": 1.0}',
        '{"LN": [1.0]}',
        "\x00",
    ],
)
def test_a_damaged_file_says_nothing_and_is_made_anew(own_cache: Path, text: str) -> None:
    Work("LN", 1.0).took(1.0)
    (file,) = own_cache.rglob("*.json")
    file.write_text(text)
    assert Work("LN", 1.0).expected_s is None
    Work("LN", 1.0).took(3.0)
    assert Work("LN", 1.0).expected_s == 3.0


def test_nothing_is_kept_where_nothing_can_be(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIT_CORE_CACHE", "off")
    Work("LN", 1.0).took(1.0)
    assert Work("LN", 1.0).expected_s is None and not list(own_cache.rglob("*.json"))
    monkeypatch.delenv("VIVIT_CORE_CACHE")
    (own_cache / "vivit-core").write_text("a file in the folder's place")
    Work("LN", 1.0).took(1.0)
    Work("LN", 0.0).took(1.0)
    assert Work("LN", 1.0).expected_s is None


def test_a_stage_knows_from_the_last_time() -> None:
    """A first time says that it is unknown; work that was there already tells nothing of how long it takes."""
    said: list[str] = []
    now = [0.0]
    with voice(said.append, False, "task=train", lambda: now[0]):
        for amount, seconds in ((10, 60.0), (20, 0.5), (20, 100.0)):
            with stage("LN", work=Work("LN", amount), unless="it was fitted before"):
                now[0] += seconds
        with stage("the training", most_s=870.0):
            pass
        with stage("the training", 30.0, most_s=870.0):
            pass
        with pytest.raises(LookupError), stage("LN", work=Work("LN", 20)):
            now[0] += 1000
            raise LookupError
    assert said == [
        "LN begins; how long it takes is unknown, but no time where it was fitted before",
        "LN took 1:00 min",
        "LN begins, and takes about 2:00 min, but no time where it was fitted before",
        "LN begins, and takes about 2:00 min, but no time where it was fitted before",
        "LN took 1:40 min",
        "the training begins, and takes at most 14:30 min",
        "the training begins, and takes about 0:30 min",
        "LN begins, and takes about 1:40 min",
    ]
    assert Work("LN", 20).expected_s == 100.0
    with voice(said.append, False, "task=train", lambda: now[0]), stage("LN", work=Work("LN", 20)):
        now[0] += 9.0
        spared()  # half of it was kept
    assert said[-1] == "LN took 0:09 min" and Work("LN", 20).expected_s == 100.0
