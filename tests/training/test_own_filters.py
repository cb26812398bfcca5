"""Units begin with what simple models know of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import LIKELIHOOD, READOUT, SHIFTERS, vivit

from vivit_core.data.clips import evaluation_windows
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.ln import LN
from vivit_core.models.own_filter import OwnFilters
from vivit_core.models.pairs import bank_of
from vivit_core.models.twin import Twin
from vivit_core.specs import RecordingSpec
from vivit_core.system.kept import Kept
from vivit_core.training import initialize, own_filters
from vivit_core.training.initialize import initialize_from_data
from vivit_core.training.own_filters import spread
from vivit_core.training.readout_fit import look

NODE: dict[str, Any] = {
    "_target_": "vivit_core.models.own_filter.OwnFilters",
    "duration_s": 0.1,
    "patch": 5,
    "orientations": 4,
    "stds_px": [1.2, 2.0],
    "cycles_per_std": [0.3],
    "pool_width": 1.5,
    "pool_tau_s": 0.05,
    "slow_tau_s": [0.05, 0.3],
}
HEIGHT, WIDTH, TRIALS, BINS = 14, 20, 16, 500
SIMPLE = ((5, 4), (3, 9), (16, 10))  # places, x and y
MEMBER, PLACE = 5, (13, 6)  # of the complex cell's pair: an orientation of the second size; x and y
MOVING, ITS_MEMBER, ITS_PLACE = 5, 2, (9, 5)  # a simple cell that prefers a direction of motion


def through_pair(contrast: np.ndarray, member: int, place: tuple[int, int]) -> np.ndarray:
    pair = bank_of(11, 4, NODE["stds_px"], NODE["cycles_per_std"])[member].numpy()
    around = np.pad(contrast, ((0, 0), (5, 5), (5, 5)))
    x, y = place
    return np.einsum("thw,phw->tp", around[:, y : y + 11, x : x + 11], pair)


def moved(contrast: np.ndarray) -> np.ndarray:
    """What the moving cell's filter says of each bin, of deviation one."""
    even, odd = through_pair(contrast, ITS_MEMBER, ITS_PLACE).T
    response = np.roll(even, 1) - np.roll(odd, 2)
    return np.asarray(response / response.std())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """White noise seen by simple cells through one pixel each, by a complex cell through a pair, by none, and by a
    simple cell that prefers a direction."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (TRIALS * BINS, HEIGHT, WIDTH), dtype=np.uint8)
    contrast = (frames - 127.5) / 74.0
    simple = np.stack([0.3 * np.exp(0.8 * np.roll(contrast[:, y, x], 1)) for x, y in SIMPLE], 1)
    energy = np.roll(np.square(through_pair(contrast, MEMBER, PLACE)).sum(1), 1)
    moving = np.exp(moved(contrast))
    rates = np.column_stack([simple, 0.25 * energy / energy.mean(), np.full(len(frames), 1e-9), 0.5 * moving])
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
    """It knows the simple cells, of the moving one half, and nothing of the others."""
    made = LN([spec], 0.1, 5, "exp")
    readout = made.readout("a")
    with torch.no_grad():
        readout.corner_U2[:3] = torch.tensor(SIMPLE).flip(1) - 2
        readout.space_UP[:3, 12] = 1.0
        readout.corner_U2[MOVING] = torch.tensor(ITS_PLACE).flip(0) - 2
        pair = bank_of(5, 4, NODE["stds_px"], NODE["cycles_per_std"])[ITS_MEMBER]
        readout.space_UP[MOVING] = pair[0].flatten()
        readout.time_UL[[0, 1, 2, MOVING], -2] = 1.0
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
        drive = own(torch.as_tensor(recording.frames(start, stop))[None]).value[0] + made.readout("a").bias
        rate = made.likelihood("a").rate(drive).double().numpy()
    counts = recording.counts(start, stop).astype(float)
    mean = counts.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (counts * np.log(rate / mean) - rate + mean).sum(0) / counts.sum(0) / np.log(2)
    return np.asarray(gain)


@pytest.mark.slow
def test_a_twin_begins_with_what_simple_models_know(recording: Recording, spec: RecordingSpec, ln: LN) -> None:
    made, own = begun(recording, spec, ln)
    assert own.scale_U.gt(0).tolist() == [True, True, True, False, False, True]
    assert own.size_U.gt(0).tolist() == [False, False, False, True, False, True]
    assert (own.corner_U2[3] + own.side // 2).tolist() == [PLACE[1], PLACE[0]]
    pair = bank_of(own.side, 4, NODE["stds_px"], NODE["cycles_per_std"])[MEMBER]
    assert torch.einsum("phw,qhw->pq", own.pair_U2PP[3], pair).square().sum() > 0.9 * 2  # both of unit norm
    gain_U = alone(made, own, recording)
    assert gain_U[:3].min() > 0.25 and gain_U[3] > 0.2
    frames = torch.as_tensor(recording.frames(0, 2 * BINS))
    found = (own.linear.filtered(frames[None]) + (own.responses(frames[None]) * own.mix_U4).sum(-1))[0, :, MOVING]
    true = torch.as_tensor(moved((frames[0].numpy() - 127.5) / 74.0))
    assert torch.corrcoef(torch.stack([found[5:], true[5:]]))[0, 1] > 0.95  # of one space times one time: .71 at most
    assert torch.isfinite(own.weight).all() and torch.isfinite(made.readout("a").bias).all()


@pytest.mark.slow
def test_readouts_begin_where_own_filters_lie(recording: Recording, spec: RecordingSpec, ln: LN) -> None:
    """On the common grid of frames, here a larger one; a unit without a pair begins elsewhere."""
    larger = 2
    model = vivit(own_filter=NODE, modulator=None, frame_size=[larger * HEIGHT, larger * WIDTH])
    made = Twin(model, READOUT, LIKELIHOOD, [spec])
    initialize_from_data(made, [recording], ln)
    own, centers_U2 = made.own_filter("a"), made.readout("a").centers()
    assert own is not None and centers_U2 is not None
    places_U2 = (own.places() + 0.5) * larger - 0.5
    assert places_U2.isfinite().all(1).tolist() == [False, False, False, True, False, True]
    torch.testing.assert_close(centers_U2[[3, MOVING]], places_U2[[3, MOVING]])


@pytest.mark.slow
def test_the_last_fit_sees_what_own_filters_add(recording: Recording, spec: RecordingSpec, ln: LN) -> None:
    """Its features times the weights are the drive and the gain of the twin's own rates."""
    made, own = begun(recording, spec, ln)
    with torch.no_grad():
        own.gain.normal_(0, 0.5)
        windows = evaluation_windows(recording.info.trials, "test", BINS, 10)
        looked = look(made, recording, windows, [], slice(0, spec.n_units))
        assert looked is not None
        weights, seen = looked
        own_UK = weights.of(slice(0, spec.n_units))
        weighed = torch.einsum("unk,uk->nuk", seen.x_UNK, own_UK[:, :-1])
        drive_NU, gain_NU = weighed[..., : seen.drives].sum(2) + own_UK[:, -1], weighed[..., seen.drives :].sum(2)
        start, stop, scored, _ = windows[0]
        frames = torch.as_tensor(recording.frames(start, stop))[None]
        rates = made({"a": {"frames": frames, "behavior": torch.zeros(1, stop - start, 0)}})["a"][0, scored - start :]
    assert gain_NU[:, 3].std() > 0.01 and (gain_NU[:, 0] == 0).all()
    torch.testing.assert_close(made.likelihood("a").rate(drive_NU, gain_NU), rates, rtol=1e-4, atol=1e-6)


