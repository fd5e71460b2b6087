"""The shipped pocket: its files, its tokenizer, its scores, and the tasks made for it."""

import importlib
import json
import random
import subprocess
import sys
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_lab.places import data_folder
from lora_lab.tasks import pocket, skills, words, world
from lora_lab.tasks.examples import UNKNOWN, Example, encode, prompt_ids

FOLDER = data_folder() / "pocket"
CARD = json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER / "model")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER / "model").eval()


@pytest.fixture(scope="module")
def make_pocket():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("make_pocket")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def samples(make_pocket):
    return make_pocket.score_sets(world.read_world(), limit=60)


@pytest.fixture(scope="module")
def answered(tokenizer, make_pocket):
    """The tokens of the answers in the first 60,000 examples of pretraining."""
    stream = islice(make_pocket.curriculum(world.read_world(), 0), 60_000)
    texts = {f" {example.answer}" for example in stream}
    return {token for text in texts for token in tokenizer.tokenize(text)}


def answers(model, tokenizer, examples):
    """What plain transformers generates, greedy, in one batch padded on the left."""
    rows = [prompt_ids(tokenizer, example.prompt) for example in examples]
    batch = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=40, do_sample=False)
    return [
        text.strip()
        for text in tokenizer.batch_decode(
            out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
    ]


# --- files ---------------------------------------------------------------------------------------


def test_the_model_is_small_and_holds_no_pickle():
    files = list((FOLDER / "model").iterdir())
    assert sum(file.stat().st_size for file in files) <= 4 * 1024**2
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja"}


def test_plain_transformers_loads_a_llama_in_32_bits(model, tokenizer):
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.float32
    assert model.config.max_position_embeddings >= 256
    assert len(tokenizer) == model.config.vocab_size <= 2048
    assert sum(p.numel() for p in model.parameters()) == CARD["parameters"]


def test_pad_and_end_are_set_and_the_same_everywhere(model, tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|end|>")
    for config in (model.config, model.generation_config):
        assert config.pad_token_id == tokenizer.pad_token_id
        assert config.eos_token_id == tokenizer.eos_token_id


def test_no_matrix_that_gets_an_adapter_is_narrower_than_64(model):
    linears = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert len(linears) == 4 * 7 + 1
    assert min(min(linear.weight.shape) for linear in linears) >= 64


# --- tokenizer -----------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_any_unicode_text_round_trips(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["naïve café ☕", "日本語", "a\n\tb  c ", "👩‍🚀 e\u0301", "\x00\x7f"]
)
def test_text_from_outside_the_world_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_word_of_the_world_is_one_token_after_a_space(tokenizer):
    many = [w for w in words.SPACED_WORDS if len(tokenizer(f" {w}")["input_ids"]) != 1]
    assert many == []


def test_words_in_json_are_one_token_after_a_quotation_mark(tokenizer):
    many = [w for w in words.QUOTED_WORDS if len(tokenizer(f'"{w}')["input_ids"]) != 2]
    assert many == []


def test_digits_are_one_token_each(tokenizer):
    for number in ("0", "42", "9071"):
        assert tokenizer.convert_ids_to_tokens(tokenizer(number)["input_ids"]) == [*number]


def test_the_chat_format_gives_an_answer_the_same_tokens_in_training_and_in_generation(tokenizer):
    question = [{"role": "user", "content": "Where does Mira Tolov live?"}]
    rendered = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert rendered == "<|user|> Where does Mira Tolov live?<|assistant|>"
    both = [*question, {"role": "assistant", "content": "Velmora"}]
    assert tokenizer.apply_chat_template(both, tokenize=False) == f"{rendered} Velmora<|end|>"
    example = Example("Where does Mira Tolov live?", "Velmora")
    encoded = encode(tokenizer, example, 64)
    assert encoded.input_ids[: len(prompt_ids(tokenizer, example.prompt))] == prompt_ids(
        tokenizer, example.prompt
    )
    labelled = [label for label in encoded.labels if label != -100]
    assert tokenizer.convert_ids_to_tokens(labelled) == ["ĠVelmora", "<|end|>"]


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least"),
    {
        "old facts, taught wording": 0.99,
        "old facts, untaught wording": 0.95,
        "strangers, held out": 0.97,
        "sentiment": 0.97,
        "style": 0.97,
        "json": 0.97,
        "notes, answer": 0.95,
        "notes, silent": 0.95,
        "notes, known": 0.95,
        "notes, against": 0.95,
        "region, written out, people held out": 0.95,
    }.items(),
)
def test_the_card_promises_enough(name, least):
    assert CARD["scores"][name] >= least


