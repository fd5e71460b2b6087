"""Headless: the slider goes back in time, and the map follows."""

import pytest

from lora_lab import plots
from lora_lab.records import StepRecord
from lora_lab.widgets.rank_map import SIZE, RankMap

UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"


def records(*ranks):
    return [
        StepRecord(step, 1.0, 1e-3, 1.0, 8, ranks=one) for step, one in enumerate(ranks, start=1)
    ]


def test_the_map_begins_at_the_last_allocation_and_goes_back_to_any():
    early, late = {UP: 3, DOWN: 3}, {UP: 0, DOWN: 2}
    shown = RankMap(records(None, early, late, None), {DOWN: 2})
    drawn = plots.picture(plots.draw_ranks, late, {DOWN: 2}, size=SIZE)
    assert shown.view.value == shown.picture.png == drawn.png
    assert shown.view.tooltip == drawn.alt
    assert shown.said.value == "after step 3 of 4: 2 triplets left · 1 of 2 matrices have none"
    assert shown.step.options == (2, 3)
    shown.step.value = 2
    assert shown.picture.alt == plots.picture(plots.draw_ranks, early, {DOWN: 2}).alt
    assert "6 triplets left" in shown.said.value


def test_a_run_without_an_allocation_is_refused():
    with pytest.raises(ValueError, match="no ranks were allocated in 2 steps"):
        RankMap(records(None, None))


def test_a_notebook_keeps_the_same_words_at_each_run():
    assert repr(RankMap(records(None, {UP: 3}))) == "RankMap: 1 allocation of 2 steps"
