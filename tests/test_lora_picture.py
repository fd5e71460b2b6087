"""The LoRA picture's numbers against the model's own and against SciPy."""

import math

import numpy as np
import pytest
import scipy.linalg

import lora_lab as lab
from lora_lab import plots
from lora_lab.widgets import lora_picture
from lora_lab.widgets.live_lab import LiveLab
from tiny import letters_task, recipe, tiny_base

NAME = "model.layers.1.mlp.up_proj"  # (96, 32)
TASK = letters_task()


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def numbers(packed, *shape):
    return np.frombuffer(packed, dtype=np.float32).reshape(shape)


def watched(base, **changes):
    """A picture that has looked at a training, and the training."""
    picture = lab.picture_of_lora(base, NAME, r=2)
    training = lab.train(base, TASK, recipe(**changes))
    picture.look(training)
    for _ in training:
        picture.look(training)
    return picture, training


def test_it_holds_the_layers_own_weight_and_a_start_as_pefts(base):
    picture = lab.picture_of_lora(base, NAME)
    weight = base.model.get_submodule(NAME).weight.detach().numpy()
    assert (numbers(picture.weight, 96, 32) == weight).all()
    assert picture.shape == [96, 32]
    assert picture.largest == 32  # the matrix can have no higher rank
    start = numbers(picture.start, 32, 32)
    peft = lab.train(base, TASK, recipe(r=32)).model.get_submodule(f"base_model.model.{NAME}")
    theirs = peft.lora_A["default"].weight.detach().numpy()
    for A in (start, theirs):  # the same rule: even between ± 1 / sqrt(in)
        assert 0.95 / math.sqrt(32) < abs(A).max() <= 1 / math.sqrt(32)
    assert start.std() == pytest.approx(theirs.std(), rel=0.1)


def test_b_fills_from_zero_and_ends_as_the_runs_own(base):
    picture, training = watched(base, r=3, steps=30)
    layer = training.model.get_submodule(f"base_model.model.{NAME}")
    first, last = picture.looks[0], picture.looks[-1]
    assert (first["step"], last["step"]) == (0, 30)
    assert 10 <= len(picture.looks) <= lora_picture.LOOKS + 4
    assert not numbers(first["B"], 96, 3).any()
    for name in "AB":
        own = getattr(layer, f"lora_{name}")["default"].weight.detach().numpy()
        assert (numbers(last[name], *own.shape) == own).all()
    sizes = [abs(numbers(look["B"], 96, 3)).sum() for look in picture.looks]
    assert sizes[0] == 0 < sizes[1]
    assert picture.r == 3  # the slider stands where the run is


def test_the_spectrum_and_the_size_are_those_of_the_change_itself(base):
    picture, training = watched(base, r=3)
    look = picture.looks[-1]
    layer = training.model.get_submodule(f"base_model.model.{NAME}")
    change = layer.get_delta_weight("default").detach().numpy()
    expected = scipy.linalg.svdvals(change.astype(float))[:3]
    assert look["values"] == pytest.approx(expected, rel=1e-4)
    weight = base.model.get_submodule(NAME).weight.detach().numpy()
    assert look["change"] == pytest.approx(
        np.linalg.norm(change) / np.linalg.norm(weight), rel=1e-4
    )
    assert look["scaling"] == 7 / 3


def test_another_r_stays_beside_it_and_the_same_r_begins_anew(base):
    picture, _ = watched(base, r=3, steps=2)
    for r, steps in ((2, 2), (3, 1)):
        training = lab.train(base, TASK, recipe(r=r, steps=steps))
        picture.look(training)
        for _ in training:
            picture.look(training)
    assert [(look["r"], look["step"]) for look in picture.looks] == [
        (2, 0), (2, 1), (2, 2), (3, 0), (3, 1)
    ]  # fmt: skip


def test_the_slider_is_the_readers_while_it_trains(base):
    picture = lab.picture_of_lora(base, NAME)
    training = lab.train(base, TASK, recipe(r=3, steps=4))
    picture.look(training)
    assert picture.r == 3
    picture.r = 5
    for _ in training:
        picture.look(training)
    assert picture.r == 5
    assert "r = 5, before training" in picture.picture().title


def test_of_a_large_matrix_every_second_row_and_column_is_sent(base, monkeypatch):
    monkeypatch.setattr(lora_picture, "DRAWN", 50)
    picture, training = watched(base, r=3, steps=1)
    weight = base.model.get_submodule(NAME).weight.detach().numpy()
    assert picture.every == 2
    assert (numbers(picture.weight, 48, 16) == weight[::2, ::2]).all()
    layer = training.model.get_submodule(f"base_model.model.{NAME}")
    own = layer.lora_B["default"].weight.detach().numpy()
    assert (numbers(picture.looks[-1]["B"], 48, 3) == own[::2]).all()


