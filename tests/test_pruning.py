"""What AdaLoRA's pruning finds and leaves, in numbers that a lesson shows."""

import pytest
import torch

from lora_lab.findings.evidence import Evidence
from lora_lab.findings.recordings import recording
from lora_lab.lessons.pruning import (
    ceiling,
    found_table,
    left_table,
    planted_table,
    rivals_table,
    train_by_steps,
    what_is_left,
)
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

WANTED = recipe(method="adalora", init_r=4, target_r=1, steps=10, tinit=2, tfinal=3)


@pytest.mark.parametrize(
    ("planted", "init_r", "budget", "most"),
    [
        ({"a": 6}, 6, 28, 6),  # no more than is planted
        ({"a": 6}, 4, 28, 4),  # nor than the matrix begins with
        ({"a": 6, "b": 6, "c": 2}, 6, 10, 10),  # nor than the budget
    ],
)
def test_the_ceiling_is_what_a_perfect_allocator_would_have(planted, init_r, budget, most):
    assert ceiling(planted, init_r, budget) == most


def test_what_was_found_stands_between_chance_and_the_ceiling():
    table = found_table({"a": 5, "b": 2, "c": 0, "d": 1}, {"a": 6}, init_r=6)
    assert table["triplets"].to_dict() == {
        "left, in all matrices": "8",
        "where ranks are planted": "5",
        "there by chance": "2",
        "there at most (the ceiling)": "6",
    }


def test_the_recorded_teachers_are_counted_seed_by_seed():
    table, rows = planted_table(), recording("adalora/planted").rows
    assert [*table.index] == ["6 in 1 of 28", "28 in 6 of 28", "32 in 8 of 28"]
    there = [
        sum(row["ranks"][name] for name in row["planted"])
        for row in rows
        if row["teacher"] == "uneven"
    ]
    assert table.loc["28 in 6 of 28", "found, by seed"] == ", ".join(map(str, there))
    assert table["the ceiling"].tolist() == [6, 28, 28]
    assert table["there by chance"].tolist() == ["1", "6", "8"]


def test_the_rivals_are_compared_at_equal_budget_and_at_equal_flops():
    evidence = Evidence.read("adalora-facts")
    table = rivals_table(evidence)
    assert [*table.index] == ["final budget"] * 2 + ["FLOPs"] * 2
    main = evidence.comparison("AdaLoRA, 3 to 2")
    assert table["new facts"].iloc[0] == f"{main.interval}: {main.result}"
    old = evidence.comparison("AdaLoRA, 8 to 2", of="old_knowledge")
    assert table["old facts kept"].iloc[1] == f"{old.interval}: {old.result}"


def test_of_a_pruned_model_all_numbers_are_trained_and_the_file_holds_what_is_left():
    training = train(tiny_base(), letters_task(), WANTED)
    before = what_is_left(training.model)
    assert before["numbers in the file"] == before["numbers trained"]
    for _ in training:
        pass
    left = what_is_left(training.model)
    saved = training.learned.tensors.values()
    assert left["triplets left"] == 14
    assert left["numbers trained"] == before["numbers trained"]
    assert left_table({"one": training.model}).loc["one"].to_dict() == left
    assert left["numbers in the file"] == sum(tensor.numel() for tensor in saved)


def test_steps_from_outside_train_a_copy_and_the_base_stays():
    base, seen = tiny_base(), []

    def step(model, optimizer, batch, step):
        seen.append(step)
        model(**batch).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()

    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    trained = train_by_steps(base, letters_task(), WANTED, step)
    assert seen == [*range(1, 11)]
    assert what_is_left(trained.model)["triplets left"] == 14
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items()
    )
