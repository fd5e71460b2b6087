import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binomtest, t, ttest_1samp, ttest_ind, ttest_rel

from lora_lab.maths.looks import LOOK_LEVEL, LOOKS, holm_levels, next_look
from lora_lab.maths.statistics import (
    PairedAnswers,
    mean_interval,
    mean_p_value,
    numbers_needed,
    separate_interval,
    standard_error,
    wilson,
)
from lora_lab.records import Answer, Scores
from lora_lab.training.pairing import compare


def scores(*right, prompts=None):
    prompts = prompts or [str(place) for place in range(len(right))]
    answers = tuple(
        Answer(prompt, "yes", "", is_right) for prompt, is_right in zip(prompts, right, strict=True)
    )
    return Scores("accuracy", statistics.mean(right), {}, None, None, 0.1, answers, "test")


def marked(both, only_a, only_b, items):
    """The right answers of two models, so many in each way."""
    pairs = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b
    return zip(*pairs + [(False, False)] * (items - len(pairs)), strict=True)


def test_answers_are_paired_question_by_question():
    a, b = scores(True, True, False, False, True), scores(True, False, True, False, False)
    assert compare(a, b).answers == PairedAnswers(items=5, both=1, only_a=2, only_b=1)


def test_a_test_of_200_items_at_80_percent_strays_by_5_and_a_half_points():
    assert 1.96 * standard_error(0.8, 200) == pytest.approx(0.0554, abs=1e-4)
    assert standard_error(0.5, 25) == 0.1
    assert standard_error(1.0, 200) == 0


@pytest.mark.parametrize(
    ("right", "count", "interval"),
    [  # Newcombe, 1998, "Two-sided confidence intervals for the single proportion", table I
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilsons_interval_is_the_published_one(right, count, interval):
    assert wilson(right, count) == pytest.approx(interval, abs=6e-5)


def test_wilsons_interval_reads_alike_from_both_ends():
    low, high = wilson(3, 17)
    assert wilson(14, 17) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("right", "count"), [(0, 0), (-1, 5), (6, 5)])
def test_an_impossible_count_is_refused(right, count):
    with pytest.raises(ValueError, match=f"{right} right of {count} cannot be; give 1 question"):
        wilson(right, count)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (1, 4), (3, 5), (4, 4), (6, 1), (0, 0)])
def test_the_p_value_counts_the_tosses_as_far_from_even_as_these(only_a, only_b):
    tosses = [*itertools.product((0, 1), repeat=only_a + only_b)]
    as_far = [toss for toss in tosses if abs(2 * sum(toss) - len(toss)) >= abs(only_b - only_a)]
    found = PairedAnswers(items=50, both=20, only_a=only_a, only_b=only_b)
    assert found.p_value == pytest.approx(len(as_far) / len(tosses))


def test_p_values_worked_out_by_hand():
    assert PairedAnswers(200, 150, 0, 5).p_value == 2 / 32
    assert PairedAnswers(200, 150, 1, 9).p_value == 2 * (1 + 10) / 1024


@pytest.mark.parametrize("counts", [(150, 4, 16), (140, 25, 9), (120, 21, 29), (10, 0, 1)])
def test_the_difference_is_the_exercises_and_that_of_the_answers(counts):
    right_a, right_b = marked(*counts, items=200)
    found = compare(scores(*right_a), scores(*right_b))
    mean = statistics.mean(b - a for a, b in zip(right_a, right_b, strict=True))
    assert found.difference == found.answers.difference == pytest.approx(mean)


def score_at(answers, true):
    """(d - true) in standard errors, with the shares that maximise the likelihood given `true`."""

    def surprise(only_a):
        shares = only_a + true, only_a, 1 - 2 * only_a - true
        counts = answers.only_b, answers.only_a, answers.items - answers.only_a - answers.only_b
        return -sum(xlogy(n, max(p, 1e-300)) for n, p in zip(counts, shares, strict=True))

    bounds = max(0.0, -true), (1 - true) / 2
    only_a = minimize_scalar(surprise, bounds=bounds, options={"xatol": 1e-12}).x
    return (answers.difference - true) / math.sqrt((2 * only_a + true - true**2) / answers.items)


@pytest.mark.parametrize(("only_a", "only_b"), [(4, 16), (25, 9), (10, 30), (60, 60), (1, 9)])
def test_the_ends_of_the_paired_interval_are_where_the_score_test_is_at_its_limit(only_a, only_b):
    answers = PairedAnswers(200, 50, only_a, only_b)
    low, high = answers.interval
    assert score_at(answers, low) == pytest.approx(1.96, abs=1e-3)
    assert score_at(answers, high) == pytest.approx(-1.96, abs=1e-3)


def test_answers_that_never_differ_leave_room_for_a_difference_that_was_not_met():
    for both in (0, 60):
        low, high = PairedAnswers(60, both, 0, 0).interval
        assert (
            high == -low == pytest.approx(1.96**2 / (60 + 1.96**2))
        )  # as of no answer in Wilson's


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_paired_interval_leaves_0_out_just_where_the_exact_test_rejects_it(only_a, only_b):
    answers = PairedAnswers(100, 10, only_a, only_b)
    low, high = answers.interval
    assert (not low <= 0 <= high) == (answers.p_value < 0.05)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert answers.p_value == pytest.approx(expected)


def test_the_paired_interval_holds_the_true_difference_19_times_of_20():
    """1,000 tests of 200 questions; a alone is right on 4 %, b alone on 10 %."""
    counts = np.random.default_rng(0).multinomial(200, [0.04, 0.10, 0.86], size=1000)
    intervals = [PairedAnswers(200, 0, int(a), int(b)).interval for a, b, _ in counts]
    inside = sum(low <= 0.06 <= high for low, high in intervals)
    assert 929 <= inside <= 975  # binomial: 950, deviation 6.9; three of them


