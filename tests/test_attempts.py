import pytest

from lora_lab.lessons.attempts import Attempt, best_attempts, keep_attempt
from lora_lab.places import attempts_file


def attempt(new, old, seconds=10.0, game="facts"):
    return Attempt(game=game, choices={"r": 8}, new=new, old=old, seconds=seconds)


def test_the_score_is_the_worse_of_what_was_learnt_and_what_was_kept():
    assert attempt(0.9, 0.4).score == attempt(0.4, 0.9).score == 0.4


def test_the_best_come_first_and_of_equal_ones_the_faster():
    for one in (attempt(0.5, 0.9), attempt(0.9, 0.8, 30), attempt(0.8, 1.0, 20), attempt(1, 0.1)):
        keep_attempt(one)
    best = best_attempts("facts", 3)
    assert [(one.score, one.seconds) for one in best] == [(0.8, 20), (0.8, 30), (0.5, 10)]
    assert best[0].choices == {"r": 8}


def test_attempts_at_another_game_are_not_compared():
    keep_attempt(attempt(0.5, 0.5))
    keep_attempt(attempt(0.9, 0.9, game="style"))
    assert [one.score for one in best_attempts("facts")] == [0.5]
    assert best_attempts("json") == ()


def test_they_are_kept_beside_the_store_and_a_damaged_line_is_left_out(empty_store):
    keep_attempt(attempt(0.5, 0.5))
    with attempts_file().open("ab") as file:
        file.write(b'{"game": "facts", "new": 2}\n{"ga')
    keep_attempt(attempt(0.6, 0.6))
    assert attempts_file() == empty_store.with_name("store-attempts.jsonl")
    assert [one.score for one in best_attempts("facts")] == [0.6, 0.5]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match="isn't a share; give 0 to 1"):
        attempt(share, 0.5)
