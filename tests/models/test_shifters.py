"""Shifters: what they do to frames, and whom they may be told of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    LIKELIHOOD,
    OWN_FILTER,
    READOUT,
    READOUTS_UNDER_CONTRACT,
    RESIDUAL_STEM,
    SHIFTERS,
    TUBELET,
    batch,
    clips,
    factorized,
    resnet,
    spec,
    twin,
    vivit,
)

from vivit_core.data.simulate.world import Scene, catmull_rom
from vivit_core.models.ensemble import Ensemble
from vivit_core.models.frames import shifted
from vivit_core.models.plan import check_geometry, plan
from vivit_core.models.shifters.affine import AffineShifter
from vivit_core.models.streamed_step import export_step
from vivit_core.models.twin import Twin
from vivit_core.specs import unread
from vivit_core.testing import small, twins
from vivit_core.training.optim import parameter_groups

BARE = {"modulator": None, "spatial_depth": 0, "temporal_depth": 1, "registers": 0, "window": 8}
shifters = pytest.mark.parametrize("shifter", SHIFTERS.values(), ids=SHIFTERS)


def moving(model: dict[str, Any], *specs: Any) -> Twin:
    """A twin whose shifters shift."""
    made = twin(model, *specs)
    assert made.shifters is not None
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.shifters.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise))
    return made


@given(
    shift=st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=30, deadline=None)
def test_a_shifted_frame_equals_cubic_interpolation_place_by_place(
    shift: list[tuple[float, float]], size: tuple[int, int]
) -> None:
    """Against the simulator's own interpolation, in float64, pixel by pixel."""
    frames = torch.randn(1, 2, len(shift), *size, generator=torch.Generator().manual_seed(0)).double()
    found = shifted(frames, torch.tensor([shift]).double())[0].numpy()
    for t, move in enumerate(shift):
        weights = [np.zeros((length, length)) for length in size]
        for axis, length in enumerate(size):
            for i in range(length):
                place = min(max(i + move[1 - axis], 0.0), length - 1.0)
                whole = int(np.floor(place))
                for j, weight in zip(
                    range(whole - 1, whole + 3), catmull_rom(np.array([place - whole]))[0], strict=True
                ):
                    if 0 <= j < length:
                        weights[axis][i, j] = weight
            weights[axis] /= weights[axis].sum(1, keepdims=True)
        for channel in range(2):
            expected = weights[0] @ frames[0, channel, t].numpy() @ weights[1].T
            np.testing.assert_allclose(found[channel, t], expected, atol=1e-5)


def test_what_is_shifted_is_what_the_retina_saw() -> None:
    """A frame around a wrong gaze, shifted by the gaze's error, is the frame around the right one; x to the right, y
    down."""
    rng = np.random.default_rng(0)
    scene = Scene.draw("camera", 0, (30, 40), rng)
    right = np.array([[3.0, -2.0], [0.4, 5.3]], np.float32)
    wrong = right - np.array([[4.0, -3.0], [-2.6, 1.7]], np.float32)
    seen, told = (torch.as_tensor(scene.render(gaze, (30, 40)))[None, None].double() for gaze in (right, wrong))
    found = shifted(told, torch.as_tensor(right - wrong)[None].double())
    apart = (found - seen)[0, 0, :, 6:-6, 6:-6]
    assert apart[0].abs().max() == 0  # by whole pixels
    assert apart.square().mean().sqrt() < 0.05 * seen.std()
    assert (told - seen)[0, 0, :, 6:-6, 6:-6].square().mean().sqrt() > 0.3 * seen.std()


@shifters
def test_windows_of_a_recording_move_together_at_every_readout(shifter: dict[str, Any]) -> None:
    for readout in (READOUT, *READOUTS_UNDER_CONTRACT.values()):
        parts = twins.Parts(vivit(**BARE, shifter=shifter), readout=readout)
        twins.check_no_look_ahead(parts)
        twins.check_gradients(parts)
        twins.check_round_trip(parts)
        twins.check_stream(parts)


