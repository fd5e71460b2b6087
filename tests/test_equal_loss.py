import math

import numpy as np
import pytest

from lora_lab.lessons.equal_loss import crossings, slope

ALPHAS, RATES = (4, 8, 16), (1e-3, 4e-3, 1.6e-2, 6.4e-2)


def losses(power):
    """A loss that knows alpha ** power * rate alone, and is straight in its logarithm."""
    return {(a, p): 6 - math.log(a**power * p) for a in ALPHAS for p in RATES}


@pytest.mark.parametrize("power", [1, 2])
def test_the_line_of_equal_loss_has_the_slope_that_was_put_in(power):
    line = crossings(losses(power), level=8.0)
    for alpha, rate in line.items():  # 6 - log(alpha ** power * rate) = 8
        assert rate == pytest.approx(math.exp(-2) / alpha**power)
    assert slope(line) == pytest.approx(-power)


def test_the_slope_is_that_of_numpys_least_squares():
    line = {4: 0.03, 8: 0.01, 16: 0.008}
    theirs, _ = np.polyfit(np.log([*line]), np.log([*line.values()]), 1)
    assert slope(line) == pytest.approx(theirs)


def test_the_first_fall_counts_where_the_loss_rises_again():
    curve = {(16, 1e-3): 9.0, (16, 1e-2): 1.0, (16, 1e-1): 9.0, (16, 1.0): 1.0}
    assert crossings(curve, level=5.0) == {16: pytest.approx(10**-2.5)}


def test_an_alpha_that_does_not_reach_the_level_is_left_out_and_so_is_one_that_diverged():
    curve = {(4, 1e-3): 9.0, (4, 1e-2): 8.0, (8, 1e-3): 9.0, (8, 1e-2): math.nan}
    assert crossings(curve, level=5.0) == {}
    with pytest.raises(ValueError, match="0 alphas make no line; give two or more"):
        slope({})


def test_a_line_of_one_alpha_has_no_slope():
    with pytest.raises(ValueError, match="1 alphas make no line"):
        slope({16: 1e-3})
