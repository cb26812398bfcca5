"""A GPU that is not there: tensors that say they lie on one, computed on the CPU with real numbers.

What a machine without a GPU can check: a tensor made on the CPU that meets one on the GPU, ``.numpy()`` of one that is
on the GPU, a generator of the wrong device, an operation that has no deterministic CUDA kernel, and a gradient through
cuDNN's recurrence in evaluation. All raise as they would there. What it cannot check are the kernels themselves: their
results, their types and their speed; nor how torch loads its libraries from several threads at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
# Between devices they may copy, and an index may lie on the CPU.
COPIES = {aten.copy_, aten._to_copy, aten._copy_from, aten._copy_from_and_resize}
INDICES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
# torch.use_deterministic_algorithms: "will throw a RuntimeError", the names of the operations behind that list.
UNDETERMINED = (
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "nll_loss",
    "adaptive_max_pool2d_backward", "fractional_max_pool", "max_unpool", "upsample_linear1d_backward",
    "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward",
    "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward", "reflection_pad", "_ctc_loss_backward",
    "_embedding_bag", "put_", "histc", "bincount", "median", "nanmedian", "grid_sampler", "cumsum", "kthvalue",
)  # fmt: skip

IN_TRAINING = 6  # which of torch.gru's arguments says so


class OnGpu(Tensor):
    """A tensor on the GPU that is not there; ``held`` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        assert type(held) is Tensor and held.device.type == "cpu"
        shape = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
        self = torch.Tensor._make_subclass(cls, shape, False, dispatch_device=False, device_for_backend_keys=CUDA)
        self.held = held
        return self

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In a file it is read as one of the CPU, as ``map_location="cpu"`` reads it."""
        return self.held.__reduce_ex__(protocol)

    def __format__(self, form: str) -> str:
        return format(self.held, form)

    def __repr__(self, *args: Any, **kwargs: Any) -> str:
        return f"OnGpu({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation's result on the device on which it would be."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    on_gpu = [x for x in tensors if isinstance(x, OnGpu)]
    target = kwargs.get("device")
    to_gpu = bool(on_gpu) if target is None else torch.device(target).type in ("cuda", "meta")
    packet = func.overloadpacket
    assert all(isinstance(x, OnGpu) or x.device.type == "cpu" for x in tensors), f"{func} got a tensor without numbers"
    if on_gpu and packet not in COPIES:
        looked_at = [args[0], *tree_leaves(args[2:])] if packet in INDICES else tensors
        strangers = [x for x in looked_at if isinstance(x, Tensor) and not isinstance(x, OnGpu) and x.dim() > 0]
        if strangers:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {func} got some on cuda:0 and one of shape "
                f"{tuple(strangers[0].shape)} on cpu"
            )
    generator = kwargs.get("generator")
    if to_gpu and generator is not None:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if on_gpu and torch.are_deterministic_algorithms_enabled():
        name = packet.__name__
        floating = any(x.dtype.is_floating_point for x in on_gpu)
        if floating and any(name.startswith(bad) for bad in UNDETERMINED):
            raise RuntimeError(f"{name} does not have a deterministic implementation on CUDA")
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    wrappers = {id(x.held): x for x in on_gpu}
    out = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    if packet is aten.transpose_ and on_gpu:  # what says that it lies there has to have its shape
        with no_dispatch():
            func(*args)

    def back(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, OnGpu):
            return x
        if id(x) in wrappers:  # written in place
            return wrappers[id(x)]
        return OnGpu(x) if to_gpu else x

    return tree_map(back, out)


def bare(x: Any) -> Any:
    return x.held if isinstance(x, OnGpu) else x


class EmulatedGpu(TorchDispatchMode):
    """Within it, ``device="cuda"`` gives tensors on the GPU that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # or torch would look for a driver

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Moves(TorchFunctionMode):
    """``.to("cuda")`` asks for the device's driver, ``.to("meta")``, which means the same here, does not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0].to("meta")
        if func is torch.Tensor.to:
            args, kwargs = tree_map(elsewhere, args), tree_map(elsewhere, kwargs)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):  # of numbers torch makes a "meta" index itself
            index = tuple(map(index_of, args[1])) if isinstance(args[1], tuple) else index_of(args[1])
            args = (args[0], index, *args[2:])
        out = func(*args, **kwargs)
        if func is torch.gru and isinstance(out[0], OnGpu) and out[0].requires_grad and not args[IN_TRAINING]:
            out[0].register_hook(no_backward)
        return out


def no_backward(grad: Tensor) -> None:
    raise RuntimeError("cudnn RNN backward can only be called in training mode")


def elsewhere(x: Any) -> Any:
    """What says "cuda", said as "meta"."""
    named = (isinstance(x, str) and x.startswith("cuda")) or (isinstance(x, torch.device) and x.type == "cuda")
    return torch.device("meta") if named else x


def index_of(x: Any) -> Any:
    return torch.as_tensor(np.asarray(x, None if len(x) else int)) if isinstance(x, (list, np.ndarray)) else x


@contextmanager
def emulated_gpu() -> Iterator[None]:
    lifts, overwrites = torch._C._only_lift_cpu_tensors(), torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") is made on the CPU and moved
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a tensor of another class cannot be put in
    try:
        with EmulatedGpu(), Moves():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