def test_without_a_baseline_there_are_pairs_and_contrast(recording: Recording, spec: RecordingSpec) -> None:
    made, own = begun(recording, spec, None)
    assert own.scale_U.eq(0).all() and own.size_U.gt(0).tolist() == [False, False, False, True, False, False]
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
    """Neither of a pair that stands for its linear filter, nor of the pixels that are tried then."""
    was: list[list[torch.Tensor]] = []
    given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spoil(
        own: OwnFilters, likelihood: Any, bias_U: torch.Tensor, members_U: torch.Tensor, wanted_U: torch.Tensor, *_: Any
    ) -> None:
        given.append((members_U, wanted_U))
        was.append([each.clone() for each in (*own.learned(), bias_U)])
        own.linear.space_UP[0] = torch.randn(25, generator=torch.Generator().manual_seed(0))

    with monkeypatch.context() as patched:
        patched.setattr(own_filters, "refine", spoil)
        made, own = begun(recording, spec, ln)
    (members_U, wanted_U), (_, pixels_U) = given
    assert members_U[[3, MOVING]].tolist() == [MEMBER, ITS_MEMBER]
    assert wanted_U.tolist() == [True, True, True, True, False, True]  # the fifth never fires
    assert pixels_U[0] and not pixels_U[3:5].any()
    as_pair, as_pixels = was
    assert as_pair[0][0].abs().max() == 0 and as_pixels[0][0].argmax() == 12
    for before, after in zip(as_pixels, (*own.learned(), made.readout("a").bias), strict=True):
        assert torch.equal(before[0], after[0])
    assert alone(made, own, recording)[:3].min() > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("usual", [False, True])
