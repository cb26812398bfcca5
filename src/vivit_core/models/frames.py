"""Frames at another size, and at other places; what recordings have to agree in.

Shape letters: B clips, C channels, T frames, H W pixels, I J pixels along one axis, 2 = (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from vivit_core.specs import RecordingSpec


def resized(frames_BCTHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames at another height and width, smoothed where they become smaller: bilinear, along one axis after the other.

    The same as ``F.interpolate(mode="bilinear", antialias=True)``, whose gradient is not deterministic on a GPU.
    """
    down, across = (spread(own, wanted, frames_BCTHW) for own, wanted in zip(frames_BCTHW.shape[3:], size, strict=True))
    with torch.autocast(frames_BCTHW.device.type, enabled=False):
        return down @ (frames_BCTHW @ across.mT)


def spread(size: int, wanted: int, like: Tensor) -> Tensor:
    """How much each pixel I of an axis of another size takes of each pixel J, (I, J); rows sum to one."""
    wide = size / wanted
    middle_I = (torch.arange(wanted, device=like.device, dtype=like.dtype) + 0.5) * wide
    middle_J = torch.arange(size, device=like.device, dtype=like.dtype) + 0.5
    weights = (1 - (middle_I[:, None] - middle_J).abs() / max(wide, 1.0)).clamp_min(0.0)
    return weights / weights.sum(-1, keepdim=True)


def shifted(frames_BCTHW: Tensor, shift_BT2: Tensor) -> Tensor:
    """Each frame where windows that are shifted so look: what was at x + shift is at x.

    Cubic (Catmull-Rom) between pixels, along one axis after the other. Beyond the border a frame goes on as it ends.
    """
    across, down = (
        between(shift_BT2[..., axis], size) for axis, size in ((0, frames_BCTHW.shape[4]), (1, frames_BCTHW.shape[3]))
    )
    with torch.autocast(frames_BCTHW.device.type, enabled=False):
        frames_BTCHW = rearrange(frames_BCTHW, "b c t h w -> b t c h w")
        moved_BTCHW = down[:, :, None] @ frames_BTCHW @ across[:, :, None].mT
        return rearrange(moved_BTCHW, "b t c h w -> b c t h w")


def between(shift_BT: Tensor, size: int) -> Tensor:
    """How much each pixel I of a shifted axis takes of each pixel J, (B, T, I, J); rows sum to one."""
    pixels = torch.arange(size, device=shift_BT.device, dtype=shift_BT.dtype)
    place_BTI = (pixels + shift_BT[..., None]).clamp(0.0, size - 1.0)
    away = (place_BTI[..., None] - pixels).abs()
    near = 1 - 2.5 * away**2 + 1.5 * away**3
    far = 2 - 4 * away + 2.5 * away**2 - 0.5 * away**3
    weights = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    return weights / weights.sum(-1, keepdim=True)


def common_frame_size(wanted: Sequence[int] | None, recordings: Sequence[RecordingSpec]) -> tuple[int, int]:
    """Height and width to which all recordings' frames are brought: what is wanted, or their own.

    Raises
    ------
    ValueError
        Where they differ and nothing is wanted.
    """
    sizes = {spec.recording_id: spec.frame_shape[1:] for spec in recordings}
    if wanted is not None:
        if len(wanted) != 2 or min(wanted) < 1:
            raise ValueError(
                f"model.frame_size={list(wanted)} must be two positive numbers, [height,width] in px, or null"
            )
        return int(wanted[0]), int(wanted[1])
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"recordings have frames of different sizes {sizes}; set "
            "model.frame_size=[height,width] to bring them to one"
        )
    height, width = recordings[0].frame_shape[1:]
    return height, width


def same(what: str, values: dict[str, int], where: str) -> int:
    """What all recordings agree in; a ValueError where they do not."""
    if len(set(values.values())) > 1:
        raise ValueError(
            f"recordings differ in their number of {what}: {values}; one core needs the same for all (see {where})"
        )
    return next(iter(values.values()))
