"""Headless: the slider goes back in time, and the map follows; a training moves both."""

import pytest

from lora_lab import plots
from lora_lab.training.adalora import last_ranks
from lora_lab.training.loop import train
from lora_lab.widgets.pruning_lab import PruningLab
from lora_lab.widgets.rank_map import SIZE, RankMap
from tiny import letters_task, recipe, tiny_base

WANTED = recipe(method="adalora", init_r=4, target_r=2, steps=10, tinit=2, tfinal=3)
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def records():
    return [*train(tiny_base(), letters_task(), WANTED)]


def drawn(ranks, planted=None):
    return plots.picture(plots.draw_ranks, ranks, planted or {}, size=SIZE)


def test_the_map_begins_at_the_end_and_goes_back_to_any_step(records):
    film = RankMap(tiny_base(), WANTED, records)
    assert film.view.value == film.picture.png == drawn(last_ranks(records)).png
    assert film.view.tooltip == film.picture.alt
    film.step.value = 5
    assert film.picture.alt == drawn(records[4].ranks).alt
    assert film.said.value.startswith("after step 5 of 10: ")
    film.step.value = 2  # before the first allocation all matrices have what they began with
    assert film.said.value == "after step 2 of 10: 56 triplets left · 0 of 14 matrices have none"
    film.step.value = 10  # after the last one, at step 7, nothing moves
    assert film.picture.alt == drawn(records[6].ranks).alt


def test_where_ranks_are_planted_the_words_say_what_could_be_there(records):
    film = RankMap(tiny_base(), WANTED, records, {DOWN: 3})
    there = last_ranks(records)[DOWN]
    assert film.said.value.endswith(f"{there} where ranks are planted, of 3 at most")
    assert film.picture.alt == drawn(last_ranks(records), {DOWN: 3}).alt


def test_a_training_moves_the_film_and_the_next_one_begins_anew():
    base, film = tiny_base(), RankMap(tiny_base(), WANTED)
    for steps in (10, 12):
        training = train(base, letters_task(), recipe(**vars_of(WANTED) | {"steps": steps}))
        film.look(training)
        assert film.step.value == 0
        for _ in training:
            film.look(training)
        assert (film.step.value, film.step.max) == (steps, steps)
        assert film.picture.alt == drawn(last_ranks(training.records)).alt


def vars_of(wanted):
    names = ("method", "init_r", "target_r", "tinit", "tfinal")
    return {name: getattr(wanted, name) for name in names}


def test_a_training_without_adalora_is_refused():
    film = RankMap(tiny_base(), WANTED)
    with pytest.raises(ValueError, match="method='lora' shares out none"):
        film.look(train(tiny_base(), letters_task(), recipe()))


def test_a_notebook_keeps_the_same_words_at_each_run(records):
    assert repr(RankMap(tiny_base(), WANTED, records)) == "RankMap: 14 matrices, 10 steps"


def test_the_lab_trains_and_its_film_ends_with_the_ranks_of_the_run():
    lab = PruningLab(tiny_base(), letters_task(), **vars_of(WANTED), steps=10)
    assert repr(lab) == "PruningLab: tiny · letters"
    result = lab.train()
    assert lab.picture.alt == drawn(last_ranks(result.records)).alt
    assert lab.film.step.value == 10
