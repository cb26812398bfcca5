"""What every twin keeps, whatever it is made of: the checks behind those of each kind of part.

A sentence in an AssertionError says what does not hold.

Shape letters: B clips, T bins, U units, K filters in time, L lags.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_core.models.cores.base import Core
from vivit_core.models.from_data import FromData
from vivit_core.models.frontends.base import Frontend
from vivit_core.models.load import checkpoint_of, load_predictor
from vivit_core.models.own_filter import OwnFilters
from vivit_core.models.twin import Twin
from vivit_core.parts.groups import consent
from vivit_core.specs import Clips
from vivit_core.testing import small

GEOMETRIES = ((37, 50), (36, 64), (51, 51), (31, 1))  # height and width of frames, px: odd, wide, square, one column
FRAME = (18, 26)
BINS = 17  # no multiple of a token's frames
LONG = 64


@dataclass(frozen=True)
class Parts:
    """What a twin is made of.

    Parameters
    ----------
    model, readout, likelihood : plain nodes, as ``Twin`` takes them.
    packages : other packages than vivit_core whose classes they name.
    """

    model: small.Node
    readout: small.Node = field(default_factory=lambda: small.READOUT)
    likelihood: small.Node = field(default_factory=lambda: small.LIKELIHOOD)
    packages: tuple[str, ...] = ()

    def twin(self, frame: tuple[int, int] = FRAME) -> Twin:
        """The same twin each time; a history and own filters, which start without an effect, have one."""
        twin = self.unfitted(frame)
        with torch.no_grad():
            for parameter in twin.histories.parameters() if twin.histories is not None else ():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
            for own in twin.own_filters if twin.own_filters is not None else ():
                assert isinstance(own, OwnFilters)
                begin_anywhere(own)
        return twin

    def unfitted(self, frame: tuple[int, int] = FRAME) -> Twin:
        """As it is made."""
        torch.manual_seed(0)
        with consent(self.packages):
            return Twin(self.model, self.readout, self.likelihood, [small.spec(height=frame[0], width=frame[1])])


@torch.no_grad()
def begin_anywhere(own: OwnFilters) -> None:
    """Random filters of all kinds."""
    for values in (
        own.linear.space_UP,
        own.linear.time_UL,
        own.pair_U2PP,
        own.courses_U2L,
        own.mix_U4,
        own.weight,
        own.gain,
    ):
        values.copy_(0.3 * torch.randn(values.shape))
    for sizes in (own.scale_U, own.size_U, own.pool_U):
        sizes.fill_(0.3)
    units = torch.arange(len(own.pool_U))  # pools of each size, at some places within the frame
    own.place_U3.copy_(torch.stack([units % len(own.pool_apart), units % 2, (units + 1) % 3], dim=1))


def check_twin(
    model: small.Node,
    readout: small.Node = small.READOUT,
    likelihood: small.Node = small.LIKELIHOOD,
    packages: Sequence[str] = (),
    compiled: bool = False,
) -> None:
    """All of the below.

    Parameters
    ----------
    model, readout, likelihood : plain nodes, as ``Twin`` takes them.
    packages : other packages than vivit_core whose classes they name.
    compiled : compare with compiled blocks too.

    Raises
    ------
    AssertionError
        Says what does not hold.
    """
    parts = Parts(model, readout, likelihood, tuple(packages))
    check_geometries(parts)
    check_no_look_ahead(parts)
    check_gradients(parts)
    check_round_trip(parts)
    check_start(parts)
    check_checkpointing(parts)
    for bins in (BINS, LONG):
        check_stream(parts, bins)
    if compiled:
        check_compiled(parts)


def check_geometries(parts: Parts, geometries: Sequence[tuple[int, int]] = GEOMETRIES) -> None:
    """Frames of odd sizes: predictions are positive and finite numbers of the right shape, and the newest bin alone is
    the last of all; or the size is refused with a ValueError, but not each of them."""
    fit = 0
    for height, width in geometries:
        try:
            twin = parts.twin((height, width)).eval()
            twin.check_geometry(BINS)
        except ValueError as refusal:
            assert str(refusal), f"frames of {height}×{width} px are refused without a word"
            continue
        fit += 1
        shown = small.batch(next(iter(twin.specs.values())))
        counts = predicted(twin, shown["a"])
        what = f"with frames of {height}×{width} px and {BINS} bins"
        assert counts.shape == (2, BINS, 5), f"{what}, 2 clips of 5 units give {tuple(counts.shape)}"
        assert torch.isfinite(counts).all() and (counts > 0).all(), f"{what}, rates are not all positive numbers"
        twin.predict = "last"
        assert same(predicted(twin, shown["a"]), counts[:, -1]), f"{what}, the newest bin alone (last) differs"
    assert fit, f"no geometry of {list(geometries)} fits"


def check_start(parts: Parts) -> None:
    """A part that can begin from fields takes as many and as wide ones as it says, and fewer and smaller ones; it is
    scaled by clips of different lengths, which are made as they are asked for. Rates stay numbers."""
    twin = parts.twin()
    spec = next(iter(twin.specs.values()))
    frontend: Frontend | None = getattr(twin.core, "frontend", None)
    filters_KL = None if frontend is None else frontend.filters()
    filters = 0 if filters_KL is None else len(filters_KL)
    shown = [twin.adapt("a", small.clips(spec, bins=bins))[0] for bins in (BINS, BINS + 3)]
    for part in twin.core.modules():
        first = isinstance(part, Core)  # is given the video itself
        if not isinstance(part, FromData) or (frontend is None and not first):
            continue
        name, wanted = type(part).__name__, part.fields_wanted()
        depth = 0 if wanted is None else (wanted.lags or 0) if first else filters
        for number, side in ((wanted.number, wanted.side), (1, 1)) if wanted is not None and depth else ():
            before = [parameter.detach().clone() for parameter in part.parameters()]
            fields = torch.randn(number, depth, side, side)
            part.initialize(fields / fields.flatten(1).norm(dim=1)[:, None, None, None])
            changed = any(not torch.equal(a, b) for a, b in zip(before, part.parameters(), strict=True))
            assert changed, f"initialize() of {name} with {number} fields of {side} px changes no parameter"
        with torch.no_grad():
            part.normalize(x if first or frontend is None else frontend(x) for x in shown)
    counts = predicted(twin.eval(), small.batch(spec)["a"])
    assert torch.isfinite(counts).all(), "after a start from data (initialize, normalize), rates are no numbers"


def check_no_look_ahead(parts: Parts) -> None:
    """What changes at a bin changes no prediction of an earlier one; and it changes some of the later ones, behavior
    where there is a modulator, counts where there is a history, which change no prediction of their own bin. A twin
    that says it is not causal is let off."""
    twin = parts.twin().eval()
    if not twin.causal:
        return
    before, at = small.clips(next(iter(twin.specs.values()))), 9
    for what in ("frames", "behavior", "counts"):
        after = Clips(**before)
        for key in ("frames", "behavior", "counts"):
            after[key] = before[key].clone()
        if what == "frames":
            after["frames"][:, :, at:] = 255 - after["frames"][:, :, at:]
        else:
            after[what][:, at:] += 3
        change_T = (predicted(twin, after) - predicted(twin, before)).abs().amax((0, 2))
        first = int(change_T.nonzero()[0]) if change_T.any() else len(change_T)
        # What a bin's counts tell would tell of the counts that are to be predicted.
        earliest = at + 1 if what == "counts" else at
        assert first >= earliest, f"{what} of bin {at} change the prediction of bin {first}: it looks ahead"
        if what == "frames" or (twin.modulator if what == "behavior" else twin.histories) is not None:
            assert first < len(change_T), f"{what} from bin {at} on change nothing"


def check_gradients(parts: Parts) -> None:
    """Every parameter gets a gradient: what is never used, or is cut off, does not learn."""
    twin = parts.twin().eval()  # without dropout, which may leave out a whole block
    bins = BINS if twin.latents is None else LONG  # of which a latent needs several steps
    shown = {"a": small.clips(next(iter(twin.specs.values())), bins=bins)}
    predicted_BTU = twin(shown)["a"]
    likelihood = twin.likelihood("a")
    counts = torch.randint(0, 3, predicted_BTU.shape).float()
    weigh = torch.rand(predicted_BTU.shape)
    apart = (likelihood.nats(predicted_BTU, counts) * weigh).sum()
    (apart + twin.more_nats({"a": predicted_BTU}, shown, 0) + twin.regularizer()).backward()
    dead = [name for name, p in twin.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead, f"no gradient reaches {', '.join(dead)}"


def check_round_trip(parts: Parts) -> None:
    """A checkpoint holds the twin: read back, it predicts the same numbers. Where other packages are needed, it is
    refused by name without their consent."""
    twin = parts.twin().eval()
    shown = small.clips(next(iter(twin.specs.values())))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "twin.ckpt"
        torch.save(checkpoint_of(twin), path)
        for package in parts.packages:
            try:
                load_predictor(path, packages=[name for name in parts.packages if name != package])
            except ValueError as refusal:
                assert f"packages=[{package}]" in str(refusal), f"the refusal does not name {package}: {refusal}"
            else:
                raise AssertionError(f"the twin does not need {package}, or its checkpoint was read without consent")
        loaded = load_predictor(path, packages=parts.packages)
    assert loaded.specs == twin.specs, "the recordings differ after reading a checkpoint back"
    assert torch.equal(predicted(loaded, shown), predicted(twin, shown)), (
        "predictions differ after reading a checkpoint back: is a number kept outside of parameters and buffers?"
    )


def check_checkpointing(parts: Parts) -> None:
    """Blocks that are computed again in the backward pass give the same gradients, dropout included."""
    assert_alike(gradients(parts), gradients(parts, checkpointing=True), 1e-5, 1e-7, "computed again")


def check_compiled(parts: Parts, checkpointing: bool = False) -> None:
    """Compiled blocks give the same gradients, dropout included."""
    eager = gradients(parts, checkpointing=checkpointing)
    compiled = gradients(parts, checkpointing=checkpointing, compiled=True)
    assert_alike(eager, compiled, 1e-4, 1e-5, "compiled")


def check_feedback(parts: Parts) -> None:
    """A twin with a history that goes on from its own counts: they change its rates, the same seed gives the same ones,
    another one others, and a stream equals the clip."""
    found = {}
    for feedback, seed in (("none", 0), ("expected", 0), ("samples", 0), ("samples", 1)):
        twin = parts.twin()
        twin.feedback, twin.seed = feedback, seed  # type: ignore[assignment]
        shown = small.clips(next(iter(twin.specs.values())), count=1, bins=BINS)
        frames, behavior = shown["frames"][0].numpy(), shown["behavior"][0].numpy()
        found[feedback, seed] = twin.rates("a", frames, behavior)
        again = twin.stream("a", clip_length=BINS).run(frames, behavior)
        assert np.allclose(again, found[feedback, seed], rtol=1e-3), f"fed {feedback}, a stream differs from the clip"
        assert np.isfinite(again).all(), f"fed {feedback}, rates are no numbers"
    plain = found.pop(("none", 0))
    assert all(not np.allclose(other, plain) for other in found.values()), "own counts change nothing"
    assert not np.allclose(found["samples", 0], found["samples", 1]), "samples do not depend on the seed"


def check_stream(parts: Parts, bins: int = BINS) -> None:
    """Fed bin by bin, the twin predicts what it predicts of the whole clip; an acausal one refuses."""
    twin = parts.twin()
    if not twin.causal:
        try:
            twin.stream("a")
        except ValueError:
            return
        raise AssertionError("an acausal twin gives a stream, which cannot know later frames")
    shown = small.clips(next(iter(twin.specs.values())), count=1, bins=bins)
    frames, behavior = shown["frames"][0].numpy(), shown["behavior"][0].numpy()
    counts = None
    if twin.observes is not None:
        counts = np.where(shown["valid"][0], shown["counts"][0], np.nan)
        counts[bins // 2] = np.nan  # nobody tells
    whole = twin.rates("a", frames, behavior, counts=counts)
    stream = twin.stream("a", clip_length=bins)
    found = np.zeros_like(whole)
    for t in range(bins):
        found[t] = stream.step(frames[:, t], behavior[t])
        if counts is not None and t != bins // 2:
            stream.observe(counts[t])
    wrong_T = (np.abs(found - whole) > 1e-4 * np.abs(whole)).any(1)
    if wrong_T.any():
        first = int(wrong_T.argmax())
        error = float((np.abs(found - whole) / np.abs(whole)).max())
        raise AssertionError(f"of {bins} bins, a stream differs from bin {first} on, by up to {error:.1e} of the rate")


# What they share -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def predicted(twin: Any, shown: Clips) -> Tensor:
    counts: Tensor = twin({"a": shown})["a"]
    return counts


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def gradients(parts: Parts, checkpointing: bool = False, compiled: bool = False) -> dict[str, Tensor]:
    """Of a training pass with whatever dropout the parts have."""
    twin = parts.twin().train()
    twin.core.checkpointing = checkpointing
    if compiled:
        torch._dynamo.reset()  # after eight kinds of blocks in one process it goes on without compiling
        torch._dynamo.utils.counters.clear()
        twin.core.compile_blocks()
    shown = small.clips(next(iter(twin.specs.values())))
    torch.manual_seed(1)
    twin({"a": shown})["a"].square().sum().backward()
    if compiled:
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled: see Core.call"
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def assert_alike(found: dict[str, Tensor], other: dict[str, Tensor], rtol: float, atol: float, what: str) -> None:
    assert found.keys() == other.keys(), f"{what}, other parameters get a gradient: {found.keys() ^ other.keys()}"
    for name, value in found.items():
        assert torch.allclose(value, other[name], rtol, atol), (
            f"{what}, the gradient of {name} differs by up to {float((value - other[name]).abs().max()):.1e}"
        )
