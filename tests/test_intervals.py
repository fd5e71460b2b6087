"""Intervals of a model's scores, each beside its formula on counts made by hand; errors by kind."""

from dataclasses import replace

import pytest

import lora_lab as lab
from lora_lab.maths.grouped import grouped_difference, grouped_interval
from lora_lab.maths.statistics import wilson
from lora_lab.records import Answer, Scores
from lora_lab.tasks.examples import Example
from lora_lab.tasks.styles import Style
from lora_lab.training.errors import ClassErrors, FieldErrors, errors_of
from lora_lab.training.evaluation import marked
from lora_lab.training.intervals import change_of, intervals_of, method_text, pooled_interval
from tiny import letters_task


def task_of(pairs, metric, **changes):
    test = [Example(f"q{place}", wanted) for place, (wanted, _) in enumerate(pairs)]
    return replace(letters_task(), test=test, metric=metric, **changes)


def scores_of(pairs, metric, task=None, old=(), strangers=()):
    task = task or task_of(pairs, metric)
    return marked(task, "test", 0.5, [given for _, given in pairs], old, strangers)


LABELS = [("yes", "yes")] * 5 + [("no", "yes"), ("no", "No."), ("yes", "perhaps")]
JSON = [
    ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}'),
    ('{"a": 1, "b": 2}', '{"a": 1}'),
    ('{"a": 2}', '{"a": 2, "c": 1}'),
    ('{"a": 2, "b": 5}', "sorry"),
]


def test_a_share_of_right_answers_has_wilsons_interval():
    task = task_of(LABELS, "accuracy")
    found = intervals_of(scores_of(LABELS, "accuracy", task), task)
    assert found == {"accuracy": wilson(6, 8), "exact match": wilson(5, 8)}
    assert method_text(scores_of(LABELS, "accuracy", task), task) == "95 % intervals (Wilson)"


def test_field_f1_counts_fields_and_an_answer_is_a_group_of_them():
    task = task_of(JSON, "field F1")
    scores = scores_of(JSON, "field F1", task)
    found = intervals_of(scores, task)
    assert found["valid JSON"] == wilson(3, 4)
    assert found["exact match"] == wilson(0, 4)
    # of each answer: twice the fields it has right, and all fields wanted or given
    assert found["field F1"] == grouped_interval([2, 2, 2, 0], [4, 3, 3, 2])
    assert scores.value == pytest.approx(6 / 12)


def test_the_share_of_answers_in_a_style_has_wilsons_interval_too():
    pairs = [("thou art", "thou art"), ("thou hast", "you have"), ("ye", "thou")]
    task = task_of(pairs, "old", style=Style("old", {"thou": 1.0, "you": -1.0}))
    assert intervals_of(scores_of(pairs, "old", task), task)["old"] == wilson(2, 3)


def test_loss_perplexity_and_a_distance_have_no_interval():
    task = task_of(LABELS, "accuracy")
    assert "perplexity" not in intervals_of(scores_of(LABELS, "accuracy", task), task)
    planted = Scores("KL", 0.1, {"KL": 0.1}, None, None, 0.1, (), "test")
    assert intervals_of(planted, task) == {}
    assert method_text(planted, task) == ""
    assert change_of(planted, planted, task) is None


def test_old_facts_and_strangers_have_the_interval_of_their_own_questions():
    old = [Example(f"o{place}", "x") for place in range(10)]
    strangers = [Example(f"s{place}", "not known") for place in range(5)]
    task = task_of(LABELS, "accuracy", old_knowledge=old, strangers=strangers)
    given = ["x"] * 7 + ["y"] * 3, ["not known"] * 4 + ["Rome"]
    found = intervals_of(scores_of(LABELS, "accuracy", task, *given), task)
    assert found["old_knowledge"] == wilson(7, 10)
    assert found["strangers"] == wilson(4, 5)


GROUPS = {f"q{place}": group for place, group in enumerate("aaabbccc")}


def test_where_a_task_has_groups_they_are_counted_and_not_its_questions():
    task = task_of(LABELS, "accuracy", groups=GROUPS)
    scores = scores_of(LABELS, "accuracy", task)
    found = intervals_of(scores, task)
    assert found["accuracy"] == grouped_interval([3, 2, 1], [3, 2, 3])
    assert found["exact match"] == grouped_interval([3, 2, 0], [3, 2, 3])
    low, high = found["accuracy"]
    assert high - low > wilson(6, 8)[1] - wilson(6, 8)[0]
    assert "8 questions of 3 groups are worth fewer than 8 independent ones" in method_text(
        scores, task
    )