@pytest.mark.parametrize(
    "model",
    [
        vivit(**BARE | {"spatial_depth": 1}, tokenizer=RESIDUAL_STEM),
        pytest.param(resnet(), marks=pytest.mark.long),
        pytest.param(factorized(), marks=pytest.mark.long),
    ],
    ids=["residual-stem", "resnet", "factorized"],
)
def test_every_core_sees_shifted_frames(model: dict[str, Any]) -> None:
    parts = twins.Parts(model | {"shifter": SHIFTERS["gaze"]})
    twins.check_geometries(parts, [twins.FRAME, (31, 1)])
    twins.check_gradients(parts)
    twins.check_stream(parts)
    made = moving(model | {"shifter": SHIFTERS["affine"]})
    still = twin(model | {"shifter": None})
    still.load_state_dict({k: v for k, v in made.state_dict().items() if not k.startswith("shifters.")})
    shown = batch(spec())
    shift = made.shift("a", made.normalized_behavior("a", shown["a"]["behavior"]))
    frames = shifted((shown["a"]["frames"].float() - 120) / 50, shift) * 50 + 120
    with torch.no_grad():
        expected = still.eval()({"a": shown["a"] | {"frames": frames}})["a"]
        torch.testing.assert_close(made.eval()(shown)["a"], expected, rtol=1e-4, atol=1e-6)


@shifters
def test_own_filters_look_where_the_core_looks(shifter: dict[str, Any]) -> None:
    """They bring a twin most of its score, so a shift that they did not see would correct little."""
    model = vivit(**BARE, own_filter=OWN_FILTER)
    parts = twins.Parts(model | {"shifter": shifter})
    twins.check_gradients(parts)
    twins.check_stream(parts)
    made, still = parts.twin().eval(), twins.Parts(model | {"shifter": None}).twin().eval()
    assert made.shifters is not None
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.shifters.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise))
    still.load_state_dict({k: v for k, v in made.state_dict().items() if not k.startswith("shifters.")})
    shown, of = small.clips(made.specs["a"]), made.specs["a"]
    shift = made.shift("a", made.normalized_behavior("a", shown["behavior"]))
    normalized = (shown["frames"].float() - of.pixel_mean) / of.pixel_std
    frames = shifted(normalized, shift) * of.pixel_std + of.pixel_mean
    with torch.no_grad():
        rates = made({"a": shown})["a"]
        torch.testing.assert_close(rates, still({"a": shown | {"frames": frames}})["a"], rtol=1e-3, atol=1e-5)
        own = made.own_filter("a")
        assert own is not None and not torch.allclose(own(frames).value, own(shown["frames"]).value, rtol=0.1)


def test_a_stream_equals_the_clip_while_windows_move() -> None:
    made = moving(vivit(**BARE, shifter=SHIFTERS["gaze"]))
    one = clips(spec(), count=1, bins=19)
    frames, behavior = one["frames"][0].numpy(), one["behavior"][0].numpy()
    assert np.abs(made.shift_px("a", behavior)).max() > 1
    whole = made.rates("a", frames, behavior)
    np.testing.assert_allclose(made.stream("a", clip_length=19).run(frames, behavior), whole, rtol=1e-4)


def test_an_exported_step_shifts() -> None:
    tokenizer = TUBELET | {"patch_size": [2, 4, 4]}
    model = vivit(**BARE | {"window": 2}, tokenizer=tokenizer, shifter=SHIFTERS["gaze"])
    export_step(moving(model), "a")  # compares with the stream itself


def test_each_recording_has_its_own_shift_in_its_own_pixels() -> None:
    model = vivit(**BARE, shifter=SHIFTERS["affine"], frame_size=[12, 16])
    made = moving(model, spec("a"), spec("b", height=24, width=32))
    behavior = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    assert not np.allclose(made.shift_px("a", behavior), made.shift_px("b", behavior))
    mean = np.array([made.specs["a"].behavior_mean])
    np.testing.assert_allclose(made.shift_px("a", mean), 0, atol=1e-6)
    np.testing.assert_allclose(twin(vivit(**BARE)).shift_px("a", behavior), 0)
    shown = batch(*made.specs.values())
    frames, _ = made.adapt("b", shown["b"])
    assert frames.shape[-2:] == (12, 16)
    assert set(made(shown)) == {"a", "b"}


