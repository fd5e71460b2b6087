"""Submissions for a class: the code that a function needs, and answers on their way back."""

import pytest
import torch

from lora_lab.classroom import code
from lora_lab.classroom.answers import from_text, to_text


def test_only_statements_that_are_needed_are_chosen():
    known = [*code.statements(["import a\nimport b", "x = a.y", "def f():\n    x = 1\n    b.z"])]
    chosen = [str(statement) for statement in code.needed(code.checked_expression("f", []), known)]
    assert "import b" in chosen
    assert "import a" not in chosen
    assert "x = a.y" not in chosen


VALUES = [
    *(None, True, 3, -(10**30), 2.5, float("inf"), "ä\n", [1, (2, "a")], {"a": [1.0], 3: None}),
    *(torch.arange(6).reshape(2, 3), torch.zeros(0, 3), torch.ones(2, dtype=torch.bfloat16)),
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_an_answer_comes_back_as_it_was(value):
    back = from_text(to_text(value))
    assert type(back) is type(value)
    assert (
        back.equal(value) and back.dtype == value.dtype
        if torch.is_tensor(value)
        else (back == value)
    )


def test_an_object_arrives_as_a_type_of_that_name_and_a_broken_text_is_refused():
    assert type(from_text(to_text({1, 2}))).__name__ == "set"
    for text in ("", "[]", '["tensor", "float32", [2], ""]', '["whole", "x"]', '["run", "ls"]'):
        with pytest.raises(ValueError, match="."):
            from_text(text)


def test_a_name_inside_a_function_is_not_the_one_outside():
    known = [*code.statements(["facts = slow()", "def f(facts):\n    return facts"])]
    assert code.needed(code.checked_expression("f", []), known) == known[1:]


def test_the_last_thing_given_to_a_check_is_what_is_checked():
    cells = ["lab.check.f(first)", "lab.check.g(other)", "lab.check.f(second)"]
    assert code.text_of(code.checked_expression("f", cells)) == "second"
    assert code.text_of(code.checked_expression("h", cells)) == "h"


def test_a_name_that_nothing_defines_is_missing_but_not_one_of_python_or_a_lambdas_own():
    known = [*code.statements(["import a"])]
    given = code.checked_expression("f", ["lab.check.f(lambda x: a.b(len(x), y))"])
    assert code.undefined(given, known) == {"y"}
    assert code.undefined(given, [*code.statements(["from a import *"])]) == set()