def test_field_f1_is_by_group_too():
    task = task_of(JSON, "field F1", groups={"q0": "a", "q1": "b", "q2": "b", "q3": "c"})
    found = intervals_of(scores_of(JSON, "field F1", task), task)
    assert found["field F1"] == grouped_interval([2, 4, 0], [4, 6, 2])


def test_of_one_group_nothing_is_known_of_others():
    task = task_of(LABELS, "accuracy", groups=dict.fromkeys(GROUPS, "a"))
    scores = scores_of(LABELS, "accuracy", task)
    assert intervals_of(scores, task) == {}
    assert method_text(scores, task).startswith("no intervals: all questions are of one group")
    assert change_of(scores, scores, task) is None


def test_several_seeds_answer_the_same_questions():
    """Three seeds with the same answers say no more than one of them does."""
    task = task_of(LABELS, "accuracy")
    scores = scores_of(LABELS, "accuracy", task)
    same = pooled_interval([scores] * 3, task)
    assert same == grouped_interval([3, 3, 3, 3, 3, 0, 3, 0], [3] * 8)
    assert pooled_interval([scores], task) == wilson(6, 8)
    grouped = replace(task, groups=GROUPS)
    assert pooled_interval([scores] * 3, grouped) == grouped_interval([9, 6, 3], [9, 6, 9])


def test_two_models_are_compared_as_lab_compare_does():
    before = scores_of([(wanted, "no") for wanted, _ in LABELS], "accuracy")
    after = scores_of(LABELS, "accuracy")
    found, expected = (
        change_of(before, after, task_of(LABELS, "accuracy")),
        lab.compare(before, after),
    )
    assert (found.difference, found.low, found.high) == (
        expected.difference,
        expected.low,
        expected.high,
    )
    assert found.words == replace(expected, a="before", b="after").verdict


def test_two_models_are_compared_by_group_where_there_are_groups():
    before = scores_of([(wanted, "no") for wanted, _ in LABELS], "accuracy")
    after = scores_of(LABELS, "accuracy")
    found = change_of(before, after, task_of(LABELS, "accuracy", groups=GROUPS))
    assert (found.low, found.high) == grouped_difference([0, 0, 2], [3, 2, 1], [3, 2, 3])
    assert found.difference == pytest.approx(4 / 8)
    assert found.words.startswith("not settled: −")
    assert found.words.endswith("points after 3 groups")


def test_a_difference_beyond_chance_is_named_with_its_size():
    right = [("yes", "yes")] * 40
    groups = {f"q{place}": str(place % 20) for place in range(40)}
    task = task_of(right, "accuracy", groups=groups)
    best = scores_of(right, "accuracy", task)
    worst = scores_of([("yes", "no")] * 38 + right[:2], "accuracy", task)
    assert change_of(worst, best, task).words.startswith("after is better by 95 points (")
    assert change_of(best, worst, task).words.startswith("after is worse by 95 points (")
    assert change_of(best, worst, task).words.endswith("; 20 groups)")


# --- errors -----------------------------------------------------------------------------------


def test_errors_by_class_name_what_was_given_in_its_place():
    yes = ClassErrors("yes", 6, 5, {"perhaps": 1})
    no = ClassErrors("no", 2, 1, {"yes": 1})
    assert errors_of(scores_of(LABELS, "accuracy")) == (no, yes)
    assert (yes.errors, yes.instead_text) == (1, "perhaps 1")


def test_the_class_with_most_errors_stands_first_and_its_most_frequent_confusion_too():
    pairs = [
        ("a", "B."),
        ("a", "b"),
        ("a", "c"),
        ("b", "b"),
        ("c", "a"),
        ("a", "x" * 99),
        ("a", ""),
    ]
    first, second, last = errors_of(scores_of(pairs, "accuracy"))
    assert first.instead == {"b": 2, "c": 1, f"{'x' * 40}…": 1, "(nothing)": 1}
    assert first.instead_text == f"b 2, c 1, {'x' * 40}… 1, others 1"
    assert (second.label, last.label) == ("c", "b")


def test_errors_by_field_tell_wrong_missing_and_unwanted_apart():
    assert errors_of(scores_of(JSON, "field F1")) == (
        FieldErrors("b", wanted=3, right=0, wrong=1, missing=2, unwanted=0),
        FieldErrors("a", wanted=4, right=3, wrong=0, missing=1, unwanted=0),
        FieldErrors("c", wanted=0, right=0, wrong=0, missing=0, unwanted=1),
    )


def test_answers_that_are_no_labels_and_no_json_have_no_table():
    answers = (Answer("q", "a text", "another", False),)
    assert errors_of(Scores("exact match", 0, {}, None, None, 0.1, answers, "test")) == ()
