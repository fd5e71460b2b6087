import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_lab.lessons import by_hand, labels
from lora_lab.lessons.by_hand import NAMES, add_lora, train_by_hand
from lora_lab.maths.lora import LoRALinear
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def quick(monkeypatch):
    """Few steps of a small batch."""
    quick = recipe(steps=4, weight_decay=0.0)
    for module in (labels, by_hand):
        monkeypatch.setattr(module, "RECIPE", quick)
    return quick


def layer(linear):
    return LoRALinear(linear, 2, 4)


def test_layers_stand_where_peft_puts_them_and_the_same_numbers_are_trained(base):
    model, names = copy.deepcopy(base.model), ("q_proj", "down_proj")
    add_lora(model, names, layer)
    peft = get_peft_model(copy.deepcopy(base.model), LoraConfig(r=2, target_modules=[*names]))
    theirs = {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): parameter.shape
        for name, parameter in peft.named_parameters()
        if parameter.requires_grad
    }
    assert theirs == {
        name: parameter.shape
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def test_training_by_hand_is_pefts_and_the_packages_own(base, quick):
    trained = train_by_hand(base, TASK, steps=4)
    ours = [record.loss for record in train(base, TASK, quick)]
    assert trained.own.losses == pytest.approx(ours, rel=1e-4)
    assert trained.peft.losses == pytest.approx(ours, rel=1e-4)
    assert trained.difference < 1e-4
    assert trained.layers == 2 * len(NAMES)


def test_a_layer_with_another_scaling_differs_in_its_losses(base, quick):
    trained = train_by_hand(base, TASK, lambda linear, r, alpha: LoRALinear(linear, r, 2 * alpha))
    assert trained.difference > 1e-3


def test_the_base_stays_as_it_was(base, quick):
    before = copy.deepcopy(base.model.state_dict())
    train_by_hand(base, TASK, steps=2)
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_matrix_without_its_layer_is_refused_by_name(base, quick):
    def all_but_the_mlp(model, names, make_layer):
        add_lora(model, [name for name in names if name != "up_proj"], make_layer)

    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj is a Linear without lora_A"):
        train_by_hand(base, TASK, add=all_but_the_mlp)


def test_a_layer_of_another_shape_is_no_lora_layer(base, quick):
    with pytest.raises(ValueError, match="is a Linear without lora_A and lora_B"):
        train_by_hand(base, TASK, lambda linear, r, alpha: nn.Linear(linear.in_features, r))


def test_the_table_has_four_losses_of_both_and_the_right_answers(base, quick):
    trained = train_by_hand(base, TASK, steps=12)
    table = trained.table()
    assert [*table.index] == [*(f"loss, step {k}" for k in (1, 2, 6, 12)), "right answers"]
    assert table.loc["loss, step 12", "by hand"] == f"{trained.own.losses[11]:.4f}"
    wanted = f"{trained.peft.right} of {len(trained.peft.wanted)}"
    assert table.loc["right answers", "PEFT"] == wanted
    assert "right answers" in repr(trained)
    assert "<table" in trained._repr_html_()
