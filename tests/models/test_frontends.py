"""The temporal basis against a plain convolution."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch.utils.flop_counter import FlopCounterMode

from vivit_core.models.frontends import temporal_basis
from vivit_core.models.frontends.temporal_basis import TemporalBasis, log_cosines


def test_temporal_basis_is_a_causal_convolution() -> None:
    basis = TemporalBasis(in_channels=2, bases=3, lags=5)
    with torch.no_grad():
        basis.weight_KL.normal_()
    x = torch.randn(2, 2, 9, 3, 4)
    y = rearrange(basis(x), "b (c k) t h w -> b c k t h w", k=3)
    expected = torch.zeros_like(y)
    for t in range(9):
        for lag in range(5):
            if t - lag >= 0:
                expected[:, :, :, t] += torch.einsum("k,bchw->bckhw", basis.weight_KL[:, 4 - lag], x[:, :, t - lag])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    filters = torch.randn(3, 5)
    basis.initialize(filters)
    torch.testing.assert_close(basis.weight_KL.norm(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match="shape"):
        basis.initialize(filters[:2])
    with pytest.raises(ValueError, match="1 <= bases <= lags"):
        TemporalBasis(1, 6, 5)
    assert log_cosines(4, 16).argmax(1).tolist() == sorted(log_cosines(4, 16).argmax(1).tolist(), reverse=True)


@pytest.mark.parametrize("piece", [4, 3, 2])
def test_a_long_clip_is_made_in_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    basis, x = TemporalBasis(in_channels=2, bases=3, lags=5), torch.randn(2, 2, 9, 3, 4)
    whole = basis(x)
    monkeypatch.setattr(temporal_basis, "PIECE", piece)
    torch.testing.assert_close(basis(x), whole)


def test_the_work_grows_with_the_clip_and_not_with_its_square() -> None:
    basis, work = TemporalBasis(in_channels=1, bases=3, lags=5), {}
    for bins in (temporal_basis.PIECE, 4 * temporal_basis.PIECE):
        with FlopCounterMode(display=False) as counter:
            basis(torch.zeros(1, 1, bins, 2, 2))
        work[bins] = counter.get_total_flops()
    assert work[4 * temporal_basis.PIECE] == 4 * work[temporal_basis.PIECE]
