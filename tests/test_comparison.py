import dataclasses
import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from lora_lab.maths.comparison import Comparison, comparison_of


def spread_over(low, high, n):
    """n differences with this 95 % interval of their mean."""
    middle, half = (low + high) / 2, (high - low) / 2
    pattern = np.linspace(-1, 1, n)
    width = ttest_1samp(pattern, 0).confidence_interval().high
    return (middle + pattern * half / width).tolist()


def compared(low, high, n, measure="accuracy", **options):
    return comparison_of(spread_over(low, high, n), measure=measure, **options)


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (compared(0.012, 0.05, 10), "b is better by 3.1 points (1.2 to 5.0; 10 seeds)"),
        (compared(-0.05, -0.012, 10), "b is worse by 3.1 points (1.2 to 5.0; 10 seeds)"),
        (compared(-0.008, 0.011, 10), "no difference above 2 points (−0.8 to 1.1; 10 seeds)"),
        (
            compared(-0.03, 0.08, 5),
            "not settled: −3 to 8 points after 5 seeds; about 73 more would settle a difference "
            "of 2 points",
        ),
        (
            compared(-0.6, 0.2, 5),
            "not settled: −60 to 20 points after 5 seeds; over 1,000 more would settle a "
            "difference of 2 points",
        ),
        (
            compared(-0.03, 0.08, 3),
            "not settled: −3 to 8 points after 3 seeds; a verdict takes 5 seeds; about 19 more "
            "would settle a difference of 2 points",
        ),
        (
            compared(0.03, 0.031, 4),
            "not settled: 3.00 to 3.10 points after 4 seeds; a verdict takes 5 seeds",
        ),
        (
            compared(-0.48, -0.15, 3),
            "not settled: −48 to −15 points after 3 seeds; a verdict takes 5 seeds",
        ),
        (compared(-0.032, -0.02, 8, "loss"), "b is better by 0.026 nats (0.020 to 0.032; 8 seeds)"),
        (compared(0.02, 0.032, 8, "KL"), "b is worse by 0.026 nats (0.020 to 0.032; 8 seeds)"),
        (compared(-0.5, 0.25, 8, "perplexity"), "not settled: −0.25 to 0.50 after 8 seeds"),
        (
            compared(-0.04, 0.01, 8, "loss", margin=0.05),
            "no difference above 0.05 nats (−0.010 to 0.040; 8 seeds)",
        ),
        (compared(0.0004, 0.12, 6), "b is better by 6.02 points (0.04 to 12.00; 6 seeds)"),
        (
            comparison_of([0.03] * 5, measure="accuracy"),
            "b is better by 3.0 points (3.0 to 3.0; 5 seeds, all alike)",
        ),
        (
            comparison_of([0.0] * 5, measure="accuracy"),
            "no difference above 2 points (0.0 to 0.0; 5 seeds, all alike)",
        ),
    ],
)
def test_the_verdict_says_which_is_better_by_how_much_and_how_sure(comparison, words):
    assert comparison.verdict == words


def test_the_names_of_the_settings_stand_in_the_words():
    named = dataclasses.replace(compared(0.012, 0.05, 10), a="r=4", b="r=16")
    assert named.verdict == "r=16 is better by 3.1 points (1.2 to 5.0; 10 seeds)"
    assert repr(named).startswith("r=16 against r=4, accuracy: r=16 is better by 3.1 points")


@given(
    st.lists(st.floats(-0.3, 0.3), min_size=5, max_size=15),
    st.floats(0.005, 0.3),
    st.sampled_from(["accuracy", "loss"]),
)
@example([-0.03, -0.04, -0.05, -0.04, -0.03], 0.02, "loss")  # chance finds few that differ
@example([-0.03, -0.04, -0.05, -0.04, -0.03], 0.02, "accuracy")
def test_the_result_is_the_paired_t_tests_and_the_margins(differences, margin, measure):
    differences = [round(difference, 4) for difference in differences]
    assume(statistics.stdev(differences) > 1e-4)
    found = comparison_of(differences, measure=measure, margin=margin)
    gains = [-difference for difference in differences] if measure == "loss" else differences
    test = ttest_1samp(gains, 0)
    low, high = test.confidence_interval()
    assume(abs(test.pvalue - 0.05) > 1e-6)
    if test.pvalue < 0.05:
        assert found.result == ("better" if statistics.mean(gains) > 0 else "worse")
    else:
        assert found.result == ("no difference" if max(-low, high) <= margin else "not settled")
    assert (found.seeds_to_settle is None) == (found.result != "not settled")


@given(st.lists(st.integers(-40, 40), min_size=5, max_size=9))
def test_so_many_more_seeds_of_the_same_spread_settle_it(points):
    found = comparison_of([point / 100 for point in points], measure="accuracy", margin=0.05)
    assume(found.result == "not settled")
    n = found.pairs + found.seeds_to_settle
    assume(n < 2000)
    with_more = dataclasses.replace(
        found, **dict(zip(("low", "high"), narrowed(found, n), strict=True)), pairs=n
    )
    assert with_more.result != "not settled"
    with_fewer = narrowed(found, n - 1)
    assert with_fewer[1] - with_fewer[0] > 0.05


def narrowed(found, n):
    """The interval that n seeds of the same mean and spread would have."""
    scale = found.deviation / math.sqrt(n)
    half = scale * ttest_quantile(n)
    return found.difference - half, found.difference + half


def ttest_quantile(n):
    pattern = np.linspace(-1, 1, n)
    error = pattern.std(ddof=1) / math.sqrt(n)
    return ttest_1samp(pattern, 0).confidence_interval().high / error


@pytest.mark.parametrize(
    ("measure", "margin", "words"),
    [
        ("accuracy", 2, "margin=2 isn't a difference in 'accuracy'; give 0.02 for 2 points"),
        ("accuracy", 0, "margin=0 isn't a difference in 'accuracy'"),
        ("loss", -1, "margin=-1 isn't a difference in 'loss'; give a number above 0"),
        ("loss", math.nan, "margin=nan"),
        ("bleu", None, "no measure is called 'bleu'; give one of"),
    ],
)
def test_a_margin_or_measure_that_cannot_be_meant_is_refused(measure, margin, words):
    with pytest.raises(ValueError, match=words):
        comparison_of([0.1, 0.2], measure=measure, margin=margin)


def test_the_method_says_what_was_paired_and_how_often_the_plan_errs():
    found = compared(0.012, 0.05, 10)
    assert found.method == "Paired by seed; 95 % interval of the mean difference by Student's t."
    looked = dataclasses.replace(compared(0.01, 0.05, 10, level=0.0195), look=2)
    assert "98.05 % interval" in looked.method
    assert "looks after 5, 10, 20 seeds; all looks together call equal settings" in looked.method
    assert "10 seeds, look 2 of 3)" in looked.verdict


@pytest.mark.parametrize(
    ("seeds", "then"), [(5, "; the plan looks again after 10"), (20, "; about")]
)
def test_an_unsettled_look_names_the_next_one_and_the_last_a_number_of_seeds(seeds, then):
    looked = dataclasses.replace(compared(-0.02, 0.06, seeds), look=1)
    assert f"look 1 of 3{then}" in looked.verdict


def test_a_comparison_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        compared(0.01, 0.02, 5).low = 0.0
    assert isinstance(compared(0.01, 0.02, 5), Comparison)