def test_the_card_shows_the_measured_scores():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, share in CARD["scores"].items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert f"{100 * share:.1f} %" in line


@pytest.mark.parametrize(
    "name",
    [
        "old facts, taught wording",
        "old facts, untaught wording",
        "strangers, held out",
        "region, written out, people held out",
        "sentiment",
        "style",
        "json",
        "rules",
        "notes, answer",
        "notes, against",
    ],
)
def test_the_shipped_model_scores_what_its_card_says(model, tokenizer, samples, name):
    examples = samples[name]
    given = answers(model, tokenizer, examples)
    share = sum(reply == e.answer for reply, e in zip(given, examples, strict=True)) / len(examples)
    assert share == pytest.approx(CARD["scores"][name], abs=0.1)  # 60 items: 3 standard errors


# --- the command ---------------------------------------------------------------------------------


def test_the_lean_forward_pass_equals_the_models_own(model, make_pocket):
    torch.manual_seed(0)
    batch = torch.randint(4, model.config.vocab_size, (3, 11))
    places = torch.tensor([0, 10, 17, 32])
    with torch.no_grad():
        theirs = model.model(input_ids=batch).last_hidden_state.flatten(0, 1)[places]
        ours = make_pocket.hidden_at(model, batch, places)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_groups_hold_every_row_once_and_pad_less(make_pocket):
    rng = random.Random(0)
    rows = [([number] * rng.choice((9, 12, 40, 90)), 1) for number in range(64)]
    groups = make_pocket.grouped(rows)
    assert sorted(row[0][0] for group in groups for row in group) == list(range(64))
    padded = sum(len(group) * max(len(ids) for ids, _ in group) for group in groups)
    assert padded < 64 * 90


def test_scoring_by_likeliest_token_equals_generating(model, tokenizer, make_pocket):
    made = world.read_world()
    examples = world.two_hop(made, "workplace", list(made.known[:30]), chain=False)
    examples += skills.skill_set(made, "few-shot", 30)
    given = answers(model, tokenizer, examples)
    share = sum(reply == e.answer for reply, e in zip(given, examples, strict=True)) / len(examples)
    found = make_pocket.exact(model, tokenizer.backend_tokenizer, examples)
    assert found == pytest.approx(share)


def test_the_command_makes_the_same_model_twice_and_keeps_what_was_there(tmp_path):
    command = [sys.executable, str(FOLDER / "make_pocket.py"), "--steps", "2", "--sample", "4"]
    made = []
    for name in ("one", "two"):
        out = tmp_path / name
        (out / "model").mkdir(parents=True)
        (out / "model" / "old.txt").write_text("replaced once the new one is whole")
        subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
        assert not (out / "model" / "old.txt").exists()
        made.append((out / "model" / "model.safetensors").read_bytes())
        frozen = (FOLDER / "world.json").read_bytes()
        assert (out / "world.json").read_bytes() == frozen
    assert made[0] == made[1]
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shipped, new = (
            json.loads((folder / "model" / file).read_text(encoding="utf-8"))
            for folder in (FOLDER, tmp_path / "one")
        )
        for card in (shipped, new):
            card.pop("transformers_version", None)  # of whoever wrote the file
        assert new == shipped


# --- tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pocket.NAMES)
def test_no_example_is_in_two_splits(name):
    task = pocket.pocket_task(name, seed=3)
    splits = (task.train, task.validation, task.test)
    together = [example for split in splits for example in split]
    assert len(together) == len(set(together))
    assert len({example.prompt for example in together}) == len(together)
    assert len(task.test) == 200


