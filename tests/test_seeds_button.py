"""Headless: more seeds are trained at a click, and the verdict follows the plan's looks."""

import dataclasses
import math
import threading

import pytest

import lora_lab as lab
from lora_lab.maths.comparison import UNSETTLED
from lora_lab.training import loop
from lora_lab.training.loop import Training
from lora_lab.training.pairing import compare_at_look
from lora_lab.widgets import sweep_following
from lora_lab.widgets.seeds_button import HELP, SeedsButton
from tiny import letters_task, recipe, tiny_base

LIMIT = 120  # seconds that `wait` may take on a busy machine
TASK = dataclasses.replace(letters_task(), test=letters_task().test[:3])  # answered in no time
A = recipe(steps=3, learning_rate=1e-3)
B = recipe(steps=3, learning_rate=2e-3)
HERE = {"engine": "sequential", "store": None}


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def runs(base):
    """Two settings of three steps, with seeds 0 to 4."""
    fitted = lab.sweep(base, TASK, [A, B], seeds=range(5), **HERE).runs
    return fitted[:5], fitted[5:]


def marked(runs, values):
    """The runs with other scores, and a second for each step."""
    return [
        dataclasses.replace(
            run,
            scores=dataclasses.replace(run.scores, value=value),
            records=tuple(dataclasses.replace(record, seconds=1.0) for record in run.records),
        )
        for run, value in zip(runs, values, strict=True)
    ]


def with_seed(run, seed):
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, seed=seed))


UNSURE = [0.5, 0.6, 0.4, 0.55, 0.45], [0.6, 0.5, 0.6, 0.4, 0.6]
SURE = [0.5, 0.6, 0.4, 0.55, 0.45], [0.81, 0.92, 0.7, 0.86, 0.74]


@pytest.fixture
def unsure(base, runs):
    return SeedsButton(base, TASK, *map(marked, runs, UNSURE), **HERE)


def clicked(button):
    button.train_button.click()
    button.wait(LIMIT)
    return button


def at_look(button):
    """The comparison of its runs by the plan, with the names of the two settings."""
    names = {"a": "learning_rate 0.001", "b": "learning_rate 0.002"}
    return dataclasses.replace(compare_at_look(button.a, button.b), **names)


def test_an_unsettled_verdict_offers_the_seeds_up_to_the_next_look_and_their_time(unsure):
    assert unsure.comparison == at_look(unsure)
    assert unsure.comparison.result == UNSETTLED
    assert "exact match: not settled: " in unsure.verdict.value
    assert "after 5 seeds, look 1 of 3; the plan looks again after 10" in unsure.verdict.value
    # five more seeds of two settings, three steps of a second each
    assert unsure.train_button.description == "5 more seeds, about 30 s"
    assert not unsure.train_button.disabled


def test_a_click_trains_both_settings_with_new_seeds_and_looks_again(unsure, base):
    before = unsure.a, unsure.b
    clicked(unsure)
    assert [run.recipe.seed for run in unsure.a] == [*range(10)]
    assert (unsure.a[:5], unsure.b[:5]) == before
    fitted = lab.sweep(base, TASK, [A, B], seeds=range(5, 10), **HERE).runs
    assert [run.records for run in (*unsure.a[5:], *unsure.b[5:])] == [
        run.records for run in fitted
    ]
    assert unsure.comparison == at_look(unsure)
    assert unsure.comparison.look == 2
    assert (unsure.progress.value, unsure.progress.max) == (30, 30)


def test_train_does_what_a_click_does_and_gives_the_comparison(unsure):
    assert unsure.train() == unsure.comparison
    assert unsure.comparison.pairs == 10


def test_after_the_last_look_the_plan_ends_settled_or_not(unsure, base, runs, monkeypatch):
    clicked(clicked(unsure))
    assert len(unsure.a) == 20
    assert unsure.comparison.look == 3
    assert unsure.more_seeds == 0
    assert unsure.train_button.description == "No more seeds"
    assert unsure.train_button.disabled
    assert unsure.state.value in ("settled", "the plan ends after 20 seeds")


def test_a_settled_verdict_asks_for_no_more_seeds_and_names_the_better_setting(base, runs):
    button = SeedsButton(base, TASK, *map(marked, runs, SURE), **HERE)
    assert "learning_rate 0.002 is better by 30.6 points" in button.verdict.value
    assert (button.settled, button.more_seeds) == (True, 0)
    assert button.train_button.disabled
    assert button.state.value == "settled"
    button.start()
    button.wait(LIMIT)
    assert len(button.a) == 5


def test_a_margin_is_that_of_the_comparison(base, runs):
    button = SeedsButton(base, TASK, *map(marked, runs, UNSURE), margin=0.4, **HERE)
    assert "no difference above 40 points" in button.verdict.value
    assert button.settled


def test_two_recipes_are_trained_from_the_first_seed_on(base):
    button = SeedsButton(base, TASK, A, dataclasses.replace(B, seed=7), **HERE)
    assert button.train_button.description == "5 seeds"
    assert "no verdict after 0 seeds a setting: the plan looks after 5, 10 and 20" in (
        button.verdict.value
    )
    clicked(button)
    assert [run.recipe.seed for run in button.b] == [0, 1, 2, 3, 4]
    assert button.comparison == at_look(button)


