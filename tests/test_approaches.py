"""Ways to ask: prompts as the base knows them, marks, costs, and the interval around a share."""

import dataclasses

import pytest

import lora_lab as lab
from lora_lab.lessons.approaches import NAME, noted, notes_of, try_approach
from lora_lab.maths.statistics import wilson
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
    turns = [(one.prompt, one.answer) for one in task.train]
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
    first, second = (one.answer for one in task.train[:2])
    for asked in (prompt, "Invoice as JSON: other"):
        assert fixed(asked).index(first) < fixed(asked).index(second)


def test_a_try_counts_right_answers_and_tokens(base, task):
    known = task.old_knowledge[:3]
    wrong = [dataclasses.replace(known[0], answer="nothing of the kind"), *known[1:]]
    tried = try_approach("bare", base, task, examples=wrong)
    assert tried.right == (False, True, True)
    assert tried.share == pytest.approx(2 / 3)
    assert tried.interval == wilson(2, 3)
    ids = [prompt_ids(base.tokenizer, one.prompt) for one in known]
    assert tried.prompt_tokens == pytest.approx(sum(map(len, ids)) / 3)
    given = [base.tokenizer(one.answer)["input_ids"] for one in known]
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
    assert all(one.answer in note for one, note in zip(task.train, notes, strict=True))


def test_a_task_without_facts_has_no_notes():
    with pytest.raises(ValueError, match="asks for no fact about a person; give new-facts"):
        notes_of(lab.load_task("style", n=2))


def test_a_name_is_found_in_every_question_about_a_stranger():
    strangers = {*read_world().strangers_held_out}
    asked = lab.load_task("new-facts").strangers
    assert all(NAME.search(one.prompt)[0] in strangers for one in asked)


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
        prompts = [put(one.prompt) for one in asked]
        assert try_approach("noted", base, task, prompts, examples=asked).share >= 0.9
