"""MATLAB files shaped like those of Mahuas et al. 2020."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from vivit_core.data.recording.reader import Recording
from vivit_core.specs import RecordingError

U, H, BINS, SEQUENCES, TEST_BINS, REPEATS = 3, 7, 404, 5, 200, 4


def content(seed: int = 0) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return {
        "nonrepeat_data_bars": {
            "spikes_train": rng.poisson(0.3, (U, BINS, SEQUENCES)).astype(np.uint8),
            "stimulus": rng.integers(0, 2, (H, 1, BINS, SEQUENCES), dtype=np.uint8),
            "Xell": rng.normal(size=(9, U)),
        },
        "test_data_bars": {
            "spikes_test": rng.poisson(0.3, (U, TEST_BINS, REPEATS)).astype(np.uint8),
            "stimulus_test": rng.integers(0, 2, (H, 1, TEST_BINS), dtype=np.uint8),
        },
        "repeat_data_bars": {"spikes_train": np.zeros((U, 9, 2), np.uint8)},
    }


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    for file, arrays in content().items():
        arrays |= {name: changes[name] for name in arrays if name in changes and file != "repeat_data_bars"}
        scipy.io.savemat(folder / f"{file}.mat", {k: v for k, v in arrays.items() if v is not None})
    return folder


@pytest.mark.parametrize("pool", [1, 5])
def test_doubles_of_whole_numbers_are_what_integers_are(
    pool: int, tmp_path: Path, importer: Callable[..., Any]
) -> None:
    """As MATLAB saves them by default."""
    arrays = {name: values for file in content().values() for name, values in file.items() if len(file) > 1}
    doubles = {name: values.astype(float) for name, values in arrays.items()}
    read = []
    for name, changes in {"integers": {}, "doubles": doubles}.items():
        path = importer("mahuas2020", f"pool={pool}")(write(tmp_path / name, **changes), tmp_path / f"{name}.h5")[0]
        recording = Recording(path)
        assert recording.info.frame_dtype == "uint8"
        read.append(recording.read(0, recording.info.n_frames, {}))
    for name, values in read[0].items():
        np.testing.assert_array_equal(values, read[1][name])


@pytest.mark.parametrize("pool", [1, 5])
def test_everything_comes_back(
    pool: int, tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "mat")
    recording = Recording(importer("mahuas2020", f"pool={pool}")(folder, tmp_path / "x.h5")[0])
    info, trials, put = recording.info, recording.info.trials, content()
    train, test = put["nonrepeat_data_bars"], put["test_data_bars"]
    assert (info.frame_shape, info.frame_dtype, info.n_units) == ((1, H, 1), "uint8", U)
    assert info.frame_rate_hz == pytest.approx(600 / pool)
    long, short = BINS // pool, TEST_BINS // pool
    assert (trials.stop - trials.start).tolist() == [long] * SEQUENCES + [short] * REPEATS
    assert sorted(trials.split[:SEQUENCES]) == ["train"] * 4 + ["val"] and set(trials.split[SEQUENCES:]) == {"test"}
    assert len(set(trials.stimulus_id[:SEQUENCES])) == SEQUENCES and len(set(trials.stimulus_id[SEQUENCES:])) == 1
    for i, (start, stop) in enumerate(zip(trials.start, trials.stop, strict=True)):
        if i < SEQUENCES:
            spikes, video = train["spikes_train"][:, :, i], train["stimulus"][:, :, :, i]
        else:
            spikes, video = test["spikes_test"][:, :, i - SEQUENCES], test["stimulus_test"]
        for t in range(stop - start):  # slow and plain: the bins t·pool … of the source
            own = slice(t * pool, (t + 1) * pool)
            clip = recording.read(int(start + t), int(start + t + 1), {})
            np.testing.assert_array_equal(clip["counts"][0], spikes[:, own].sum(1))
            np.testing.assert_array_equal(clip["frames"][0, 0], video[:, :, own.stop - 1])
    said = capsys.readouterr().out
    assert "left out: repeat_data_bars.mat" in said
    assert ("nonrepeat_data_bars.mat: the last 4 bins of each trial do not fill a bin of 5" in said) == (pool == 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stimulus": None}, r"nonrepeat_data_bars\.mat: stimulus: missing"),
        (
            {"spikes_test": np.zeros((U, 9, REPEATS), np.uint8)},
            r"test_data_bars\.mat: spikes and stimulus: have shapes",
        ),
        ({"spikes_train": np.full((U, BINS, SEQUENCES), -1.0)}, "spikes_train: holds fractions, NaN, negative"),
        ({"spikes_train": np.full((U, BINS, SEQUENCES), np.nan)}, "spikes_train: holds fractions, NaN, negative"),
        ({"spikes_train": np.full((U, BINS, SEQUENCES), -1, np.int16)}, "spikes_train: holds fractions, NaN, negative"),
        ({"spikes_test": np.full((U, TEST_BINS, REPEATS), 1 << 16, np.int32)}, "spikes_test: holds .* above 65535"),
        ({"spikes_test": np.full((U, TEST_BINS, REPEATS), 1e9)}, "spikes_test: holds .* above 65535"),
        ({"spikes_train": np.zeros((U, BINS), np.uint8)}, r"spikes_train: uint8 \(3, 404\)"),
        ({"spikes_test": np.zeros((U + 1, TEST_BINS, REPEATS), np.uint8)}, "have 4 units"),
        ({"stimulus": np.array(["a", "b"], object)}, "stimulus: object"),
    ],
)
def test_broken_files_are_named(
    changes: dict[str, Any], message: str, tmp_path: Path, importer: Callable[..., Any]
) -> None:
    with pytest.raises(RecordingError, match=message):
        importer("mahuas2020")(write(tmp_path / "mat", **changes), tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_files_missing_cut_short_or_no_matlab(tmp_path: Path, importer: Callable[..., Any]) -> None:
    make, folder = importer("mahuas2020"), write(tmp_path / "mat")
    file = folder / "test_data_bars.mat"
    whole = file.read_bytes()
    for content_ in (whole[: len(whole) // 2], b"MATLAB", b""):
        file.write_bytes(content_)
        with pytest.raises(RecordingError, match=r"test_data_bars\.mat: (file: cannot be read|spikes_test: missing)"):
            make(folder, tmp_path / "x.h5")
    file.unlink()
    with pytest.raises(RecordingError, match=r"test_data_bars\.mat: file: missing"):
        make(folder, tmp_path / "x.h5")
    with pytest.raises(RecordingError, match="is no folder"):
        make(folder / "repeat_data_bars.mat", tmp_path / "x.h5")


@pytest.mark.slow
def test_end_to_end(
    tmp_path: Path, command: Callable[..., tuple[int, str]], train_and_evaluate: Callable[..., dict[str, Any]]
) -> None:
    write(tmp_path / "mat")
    words = ["importer=mahuas2020", "source=mat", "out=data/mahuas2020.h5", "importer.pool=2"]
    code, printed = command("task=import", *words)
    assert code == 0, printed
    cut = ["data.clip_length=60", "data.evaluation_length=100", "model.tokenizer.patch_size=[2,4,1]"]
    summary = train_and_evaluate("experiment=bars", "data=mahuas2020", *cut)
    assert summary["units"] == U and summary["bins"] == REPEATS * (TEST_BINS // 2 - 30)
    assert summary["corr_to_average_mean"] is not None
