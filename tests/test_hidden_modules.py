"""A word hides changes in two modules: always the same, evenly drawn, and nothing reveals them."""

import dataclasses
from collections import Counter
from itertools import combinations

import pytest
import torch

from lora_lab.models.bases import load_base
from lora_lab.tasks.hidden_modules import (
    FAR,
    MODULES,
    fewest_trainings,
    hidden_modules,
    hidden_modules_task,
)
from lora_lab.training.evaluation import evaluate

WORDS = [f"word {count}" for count in range(420)]


@pytest.fixture(scope="module")
def pocket():
    return load_base("pocket", dtype="float32")


def test_a_word_draws_the_same_modules_always_however_it_is_typed():
    assert hidden_modules("window") == ("o_proj", "up_proj")
    assert hidden_modules("maple") == ("q_proj", "o_proj")
    assert all(hidden_modules(f" {word.upper()} ") == hidden_modules(word) for word in WORDS)


def test_every_pair_of_modules_is_drawn_about_as_often_as_any_other():
    drawn = Counter(map(hidden_modules, WORDS))
    assert {*drawn} == {*combinations(MODULES, 2)}
    assert max(drawn.values()) <= 36  # of 420, 20 each; the deviation is 4


def test_each_change_has_rank_1_is_where_the_word_says_and_alone_moves_the_base_as_far(pocket):
    task = hidden_modules_task(pocket, "lantern")
    assert [*task.teacher] == ["model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj"]
    for name, change in task.teacher.items():
        values = torch.linalg.svdvals(change.double())
        assert int((values > 1e-4 * values[0]).sum()) == 1
        alone = dataclasses.replace(task, teacher={name: change})
        assert evaluate(pocket, alone).value == pytest.approx(FAR, rel=0.3)


def test_what_can_be_read_off_the_task_does_not_tell_the_modules(pocket):
    """Two tasks that differ in their modules look alike, but for their texts and their teachers."""
    seen = []
    for word in ("window", "maple"):
        task = hidden_modules_task(pocket, word)
        seen.append(dataclasses.replace(task, train=[], validation=[], test=[], teacher=None))
    assert seen[0] == seen[1]


def test_an_empty_word_is_refused():
    with pytest.raises(ValueError, match="the word is empty; give any word"):
        hidden_modules("  ")


def test_four_trainings_always_suffice_and_three_do_not():
    """Whatever is trained first leaves 10 pairs or more alike; two more separate 9 of them."""
    pairs = [{*pair} for pair in combinations(range(len(MODULES)), 2)]
    for size in range(1, len(MODULES)):
        alike = Counter(len(pair & {*range(size)}) for pair in pairs)
        assert max(alike.values()) > 3**2
    plan = ({0, 2, 4}, {0, 2, 6}, {2, 3}, {1, 2, 4, 6})  # found by trying
    outcomes = {tuple(len(pair & trained) for trained in plan) for pair in pairs}
    assert len(outcomes) == len(pairs)
    assert fewest_trainings() == 4
