"""An exported stream: a folder with a program for each phase of a token, the state that it begins with, and what it is.

``torch`` programs are .pt2 files (``torch.export.load``), ``onnx`` ones .onnx files, which onnxruntime runs without
torch. A .pt2 file is code: run only what you exported yourself.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vivit_core.analysis.tables import write_arrays
from vivit_core.models.layers import as_numbers, finite_rates
from vivit_core.models.predictor import Predictor
from vivit_core.models.published import weights_of
from vivit_core.models.streamed_step import AGREES, StreamedStep, export_step, noise
from vivit_core.models.streaming import tell_first_missing
from vivit_core.specs import RecordingSpec
from vivit_core.system.files import atomic_write, check_new_folder, new_folder, write_text
from vivit_core.system.plain import in_a_line, read_plain

ABOUT, STATE, FORMAT = "stream.json", "state.npz", 1
ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
Kind = Literal["torch", "onnx"]
Program = Callable[[Sequence[Any]], Sequence[Any]]


def check_kind(kind: Kind) -> None:
    """Refuse a format whose libraries are not installed.

    Raises
    ------
    ValueError
        Says how to install them.
    """
    if kind == "onnx":
        lacking = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
        if lacking:
            raise ValueError(
                f'format=onnx: {" and ".join(lacking)} not installed: pip install "vivit-core[onnx]"; format=torch '
                "needs none"
            )


def export_stream(twin: Predictor, recording_id: str, kind: Kind, out: Path) -> list[Path]:
    """Export the stream of a recording's units into a new folder.

    Parameters
    ----------
    twin : causal.
    recording_id : whose units.
    kind : of the programs.
    out : the folder, whole or not at all. What it is (``stream.json``) is written last.

    Raises
    ------
    ValueError
        Where the folder is not new, the library is missing, or the stream cannot be exported.
    OSError
        Where the disk is full.
    """
    check_new_folder(out)
    check_kind(kind)
    made = export_step(twin.to("cpu"), recording_id)
    digits = len(str(len(made.programs) - 1))
    names = [f"phase_{number:0{digits}d}{ENDINGS[kind]}" for number in range(len(made.programs))]
    spec = twin.specs[recording_id]
    about: dict[str, Any] = {"format": FORMAT, "kind": kind, "phases": names, "recording": spec.to_dict()}
    about["weights"] = weights_of(twin)
    with new_folder(out) as making:
        for program, name in zip(made.programs, names, strict=True):
            with atomic_write(making / name) as temporary:
                (save_torch if kind == "torch" else save_onnx)(program, temporary)
        write_arrays(making / STATE, {f"state_{number}": value.numpy() for number, value in enumerate(made.state)})
        write_text(making / ABOUT, json.dumps(about, indent=1, allow_nan=False) + "\n")
        check_rates(making, made, spec)
    return [out / name for name in (*names, STATE, ABOUT)]


def save_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file)


def save_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Inputs are ``frame``, ``behavior``, ``state_0`` …; outputs ``rates``, ``next_0`` …."""
    given = len(program.graph_signature.user_inputs) - 2
    left = len(program.graph_signature.user_outputs) - 1
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # what it says of libraries that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["frame", "behavior", *(f"state_{number}" for number in range(given))],
                output_names=["rates", *(f"next_{number}" for number in range(left))],
            )
    except Exception as error:  # the exporter raises whatever an operator leads to
        raise ValueError(
            f"format=onnx: a step has no ONNX form ({type(error).__name__}: {in_a_line(error)}); take format=torch"
        ) from error
    assert made is not None
    path.write_bytes(made.model_proto.SerializeToString())


def check_rates(out: Path, made: StreamedStep, spec: RecordingSpec) -> None:
    """Refuse files whose rates are not those of the programs they were made of."""
    written, state, rng = ExportedStream(out), made.state, np.random.default_rng(1)
    steps = [program.module() for program in made.programs]
    worst = largest = 0.0
    for number in range(2 * len(steps)):
        frame, behavior = noise(spec, rng)
        with torch.no_grad():
            rates, *state = steps[number % len(steps)](torch.as_tensor(frame), torch.as_tensor(behavior), *state)
        worst = max(worst, float(np.abs(written.step(frame, behavior) - rates.numpy()).max()))
        largest = max(largest, float(rates.abs().max()))
    if not worst <= AGREES * largest:
        raise ValueError(f"what was written gives rates {worst:.3g} Hz from the stream's; take another format")