def test_eye_position_is_found_among_other_behaviors() -> None:
    wide = replace(
        spec(behavior=5),
        behavior={"running": 2, "gaze": 2, "pupil": 1},
        behavior_mean=(0.0,) * 5,
        behavior_std=(1.0,) * 5,
    )
    made = moving(vivit(**BARE, shifter=SHIFTERS["affine"]), wide)
    behavior = np.zeros((5, 5), np.float32)
    behavior[[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]] = 1
    moved = np.abs(made.shift_px("a", behavior)).max(1) > 0
    assert moved.tolist() == [False, False, True, True, False]


def test_without_eye_position_a_shifter_is_refused_before_data_is_read() -> None:
    nowhere = SHIFTERS["gaze"] | {"behavior": "eye_position"}
    told = r"model\.shifter\.behavior=eye_position: .* but \['gaze'\]; name the one .* model/shifter=none"
    with pytest.raises(ValueError, match=told):
        twin(vivit(**BARE, shifter=nowhere))
    ahead = [unread("a", 60.0, (1, 12, 16), ["u"], {"gaze": 3}, 0)]
    with pytest.raises(ValueError, match=told):
        check_geometry(vivit(**BARE, shifter=nowhere), READOUT, LIKELIHOOD, ahead, 16, "all")
    with pytest.raises(ValueError, match="but none; name"):
        twin(vivit(**BARE, shifter=nowhere), spec(behavior=0))
    for wrong, message in (({"most_px": 0.0}, "most_px=0.0 must be above zero"), ({"hidden": 0}, "hidden=0 must")):
        with pytest.raises(ValueError, match=message):
            twin(vivit(**BARE, shifter=SHIFTERS["gaze"] | wrong))


@shifters
def test_the_plan_has_its_parameters(shifter: dict[str, Any]) -> None:
    model = vivit(**BARE, shifter=shifter)
    sizes = {"frame_shape": (1, 12, 16), "recordings": 2, "units": 5, "behavior": {"gaze": 3}, "position_dim": 0}
    planned = plan(model, READOUT, LIKELIHOOD, **sizes, clip_length=16, batch_size=4, frame_rate_hz=120.0)
    assert planned.parameters == sum(p.numel() for p in twin(model, spec("a"), spec("b")).parameters())
    (stage,) = [stage for stage in planned.stages if stage.name == "2 shifters"]  # one line, of both recordings
    assert stage.shape == "(2, 16, 2)" and stage.parameters == sum(
        p.numel() for p in twin(model, spec("a"), spec("b")).shifters.parameters()
    )


def test_what_is_in_pixels_learns_as_windows_do() -> None:
    groups = parameter_groups(twin(vivit(**BARE, shifter=SHIFTERS["gaze"])))
    assert "shifters.0.outer" in groups["windows/plain"]
    assert {"shifters.0.inner", "shifters.0.middle"} <= groups["readouts/plain"].keys()


def test_an_ensemble_shifts_as_its_members_do() -> None:
    members = [moving(vivit(**BARE, shifter=SHIFTERS["affine"])), twin(vivit(**BARE))]
    shown = batch(spec())
    with torch.no_grad():
        each = [member.eval()(shown)["a"] for member in members]
        together = Ensemble(members).eval()(shown)["a"]
    torch.testing.assert_close(together, torch.stack(each).mean(0))


def test_up_to_its_limit_a_shift_is_as_found() -> None:
    shifter = AffineShifter("gaze", numbers=2, most_px=6.0)
    shifter.initialize(torch.tensor([[3.0, 0.0], [0.0, -3.0]]))
    found = shifter(torch.tensor([[[1.9, -1.9], [2.5, 2.5]]]))
    torch.testing.assert_close(found, torch.tensor([[[5.7, 5.7], [6.0, -6.0]]]))
