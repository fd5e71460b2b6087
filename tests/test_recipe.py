import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import peft
import pytest
import torch
from torch import nn

from lora_lab.recipe import FLOAT32, Recipe, shown
from lora_lab.training.optimizers import make_optimizer

REFUSED = [  # what is given, and words of the answer
    ({"r": 0}, ValueError, "r=0 leaves nothing to train; give 1 or more"),
    ({"r": -1}, ValueError, "r=-1"),
    ({"r": 2.5}, TypeError, "r=2.5 is not a whole number"),
    ({"r": True}, TypeError, "r=True is not a whole number"),
    ({"lora_alpha": math.nan}, ValueError, "lora_alpha=nan is not a finite number above 0"),
    ({"lora_alpha": 0}, ValueError, "lora_alpha=0"),
    ({"lora_alpha": "16"}, TypeError, "lora_alpha='16' is not a number"),
    ({"lora_dropout": 1}, ValueError, "from 0 to below 1; give 0 for none"),
    ({"learning_rate": 0}, ValueError, "learning_rate=0"),
    ({"learning_rate": math.inf}, ValueError, "learning_rate=inf is not a finite number"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay=-0.1"),
    ({"max_grad_norm": 0}, ValueError, "math.inf for no clipping"),
    ({"batch_size": 0}, ValueError, "batch_size=0 gives a step no example"),
    ({"steps": 0}, ValueError, "steps=0 trains nothing"),
    ({"eval_steps": 0}, ValueError, "eval_steps=0 would never validate"),
    ({"warmup_steps": 100, "steps": 100}, ValueError, "give at most 99"),
    ({"method": "lorra"}, ValueError, "did you mean 'lora'?"),
    ({"optimizer": "adam"}, ValueError, "did you mean 'adamw'?"),
    ({"quantize": "nf5"}, ValueError, "did you mean 'nf4'?"),
    ({"lr_scheduler_type": "cosin"}, ValueError, "did you mean 'cosine'?"),
    ({"loss_on": "answers"}, ValueError, "did you mean 'answer'?"),
    ({"init_lora_weights": "pisa"}, ValueError, "did you mean 'pissa'?"),
    ({"init_lora_weights": "orthogonal", "r": 3}, ValueError, "needs an even rank"),
    ({"init_lora_weights": "loftq"}, ValueError, "give quantize='nf4'"),
    ({"init_lora_weights": "loftq", "quantize": "int8"}, ValueError, "'int8' keeps more"),
    ({"init_lora_weights": "pissa", "quantize": "nf4"}, ValueError, "give 'loftq'"),
    ({"double_quant": False}, ValueError, "means nothing with quantize=None"),
    ({"compute_dtype": "float16", "quantize": "int8"}, ValueError, "with quantize='int8'"),
    ({"init_lora_weights": "pissa", "use_dora": True}, ValueError, "give one of the two"),
    ({"target_modules": ()}, ValueError, "names nothing to adapt"),
    ({"target_modules": ("q_proj", 3)}, TypeError, "does not fit"),
    ({"target_modules": None}, TypeError, "target_modules=None does not fit"),
    ({"layers_to_transform": (-1,)}, ValueError, "counts layers from 0"),
    ({"layers_to_transform": ("1",)}, TypeError, "does not fit"),
    ({"use_dora": 1}, TypeError, "use_dora=1 is not a yes or no"),
    ({"method": "full", "use_dora": True}, ValueError, "means nothing with method='full'"),
    ({"method": "full", "quantize": "nf4"}, ValueError, "quantised weights have no gradient"),
    ({"method": "adalora", "target_r": 12, "init_r": 12}, ValueError, "target_r of at most 11"),
    (
        {"method": "adalora", "tinit": 60, "tfinal": 40},
        ValueError,
        "between steps tinit=60 and steps - tfinal = 100 - 40 = 60, and after step 1: no step",
    ),
    ({"method": "adalora", "tfinal": 100}, ValueError, "steps - tfinal = 100 - 100 = 0"),
    ({"method": "adalora", "steps": 2}, ValueError, "= 2 - 1 = 1, and after step 1: no step is"),
    (
        {"method": "adalora", "tinit": 60, "tfinal": 10, "deltaT": 31},
        ValueError,
        "deltaT=31 is longer than the 30 steps between tinit=60 and steps - tfinal = 100 - 10",
    ),
    ({"method": "adalora", "beta1": 0}, ValueError, "beta1=0 is not a finite number above 0"),
    ({"method": "adalora", "beta2": 1}, ValueError, "to below 1; give a share between them"),
    ({"tinit": 5}, ValueError, "tinit=5 means nothing with method='lora'; give method='adalora'"),
    ({"method": "adalora", "use_rslora": True}, ValueError, "give method='lora', or leave it out"),
    ({"seed": -1}, ValueError, "seed=-1"),
    (
        {"seed": 2**32},
        ValueError,
        "seed=4294967296 is above 4,294,967,295, the greatest that NumPy",
    ),
    ({"r": 10**9}, ValueError, "r=1000000000 is above 1,000,000, wider than any layer; 8 is usual"),
    ({"r": 10**400}, ValueError, "r=1e400 is above"),
    ({"method": "adalora", "init_r": 10**9}, ValueError, "init_r=1000000000 is above 1,000,000"),
    (
        {"steps": 10**12},
        ValueError,
        "steps=1000000000000 is above 1,000,000,000, more than any run",
    ),
    (
        {"batch_size": 10**12},
        ValueError,
        "more than any run takes; give 1 or more (16 is usual)",
    ),
    ({"max_length": 10**400}, ValueError, "max_length=1e400 is above"),
    (
        {"learning_rate": 1e300},
        ValueError,
        "=1e+300 is out of the reach of float32, in which steps are computed",
    ),
    (
        {"learning_rate": 10**400},
        ValueError,
        "learning_rate=1e400 is out of the reach of float32",
    ),
    ({"learning_rate": 5e-324}, ValueError, "learning_rate=5e-324 is out of the reach of float32"),
    ({"lora_alpha": 1e300}, ValueError, "lora_alpha=1e+300 is out of the reach"),
    ({"weight_decay": 1e-320}, ValueError, "weight_decay=1e-320 is out of the reach"),
    (
        {"max_grad_norm": 1e300},
        ValueError,
        "1e+37; give 1.0, or math.inf for no clipping",
    ),
    ({"loraplus_lr_ratio": 1e300}, ValueError, "1e+37; give 1 for plain LoRA, 16 for LoRA+"),
    (
        {"learning_rate": 1e30, "loraplus_lr_ratio": 1e30},
        ValueError,
        "learning_rate * loraplus_lr_ratio is 1e+60, which float32 can't hold",
    ),
    ({"lora_alpha": 1e-37, "r": 1000}, ValueError, "lora_alpha / r is 1e-40, which float32"),
    (
        {"layers_to_transform": range(10**30)},
        ValueError,
        "names more than 10,000 layers, and no model",
    ),
    ({"init_lora_weights": "pissa_niter_100"}, ValueError, "or 'pissa_niter_4' (to 99)"),
    ({"target_modules": ("",)}, ValueError, "target_modules=('',) names no module; give"),
    ({"target_modules": (" ",)}, ValueError, "names no module; give"),
    ({"target_modules": " "}, ValueError, "names no module; give"),
    ({"modules_to_save": ("lm_head", "")}, ValueError, "names no module; give"),
    ({"target_modules": ("q_\ud800",)}, ValueError, "holds half a letter (a surrogate alone)"),
    ({"target_modules": {1}}, TypeError, "does not fit; give"),
    ({"target_modules": {"q_proj": 1}}, TypeError, "does not fit; give"),
    ({"target_modules": range(10**30)}, TypeError, "does not fit; give"),
    ({"method": "x" * 10**6}, ValueError, "(1,000,002 letters) is not known; give 'lora'"),
    ({"target_modules": (10**5000,)}, TypeError, "=a tuple that can't be written out does not fit"),
    ({"layers_to_transform": (0, 10**4)}, ValueError, "names layer 10000, and no model has more"),
    ({"layers_to_transform": [0] * 10**5}, ValueError, "… (300,000 letters) names more than"),
    ({"layers_to_transform": (10**5000,)}, ValueError, "names layer 1e5000, and no model"),
    ({"method": 10**5000}, ValueError, "method=1e5000 is not known; give 'lora'"),
    ({"method": ["lora"]}, ValueError, "method=['lora'] is not known; did you mean 'lora'?"),
    ({"quantize": np.array([1, 2])}, ValueError, "quantize=array([1, 2]) is not known"),
    ({"init_lora_weights": np.array([1, 2])}, ValueError, "=array([1, 2]) is not known"),
    ({"lora_alpha": np.float32(math.nan)}, ValueError, "lora_alpha=nan is not a finite"),
]


@pytest.mark.parametrize(("given", "error", "words"), REFUSED, ids=lambda value: shown(value)[:40])
def test_a_value_that_cannot_work_is_refused_with_what_would(given, error, words):
    with pytest.raises(error) as refusal:
        Recipe(**given)
    assert words in str(refusal.value)


def test_the_defaults_and_the_edges_are_accepted():
    Recipe()
    Recipe(max_grad_norm=math.inf, lora_dropout=0.999, init_lora_weights="pissa_niter_99", r=10**6)
    Recipe(warmup_steps=99, steps=100)
    Recipe(method="adalora", init_r=12, target_r=11, steps=3)
    Recipe(method="adalora", tinit=60, tfinal=10, deltaT=30)
    Recipe(method="adalora", tinit=49, tfinal=50)


def test_numbers_and_texts_of_other_libraries_become_pythons_own_which_json_takes():
    given = Recipe(
        r=np.int64(4),
        lora_alpha=np.float32(3),
        learning_rate=np.float64(0.01),
        lora_dropout=Fraction(1, 2),
        method=np.str_("lora"),
        target_modules=[np.str_("q_proj")],
        layers_to_transform=(np.int32(1),),
    )
    plain = Recipe(
        r=4,
        lora_alpha=3,
        learning_rate=0.01,
        lora_dropout=0.5,
        target_modules=("q_proj",),
        layers_to_transform=(1,),
    )
    assert given == plain
    assert json.dumps(given.facts) == json.dumps(plain.facts | {"lora_alpha": 3.0})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("learning_rate", FLOAT32)
def test_torch_takes_the_greatest_and_the_least_learning_rate(optimizer, learning_rate):
    given = Recipe(optimizer=optimizer, learning_rate=learning_rate, weight_decay=FLOAT32[1])
    weight = torch.nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    make_optimizer({"lora_B": weight}, given).step()  # 40 times the greatest raises a RuntimeError


def test_a_list_of_names_becomes_a_tuple_so_that_a_recipe_can_be_hashed():
    recipe = Recipe(target_modules=["q_proj", "v_proj"], layers_to_transform=range(2))
    assert recipe == Recipe(target_modules=("q_proj", "v_proj"), layers_to_transform=(0, 1))
    assert hash(recipe)


def test_a_recipe_cannot_be_changed_only_replaced():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().r = 3
    with pytest.raises(ValueError, match="r=0"):
        dataclasses.replace(Recipe(), r=0)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("r", [1, 3, 16])
def test_scaling_is_the_factor_that_peft_applies(r, use_rslora):
    recipe = Recipe(r=r, lora_alpha=11, use_rslora=use_rslora)
    config = peft.LoraConfig(r=r, lora_alpha=11, use_rslora=use_rslora, target_modules=["0"])
    layer = peft.get_peft_model(nn.Sequential(nn.Linear(4, 4)), config).base_model.model[0]
    assert recipe.scaling == layer.scaling["default"]


def test_adaloras_scaling_is_over_its_first_rank_as_peft_applies_it():
    recipe = Recipe(method="adalora", init_r=6, target_r=2, lora_alpha=15)
    config = peft.AdaLoraConfig(
        init_r=6, target_r=2, lora_alpha=15, target_modules=["0"], total_step=10
    )
    layer = peft.get_peft_model(nn.Sequential(nn.Linear(8, 8)), config).base_model.model[0]
    applied = layer.scaling["default"] / layer.ranknum["default"].item()  # as its forward does
    assert recipe.scaling == pytest.approx(applied)


def test_adaloras_phases_come_from_the_steps_unless_they_are_given():
    assert Recipe(method="adalora", steps=200).schedule == (25, 100)
    assert Recipe(method="adalora", steps=200, tinit=0).schedule == (0, 100)
    assert Recipe(method="adalora", steps=200, tfinal=0).schedule == (25, 0)
    assert Recipe(method="adalora").tinit is None  # the recipe stays as it was given


def test_every_field_has_a_default():
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(Recipe))
