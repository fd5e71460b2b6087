"""Recipes written for other programs: read back, they are the same; keys are the programs' own."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.tools.reading import read
from lora_lab.tools.vocabulary import keys_of
from lora_lab.tools.writing import EXPRESSED, TOOLS, write

BASE = "Qwen/Qwen2.5-0.5B"
YAML = {"trl": ("TRL", "transformers"), "axolotl": ("Axolotl",)}
YAML |= {"llamafactory": ("LLaMA-Factory", "transformers")}
RECIPES = {
    "plain": Recipe(),
    "names": Recipe(r=4, lora_alpha=32, target_modules=("q_proj", "v_proj"), lora_dropout=0.05),
    "quantised": Recipe(quantize="nf4", double_quant=False, optimizer="paged_adamw_8bit"),
    "8 bits": Recipe(quantize="int8", gradient_checkpointing=True),
    "rsLoRA": Recipe(use_rslora=True, use_dora=True, modules_to_save=("lm_head", "embed_tokens")),
    "schedule": Recipe(lr_scheduler_type="constant", warmup_steps=10, steps=40, eval_steps=20),
    "unclipped": Recipe(max_grad_norm=math.inf, weight_decay=0.1, optimizer="sgd", seed=7),
    "prompt": Recipe(loss_on="all", max_length=1024, gradient_accumulation_steps=4, batch_size=2),
    "full": Recipe(method="full", learning_rate=1e-5, lr_scheduler_type="cosine"),
}
ONLY_SOME = {  # a recipe, and the tools that have words for it
    "regex": (Recipe(target_modules=r".*\.q_proj"), ("trl", "axolotl", "peft")),
    "layers": (
        Recipe(target_modules=("q_proj",), layers_to_transform=(0, 1)),
        ("axolotl", "peft"),
    ),
    "LoRA+": (Recipe(loraplus_lr_ratio=16.0), ("axolotl", "llamafactory", "peft")),
    "PiSSA": (Recipe(init_lora_weights="pissa"), ("axolotl", "llamafactory", "peft")),
    "PiSSA, fast": (Recipe(init_lora_weights="pissa_niter_4"), ("axolotl", "llamafactory", "peft")),
    "OLoRA": (Recipe(init_lora_weights="olora"), ("axolotl", "peft")),
    "AdaLoRA": (Recipe(method="adalora", steps=200, gradient_accumulation_steps=4), ("peft",)),
}
CASES = [(tool, name) for tool in TOOLS for name in RECIPES]
CASES += [(tool, name) for name, (_, tools) in ONLY_SOME.items() for tool in tools]


def recipe_of(name: str) -> Recipe:
    return RECIPES[name] if name in RECIPES else ONLY_SOME[name][0]


def read_back(tool: str, recipe: Recipe, folder) -> Recipe:
    files = write(tool, recipe, BASE, "my data.jsonl")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    brought = read(folder / next(iter(files)))
    assert brought.base == BASE
    assert brought.unknown == ()
    return brought.recipe()


def same(recipe: Recipe, tool: str) -> Recipe:
    """The recipe as it comes back: what is left to a default is then spelt out."""
    if recipe.method == "adalora":
        tinit, tfinal = recipe.schedule
        return replace(recipe, tinit=tinit, tfinal=tfinal)
    if tool == "trl" and recipe.quantize in ("nf4", "fp4"):  # TRL's own default is float32
        return replace(recipe, compute_dtype="bfloat16")
    return recipe


@pytest.mark.parametrize(("tool", "name"), CASES)
def test_a_recipe_that_is_written_and_read_is_the_same(tool, name, tmp_path):
    recipe = recipe_of(name)
    assert read_back(tool, recipe, tmp_path) == same(recipe, tool)


@settings(max_examples=40, deadline=None)
@given(
    tool=st.sampled_from([*TOOLS]),
    r=st.integers(1, 512),
    alpha=st.floats(0.1, 1000),
    rate=st.floats(1e-7, 1),
    steps=st.integers(2, 10**6),
    batch=st.integers(1, 999),
    dropout=st.floats(0.001, 0.9),
    seed=st.integers(0, 2**31),
)
def test_any_numbers_come_back(tmp_path_factory, tool, r, alpha, rate, steps, batch, dropout, seed):
    recipe = Recipe(r=r, lora_alpha=alpha, learning_rate=rate, steps=steps, batch_size=batch)
    recipe = replace(recipe, lora_dropout=dropout, seed=seed, warmup_steps=steps // 2)
    assert read_back(tool, recipe, tmp_path_factory.mktemp("x")) == recipe


@pytest.mark.parametrize(("tool", "name"), [case for case in CASES if case[0] in YAML])
def test_every_key_is_one_that_the_tool_has(tool, name):
    text = next(iter(write(tool, recipe_of(name), BASE).values()))
    assert {*yaml.safe_load(text)} <= {*keys_of(*YAML[tool])}


@pytest.mark.parametrize(
    ("tool", "name"),
    [(tool, name) for name, (_, tools) in ONLY_SOME.items() for tool in TOOLS if tool not in tools],
)
def test_what_a_tool_has_no_word_for_is_refused_with_the_tools_that_have(tool, name):
    with pytest.raises(ValueError, match="has no word for .*; give another value, or write for"):
        write(tool, ONLY_SOME[name][0], BASE)


def test_an_unknown_tool_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'axolotl'"):
        write("axolotle", Recipe(), BASE)


@pytest.mark.parametrize("tool", TOOLS)
def test_names_with_signs_stay_names(tool, tmp_path):
    base = "a: b # 'c' \"d\" {e} %s\\"
    files = write(tool, Recipe(), base, "é {x}'s.jsonl")
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    first = tmp_path / next(iter(files))
    if first.suffix == ".py":
        compile(first.read_text(encoding="utf-8"), "x", "exec")
        assert repr(base) in first.read_text(encoding="utf-8")
    else:
        assert read(first).base == base


def test_llamafactory_gets_the_list_of_datasets_that_it_looks_into():
    files = write("llamafactory", Recipe(), BASE, "data.csv")
    named = yaml.safe_load(files["llamafactory.yaml"])["dataset"]
    info = json.loads(files["dataset_info.json"])
    assert info[named]["file_name"] == "data.csv"
    assert info[named]["columns"] == {"prompt": "prompt", "response": "answer"}


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(r=2, steps=3, batch_size=4, eval_steps=2, learning_rate=3e-3),
        Recipe(method="adalora", init_r=4, target_r=2, steps=6, batch_size=4, tinit=1, tfinal=2),
        pytest.param(
            Recipe(loraplus_lr_ratio=4.0, steps=2, batch_size=4, gradient_checkpointing=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            Recipe(init_lora_weights="pissa", steps=2, batch_size=4), marks=pytest.mark.slow
        ),
    ],
    ids=["LoRA", "AdaLoRA", "LoRA+", "PiSSA"],
)
def test_the_script_for_peft_trains_pocket(recipe, tmp_path):
    base = load_base("pocket")
    rows = [{"prompt": f"Where does {name} live?", "answer": "Sorn"} for name in "ABCDEFGHIJKL"]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write("peft", recipe, str(base.path), "data.jsonl")["train_peft.py"]
    (tmp_path / "train_peft.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "train_peft.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    config = json.loads((tmp_path / "outputs" / "adapter_config.json").read_text())
    assert config["peft_type"] == recipe.method.upper()
    if recipe.method == "adalora":  # the ranks were really shared out
        kept = sum(sum(kept) for kept in config["rank_pattern"].values())
        layers = len(config["rank_pattern"])
        assert kept == recipe.target_r * layers


def test_a_field_that_no_tool_has_a_word_for_yet_is_refused(monkeypatch):
    monkeypatch.setattr("lora_lab.tools.writing.EXPRESSED", EXPRESSED - {"weight_decay"})
    with pytest.raises(ValueError, match=r"TRL has no word for weight_decay=0\.1"):
        write("trl", Recipe(weight_decay=0.1), BASE)
    assert {field.name for field in dataclasses.fields(Recipe)} >= EXPRESSED
