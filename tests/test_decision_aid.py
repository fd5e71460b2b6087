"""Headless: an answer is changed, and what the rule says follows."""

import html

import pytest

from lora_lab.lessons.deciding import GOALS, Situation, advise
from lora_lab.widgets.decision_aid import QUESTIONS, DecisionAid

SITUATION = Situation(goal="format", prompt_right=30, prompt_asked=100, examples=240, price=0.5)


@pytest.fixture
def aid():
    return DecisionAid(SITUATION)


def test_every_question_of_the_rule_is_asked_and_starts_at_its_answer(aid):
    assert [*QUESTIONS] == [*Situation.__dataclass_fields__] == [*aid.fields]
    assert aid.situation == SITUATION
    assert aid.advice == advise(SITUATION)
    assert dict(aid.fields["goal"].options) == {said: goal for goal, said in GOALS.items()}


def test_each_field_is_named_by_its_question_for_a_screen_reader(aid):
    assert {field: control.description for field, control in aid.fields.items()} == QUESTIONS


def test_another_answer_gives_what_the_rule_says_to_it(aid):
    aid.fields["examples"].value = "1,200"
    aid.fields["goal"].value = "facts"
    assert aid.situation.examples == 1200
    assert aid.advice == advise(aid.situation)
    shown = html.unescape(aid.said.value)
    assert aid.advice.recommendation in shown
    assert aid.advice.why in shown
    assert all(str(change) in shown for change in aid.advice.changes)
    assert all(line in shown for line in aid.advice.evidence)
    assert shown.count("<tr>") == 9


@pytest.mark.parametrize(
    ("field", "given", "said"),
    [
        ("examples", "lots", "“Good examples that you could train on”: 'lots' is not a number"),
        ("examples", "", "'' is not a number; give one, such as 250"),
        ("needed", "90", "needed=90 is not a share of answers"),
        ("prompt_right", "101", "prompt_right=101 of prompt_asked=100 cannot be"),
        ("price", "nan", "price=nan cannot be"),
        ("price", "inf", "price=inf cannot be"),
        ("examples", "<b>1</b>", "'<b>1</b>' is not a number"),
    ],
)
def test_a_bad_answer_is_told_of_in_words_and_gives_no_advice(aid, field, given, said):
    aid.fields[field].value = given
    assert said in html.unescape(aid.said.value)
    assert "<b>" not in aid.said.value
    assert aid.situation is None
    assert aid.advice is None
    aid.fields[field].value = "1"
    assert aid.advice is not None


def test_without_a_widget_it_says_what_it_is(aid):
    assert aid._repr_mimebundle_()["text/plain"] == "DecisionAid: 15 questions"
