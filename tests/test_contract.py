"""The names that notebooks and outside users rely on, as they were promised."""

import dataclasses
import inspect
import pkgutil
import subprocess
import sys

import pytest

import lora_lab as lab
from lora_lab.records import StepRecord

SIGNATURES = {
    "load_base": "name_or_path='pocket', *, device='auto', dtype='auto', quantize=None",
    "load_task": "name_or_file, base=None, *, prompt='prompt', answer='answer', n=None, seed=0, "
    "test=None, validation=None, split_column=None, group_by=None",
    "planted_task": "base, *, r, target_modules, layers=None, n=None, seed=0",
    "estimate": "model, recipe, task=None",
    "train": "base, task, recipe",
    "fit": "base, task, recipe, *, store=DEFAULT, fresh=False, evaluate=True, progress=False",
    "sweep": "base, task, recipes, *, seeds=(0,), engine='auto', store=DEFAULT, fresh=False, "
    "evaluate=True, progress=False",
    "compare": "a, b, *, margin=None",
    "evaluate": "model, task, *, split='test'",
    "generate": "model, prompts, *, max_new_tokens=32",
    "load_adapter": "base, folder, *, name=None, strength=1.0",
    "to_peft": "recipe, base=None",
    "to_code": "recipe, base, task",
    "export": "run, folder, *, base=None, with_base=False, merge=False, dtype='bfloat16', "
    "task=None, before=None",
    "decide": "base, task, *, minutes, situation, spent=0.0, recipe=None, instruction=None, "
    "test=True, store=DEFAULT, tell=None",
    "final_test": "base, decision, run=None",
    "sweep_within": "base, task, recipes, *, seconds, seeds=(0,)",
    "mend_data": "path, folder, tokenizer, *, prompt='prompt', answer='answer', max_length=256",
    "doctor": "",
    "check_data": "path, *, prompt='prompt', answer='answer', max_length=256, group_by=None",
    "paper": "id",
    "claim": "id",
    "picture_of_lora": "base, module, r=8",
    "studio": "base='pocket', task=None, **changes",
}
FIELDS = {  # of a recipe, with their promised defaults (... : none promised)
    "method": "lora", "r": 8, "lora_alpha": 16, "target_modules": "all-linear",
    "lora_dropout": 0.0, "use_rslora": False, "use_dora": False, "init_lora_weights": True,
    "layers_to_transform": None, "modules_to_save": (), "loraplus_lr_ratio": 1.0,
    "init_r": 12, "target_r": 8, "tinit": None, "tfinal": None, "deltaT": 1, "beta1": 0.85,
    "beta2": 0.85, "orth_reg_weight": 0.5, "quantize": None, "double_quant": True,
    "compute_dtype": "auto", "optimizer": "adamw", "learning_rate": 2e-4,
    "lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0,
    "batch_size": 16, "gradient_accumulation_steps": 1, "gradient_checkpointing": False,
    "max_length": 256, "loss_on": "answer", "steps": ..., "eval_steps": None, "patience": None,
    "seed": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_each_public_function_takes_what_was_promised(name):
    signature = inspect.signature(getattr(lab, name))
    bare = [
        parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()
    ]
    text = str(signature.replace(parameters=bare, return_annotation=signature.empty))
    assert text[1:-1] == SIGNATURES[name]


def test_a_recipe_has_the_promised_fields_and_defaults():
    fields = {field.name: field.default for field in dataclasses.fields(lab.Recipe)}
    assert list(fields) == list(FIELDS)
    assert {name: value for name, value in fields.items() if FIELDS[name] is not ...} == {
        name: value for name, value in FIELDS.items() if value is not ...
    }
    with pytest.raises(TypeError):
        lab.Recipe("lora")


def test_step_records_compare_by_all_but_time():
    record = StepRecord(1, 0.5, 0.1, 2.0, 7, seconds=1.0)
    assert record == dataclasses.replace(record, seconds=2.0)
    assert record != dataclasses.replace(record, validation_loss=0.5)


def test_no_module_bears_the_name_of_a_public_function():
    modules = {module.name for module in pkgutil.iter_modules(lab.__path__)}
    assert not modules & set(lab.__all__)


def test_every_public_name_is_listed_and_documented():
    assert set(lab.__all__) <= set(dir(lab))
    for name in lab.__all__:
        assert getattr(lab, name).__doc__


def test_importing_any_module_prints_and_warns_of_nothing():
    names = [
        module.name
        for module in pkgutil.walk_packages(lab.__path__, "lora_lab.")
        if not module.name.endswith("__main__")
    ]
    done = subprocess.run(
        [sys.executable, "-c", "import " + ", ".join(names)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
