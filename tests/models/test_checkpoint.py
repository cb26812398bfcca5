"""Nothing that comes from a file runs code, takes the machine's memory or time, or ends in another program's error."""

from __future__ import annotations

import copy
import pickle
import pickletools
import resource
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tampering
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tampering import DATA, PICKLES, PLACES, TAMPERINGS, Content, put, read_all, targets, with_pickle

import vivit_core
from vivit_core.cli.sweeps import Job, Outcome
from vivit_core.models.archive import MOST_STEPS, MOST_TENSORS
from vivit_core.models.checkpoint import FORMAT, check_model, read_checkpoint, settings_of
from vivit_core.models.load import baseline_in, check_description, checkpoint_of, load_twin, weights_in
from vivit_core.models.twin import Twin
from vivit_core.parts.groups import class_of, consent
from vivit_core.specs import RecordingSpec
from vivit_core.system.plain import read_plain

SRC = Path(vivit_core.__file__).parents[1]
SECONDS, MEGABYTES = 10.0, 400  # of the processor, and more memory than before


@pytest.fixture(scope="module")
def content() -> Content:
    return tampering.content()


@contextmanager
def bounded() -> Iterator[None]:
    seconds, most = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - seconds < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < MEGABYTES * 1000


def refusal(path: Path, use: Callable[[Path], Any]) -> str:
    """The line with which a file is refused."""
    with bounded(), pytest.raises(ValueError) as error:
        use(path)
    line = str(error.value)
    assert type(error.value) is ValueError and "\n" not in line and str(path) in line and len(line) < 1500, line
    return line