def test_a_unit_without_valid_validation_bins_keeps_what_was_fitted(
    recording: Recording, spec: RecordingSpec, ln: LN, monkeypatch: pytest.MonkeyPatch, usual: bool
) -> None:
    """It has no say in what is better; its filters stay as they were found, also where all others gain."""
    trials = recording.info.trials.of("val")
    whole = recording.valid

    def valid(start: int, stop: int) -> np.ndarray:
        bins = np.arange(start, stop)
        some = np.array(np.broadcast_to(whole(start, stop), (stop - start, spec.n_units)))
        some[(bins >= trials.start[0]) & (bins < trials.stop[0]), 0] = False
        return some

    monkeypatch.setattr(recording, "valid", valid)
    if usual:
        monkeypatch.setattr(own_filters, "expected_gain", lambda better_U, error_U: torch.ones_like(better_U))
    made, own = begun(recording, spec, ln)
    assert own.linear.space_UP[0].argmax() == 12 and own.linear.space_UP[0].count_nonzero() == 1
    assert alone(made, own, recording)[:3].min() > 0.2


def test_they_are_found_in_what_the_eye_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tracker is wrong, stored frames lie elsewhere; a shifter begins with where they were."""
    rng, bins = np.random.default_rng(0), 600
    seen = rng.integers(0, 256, (bins, HEIGHT, WIDTH), dtype=np.uint8)
    eye = rng.integers(-2, 3, (bins, 2)).astype(np.float32)
    stored = np.stack([np.roll(frame, (int(y), int(x)), (0, 1)) for frame, (x, y) in zip(seen, eye, strict=True)])
    path = write_recording(
        tmp_path / "a.h5",
        recording_id="a",
        frame_rate_hz=60.0,
        frames=stored,
        counts=rng.poisson(0.3, (bins, 2)).astype(np.uint8),
        trials=Trials(np.array([0, 500]), np.array([500, 600]), np.array(["0", "1"]), np.array(["train", "val"])),
        behavior={"gaze": eye},
    )
    recording = Recording(path)
    spec = RecordingSpec(
        "a", 60.0, (1, HEIGHT, WIDTH), recording.info.unit_ids, (0.3, 0.3), 127.5, 74.0, {"gaze": 2},
        tuple(eye.mean(0).tolist()), tuple(eye.std(0).tolist()),
    )  # fmt: skip
    found: list[Any] = []
    monkeypatch.setattr(own_filters, "find_own_filters", lambda twin, recording, *_: found.append(recording))
    slope = np.diag(eye.std(0))
    monkeypatch.setattr("vivit_core.training.initialize.shift_by_position", lambda *_, **__: slope)
    for shifter in (None, SHIFTERS["affine"]):
        made = Twin(vivit(own_filter=NODE, modulator=None, shifter=shifter), READOUT, LIKELIHOOD, [spec])
        initialize_from_data(made, [recording], None)
    plain, moved = (of.frames(10, 90)[0].astype(np.float64) for of in found)
    assert (plain == stored[10:90]).all()
    # A constant is left to the readouts' places, so frames lie where they were seen, but for the mean eye position.
    rest = np.round(eye.mean(0)).astype(int)
    assert not rest.any()
    inside = np.s_[:, 4:-4, 4:-4]
    assert np.abs(moved - seen[10:90])[inside].mean() < 0.25 * np.abs(plain - seen[10:90])[inside].mean()


@pytest.mark.slow
def test_what_was_found_is_kept_for_the_next_training(
    recording: Recording, spec: RecordingSpec, ln: LN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for another one: of other settings, counts, baseline, or likelihood."""
    kept = Kept(tmp_path)

    def once(node: dict[str, Any] = NODE, baseline: LN | None = ln, likelihood: dict[str, Any] = LIKELIHOOD) -> Twin:
        torch.manual_seed(0)
        made = Twin(vivit(own_filter=node, modulator=None), READOUT, likelihood, [spec])
        initialize_from_data(made, [recording], baseline, kept=kept)
        return made

    found = once()
    with monkeypatch.context() as patched:
        patched.setattr(own_filters, "find_own_filters", lambda *_: pytest.fail("it was found again"))
        again = once()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0, msg=name)
    looked: list[int] = []
    monkeypatch.setattr(own_filters, "find_own_filters", lambda *_: looked.append(len(looked)))
    once(NODE | {"pool_tau_s": 0.1})
    once(NODE | {"cycles_per_std": [0.35]})
    once(baseline=None)
    once(likelihood=LIKELIHOOD | {"output": "softplus" if LIKELIHOOD["output"] == "exp" else "exp"})
    counts = recording.counts
    monkeypatch.setattr(recording, "counts", lambda a, b: counts(a, b) + (np.arange(a, b) == 100)[:, None])
    once()
    assert looked == [0, 1, 2, 3, 4]


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


