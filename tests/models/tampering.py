"""A small checkpoint, and what somebody who means ill may make of it. For tests, and for the attack that tries more."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tiny_models
import torch
from shipped import settings_in
from torch._subclasses.fake_tensor import FakeTensorMode

from vivit_core.models.checkpoint import WRITTEN, read_checkpoint, settings_of
from vivit_core.models.ln import LN
from vivit_core.models.load import baseline_in, checkpoint_of, load_twin
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build

Content = dict[str, Any]
COSINES = "vivit_core.data.transforms.PositionBasis"
MANY_COSINES = {"_target_": COSINES, "source": "eye", "n": 10**9, "low": 0.0, "high": 1.0}
DATA: dict[str, Any] = {
    "_target_": "vivit_core.data.datamodule.RecordingsDataModule",
    "recordings": None,
    "root": None,
    "cache": ".cache/simulated",
    "behavior": ["eye"],
    "clip_length": 60,
    "burn_in": 20,
    "evaluation_length": 60,
    "evaluation_burn_in": 20,
    "weighting": "units",
    "num_workers": 0,
    "seed": 0,
    "simulator": {
        "_target_": "vivit_core.data.simulate.Simulator",
        **settings_in("data/simulator/backimage"),
        "context": None,
        "eye_tracker": None,
        "recordings": 2,
        "units": 6,
    },
    "transforms": {"eye": {"_target_": "vivit_core.data.transforms.Velocity", "source": "eye_position"}},
    "augmentation": None,
    "frame_rate_hz": None,
    "verify": "known",
    "worker_timeout_s": 300.0,
    "most_trials": None,
    "train_minutes": None,
    "most_units": None,
}


def content() -> Content:
    """A checkpoint's content as a training writes it, less what Lightning adds."""
    torch.manual_seed(0)
    history = {"_target_": "vivit_core.models.histories.spikes.OwnSpikes", "bases": 3, "lags": 6, "shown": 0.75}
    model = tiny_models.vivit(spatial_depth=1, temporal_depth=1, frontend=tiny_models.BASIS, history=history)
    twin = tiny_models.twin(model, readout=tiny_models.ASKING)
    ln = LN(list(twin.specs.values()), duration_s=0.1, patch=3, nonlinearity="exp")
    made = {**checkpoint_of(twin), "ln": {"description": ln.description(), "weights": ln.state_dict()}}
    return copy.deepcopy({**made, "settings": {"data": DATA, "seed": 0}, "epoch": 0, "global_step": 4})


def read_all(path: Path) -> tuple[Twin, LN | None, Any]:
    """All that a task takes from a checkpoint."""
    read = read_checkpoint(path)
    twin, ln, settings = load_twin(path), baseline_in(path, read), settings_of(path, read)
    return twin, ln, None if settings is None else build("data", settings["data"])


# What runs code, or would ---------------------------------------------------------------------------------------------


