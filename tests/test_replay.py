"""Replay: old facts among the examples of a training, none of those that are asked for."""

from dataclasses import replace

import pytest

from lora_lab.tasks.loading import load_task
from lora_lab.tasks.replay import with_replay
from lora_lab.tasks.world import ATTRIBUTES, ask, read_world


@pytest.fixture(scope="module")
def task():
    return load_task("new-facts", n=40)


def old_of(task, mixed):
    own = set(task.train)
    return [example for example in mixed.train if example not in own]


def test_the_share_of_the_old_facts_is_the_one_that_was_asked_for(task):
    mixed = with_replay(task, 0.2, draws=400)
    assert len(old_of(task, mixed)) == pytest.approx(0.2 * len(mixed.train), abs=1)
    assert len(mixed.train) >= 400, "each old fact is drawn once at most"


def test_each_own_example_is_there_equally_often(task):
    mixed = with_replay(task, 0.05, draws=100)
    assert {mixed.train.count(example) for example in task.train} == {3}


def test_no_old_fact_that_is_asked_for_is_practised_in_any_wording(task):
    mixed = with_replay(task, 0.4, draws=1000)
    wordings = {
        ask(person, attribute, wording): (person.name, attribute)
        for person in read_world().known
        for attribute in ATTRIBUTES
        for wording in range(5)
    }
    practised = {wordings[example.prompt] for example in old_of(task, mixed)}
    assert len(practised) == len(old_of(task, mixed)), "each is another fact"
    assert not practised & {wordings[example.prompt] for example in task.old_knowledge}


def test_the_questions_stay_and_a_seed_draws_other_old_facts(task):
    one, two = (with_replay(task, 0.05, draws=400, seed=seed) for seed in (0, 1))
    assert replace(one, train=task.train) == task
    assert old_of(task, one) != old_of(task, two)
    assert with_replay(task, 0.05, draws=400, seed=1).train == two.train


@pytest.mark.parametrize(
    ("share", "draws", "words"),
    [(0, 100, "isn't a share"), (1.0, 100, "isn't a share"), (0.9, 10_000, "there are")],
)
def test_a_share_that_does_not_fit_is_refused(task, share, draws, words):
    with pytest.raises(ValueError, match=words):
        with_replay(task, share, draws)
