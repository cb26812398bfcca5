"""What a training step will be, before any data is read: shapes, tokens, parameters, operations, memory.

The real model runs once, forward and backward, on tensors that have shapes but no values (torch's fake tensors), so
that the plan cannot disagree with the code.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vivit_core.models.attention.base import Attention
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.predictor import Predict
from vivit_core.models.tokenizers.base import Tokens
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch, Clips, RecordingSpec, unread

ADAM_COPIES = 4  # weight, gradient, and AdamW's two moments


def _attention(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


# Torch counts attention only where CUDA does it.
ATTENTION_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


@dataclass(frozen=True)
class Stage:
    """One line of the plan: what leaves a stage for one batch."""

    name: str
    shape: str
    tokens: int  # in one clip; 0 where there are none
    parameters: int


@dataclass(frozen=True)
class Plan:
    """What a training step will be.

    Attributes
    ----------
    stages : what leaves each stage.
    parameters : of the whole twin.
    flops : floating-point operations of one pass forward and backward over the batch: those of matrix products,
        convolutions and attention, the backward pass counted as two forward ones, and nothing that is computed again;
        of a latent the forward pass alone, most of which has no gradient.
    activation_bytes : the most that one pass holds at a time besides weights and moments: what the forward pass keeps,
        the backward pass's own, and the gradients made so far; of uncompiled blocks.
    weight_bytes : weights and the optimizer's moments, and the gradients.
    """

    stages: list[Stage]
    parameters: int
    flops: int
    activation_bytes: int
    weight_bytes: int

    @property
    def memory_bytes(self) -> int:
        return self.activation_bytes + self.weight_bytes


def plan(
    model: Mapping[str, Any],
    readout: Mapping[str, Any],
    likelihood: Mapping[str, Any],
    *,
    frame_shape: tuple[int, int, int],
    recordings: int,
    units: int,
    behavior: Mapping[str, int],
    position_dim: int,
    clip_length: int,
    batch_size: int,
    frame_rate_hz: float,
    predict: Predict = "all",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    device: str = "cpu",
) -> Plan:
    """Plan one training step.

    Parameters
    ----------
    model, readout, likelihood : plain dicts of the groups, as ``Twin`` takes them.
    frame_shape : channels, height and width of the recordings.
    recordings, units : how many, and units of each.
    behavior : numbers of each behavior a bin, by name.
    position_dim : numbers of a unit's position in the tissue; 0 where it is not known.
    clip_length, batch_size : bins of a clip, clips of one pass.
    frame_rate_hz : bins a second, of which those parts have more that are so many seconds long.
    predict, precision : of the training.
    device : "cpu" or "cuda". A GPU's attention never holds the weights of all pairs of tokens; a CPU's does for short
        sequences.

    Raises
    ------
    ValueError
        Where the geometry is impossible, with a remedy.
    """
    specs = expected(frame_shape, recordings, units, behavior, position_dim, frame_rate_hz)
    with FakeTensorMode(allow_non_fake_inputs=True):
        twin = Twin(model, readout, likelihood, specs, predict)
        for module in twin.modules():
            if isinstance(module, Attention) and device == "cuda":
                # The tensors stay the CPU's, whose fused attention holds as much as a GPU's, but for dropout.
                module.as_on_gpu, module.dropout = True, 0.0
        twin.check_geometry(clip_length)
        stages = _Stages(twin)
        batch = _batch(specs, frame_shape, clip_length, batch_size, units)
        counter = FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU)
        together = FlopCounterMode(display=False)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
        with _Peak() as peak:
            with counter, autocast:
                counts = twin(batch)
            with together:
                more = twin.more_nats(counts, batch, burn_in=0)
            loss = torch.stack([c.float().mean() for c in counts.values()]).sum() + more + twin.regularizer()
            loss.backward()
        stages.readouts(twin, counts)
        parameters = sum(p.numel() for p in twin.parameters())
        weights = sum(p.numel() * p.element_size() for p in twin.parameters()) * ADAM_COPIES
    gradients = weights // ADAM_COPIES
    flops = 3 * counter.get_total_flops() + together.get_total_flops()
    return Plan(stages.rows, parameters, flops, peak.bytes - gradients, weights)


def check_geometry(
    model: Mapping[str, Any],
    readout: Mapping[str, Any],
    likelihood: Mapping[str, Any],
    recordings: Sequence[RecordingSpec],
    clip_length: int,
    predict: Predict,
) -> Twin:
    """Raise ValueError, with a remedy, where such recordings do not fit such a model; nothing is computed.

    Returns
    -------
    The twin, whose parameters have shapes but no numbers.
    """
    with FakeTensorMode():
        twin = Twin(model, readout, likelihood, recordings, predict)
        twin.check_geometry(clip_length)
    return twin


def expected(
    frame_shape: tuple[int, int, int],
    recordings: int,
    units: int,
    behavior: Mapping[str, int],
    position_dim: int,
    frame_rate_hz: float,
) -> list[RecordingSpec]:
    """Recordings of these sizes, with made-up statistics."""
    unit_ids = [str(u) for u in range(units)]
    return [
        unread(f"recording{i}", frame_rate_hz, frame_shape, unit_ids, behavior, position_dim) for i in range(recordings)
    ]


def _batch(
    specs: Sequence[RecordingSpec],
    frame_shape: tuple[int, int, int],
    bins: int,
    batch_size: int,
    units: int,
) -> Batch:
    """A batch whose clips are spread over the recordings as evenly as they can be."""
    batch: Batch = {}
    for i, spec in enumerate(specs):
        clips = batch_size // len(specs) + (i < batch_size % len(specs))
        if clips:
            channels, height, width = frame_shape
            batch[spec.recording_id] = Clips(
                frames=torch.empty(clips, channels, bins, height, width),
                behavior=torch.empty(clips, bins, spec.behavior_dim),
                counts=torch.empty(clips, bins, units),
                valid=torch.ones(clips, bins, units, dtype=torch.bool),
                observed=torch.ones(clips, units, dtype=torch.bool),
            )
    return batch


class _Peak(TorchDispatchMode):
    """The most bytes that tensors made within hold at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.now = 0
        self.alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self.add(x.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def gone(_: Any) -> None:
            del self.alive[key]
            self.now -= size

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.bytes = max(self.bytes, self.now)


class _Stages:
    """Notes what leaves the twin's parts while it runs."""

    def __init__(self, twin: Twin) -> None:
        self.rows: list[Stage] = []
        core = twin.core
        for name, module in core.named_children():
            if name in ("frontend", "tokenizer"):
                module.register_forward_hook(self._note(name))
            elif name == "cell_attention":
                module.register_forward_hook(self._note("attention among cells"))
        for name, blocks in core.named_children():
            if name in ("spatial", "temporal", "joint") and isinstance(blocks, nn.ModuleList) and blocks:
                blocks[-1].register_forward_hook(self._note(f"{len(blocks)} {name} blocks", blocks))
            elif name in ("stages", "layers"):
                for i, stage in enumerate(blocks.children(), 1):
                    last = stage[-1] if isinstance(stage, nn.ModuleList) else stage
                    last.register_forward_hook(self._note(f"{name.removesuffix('s')} {i}", stage))
        core.register_forward_hook(self._note("core"))
        if twin.modulator is not None:
            twin.modulator.register_forward_hook(self._note("modulator"))

        own = {"own filters": twin.own_filters, "histories": twin.histories, "shifters": twin.shifters}
        for name, modules in own.items():
            for module in modules or []:
                module.register_forward_hook(self._note_once(f"{len(modules or [])} {name}", modules))

    def _note(self, name: str, counted: nn.Module | None = None) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            parameters = sum(p.numel() for p in (counted or module).parameters())
            if isinstance(output, Tokens):
                self._add(name, [output.x_BTND], output.x_BTND.shape[1] * output.x_BTND.shape[2], parameters)
            elif isinstance(output, list):
                self._add(
                    name,
                    [feature_map.x_BCTHW for feature_map in output if isinstance(feature_map, FeatureMap)],
                    0,
                    parameters,
                )
            else:
                several = output if isinstance(output, tuple) else [output]
                self._add(name, [x for x in several if x is not None], 0, parameters)

        return hook

    def _note_once(self, name: str, counted: nn.Module | None) -> Any:
        """Of parts that each recording has: the first one that is called."""
        note = self._note(name, counted)

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if all(row.name != name for row in self.rows):
                note(module, inputs, output)

        return hook

    def _add(self, name: str, tensors: list[Tensor], tokens: int, parameters: int) -> None:
        self.rows.append(Stage(name, " + ".join(str(tuple(x.shape)) for x in tensors), tokens, parameters))

    def readouts(self, twin: Twin, counts: Mapping[str, Tensor]) -> None:
        parameters = sum(p.numel() for p in twin.readouts.parameters())
        shapes = sorted({str(tuple(c.shape)) for c in counts.values()})
        self.rows.append(Stage(f"{len(twin.specs)} readouts", " or ".join(shapes), 0, parameters))
