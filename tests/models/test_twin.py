"""The whole twin: its shapes, and its numbers in bfloat16."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ATTENTION, BASIS, STEM, TUBELET, batch, spec, twin, vivit
from torch.nn import functional as F

from vivit_core.models.frames import resized
from vivit_core.models.tokenizers.tubelet import Tubelet

QUICK_START = {"bare": TUBELET}


def test_quick_start_shapes_to_the_letter() -> None:
    tubelet = Tubelet(in_channels=1, dim=192, patch_size=[4, 4, 4], token_stride=None)
    tokens = tubelet(torch.randn(2, 1, 32, 36, 64))
    assert tokens.x_BTND.shape == (2, 8, 144, 192)
    attention = ATTENTION | {"heads": 6}
    of = spec(height=36, width=64, units=100)
    small = twin(vivit(embedding_dim=192, attention=attention, spatial_depth=1, temporal_depth=1), of, predict="last")
    assert small.core(torch.randn(2, 1, 32, 36, 64))[-1].x_BCTHW.shape == (2, 192, 8, 9, 16)
    assert small(batch(of, bins=32))["a"].shape == (2, 100)
    baseline = twin(
        vivit(embedding_dim=384, attention=attention, spatial_depth=1, temporal_depth=1), of, predict="last"
    )
    video = torch.randn(1, 1, 300, 36, 64)
    assert baseline.core.tokenizer(video).x_BTND.shape == (1, 75, 144, 384)
    with torch.no_grad():
        assert baseline.core(video)[-1].x_BCTHW.shape == (1, 384, 75, 9, 16)


def test_bf16_stays_close() -> None:
    made = twin(vivit(tokenizer=STEM, frontend=BASIS)).eval()
    with torch.no_grad():
        exact = made(batch(spec()))["a"]
        with torch.autocast("cpu", torch.bfloat16):
            coarse = made(batch(spec()))["a"]
    assert coarse.dtype == torch.float32
    assert float(((coarse - exact).abs() / exact).max()) < 0.1


@pytest.mark.parametrize("size", [(6, 1), (1, 6), (6, 4), (1, 1), (24, 1), (24, 5), (7, 16)])
def test_frames_of_any_size_keep_what_is_where(size: tuple[int, int]) -> None:
    """Stripes down the frame stay stripes, and turned frames come out turned."""
    frames = torch.rand(2, 1, 3, 12, 8)
    found = resized(frames, size)
    assert found.shape == (2, 1, 3, *size)
    torch.testing.assert_close(found.mT, resized(frames.mT, size[::-1]))
    if size[1] > 1:  # where torch's own is right, with 2.13 too
        expected = F.interpolate(frames.flatten(0, 1), size, mode="bilinear", antialias=True)
        torch.testing.assert_close(found.flatten(0, 1), expected)
    if size[0] == 6:
        rows = frames.unflatten(-2, (6, 2)).mean((-2, -1))
        assert torch.corrcoef(torch.stack([found.mean(-1).flatten(), rows.flatten()]))[0, 1] > 0.9
