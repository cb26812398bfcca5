"""What the configuration and the headers of recordings tell is refused before anything is simulated, read or fitted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import RETINOTOPIC
from tiny_training import LIKELIHOOD, MODEL, READOUT, make_twin, specs

from vivit_core.cli.refusal import check_positions, refuse_mixed_places
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate.simulate import Simulator
from vivit_core.models.load import checkpoint_of
from vivit_core.models.twin import Twin
from vivit_core.specs import RecordingError, RecordingSpec
from vivit_core.training import machine

TOO_LATE = "recordings were simulated or read"
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def refused(
    command: Command, tiny: list[str], tiny_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """What a training says that is refused; it fails where that began to simulate recordings, or to read them."""

    def too_late(*_: Any) -> None:
        raise AssertionError(TOO_LATE)

    monkeypatch.setattr(Simulator, "make", too_late)
    monkeypatch.setattr(RecordingsDataModule, "setup", too_late)

    def run(*words: str) -> str:
        code, printed = command(*tiny, "trainer=debug", *words)
        said = " ".join(printed.split())
        assert code == 1 and TOO_LATE not in said, printed
        return said

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["callbacks.checkpoint.monitor=val/foo"], "callbacks.checkpoint.monitor=val/foo is no number of a validation"),
        (["callbacks.checkpoint.mode=min"], "set callbacks.checkpoint.mode=max"),
        (["callbacks.pictures.units=0"], "callbacks.pictures=null leaves the pictures out"),
        (["logger.csv.flush_logs_every_n_steps=0"], "logger.csv.flush_logs_every_n_steps=0 must be 1 or more"),
        (["data.clip_length=130"], "has no train trial of 130 bins; the longest has 120. Lower data.clip_length"),
        (["data.frame_rate_hz=60", "data.clip_length=61"], "has no train trial of 61 bins; the longest has 60. Lower"),
        (["data.train_minutes=0.005"], "has no train trial of 60 bins; the longest has 36. Lower data.clip_length"),
        (["data.evaluation_burn_in=125", "data.evaluation_length=240"], "has no val trial of 126 bins"),
        (["data.simulator.val_trials=0"], "has no val trial. Give some trials the split 'val'"),
        (["likelihood=zero_inflated_gamma"], "holds spikes (responses/counts, attribute kind)"),
        (["baseline.duration_s=1.1"], "no training trial has a valid bin after the 132 lags of the LN filters"),
        (["baseline.patch=4"], "patch=4 (model=ln: model.patch, else baseline.patch)"),
        (["model=ln", "model.duration_s=1.1"], "a valid bin after the 132 lags of the LN"),
        (["model=ln_surround", "model.duration_s=1.1"], "a valid bin after the 132 lags of the LN"),
        (["model=ln_surround", "model.ring_px=[6,3]"], "give radii above 0 that grow"),
        (["model=ln", "data.clip_length=130"], "has no train trial of 130 bins; the longest has 120"),
        (
            ["data/augmentation=cutmix", "data.augmentation.space=true", "model/shifter=affine"],
            "set data.augmentation.space=false (data.augmentation.time=true cuts stretches of bins), or model/shifter=",
        ),
        (["model.compile=true"], "model.compile=true needs a C++ compiler, which is not here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_training_is_refused_before_recordings_are_simulated(
    refused: Callable[..., str], words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "lacks_to_compile", lambda device: "a C++ compiler")
    assert said in refused(*words)


@pytest.mark.slow
def test_of_named_recordings_the_headers_tell(
    tiny: list[str], tiny_files: list[Path], refused: Callable[..., str], command: Command
) -> None:
    named = f"data.recordings=[{','.join(map(str, tiny_files))}]"
    assert f"recording sim0 ({tiny_files[0]}) has no train trial of 130 bins" in refused(named, "data.clip_length=130")
    assert f"({tiny_files[0]}) holds spikes" in refused(named, "likelihood=zero_inflated_gamma")
    assert "set it to one of val/loss" in refused(named, "callbacks.checkpoint.monitor=val/bps_a")
    _, printed = command(*tiny, named, "trainer=debug", "callbacks.checkpoint.monitor=val/bps_sim1")
    assert TOO_LATE in printed  # it is let pass, so that the reading begins


def of_tiny(**changed: Any) -> list[RecordingSpec]:
    """What a model of the tiny recordings knows of them."""
    eye = {"eye_position": 2, "eye_velocity": 40}
    numbers = {"behavior": eye, "behavior_mean": (0.0,) * 42, "behavior_std": (1.0,) * 42}
    return [
        replace(
            specs()[0],
            **{
                "recording_id": name, "unit_ids": tuple(f"{name}-{u:03d}" for u in range(6)),
                "unit_mean_counts": (0.5,) * 6, "frame_rate_hz": 120.0, "frame_shape": (1, 18, 26),
                **numbers, **changed,
            },
        )
        for name in ("sim0", "sim1")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "words", "said"),
    [
        ({}, ["model/history=spikes"], "set model/history=none"),
        ({"unit_ids": tuple("abcdef")}, [], "does not know 6 of 6 units of recording sim0: sim0-000"),
        ({"frame_rate_hz": 60.0}, [], "the frame rate of recording sim0 is 60.0 there and 120.0 here"),
        ({"frame_shape": (1, 18, 24)}, [], "the frames of recording sim0 is (1, 18, 24) there"),
    ],
    ids=["history", "units", "rate", "frames"],
)
def test_a_teacher_that_does_not_know_what_is_to_be_learnt(
    refused: Callable[..., str], changed: dict[str, Any], words: list[str], said: str
) -> None:
    torch.save(checkpoint_of(Twin(MODEL, READOUT, LIKELIHOOD, of_tiny(**changed))), "teacher.ckpt")
    assert said in refused("experiment=distill", "teacher=teacher.ckpt", *words)


def test_a_core_that_does_not_suit_the_recordings(refused: Callable[..., str]) -> None:
    """Another rate, and weights of which one is missing or has another shape."""
    torch.save(checkpoint_of(make_twin()), "core.ckpt")
    words = ["experiment=finetune", "init_from=core.ckpt"]
    assert "its core was trained at 30 frames a second, and these recordings have 120" in refused(*words)
    content = checkpoint_of(Twin(MODEL, READOUT, LIKELIHOOD, of_tiny()))
    (last, *_) = [name for name in content["state_dict"] if name.startswith("twin.core.") and name.endswith("weight")]
    for change, said in {
        "missing": f"{last.removeprefix('twin.core.')} is missing",
        "wider": f"{last.removeprefix('twin.core.')} is (",
    }.items():
        changed = copy.deepcopy(content)
        weight = changed["state_dict"].pop(last)
        if change == "wider":
            changed["state_dict"][last] = torch.cat([weight, weight])
        torch.save(changed, "core.ckpt")
        assert said in refused(*words)
    Path("core.ckpt").write_bytes(b"no checkpoint")
    assert "core.ckpt" in refused(*words)


def test_recordings_that_do_not_say_where_their_units_lie(tiny_files: list[Path]) -> None:
    """They are refused by name where the readout needs it; where it does not, no file is opened for it."""
    placed = Recording(tiny_files[0]).info
    check_positions(RETINOTOPIC, [placed])
    with pytest.raises(RecordingError, match=r"b\.h5: units/position_um: missing.*readout=gaussian"):
        check_positions(RETINOTOPIC, [placed, replace(placed, path=Path("b.h5"), position_dim=0)])
    check_positions(READOUT, (pytest.fail("a file was opened") for _ in range(1)))


def test_only_a_shifter_refuses_frames_that_are_mixed_in_space() -> None:
    cutmix = {"_target_": "vivit_core.data.augmentation.CutMix", "space": True, "time": True}
    shifts = {"shifter": {"_target_": "vivit_core.models.shifters.affine.AffineShifter"}}
    with pytest.raises(ValueError, match=r"set data\.augmentation\.space=false .*, or model/shifter=none"):
        refuse_mixed_places(shifts, {"augmentation": cutmix})
    for model in ({}, {"shifter": None}):
        refuse_mixed_places(model, {"augmentation": cutmix})
    for augmentation in (None, {**cutmix, "space": False}):
        refuse_mixed_places(shifts, {"augmentation": augmentation})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict=last"], "set data.evaluation_length=300 data.evaluation_burn_in=299"),
        (["data/augmentation=cutmix", "data.augmentation.space=true", "model/shifter=affine"], "or model/shifter=none"),
    ],
)
def test_what_no_training_takes_is_not_planned(command: Command, words: list[str], said: str) -> None:
    code, printed = command("task=plan", *words)
    assert code == 1 and said in " ".join(printed.split()), printed