@pytest.mark.slow
def test_short_recordings_and_odd_trials_are_fitted_too(
    recording: Recording, spec: RecordingSpec, ln: LN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few bins fit into memory, and where trials are a bin longer than a piece, weights are still found."""
    for name, value in (("FIT_NUMBERS", 6 * 12 * 2000), ("PIECE_FRAMES", BINS - 1)):
        with monkeypatch.context() as patched:
            patched.setattr(own_filters, name, value)
            made, own = begun(recording, spec, ln)
        assert alone(made, own, recording)[:3].min() > 0.2, name


@pytest.mark.slow
def test_pieces_are_the_same_kept_or_not_and_as_many_are_learned_from_as_fit(
    recording: Recording, spec: RecordingSpec, ln: LN, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, own = begun(recording, spec, ln)
    train = own_filters.Pieces(recording, own, "train")
    first = list(train)
    assert len(train.kept) == len(first) and 0 < train.bytes < own_filters.KEPT_BYTES
    for piece in first:  # kept in half precision
        pools = own.pools(piece.frames)
        torch.testing.assert_close(piece.pools.float(), pools, rtol=1e-3, atol=1e-5)
        kept = own.features(*own.responded(piece.frames, piece.pools))
        torch.testing.assert_close(kept, own.looked(piece.frames).drive, rtol=0.01, atol=1e-3)
    assert next(iter(train)) is first[0]
    monkeypatch.setattr(own_filters, "KEPT_BYTES", train.bytes // 2)
    some = own_filters.Pieces(recording, own, "train")
    for again, piece in zip(some, first, strict=True):
        assert all(torch.equal(part, other) for part, other in zip(again, piece, strict=True))
    assert 0 < len(some.kept) < len(first)
    bins = sum(len(counts) for counts in own_filters.pieces_shown(train, own).counts)
    assert bins == recording.info.trials.of("train").n_bins
    monkeypatch.setattr(own_filters, "SEARCH_PIXELS", HEIGHT * WIDTH * bins // 3)
    few = sum(len(counts) for counts in own_filters.pieces_shown(train, own).counts)
    assert bins / 5 < few < bins / 2


def test_units_that_are_better_predicted_without_have_no_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame has a contrast of its own. One unit follows what it sees as it is, one divided by the contrast in the
    last frames, and one never fires, to which nothing is fitted."""
    rng = np.random.default_rng(0)
    size = 10 ** rng.uniform(-1, 0, TRIALS * BINS)
    contrast = rng.choice([-1.0, 1.0], (len(size), HEIGHT, WIDTH)) * size[:, None, None]
    (x, y), (other_x, other_y) = SIMPLE[:2]
    plain, pool = contrast[:, y, x], np.convolve(size**2, np.exp(-np.arange(9) / 3))[: len(size)]
    divided = contrast[:, other_y, other_x] / np.sqrt(pool / pool.mean() + 0.1)
    rates = 2 * np.column_stack([np.maximum(plain, 0), np.maximum(divided, 0), np.zeros(len(size))])
    starts = np.arange(TRIALS) * BINS
    splits = np.array(["train"] * (TRIALS - 4) + ["val"] * 3 + ["test"])
    path = write_recording(
        tmp_path / "a.h5",
        recording_id="a",
        frame_rate_hz=60.0,
        frames=(127.5 + 100 * contrast).round().astype(np.uint8),
        counts=rng.poisson(rates).astype(np.uint8),
        trials=Trials(starts, starts + BINS, np.arange(TRIALS).astype(str), splits),
    )
    recording = Recording(path)
    means = tuple(float(mean) for mean in recording.counts(0, (TRIALS - 4) * BINS).mean(0))
    known = RecordingSpec("a", 60.0, (1, HEIGHT, WIDTH), recording.info.unit_ids, means, 127.5, 74.0)
    model = LN([known], 0.1, 5, "exp")
    with torch.no_grad():
        readout = model.readout("a")
        readout.corner_U2[:2] = torch.tensor(SIMPLE[:2]).flip(1) - 2
        readout.space_UP[:2, 12], readout.time_UL[:2, -1] = 1.0, 1.0
    asked = []
    monkeypatch.setattr(initialize, "steps_for", lambda units: asked.append(units) or 1)
    _, own = begun(recording, known, model)
    assert own.pool_U[:2].gt(0).tolist() == [False, True] and asked == [2]
    assert own.weight.any(1).tolist() == [True, True, False]


@pytest.mark.slow
def test_weights_of_other_units_stay_as_they_are(recording: Recording, spec: RecordingSpec, ln: LN) -> None:
    made, own = begun(recording, spec, ln)
    bias_U = made.readout("a").bias
    with torch.no_grad():
        own.weight.zero_()
        bias_U.zero_()
        wanted = torch.tensor([False, True, False, True, False, False])
        own_filters.fit_own_filters(made, recording, own, own_filters.Pieces(recording, own, "train"), wanted)
    assert own.weight.any(1).tolist() == wanted.tolist() == (bias_U != 0).tolist()
    assert alone(made, own, recording)[[1, 3]].min() > 0.2
