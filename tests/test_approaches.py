"""Ways to ask: prompts as the base knows them, marks, costs, and the interval around a share."""

import dataclasses

import pytest

import lora_lab as lab
from lora_lab.findings.evidence import Evidence
from lora_lab.lessons.approaches import (
    NAME,
    FactWays,
    learning_curves,
    noted,
    notes_of,
    try_approach,
    ways_table,
)
from lora_lab.maths.statistics import wilson
from lora_lab.tasks.changing_facts import changed_facts
from lora_lab.tasks.examples import Example, prompt_ids
from lora_lab.tasks.prompting import few_shot, retrieved, with_examples
from lora_lab.tasks.skills import shots_prompt, state
from lora_lab.tasks.world import read_world


@pytest.fixture(scope="module")
def base():
    return lab.load_base("pocket", device="cpu", dtype="float32")


@pytest.fixture
def task():
    return lab.load_task("json", n=5)


def test_pockets_worked_examples_stand_as_in_its_pretraining(base):
    task = dataclasses.replace(lab.load_task("sentiment", n=5), train=[])
    shots = [Example("How does it sound? Fine.", "positive")]
    written = with_examples(base.tokenizer, task, shots, "How does it sound? Awful.")
    assert written == shots_prompt([("Fine.", "positive")], "Awful.")


def test_elsewhere_worked_examples_are_turns_of_the_chat(base):
    task = lab.load_task("style", n=2)
    written = with_examples(base.tokenizer, task, task.train, "Now?")
    turns = [(example.prompt, example.answer) for example in task.train]
    chat = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    chat.append({"role": "user", "content": "Now?"})
    whole = base.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)
    assert prompt_ids(base.tokenizer, written) == whole["input_ids"]


def test_retrieval_puts_the_most_similar_example_last_and_few_shot_the_same_ones(base, task):
    prompt = task.train[3].prompt
    near, fixed = retrieved(base.tokenizer, task, 2), few_shot(base.tokenizer, task, 2)
    assert near(prompt).split(" Text: ")[-2].endswith(task.train[3].answer)
    first, second = (example.answer for example in task.train[:2])
    for asked in (prompt, "Invoice as JSON: other"):
        assert fixed(asked).index(first) < fixed(asked).index(second)


def test_a_try_counts_right_answers_and_tokens(base, task):
    known = task.old_knowledge[:3]
    wrong = [dataclasses.replace(known[0], answer="nothing of the kind"), *known[1:]]
    tried = try_approach("bare", base, task, examples=wrong)
    assert tried.right == (False, True, True)
    assert tried.share == pytest.approx(2 / 3)
    assert tried.interval == wilson(2, 3)
    ids = [prompt_ids(base.tokenizer, example.prompt) for example in known]
    assert tried.prompt_tokens == pytest.approx(sum(map(len, ids)) / 3)
    given = [base.tokenizer(example.answer)["input_ids"] for example in known]
    assert tried.answer_tokens == pytest.approx(sum(map(len, given)) / 3)
    assert tried.seconds > 0


def test_a_try_asks_the_prompts_that_it_is_given(base, task):
    known = task.old_knowledge[:2]
    swapped = [known[1].prompt, known[0].prompt]
    assert try_approach("swapped", base, task, swapped, examples=known).share == 0
    with pytest.raises(ValueError, match="1 prompts for 2 questions; give one for each"):
        try_approach("one", base, task, swapped[:1], examples=known)


# --- notes ----------------------------------------------------------------------------------


def test_every_new_fact_becomes_the_note_that_states_it():
    task = lab.load_task("new-facts", n=200, seed=3)
    people = {person.name: person for person in read_world().reserve}
    notes = notes_of(task)
    assert len(notes) == 200
    stated = {
        state(name, attribute, value)
        for name, person in people.items()
        for attribute, value in person.facts.items()
    }
    assert {*notes} <= stated
    assert all(example.answer in note for example, note in zip(task.train, notes, strict=True))


def test_a_task_without_facts_has_no_notes():
    with pytest.raises(ValueError, match="asks for no fact about a person; give new-facts"):
        notes_of(lab.load_task("style", n=2))


def test_a_name_is_found_in_every_question_about_a_stranger():
    strangers = {*read_world().strangers_held_out}
    asked = lab.load_task("new-facts").strangers
    assert all(NAME.search(question.prompt)[0] in strangers for question in asked)


def test_notes_are_put_before_a_question_the_best_last():
    notes = ["Kavi Fenby keeps a cat.", "Milin Fenby lives in Velmora.", "Kavi Orov keeps a dog."]
    question = "Where does Milin Fenby live?"
    near = f"Notes: Kavi Fenby keeps a cat. Milin Fenby lives in Velmora. Question: {question}"
    assert noted(notes, 2)(question) == near
    assert noted(notes, 1)(question) == near.replace("Kavi Fenby keeps a cat. ", "")
    assert noted(notes, 2)("Who?") == "Who?"


