"""Headless: ways into a batch are trained in turn, stopped, and trained again."""

import dataclasses

import pytest

from lora_lab.lessons.way_in import packings, trained
from lora_lab.tasks.examples import Example
from lora_lab.widgets.ways_lab import WaysLab
from tiny import letters_task, recipe, tiny_base

LIMIT = 120  # seconds that `wait` may take on a busy machine
LETTERS = letters_task()
TASK = dataclasses.replace(
    LETTERS,
    recipe=recipe(steps=4, batch_size=4),
    test=LETTERS.test[:4],
    old_knowledge=(Example("ab", "B"),),
)
CHOICE = {"title": "What does it cost?", "label": "row length", "lengths": (80, 120), "length": 80}


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def lab(base):
    return WaysLab(base, TASK, packings, **CHOICE, seeds=2)


def test_each_way_is_trained_with_each_seed_as_alone(base, lab):
    result = lab.train(120)
    ways = packings(base, TASK, 120)
    assert [*result.outcomes] == [*ways]
    for name in ("packed", "packed, no mask"):
        for seed, outcome in enumerate(result.outcomes[name]):
            assert outcome.losses == trained(base, TASK, ways[name], seed).losses
    one = result.outcomes["padded"]
    assert result.right["padded"] == sum(outcome.right for outcome in one) / 2


def test_the_table_has_a_row_for_each_way_and_the_answers_a_column(lab):
    result = lab.train()
    table = result.table()
    assert [*table.index] == [*result.outcomes]
    assert table.loc["padded", "steps × examples"] == "4 × 4"
    assert table.loc["packed, 4 × the rows", "steps × examples"] == "1 × 16"
    assert table.loc["padded", "examples"] == str(len(TASK.train))
    answers = result.answers(2)
    assert [*answers.columns] == [*result.outcomes]
    assert {*answers.index} <= {example.answer for example in TASK.test}


def test_what_has_just_been_trained_is_not_trained_again_at_the_same_length(lab):
    first = lab.train(80)
    assert lab.train(80).outcomes["padded"][0] is first.outcomes["padded"][0]
    assert lab.train(120).outcomes["padded"][0] is not first.outcomes["padded"][0]
    lab.train_button.click()
    lab.wait(LIMIT)
    assert lab.state.value == "finished: 10 trainings"
    assert lab.progress.value == lab.progress.max == 2 * (3 * 4 + 2 * 1)


def test_the_pictures_and_the_state_end_where_the_training_does(lab):
    assert lab.picture.alt.endswith("none trained yet.")
    lab.train(120)
    assert lab.picture.title == "What is right at row length 120?"
    assert lab.bars.value == lab.picture.png
    assert lab.loss_picture.value == lab.curves.png
    assert "packed, no mask" in lab.curves.alt
    assert not lab.train_button.disabled


def test_a_stopped_training_has_no_result_and_says_what_to_do(base, monkeypatch):
    task = dataclasses.replace(TASK, recipe=recipe(steps=1000))
    stopped = WaysLab(base, task, packings, **CHOICE)
    say = stopped._say
    monkeypatch.setattr(
        stopped, "_say", lambda line: (say(line), "step" in line and stopped._work.stop())
    )
    with pytest.raises(RuntimeError, match="not all ways are trained; press Train all"):
        stopped.train()


def test_a_notebook_keeps_the_same_words_at_each_run(lab):
    words = lab._repr_mimebundle_()["text/plain"]
    assert words.startswith("WaysLab: tiny · letters · padded, packed, ")
    assert words.endswith("row length 80, 120")
