import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lora_lab as lab
from lora_lab.maths.statistics import PairedAnswers
from lora_lab.records import Answer, Scores
from lora_lab.training.pairing import (
    compare,
    compare_at_look,
    compare_measure,
    comparison_of_answers,
)
from lora_lab.training.store import Run
from tiny import recipe


def run(seed, value, *, metric="accuracy", task="letters", base="tiny", split="test", **changes):
    """A run without its training."""
    scores = Scores(metric, value, {}, 1 - value, None, 2 * value, (), split)
    return Run(
        recipe=recipe(seed=seed, **changes),
        records=(),
        scores=scores,
        base_name=base,
        task_name=task,
        path=None,
    )


def runs(*values, **features):
    return [run(seed, value, **features) for seed, value in enumerate(values)]


A, B = runs(0.5, 0.6, 0.7, 0.8, 0.9), runs(0.53, 0.64, 0.74, 0.82, 0.94, r=4)


def test_runs_are_paired_by_seed_in_whatever_order_they_come():
    found = compare(A, B[::-1])
    assert found.difference == pytest.approx(0.034)
    assert found.verdict == "b is better by 3.4 points (2.3 to 4.5; 5 seeds)"
    assert compare(B, A).verdict == "b is worse by 3.4 points (2.3 to 4.5; 5 seeds)"
    assert lab.compare is compare


def test_less_of_a_loss_is_better_and_of_a_share_worse():
    assert compare_measure(A, B, measure="loss").result == "worse"
    assert compare_measure(A, B, measure="old_knowledge").result == "worse"
    kl = compare(runs(*[0.1] * 5, metric="KL"), runs(0.05, 0.06, 0.05, 0.06, 0.05, metric="KL"))
    assert kl.verdict == "b is better by 0.046 nats (0.039 to 0.053; 5 seeds)"


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (A, B[1:], r"seeds \[0\] are in a alone, \[\] in b alone"),
        (A, [*B, B[0]], "seed 0 stands twice in b"),
        (A[:1], B[:1], "1 seed a setting shows no spread; .+ compare.a.0., b.0.."),
        (A, runs(*[0.5] * 5, task="words"), r"of different tasks \(letters, words\)"),
        (A, runs(*[0.5] * 5, base="big"), r"of different bases \(big, tiny\)"),
        (A, runs(*[0.5] * 5, split="validation"), r"of different splits \(test, validation\)"),
        (A, runs(*[0.5] * 5, metric="exact match"), "of different metrics"),
        (A, [*B[:4], run(4, 0.5, r=8)], "b holds runs of 2 recipes; give runs of one"),
        (A, [*B[:4], run(4, math.nan, r=4)], "value of seed 4 of b is nan"),
        (A, [*B[:4], run(4, math.inf, r=4)], "value of seed 4 of b is inf"),
        (
            A,
            [*B[:4], dataclasses.replace(B[4], scores=None)],
            "seed 4 of b was not scored; train it with evaluate=True",
        ),
        (
            A,
            [*B[:4], dataclasses.replace(B[4], scores=None, status="diverged")],
            "seed 4 of b diverged and has no score; without it the comparison would flatter",
        ),
    ],
)
def test_runs_that_cannot_be_paired_are_refused_with_what_would_fit(a, b, words):
    with pytest.raises(ValueError, match=words):
        compare(a, b)


def test_a_score_that_was_not_measured_is_refused():
    with pytest.raises(ValueError, match="strangers of seed 0 of a was not measured"):
        compare_measure(A, B, measure="strangers")


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (A, "r=4", "'r=4' isn't a run to compare"),
        (A, [], r"\[\] isn't a run to compare; give the runs of a setting"),
        (A, [*B[:4], 0.5], "0.5 isn't a run to compare"),
        (A, None, "None isn't a run to compare"),
        (A, B[0], "one side is a single run, the other several"),
    ],
)
def test_what_is_no_run_is_refused(a, b, words):
    with pytest.raises(TypeError, match=words):
        compare(a, b)


def answered(*right):
    answers = tuple(Answer(str(n), "yes", "", is_right) for n, is_right in enumerate(right))
    return Scores("accuracy", sum(right) / len(right), {}, None, None, 0.1, answers, "test")


def test_two_single_runs_are_paired_question_by_question():
    a, b = answered(*[True] * 10, *[False] * 30), answered(*[True] * 8, False, *[True] * 31)
    expected = comparison_of_answers(
        [answer.right for answer in a.answers], [answer.right for answer in b.answers]
    )
    assert compare(a, b) == expected
    assert expected.answers == PairedAnswers(items=40, both=9, only_a=1, only_b=30)
    both = [dataclasses.replace(one, scores=scores) for one, scores in ((A[0], a), (B[1], b))]
    assert compare(*both) == expected
    assert expected.verdict.startswith("b is better by 72 points (")
    assert expected.verdict.endswith("; 40 questions)")
    assert expected.method.startswith("Paired by question: two models are compared, not two set")


@pytest.mark.parametrize("only_b", [5, 6])
def test_a_difference_of_answers_is_settled_where_mcnemars_test_finds_it(only_b):
    found = comparison_of_answers([False] * only_b + [True] * 190, [True] * (only_b + 190))
    assert found.result == {5: "not settled", 6: "better"}[only_b]


def test_a_look_of_the_plan_has_a_wider_interval():
    once, look = compare(A, B), compare_at_look(A, B)
    assert look.look == 1
    assert look.verdict == "b is better by 3.4 points (1.9 to 4.9; 5 seeds, look 1 of 3)"
    assert (look.high - look.low) > 1.2 * (once.high - once.low)
    ten = [runs(*[0.5] * 10), runs(*[0.51, 0.49] * 5)]
    assert compare_at_look(*ten, margin=0.05).look == 2


@pytest.mark.parametrize(
    ("count", "words"),
    [(7, "no look at 7 seeds, only at 5, 10, 20; train 3 more"), (21, "give the first 20")],
)
def test_a_number_of_seeds_without_a_look_is_refused(count, words):
    with pytest.raises(ValueError, match=words):
        compare_at_look(runs(*[0.5] * count), runs(*[0.6] * count))


def made_run(facts):
    """A run of these facts; a score of None leaves it unscored."""
    seed, value, status, r = facts
    made = run(seed, 0.5, r=r)
    scores = None if value is None else dataclasses.replace(made.scores, value=value)
    return dataclasses.replace(made, scores=scores, status=status)


any_runs = st.lists(
    st.builds(
        made_run,
        st.tuples(
            st.integers(0, 3),
            st.none() | st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf]),
            st.sampled_from(["finished", "diverged"]),
            st.sampled_from([1, 4]),
        ),
    ),
    max_size=4,
)


@given(any_runs | st.none() | st.text(), any_runs, st.none() | st.floats())
def test_whatever_is_given_is_compared_by_finite_numbers_or_refused_in_words(a, b, margin):
    try:
        found = compare(a, b, margin=margin)
    except (ValueError, TypeError) as error:
        words = str(error)
    else:
        words = found.verdict
        assert math.isfinite(found.low)
        assert found.low <= found.difference <= found.high
        assert found.result == "not settled"  # at most four seeds
    assert "; " in words or ": " in words  # what was given; what would fit
