"""The temporal basis against a plain convolution."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from vivit_core.models.frontends.temporal_basis import TemporalBasis, raised_cosines


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
    assert raised_cosines(4, 16).argmax(1).tolist() == sorted(raised_cosines(4, 16).argmax(1).tolist(), reverse=True)
