"""One bin of a stream as a function: frame, behavior and state in, rates and state out; what a rig's runtime needs.

A stream (``streaming``) keeps its state in the functions that its parts gave it: in their variables, and in lists and
objects that these hold. :func:`held` finds it there, whatever the parts are. After enough bins its shape repeats with
each token: the stream is steady. Then each bin between two ends of tokens (a *phase*) is exported by ``torch.export``.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.models.predictor import Predictor
from vivit_core.models.streaming import Stream
from vivit_core.specs import Clips
from vivit_core.system.plain import in_a_line

MOST_BINS = 20_000  # until a stream has to be steady
STILL, ENOUGH_BINS = 1e-6, 2_000  # relative change of rates in a token's time; bins in which they have to settle
PERIODS = 3  # in which what never changes is told from what does
AGREES = 1e-4  # of the largest rate: how far exported steps may be from the stream


@dataclass(frozen=True)
class Place:
    """A place where a stream holds a tensor or an integer."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], None]


@dataclass(frozen=True)
class StreamedStep:
    """A recording's stream, exported.

    Attributes
    ----------
    programs : of each phase, in order; each takes (frame (C, H, W) float32, behavior (D,) float32, *state), and gives
        (rates (U,) in Hz, *state of the next phase).
    state : of the first phase, after gray frames and behavior at its mean.
    """

    programs: list[torch.export.ExportedProgram]
    state: list[Tensor]


