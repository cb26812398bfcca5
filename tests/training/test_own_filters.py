"""Units begin with what simple models know of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import LIKELIHOOD, READOUT, vivit

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.ln import LN
from vivit_core.models.own_filter import OwnFilters
from vivit_core.models.pairs import bank_of
from vivit_core.models.twin import Twin
from vivit_core.specs import RecordingSpec
from vivit_core.training import own_filters
from vivit_core.training.initialize import initialize_from_data
from vivit_core.training.own_filters import spread

NODE: dict[str, Any] = {
    "_target_": "vivit_core.models.own_filter.OwnFilters",
    "duration_s": 0.1,
    "patch": 5,
    "orientations": 4,
    "stds_px": [1.2, 2.0],
    "cycles_per_std": [0.3],
    "contrast_stds_px": [1.0, 2.0],
    "contrast_tau_s": 0.05,
}
HEIGHT, WIDTH, TRIALS, BINS = 14, 20, 16, 500
SIMPLE = ((5, 4), (3, 9), (16, 10))  # places, x and y
MEMBER, PLACE = 5, (13, 6)  # of the complex cell's pair: an orientation of the second size; x and y


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """White noise seen by simple cells through one pixel each, by a complex cell through a pair, and by none."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (TRIALS * BINS, HEIGHT, WIDTH), dtype=np.uint8)
    contrast = (frames - 127.5) / 74.0
    simple = np.stack([0.3 * np.exp(0.8 * np.roll(contrast[:, y, x], 1)) for x, y in SIMPLE], 1)
    pair = bank_of(11, 4, NODE["stds_px"], NODE["cycles_per_std"])[MEMBER].numpy()
    x, y = PLACE
    seen = np.einsum("thw,phw->tp", contrast[:, y - 5 : y + 6, x - 5 : x + 6], pair)
    energy = np.roll(np.square(seen).sum(1), 1)
    rates = np.column_stack([simple, 0.25 * energy / energy.mean(), np.full(len(frames), 1e-9)])
    starts = np.arange(TRIALS) * BINS
    path = write_recording(
        tmp_path_factory.mktemp("own") / "a.h5",
        recording_id="a",
        frame_rate_hz=60.0,
        frames=frames,
        counts=rng.poisson(rates).astype(np.uint8),
        trials=Trials(
            starts, starts + BINS, np.arange(TRIALS).astype(str), np.array(["train"] * (TRIALS - 2) + ["val", "test"])
        ),
    )
    return Recording(path)


@pytest.fixture(scope="module")
def spec(recording: Recording) -> RecordingSpec:
    means = tuple(float(x) for x in recording.counts(0, (TRIALS - 2) * BINS).mean(0))
    return RecordingSpec("a", 60.0, (1, HEIGHT, WIDTH), recording.info.unit_ids, means, 127.5, 74.0)


@pytest.fixture(scope="module")
def ln(spec: RecordingSpec) -> LN:
    """It knows the simple cells, and nothing of the others."""
    made = LN([spec], 0.1, 5, "exp")
    readout = made.readout("a")
    with torch.no_grad():
        readout.corner_U2[:3] = torch.tensor(SIMPLE).flip(1) - 2
        readout.space_UP[:3, 12] = 1.0
        readout.time_UL[:3, -2] = 1.0
    return made


def begun(recording: Recording, spec: RecordingSpec, ln: LN | None) -> tuple[Twin, OwnFilters]:
    torch.manual_seed(0)
    made = Twin(vivit(own_filter=NODE, modulator=None), READOUT, LIKELIHOOD, [spec])
    initialize_from_data(made, [recording], ln)
    own = made.own_filter("a")
    assert own is not None
    return made.eval(), own


def alone(made: Twin, own: OwnFilters, recording: Recording) -> np.ndarray:
    """Bits per spike (U,) of what the filters alone predict, on the test trial."""
    start, stop = (TRIALS - 1) * BINS, TRIALS * BINS
    with torch.no_grad():
        drive = own(torch.as_tensor(recording.frames(start, stop))[None])[0] + made.readout("a").bias
        rate = made.likelihood("a").rate(drive).double().numpy()
    counts = recording.counts(start, stop).astype(float)
    mean = counts.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (counts * np.log(rate / mean) - rate + mean).sum(0) / counts.sum(0) / np.log(2)
    return np.asarray(gain)


