"""Units' maps of their surround, and how they lie beside the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from shipped import simulator
from tiny_models import ENERGY, RESIDUAL_STEM, clips, spec, twin, vivit

from vivit_core.analysis.attention.attention import study_attention
from vivit_core.analysis.attention.draw import LEAST_SHARE, labels
from vivit_core.analysis.attention.explore import MAPS
from vivit_core.analysis.attention.section import report_section
from vivit_core.analysis.attention.surrounds import (
    KINDS,
    OWN_PX,
    correlations,
    maps_beside_truth,
    mean_of,
    median,
    surround_maps,
)
from vivit_core.cli.schema import conf_dir
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate import Context
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build
from vivit_core.specs import Clips, RecordingSpec

FOUR = ENERGY | {"orientations": 4, "std_px": 2.5, "cycles_per_std": 0.4, "reach": 4.0}


def seeing(of: RecordingSpec, **changes: Any) -> Twin:
    stem = RESIDUAL_STEM | {"patch_size": [8, 8, 8]}
    return twin(vivit(tokenizer=stem, energy=FOUR | changes, embedding_dim=64, modulator=None), of).eval()


def stripes(height: int, width: int, upright: np.ndarray) -> np.ndarray:
    """(H, W) uint8: bars that stand where it is true, and lie elsewhere."""
    y, x = np.mgrid[:height, :width]
    wave = np.where(upright, np.cos(2 * np.pi * x / 6.25), np.cos(2 * np.pi * y / 6.25))
    return np.round(127.5 + 60 * wave).astype(np.uint8)


def test_a_map_lies_where_bars_are_like_those_at_the_unit_s_place() -> None:
    of = spec(height=32, width=64)
    made, right = seeing(of), np.broadcast_to(np.arange(64) >= 32, (32, 64))
    with torch.no_grad():
        made.readout("a").mean.copy_(
            torch.tensor([[12.0, 16.0], [52.0, 16.0], [12.0, 16.0], [12.0, 16.0], [12.0, 16.0]])
        )
    frames = torch.as_tensor(stripes(32, 64, right)).expand(1, 1, 16, 32, 64)
    maps = surround_maps(made, "a", Clips(frames=frames, behavior=clips(of, count=1, bins=16)["behavior"]))
    assert maps is not None and maps.alike.shape == (5, 8, 16)
    np.testing.assert_allclose(maps.alike.sum((1, 2)), 1, rtol=1e-5)
    on_right = maps.alike[:, :, maps.xs > 32].sum((1, 2))
    assert on_right[0] < 0.1 and on_right[1] > 0.9
    near = np.hypot(maps.xs - 12.0, maps.ys[:, None] - 16.0) <= OWN_PX
    assert near.any() and (maps.alike[0][near] == 0).all()


def test_what_a_window_sees_is_what_each_of_its_cells_sees() -> None:
    """Beside a slow reference, which compares each cell of the window with each other one."""
    made = seeing(spec(height=32, width=40))
    attention = made.core.cell_attention
    torch.manual_seed(0)
    faded, windows = torch.rand(6, 8, 10), torch.rand(3, 8, 10)
    with torch.no_grad():
        attention.alike_OO.add_(0.1 * torch.randn(4, 4))
        attention.agree_22.add_(0.1 * torch.randn(2, 2))
        alike, agree = attention.seen_from(windows, faded)
        like, moves = (x[0, 0].flatten(1) for x in attention.queries(faded[None, None]))
        like_keys, _, motion, speed = (x[0, 0].flatten(1) for x in attention.keys(faded[None, None]))
        near = torch.kron(attention.nearness(8, 0), attention.nearness(10, 1))
        likes = (like.T @ attention.alike_OO @ like_keys) * near
        agrees = (moves.T @ attention.agree_22 @ (motion / speed)) * near
    torch.testing.assert_close(alike.flatten(1), windows.flatten(1) @ likes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(agree.flatten(1), windows.flatten(1) @ agrees, rtol=1e-4, atol=1e-4)


def test_without_attention_among_cells_there_is_no_map() -> None:
    of = spec(height=32, width=64)
    assert surround_maps(seeing(of, reach=None), "a", clips(of, count=1, bins=16)) is None


def test_correlations_are_numpy_s_over_the_places_that_count() -> None:
    rng = np.random.default_rng(0)
    maps, true, counts = rng.random((3, 4, 5)), rng.random((2, 4, 5)), rng.random((4, 5)) > 0.3
    true[1] = 0.25  # flat: nothing can be said
    found = correlations(maps, true, counts)
    for n in range(3):
        assert found[n, 0] == pytest.approx(np.corrcoef(maps[n][counts], true[0][counts])[0, 1])
    assert np.isnan(found[:, 1]).all()
    assert mean_of(found) == pytest.approx(found[:, 0].mean()) and np.isnan(mean_of(found[:, 1]))
    assert median(found[:, 1]) is None


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    told = yaml.safe_load((conf_dir() / "data" / "simulator" / "context" / "default.yaml").read_text())
    context: Context = build("data.simulator.context", told)
    made = simulator(recordings=1, units=24, train_trials=2, val_trials=1, test_trials=3, trial_s=2.0, context=context)
    return Recording(made.make(tmp_path_factory.mktemp("cache"))[0])


def looking(recording: Recording, centers_U2: np.ndarray) -> Twin:
    """A twin whose units look there."""
    info = recording.info
    rates = (0.1,) * info.n_units
    made = seeing(
        RecordingSpec(info.recording_id, 120.0, info.frame_shape, info.unit_ids, rates, 127.5, 40.0, {}, (), ())
    )
    with torch.no_grad():
        made.readout(info.recording_id).mean.copy_(torch.as_tensor(centers_U2))
    return made


def test_maps_at_the_true_places_are_like_the_truth(recording: Recording) -> None:
    """And at each other's places they are not."""
    centers_U2 = recording.truth("center_px")
    found = maps_beside_truth(looking(recording, centers_U2), recording)
    assert found.keys() == KINDS.keys()
    for own in found.values():
        told = own.summary()
        assert told["units"] == len(own.units) == len(own.maps) and own.maps.shape == own.true.shape
        assert told["correlation"] > max(told["other_moments"], told["other_units"]) + 0.2
    elsewhere = maps_beside_truth(looking(recording, centers_U2[::-1].copy()), recording)
    assert elsewhere["surround"].summary()["correlation"] < found["surround"].summary()["correlation"] - 0.1


