"""What goes on is said often enough, with a faked clock; and nothing is said that nobody asked for."""

from __future__ import annotations

import io
import sys
import time

import pytest

from vivit_core.system import activity
from vivit_core.system.activity import EVERY_S, doing, duration, followed, stage, voice
from vivit_core.system.terminal import track


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread looks by itself; the tests do."""
    monkeypatch.setattr(activity, "LOOK_S", 1e9)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0:00 min"),
        (59.6, "1:00 min"),
        (870, "14:30 min"),
        (3599, "59:59 min"),
        (7703, "2:08 h"),
        (360000, "100:00 h"),
    ],
)
def test_a_duration_is_said_in_minutes_or_hours(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.usefixtures("still")
def test_a_log_hears_what_goes_on_twice_a_minute() -> None:
    said: list[str] = []
    clock = Clock()
    with voice(said.append, False, "task=train", clock) as heard:
        clock.now += EVERY_S - 1
        heard.tick()
        assert said == []
        clock.now += 1
        heard.tick()
        assert said == ["task=train: 0:20 min so far"]
        with stage("LN", 150.0):
            assert said[1:] == ["LN begins, and takes about 2:30 min"]
            for i in followed(range(4), "LN a"):
                clock.now += 30
                heard.tick()
                if i == 1:
                    assert said[-1] == "LN a: 1 of 4, 1:00 min so far, ends in 3:00 min"
            assert said[-1] == "LN a: 4 in 2:00 min"
        assert said[-1] == "LN took 2:00 min"
        with doing("training", lambda: "step 3/10"):
            clock.now += 75
            heard.tick()
        assert said[-1] == "training: step 3/10, 1:15 min so far"
        count = len(said)
        activity.said()  # an epoch's line, say
        heard.tick()
        with stage("what is soon done"):
            clock.now += 1
    assert said[count:] == ["what is soon done begins"]


@pytest.mark.usefixtures("still")
def test_a_live_terminal_has_bars_between() -> None:
    said: list[str] = []
    clock = Clock()
    with voice(said.append, True, "task=train", clock) as heard, stage("LN"):
        with doing("training", lambda: "step 3", bar=True):
            clock.now += 1000
            heard.tick()
        for _ in followed([1], "units", bar=True):
            clock.now += 1000
            heard.tick()
        clock.now += 1000
        heard.tick()  # what has no bar is not silent there either
    assert said == ["LN begins", "LN: 50:00 min so far", "LN took 50:00 min"]


def test_a_library_says_nothing_that_was_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with stage("LN"), doing("training", lambda: "x"):
        assert list(track([1, 2], "a")) == [1, 2] and list(track(iter("ab"), "b", 2)) == ["a", "b"]
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_a_mistake_leaves_nothing_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with pytest.raises(LookupError), voice(said.append, False, "a"), stage("b"):
        for _ in followed([1], "c"):
            raise LookupError
    assert activity._activities == [] and activity._voice is None and said == ["b begins"]


def test_the_thread_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "LOOK_S", 0.01)
    monkeypatch.setattr(activity, "EVERY_S", 0.05)
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    with voice(print, False, "task=train"):
        time.sleep(0.3)
    assert stream.getvalue().count("task=train: 0:00 min so far\n") >= 2
    after = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == after