def test_a_twin_begins_with_what_simple_models_know(recording: Recording, spec: RecordingSpec, ln: LN) -> None:
    made, own = begun(recording, spec, ln)
    assert own.scale_U.gt(0).tolist() == [True, True, True, False, False]
    assert own.size_U.gt(0).tolist() == [False, False, False, True, False]
    assert (own.corner_U2[3] + own.side // 2).tolist() == [PLACE[1], PLACE[0]]
    pair = bank_of(own.side, 4, NODE["stds_px"], NODE["cycles_per_std"])[MEMBER]
    assert torch.einsum("phw,qhw->pq", own.pair_U2PP[3], pair).square().sum() > 0.9 * 2  # both of unit norm
    gain_U = alone(made, own, recording)
    assert gain_U[:3].min() > 0.25 and gain_U[3] > 0.2
    assert torch.isfinite(own.weight).all() and torch.isfinite(made.readout("a").bias).all()


def test_without_a_baseline_there_are_pairs_and_contrast(recording: Recording, spec: RecordingSpec) -> None:
    made, own = begun(recording, spec, None)
    assert own.scale_U.eq(0).all() and own.size_U.gt(0).tolist() == [False, False, False, True, False]
    assert alone(made, own, recording)[3] > 0.2


def test_without_validation_trials_no_filter_is_made_finer(
    recording: Recording, spec: RecordingSpec, ln: LN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred pixels follow chance where trials are few, and nothing would say so."""
    split = recording.info.trials.split
    monkeypatch.setitem(recording.info.trials.__dict__, "split", np.where(split == "val", "test", split))
    monkeypatch.setattr(own_filters, "refine", lambda *_: pytest.fail("filters were made finer"))
    made, own = begun(recording, spec, ln)
    assert alone(made, own, recording)[:3].min() > 0.2


def test_a_unit_whose_validation_trials_become_worse_keeps_its_filters(
    recording: Recording, spec: RecordingSpec, ln: LN, monkeypatch: pytest.MonkeyPatch
) -> None:
    was: list[torch.Tensor] = []

    def spoil(own: OwnFilters, likelihood: Any, bias_U: torch.Tensor, *rest: Any) -> None:
        was.extend(each.clone() for each in (*own.learned(), bias_U))
        own.linear.space_UP[0] = torch.randn(25, generator=torch.Generator().manual_seed(0))

    with monkeypatch.context() as patched:
        patched.setattr(own_filters, "refine", spoil)
        made, own = begun(recording, spec, ln)
    for before, after in zip(was, (*own.learned(), made.readout("a").bias), strict=True):
        assert torch.equal(before[0], after[0])
    assert alone(made, own, recording)[:3].min() > 0.2


def test_pieces_are_spread_over_long_trials_too(tmp_path: Path) -> None:
    starts, stops = np.array([0, 50, 2000]), np.array([50, 2000, 2100])
    path = write_recording(
        tmp_path / "a.h5",
        recording_id="a",
        frame_rate_hz=60.0,
        frames=np.zeros((2100, 2, 2), np.uint8),
        counts=np.zeros((2100, 1), np.uint8),
        trials=Trials(starts, stops, np.array(["x", "y", "z"]), np.array(["train", "train", "test"])),
    )
    recording = Recording(path)
    pieces = spread(recording, 10_000)
    assert pieces[0] == (0, 50) and pieces[-1][1] == 2000 and len(pieces) >= 4
    assert all(a[1] == b[0] for a, b in pairwise(pieces))
    assert min(b - a for a, b in pieces[1:]) > 200  # equal pieces, no crumbs
    few = spread(recording, 400)
    assert len(few) >= 4 and 300 < sum(b - a for a, b in few) < 500
    assert few[0][0] == 0 and few[-1][1] == 2000
    assert len(spread(recording, 1)) == 1


def test_short_recordings_and_odd_trials_are_fitted_too(
    recording: Recording, spec: RecordingSpec, ln: LN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few bins fit into memory, and where trials are a bin longer than a piece, weights are still found."""
    for name, value in (("FIT_NUMBERS", 5 * 12 * 2000), ("PIECE_FRAMES", BINS - 1)):
        with monkeypatch.context() as patched:
            patched.setattr(own_filters, name, value)
            made, own = begun(recording, spec, ln)
        assert alone(made, own, recording)[:3].min() > 0.2, name
