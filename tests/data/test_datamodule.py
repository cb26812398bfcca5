from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import lightning
import numpy as np
import pytest
import torch
from shipped import PLAIN
from torch import Tensor

from vivit_core.data.clips import Some, TrainingWindows
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.checksum import write_checksum
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.statistics import training_statistics
from vivit_core.data.transforms import Smooth, Velocity
from vivit_core.specs import Batch, RecordingError, RecordingSpec
from vivit_core.training.data import TrainingData

CLIP, BURN_IN = 8, 3


def datamodule(
    paths: list[Path] | None,
    *,
    batch_size: int = 6,
    batches_per_epoch: int = 4,
    specs: list[RecordingSpec] | None = None,
    **changes: Any,
) -> RecordingsDataModule:
    settings: dict[str, Any] = {
        "recordings": None if paths is None else [str(p) for p in paths],
        "root": None,
        "simulator": None,
        "cache": "unused",
        "behavior": ["eye"],
        "clip_length": CLIP,
        "burn_in": BURN_IN,
        "weighting": "equal",
        "num_workers": 0,
        "seed": 0,
    }
    settings |= changes
    same = {"evaluation_length": settings["clip_length"], "evaluation_burn_in": settings["burn_in"]}
    module = RecordingsDataModule(**(PLAIN | same | settings))
    module.configure(batch_size=batch_size, batches_per_epoch=batches_per_epoch, specs=specs)
    return module


@pytest.fixture
def three(make: Callable[..., Path]) -> list[Path]:
    return [make(f"{i}.h5", seed=i, n_units=2 + i) for i in range(3)]


def plain(batch: Batch) -> dict[str, dict[str, Any]]:
    return {rid: {name: value.tolist() for name, value in clips.items()} for rid, clips in batch.items()}  # type: ignore[attr-defined]


def joined(parts: list[Batch]) -> dict[str, dict[str, Any]]:
    """The rows of several ranks' shares of a batch, one after the other."""
    rows: dict[str, dict[str, Any]] = {}
    for part in parts:
        for rid, clips in plain(part).items():
            into = rows.setdefault(rid, {name: [] for name in clips})
            for name, values in clips.items():
                into[name] += values
    return rows


def test_a_training_batch(three: list[Path]) -> None:
    module = datamodule(three)
    module.setup()
    batches = list(module.train_dataloader())
    assert len(batches) == 4
    for batch in batches:
        assert list(batch) == ["rec0", "rec1", "rec2"]  # six clips hold all three
        assert sum(len(clips["frames"]) for clips in batch.values()) == 6
        for recording, (rid, clips) in zip(module.recordings, batch.items(), strict=True):
            b, units = len(clips["frames"]), recording.info.n_units
            assert recording.recording_id == rid
            assert {name: (tuple(v.shape), v.dtype) for name, v in clips.items()} == {  # type: ignore[attr-defined]
                "frames": ((b, 1, CLIP, 4, 6), torch.uint8),
                "counts": ((b, CLIP, units), torch.float32),
                "valid": ((b, CLIP, units), torch.bool),
                "behavior": ((b, CLIP, 2), torch.float32),
            }
            everything = recording.read(0, 120, {"eye": 2})
            for row in range(b):  # frames, counts and behavior come from one place
                start = next(
                    s for s in range(113) if np.array_equal(everything["frames"][:, s : s + CLIP], clips["frames"][row])
                )
                np.testing.assert_array_equal(everything["counts"][start : start + CLIP], clips["counts"][row])
                np.testing.assert_array_equal(everything["behavior"][start : start + CLIP], clips["behavior"][row])


