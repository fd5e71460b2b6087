import math
import pickle

import pytest

from lora_lab.tasks.styles import style_between

OLD = ["Thou hast, and thou hast; thou.", "And he saith unto thee"]
NEW = ["You have, he says", "He's here."]


def test_the_weights_are_those_of_naive_bayes_worked_by_hand():
    style = style_between("letters", ["a a b"], ["a c"])
    # three different words; one is added to each count: a 3, b 2, c 1 of 6; a 2, b 1, c 2 of 5
    assert style.weights == pytest.approx(
        {
            "a": math.log((3 / 6) / (2 / 5)),
            "b": math.log((2 / 6) / (1 / 5)),
            "c": math.log((1 / 6) / (2 / 5)),
        }
    )
    assert style.has("a b")
    assert style.has("c a b b")
    assert not style.has("a a c")  # 5/4 · 5/4 · 5/12 is less than 1


def test_words_and_marks_count_as_they_are_written():
    style = style_between("old", OLD, NEW)
    assert {",", ".", "Thou", "thou", "He's"} <= set(style.weights)
    assert style.weights["Thou"] != style.weights["thou"]
    assert style.has("Thou hast")
    assert not style.has("You have")


def test_a_text_without_a_known_word_is_in_neither_style():
    for text in ("", "  ", "\n", "xyzzy plugh"):
        assert not style_between("old", OLD, NEW).has(text)
        assert not style_between("new", NEW, OLD).has(text)


def test_the_other_style_is_the_opposite():
    old, new = style_between("old", OLD, NEW), style_between("new", NEW, OLD)
    assert old.weights == pytest.approx({word: -weight for word, weight in new.weights.items()})
    assert all(old.has(text) and not new.has(text) for text in OLD)
    assert all(new.has(text) and not old.has(text) for text in NEW)


def test_a_style_goes_to_a_worker_process_unchanged():
    style = style_between("old", OLD, NEW)
    assert pickle.loads(pickle.dumps(style)) == style