@pytest.mark.slow
def test_the_study_draws_maps_beside_the_truth(recording: Recording, tmp_path: Path) -> None:
    """A picture for each kind of context; who uses no surround is told so, and the report has a table."""
    twin, test = looking(recording, recording.truth("center_px")), recording.info.trials.of("test")
    name, start = recording.info.recording_id, int(test.start[0])
    silent = int(np.flatnonzero(recording.unit_column("context") == "motion")[0])
    with torch.no_grad():
        for weights in twin.readout(name).features:
            weights[silent] = 0.0  # of every map
    clip = Clips(frames=torch.as_tensor(recording.frames(start, start + 64))[None], behavior=torch.zeros(1, 64, 0))
    found = maps_beside_truth(twin, recording)
    asked: dict[str, Any] = {"past": None, "place": None, "heads": 1, "units": 2, "megabytes": 1.0}
    summary, drawn = study_attention(twin, name, clip, [clip], beside_truth=found, out=tmp_path, **asked)
    names = [path.name for path, _ in drawn]
    assert {"attention_surround_surround.png", "attention_surround_motion.png"} <= set(names)
    assert summary["beside_truth"] == {kind: own.summary() for kind, own in found.items()}
    section = report_section(summary, tmp_path, drawn, "command")
    assert [row[0] for row in section.tables[-2].rows] == list(found)
    assert section.explore is not None
    told = section.explore.plain()
    assert [column["key"] for column in told["columns"]] == ["token_share", "cell_share"]
    assert [panel["title"] for panel in told["panels"]] == list(MAPS.values())
    with np.load(tmp_path / "attention.npz") as arrays:
        share_U = arrays["cell_share"]
        assert arrays["surround_alike"].shape == arrays["surround_agree"].shape == (24, 9, 16)
    assert np.isnan(share_U[silent]) and np.nanmax(share_U) > LEAST_SHARE
    titles = labels(np.array(["a", "b", "c"]), np.array([0.5, np.nan, 0.001]))
    assert titles == ["a: 50% of its rate", "b: uses no surround", "c: uses no surround"]


def test_nobody_knows_the_truth_of_other_recordings(tmp_path: Path) -> None:
    made = simulator(recordings=1, units=5, train_trials=1, val_trials=1, test_trials=1, trial_s=1.0).make(tmp_path)
    recording = Recording(made[0])
    assert maps_beside_truth(looking(recording, recording.truth("center_px")), recording) == {}


def test_some_units_of_a_recording_have_their_own_truth(recording: Recording) -> None:
    """Whatever a recording says of its units, of a part of them it says the same."""
    wanted = recording.info.unit_ids[1::3]
    some = Recording(recording.path, used=lambda ids: wanted)
    columns = [recording.info.unit_ids.index(unit) for unit in wanted]
    assert some.info.unit_ids == wanted and some.info.n_units == len(wanted)
    stop = 60
    for whole, part in (
        (recording.counts(0, stop), some.counts(0, stop)),
        (recording.valid(0, stop), some.valid(0, stop)),
        (recording.truth("rate", 0, stop), some.truth("rate", 0, stop)),
        (recording.truth("rate_local", 0, stop), some.truth("rate_local", 0, stop)),
    ):
        np.testing.assert_array_equal(part, whole[:, columns])
    for name in ("context", "position_um"):
        whole_U, part_U = recording.unit_column(name), some.unit_column(name)
        assert whole_U is not None and part_U is not None
        np.testing.assert_array_equal(part_U, whole_U[columns])
    np.testing.assert_array_equal(some.truth("center_px"), recording.truth("center_px")[columns])
    weights, whole_weights = some.context_weights(), recording.context_weights()
    assert weights is not None and whole_weights is not None
    np.testing.assert_array_equal(weights.weights_UMRC, whole_weights.weights_UMRC[columns])
    np.testing.assert_array_equal(weights.bins_M, whole_weights.bins_M)
