import itertools
import math
import statistics

import pytest

from lora_lab.checks.reading_a_run import paired_difference
from lora_lab.maths.statistics import Comparison, compare, standard_error, wilson
from lora_lab.records import Answer, Scores


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
    assert compare(a, b) == Comparison(items=5, both=1, only_a=2, only_b=1)


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
    found = Comparison(items=50, both=20, only_a=only_a, only_b=only_b)
    assert found.p_value == pytest.approx(len(as_far) / len(tosses))


def test_p_values_worked_out_by_hand():
    assert Comparison(200, 150, 0, 5).p_value == 2 / 32
    assert Comparison(200, 150, 1, 9).p_value == 2 * (1 + 10) / 1024
    assert [Comparison(200, 150, 0, only_b).verdict for only_b in (5, 6)] == ["cannot tell", "real"]


@pytest.mark.parametrize("counts", [(150, 4, 16), (140, 25, 9), (120, 21, 29), (10, 0, 1)])
def test_the_margin_is_the_exercises_and_that_of_the_differences(counts):
    right_a, right_b = marked(*counts, items=200)
    found = compare(scores(*right_a), scores(*right_b))
    differences = [b - a for a, b in zip(right_a, right_b, strict=True)]
    assert found.difference == pytest.approx(statistics.mean(differences))
    margin = 1.96 * statistics.stdev(differences) / math.sqrt(200)
    assert found.margin == pytest.approx(margin)
    difference, low, high, _ = paired_difference.reference(right_a, right_b)
    assert (low, high) == pytest.approx((found.difference - margin, found.difference + margin))
    assert difference == pytest.approx(found.difference)


def test_pairing_narrows_the_margin_where_the_models_agree_and_not_where_they_do_not():
    alike, unlike = Comparison(200, 140, 10, 20), Comparison(200, 60, 60, 70)
    assert alike.margin < 0.7 * alike.unpaired_margin
    assert unlike.margin > unlike.unpaired_margin
    assert Comparison(200, 90, 10, 10).unpaired_margin == pytest.approx(1.96 * 0.05)


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
