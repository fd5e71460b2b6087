"""Headless: modules are trained and named, by code and by clicks; the score is counted."""

import dataclasses
import html

import pytest

from lora_lab.models.bases import load_base
from lora_lab.tasks import hidden_modules as secrets
from lora_lab.tasks.hidden_modules import MODULES
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from lora_lab.widgets.hunt_lab import HuntLab

LIMIT = 120  # seconds that `wait` may take on a busy machine
TWO = ("o_proj", "up_proj")  # what "window" draws


@pytest.fixture(scope="module")
def base():
    return load_base("pocket", dtype="float32")


@pytest.fixture
def hunt(base, monkeypatch):
    short = dataclasses.replace(secrets.RECIPE, steps=3)
    monkeypatch.setattr(secrets, "RECIPE", short)
    lab = HuntLab(base, "window")
    yield lab
    lab.close()


def test_the_error_left_is_that_of_a_run_over_the_bases(base, hunt):
    left = hunt.train("v_proj", "q_proj")
    recipe = dataclasses.replace(hunt.task.recipe, target_modules=("q_proj", "v_proj"))
    run = fit(base, hunt.task, recipe, store=None)
    assert left == pytest.approx(run.scores.value / evaluate(base, hunt.task).value, rel=1e-3)
    assert hunt.train("q_proj", "v_proj") == left  # not trained again
    assert [*hunt.left] == [("q_proj", "v_proj")]


def test_an_answer_is_scored_by_what_it_names_and_by_the_trainings_that_could_tell(hunt):
    hunt.train(*MODULES)
    hunt.train("q_proj")
    result = hunt.answer("up_proj", "q_proj")
    assert (result.answer, result.secret) == (("q_proj", "up_proj"), TWO)
    assert (result.found, result.trainings) == (1, 1)
    assert [*result.table().iloc[:, 0]] == [
        "q_proj, up_proj",
        "o_proj, up_proj",
        "1 of 2",
        "1",
        "4",
    ]
    assert "1 of 2 found, with 1 training; 4 always suffice" in hunt.state.value
    assert hunt.answer(*TWO).found == 2


def test_the_picture_tells_each_training_and_the_secret_only_after_the_answer(hunt):
    assert "no training yet" in hunt.picture.alt
    left = hunt.train("o_proj")
    assert f"o_proj: {round(100 * left)} %" in hunt.picture.alt
    assert "The change is in" not in hunt.view.tooltip
    hunt.answer("q_proj", "k_proj")
    assert hunt.view.tooltip.endswith("The change is in o_proj and up_proj.")
    assert [*hunt.table().trained] == ["o_proj"]


def test_clicks_choose_train_and_answer(hunt):
    hunt.train_button.click()
    assert hunt.state.value == "choose a module first"
    hunt.buttons["up_proj"].value = True
    hunt.train_button.click()
    hunt.wait(LIMIT)
    assert [*hunt.left] == [("up_proj",)]
    assert hunt.state.value.endswith(" of the error is left")
    hunt.answer_button.click()
    assert "1 module can't be right; name 2" in html.unescape(hunt.state.value)
    hunt.buttons["o_proj"].value = True
    hunt.answer_button.click()
    assert hunt.result.found == 2


def test_another_word_hides_anew_and_an_empty_one_is_refused_in_words(hunt):
    hunt.train("o_proj")
    hunt.word.value = "maple"
    assert hunt.left == {}
    assert sorted(hunt.task.teacher) == [
        "model.layers.2.self_attn.o_proj",
        "model.layers.2.self_attn.q_proj",
    ]
    hunt.word.value = " "
    assert "the word is empty" in hunt.state.value


@pytest.mark.parametrize(
    ("modules", "words"),
    [((), "no module is named"), (("v_porj",), "no module 'v_porj' here; did you mean 'v_proj'")],
)
def test_what_is_no_module_is_refused(hunt, modules, words):
    with pytest.raises(ValueError, match=words):
        hunt.train(*modules)


def test_a_stopped_training_leaves_nothing_and_says_what_to_do(hunt, monkeypatch):
    monkeypatch.setattr(hunt.panel, "follow", lambda training: hunt._work.stop())
    with pytest.raises(RuntimeError, match="was stopped; train these modules once more"):
        hunt.train("q_proj")
    assert hunt.left == {}


def test_a_word_that_comes_while_it_trains_gets_none_of_the_old_ones_trainings(hunt, monkeypatch):
    follow = hunt.panel.follow

    def follow_and_type(training):
        follow(training)
        hunt.word.value = "maple"

    monkeypatch.setattr(hunt.panel, "follow", follow_and_type)
    hunt.buttons["q_proj"].value = True
    hunt.train_button.click()
    hunt.wait(LIMIT)
    assert hunt.left == {}


def test_a_notebook_keeps_the_same_words_at_each_run(hunt):
    words = hunt._repr_mimebundle_()["text/plain"]
    assert words == f"HuntLab: pocket · 2 of {', '.join(MODULES)}"
