"""Systems of linear equations whose matrices are symmetric and positive definite, many at a time.

``torch.linalg.solve`` and ``inv`` factor several matrices of more than 150 rows at once from several threads, which MKL
gets wrong on some processors (AMD's, and Intel's without AVX-512): the result is wrong, or never comes (pytorch#142815,
pull request 181570). Cholesky's factors do not go that way, and cost half.

Shape letters: X any, N equations, M right sides.
"""

from __future__ import annotations

import torch
from torch import Tensor


def solve_positive(matrix_XNN: Tensor, right_XNM: Tensor) -> Tensor:
    """The solutions (X, N, M); NaN where a matrix is not positive definite."""
    factor_XNN, failed_X = torch.linalg.cholesky_ex(matrix_XNN)
    solved_XNM = torch.cholesky_solve(right_XNM, factor_XNN)
    return solved_XNM.masked_fill((failed_X != 0)[..., None, None], torch.nan)
