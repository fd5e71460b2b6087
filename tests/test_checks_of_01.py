"""The references of notebook 01's exercises, against the package, by hand, by what must hold."""

import json
import math
import random
import re

import pytest

from lora_lab.checks import should_i_fine_tune as checks
from lora_lab.lessons.deciding import break_even
from lora_lab.training.evaluation import field_f1


@pytest.mark.parametrize("case", list(checks.right_share.cases()))
def test_an_answer_is_right_where_its_field_f1_is_1(case):
    pairs = list(zip(case["expected"], case["given"], strict=True))
    whole = sum(field_f1([pair]) == 1 for pair in pairs) / len(pairs)
    assert checks.right_share.reference(**case) == whole


def test_the_marked_answers_by_hand():
    case = next(iter(checks.right_share.cases()))
    assert checks.right_share.reference(**case) == 4 / 13
    assert all(json.loads(text) for text in case["expected"])


def test_the_split_by_hand():
    split = checks.split_by_template.reference
    assert split(tuple("aaabbccdd"), 3) == ([0, 1, 2, 3, 4], [5, 6, 7, 8])
    assert split(tuple("abcabcddabc"), 3) == ([0, 1, 3, 4, 8, 9], [2, 5, 6, 7, 10])


@pytest.mark.parametrize("seed", range(20))
def test_no_template_and_no_row_is_in_both_parts_and_none_is_lost(seed):
    rng = random.Random(seed)
    templates = tuple(rng.choice("abcdefg") for _ in range(30))
    train, test = checks.split_by_template.reference(templates, 8)
    assert sorted(train + test) == list(range(30))
    assert not {templates[place] for place in train} & {templates[place] for place in test}
    last = list(dict.fromkeys(templates[place] for place in test))[0]
    assert len(test) >= 8 > len(test) - templates.count(last)


@pytest.mark.parametrize("case", list(checks.answers_to_break_even.cases()))
def test_the_break_even_is_the_packages_rounded_up(case):
    saved = (case["tokens_prompted"] - case["tokens_tuned"]) * case["price_per_million"] / 1e6
    answers = break_even(case["setup_cost"], saved)
    expected = answers if math.isinf(answers) else math.ceil(answers)
    assert checks.answers_to_break_even.reference(**case) == expected


def test_a_referee_that_agrees_marks_three_ways_of_pocket_reading_invoices():
    verdict = checks.right_share(checks.right_share.reference)
    assert verdict.passed
    bare, worked, tuned = map(int, re.findall(r"(\d+) %", verdict.message))
    assert bare <= 5
    assert min(worked, tuned) >= 90
