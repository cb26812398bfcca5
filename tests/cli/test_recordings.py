"""Which recordings a task reads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vivit_core.cli.recordings import data_of_evaluation
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording


@pytest.fixture
def unplaced(tmp_path: Path) -> Path:
    """A recording that does not say where its units lie."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, 600, 100)
    return write_recording(
        tmp_path / "unplaced.h5",
        recording_id="unplaced",
        frame_rate_hz=60.0,
        frames=rng.integers(0, 256, (600, 18, 26), dtype=np.uint8),
        counts=rng.poisson(0.3, (600, 3)),
        trials=Trials(starts, starts + 100, np.arange(6), ["train"] * 4 + ["val", "test"]),
    )


CUT_AS_TRAINED = {"behavior": ["x"], "clip_length": 7, "burn_in": 3, "evaluation_length": 8, "evaluation_burn_in": 4}
TRAINED = {"data": {"recordings": ["a.h5"], "root": None, "seed": 0} | CUT_AS_TRAINED}
NOW = {"recordings": None, "root": "now", "behavior": [], "clip_length": 9, "burn_in": 1, "seed": 1}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (set(), TRAINED["data"]),
        ({"seed", "trainer"}, TRAINED["data"]),
        ({"data.burn_in"}, {**TRAINED["data"], "burn_in": 1}),
        ({"data.root"}, {**TRAINED["data"], "root": "now", "recordings": None}),
        ({"data"}, {**NOW, **CUT_AS_TRAINED}),
        ({"data", "data.clip_length"}, {**NOW, **CUT_AS_TRAINED, "clip_length": 9}),
        ({"data.seed", "data.cut.deep"}, {**TRAINED["data"], "seed": 1}),
    ],
)
def test_data_of_evaluation(said, expected):
    assert data_of_evaluation(NOW, TRAINED, said) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"data.simulator.recordings"}, {"recordings": 1, "units": 64, "context": None}),
        ({"data/simulator/context"}, {"recordings": 4, "units": 64, "context": {"surround": 0.3}}),
        ({"data.simulator.context.surround"}, {"recordings": 4, "units": 64, "context": {"surround": 0.3}}),
        ({"data/simulator"}, {"recordings": 1, "units": 8, "context": {"surround": 0.3}}),
        ({"data/simulator", "data.simulator.units"}, {"recordings": 1, "units": 8, "context": {"surround": 0.3}}),
    ],
)
def test_one_key_of_a_simulator_leaves_the_others_as_trained(said, expected):
    """Else a twin of neurons without context would be set beside neurons with context, of today's default."""
    trained = TRAINED["data"] | {"recordings": None, "simulator": {"recordings": 4, "units": 64, "context": None}}
    now = NOW | {"root": None, "simulator": {"recordings": 1, "units": 8, "context": {"surround": 0.3}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vivit_core.cli.recordings.build", lambda key, node: SimpleNamespace(n_bytes=1))
        assert data_of_evaluation(now, {"data": trained}, said)["simulator"] == expected
    assert trained["simulator"] == {"recordings": 4, "units": 64, "context": None}


def test_one_transform_leaves_the_others_as_trained():
    """Also with data=…; and one that the command line takes out is taken out."""
    trained = {"data": TRAINED["data"] | {"transforms": {"v": {"width": 1}, "s": {"width": 2}}}}
    now = NOW | {"transforms": {"s": None}}
    for said in ({"data.transforms.s"}, {"data", "data.transforms.s"}):
        assert data_of_evaluation(now, trained, said)["transforms"] == {"v": {"width": 1}, "s": None}
    assert data_of_evaluation(now, trained, {"data.transforms.v"})["transforms"] == {"s": {"width": 2}}
    assert data_of_evaluation(now, trained, {"data"})["transforms"] == trained["data"]["transforms"]
    assert trained["data"]["transforms"] == {"v": {"width": 1}, "s": {"width": 2}}


def test_a_training_refuses_them_before_it_reads(command, unplaced) -> None:
    for task in ("train", "plan"):
        code, printed = command(f"task={task}", "readout=retinotopic", f"data.recordings=[{unplaced}]")
        assert code == 1 and "units/position_um: missing" in printed and "reading the recordings" not in printed


LAST = ["predict=last", "data.evaluation_length=60", "data.evaluation_burn_in=59"]
UNFIT = {
    "optimization": (["optim=muon", "model=resnet"], "optim=muon is for the matrices of a transformer's blocks"),
    "likelihood": (["model/latent=shared_gain", "likelihood=negative_binomial"], "set likelihood=poisson and"),
    "predict": (["model/latent=shared_gain", *LAST], "set likelihood=poisson and predict=all"),
    "behavior": (["model/shifter=gaze", "model.shifter.behavior=nothing"], "model.shifter.behavior=nothing: the twin"),
    "steps": (["model/attention=absolute", "model.attention.steps=2"], "are learned for model.attention.steps=2"),
}


@pytest.mark.parametrize("named", [True, False], ids=["files", "simulated"])
@pytest.mark.parametrize(("words", "told"), UNFIT.values(), ids=UNFIT)
def test_what_cannot_go_together_is_refused_before_recordings_are_read_or_made(
    words, told, named, command, tiny, tiny_files
) -> None:
    files = [f"data.recordings=[{','.join(map(str, tiny_files))}]"] if named else ["data.cache=new"]
    code, printed = command(*tiny, *files, *words)
    assert code == 1 and told in printed, printed
    assert "reading the recordings" not in printed and "the simulation of recordings" not in printed
    assert not Path("new").exists()


@pytest.mark.slow
def test_recordings_of_several_sizes_are_refused_by_their_headers(command, tiny, tiny_files, unplaced) -> None:
    """Where some are broken, which headers may say of the first, the reading names all of them as ever."""
    small = write_recording(
        unplaced.with_name("small.h5"),
        recording_id="small",
        frame_rate_hz=60.0,
        frames=np.zeros((600, 8, 6), np.uint8),
        counts=np.ones((600, 3)),
        trials=Recording(unplaced).info.trials,
    )
    code, printed = command(*tiny, f"data.recordings=[{unplaced},{small}]")
    assert code == 1 and "frames of different sizes {'unplaced': (18, 26), 'small': (8, 6)}" in printed, printed
    assert "reading the recordings" not in printed
    for name in ("first.h5", "second.h5"):
        unplaced.with_name(name).write_text("no recording")
    code, printed = command(*tiny, f"data.root={unplaced.parent}")
    assert code == 1 and "2 recordings cannot be used" in printed and "first.h5" in printed, printed