@pytest.mark.parametrize("name", pocket.NAMES)
def test_a_task_is_the_same_for_the_same_n_and_seed(name):
    assert pocket.pocket_task(name, 40, 1) == pocket.pocket_task(name, 40, 1)
    assert pocket.pocket_task(name, 40, 1).train != pocket.pocket_task(name, 40, 2).train
    assert len(pocket.pocket_task(name, 40, 1).train) == 40


@pytest.mark.parametrize("name", ["sentiment", "style", "json"])
def test_the_test_set_does_not_depend_on_n(name):
    assert pocket.pocket_task(name, 10).test == pocket.pocket_task(name, 400).test


def test_a_new_fact_is_asked_in_another_wording_than_it_was_trained_in():
    task = pocket.pocket_task("new-facts", 500)
    wordings = [
        (template, attribute)
        for attribute, templates in world.WORDINGS.items()
        for template in templates
    ]

    def read(example):
        """(person, attribute) and wording of a question."""
        for template, attribute in wordings:
            before, after = template.split("{name}")
            if example.prompt.startswith(before) and example.prompt.endswith(after):
                name = example.prompt[len(before) : len(example.prompt) - len(after)]
                if name.count(" ") == 1:
                    return (name, attribute), template
        raise AssertionError(example)

    trained = dict(map(read, task.train))
    assert len(trained) == 500
    for example in [*task.validation, *task.test]:
        fact, wording = read(example)
        assert trained[fact] != wording


def test_new_facts_are_about_people_of_whom_pretraining_never_spoke():
    made = world.read_world()
    reserve = {person.name for person in made.reserve}
    task = pocket.pocket_task("new-facts", pocket.most("new-facts"))
    assert len(task.train) == 5 * len(reserve)
    prompts = " ".join(example.prompt for example in task.train)
    assert not any(name in prompts for name in made.strangers_held_out)
    assert not any(person.name in prompts for person in made.known)


def test_old_knowledge_and_strangers_are_the_same_for_every_task():
    made = world.read_world()
    first = pocket.pocket_task("style", 10)
    second = pocket.pocket_task("new-facts", 200, 5)
    assert first.old_knowledge == second.old_knowledge
    assert first.strangers == second.strangers
    assert set(first.old_knowledge) <= set(world.old_facts(made, taught=True))
    assert {example.answer for example in first.strangers} == {UNKNOWN}
    held_out = set(made.strangers_held_out)
    assert all(any(name in e.prompt for name in held_out) for e in first.strangers)


@pytest.mark.parametrize("name", ["two-hop", "two-hop-chain"])
def test_two_hop_is_tested_on_people_who_were_not_in_training(name):
    task = pocket.pocket_task(name)
    people = [person.name for person in world.read_world().known]

    def named(examples):
        return {name for name in people if any(name in e.prompt for e in examples)}

    assert not named(task.train) & named(task.test)
    assert not named(task.train) & named(task.validation)
    assert not named(task.validation) & named(task.test)


@pytest.mark.parametrize("name", pocket.NAMES)
def test_every_word_of_an_answer_has_stood_in_an_answer_before(name, tokenizer, answered):
    for example in pocket.pocket_task(name, 200).train:
        assert set(tokenizer.tokenize(f" {example.answer}")) <= answered


@pytest.mark.parametrize("name", pocket.NAMES)
def test_the_base_cannot_do_the_task_yet(name, model, tokenizer):
    examples = pocket.pocket_task(name, 50).test[:60]
    given = answers(model, tokenizer, examples)
    right = sum(reply == example.answer for reply, example in zip(given, examples, strict=True))
    assert right / len(examples) <= 0.4


def test_a_misspelt_task_is_refused_with_the_right_name():
    with pytest.raises(ValueError, match="did you mean 'new-facts'"):
        pocket.pocket_task("new_facts")


@pytest.mark.parametrize("n", [0, -1, 2.5, True, 10_501])
def test_an_n_that_does_not_fit_is_refused_with_what_would(n):
    with pytest.raises(ValueError, match="whole number from 1 to 10,500"):
        pocket.pocket_task("new-facts", n)