def test_batches_do_not_depend_on_workers(three: list[Path]) -> None:
    seen = []
    for workers in (0, 1, 2):
        module = datamodule(three, num_workers=workers)
        module.setup()
        loader = module.train_dataloader()
        seen.append([plain(batch) for _ in range(2) for batch in loader])
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 8 and all(a != b for a, b in itertools.combinations(seen[0], 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_random_numbers_of_training_alone(workers: int, three: list[Path]) -> None:
    module = datamodule(three, num_workers=workers)
    module.setup()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert len(list(module.train_dataloader())) == 4 and len(list(module.val_dataloader())) == 3
    assert torch.equal(torch.get_rng_state(), before)


def as_rank(module: RecordingsDataModule, rank: int, world: int) -> RecordingsDataModule:
    module._ranks = lambda: (rank, world)  # type: ignore[method-assign]
    return module


def test_ranks_share_each_training_batch(three: list[Path]) -> None:
    alone = datamodule(three)
    alone.setup()
    shares = []
    for rank in range(3):
        module = as_rank(datamodule(three), rank, 3)
        module.setup()
        shares.append(list(module.train_dataloader()))
    for whole, parts in zip(alone.train_dataloader(), zip(*shares, strict=True), strict=True):
        assert all(sum(len(c["frames"]) for c in part.values()) == 2 for part in parts)
        assert joined(list(parts)) == plain(whole)
    with pytest.raises(ValueError, match="6 clips cannot be shared by 4 processes"):
        as_rank(alone, 0, 4).configure(batch_size=6)


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_scores_each_bin_once(world: int, make: Callable[..., Path]) -> None:
    trials = Trials([0, 40, 80, 95], [40, 80, 95, 100], list("abcd"), ["train", "test", "test", "test"])
    paths = [make(f"{i}.h5", seed=i, trials=trials) for i in range(2)]
    lengths = set()
    for path_index, rid in enumerate(["rec0", "rec1"]):
        scored = np.zeros(120, int)
        for rank in range(world):
            module = as_rank(datamodule(paths), rank, world)
            module.setup()
            recording = module.recordings[path_index]
            batches = list(module.evaluation_dataloader("test", (rank, world)))
            assert [next(iter(b)) for b in batches] == sorted(next(iter(b)) for b in batches)  # recordings in order
            lengths.add((rid, len(batches), *(len(c["start"]) for b in batches for c in b.values())))
            for clips in (b[rid] for b in batches if rid in b):
                for row, start in enumerate(clips["start"].tolist()):
                    bins = clips["score"].shape[1]
                    scored[start : start + bins] += clips["score"][row].numpy()
                    np.testing.assert_array_equal(clips["counts"][row], recording.counts(start, start + bins))
        expected = np.zeros(120, int)
        expected[40 + BURN_IN : 80] = expected[80 + BURN_IN : 95] = expected[95 + BURN_IN : 100] = 1
        np.testing.assert_array_equal(scored, expected)
    assert len(lengths) == 2  # for each recording, all ranks make the same steps of the same size


def test_what_is_not_among_the_few_trials_is_as_if_it_were_not_there(make: Callable[..., Path]) -> None:
    edges = np.arange(0, 121, 20)
    trials = Trials(edges[:-1], edges[1:], list("abcdee"), ["train", "train", "train", "test", "test", "test"])
    path = make(trials=trials)
    few, all_of_it = datamodule([path], most_trials=2), datamodule([path])
    for module in (few, all_of_it):
        module.setup()
    assert few.recordings[0].info.trials.of("train").start.tolist() == [0, 20]
    scored = {start for batch in few.evaluation_dataloader("test") for start in batch["rec0"]["start"].tolist()}
    assert {start // 20 for start in scored} == {4, 5}
    view = few.recordings[0]
    assert [view.trials_left_out(split) for split in ("train", "val", "test")] == [1, 0, 1]
    assert all_of_it.recordings[0].trials_left_out("train") == 0
    np.testing.assert_allclose(few.specs[0].unit_mean_counts, Recording(path).counts(0, 40).mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"data\.most_trials is 0; give 1 or more"):
        datamodule([path], most_trials=0)


def test_most_units_leave_the_smaller_inside_the_larger(make: Callable[..., Path]) -> None:
    """Counts, validity and what is said of units are those of the units that are used, for a twin of them too."""
    edges = np.arange(0, 121, 20)
    trials = Trials(edges[:-1], edges[1:], list("abcdef"), ["train"] * 4 + ["val", "test"])
    path = make(trials=trials)
    whole, inside = Recording(path), set[str]()
    count = whole.info.n_units
    for most in range(1, count + 2):
        module = datamodule([path], clip_length=5, burn_in=1, most_units=most)
        module.setup()
        view, spec = module.recordings[0], module.specs[0]
        assert len(view.info.unit_ids) == min(most, count) == spec.n_units and inside <= set(view.info.unit_ids)
        assert module.headers()[0][0].n_units == spec.n_units
        columns = [whole.info.unit_ids.index(unit) for unit in view.info.unit_ids]
        assert columns == sorted(columns)
        np.testing.assert_array_equal(view.counts(0, 120), whole.counts(0, 120)[:, columns])
        np.testing.assert_array_equal(view.valid(0, 120), whole.valid(0, 120)[:, columns])
        for changed in ({}, {"seed": 5}, {"most_units": 1}):  # a twin knows its units
            again = datamodule([path], **({"clip_length": 5, "burn_in": 1, "most_units": most} | changed))
            again.configure(specs=[spec])
            again.setup()
            np.testing.assert_array_equal(again.recordings[0].counts(0, 120), view.counts(0, 120))
        inside = set(view.info.unit_ids)
    drawn = {Some(None, seed, 1).units_of(whole.info.unit_ids) for seed in range(20)}
    assert len(drawn) == count
    known = datamodule([path], clip_length=5, burn_in=1, most_units=1)
    known.setup()
    all_of_them = datamodule([path], clip_length=5, burn_in=1)
    all_of_them.configure(specs=known.specs)
    with pytest.raises(RecordingError, match="other units than expected"):  # of which nobody knows that they are few
        all_of_them.setup()
    with pytest.raises(ValueError, match=r"data\.most_units is 0; give 1 or more"):
        datamodule([path], most_units=0)


def test_train_minutes_leave_the_smaller_inside_the_larger_and_other_splits_whole(make: Callable[..., Path]) -> None:
    edges = np.arange(0, 121, 20)
    trials = Trials(edges[:-1], edges[1:], list("abcdef"), ["train"] * 4 + ["val", "test"])
    path = make(trials=trials)  # at 100 Hz
    inside: set[int] = set()
    for bins in (15, 20, 50, 80):
        module = datamodule([path], clip_length=5, burn_in=1, train_minutes=bins / 6000)
        module.setup()
        info = module.recordings[0].info
        own = info.trials.of("train")
        used = {i for a, b in zip(own.start, own.stop, strict=True) for i in range(a, b)}
        assert len(used) == bins and inside <= used
        assert [info.trials.of(split).n_bins for split in ("val", "test")] == [20, 20]
        rows = sorted(used)
        np.testing.assert_allclose(module.specs[0].unit_mean_counts, Recording(path).counts(0, 120)[rows].mean(0), 1e-6)
        windows = TrainingWindows(info.trials, 5)
        assert all(set(range(windows[k], windows[k] + 5)) <= used for k in range(len(windows)))
        inside = used
    drawn = {tuple(Some(20 / 6000, seed, None).of(trials, 100.0).of("train").start.tolist()) for seed in range(8)}
    assert len(drawn) > 1
    assert Some(9.0, 0, None).of(trials, 100.0).n_bins == 120
    with pytest.raises(ValueError, match=r"data\.train_minutes is 0; give minutes above 0"):
        datamodule([path], train_minutes=0)


def test_statistics_are_of_the_training_trials_alone(
    make: Callable[..., Path], arrays: Callable[..., dict[str, Any]]
) -> None:
    given = arrays()
    trials = Trials([0, 30, 60, 95], [25, 60, 90, 118], list("abcd"), ["train", "val", "train", "test"])
    train = np.r_[0:25, 60:90]
    other = np.setdiff1d(np.arange(120), train)
    eye = 1000 + given["behavior"]["eye"]
    eye[:, 1] = 7.0  # constant
    eye[other] = -5e4
    counts = given["counts"].astype(np.float32)
    counts[other] = 200
    valid = np.random.default_rng(5).random((120, 3)) > 0.3
    valid[:, 2] = False
    path = make(trials=trials, behavior={"eye": eye}, counts=counts, valid=valid)
    with h5py.File(path, "r+") as file:
        file["stimulus/frames"][other] = 255
    write_checksum(path)
    spec = training_statistics(Recording(path), {"pupil": 1, "eye": 2})
    pixels = given["frames"][train].astype(np.float64)
    np.testing.assert_allclose([spec.pixel_mean, spec.pixel_std], [pixels.mean(), pixels.std()], rtol=1e-12)
    np.testing.assert_allclose(spec.behavior_mean, [0, eye[train, 0].astype(np.float64).mean(), 7], rtol=1e-12)
    np.testing.assert_allclose(spec.behavior_std, [1, eye[train, 0].astype(np.float64).std(), 1], rtol=1e-9)
    means = [counts[train, u][valid[train, u]].astype(np.float64).mean() for u in range(2)]
    np.testing.assert_allclose(spec.unit_mean_counts, [*means, 0], rtol=1e-12)
    assert spec.behavior == {"pupil": 1, "eye": 2} and spec.frame_shape == (1, 4, 6)


def test_one_acausal_behavior_is_known(make: Callable[..., Path]) -> None:
    path = make(behavior_causal={"eye": False})
    assert not training_statistics(Recording(path), {"eye": 2}).behavior_causal
    assert training_statistics(Recording(path), {}).behavior_causal


class Recorder(lightning.LightningModule):
    """Keeps the first pixels of every batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []
        self.validated = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(sum(float(clips["frames"].float().mean()) for clips in batch.values()))
        return (self.weight - self.seen[-1]) ** 2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated += sum(int(clips["score"].sum()) for clips in batch.values())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    module: RecordingsDataModule, model: Recorder | None = None, checkpoint: Path | None = None, **settings: Any
) -> Recorder:
    model = model or Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu", num_sanity_val_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*workers.*")
        warnings.filterwarnings("error", message=".*resuming from a checkpoint that ended before the epoch.*")
        trainer.fit(model, TrainingData(module), ckpt_path=checkpoint, weights_only=True)
    return model


class Stop(lightning.Callback):
    """Saves a checkpoint at a certain moment and crashes."""

    def __init__(self, moment: str, step: int, path: Path) -> None:
        self.moment, self.step, self.path = moment, step, path

    def _stop(self, trainer: lightning.Trainer, moment: str) -> None:
        if moment == self.moment and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("power cut")

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._stop(trainer, "batch")

    def on_validation_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._stop(trainer, "validation")

    def on_train_epoch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._stop(trainer, "epoch")


@pytest.mark.parametrize(
    ("moment", "step", "workers"),
    [
        ("batch", 2, 0),
        ("batch", 6, 0),
        ("batch", 6, 2),
        ("batch", 8, 0),
        ("validation", 8, 0),
        ("epoch", 8, 0),
        ("batch", 9, 0),
    ],
)
def test_an_interrupted_training_sees_the_same_batches(
    moment: str, step: int, workers: int, three: list[Path], tmp_path: Path
) -> None:
    whole = fit(datamodule(three), max_epochs=4)
    assert len(whole.seen) == 16 and whole.validated == 4 * 3 * (20 - BURN_IN)
    checkpoint = tmp_path / "stop.ckpt"
    first = Recorder()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(datamodule(three, num_workers=workers), first, max_epochs=4, callbacks=[Stop(moment, step, checkpoint)])
    rest = fit(datamodule(three, num_workers=workers), checkpoint=checkpoint, max_epochs=4)
    assert first.seen == whole.seen[:step] and rest.seen == whole.seen[step:]


def test_the_state_counts_what_was_handed_out(three: list[Path]) -> None:
    module = datamodule(three, num_workers=2)
    module.setup()
    loader = module.train_dataloader()
    whole = [plain(b) for b in loader]
    assert loader.state_dict() == {"next_sample": 24}
    loader = module.train_dataloader()
    batches: Iterator[Batch] = iter(loader)
    next(batches)
    assert loader.state_dict() == {"next_sample": 6}
    other = module.train_dataloader()
    other.load_state_dict(loader.state_dict())
    assert [plain(b) for b in other][:3] == whole[1:]


def broken(path: Path, name: str) -> Path:
    with h5py.File(path, "r+") as file:
        del file[name]
    return path


def test_all_broken_files_are_named_at_once(make: Callable[..., Path]) -> None:
    paths = [
        make("a.h5"),
        broken(make("b.h5", seed=1), "trials/split"),
        broken(make("c.h5", seed=2), "stimulus/frames"),
    ]
    with pytest.raises(
        ValueError, match=r"2 recordings cannot be used:\n- .*b\.h5: trials/split.*\n- .*c\.h5: stimulus/frames"
    ):
        datamodule(paths).setup()
    with pytest.raises(ValueError, match=r"^\S*b\.h5: trials/split: missing"):
        datamodule(paths[:2]).setup()


def test_where_recordings_come_from(three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        datamodule(None, recordings=[f"{tmp_path}/[01].h5", str(three[2]), str(three[1])]),
        datamodule(None, root=str(tmp_path)),
        datamodule(None, simulator=SimpleNamespace(make=lambda cache: three)),
    ):
        module.prepare_data()
        module.setup()
        assert [r.path for r in module.recordings] == three
        assert [s.recording_id for s in module.specs] == ["rec0", "rec1", "rec2"]
    # Folders and files that are there are no patterns, also where their names look like some.
    lab = tmp_path / "[lab]*" / "day [1]"
    lab.mkdir(parents=True)
    for path in three:
        (lab / f"[{path.stem}].h5").symlink_to(path)
    (tmp_path / "l").mkdir()  # what [lab] would be as a pattern
    for entry in (f"{lab}/*.h5", f"{lab}/[[][012]].h5", f"{tmp_path}/[lab]*/day*/*.h5", f"{tmp_path}/?lab??/**/*.h5"):
        found = datamodule(None, recordings=[entry]).paths()
        assert found == [lab / f"[{n}].h5" for n in range(3)], entry
    assert datamodule(None, recordings=[f"{lab}/[1].h5"]).paths() == [lab / "[1].h5"]
    monkeypatch.chdir(lab)
    assert datamodule(None, recordings=["[1].h5", "./[[]2*"]).paths() == [Path("[1].h5"), Path("[2].h5")]
    (tmp_path / "empty").mkdir()
    for changes, message in (
        ({"recordings": [f"{tmp_path}/*.hdf5"]}, "no file matches"),
        ({"recordings": []}, "empty list"),
        ({"root": f"{tmp_path}/empty", "simulator": SimpleNamespace(make=lambda cache: three)}, r"holds no \*.h5"),
        ({"root": f"{tmp_path}/none"}, "is not a folder"),
        ({}, "give data.recordings, data.root or data.simulator"),
    ):
        with pytest.raises(ValueError, match=message):
            datamodule(None, **changes).setup()


def test_recordings_that_do_not_fit(make: Callable[..., Path]) -> None:
    first = make("a.h5")
    for changes, settings, message in (
        ({}, {}, r"a\.h5 and .*b\.h5 are both recording 'rec0'"),
        ({"recording_id": "b"}, {"frame_rate_hz": 120.0}, r"a\.h5: it has 100 Hz and the model 120 Hz; counts cannot"),
        ({"recording_id": "b"}, {"transforms": {"a": 3}}, r"data\.transforms\.a is 3; give it a _target_"),
        ({"recording_id": "b", "behavior": {"eye": np.zeros((120, 3))}}, {}, r"'eye' has a different width"),
        ({"recording_id": "b"}, {"behavior": ["pupil"]}, r"no recording has 'pupil'; there are eye"),
        ({"recording_id": "b"}, {"clip_length": 21}, r"a\.h5: its longest training trial has 20 bins"),
        ({"recording_id": "b", "trials": Trials([0], [9], ["x"], ["test"])}, {}, r"b\.h5 has no training trial"),
    ):
        with pytest.raises(ValueError, match=message):
            datamodule([first, make("b.h5", **changes)], **settings).setup()
    module = datamodule([first], burn_in=3, clip_length=4)
    module.setup()
    module.evaluation_burn_in = 20
    module.evaluation_length = 30
    with pytest.raises(ValueError, match="no recording has a test trial longer than the burn-in of 20"):
        module.evaluation_dataloader("test")


def test_settings_that_make_no_sense(three: list[Path]) -> None:
    for changes, message in (
        ({"burn_in": CLIP}, "burn_in is 8"),
        ({"behavior": ["eye", "eye"]}, "twice"),
        ({"num_workers": -1}, "num_workers"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            datamodule(three, **changes)
    module = datamodule(three)
    module._batches_per_epoch = None
    module.setup()
    with pytest.raises(ValueError, match="batches_per_epoch"):
        module.train_dataloader()


def test_a_behavior_that_one_recording_lacks(make: Callable[..., Path]) -> None:
    module = datamodule([make("a.h5", behavior={}), make("b.h5", seed=1)])
    module.setup()
    assert [s.behavior for s in module.specs] == [{"eye": 2}, {"eye": 2}]
    assert module.specs[0].behavior_mean == (0, 0) and module.specs[0].behavior_std == (1, 1)
    batch = next(iter(module.train_dataloader()))
    assert not batch["rec0"]["behavior"].any() and batch["rec1"]["behavior"].all()


def test_behaviors_that_nobody_named_are_all_that_there_are(
    make: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """None at all too; but what looks ahead, or is of another width in each, is left out with a line."""
    without = [make("a.h5", behavior={}), make("b.h5", seed=1, behavior={})]
    module = datamodule(without, behavior=None)
    module.setup()
    assert [s.behavior for s in module.specs] == [{}, {}] and module.headers()[1] == {}
    assert next(iter(module.train_dataloader()))["rec0"]["behavior"].shape[-1] == 0

    trace = np.ones((120, 1), np.float32)
    one = {"run": trace, "eye": np.ones((120, 2), np.float32), "ahead": trace, "odd": trace}
    other = {"run": trace, "pupil": trace, "odd": np.ones((120, 3), np.float32)}
    files = [make("c.h5", seed=2, behavior=one, behavior_causal={"ahead": False}), make("d.h5", seed=3, behavior=other)]
    module = datamodule(files, behavior=None)
    module.setup()
    assert [list(s.behavior.items()) for s in module.specs] == [[("eye", 2), ("pupil", 1), ("run", 1)]] * 2
    assert all(s.behavior_causal for s in module.specs)
    assert "behavior 'ahead' is left out, because it looks ahead" in caplog.text
    assert "behavior 'odd' is left out: recordings have 1 or 3 numbers of it" in caplog.text
    caplog.clear()
    module = datamodule(files, behavior=None)
    _, widths = module.headers()
    assert caplog.text.count("is left out") == 2
    module.setup()
    assert [list(s.behavior.items()) for s in module.specs] == [list(widths.items())] * 2
    assert caplog.text.count("is left out") == 2  # once, by whatever looks first
    module = datamodule(files[:1], behavior=["ahead"])
    module.setup()
    assert not module.specs[0].behavior_causal


def test_what_is_made_on_the_way_is_not_seen(make: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    steps = {"speed": Velocity("eye"), "smooth": Smooth("speed", tau_s=0.1), "wide": Velocity("pupil")}
    module = datamodule([make()], behavior=None, transforms=steps)
    module.setup()
    assert list(module.specs[0].behavior) == ["eye", "smooth"]
    assert "data.transforms.wide makes nothing, because no recording has 'pupil'" in caplog.text


def test_evaluation_of_a_trained_twin_on_other_files(
    make: Callable[..., Path], arrays: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    trained = datamodule([make("a.h5", recording_id="mouse", units={"id": ["x", "y", "z"]}), make("b.h5", seed=1)])
    trained.setup()
    test_only = Trials([0], [120], ["x"], ["test"])
    for changes in ({"recording_id": "mouse"}, {"recording_id": "a new day"}):  # by name, or else by its units
        path = make("later.h5", seed=9, trials=test_only, units={"id": ["z", "x", "y"]}, **changes)
        module = datamodule([path], behavior=[], specs=trained.specs)
        with caplog.at_level("WARNING"):
            module.setup()
        taken = f"{path} is recording 'a new day', which the twin does not know, and is taken for its recording 'mouse'"
        assert (taken in caplog.text) == (changes["recording_id"] != "mouse")
        assert module.specs == trained.specs[:1]  # the twin's statistics, behaviors and order of units
        clips = next(iter(module.evaluation_dataloader("test")))["mouse"]
        np.testing.assert_array_equal(clips["counts"][0], arrays(9)["counts"][:CLIP, [1, 2, 0]])
        assert clips["behavior"].shape[-1] == 2
    for changes, message in (
        ({"recording_id": "mouse"}, r"missing x, y, z, not expected 0, 1, 2"),
        (
            {"recording_id": "unknown", "units": {"id": ["x", "y", "w"]}},
            r"knows no recording 'unknown'.*knows mouse, rec1",
        ),
        ({"recording_id": "rec1", "frame_rate_hz": 50.0}, r"has 50 Hz, and the twin was trained at 100; counts cannot"),
        ({"recording_id": "rec1", "frames": np.zeros((120, 5, 6), np.uint8)}, r"frame shape .* is \(1, 5, 6\)"),
        (
            {"recording_id": "rec1", "behavior": {"eye": np.ones((120, 5))}},
            r"'eye' has 5 numbers, but the twin was trained with 2",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            datamodule([make("later.h5", trials=test_only, **changes)], specs=trained.specs).setup()


def test_lightning_with_two_processes(three: list[Path], tmp_path: Path) -> None:
    module = datamodule(three)
    model = TwoProcesses(tmp_path)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*workers.*|.*sync_dist.*|.*fork.*")
        trainer.fit(model, TrainingData(module))
    alone = datamodule(three)
    alone.setup()
    shares = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for whole, *parts in zip(alone.train_dataloader(), shares[0]["train"], shares[1]["train"], strict=True):
        assert joined(parts) == plain(whole)
    assert shares[0]["scored"] + shares[1]["scored"] == 3 * (20 - BURN_IN)


class TwoProcesses(lightning.LightningModule):
    """Each process keeps what it was given, in a file of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder = folder
        self.kept: dict[str, Any] = {"train": [], "scored": 0}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.kept["train"].append(batch)
        return self.weight**2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.kept["scored"] += sum(int(clips["score"].sum()) for clips in batch.values())

    def on_fit_end(self) -> None:
        torch.save(self.kept, self.folder / f"rank{self.global_rank}.pt")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
