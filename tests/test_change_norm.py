"""The size of a change from its factors equals the size of the change."""

import numpy as np
import pytest
import torch

from lora_lab.maths.change_norm import change_norm

OUT, IN, R = 11, 7, 3


@pytest.fixture
def factors():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(R, IN, generator=generator, dtype=torch.float64)
    B = torch.randn(OUT, R, generator=generator, dtype=torch.float64)
    return A, B


@pytest.mark.parametrize("scaling", [1.0, 2.5, -0.5, 0.0])
def test_the_norm_equals_torchs_of_the_change_itself(factors, scaling):
    A, B = factors
    expected = torch.linalg.matrix_norm(scaling * B @ A).item()
    assert change_norm(A, B, scaling) == pytest.approx(expected, rel=1e-12)


def test_arrays_of_numpy_give_the_same(factors):
    A, B = factors
    assert change_norm(A.numpy(), B.numpy(), 2.0) == pytest.approx(change_norm(A, B, 2.0))


def test_a_rank_above_both_sides_gives_the_same_too():
    A, B = np.random.default_rng(0).normal(size=(9, 4)), np.eye(5, 9)
    assert change_norm(A, B, 1.0) == pytest.approx(np.linalg.norm(B @ A))


def test_factors_that_cancel_leave_nothing_and_no_nan():
    A = torch.ones(2, 4, dtype=torch.float64)
    B = torch.tensor([[1.0, -1.0], [3.0, -3.0]], dtype=torch.float64)
    assert change_norm(A, B, 1.0) == 0


@pytest.mark.parametrize("shapes", [((3, 7), (11, 4)), ((7,), (11, 7)), ((3, 7, 1), (11, 3))])
def test_factors_that_do_not_fit_are_named(shapes):
    A, B = (torch.ones(*shape) for shape in shapes)
    with pytest.raises(ValueError, match="aren't factors of a change"):
        change_norm(A, B, 1.0)