def held(stream: Stream) -> tuple[list[Place], list[list[Any]]]:
    """Where a stream holds tensors and integers, parameters left out, and the lists in it."""
    places, lists, seen = list[Place](), list[list[Any]](), set[int]()

    def look(name: str, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        value = get()
        if isinstance(value, bool | nn.Parameter):
            return
        if isinstance(value, Tensor | int | torch.SymInt):
            places.append(Place(name, get, put))
        else:
            walk(name, value)

    def walk(name: str, value: Any) -> None:
        if isinstance(value, nn.Module | str | type) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            for word, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                look(f"{name}.{word}", *of_cell(cell))
        elif isinstance(value, types.MethodType):
            walk(name, value.__self__)
        elif isinstance(value, functools.partial):
            walk(name, value.func)
        elif isinstance(value, list):
            lists.append(value)
            for number in range(len(value)):
                look(f"{name}[{number}]", *of_item(value, number))
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                walk(f"{name}[{number}]", item)
        elif hasattr(value, "__dict__") and not is_frozen(value):
            for word in list(vars(value)):
                look(f"{name}.{word}", *of_attribute(value, word))

    for part in ("core", "modulator", "counts"):
        walk(part, getattr(stream, part))
    return places, lists


def of_cell(cell: types.CellType) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: cell.cell_contents, lambda value: setattr(cell, "cell_contents", value)


def of_item(values: list[Any], number: int) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: values[number], lambda value: values.__setitem__(number, value)


def of_attribute(owner: Any, word: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, word), lambda value: setattr(owner, word, value)


def is_frozen(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and bool(getattr(value, "__dataclass_params__").frozen)  # noqa: B009


def fingerprint(value: Any) -> Any:
    """What stays the same where a value does: which tensor it is, and how often it was written into; an integer."""
    return (id(value), value._version) if isinstance(value, Tensor) else value


class Phase(nn.Module):
    """One step of a stream that stands in a phase, as a function of its state.

    Parameters
    ----------
    stream : in the phase, before the step.
    names : of what is its state, before it.
    after : the same after the step.
    grown : how much each integer grows in the step.
    """

    def __init__(self, stream: Stream, names: list[str], after: list[str], grown: dict[str, int]) -> None:
        super().__init__()
        places, lists = held(stream)
        self.names, self.after, self.grown = names, after, grown
        self.hold = types.SimpleNamespace(stream=stream, lists=[(values, list(values)) for values in lists])
        self.kinds = {place.name: type(place.get()) for place in places}

    def state(self) -> list[Tensor]:
        """The stream's own, at this moment."""
        values = {place.name: place.get() for place in held(self.hold.stream)[0]}
        return [torch.as_tensor(values[name]).detach().clone() for name in self.names]

    def forward(self, frame: Tensor, behavior: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        stream, given = self.hold.stream, dict(zip(self.names, state, strict=True))
        self.put(given)
        shown = Clips(frames=frame[None, :, None], behavior=behavior[None, None])
        rates = stream.expected(shown) * stream.spec.frame_rate_hz
        left = {place.name: place.get() for place in held(stream)[0]}
        return rates, *(
            given[name] + self.grown[name] if name in self.grown else left[name].clone() for name in self.after
        )

    def put(self, given: dict[str, Tensor]) -> None:
        """Let the stream stand before the step, with this state."""
        for values, before in self.hold.lists:
            values[:] = before
        for place in held(self.hold.stream)[0]:
            if place.name not in given:
                continue
            value = given[place.name]
            if issubclass(self.kinds[place.name], Tensor):
                place.set(value.clone())
            else:
                number = value.item()
                torch._check(number >= 0)
                place.set(number)


def export_step(twin: Predictor, recording_id: str) -> StreamedStep:
    """Export the stream of a recording.

    Parameters
    ----------
    twin : causal, on the CPU.
    recording_id : whose units.

    Raises
    ------
    ValueError
        For a twin that has no stream or is never steady, and one whose steps cannot be exported or, exported, do not
        give the stream's rates.
    """
    stream, period = twin.stream(recording_id), twin.stride
    spec = stream.spec
    gray = np.full(spec.frame_shape, spec.pixel_mean, np.float32), np.array(spec.behavior_mean, np.float32)
    until_steady(stream, gray, period)
    constant, grown = unchanged(stream, gray, period)
    programs, first = list[torch.export.ExportedProgram](), list[Tensor]()
    inputs = torch.zeros(spec.frame_shape), torch.zeros(spec.behavior_dim)
    for number in range(period):
        names = [place.name for place in held(stream)[0] if place.name not in constant]
        after = [name for name in grown[(number + 1) % period] if name not in constant]
        steps = {name: step for name, step in grown[number].items() if step is not None and name not in constant}
        phase = Phase(stream, names, after, steps)
        state = phase.state()
        first = first or state
        try:
            with torch.no_grad():
                programs.append(torch.export.export(phase, (*inputs, *state), strict=False))
            phase.put(dict(zip(names, state, strict=True)))
            stream.step(*gray)
        except Exception as error:  # torch raises whatever a part's code leads to
            raise ValueError(
                f"recording {recording_id}: bin {number} of a token cannot be exported ({type(error).__name__}: "
                f"{in_a_line(error)}); take another model, or stream it as it is"
            ) from error
    made = StreamedStep(programs, first)
    compare(made, twin, recording_id, gray)
    return made


def until_steady(stream: Stream, gray: tuple[np.ndarray, np.ndarray], period: int) -> None:
    """Show a stream gray frames until its state has one shape in each phase, and its rates no longer change, or have
    had time enough; it ends before the first phase."""
    before: list[Any] = []
    rates_before = np.zeros(0)
    while stream.bins < MOST_BINS:
        shapes, rates = [], []
        for _ in range(period):
            rates.append(stream.step(*gray))
            shapes.append([(place.name, getattr(place.get(), "shape", None)) for place in held(stream)[0]])
        rates_now = np.stack(rates)
        still = rates_before.shape == rates_now.shape and np.allclose(rates_now, rates_before, rtol=STILL, atol=0)
        if shapes == before and (still or stream.bins >= ENOUGH_BINS):
            return
        before, rates_before = shapes, rates_now
    raise ValueError(
        f"recording {stream.spec.recording_id}: what this model remembers still grows after {MOST_BINS} bins, and a "
        "rig needs a state of one size; train with a model.window"
    )


def unchanged(
    stream: Stream, gray: tuple[np.ndarray, np.ndarray], period: int
) -> tuple[set[str], list[dict[str, int | None]]]:
    """Which places of a steady stream never change, and by how much each integer grows in each phase (None: it is a
    tensor)."""
    kept = list[dict[str, Any]]()
    alive = []  # so that no tensor's id is another's
    for _ in range(PERIODS * period + 1):
        values = {place.name: place.get() for place in held(stream)[0]}
        alive.append(values)
        kept.append({name: fingerprint(value) for name, value in values.items()})
        stream.step(*gray)
    for _ in range(period - 1):
        stream.step(*gray)
    common = set.intersection(*(set(values) for values in kept))
    constant = {name for name in common if all(values[name] == kept[0][name] for values in kept)}

    def growth(at: int) -> dict[str, int | None]:
        steps = dict[str, int | None]()
        for name, value in alive[at].items():
            later = alive[at + 1].get(name)
            steps[name] = later - value if isinstance(value, int) and isinstance(later, int) else None
        return steps

    grown = [growth(number) for number in range(period)]
    for number in range(period, PERIODS * period):
        if growth(number) != grown[number % period]:
            raise ValueError(
                f"recording {stream.spec.recording_id}: a number that this model counts does not grow evenly, and "
                "cannot be exported; stream it as it is"
            )
    return constant, grown


def compare(made: StreamedStep, twin: Predictor, recording_id: str, gray: tuple[np.ndarray, np.ndarray]) -> None:
    """Refuse exported steps whose rates are not the stream's, on noise."""
    stream, rng = twin.stream(recording_id), np.random.default_rng(0)
    until_steady(stream, gray, len(made.programs))
    for _ in range(PERIODS * len(made.programs) + len(made.programs)):
        stream.step(*gray)
    steps, state = [program.module() for program in made.programs], made.state
    worst, largest = 0.0, 0.0
    for number in range(PERIODS * len(steps)):
        frame, behavior = noise(stream.spec, rng)
        with torch.no_grad():
            rates, *state = steps[number % len(steps)](torch.as_tensor(frame), torch.as_tensor(behavior), *state)
        expected = stream.step(frame, behavior)
        worst = max(worst, float(np.abs(rates.numpy() - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if not worst <= AGREES * largest:
        raise ValueError(
            f"recording {recording_id}: exported, the model's rates are {worst:.3g} Hz from the stream's; one of its "
            "parts keeps its state where it is not found"
        )


def noise(spec: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A frame and a behavior like the recording's in mean and standard deviation."""
    frame = spec.pixel_mean + spec.pixel_std * rng.standard_normal(spec.frame_shape)
    behavior = np.array(spec.behavior_mean) + np.array(spec.behavior_std) * rng.standard_normal(spec.behavior_dim)
    return frame.astype(np.float32), behavior.astype(np.float32)
