"""The knob's numbers against Adam's own rule; its slider, and its table."""

import pytest

from lora_lab.widgets.gain_knob import GainKnob
from tiny import letters_task, recipe, tiny_base

NAME = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def knob(base):
    return GainKnob(base, letters_task(), NAME, recipe(r=4, learning_rate=3e-3), (4, 16, 64))


def test_after_one_step_of_adam_b_has_the_learning_rate_at_every_alpha(knob):
    sizes = [done.typical for (_, steps), done in knob._trained.items() if steps == 1]
    assert sizes == pytest.approx([3e-3] * 3, rel=1e-2)


def test_after_one_step_the_change_is_as_many_times_larger_as_alpha(base, knob):
    weight = base.model.get_submodule(NAME).weight
    small, large = (knob._trained[alpha, 1].share(weight) for alpha in (4, 64))
    assert large / small == pytest.approx(16, rel=1e-2)


def test_a_share_is_the_norm_of_the_change_over_that_of_the_weight(base, knob):
    weight, done = base.model.get_submodule(NAME).weight.detach(), knob._trained[16, 12]
    change = 16 / 4 * done.lora_B @ done.lora_A
    assert done.share(weight) == pytest.approx((change.norm() / weight.norm()).item(), rel=1e-4)


def test_the_slider_and_the_buttons_choose_what_is_drawn(knob):
    knob.alpha.value, knob.moment.value = 64, 1
    assert knob.picture.title == f"{NAME}, r = 4, alpha 64, step 1"
    knob.moment.value = 12
    assert knob.picture.title.endswith("alpha 64, step 12")
    assert knob.said.value
    assert repr(knob).startswith("GainKnob: model.layers.1.mlp.up_proj, r = 4, alpha 64, step 12.")


def test_the_table_has_a_row_for_each_alpha_and_both_moments(knob):
    table = knob.table()
    assert [*table.index] == ["4", "16", "64"]
    assert [*table.columns] == [
        "B's entries, 1 step",
        "ΔW / W, 1 step",
        "B's entries, 12 steps",
        "ΔW / W, 12 steps",
    ]
    assert {*table["B's entries, 1 step"]} == {"0.003"}


def test_a_wrong_module_is_refused_with_the_nearest(base):
    with pytest.raises(ValueError, match="did you mean 'model.layers.1.mlp.up_proj'"):
        GainKnob(base, letters_task(), "model.layers.1.mlp.up_porj", recipe(), (4, 16))
