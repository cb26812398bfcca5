"""Files of rates read back as they were predicted, with the units' ids; one that finds no room is not there."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from vivit_core.data.rates import PredictedRates, write_rates
from vivit_core.system.files import NoRoomError
from vivit_core.system.tables import read_table

IDS = ("007", "=1+1", "a/b", "ü")
RATES = np.random.default_rng(0).gamma(1.0, 10.0, (100, len(IDS))).astype(np.float32)
ABOUT = {"video": "film.mp4", "how": ["30 Hz"]}


SPREAD = RATES[::-1] / 10


def parts(
    *names: str, pieces: Iterator[dict[str, np.ndarray]] | None = None, kinds: tuple[str, ...] = ("rates",)
) -> list[PredictedRates]:
    halves = [{"rates": RATES[some], "spread": SPREAD[some]} for some in (slice(64), slice(64, 100))]
    return [
        PredictedRates(
            recording_id=name,
            unit_ids=IDS,
            frame_rate_hz=50.0,
            time_s_N=np.arange(100) / 50,
            trial_N=np.repeat([0, 1], 50),
            frame_N=np.arange(100) // 2,
            pieces=iter(halves) if pieces is None else pieces,
            names=kinds,
        )
        for name in names
    ]


def test_hdf5(tmp_path: Path) -> None:
    assert write_rates(tmp_path / "r.h5", parts("sim0", "../x"), lambda: ABOUT) == [tmp_path / "r.h5"]
    with h5py.File(tmp_path / "r.h5") as file:
        assert json.loads(file.attrs["about"]) == ABOUT and file.attrs["format"] == "vivit-core rates"
        assert {group.attrs["recording_id"] for group in file["recordings"].values()} == {"sim0", "../x"}
        own = file["recordings/sim0"]
        assert own.attrs["frame_rate_hz"] == 50 and own["rates"].attrs["unit"] == "Hz"
        assert (own["rates"][()] == RATES).all() and tuple(own["unit_ids"].asstr()[()]) == IDS
        assert own["frame"][3] == 1 and own["trial"][-1] == 1 and own["time_s"][1] == 0.02


def test_npz(tmp_path: Path) -> None:
    write_rates(tmp_path / "r.npz", parts("sim0", "sim1"), lambda: ABOUT)
    with np.load(tmp_path / "r.npz", allow_pickle=False) as archive:
        assert json.loads(str(archive["about"])) == ABOUT
        for name in ("sim0", "sim1"):
            assert (archive[f"rates_{name}"] == RATES).all() and tuple(archive[f"unit_ids_{name}"]) == IDS
            assert archive[f"frame_{name}"][3] == 1


def test_a_spread_stands_beside_the_rates(tmp_path: Path) -> None:
    for name in ("r.h5", "r.npz", "r.csv"):
        write_rates(tmp_path / name, parts("sim0", kinds=("rates", "spread")), lambda: ABOUT)
    with h5py.File(tmp_path / "r.h5") as file:
        own = file["recordings/sim0"]
        assert (own["spread"][()] == SPREAD).all() and own["spread"].attrs["unit"] == "Hz"
        assert (own["rates"][()] == RATES).all()
    with np.load(tmp_path / "r.npz", allow_pickle=False) as archive:
        assert (archive["spread_sim0"] == SPREAD).all() and (archive["rates_sim0"] == RATES).all()
    table = read_table(tmp_path / "r.csv")
    assert list(table)[3:] == [*IDS, *(f"{unit} spread" for unit in IDS)]
    assert table[[f"{unit} spread" for unit in IDS]].to_numpy() == pytest.approx(SPREAD, rel=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "r.h5", "r.npz"]


def test_csv(tmp_path: Path) -> None:
    write_rates(tmp_path / "r.csv", parts("sim0"), lambda: ABOUT)
    table = read_table(tmp_path / "r.csv")
    assert list(table) == ["time_s", "trial", "frame", *IDS]
    assert ",'=1+1," in (tmp_path / "r.csv").read_text()  # no formula to a spreadsheet
    assert table[list(IDS)].to_numpy() == pytest.approx(RATES, rel=1e-5) and table["frame"][3] == 1
    files = write_rates(tmp_path / "s.csv", parts("sim0", "A/b"), lambda: ABOUT)
    assert files[0].name == "s_sim0.csv" and len(read_table(files[1])) == 100 and files[1].parent == tmp_path


@pytest.mark.parametrize("name", ["r.h5", "r.npz", "r.csv"])
def test_a_name_that_is_taken_or_says_no_format_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="stands there already; name another file"):
        write_rates(tmp_path / name, parts("sim0"), lambda: ABOUT)
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(ValueError, match=r"rates are written as \.h5, \.npz, \.csv"):
        write_rates(tmp_path / "r.mat", parts("sim0"), lambda: ABOUT)


@pytest.mark.parametrize("name", ["r.h5", "r.npz", "r.csv"])
def test_a_disk_without_room_is_told_before_anything_is_predicted(tmp_path: Path, name: str) -> None:
    asked = []
    pieces = (asked.append(number) or {"rates": RATES[:50]} for number in range(2))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(NoRoomError, match=rf"no room to write .*{name}.*MB are to be written"):
            write_rates(tmp_path / name, parts("sim0", pieces=pieces), lambda: ABOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not asked and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["r.npz", "r.csv"])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full is one without any room at all."""
    monkeypatch.setattr("vivit_core.system.files.uuid4", lambda: type("Id", (), {"hex": "01234567"}))
    (tmp_path / f".{name}.01234567.tmp").symlink_to("/dev/full")
    with pytest.raises(NoRoomError, match=rf"no room to write .*{name}: No space left on device"):
        write_rates(tmp_path / name, parts("sim0"), lambda: ABOUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["r.h5", "r.npz", "r.csv"])
def test_a_second_recording_that_fails_leaves_nothing_of_the_first(tmp_path: Path, name: str) -> None:
    def failing() -> Iterator[dict[str, np.ndarray]]:
        yield {"rates": RATES[:64]}
        raise ValueError("rates are NaN")

    both = [*parts("sim0"), *parts("sim1", pieces=failing())]
    with pytest.raises(ValueError, match="rates are NaN"):
        write_rates(tmp_path / name, both, lambda: ABOUT)
    assert not list(tmp_path.iterdir())
