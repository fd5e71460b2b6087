import pytest
import torch

from lora_lab.lessons import labels
from lora_lab.lessons.labels import (
    better_labels,
    collate_all,
    collate_answers,
    collate_moved_twice,
    label_sweep,
    row_of,
    train_with,
)
from lora_lab.tasks.examples import collate, encode_all
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def quick(monkeypatch):
    """Few steps of a small batch."""
    monkeypatch.setattr(labels, "RECIPE", recipe(steps=4, weight_decay=0.0))


def collated(base, loss_on):
    encoded = encode_all(TASK.train, base.tokenizer, 99, loss_on)
    return collate(encoded, base.tokenizer.pad_token_id)


@pytest.mark.parametrize(
    ("collator", "loss_on"), [(collate_answers, "answer"), (collate_all, "all")]
)
def test_a_collators_batch_is_the_one_that_training_makes(base, collator, loss_on):
    rows = [row_of(base.tokenizer, example) for example in TASK.train]
    batch = collator(rows, base.tokenizer.pad_token_id)
    expected = collated(base, loss_on)
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_labels_moved_twice_stand_one_place_earlier_and_nothing_else_moves(base):
    rows = [row_of(base.tokenizer, example) for example in TASK.train]
    once, twice = (
        collator(rows, base.tokenizer.pad_token_id)
        for collator in (collate_answers, collate_moved_twice)
    )
    assert torch.equal(twice["labels"][:, :-1], once["labels"][:, 1:])
    assert (twice["labels"][:, -1] == -100).all()
    assert torch.equal(twice["input_ids"], once["input_ids"])


def test_a_training_with_a_collator_has_the_losses_of_the_packages_own_loop(base, quick):
    trained = train_with(base, TASK, collate_answers, steps=4)
    ours = [record.loss for record in train(base, TASK, labels.RECIPE)]
    assert trained.losses == pytest.approx(ours, rel=1e-4)


def test_a_training_with_a_collator_counts_right_answers_and_shows_them(base, quick):
    trained = train_with(base, TASK, collate_answers, steps=2)
    assert trained.wanted == tuple(example.answer for example in TASK.test[:60])
    right = sum(
        wanted == given for wanted, given in zip(trained.wanted, trained.given, strict=True)
    )
    assert trained.right == right
    assert trained.table().loc["right answers", ""] == f"{right} of {len(trained.wanted)}"
    assert list(trained.answers(2).index) == [example.prompt for example in TASK.test[:2]]
    assert "right answers" in repr(trained)
    assert "<table" in trained._repr_html_()


def test_the_sweep_differs_in_its_labels_alone_and_names_the_better_for_each_seed(base, quick):
    runs = label_sweep(base, TASK, seeds=(0, 1))
    settings = {(run.recipe.loss_on, run.recipe.seed) for run in runs.runs}
    assert settings == {("answer", 0), ("answer", 1), ("all", 0), ("all", 1)}
    assert {"loss_on", "seed"} == set(runs.table().columns) - {
        "value",
        "loss",
        "last_loss",
        "old_knowledge",
        "strangers",
        "status",
    }
    table = runs.table().set_index(["seed", "loss_on"])["value"]
    better = better_labels(base, TASK)
    assert len(better) == 5
    for seed in (0, 1):
        assert table[seed, better[seed]] == table[seed].max()
