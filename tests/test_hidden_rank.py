import dataclasses
from collections import Counter

import pytest
import torch

from lora_lab.tasks.hidden_rank import RANKS, hidden_rank, hidden_task
from lora_lab.tasks.planted import planted_task
from tiny import tiny_base

WORDS = [f"word {count}" for count in range(400)]


def test_a_word_draws_the_same_rank_always_however_it_is_typed():
    assert [hidden_rank("tulip"), hidden_rank("anchor"), hidden_rank("maple")] == [3, 1, 1]
    assert all(hidden_rank(f" {word.upper()} ") == hidden_rank(word) for word in WORDS)


def test_every_rank_is_drawn_about_as_often_as_any_other():
    drawn = Counter(map(hidden_rank, WORDS))
    assert {*drawn} == {*RANKS}
    assert min(drawn.values()) >= 56  # of 400, 80 each; the deviation is 8


def test_the_change_has_the_rank_that_the_word_draws():
    task = hidden_task(tiny_base(), "tulip", target_modules="q_proj", n=5)
    (change, *_) = task.teacher.values()
    values = torch.linalg.svdvals(change.double())
    assert int((values > 1e-4 * values[0]).sum()) == hidden_rank("tulip")


def test_what_can_be_read_off_the_task_does_not_tell_the_rank():
    """Two tasks that differ in rank alone look alike, but for their texts and their teachers."""
    seen = []
    for word in ("anchor", "tulip"):
        task = hidden_task(tiny_base(), word, target_modules="q_proj", n=5)
        seen.append(dataclasses.replace(task, train=[], validation=[], test=[], teacher=None))
    assert seen[0] == seen[1]
    plain = planted_task(tiny_base(), r=2, target_modules="q_proj", n=5)
    assert "rank 2" in plain.about  # what there is to hide
    assert "whose rank, 1 to 5, is drawn" in seen[0].about


def test_an_empty_word_is_refused():
    with pytest.raises(ValueError, match="the word is empty; give any word"):
        hidden_rank("  ")
