"""What alpha does: against the optimizers' algebra, PEFT's LoRA+, and the runs themselves."""

import dataclasses
import math

import pandas as pd
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

import lora_lab as lab
from lora_lab.lessons import alpha
from lora_lab.lessons.alpha import (
    SHORT,
    at_strengths,
    first_steps,
    kept_and_learned,
    strength_table,
    train_with_groups,
    twins,
)
from lora_lab.models.adapters import adapt
from lora_lab.tasks.examples import Example
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from tiny import letters_task, recipe, tiny_base

TASK = dataclasses.replace(letters_task(), old_knowledge=(Example("ab", "B"), Example("ba", "C")))


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.mark.parametrize(
    ("optimizer", "twin", "other"),
    [("adamw", "B's rate × 4", "B's rate × 16"), ("sgd", "B's rate × 16", "B's rate × 4")],
)
def test_alpha_has_one_twin_under_each_optimizer(base, optimizer, twin, other):
    made = twins(base, TASK, optimizer)
    assert [*made.curves][0] == "alpha × 4"
    assert made.gap(twin) < 1e-3 < 0.01 < min(made.gap(other), made.gap("neither"))
    assert [*made.table().index] == [*made.curves][1:]


def test_a_gap_is_the_widest_over_all_steps(base):
    made = twins(base, TASK)
    first, other = made.curves["alpha × 4"], made.curves["neither"]
    assert made.gap("neither") == max(
        abs(one.loss - two.loss) for one, two in zip(first, other, strict=True)
    )


def test_a_clip_breaks_the_twins(base):
    assert twins(base, TASK, max_grad_norm=0.1).gap("B's rate × 4") > 1e-3


def test_the_first_step_grows_once_with_the_factor_under_adamw_and_twice_under_sgd(base):
    sizes = first_steps(base, TASK, ranks=(4,))
    assert sizes["AdamW, α / √r"][4] / sizes["AdamW, α / r"][4] == pytest.approx(2, rel=0.05)
    assert sizes["SGD, α / √r"][4] / sizes["SGD, α / r"][4] == pytest.approx(4, rel=0.05)


def test_the_first_steps_size_is_that_of_the_change_by_hand(base):
    module = "model.layers.0.self_attn.q_proj"
    plain = dataclasses.replace(SHORT, r=2, target_modules=(module,))
    batch = alpha._batch(base, TASK.train[:16])
    size = alpha._first_step(base, plain, batch)
    training = lab.train(base, dataclasses.replace(TASK, train=TASK.train[:16]), plain)
    layer = training.model.get_submodule(f"base_model.model.{module}")
    seen = []
    layer.base_layer.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    model = adapt(base, plain).train()
    model(**batch).loss.backward()
    adapter = model.get_submodule(f"base_model.model.{module}")
    gradient = adapter.lora_B["default"].weight.grad
    B = -plain.learning_rate * gradient.sign()  # Adam's first step
    with torch.no_grad():
        training.model(**batch)
        x, y = seen[-1]
        change = 16 / 2 * x @ adapter.lora_A["default"].weight.T @ B.T
    assert size == pytest.approx((change.norm() / y.norm()).item(), rel=1e-3)


def test_a_training_with_groups_is_the_one_with_pefts_own_lora_plus(base):
    def by_peft(named):
        model = torch.nn.Module()
        optimizer = create_loraplus_optimizer(
            model_of(named), torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=4.0
        )
        assert model is not None
        return [
            {"params": group["params"], "lr": group["lr"]}
            for group in optimizer.param_groups
            if group["params"]
        ]

    def model_of(named):
        model = torch.nn.Module()
        for name, parameter in named.items():
            place = model
            *path, last = name.split(".")
            for part in path:
                if part not in place._modules:
                    place.add_module(part, torch.nn.Module())
                place = place._modules[part]
            place.register_parameter(last, parameter)
        return model

    ours = lab.train(
        base,
        TASK,
        dataclasses.replace(
            SHORT,
            lora_alpha=16,
            learning_rate=1e-2,
            loraplus_lr_ratio=4.0,
            lr_scheduler_type="constant",
        ),
    )
    losses = train_with_groups(base, TASK, 16, by_peft)
    assert losses == pytest.approx([record.loss for record in ours], rel=1e-4)
    assert losses[0] - losses[-1] > 0.01


def test_a_run_is_scored_at_each_strength_from_the_base_to_the_trained(base):
    short = recipe(r=8, lora_alpha=16, steps=30, learning_rate=3e-2)
    scored = at_strengths(base, TASK, [short], strengths=(0, 1), seeds=(0, 1))
    assert [*scored.columns] == ["lora_alpha", "strength", "seed", "new", "old"]
    assert [*zip(scored.seed, scored.strength, strict=True)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    whole = fit(base, TASK, dataclasses.replace(short, seed=1), store=None).scores
    assert scored.new[3] == whole.value
    assert scored.old[3] == whole.old_knowledge
    bare = evaluate(base, TASK)
    assert [*scored.new[::2]] == [bare.value] * 2
    assert scored.new[3] != bare.value


def test_the_table_of_strengths_has_means_and_intervals():
    scored = pd.DataFrame(
        [(16, 0.5, seed, 0.4 + 0.01 * seed, 1.0) for seed in range(5)],
        columns=["lora_alpha", "strength", "seed", "new", "old"],
    )
    table = strength_table(scored)
    assert table.loc[(16, 0.5), "new facts right"] == "42 % (40 to 44 %)"
    assert table.loc[(16, 0.5), "old facts kept"] == "100 % (100 to 100 %)"


def test_evidence_is_read_as_old_facts_kept_and_new_ones_learned():
    found = kept_and_learned("alpha-fixed-rate")
    assert [*found] == ["1", "4", "16", "64", "256"]
    old, new = (sum(column) / 10 for column in zip(*found["16"], strict=True))
    card = lab.evidence("alpha-fixed-rate").table().set_index("setting").loc["alpha 16"]
    assert f"{100 * new:.1f}" == card["exact match, %"]
    assert f"{100 * old:.1f}" == card["old facts kept, %"]
    assert math.isclose(old, 0.842, abs_tol=1e-3)