def test_a_live_lab_lets_it_follow_each_training(base):
    live = LiveLab(base, TASK, steps=3, r=4)
    picture = lab.picture_of_lora(base, NAME)
    live.watch(picture)
    live.start()
    live.wait(120)
    assert [(look["r"], look["step"]) for look in picture.looks] == [(4, k) for k in range(4)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "full", "learning_rate": 1e-4}, "plain LoRA, .* method='full'"),
        ({"use_dora": True}, "use_dora=True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"target_modules": ("q_proj",)}, "no A and B for .*up_proj: .*'q_proj'.*choose others"),
        ({"r": 33}, "r=33, and the picture goes up to r=32"),
    ],
)
@pytest.mark.filterwarnings("ignore:r=33 is above")
def test_a_run_that_does_not_fit_is_refused_in_words(base, changes, words):
    picture = lab.picture_of_lora(base, NAME)
    with pytest.raises(ValueError, match=words):
        picture.look(lab.train(base, TASK, recipe(**changes)))


def test_a_layer_or_a_rank_that_is_not_there_is_refused_with_what_is(base):
    with pytest.raises(ValueError, match="'model.layers.1.mlp.up_proj'.*there are 15"):
        lab.picture_of_lora(base, "model.layers.1.mlp.up_pro")
    with pytest.raises(ValueError, match="'model.norm' is a LlamaRMSNorm in tiny"):
        lab.picture_of_lora(base, "model.norm")
    for r in (0, 33, True, 2.5):
        with pytest.raises(ValueError, match="whole number from 1 to 32"):
            lab.picture_of_lora(base, NAME, r=r)


def test_without_a_widget_there_are_a_picture_and_its_numbers(base):
    picture, _ = watched(base, r=3, steps=2)
    data, metadata = picture._repr_mimebundle_()
    assert data["text/plain"] == repr(picture)
    assert repr(picture) == (
        "LoraPicture: model.layers.1.mlp.up_proj, W 96 × 32; at r = 3 A and B hold 384 numbers, "
        "12.5% of W's 3,072"
    )
    shown = picture.picture()
    assert shown.title == f"{NAME}, r = 3, step 2 of 2"
    assert metadata["image/png"]["alt"] == shown.alt
    assert "W holds 3,072 numbers, A and B 384" in shown.alt
    assert data["image/png"]
    picture.r = 4
    assert "ΔW's size is 0.00 % of W's, and its largest singular value 0" in picture.picture().alt


def test_the_heat_maps_are_to_scale_and_the_bars_are_the_singular_values():
    weight, A = [[1.0, -2.0, 3.0]] * 4, [[1.0, 1.0, 1.0]] * 2
    B, change = [[0.5, 0.0]] * 4, [[0.5, 0.5, 0.5]] * 4
    size = plots.lora_parts_size((4, 3))
    ax = plots.axes_for(plots.draw_lora_parts, size)
    plots.draw_lora_parts(ax, "title", (4, 3), weight, A, B, change, [3.0, 1.5])
    widths = [tuple(image.get_extent()) for image in ax.images]
    assert [(round(right - left, 6), bottom) for left, right, bottom, _ in widths] == [
        (3, 4), (2, 4), (3, 2), (3, 4)
    ]  # fmt: skip
    assert ax.images[0].get_array().tolist() == [[1.0, 2.0, 3.0]] * 4
    bars = [patch.get_height() for patch in ax.patches if patch.get_height() < 0]
    assert bars == [-4.0, -2.0]
    share = math.hypot(3.0, 1.5) / math.sqrt(4 * 14)
    assert f"{100 * share:.0f} % of W's" in ax.get_label()


def test_of_a_larger_matrix_the_share_is_told_for_the_whole_though_a_part_is_drawn():
    weight, A, B = [[1.0, -1.0, 1.0]] * 2, [[1.0, 1.0, 1.0]], [[0.5]] * 2  # every second number
    ax = plots.axes_for(plots.draw_lora_parts, plots.lora_parts_size((4, 6)))
    change = [[0.5, 0.5, 0.5]] * 2
    plots.draw_lora_parts(ax, "title", (4, 6), weight, A, B, change, [math.sqrt(6.0)])
    assert "ΔW's size is 50 % of W's" in ax.get_label()
