import pytest
import torch

from lora_lab.lessons.weight_change import relative_changes
from lora_lab.training.fit import fit
from tiny import letters_task, recipe, tiny_base

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_an_adapters_change_is_the_scaled_product_of_its_factors_beside_the_weight():
    base = tiny_base()
    run = fit(base, letters_task(), recipe(target_modules=("v_proj", "up_proj")), store=None)
    changes = relative_changes(base, run.model)
    assert len(changes) == 2 * len(NAMES)
    for name, change in changes.items():
        A, B = (
            run.learned.tensors.get(f"base_model.model.{name}.lora_{one}.weight") for one in "AB"
        )
        weight = base.model.get_submodule(name).weight
        expected = 0 if A is None else 7 / 3 * torch.linalg.norm(B @ A) / torch.linalg.norm(weight)
        assert change == pytest.approx(float(expected), rel=1e-5)
    moved = [name for name, change in changes.items() if change]
    assert len(moved) == 4
    assert all(name.endswith(("v_proj", "up_proj")) for name in moved)


def test_a_full_fine_tunes_change_is_the_difference_of_the_weights():
    base = tiny_base()
    run = fit(base, letters_task(), recipe(method="full"), store=None)
    name = "model.layers.1.mlp.down_proj"
    after, before = (model.get_submodule(name).weight for model in (run.model, base.model))
    expected = float((after - before).norm() / before.norm())
    assert relative_changes(base, run.model)[name] == pytest.approx(expected, rel=1e-5)
    assert all(change > 0 for change in relative_changes(base, run.model).values())


def test_the_base_itself_has_not_moved():
    base = tiny_base()
    assert set(relative_changes(base, base.model).values()) == {0.0}
