"""Intervals by group, beside SciPy, NumPy and simulated groups."""

import numpy as np
import pytest
from scipy.stats import sem, t

from lora_lab.maths.grouped import grouped_difference, grouped_interval, ratio_error
from lora_lab.maths.statistics import PairedAnswers, wilson


def test_of_groups_of_equal_size_the_error_is_that_of_the_mean_of_their_shares():
    hits = [0, 1, 3, 4, 4, 2, 4]
    assert ratio_error(hits, [4] * 7) == pytest.approx(sem([hit / 4 for hit in hits]))


def test_of_unequal_groups_the_error_is_the_cluster_robust_one_of_a_regression_on_a_constant():
    hits, totals = [1, 5, 0, 2, 7], [1, 6, 2, 3, 10]
    rows = [hit < own for own, size in zip(hits, totals, strict=True) for hit in range(size)]
    group = np.repeat(range(5), totals)
    x, y = np.ones((len(rows), 1)), np.array(rows, float)
    residuals = y - x @ np.linalg.lstsq(x, y)[0]
    meat = sum((x[group == g].T @ residuals[group == g])[0] ** 2 for g in range(5))
    bread = 1 / (x.T @ x)[0, 0]
    expected = np.sqrt(bread * meat * bread * 5 / 4)  # statsmodels: cov_type="cluster"
    assert ratio_error(hits, totals) == pytest.approx(expected)


def test_the_interval_is_wilsons_for_as_many_questions_as_the_error_is_worth():
    hits, totals = [4, 3, 0, 4, 2, 4], [4] * 6
    share, error = 17 / 24, sem([hit / 4 for hit in hits])
    worth = share * (1 - share) / error**2 * (1.96 / t.ppf(0.975, 5)) ** 2
    assert worth < 6  # of 24 questions
    assert grouped_interval(hits, totals) == pytest.approx(wilson(share * worth, worth))


def test_groups_whose_questions_stand_or_fall_together_count_as_one_question_each():
    """58 questions of 17 templates are not 58."""
    low, high = grouped_interval([4] * 10 + [0] * 7, [4] * 17)
    as_groups, as_questions = wilson(10, 17), wilson(40, 68)
    assert high - low > as_groups[1] - as_groups[0] > 1.8 * (as_questions[1] - as_questions[0])


def test_questions_that_differ_within_groups_as_much_as_between_them_count_nearly_all():
    low, high = grouped_interval([1, 0] * 200, [1, 1] * 200)
    assert (low, high) == pytest.approx(wilson(200, 400), abs=2e-3)


def test_no_more_is_claimed_than_from_independent_questions():
    alike = grouped_interval([2] * 9, [4] * 9)  # every group has its half: error 0
    whole = wilson(18, 36)
    assert alike[1] - alike[0] > whole[1] - whole[0]


@pytest.mark.parametrize("right", [0, 1])
def test_where_all_are_right_each_group_is_one_question(right):
    totals = [3] * 10 + [4] * 7
    assert grouped_interval([right * size for size in totals], totals) == wilson(17 * right, 17)


@pytest.mark.parametrize(("groups", "alike", "plain"), [(17, 0.3, 0.87), (8, 0.5, 0.8)])
def test_the_interval_holds_the_truth_in_95_percent_and_wilsons_alone_does_not(
    groups, alike, plain
):
    """Simulated: groups of 1 to 6 questions, 80 % right, each group with its own share."""
    generator = np.random.default_rng(0)
    shape, held = 1 / alike - 1, np.zeros(2)
    for _ in range(1000):
        totals = generator.integers(1, 7, groups)
        hits = generator.binomial(totals, generator.beta(0.8 * shape, 0.2 * shape, groups))
        ends = grouped_interval(hits.tolist(), totals.tolist()), wilson(hits.sum(), totals.sum())
        held += [low <= 0.8 <= high for low, high in ends]
    assert 0.925 <= held[0] / 1000 <= 0.985
    assert held[1] / 1000 < plain


def test_a_difference_between_models_is_that_of_a_paired_t_test_over_equal_groups():
    a, b = [1, 0, 2, 3, 1], [3, 1, 2, 4, 3]
    gains = [(right - left) / 4 for left, right in zip(a, b, strict=True)]
    half = t.ppf(0.975, 4) * sem(gains)
    expected = np.mean(gains) - half, np.mean(gains) + half
    assert grouped_difference(a, b, [4] * 5) == pytest.approx(expected)


def test_a_gain_that_all_groups_share_still_has_a_width():
    """Each of the groups is one question then."""
    gained = PairedAnswers(items=9, both=0, only_a=0, only_b=9).interval
    assert grouped_difference([0] * 9, [4] * 9, [4] * 9) == gained
    assert 0 < gained[0] < 0.7
    lost = PairedAnswers(items=9, both=0, only_a=9, only_b=0).interval
    assert grouped_difference([4] * 9, [0] * 9, [4] * 9) == lost
    low, high = grouped_difference([2] * 9, [2] * 9, [4] * 9)
    assert low < 0 < high


def test_one_group_has_no_interval():
    with pytest.raises(ValueError, match="one group shows no spread between groups; give two"):
        grouped_interval([3], [4])