class ExportedStream:
    """An exported stream, bin after bin, as :class:`vivit_core.models.streaming.Stream`.

    It begins after gray frames and behavior at its mean, as a stream that has been shown these for long.

    Parameters
    ----------
    folder : that ``task=export`` wrote.
    threads : of onnxruntime.

    Attributes
    ----------
    spec : of the recording.
    weights : a hash of the model's; None in exports from before it was kept.
    kind : "torch" or "onnx".
    bins : so far.
    missing_values : so far; as of :class:`vivit_core.models.streaming.Stream`.

    Raises
    ------
    ValueError
        Where the folder is none, or its library is not installed.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        folder = Path(folder)
        if not (folder / ABOUT).is_file():
            raise ValueError(
                f"{folder}: not an exported stream, because it holds no {ABOUT}; give task=export's folder"
            )
        about = read_plain(folder / ABOUT)
        if about.get("format") != FORMAT or about.get("kind") not in ENDINGS:
            raise ValueError(f"{folder / ABOUT}: not of this version; export it anew")
        self.kind: Kind = about["kind"]
        check_kind(self.kind)
        load = run_torch if self.kind == "torch" else run_onnx
        self.bins = self.missing_values = 0
        try:
            self.weights: str | None = about.get("weights")
            self.spec = RecordingSpec.from_dict(about["recording"])
            self.phases = [load(folder / name, threads) for name in about["phases"]]
            if not self.phases:
                raise ValueError(f"{ABOUT} names no program")
            with np.load(folder / STATE, allow_pickle=False) as archive:
                arrays = [archive[f"state_{number}"] for number in range(len(archive.files))]
        except Exception as error:  # each library has its own errors for a broken file, and anything may be missing
            raise ValueError(
                f"{folder}: cannot be loaded ({type(error).__name__}: {in_a_line(error)}); export it anew"
            ) from error
        self.state: list[Any] = [torch.as_tensor(x) for x in arrays] if self.kind == "torch" else arrays

    def step(self, frame: np.ndarray, behavior: np.ndarray | None = None) -> np.ndarray:
        """The rates of the bin of this frame, (U,) in Hz.

        Parameters
        ----------
        frame : (H, W) or (C, H, W), raw pixel values as in the recording.
        behavior : (D,) raw values; None where the recording has none.

        Raises
        ------
        ValueError
            For a frame or behavior of a wrong shape or of no real numbers, and rates that are none.
        """
        name = self.spec.recording_id
        pixels = as_numbers(frame, f"a frame of recording {name}").astype(np.float32, copy=False)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        given = as_numbers(np.zeros(0) if behavior is None else behavior, f"behavior of recording {name}")
        beside = given.astype(np.float32, copy=False)
        if pixels.shape != self.spec.frame_shape or beside.shape != (self.spec.behavior_dim,):
            raise ValueError(
                f"recording {name} has frames of shape {self.spec.frame_shape} and behavior of "
                f"({self.spec.behavior_dim},), not {pixels.shape} and {beside.shape}"
            )
        lost = sum(int((~np.isfinite(own)).sum()) for own in (pixels, beside))
        tell_first_missing(self.spec, self.bins, lost, self.missing_values)
        self.missing_values += lost
        run = self.phases[self.bins % len(self.phases)]
        rates, *self.state = run([pixels, beside, *self.state])
        self.bins += 1
        return finite_rates(np.asarray(rates), name)


def run_torch(path: Path, threads: int) -> Program:
    logging.getLogger("torch.export").setLevel(logging.ERROR)  # it shows what it raises anyway, with its traceback
    step = torch.export.load(path).module()

    def run(inputs: Sequence[Any]) -> Sequence[Any]:
        with torch.no_grad():
            outputs: Sequence[Any] = step(*(torch.as_tensor(value) for value in inputs))
        return outputs

    return run


def run_onnx(path: Path, threads: int) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = {given.name for given in session.get_inputs()}  # behavior is none where the model sees none

    def run(inputs: Sequence[Any]) -> Sequence[Any]:
        names = ["frame", "behavior", *(f"state_{number}" for number in range(len(inputs) - 2))]
        given = {name: value for name, value in zip(names, inputs, strict=True) if name in wanted}
        outputs: Sequence[Any] = session.run(None, given)
        return outputs

    return run
