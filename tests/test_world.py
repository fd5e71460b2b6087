"""The pocket's world: invented from a seed, frozen in a file, its people shared out once."""

import random
from itertools import combinations, islice

import pytest

from lora_lab.places import data_folder
from lora_lab.tasks import sentences, skills, words, world
from lora_lab.tasks.examples import UNKNOWN


@pytest.fixture(scope="module")
def frozen():
    return world.read_world()


def test_the_frozen_world_is_the_one_that_its_seed_makes(frozen):
    text = (data_folder() / "pocket" / "world.json").read_text(encoding="utf-8")
    assert world.world_text(world.make_world(frozen.seed)) == text
    assert world.world_from_text(text) == frozen
    assert world.make_world(frozen.seed + 1) != frozen


def test_no_pair_of_names_has_two_roles(frozen):
    roles = (
        {person.name for person in frozen.known},
        {person.name for person in frozen.reserve},
        set(frozen.strangers_taught),
        set(frozen.strangers_held_out),
    )
    assert all(not (role & other) for role, other in combinations(roles, 2))
    assert sum(map(len, roles)) == 128 * 64
    assert len(frozen.strangers_held_out) == 300
    assert len(frozen.reserve) >= 2000


def test_every_attribute_has_64_values_so_that_a_fact_is_6_bits(frozen):
    assert [len(set(values)) for values in world.ATTRIBUTES.values()] == [64] * 5
    for attribute, values in world.ATTRIBUTES.items():
        assert {person.facts[attribute] for person in frozen.known} <= set(values)


def test_no_word_names_two_kinds_of_thing():
    kinds = (words.FIRST_NAMES, words.LAST_NAMES, words.REGIONS, *world.ATTRIBUTES.values())
    named = [word for kind in kinds for word in kind]
    assert len(named) == len(set(named))


def test_a_fact_is_never_taught_in_its_test_wording(frozen):
    taught = world.old_facts(frozen, taught=True)
    untaught = world.old_facts(frozen, taught=False)
    assert not set(taught) & set(untaught)
    assert len(taught) + len(untaught) == 400 * 5 * 5
    assert {len(p.taught[a]) for p in frozen.known for a in p.taught} == {2, 3}


def test_every_region_and_workplace_has_eight_members(frozen):
    for table in (frozen.region_of, frozen.workplace_of):
        places = list(table.values())
        assert {places.count(place) for place in places} == {8}
        assert len(table) == 64


def test_direct_and_written_out_two_hop_overlap_and_leave_people_out(frozen):
    everybody = {person.name for person in frozen.known}
    direct, chain = set(frozen.direct), set(frozen.chain)
    assert direct & chain
    assert direct - chain
    assert chain - direct
    assert everybody - direct - chain


def test_a_hop_written_out_ends_in_the_direct_answer(frozen):
    people = list(frozen.known[:20])
    for kind in ("region", "workplace"):
        direct = world.two_hop(frozen, kind, people, chain=False)
        written = world.two_hop(frozen, kind, people, chain=True)
        for short, long in zip(direct, written, strict=True):
            assert long.prompt == f"{short.prompt} {world.THINK}"
            assert long.answer.endswith(f", so {short.answer}")


def test_questions_put_the_article_that_the_word_asks_for():
    assert world.fill("{a} {value} works", value="actor") == "An actor works"
    assert world.fill("Where does {a} {value} work?", value="baker") == "Where does a baker work?"


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_a_skill_is_the_same_for_the_same_seed(frozen, skill):
    first, again = (
        list(islice(skills.stream(frozen, skill, random.Random(7), held_out=True), 20))
        for _ in range(2)
    )
    other = list(islice(skills.stream(frozen, skill, random.Random(8), held_out=True), 20))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "skill", ["sentiment", "style", "json", "json with keys", "rules", "notes"]
)
def test_held_out_examples_never_occur_in_pretraining(frozen, skill):
    taught = set(islice(skills.stream(frozen, skill, random.Random(1), held_out=False), 4000))
    held_out = skills.skill_set(frozen, skill, 200)
    assert len(set(held_out)) == 200
    if skill != "notes":  # notes about known people are distinguished by their kinds, below
        assert not taught & set(held_out)


def test_notes_about_strangers_are_about_held_out_ones(frozen):
    names = set(frozen.strangers_held_out)
    for example in skills.note_set(frozen, "answer", 50):
        question = example.prompt.split("Question: ")[1]
        assert any(name in question for name in names)


def test_a_note_against_an_old_fact_wins(frozen):
    by_name = {person.name: person for person in frozen.known}
    differs = 0
    for example in skills.note_set(frozen, "against", 50):
        notes, question = example.prompt.removeprefix("Notes: ").split(" Question: ")
        (person,) = [p for name, p in by_name.items() if name in question]
        assert example.answer in notes
        differs += example.answer not in person.facts.values()
    assert differs >= 45  # one note in 64 happens to agree


def test_notes_that_do_not_hold_the_answer_leave_a_stranger_unknown(frozen):
    assert {e.answer for e in skills.note_set(frozen, "silent", 50)} == {UNKNOWN}


def sides(text):
    """good or bad for each clause, worked out from the words alone."""
    found = []
    for clause in text.lower().rstrip(".").replace(", but ", " and ").split(" and "):
        parts = clause.replace(",", "").split()
        found.append((parts[-1] in words.GOOD_WORDS) != ("not" in parts))
    return found


@pytest.mark.parametrize(("label", "expected"), [("good", {True}), ("bad", {False})])
def test_a_review_has_the_side_of_its_words(label, expected):
    rng = random.Random(0)
    assert all(set(sides(sentences.review(rng, label))) == expected for _ in range(200))


def test_a_mixed_review_has_both_sides():
    rng = random.Random(0)
    assert all(set(sides(sentences.review(rng, "mixed"))) == {True, False} for _ in range(200))


def test_an_orders_json_can_be_read_back_and_stands_in_the_sentence():
    import json

    rng = random.Random(0)
    for _ in range(100):
        text, fields = sentences.order(rng)
        assert json.loads(sentences.as_json(fields)) == fields
        assert all(str(value) in text for value in fields.values())


def test_renamed_keys_come_in_the_order_asked():
    fields = {"name": "Mira", "goods": "tea", "count": 3, "city": "Velmora"}
    assert sentences.as_json(fields, {"count": "amount", "name": "client"}) == (
        '{"amount": 3, "client": "Mira"}'
    )


def test_a_rule_names_every_label():
    prompt = skills.rule_prompt("The film was dull.", {"good": "joy", "bad": "pain"})
    assert prompt == (
        "Answer joy if the review is good, pain if it is bad. Review: The film was dull."
    )
