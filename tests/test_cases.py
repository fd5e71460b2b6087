"""Cases of data/cases/: they are whole, they are scored, and the widget keeps the first answer."""

import re
from collections import Counter

import pytest

from lora_lab.lessons.cases import SURE, Case, lesson_cases
from lora_lab.lessons.predictions import read_log
from lora_lab.places import data_folder
from lora_lab.widgets.cases import CasesView, decisions, questions

LESSONS = sorted(path.stem for path in (data_folder() / "cases").glob("*.toml"))
CASE = Case(
    id="99 decision 1",
    text="Which <rank>?",
    choices=("4", "16", "64"),
    right="16",
    because="Tools ship it.",
    source="https://example.org/thread",
)


@pytest.fixture
def view():
    shown = CasesView("Three decisions from work", (CASE,))
    yield shown.views[0]
    shown.close()


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_two_questions_on_earlier_lessons_and_three_decisions(lesson):
    cases = lesson_cases(lesson)
    assert (len(cases.questions), len(cases.decisions)) == (2, 3)
    assert all(case.lesson < lesson and len(case.lesson) == 2 for case in cases.questions)
    assert not any(case.lesson for case in cases.decisions)


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_case_is_read_in_half_a_minute(lesson):
    cases = lesson_cases(lesson)
    for case in cases.questions + cases.decisions:
        assert len(case.text.split()) <= 60, case.id
        assert len(case.because.split()) <= 55, case.id
        assert 2 <= len(case.choices) <= 4, case.id
        assert not any(choice.endswith(".") for choice in case.choices), case.id
        assert re.match(r"https://|$", case.source), case.id


def test_the_place_of_a_choice_does_not_tell_whether_it_is_right():
    cases = [lesson_cases(lesson) for lesson in LESSONS]
    every = [case for lesson in cases for case in lesson.questions + lesson.decisions]
    places = Counter(case.choices.index(case.right) for case in every)
    assert max(places.values()) <= 0.6 * len(every), places


def test_the_longest_choice_is_not_always_the_right_one():
    cases = [lesson_cases(lesson) for lesson in LESSONS]
    every = [case for lesson in cases for case in lesson.questions + lesson.decisions]
    longest = sum(case.right == max(case.choices, key=len) for case in every)
    assert longest <= 0.75 * len(every), f"{longest} of {len(every)}"


@pytest.mark.parametrize(
    ("sure", "share"), [("a guess", 1 / 3), ("fairly sure", 2 / 3), ("certain", 1)]
)
def test_how_sure_is_a_share_between_a_blind_guess_and_certainty(sure, share):
    assert CASE.confidence(sure) == pytest.approx(share)


def test_a_right_answer_scores_better_the_surer_it_was_and_a_wrong_one_worse():
    right = [CASE.answered("16", sure).score for sure in SURE]
    wrong = [CASE.answered("4", sure).score for sure in SURE]
    assert right == sorted(right, reverse=True)
    assert right[-1] == 0
    assert wrong == sorted(wrong)
    assert wrong[-1] == 2


def test_a_case_without_its_right_choice_is_refused_by_name():
    with pytest.raises(ValueError, match="case '99 decision 1': '8' is none of the options"):
        Case(id="99 decision 1", text="?", choices=("4", "16"), right="8", because="")


def test_an_unknown_lesson_or_confidence_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match="lesson '5' has no cases; did you mean '05'"):
        lesson_cases("5")
    with pytest.raises(ValueError, match="sure='very' is unknown; give one of 'a guess'"):
        CASE.confidence("very")


# --- the widget -----------------------------------------------------------------------------


def test_without_a_choice_nothing_is_kept_and_the_case_says_so(view):
    view.buttons["certain"].click()
    assert view.prediction is None
    assert "There is no choice yet" in view.verdict.value
    assert not read_log().predictions


def test_an_answer_is_scored_kept_and_stands(view):
    view.choice.value = "64"
    view.buttons["certain"].click()
    assert "Not right." in view.verdict.value
    assert "It is: “16”. Tools ship it." in view.verdict.value
    assert "score 2.00" in view.verdict.value
    assert view.choice.disabled
    assert all(button.disabled for button in view.buttons.values())
    (kept,) = read_log().predictions
    assert (kept.question.id, kept.guess, kept.right) == ("99 decision 1", "64", 0)


def test_a_second_answer_in_another_session_says_that_the_first_counts(view):
    view.choice.value = "64"
    view.answer("certain")
    again = CasesView("Again", (CASE,)).views[0]
    again.choice.value = "16"
    again.answer("certain")
    assert "<b>Right.</b>" in again.verdict.value
    assert "with a score of 2.00: the first counts" in again.verdict.value
    assert read_log().find(CASE.question).guess == "64"


def test_words_of_a_case_are_shown_as_text(view):
    assert "Which &lt;rank&gt;?" in view.children[0].value
    shown = CasesView("Three", (CASE,))._repr_mimebundle_()["text/html"]
    assert "Which &lt;rank&gt;?" in shown
    assert "<rank>" not in shown


def test_without_a_kernel_the_page_shows_the_words_and_folds_the_answers():
    shown = decisions("05")
    bundle = shown._repr_mimebundle_()
    assert shown.heading == "Three decisions from work"
    assert bundle["text/html"].count("<details><summary>Answer</summary>") == 3
    assert bundle["text/plain"] == repr(shown)
    for case in shown.cases:
        assert case.text in repr(shown)
        assert case.because not in repr(shown)


def test_the_questions_of_a_lesson_name_the_lesson_that_answers_them():
    shown = questions("06")
    assert shown.heading == "Two questions first"
    assert "See lesson 5." in shown._repr_mimebundle_()["text/html"]