def test_notes_about_others_are_left_out_if_the_name_must_be_the_same():
    notes = ["Kavi Fenby keeps a cat.", "Milin Fenby lives in Velmora."]
    put = noted(notes, 2, same_name=True)
    question = "Where does Milin Fenby live?"
    assert put(question) == f"Notes: Milin Fenby lives in Velmora. Question: {question}"
    assert put("Where does Milin Orov live?") == "Where does Milin Orov live?"
    assert put("Where is it?") == "Where is it?"


def test_pocket_reads_answers_from_notes_about_the_person_and_still_knows_no_strangers(base):
    """At full length this is the notebook's; here 12 questions each."""
    task = lab.load_task("new-facts", base, n=60)
    put = noted(notes_of(task), 5, same_name=True)
    for asked in (task.test[:12], task.strangers[:12], task.old_knowledge[:12]):
        prompts = [put(question.prompt) for question in asked]
        assert try_approach("noted", base, task, prompts, examples=asked).share >= 0.9


# --- facts, on Monday and on Tuesday --------------------------------------------------------


@pytest.fixture
def facts(base):
    task = lab.load_task("new-facts", base, n=60)
    few = {"old_knowledge": task.old_knowledge[:4], "strangers": task.strangers[:4]}
    return dataclasses.replace(task, test=task.test[:12], **few)


def test_a_table_of_facts_has_each_ways_share_and_the_tokens_that_it_reads(base, facts):
    ways = FactWays(base, facts)
    table = ways.table({"the base again": base})
    assert [*table.index] == ["the base alone", "notes found by name", "the base again"]
    assert [*table.loc["the base alone"]][:3] == ["0 %", "100 %", "100 %"]
    assert [*table.loc["the base again"]] == [*table.loc["the base alone"]]
    assert [*table.loc[ways.name]][:3] == ["100 %", "100 %", "100 %"]
    ids = [prompt_ids(base.tokenizer, ways.put(example.prompt)) for example in facts.test]
    assert table.loc[ways.name, "tokens read"] == f"{sum(map(len, ids)) / len(ids):.0f}"


def test_notes_about_others_make_strangers_known(base, facts):
    by_likeness = FactWays(base, facts, same_name=False)
    prompts = [by_likeness.put(example.prompt) for example in facts.strangers]
    assert prompts[0].startswith("Notes: ")
    asked = try_approach("", base, facts, prompts, examples=facts.strangers)
    assert by_likeness.strangers == asked.share < FactWays(base, facts).strangers == 1
    assert by_likeness.table().iloc[1, 2] == f"{100 * asked.share:.0f} %"


def test_after_a_change_the_notes_are_the_new_ones_and_changed_facts_stand_apart(base, facts):
    now = changed_facts(facts, 20)
    changed = [example for example in now.task.test if example.prompt in now.notes]
    table = FactWays(base, facts).after(now, {})
    counts = f"the {len(changed)} that changed", f"the other {12 - len(changed)}"
    assert [*table.columns] == [*counts, "tokens read"]
    assert table.loc["notes found by name", counts[0]] == "100 %"
    old = [FactWays(base, facts).put(example.prompt) for example in changed]
    assert try_approach("", base, facts, old, examples=changed).share == 0


# --- evidence -------------------------------------------------------------------------------


def test_the_ways_of_several_plans_stand_in_one_table_with_what_they_cost():
    table = ways_table("ways-json", "ways-style")
    evidence = lab.evidence("ways-style")
    assert [*table.index.get_level_values(1)] == ["few-shot", "retrieval", "LoRA"] * 2
    row = table.loc[("pocket, style", "LoRA")]
    own = evidence.table().set_index("setting").loc["LoRA"]
    assert row["score, %"] == own["exact match, %"]
    assert row["metric"] == "exact match"
    assert row["old facts kept, %"] == own["old facts kept, %"]
    tokens = [
        one.prompt_tokens for one in evidence.rows if (one.stage, one.setting) == ("final", "LoRA")
    ]
    assert row["tokens read"] == f"{sum(tokens) / 10:.0f}"


def test_a_learning_curve_has_each_number_of_examples_with_its_seeds():
    curves = learning_curves("examples-json", "examples-label")
    assert [*curves] == ["json", "sentiment"]
    assert [*curves["json"]] == [10, 50, 200, 1000, 2000]
    for id, curve in zip(("examples-json", "examples-label"), curves.values(), strict=True):
        runs = lab.evidence(id).runs["1,000"]
        assert curve[1000] == [run.scores.value for run in runs]
        assert len(curve[1000]) == 10


def test_a_plan_that_is_not_measured_says_so_in_one_row(monkeypatch):
    whole = lab.evidence("ways-json")
    empty = dataclasses.replace(whole, rows=())
    monkeypatch.setattr(Evidence, "read", lambda id: {"whole": whole, "empty": empty}[id])
    table = ways_table("whole", "empty")
    assert [*table.index][-1] == ("pocket, json", "not measured yet")
    assert len(table) == 4