def test_between_two_looks_there_is_no_verdict_and_below_five_seeds_none_that_settles(base, runs):
    few = [marked(side, values)[:3] for side, values in zip(runs, SURE, strict=True)]
    button = SeedsButton(base, TASK, *few, **HERE)
    assert "a verdict takes 5 seeds" in button.verdict.value
    assert button.train_button.description.startswith("2 more seeds")
    seven = [
        [*side, with_seed(side[0], 5), with_seed(side[1], 6)] for side in map(marked, runs, UNSURE)
    ]
    button = SeedsButton(base, TASK, *seven, **HERE)
    assert "no verdict after 7 seeds a setting" in button.verdict.value
    assert button.comparison is None
    assert button.train_button.description.startswith("3 more seeds")


def test_new_seeds_are_those_that_no_run_has(base, runs):
    even = [
        [with_seed(run, 2 * run.recipe.seed) for run in side] for side in map(marked, runs, UNSURE)
    ]
    button = clicked(SeedsButton(base, TASK, *even, **HERE))
    assert [run.recipe.seed for run in button.a[5:]] == [1, 3, 5, 7, 9]


def test_after_a_training_the_time_is_that_of_the_runs_here(unsure):
    unsure._follower.trained, unsure._follower._begun, unsure._follower._ended = 4, 0.0, 100.0
    assert unsure._button_words() == "5 more seeds, about 4 min"  # 10 runs of 25 s


def test_stop_ends_after_the_step_looks_at_nothing_and_the_button_goes_on(unsure, monkeypatch):
    steps, count = Training.__iter__, iter(range(1, 1000))

    def stopped(training):
        for record in steps(training):
            if next(count) == 5:
                unsure.stop_button.click()
            yield record

    verdict = unsure.verdict.value
    monkeypatch.setattr(loop.Training, "__iter__", stopped)
    clicked(unsure)
    assert unsure.state.value == "stopped: 1 of 10 runs finished; the button goes on"
    assert (len(unsure.a), unsure.verdict.value) == (5, verdict)
    monkeypatch.undo()
    clicked(unsure)
    assert len(unsure.a) == 10
    assert unsure._follower.trained == 9  # the finished one is kept


def test_an_error_is_shown_raised_by_wait_and_no_thread_is_left(unsure, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("<b>no</b> model")
        yield

    before = threading.active_count()
    monkeypatch.setattr(sweep_following, "follow_sweep", broken)
    unsure.start()
    with pytest.raises(RuntimeError, match="<b>no</b> model"):
        unsure.wait(LIMIT)
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt; model" in unsure.state.value
    assert not unsure.train_button.disabled
    assert threading.active_count() == before


def test_a_seed_that_diverges_is_told_and_the_verdict_so_far_stays(base, runs, monkeypatch):
    button = SeedsButton(base, TASK, *map(marked, runs, UNSURE), **HERE)
    verdict = button.verdict.value
    whole = loop.Training.__iter__

    def diverging(training):
        for record in whole(training):
            if training.recipe.seed == 6:
                raise loop.Diverged("the loss is nan", loop.run_of(training, "diverged"))
            yield record

    monkeypatch.setattr(loop.Training, "__iter__", diverging)
    button.start()
    with pytest.raises(ValueError, match="seed 6 of a diverged"):
        button.wait(LIMIT)
    assert "seed 6 of a diverged" in button.state.value
    assert (button.verdict.value, len(button.a)) == (verdict, 5)


def test_the_help_says_the_plan_and_how_often_it_errs(unsure):
    assert "after 5, 10 and 20 seeds" in HELP
    assert "different in 5 % of cases" in HELP
    shown = [
        part.value for part in unsure.children if "lora-lab-help" in getattr(part, "value", "")
    ]
    assert len(shown) == 2  # the style, and the help
    assert "different in 5 % of cases" in shown[1]


def test_in_a_notebook_its_words_are_always_the_same(unsure):
    words = (
        "SeedsButton: Is learning_rate 0.002 better than learning_rate 0.001? · "
        "looks after 5, 10 and 20 seeds"
    )
    assert unsure._repr_mimebundle_()["text/plain"] == words
    assert clicked(unsure)._repr_mimebundle_()["text/plain"] == words


def test_what_cannot_be_compared_is_refused(base, runs):
    a, b = map(marked, runs, UNSURE)
    with pytest.raises(ValueError, match="a and b are one setting"):
        SeedsButton(base, TASK, A, dataclasses.replace(A, seed=3))
    with pytest.raises(ValueError, match="paired by seed"):
        SeedsButton(base, TASK, a[:4], b[1:])
    with pytest.raises(TypeError, match="one side has runs, the other is a recipe"):
        SeedsButton(base, TASK, a, B)
    with pytest.raises(TypeError, match="isn't a setting; give its runs"):
        SeedsButton(base, TASK, "a", B)
    assert math.isfinite(SeedsButton(base, TASK, a, b).comparison.low)