def test_pairing_narrows_the_interval_where_the_models_agree_and_not_where_they_do_not():
    def margin(answers):
        low, high = answers.interval
        return (high - low) / 2

    alike, unlike = PairedAnswers(200, 140, 10, 20), PairedAnswers(200, 60, 60, 70)
    assert margin(alike) < 0.75 * alike.unpaired_margin
    assert margin(unlike) > unlike.unpaired_margin
    assert PairedAnswers(200, 90, 10, 10).unpaired_margin == pytest.approx(1.96 * 0.05)


# --- means over seeds ---

numbers = st.lists(st.floats(-1, 1).map(lambda x: round(x, 4)), min_size=2, max_size=12)


@given(numbers, numbers, st.sampled_from([0.05, 0.0195, 0.01]))
def test_the_interval_and_the_p_value_are_those_of_scipys_paired_t_test(a, b, level):
    pairs = list(zip(a, b, strict=False))
    differences = [after - before for before, after in pairs]
    assume(statistics.stdev(differences) > 1e-6)
    expected = ttest_rel([after for _, after in pairs], [before for before, _ in pairs])
    interval = expected.confidence_interval(1 - level)
    assert mean_interval(differences, level) == pytest.approx(tuple(interval), abs=1e-9)
    assert mean_p_value(differences) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


def test_the_interval_of_equal_numbers_has_no_width():
    assert mean_interval([0.25] * 5) == (0.25, 0.25)
    assert (mean_p_value([0.25] * 5), mean_p_value([0.0] * 5)) == (0.0, 1.0)


def test_the_interval_of_five_seeds_holds_the_true_mean_19_times_of_20():
    draws = np.random.default_rng(0).normal(0.3, 2.0, size=(4000, 5)).tolist()
    inside = sum(low <= 0.3 <= high for low, high in map(mean_interval, draws))
    assert 3760 <= inside <= 3840  # binomial: 3,800, deviation 13.8; three of them


@pytest.mark.parametrize(
    ("deviation", "width"), [(0.044, 0.02), (0.01, 0.02), (1e-9, 0.02), (3, 1)]
)
def test_so_many_numbers_are_needed_as_make_the_interval_that_narrow(deviation, width):
    def width_with(n):
        low, high = t.interval(0.95, n - 1, scale=deviation / math.sqrt(n))
        return high - low

    n = numbers_needed(deviation, width)
    assert width_with(n) <= width
    assert n == 2 or width_with(n - 1) > width
    assert numbers_needed(deviation, width, level=0.01) >= n


def test_a_huge_number_is_found_at_once():
    assert numbers_needed(1.0, 1e-6, level=0.0195) == pytest.approx(4e12 * 2.335**2, rel=1e-2)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=9))
def test_holms_levels_reject_what_his_adjusted_p_values_reject(p_values):
    adjusted, highest = {}, 0.0
    for done, (p, place) in enumerate(sorted((p, place) for place, p in enumerate(p_values))):
        highest = max(highest, p * (len(p_values) - done))
        adjusted[place] = highest
    assume(all(abs(p - 0.05) > 1e-9 for p in adjusted.values()))
    rejected = [p < level for p, level in zip(p_values, holm_levels(p_values), strict=True)]
    assert rejected == [adjusted[place] < 0.05 for place in range(len(p_values))]


def test_holms_levels_worked_out_by_hand():
    assert holm_levels([0.03, 0.005, 0.04, 0.01]) == pytest.approx([0.025, 0.0125, 0.025, 0.05 / 3])
    assert holm_levels([]) == []


def test_three_looks_of_the_plan_call_equal_settings_different_in_5_percent_of_cases():
    draws = np.random.default_rng(0).standard_normal((400_000, LOOKS[-1]))
    ever = np.zeros(len(draws), bool)
    for look in LOOKS:
        seen = draws[:, :look]
        ever |= ttest_1samp(seen, 0, axis=1).pvalue < LOOK_LEVEL
    assert ever.mean() == pytest.approx(0.05, abs=0.001)  # the deviation is 0.0003


def test_the_plan_looks_after_5_10_and_20_seeds():
    assert [next_look(count) for count in (0, 3, 5, 7, 10, 19, 20, 40)] == [
        *(5, 5, 10, 10, 20, 20, None, None)
    ]


@pytest.mark.parametrize(
    "other",
    [
        scores(True, False),
        scores(True, False, True, prompts=["0", "2", "1"]),
        Scores("accuracy", 0.5, {}, None, None, 0.1, (), "test"),
    ],
)
def test_answers_to_other_questions_are_refused(other):
    with pytest.raises(ValueError, match="not two or more to the same questions"):
        compare(scores(True, True, False), other)


def test_runs_without_answers_are_refused_with_what_would_fit():
    nothing = Scores("accuracy", 0.5, {}, None, None, 0.1, (), "test")
    with pytest.raises(ValueError, match="a holds 0 answers, b 0, .+recorded runs hold no"):
        compare(nothing, nothing)


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_the_interval_of_two_separate_groups_is_scipys(level):
    a, b = np.random.default_rng(0).normal([[0.5], [0.6]], 0.1, size=(2, 7))
    theirs = ttest_ind(b, a).confidence_interval(1 - level)
    assert separate_interval(a.tolist(), b.tolist(), level) == pytest.approx(tuple(theirs))
