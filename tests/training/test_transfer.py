"""New recordings on a trained core: what is taken over, what stays, what moves, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from test_resume import assert_continues
from tiny_models import GRU, OWN_FILTER, RESIDUAL_STEM, STEM, resnet
from tiny_training import LIKELIHOOD, MODEL, MUON, READOUT, make_batch, make_twin, specs, train

from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.twin import Twin
from vivit_core.specs import RecordingSpec
from vivit_core.training.transfer import adopted_model, load_parts, pretrained

SMALL = [
    "trainer=debug",
    "trainer.epochs=1",
    "baseline=null",
    "model.embedding_dim=24",
    "model.spatial_depth=1",
    "model.temporal_depth=1",
    "model.attention.heads=2",
]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A checkpoint of the tiny twin."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, epochs=1, steps=2)
    return read_checkpoint(folder / "last.ckpt")


def weights_of(checkpoint, part):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith(f"twin.{part}.")}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The command line ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_finetune(command, tiny, tiny_files, tmp_path):
    """A twin of one recording, then another recording on its core, frozen and learning slowly."""
    code, printed = command(*tiny, *SMALL, f"data.recordings=[{tiny_files[0]}]", "hydra.run.dir=trained")
    assert code == 0, printed
    checkpoint = tmp_path / "trained" / "checkpoints" / "best.ckpt"
    core, modulator = weights_of(checkpoint, "core"), weights_of(checkpoint, "modulator")
    words = [
        *tiny,
        "experiment=finetune",
        f"init_from={checkpoint}",
        "trainer=debug",
        "trainer.epochs=1",
        "baseline=null",
    ]
    words += [f"data.recordings=[{tiny_files[1]}]"]

    code, printed = command(*words, "hydra.run.dir=frozen")
    assert code == 0, printed
    for part, state in (("core", core), ("modulator", modulator)):
        numbers = sum(value.numel() for value in state.values())
        assert f"{len(state)} tensors of the {part} ({numbers:,} numbers)" in printed
        assert equal(weights_of(tmp_path / "frozen" / "checkpoints" / "last.ckpt", part), state)
    trained_on = json.loads((tmp_path / "frozen" / "environment.json").read_text())["trained_on"]
    assert trained_on["recordings"] == {"sim1": {"minutes": pytest.approx(4 * 1.0 / 60), "units": 6}}  # 4 trials of 1 s
    assert 0 < trained_on["core_parameters"] <= sum(value.numel() for value in core.values())
    description = read_checkpoint(tmp_path / "frozen" / "checkpoints" / "last.ckpt")["twin"]
    assert description["model"] == read_checkpoint(checkpoint)["twin"]["model"]
    assert [r["recording_id"] for r in description["recordings"]] == ["sim1"]
    assert not equal(
        weights_of(tmp_path / "frozen" / "checkpoints" / "last.ckpt", "readouts"), weights_of(checkpoint, "readouts")
    )

    changed = ["optim.core_lr_scale=0.1", "model.ff_dropout=0.3", "optim.readouts_first=0.5"]
    code, printed = command(*words, "hydra.run.dir=slow", *changed)
    assert code == 0 and "learns at 0.1 of the readouts' rate after 50% of the steps" in printed, printed
    slow = weights_of(tmp_path / "slow" / "checkpoints" / "last.ckpt", "core")
    assert not equal(slow, core)
    lr = 1e-2
    assert all((slow[name] - core[name]).abs().max() < 2 * 2 * 0.1 * lr for name in core)  # two steps of at most 2 lr

    code, printed = command(*words, "model.embedding_dim=48", "model.attention.heads=2")
    assert code == 1 and "embedding_dim is 24 there and 48 here" in printed and "heads is" not in printed


# The steps ----------------------------------------------------------------------------------------------------------


def part(twin, name):
    return copy.deepcopy(getattr(twin, name).state_dict())


def test_a_frozen_core_does_not_move_and_drops_nothing(tmp_path):
    twin = make_twin()
    before = {name: part(twin, name) for name in ("core", "modulator", "readouts")}
    lit, trainer, _ = train(tmp_path, twin=twin, optim={"core_lr_scale": 0.0, "weight_decay": 0.9})
    assert equal(part(twin, "core"), before["core"]) and equal(part(twin, "modulator"), before["modulator"])
    assert not equal(part(twin, "readouts"), before["readouts"])
    assert {g["name"].split("/")[0] for g in trainer.optimizers[0].param_groups} == {"readouts", "windows"}
    lit.train()
    assert lit.twin.readouts.training and not lit.twin.core.training
    batch = make_batch(0)
    torch.manual_seed(1)
    once = lit(batch)["a"]
    torch.manual_seed(2)
    assert torch.equal(lit(batch)["a"], once)


def test_a_fresh_modulator_learns_beside_a_frozen_core(tmp_path):
    twin = make_twin()
    before = {name: part(twin, name) for name in ("core", "modulator")}
    _, trainer, _ = train(tmp_path, twin=twin, optim={"core_lr_scale": 0.0}, module={"scaled": ("core",)})
    assert equal(part(twin, "core"), before["core"]) and not equal(part(twin, "modulator"), before["modulator"])
    assert len({group["lr"] for group in trainer.optimizers[0].param_groups}) == 1


def test_a_resumed_finetuning_continues_exactly(tmp_path):
    assert_continues(tmp_path, [(1, 1)], optim={"core_lr_scale": 0.0})


STAGED = {"readouts_first": 0.3}  # of 12 steps: the core begins with step 4


def test_readouts_learn_alone_first_and_then_the_core_too(tmp_path):
    """As long as the readouts learn alone, the training is the one on a frozen core."""
    twin = make_twin()
    before = {name: part(twin, name) for name in ("core", "modulator")}
    alone, moved = [], []

    class Look(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            alone.append(not module.twin.core.training)
            moved.append(not equal(part(twin, "core"), before["core"]))
            assert module.twin.readouts.training

    _, trainer, staged = train(tmp_path / "staged", twin=twin, optim=STAGED, callbacks=[Look()])
    _, _, frozen = train(tmp_path / "frozen", optim={"core_lr_scale": 0.0})
    assert alone == [True] * 4 + [False] * 8
    assert moved == [False] * 4 + [True] * 8
    assert staged.losses[:4] == frozen.losses[:4] and staged.scores[:1] == frozen.scores[:1]
    assert staged.losses[4:] != frozen.losses[4:]
    made = {
        group["name"].split("/")[0]: {int(trainer.optimizers[0].state[p]["step"]) for p in group["params"]}
        for group in trainer.optimizers[0].param_groups
    }
    assert made == {"core": {8}, "attention": {8}, "readouts": {12}, "windows": {12}}
    assert not equal(part(twin, "modulator"), before["modulator"])


@pytest.mark.parametrize(
    ("accumulate", "stops", "changed"),
    [
        (1, [(0, 1), (0, 3), (1, 1)], {}),  # before, at and after the core's beginning
        (2, [(1, 0)], {}),
        (1, [(0, 2)], MUON),
    ],
    ids=str,
)
def test_a_staged_finetuning_resumes_exactly(tmp_path, accumulate, stops, changed):
    assert_continues(tmp_path, stops, accumulate=accumulate, optim=STAGED | changed)


# What fits and what does not ----------------------------------------------------------------------------------------


def test_the_model_comes_with_the_checkpoint(content):
    other = {**copy.deepcopy(MODEL), "embedding_dim": 16, "ff_dropout": 0.7, "registers": 3}
    assert adopted_model(content, other, set(), "a.ckpt") == MODEL
    assert adopted_model(content, other, {"ff_dropout"}, "a.ckpt") == {**MODEL, "ff_dropout": 0.7}
    assert adopted_model(content, {**MODEL, "frame_size": [4, 6]}, {"frame_size"}, "a.ckpt")["frame_size"] == [4, 6]
    with pytest.raises(ValueError, match=r"embedding_dim is 8 there and 16 here; registers is 1 there and 3 here"):
        adopted_model(content, other, {""}, "a.ckpt")
    taken = adopted_model(content, {**MODEL, "window": 99}, {""}, "a.ckpt", follows=["window"])
    assert taken["window"] == MODEL["window"] != 99  # which nobody has set
    other["tokenizer"] = {**MODEL["tokenizer"], "patch_size": [4, 4, 4]}
    with pytest.raises(ValueError, match=r"tokenizer\.patch_size is \[2, 4, 4\] there and \[4, 4, 4\] here"):
        adopted_model(content, other, {"tokenizer"}, "a.ckpt")
    with pytest.raises(ValueError, match=r"modulator\.hidden is 4 there and None here"):
        adopted_model(content, {**MODEL, "modulator": None}, {"modulator"}, "a.ckpt")
    with pytest.raises(ValueError, match="holds no core to start from"):
        adopted_model({"twin": {"_target_": "vivit_core.models.ln.LN"}}, MODEL, set(), "a.ckpt")


@pytest.mark.parametrize("said", ["tokenizer.stem.dropout", "tokenizer.dropout", "dropout", "modulator.dropout"])
def test_a_free_key_of_what_the_checkpoint_s_model_lacks_is_refused(content, said):
    """Its tokens are cut from frames, without a stem."""
    composed = resnet(tokenizer=RESIDUAL_STEM | {"dropout": 0.3, "stem": STEM | {"dropout": 0.3}}, dropout=0.3)
    composed["modulator"] = GRU | {"dropout": 0.3}
    there = {**MODEL, "modulator": None}
    with pytest.raises(ValueError, match=rf"another one: {re.escape(said)} is None there and 0\.3 here\. Leave"):
        adopted_model({"twin": {**content["twin"], "model": there}}, composed, {said}, "a.ckpt")


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"frame_rate_hz": 60.0}, r"data\.frame_rate_hz=30"),
        ({"frame_shape": (2, 8, 8)}, "2 channels, and|1 channels, and these recordings have 2"),
        ({"frame_shape": (1, 8, 12)}, r"model\.frame_size=\[8,8\] to resize them, or model\.frame_size=\[8,12\]"),
    ],
)
def test_recordings_that_do_not_suit_the_core_are_refused(content, changed, advice):
    twin = Twin(MODEL, READOUT, LIKELIHOOD, [replace(specs()[0], **changed)])
    with pytest.raises(ValueError, match=advice):
        pretrained(twin, content, "a.ckpt")


def test_frames_of_another_size_are_kept_or_resized_where_it_is_said(content):
    twin = Twin({**MODEL, "frame_size": [8, 12]}, READOUT, LIKELIHOOD, [replace(specs()[0], frame_shape=(1, 8, 12))])
    assert pretrained(twin, content, "a.ckpt").parts == ("core", "modulator")


def test_a_history_is_each_training_s_own(content):
    """As readouts are: a trained core may get one, or lose it."""
    history = {"_target_": "vivit_core.models.histories.spikes.OwnSpikes", "bases": 2, "lags": 4, "shown": 0.5}
    composed = {**MODEL, "history": history}
    assert adopted_model(content, {**MODEL, "latent": {"rank": 2}}, {"latent"}, "a.ckpt")["latent"] == {"rank": 2}
    for said in ({"history"}, {"history.lags"}, {""}):
        assert adopted_model(content, composed, said, "a.ckpt")["history"] == history
    assert adopted_model(content, composed, set(), "a.ckpt").get("history") is None
    known = [RecordingSpec.from_dict(values) for values in content["twin"]["recordings"]]
    assert pretrained(Twin(composed, READOUT, LIKELIHOOD, known), content, "a.ckpt").parts == ("core", "modulator")


def test_one_key_of_an_own_part_leaves_the_checkpoint_s_other_settings_of_it(content):
    there, default = OWN_FILTER | {"orientations": 6, "stds_px": [2.0]}, OWN_FILTER | {"patch": 7}
    trained = {"twin": {**content["twin"], "model": {**MODEL, "own_filter": there}}}
    for said, own in (
        ({"own_filter.patch"}, there | {"patch": 7}),
        ({"own_filter"}, default),
        ({"own_filter", "own_filter.patch"}, default),
        ({"ff_dropout"}, there),
    ):
        assert adopted_model(trained, {**MODEL, "own_filter": default}, said, "a.ckpt")["own_filter"] == own
    other = default | {"_target_": "my.Filters"}
    found = adopted_model(trained, {**MODEL, "own_filter": other}, {"own_filter.patch"}, "a.ckpt")
    assert found["own_filter"] == other
    assert there == OWN_FILTER | {"orientations": 6, "stds_px": [2.0]}


def test_a_modulator_of_other_behaviors_starts_fresh(content):
    alike = replace(specs()[0], behavior={"pupil": 2})
    found = pretrained(Twin(MODEL, READOUT, LIKELIHOOD, [alike]), content, "a.ckpt")
    assert found.parts == ("core",) and "'run': 2" in found.fresh and "'pupil': 2" in found.fresh


def test_all_of_a_part_is_loaded_or_nothing(content):
    twin = make_twin(seed=3)
    said = load_parts(twin, content, ("core", "modulator"), "a.ckpt")
    numbers = sum(value.numel() for value in twin.core.state_dict().values())
    assert f"{len(twin.core.state_dict())} tensors of the core ({numbers:,} numbers) and " in said
    for name in ("core", "modulator"):
        state = {k.removeprefix(f"twin.{name}."): v for k, v in content["state_dict"].items() if f"twin.{name}." in k}
        assert equal(part(twin, name), state)

    wider = make_twin(embedding_dim=16)
    before = part(wider, "core")
    with pytest.raises(
        ValueError, match=r"core do not fit.*norm\.weight is \(8,\) there and \(16,\) here|and \d+ more"
    ):
        load_parts(wider, content, ("core",), "a.ckpt")
    deeper = make_twin(spatial_depth=2)
    with pytest.raises(ValueError, match=r"spatial\.1\.\S+ is missing"):
        load_parts(deeper, content, ("core",), "a.ckpt")
    shallow = make_twin(registers=0)
    with pytest.raises(ValueError, match="registers is unknown"):
        load_parts(shallow, content, ("core",), "a.ckpt")
    assert equal(part(wider, "core"), before)

    renamed = {**content, "state_dict": {f"model.{k}": v for k, v in content["state_dict"].items()}}
    with pytest.raises(ValueError, match="holds not one tensor of the core"):
        load_parts(make_twin(), renamed, ("core",), "a.ckpt")


def test_a_modulator_without_weights_has_nothing_to_load():
    """A gain of behavior, of recordings that have none."""
    without = [replace(specs()[0], behavior={}, behavior_mean=(), behavior_std=())]
    gain = {"_target_": "vivit_core.models.modulators.behavior_gain.BehaviorGain", "hidden": 4, "numbers": 2}
    there, here = (Twin({**MODEL, "modulator": gain}, READOUT, LIKELIHOOD, without) for _ in range(2))
    state = {f"twin.{name}": value for name, value in there.state_dict().items()}
    said = load_parts(here, {"state_dict": state}, ("core", "modulator"), "a.ckpt")
    assert "of the core" in said and "modulator" not in said
    assert equal(part(here, "core"), part(there, "core"))


@pytest.mark.slow
def test_a_checkpoint_that_is_none_is_refused(command, tiny):
    code, printed = command(*tiny, "experiment=finetune", "init_from=none.ckpt")
    assert code == 1 and "no such checkpoint" in printed
    for word in ("experiment=finetune", "optim.core_lr_scale=0", "optim.readouts_first=0.3"):
        code, printed = command(*tiny, word)
        assert code == 1 and "Say init_from=CHECKPOINT" in printed
    assert not list(Path().rglob("*.ckpt"))