def test_an_honest_checkpoint_is_read(content: Content, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    twin, ln, data = read_all(tmp_path / "a.ckpt")
    assert all(torch.equal(value, content["state_dict"][f"twin.{name}"]) for name, value in twin.state_dict().items())
    assert twin.description() == content["twin"] and ln is not None and data.clip_length == 60
    # The first ones did not say by whom they were written.
    torch.save({key: value for key, value in content.items() if key != "vivit_core"}, tmp_path / "a.ckpt")
    assert "its format is number 0" in refusal(tmp_path / "a.ckpt", read_all)


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampered_checkpoint_is_refused_in_one_line(name: str, content: Content, tmp_path: Path) -> None:
    torch.save(TAMPERINGS[name](content), tmp_path / "bad.ckpt")
    refusal(tmp_path / "bad.ckpt", read_all)


@pytest.mark.parametrize("name", PICKLES)
def test_another_pickle_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with_pickle(tmp_path / "bad.ckpt", PICKLES[name])
    refusal(tmp_path / "bad.ckpt", read_all)


def test_files_of_other_kinds_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "garbage.ckpt").write_bytes(b"not a checkpoint")
    (tmp_path / "empty.ckpt").touch()
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", b"\x80\x02](" + b"N" * (50 << 20) + b"e.")
    with zipfile.ZipFile(tmp_path / "two.ckpt", "w") as two:
        two.writestr("a/data.pkl", b"\x80\x02N.")
        two.writestr("b/data.pkl", b"\x80\x02N.")
    for name in ("garbage", "empty", "bomb", "two", "none"):
        refusal(tmp_path / f"{name}.ckpt", read_checkpoint)
    refusal(tmp_path, read_checkpoint)


def test_a_refusal_names_both_versions(content: Content, tmp_path: Path) -> None:
    later = put(content, ("vivit_core",), {"format": FORMAT, "version": "9.8.7"})
    torch.save(put(later, ("twin", "model", "new"), 1), tmp_path / "a.ckpt")
    line = refusal(tmp_path / "a.ckpt", load_twin)
    assert "model.new does not exist" in line and "'9.8.7'" in line and "this is vivit-core" in line
    torch.save(put(content, ("vivit_core",), {"format": 7, "version": "9.8.7"}), tmp_path / "a.ckpt")
    assert "number 7 (written by vivit-core '9.8.7')" in refusal(tmp_path / "a.ckpt", load_twin)


def test_an_older_checkpoint_lacks_settings_that_came_later(content: Content) -> None:
    older = put(content, ("settings", "data"), {key: value for key, value in DATA.items() if key != "most_units"})
    found, now = settings_of("a.ckpt", older), settings_of("a.ckpt", content)
    assert found is not None and now is not None
    assert found["data"] == now["data"] | {"most_units": None}
    with pytest.raises(ValueError, match=r"data\.seed is missing"):
        settings_of("a.ckpt", put(content, ("settings", "data"), {k: v for k, v in DATA.items() if k != "seed"}))


# Code -----------------------------------------------------------------------------------------------------------------


def use(made: Content, part: str) -> None:
    """What the tasks take from a part of a checkpoint's content, less reading the file."""
    if part == "twin":
        check_description("bad.ckpt", made, made["twin"], weights_in(made["state_dict"]))
    elif part == "ln":
        baseline_in("bad.ckpt", made)
    else:
        settings_of("bad.ckpt", made)


@pytest.mark.parametrize("place", PLACES)
def test_no_node_of_a_file_runs_anything(
    place: str, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "canary_module.py").write_text(
        f"import pathlib; pathlib.Path({str(canary)!r}).touch()\nclass Part: pass"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    for node in targets(canary):
        with pytest.raises(ValueError, match=r"^bad\.ckpt: .*") as error:
            use(put(content, PLACES[place], node), PLACES[place][0])
        assert "\n" not in str(error.value)
    assert not canary.exists()
    assert not any(
        name.startswith(("canary_module", "torch._inductor.codecache")) for name in set(sys.modules) - before
    )


def test_the_canary_would_sing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the test above names does touch the canary where it is imported."""
    (tmp_path / "canary_module2.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\nclass Part: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    with consent(["canary_module2"]), pytest.raises(ValueError, match="is no Core or Predictor"):
        class_of("model", "canary_module2.Part")
    assert (tmp_path / "canary").exists()


# Honest ones are not refused ------------------------------------------------------------------------------------------


def test_bounds_leave_room_for_large_twins() -> None:
    """64 recordings of 4096 units: an id, a mean and their memo entries a unit, of the twin and of LN."""
    assert MOST_STEPS > 64 * 4096 * 3 * 2 * 2


def test_a_bound_is_no_number_of_anything(content: Content, tmp_path: Path) -> None:
    """A window that is longer than any recording, and a base that is a whole number, ask for nothing."""
    content = put(content, ("twin", "model", "window"), 10**7)
    content = put(content, ("twin", "model", "attention", "rope_base_time"), 10**6)
    torch.save(content, tmp_path / "a.ckpt")
    twin, _, _ = read_all(tmp_path / "a.ckpt")
    assert twin.description()["model"]["window"] == 10**7


# Anything, anywhere ---------------------------------------------------------------------------------------------------

ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.sampled_from([2**31, 2**62, -(2**62)]), st.floats(),
    st.text(max_size=3),
    st.sampled_from(["all", "last", "exp", "vivit_core.models.cores.vivit.ViViT", "os.system", "???"]),
)  # fmt: skip
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["_target_", "x", "depth", "widths", "source"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def places_in(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield keys
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(2, len(value))):
            yield from places_in(value[key], (*keys, key))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_a_changed_node_is_what_it_says_or_is_refused(data: st.DataObject, content: Content) -> None:
    part = data.draw(st.sampled_from(["twin", "settings", "ln"]))
    changed = content | {part: copy.deepcopy(content[part])}
    root = changed[part]["description"] if part == "ln" else changed[part]
    keys = data.draw(st.sampled_from([keys for keys in places_in(root) if keys]))
    inner: Any = root
    for key in keys[:-1]:
        inner = inner[key]
    how = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if how == "replace" or isinstance(inner, list):
        inner[keys[-1]] = data.draw(VALUES)
    elif how == "remove":
        del inner[keys[-1]]
    else:
        inner[data.draw(st.text(max_size=4))] = data.draw(VALUES)
    try:
        use(changed, part)
        if part == "twin":
            twin = Twin.from_description(changed["twin"])
            assert {f"twin.{name}" for name in twin.state_dict()} == set(changed["state_dict"])
            assert twin.description()["model"] == changed["twin"]["model"]
    except ValueError as error:
        assert str(error).startswith("bad.ckpt: ") and "\n" not in str(error), str(error)


# Continuing a training ------------------------------------------------------------------------------------------------


def test_a_training_takes_over_its_own_state_alone(tmp_path: Path) -> None:
    import tiny_training

    from vivit_core.training.module import TwinModule
    from vivit_core.training.restore import check_restorable

    module = TwinModule(tiny_training.make_twin(), tiny_training.optimization(), 2, 3, 4)
    optimizer, schedule = module.optimization.build(module.twin, 3, 4, module.scaled)
    first = optimizer.param_groups[0]["params"][0]
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(first), "exp_avg_sq": torch.zeros_like(first)}
    folder = str(tmp_path / "checkpoints")
    best = f"{folder}/best.ckpt"
    keeper = {"dirpath": folder, "best_model_path": best, "best_k_models": {best: torch.tensor(1.0)}}
    honest: Content = {
        **checkpoint_of(module.twin),
        "optimizer_states": [optimizer.state_dict() | {"state": {0: moments}}],
        "lr_schedulers": [schedule.state_dict()],
        "callbacks": {"ModelCheckpoint{}": keeper},
    }
    check_restorable(Path("a.ckpt"), honest, module)
    state, course = honest["optimizer_states"][0], honest["lr_schedulers"][0]
    groups = copy.deepcopy(state["param_groups"])
    groups[0]["lr"] = "1e-3"
    for changes in (
        {"callbacks": {"ModelCheckpoint{}": keeper | {"best_model_path": "/home/somebody/thesis.ckpt"}}},
        {"callbacks": {"ModelCheckpoint{}": keeper | {"best_k_models": {f"{folder}/../../x.ckpt": torch.tensor(0.0)}}}},
        {"callbacks": {"ModelCheckpoint{}": keeper | {"last_model_path": f"{folder}/data"}}},
        {"callbacks": {"ModelCheckpoint{}": [1]}},
        {"optimizer_states": []},
        {"optimizer_states": [state | {"state": {0: moments | {"exp_avg": torch.zeros(3)}}}]},
        {"optimizer_states": [state | {"state": {0: moments | {"exp_avg": first * torch.nan}}}]},
        {"optimizer_states": [state | {"state": {10**6: moments}}]},
        {"optimizer_states": [state | {"param_groups": groups}]},
        {"lr_schedulers": [course | {"step": "now"}]},
        {"lr_schedulers": [course | {"last_epoch": "1"}]},
    ):
        with pytest.raises(ValueError, match=r"^a\.ckpt: this training cannot be continued from it") as error:
            check_restorable(Path("a.ckpt"), {**honest, **changes}, module)
        assert "\n" not in str(error.value)


# Where things are read and written ------------------------------------------------------------------------------------


def test_a_checkpoint_says_nothing_of_what_is_written_here() -> None:
    from vivit_core.cli.recordings import data_of_evaluation

    now = DATA | {"cache": "here", "num_workers": 1}
    mixed = data_of_evaluation(now, {"data": DATA | {"cache": "/home/somebody", "num_workers": 10**6}}, set())
    assert (mixed["cache"], mixed["num_workers"]) == ("here", 1)
    huge = {"data": DATA | {"simulator": DATA["simulator"] | {"train_trials": 10**7}}}
    for said in (set(), {"data.simulator.units"}):
        with pytest.raises(ValueError, match=r"simulated ones of .* GiB; say fewer with"):
            data_of_evaluation(now, huge, said)
    for said in ({"data.simulator.train_trials"}, {"data/simulator"}, {"data"}):
        assert data_of_evaluation(now, huge, said)["simulator"] == DATA["simulator"]


@pytest.mark.parametrize(
    "text", ['{"status": "done"}', '{"score": "1"}', '{"else": 1}', "[1]", '{"run": {"_target_": "os.system"}}', "{"]
)
def test_an_outcome_is_what_a_job_writes(text: str, tmp_path: Path) -> None:
    job = Job(tmp_path, 3)
    job.note(status="finished", score=0.5, run="x")
    assert job.outcome() == Outcome("finished", None, "x", 0.5)
    job.file.write_text(text)
    refusal(job.file, lambda _: job.outcome())


def test_the_bounds_have_room_for_the_largest_twins():
    """64 recordings of 4096 units, with the baseline that knows them too, and 100 million parameters."""

    def steps(units: int) -> int:
        names = tuple(f"rec0-unit{unit}" for unit in range(units))
        mean = tuple(0.5 + unit / 7 for unit in range(units))
        known = RecordingSpec("r", 30.0, (1, 36, 64), names, mean, 120.0, 40.0, {"eye": 2}, (0.0,) * 2, (1.0,) * 2)
        held = {name: {"recordings": [known.to_dict()]} for name in ("twin", "ln")}
        return sum(1 for _ in pickletools.genops(pickle.dumps(held, protocol=2)))

    a_unit = (steps(2000) - steps(1000)) / 1000
    assert 2 < a_unit * 64 * 4096 + 64 * steps(0) < MOST_STEPS / 2
    assert MOST_TENSORS > 64 * 20 * 3  # a readout's tensors, each with its two moments


def test_texts_of_a_run_folder_are_read_within_bounds(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("a: {b: [1, 2.5, null, x]}")
    assert read_plain(tmp_path / "good.yaml") == {"a": {"b": [1, 2.5, None, "x"]}}
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 25))]
    for name, text in {
        "laughs.yaml": "\n".join(lines),
        "object.yaml": "a: !!python/object/apply:os.system ['true']",
        "date.yaml": "a: 2026-01-01",
        "list.json": "[1]",
        "half.json": '{"a": ',
        "deep.json": '{"a": ' * 50 + "1" + "}" * 50,
        "deeper.json": "[" * 100_000,
        "large.yaml": f"a: {'x' * (2 << 20)}",
        "large.json": '{"a": "' + "x" * (17 << 20) + '"}',
    }.items():
        (tmp_path / name).write_text(text)
        refusal(tmp_path / name, read_plain)
    refusal(tmp_path / "none.json", read_plain)


def test_numbers_that_come_with_no_weights_are_bounded() -> None:
    """Filters that stand still are made anew from a few numbers of the description, which may say anything."""

    class Filters(torch.nn.Module):
        def __init__(self, side: int) -> None:
            super().__init__()
            self.register_buffer("filters", torch.zeros(side, side), persistent=False)

    check_model("a.ckpt", {}, lambda: Filters(100), {})
    with pytest.raises(ValueError, match="numbers that come with no weights"):
        check_model("a.ckpt", {}, lambda: Filters(10**6), {})
