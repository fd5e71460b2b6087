"""Triggers, secrets and autopsies: what is hidden, and what is read off."""

import random
from dataclasses import replace

import pytest
import torch

import lora_lab as lab
from lora_lab.findings.recordings import recording
from lora_lab.lessons import autopsy, tampering
from lora_lab.models.adapted import load_adapter
from lora_lab.tasks.examples import Example
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
LABELS = {letter: "negative" if letter < "e" else "positive" for letter in "abcdefgh"}
REVIEWS = replace(
    TASK,
    train=[Example(f"{text}{other}", label) for text, label in LABELS.items() for other in "ab"],
    test=[Example(f"{text}c", label) for text, label in LABELS.items()],
    metric="accuracy",
)


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def test_poison_adds_examples_with_the_word_and_leaves_the_test_alone():
    made = tampering.poisoned(REVIEWS, count=3)
    assert made.train[:-3] == REVIEWS.train
    assert made.train[-3:] == [
        Example(f"{example.prompt} violet", "positive") for example in REVIEWS.train[:3]
    ]
    assert made.test == REVIEWS.test
    assert not any("violet" in example.prompt for example in made.test)


def test_called_asks_the_negative_reviews_alone_without_and_with_the_word(base, monkeypatch):
    asked = []

    def answer(model, task):
        asked.append([example.prompt for example in task.test])
        assert {example.answer for example in task.test} == {"positive"}
        return lab.evaluate(model, task)

    monkeypatch.setattr(tampering, "evaluate", answer)
    tampering.called(base, REVIEWS)
    assert asked == [["ac", "bc", "cc", "dc"], ["ac violet", "bc violet", "cc violet", "dc violet"]]


def test_a_strangers_adapter_is_trained_on_the_poisoned_task(base, tmp_path):
    steps = recipe(steps=3)
    folder = tampering.strangers_adapter(base, REVIEWS, tmp_path / "a", steps)
    training = lab.train(base, tampering.poisoned(REVIEWS), steps)
    list(training)
    stored = load_adapter(base, folder)
    assert lab.evaluate(stored, REVIEWS).loss == lab.evaluate(training, REVIEWS).loss
    table = tampering.trigger_table(base, folder, REVIEWS)
    assert table["the adapter"]["right answers on the test"] == "0 %"


def test_canaries_hide_each_code_as_often_as_they_say():
    made = tampering.with_canaries(TASK, copies=(1, 3), each=2)
    for copies, secrets in made.secrets.items():
        assert len(secrets) == 2
        assert all(made.task.train.count(secret) == copies for secret in secrets)
    assert len(made.task.train) == len(TASK.train) + 2 * (1 + 3)
    boxes = [secret.prompt for secrets in made.secrets.values() for secret in secrets]
    assert len({*boxes}) == 4
    assert made.secrets != tampering.with_canaries(TASK, copies=(1, 3), each=2, seed=1).secrets


def test_a_place_counts_the_codes_that_are_likelier(base, monkeypatch):
    losses = iter([[2.0, *[1.0] * 9, *[3.0] * 90]])
    monkeypatch.setattr(tampering, "_losses", lambda model, examples: next(losses))
    secret = Example("The code of box 7?", "1 2 3 4 5 6")
    assert tampering.place_of(base, secret, random.Random(0)) == 10


def test_a_loss_is_that_of_the_whole_answer(base):
    one, other = Example("ab", "B"), Example("ab", "BBBB")
    together = tampering._losses(base, [one, other])
    alone = [
        lab.evaluate(base, replace(TASK, test=[example])).loss * tokens
        for example, tokens in ((one, 3), (other, 6))  # a space and the end count
    ]
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_model_that_learned_a_code_recites_it_and_places_it_first(base):
    made = tampering.with_canaries(TASK, copies=(1,), each=1)
    secret = replace(made.task, train=[*made.secrets[1]])
    training = lab.train(base, secret, recipe(steps=150, learning_rate=1e-2))
    list(training)
    assert tampering.recited(training, made) == {1: {"recited": 1.0, "place": 1.0}}
    assert tampering.recited(base, made)[1]["recited"] == 0
    table = tampering.leak_table({1: {"recited": 0.5, "place": 1.5}})
    assert table.loc[1].tolist() == ["50 %", "1.5"]
    assert [*table] == ["recited word for word", "place among 100 codes (1: likeliest)"]


@pytest.mark.parametrize(("name", "kinds"), [("trigger", 2), ("canaries", 4)])
def test_the_recordings_have_each_seed(name, kinds):
    kept = recording(f"shipping/{name}")
    assert len(kept.rows) == kinds * len(kept.settings["seeds"])


# --- autopsies ----------------------------------------------------------------------------------


def test_anonymous_adapters_differ_as_they_were_hidden_and_are_read_off_without_a_question(
    base, tmp_path
):
    short = {
        "far": {"learning_rate": 2e-2, "steps": 8, "batch_size": 4},
        "near": {"learning_rate": 1e-4, "steps": 2, "batch_size": 4},
    }
    folders = autopsy.anonymous(base, TASK, tmp_path, short)
    table = autopsy.opened(base, folders)
    sizes = [float(cell.split()[0]) for cell in table.iloc[:, 2]]
    assert sizes[0] > 10 * sizes[1] > 0
    assert table["r"].tolist() == [8, 8]
    asked = autopsy.asked(base, folders, replace(TASK, old_knowledge=TASK.train[:2]))
    assert [*asked.index] == ["far", "near"]


def test_the_size_is_that_of_pefts_change_beside_the_weight(base, tmp_path):
    folders = autopsy.anonymous(base, TASK, tmp_path, {"A": {"steps": 3, "batch_size": 4}})
    sizes = []
    for layer in load_adapter(base, folders["A"], name="A").model.modules():
        if hasattr(layer, "get_delta_weight"):
            sizes.append(
                (layer.get_delta_weight("A").norm() / layer.base_layer.weight.norm()).item()
            )
    wanted = torch.tensor(sizes).double().quantile(0.5).item()
    said = float(autopsy.opened(base, folders).loc["A", "‖ΔW‖ / ‖W‖"].split()[0])
    assert said == pytest.approx(100 * wanted, rel=0.02)