def targets(canary: Path) -> Iterator[dict[str, Any]]:
    """Nodes that would touch the canary, or that name what no part is."""
    text = f"import pathlib; pathlib.Path({str(canary)!r}).touch()"
    yield {"_target_": "torch._inductor.codecache.PyCodeCache.load", "source_code": text}
    yield {"_target_": "torch.load", "f": str(canary), "weights_only": False}
    yield {"_target_": "os.system", "command": f"touch {canary}"}
    yield {"_target_": "subprocess.check_call", "args": ["touch", str(canary)]}
    yield {"_target_": "builtins.eval", "_args_": [text]}
    yield {"_target_": "builtins.open", "file": str(canary), "mode": "w"}
    yield {"_target_": "canary_module.Part", "x": 1}
    yield {"_target_": "vivit_core.system.files.write_text", "path": str(canary), "text": ""}
    yield {"_target_": "vivit_core.data.recording.writer.write_recording", "path": str(canary)}
    yield {"_target_": "vivit_core.models.load.load_twin", "path": str(canary)}
    yield {"_target_": "vivit_core.models.layers.torch.hub.load"}
    yield {"_target_": "vivit_core.models.layers.nn.Linear", "in_features": 1, "out_features": 1}
    yield {"_target_": "vivit_core.models.twin.Twin"}
    yield {"_target_": "vivit_core.models.nothing.There"}
    yield {"_target_": "vivit_core.models..vivit.ViViT"}
    yield {"_target_": "vivit_core.models.cores.vivit.ViViT\n"}
    yield {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": str(canary)}
    yield {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(canary)}
    yield {"_target_": 3}
    yield {"_target_": ["os.system"]}
    yield {"_target_": "vivit_core.models.readouts.gaussian.GaussianReadout", "_partial_": True}


PLACES: dict[str, tuple[str, ...]] = {
    "data": ("settings", "data"),
    "simulator": ("settings", "data", "simulator"),
    "transform": ("settings", "data", "transforms", "eye"),
    "augmentation": ("settings", "data", "augmentation"),
    "a list": ("settings", "data", "behavior", "x"),
    "core": ("twin", "model"),
    "tokenizer": ("twin", "model", "tokenizer"),
    "attention": ("twin", "model", "attention"),
    "frontend": ("twin", "model", "frontend"),
    "history": ("twin", "model", "history"),
    "modulator": ("twin", "model", "modulator"),
    "a number": ("twin", "model", "embedding_dim"),
    "predictor": ("twin",),
    "readout": ("twin", "readout"),
    "likelihood": ("twin", "likelihood"),
    "LN": ("ln", "description"),
}


def put(made: Content, keys: tuple[str, ...], value: Any) -> Content:
    """A copy with another value at a place; tensors are shared."""
    changed = dict(made)
    inner: Any = changed
    for key in keys[:-1]:
        inner[key] = {"x": 0} if isinstance(inner[key], list) else dict(inner[key])
        inner = inner[key]
    inner[keys[-1]] = value
    return changed


# What takes memory or time, or is no twin -----------------------------------------------------------------------------


def at(*keys: str, value: Any) -> Callable[[Content], Content]:
    return lambda made: put(made, keys, value)


def weight(change: Callable[[torch.Tensor], Any]) -> Callable[[Content], Content]:
    """Another kind of tensor in the place of the norm's weight."""
    name = "twin.core.norm.weight"
    return lambda made: put(made, ("state_dict", name), change(made["state_dict"][name]))


def without_storage(**model: Any) -> Callable[[Content], Content]:
    """A larger model whose tensors all lie over one number (stride 0)."""

    def change(made: Content) -> Content:
        twin = made["twin"] | {"model": made["twin"]["model"] | model}
        with FakeTensorMode():
            shapes = {name: tuple(value.shape) for name, value in Twin.from_description(twin).state_dict().items()}
        state = {f"twin.{name}": torch.zeros(1)[0].expand(shape) for name, shape in shapes.items()}
        return made | {"twin": twin, "state_dict": state}

    return change


def of_one_storage(made: Content) -> Content:
    one = torch.zeros(1 << 16)
    return made | {"state_dict": {f"twin.{i}": one[:] for i in range(64)}}


def recording(**changes: Any) -> Callable[[Content], Content]:
    def change(made: Content) -> Content:
        first, *others = made["twin"]["recordings"]
        return put(made, ("twin", "recordings"), [first | changes, *others])

    return change


def deep(made: Content) -> Content:
    node: Any = made["twin"]["model"]
    for _ in range(60):
        node = {"_target_": "vivit_core.models.cores.vivit.ViViT", "tokenizer": node}
    return put(made, ("twin", "model"), node)


def references(made: Content) -> Content:
    """A list of lists of lists …: 2^28 words in a few hundred bytes."""
    node: Any = ["eye"] * 2
    for _ in range(27):
        node = [node, node]
    return put(made, ("settings", "data", "behavior"), node)


def circle(made: Content) -> Content:
    node: list[Any] = []
    node.append(node)
    return put(made, ("settings", "data", "behavior"), node)


TAMPERINGS: dict[str, Callable[[Content], Content]] = {
    "stride 0": weight(lambda w: w[:1].clone().expand(16)),
    "stride 0, 6 GB": without_storage(embedding_dim=24_000),
    "stride 0, 691 GB": without_storage(embedding_dim=240_000),
    "one storage for all": of_one_storage,
    "sparse": weight(lambda w: w.to_sparse()),
    "sparse rows": weight(lambda w: w[None].to_sparse_csr()),
    "meta": weight(lambda w: w.to("meta")),
    "quantized": weight(lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
    "nested": weight(lambda w: torch.nested.nested_tensor([w])),
    "parameter": weight(lambda w: torch.nn.Parameter(w)),
    "complex": weight(lambda w: w.to(torch.complex64)),
    "integer": weight(lambda w: w.long()),
    "double": weight(lambda w: w.double()),
    "NaN": weight(lambda w: w * torch.nan),
    "infinite": weight(lambda w: w / 0),
    "no tensor": weight(lambda w: w.tolist()),
    "another shape": weight(lambda w: w[:-1].clone()),
    "another name": lambda made: made | {"state_dict": made["state_dict"] | {"twin.else": torch.zeros(1)}},
    "no weights": at("state_dict", value={}),
    "weights are a list": at("state_dict", value=[1]),
    "depth": at("twin", "model", "spatial_depth", value=10**9),
    "negative depth": at("twin", "model", "spatial_depth", value=-3),
    "width": at("twin", "model", "embedding_dim", value=10**9),
    "negative width": at("twin", "model", "embedding_dim", value=-16),
    "no width": at("twin", "model", "embedding_dim", value=0),
    "width is a word": at("twin", "model", "embedding_dim", value="16"),
    "width is true": at("twin", "model", "embedding_dim", value=True),
    "width is huge": at("twin", "model", "embedding_dim", value=2**62),
    "registers": at("twin", "model", "registers", value=10**12),
    "lags": at("twin", "model", "frontend", "lags", value=10**12),
    "lags and functions of a history": lambda made: put(
        put(made, ("twin", "model", "history", "bases"), 100), ("twin", "model", "history", "lags"), 1_000_000
    ),
    "numbers of a query": at("twin", "readout", "head_dim", value=100_000_000),
    "width with energies": at("twin", "model", value=tiny_models.vivit(embedding_dim=10**8, energy=tiny_models.ENERGY)),
    "zero widths": at("twin", "model", "tokenizer", value=tiny_models.RESIDUAL_STEM | {"widths": [0, 0]}),
    "many widths": at("twin", "model", "tokenizer", value=tiny_models.RESIDUAL_STEM | {"widths": [1] * 4000}),
    "many layers": at("twin", "model", value=tiny_models.factorized(channels=[2] * 4000)),
    "patch of nothing": at("twin", "model", "tokenizer", "patch_size", value=[0, 4, 4]),
    "frame size": at("twin", "model", "frame_size", value=[10**5, 10**5]),
    "unknown key": at("twin", "model", "of_a_later_version", value=1),
    "a key missing": at("twin", "model", value={"_target_": "vivit_core.models.cores.vivit.ViViT"}),
    "unknown part": at("twin", "of_a_later_version", value=1),
    "readout": at("twin", "readout", "std_px", value=-1.0),
    "output": at("twin", "likelihood", "output", value="sin"),
    "no likelihood": at("twin", "likelihood", value=None),
    "predict": at("twin", "predict", value="some"),
    "twin's class": at("twin", "_target_", value="vivit_core.models.predictor.Predictor"),
    "twin is an LN": at("twin", "_target_", value="vivit_core.models.ln.LN"),
    "no class": at("twin", "_target_", value=None),
    "later format": at(WRITTEN, value={"format": 999, "version": "9.9"}),
    "older format": at(WRITTEN, value={"format": 0, "version": "0.0"}),
    "no number of a format": at(WRITTEN, value={"format": "1"}),
    "format is true": at(WRITTEN, value={"format": True}),
    "no version": at(WRITTEN, value=[]),
    "no recordings": at("twin", "recordings", value=[]),
    "recordings are words": at("twin", "recordings", value=["a"]),
    "recordings are a dict": at("twin", "recordings", value={"a": 1}),
    "many recordings": lambda made: put(made, ("twin", "recordings"), made["twin"]["recordings"] * 20_000),
    "many units": recording(unit_ids=["u"] * 300_000, unit_mean_counts=[0.1] * 300_000),
    "a mean missing": recording(unit_mean_counts=[0.1]),
    "NaN rate": recording(frame_rate_hz=float("nan")),
    "no rate": recording(frame_rate_hz=0.0),
    "infinite mean": recording(pixel_mean=float("inf")),
    "frame of nothing": recording(frame_shape=[1, 0, 8]),
    "frame of two sides": recording(frame_shape=[8, 8]),
    "behavior": recording(behavior={"a": -1, "b": 3}, behavior_mean=[0.0] * 2, behavior_std=[1.0] * 2),
    "unknown statistic": recording(of_a_later_version=1),
    "half a character": recording(recording_id="\ud800"),
    "huge integer": at("epoch", value=10**5000),
    "bytes": at("epoch", value=b"x"),
    "set": at("epoch", value={1, 2}),
    "odd keys": at("settings", value={(1, 2): 3, "data": DATA}),
    "deep nodes": deep,
    "references": references,
    "circle": circle,
    "twin is a list": at("twin", value=[1]),
    "no twin": lambda made: {key: value for key, value in made.items() if key != "twin"},
    "settings are a list": at("settings", value=[1]),
    "settings without data": at("settings", value={}),
    "data is a word": at("settings", "data", value="multi_backimage"),
    "data unknown": at("settings", "data", "of_a_later_version", value=1),
    "data of a wrong type": at("settings", "data", "clip_length", value="long"),
    "transform is a word": at("settings", "data", "transforms", "eye", value="x"),
    "transform without class": at("settings", "data", "transforms", "eye", value={"source": "eye"}),
    "many cosines": at(
        *("settings", "data", "transforms", "eye"),
        value=MANY_COSINES,
    ),
    "LN is a list": at("ln", value=[1]),
    "LN without weights": at("ln", "weights", value={}),
    "LN patch": at("ln", "description", "patch", value=99_999),
    "LN duration": at("ln", "description", "duration_s", value=1e30),
    "LN without end": at("ln", "description", "duration_s", value=float("inf")),
    "LN nonlinearity": at("ln", "description", "nonlinearity", value="sin"),
    "LN unknown": at("ln", "description", "else", value=1),
}  # fmt: skip


# What is no file of torch's, or another pickle ------------------------------------------------------------------------


def with_pickle(path: Path, data: bytes) -> None:
    """The archive that torch writes, around another pickle."""
    whole = io.BytesIO()
    torch.save({"x": torch.zeros(3)}, whole)
    with zipfile.ZipFile(whole) as good, zipfile.ZipFile(path, "w") as made:
        for member in good.infolist():
            made.writestr(member.filename, data if member.filename.endswith("data.pkl") else good.read(member))


def text(word: str) -> bytes:
    return b"X" + len(word).to_bytes(4, "little") + word.encode()


PICKLES: dict[str, bytes] = {
    "memo of 34 GB": b"\x80\x02}r\xff\xff\xff\xff.",
    "long list": b"\x80\x02](" + b"N" * (9 << 20) + b"e.",
    "a call": b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R.",
    "bytes that double": b"\x80\x02" + b"c_codecs\nencode\n" * 40 + text("a") + (text("hex") + b"\x86R") * 40 + b".",
    "a large array": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x10\x85R.",
    "another protocol": pickle.dumps({"twin": 1}, protocol=4),
    "deep lists": b"\x80\x02" + b"](" * 100_000 + b"e" * 100_000 + b".",
    "cut off": b"\x80\x02}q\0(X\xff\xff\xff\x7fabc",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "stack is empty": b"\x80\x02u.",
    "meta tensor": b"\x80\x02ctorch._utils\n_rebuild_meta_tensor_no_storage\n.",
    "methods overwritten": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + b"K\x01sb.",
}  # fmt: skip
