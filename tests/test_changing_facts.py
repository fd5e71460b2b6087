import dataclasses

import pytest

from lora_lab.models.bases import load_base
from lora_lab.tasks.changing_facts import changed_facts
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.world import ATTRIBUTES, STATEMENTS, read_world
from lora_lab.training.evaluation import evaluate

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def before():
    return load_task("new-facts", n=100, seed=3)


@pytest.fixture(scope="module")
def after(before):
    return changed_facts(before, 30, seed=1)


def answers(task):
    return {example.prompt: example.answer for split in SPLITS for example in getattr(task, split)}


def test_the_questions_stay_and_as_many_facts_change_as_were_asked_for(before, after):
    for split in SPLITS:
        old, new = getattr(before, split), getattr(after.task, split)
        assert [example.prompt for example in old] == [example.prompt for example in new]
    changes = [
        example for example in before.train if example.answer != answers(after.task)[example.prompt]
    ]
    assert len(changes) == 30
    assert len(before.train) == len(before.test) == 100  # the test asks for every fact once
    assert sum(a != b for a, b in zip(before.test, after.task.test, strict=True)) == 30
    assert after.task.old_knowledge == before.old_knowledge
    assert after.task.strangers == before.strangers


def test_every_changed_fact_has_another_answer_than_before(before):
    for seed in range(5):  # a draw that may hit the old answer does, one time in 64
        everything = changed_facts(before, 100, seed=seed)
        for old, new in zip(before.train, everything.task.train, strict=True):
            assert old.answer != new.answer


def test_a_changed_fact_is_answered_alike_in_every_wording_by_a_thing_of_its_kind(before, after):
    old, new = answers(before), answers(after.task)
    kind = {value: name for name, values in ATTRIBUTES.items() for value in values}
    assert {kind[new[prompt]] == kind[old[prompt]] for prompt in old} == {True}
    by_statement = {}
    for prompt, note in after.notes.items():
        by_statement.setdefault(note, set()).add(new[prompt])
    assert len(by_statement) == 30
    assert all(len(found) == 1 for found in by_statement.values())


def test_the_notes_are_those_of_the_changed_facts_and_say_the_new_answer(before, after):
    old, new = answers(before), answers(after.task)
    assert set(after.notes) == {prompt for prompt in old if old[prompt] != new[prompt]}
    people = [person.name for person in read_world().reserve]
    for prompt, note in after.notes.items():
        (name,) = (person for person in people if person in prompt)
        (attribute,) = (
            attribute for attribute, values in ATTRIBUTES.items() if new[prompt] in values
        )
        article = "an" if new[prompt][0].lower() in "aeiou" else "a"
        known = {"name": name, "value": new[prompt], "a": article}
        assert note in [form.format(**known) for form in STATEMENTS[attribute]]


def test_before_each_question_of_noted_stands_the_note_that_it_needs(after):
    for split in SPLITS:
        pairs = zip(getattr(after.task, split), getattr(after.noted, split), strict=True)
        for plain, noted in pairs:
            notes, question = noted.prompt.removeprefix("Notes: ").split(" Question: ")
            assert (question, noted.answer) == (plain.prompt, plain.answer)
            assert noted.answer in notes
            assert after.notes.get(plain.prompt, notes) == notes


def test_pocket_reads_the_changed_facts_off_their_notes_and_knows_none_without(after):
    base = load_base("pocket", device="cpu", dtype="float32")
    noted = evaluate(base, dataclasses.replace(after.noted, old_knowledge=(), strangers=()))
    plain = evaluate(base, dataclasses.replace(after.task, old_knowledge=(), strangers=()))
    assert noted.value >= 0.9  # data/pocket/scores.json: "notes, answer" 0.95 or more
    assert plain.value <= 0.1


def test_the_same_seed_changes_the_same_facts(before, after):
    again, other = changed_facts(before, 30, seed=1), changed_facts(before, 30, seed=2)
    assert again == after
    assert again.noted.fingerprint() == after.noted.fingerprint()
    assert other.notes != after.notes
    assert after.task.fingerprint() != before.fingerprint()


@pytest.mark.parametrize("count", [0, 101, 2.5, True])
def test_a_count_that_does_not_fit_is_refused_with_what_would(before, count):
    with pytest.raises(ValueError, match="task of 100 facts; give a whole number from 1 to 100"):
        changed_facts(before, count)


def test_a_task_without_new_facts_is_refused_with_the_one_that_has_them():
    with pytest.raises(ValueError, match="'style' asks for no facts.*load_task\\('new-facts'\\)"):
        changed_facts(load_task("style", n=20), 3)
