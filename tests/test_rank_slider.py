"""Headless: the slider is moved, and the adapter is asked at that rank."""

import dataclasses

import pytest

from lora_lab import plots
from lora_lab.lessons.cutting import cut
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from lora_lab.widgets.rank_slider import SIZE, RankSlider
from lora_lab.widgets.toggle import Toggle
from tiny import letters_task, recipe, tiny_base

TASK = dataclasses.replace(letters_task(), old_knowledge=letters_task().train[:5])


@pytest.fixture(scope="module")
def run():
    return fit(tiny_base(), TASK, recipe(r=4, steps=20, learning_rate=1e-2), store=None)


def test_a_moved_slider_asks_the_adapter_cut_to_k(run):
    slider = RankSlider(run, TASK)
    assert slider.scores is None
    for k in (1, 4):
        slider.k.value = k
        slider.show()
        slider.wait(60)
        assert slider.scores == evaluate(cut(run, k), TASK)
        expected = evaluate(tiny_base(), TASK), slider.scores
        drawn = plots.picture(plots.draw_meters, *expected, size=SIZE)
        assert slider.picture.alt == slider.view.tooltip == drawn.alt
        assert slider.view.value == slider.picture.png
        assert f"rank {k} of 4" in slider.state.value
    assert "100 % of the change" in slider.state.value


def test_closing_it_leaves_out_what_waits_to_be_asked(run, monkeypatch):
    slider, asked = RankSlider(run, TASK), []

    def closed(whole, k):
        asked.append(k)
        slider.k.value = 1  # waits behind this one ...
        slider.close()
        return cut(whole, k)

    monkeypatch.setattr("lora_lab.widgets.rank_slider.cut", closed)
    slider.k.value = 2
    slider.wait(60)
    assert asked == [2]  # ... and is never begun


def test_it_asks_at_most_as_many_questions_as_it_is_told(run):
    slider = RankSlider(run, TASK, questions=3)
    slider.show()
    slider.wait(60)
    assert len(slider.scores.answers) == 3


def test_a_notebook_keeps_the_same_words_at_each_run(run):
    words = RankSlider(run, TASK)._repr_mimebundle_()["text/plain"]
    assert words == "RankSlider: letters at rank 4, cut to k"


def pictures():
    return {
        name: plots.picture(plots.draw_cliff, {1: [0.5], 4: [value]}, 0.9)
        for name, value in (("one", 0.6), ("other", 0.7))
    }


def test_a_button_changes_the_picture_and_its_words():
    both = pictures()
    toggle = Toggle("Which?", both)
    assert toggle.picture is both["one"]
    for name in ("other", "one"):
        toggle.choice.value = name
        assert toggle.view.value == both[name].png
        assert toggle.view.tooltip == both[name].alt
        assert both[name].alt in toggle.said.value
    assert toggle._repr_mimebundle_()[0]["text/plain"] == "Toggle: Which? one · other"


def test_one_picture_is_no_choice():
    with pytest.raises(ValueError, match="1 pictures leave no choice"):
        Toggle("Which?", dict([*pictures().items()][:1]))
