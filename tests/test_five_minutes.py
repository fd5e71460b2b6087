"""Headless: the game trains once at a click, cuts at its budget, and keeps its best attempts."""

import dataclasses
import re
import threading

import pytest

from lora_lab.lessons.attempts import best_attempts
from lora_lab.lessons.sharing import read_class, share
from lora_lab.tasks.examples import Example
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training, train
from lora_lab.widgets.five_minutes import CHOSEN, FiveMinutes
from tiny import letters_task, recipe, tiny_base

LIMIT = 120  # seconds that `wait` may take on a busy machine


def task():
    letters = letters_task()
    old = [Example(example.prompt, example.answer) for example in letters.test]
    return dataclasses.replace(letters, old_knowledge=old, recipe=recipe(steps=6))


@pytest.fixture
def game():
    made = FiveMinutes(tiny_base(), task())
    made.wait(LIMIT)  # until it has said what it will take
    return made


def rows(game):
    """The table's cells, row by row, without its head."""
    found = re.findall(r"<tr>(<td>.*?)</tr>", game.best.value)
    return [re.findall("<td>(.*?)</td>", row) for row in found]


def heads(game):
    return re.findall("<th>(.*?)</th>", game.best.value)


def test_an_attempt_is_sent_to_the_class(game, tmp_path):
    share(tmp_path, "Ada")
    game.train_button.click()
    game.wait(LIMIT)
    (sent,) = read_class(tmp_path).attempts
    assert (sent.name, sent.attempt) == ("Ada", game.attempt)


def test_nothing_is_trained_before_the_button_is_pressed(game):
    assert (game.records, game.attempt) == ((), None)
    assert "no attempt so far" in game.best.value
    assert game.state.value == "ready: choose, then train"
    assert repr(game) == "FiveMinutes: tiny · letters, 24 examples · 300 s"
    assert game._repr_mimebundle_()["text/plain"] == repr(game)


def test_one_run_is_trained_scored_on_the_validation_split_and_kept(game):
    game.train_button.click()
    game.wait(LIMIT)
    again = train(tiny_base(), game.task, game.recipe)
    assert list(game.records) == list(again)
    scores = evaluate(again, game.task, split="validation")
    assert (game.attempt.new, game.attempt.old) == (scores.value, scores.old_knowledge)
    assert best_attempts(game.game) == (game.attempt,)
    assert heads(game)[4:] == ["learning_rate", "batch_size", "steps"]  # of a single attempt too
    assert game.attempt.choices == {name: getattr(game.recipe, name) for name in CHOSEN}
    assert game.state.value.endswith("finished after step 6 of 6")
    assert (game.train_button.disabled, game.stop_button.disabled) == (False, True)


def test_the_test_split_is_never_asked():
    never = [Example("never asked", "x")]
    game = FiveMinutes(tiny_base(), dataclasses.replace(task(), validation=[], test=never))
    game.start()
    with pytest.raises(ValueError, match="has no validation examples"):
        game.wait(LIMIT)


def test_the_board_shows_the_best_first_with_rate_batch_steps_and_in_what_else_they_differ(game):
    for r, steps in ((2, 2), (3, 3)):
        game.controls.controls["r"].value = r
        game.controls.controls["steps"].value = steps
        game.start()
        game.wait(LIMIT)
    chosen = ["r", "learning_rate", "batch_size", "steps"]
    assert heads(game) == ["score", "new", "old", "seconds", *chosen]
    assert {(row[4], row[-1]) for row in rows(game)} == {("2", "2"), ("3", "3")}
    scores = [float(row[0].rstrip(" %")) for row in rows(game)]
    assert scores == sorted(scores, reverse=True)
    again = FiveMinutes(tiny_base(), task())
    again.wait(LIMIT)
    assert rows(again) == rows(game)  # they outlast the widget


def test_when_the_time_is_up_the_run_is_cut_and_scored_as_it_is(monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr("lora_lab.widgets.following.time.perf_counter", lambda: next(ticks))
    game = FiveMinutes(tiny_base(), task(), seconds=10)
    game.controls.controls["steps"].value = 500
    game.start()
    game.wait(LIMIT)
    assert 1 <= len(game.records) < 10
    assert game.attempt is not None
    assert "cut, the time was up, after step" in game.state.value


def test_stop_ends_it_after_its_step_without_a_score(game, monkeypatch):
    loop = Training.__iter__

    def stopped(training):
        for record in loop(training):
            if record.step == 3:
                game.stop_button.click()
            yield record

    monkeypatch.setattr(Training, "__iter__", stopped)
    game.start()
    game.wait(LIMIT)
    assert (len(game.records), game.attempt) == (3, None)
    assert game.state.value == "stopped after step 3 of 6"
    assert best_attempts(game.game) == ()


def test_stopped_while_answers_are_counted_it_has_no_score_either(game, monkeypatch):
    def marked(*given, **named):
        game.stop_button.click()
        return evaluate(*given, **named)

    monkeypatch.setattr("lora_lab.widgets.five_minutes.evaluate", marked)
    game.start()
    game.wait(LIMIT)
    assert (len(game.records), game.attempt) == (6, None)
    assert best_attempts(game.game) == ()


def test_what_it_will_take_is_told_before_and_grows_with_the_steps(game):
    def most():
        return int(re.search(r"to (\d+) s of 300 s", game.expected.value)[1])

    before = most()
    game.controls.controls["steps"].value = 100_000
    game.wait(LIMIT)
    assert most() > max(before, 1)


def test_more_than_the_budget_is_told():
    game = FiveMinutes(tiny_base(), task(), seconds=1e-9)
    game.wait(LIMIT)
    assert game.expected.value.endswith("it will be cut")


def test_choices_that_do_not_fit_are_told_of_before_and_refused_by_the_training(game):
    game.controls.controls["learning_rate"].value = -1.0
    game.wait(LIMIT)
    assert "learning_rate=-1.0 is not" in game.expected.value
    game.start()
    with pytest.raises(ValueError, match="learning_rate"):
        game.wait(LIMIT)
    assert "ValueError" in game.state.value
    assert not game.train_button.disabled


def test_each_parameter_has_a_control_that_sets_it_and_full_fine_tuning_has_no_use_for_three(game):
    values = {
        "method": "full",
        "r": 3,
        "lora_alpha": 5.0,
        "lora_dropout": 0.25,
        "learning_rate": 0.125,
        "weight_decay": 0.5,
        "batch_size": 7,
        "gradient_accumulation_steps": 2,
        "steps": 9,
        "warmup_steps": 4,
    }
    assert {*values} == {*CHOSEN}
    for name, value in values.items():
        game.controls.controls[name].value = value
    assert {name: getattr(game.recipe, name) for name in CHOSEN} == values
    idle = [name for name in CHOSEN if game.controls.controls[name].disabled]
    assert idle == ["r", "lora_alpha", "lora_dropout"]


def test_closing_it_ends_the_run_after_its_step_and_leaves_no_thread(game, monkeypatch):
    before, loop = set(threading.enumerate()), Training.__iter__

    def closed(training):
        for record in loop(training):
            game.close()
            yield record

    monkeypatch.setattr(Training, "__iter__", closed)
    game.start()
    game.wait(LIMIT)
    assert len(game.records) == 1
    assert set(threading.enumerate()) <= before  # one of another test may have ended meanwhile


def test_a_task_without_old_knowledge_is_refused_with_one_that_has_some():
    with pytest.raises(ValueError, match="no old knowledge.*'new-facts'"):
        FiveMinutes(tiny_base(), dataclasses.replace(task(), old_knowledge=[]))
