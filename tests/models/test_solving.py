import pytest
import torch

from vivit_core.models.solving import solve_positive


@pytest.mark.parametrize("rows", [3, 151, 220])
def test_many_systems_are_solved_from_several_threads(rows):
    """torch's LU is wrong there, on some processors, from 151 rows on."""
    random = torch.Generator().manual_seed(0)
    seen = torch.randn(8, 2 * rows, rows, generator=random)
    matrix, right = seen.mT @ seen + torch.eye(rows), torch.randn(8, rows, 2, generator=random)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        solved = solve_positive(matrix, right)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(matrix @ solved, right, atol=1e-3, rtol=1e-3)


def test_what_is_not_positive_definite_has_no_solution():
    matrix = torch.stack([torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])])
    solved = solve_positive(matrix, torch.ones(2, 2, 1))
    torch.testing.assert_close(solved[0], torch.ones(2, 1))
    assert solved[1].isnan().all()
