"""Each field of a recipe with values of every kind, and damaged recipes of other programs."""

import json
import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import lora_lab as lab
from hostile import EDITS, damaged, refusal_of
from lora_lab.cli.app import app
from lora_lab.recipe import Recipe
from lora_lab.review.brought import kind_of

DEEP = []
for _ in range(5000):
    DEEP = [DEEP]
VALUES = [
    *(None, True, False, 0, 1, -1, 2.5, 10**5000, -(10**5000), 2**64, 1e300, 1e-300, -0.0),
    *(math.nan, math.inf, -math.inf, Fraction(1, 3), 1j, np.int8(3), np.float16(0.5), np.bool_(1)),
    *(np.array([1, 2]), np.array("lora"), "", " ", "lora", "\0", "\ud800", "x" * 10**6, b"lora"),
    *([], (), {}, set(), ["q_proj"], [""], [None], [[1]], {1, "a"}, {"a": 1}, range(10**30)),
    *([10**5000], ["\ud800"], [True], object(), int, len, DEEP, "<script>", "\x1b[2J", "../../x"),
]
YAML = """\
base_model: HuggingFaceTB/SmolLM2-135M
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_modules: [q_proj, v_proj]
datasets:
  - path: data/train.jsonl
    type: alpaca
learning_rate: 2e-4
num_epochs: 3
micro_batch_size: 4
sequence_len: 1024
optimizer: adamw_torch
"""
OWN = {"method": "lora", "r": 8, "lora_alpha": 16, "learning_rate": 2e-4, "steps": 100}
TRL = {"model_name_or_path": "gpt2", "learning_rate": 2e-4, "lora_r": 16, "use_peft": True}
SOUND = {
    "axolotl.yaml": YAML.encode(),
    "axolotl.json": json.dumps(yaml.safe_load(YAML)).encode(),
    "own.json": json.dumps(OWN).encode(),
    "trl.yml": yaml.safe_dump(TRL).encode(),
    "train.sh": b"python train.py \\\n  --model_name_or_path gpt2 --learning_rate 2e-4 \\\n"
    b"  --lora_r 16 --lora_alpha 32 --lora_target_modules q_proj v_proj --use_peft\n",
    "train.py": b"from peft import LoraConfig\nfrom trl import SFTConfig\n"
    b"config = LoraConfig(r=16, lora_alpha=32, target_modules=['q_proj'])\n"
    b"args = SFTConfig(learning_rate=2e-4, num_train_epochs=3)\n",
    "trainer_state.json": json.dumps(
        {"log_history": [{"step": n, "loss": 3 / n, "learning_rate": 1e-4} for n in range(1, 9)]}
    ).encode(),
}
BY_HAND = {
    "empty.yaml": b"",
    "text.yaml": b"hello",
    "list.yaml": b"- a\n- b\n",
    "two.yaml": b"a: 1\n---\nb: 2\n",
    "tab.yaml": b"a:\n\t- b\n",
    "object.yaml": b"a: !!python/object/apply:os.system ['touch /tmp/owned']\n",
    "bomb.yaml": b"a: &a [1,1,1,1,1,1,1,1,1]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghij"),
    "self.yaml": b"a: &a [*a]\n",
    "alias.yaml": b"a: *nothing\n",
    "date.yaml": b"lora_r: 2020-99-99\n",
    "deep.yaml": b"[" * 10_000,
    "digits.yaml": b"lora_r: " + b"9" * 5000 + b"\nlearning_rate: 1e-4\n",
    "long name.yaml": b"base_model: " + b"a" * 5000 + b"\nadapter: lora\nlora_r: 8\n",
    "control.yaml": b"base_model: \x01\x02\n",
    "deep.json": b'{"a": ' * 100_000,
    "digits.json": b'{"lora_r": ' + b"9" * 5000 + b"}",
    "broken.json": b'{"lora_r": 8,',
    "broken.toml": b"a = = 1",
    "broken.py": b"def (:",
    "deep.py": b"LoraConfig(r=" + b"(" * 3000,
    "nul.py": b"LoraConfig(r=8)\0",
    "nothing.py": b"print(1)\n",
    "broken.ipynb": b"{}",
    "cells.ipynb": b'{"cells": [{"cell_type": "code", "source": 3}]}',
    "quote.sh": b"train --lora_r '8\n",
    "nothing.sh": b"echo hello\n",
    "trainer_state.json": b'{"log_history": 3}',
}


def test_each_field_takes_a_value_or_refuses_it_in_words_and_is_then_plain():
    refused = 0
    for field in fields(Recipe):
        for value in VALUES:
            said = refusal_of(lambda: json.dumps(Recipe(**{field.name: value}).facts))  # noqa: B023
            refused += said is not None
            assert said is None or len(said) < 1500, said[:300]
    assert refused > 1500


@settings(max_examples=200, deadline=None)
@given(
    names=st.lists(st.sampled_from([field.name for field in fields(Recipe)]), max_size=4),
    values=st.lists(st.sampled_from(VALUES), min_size=4, max_size=4),
)
def test_fields_together_are_taken_or_refused_in_words(names, values):
    refusal_of(lambda: Recipe(**dict(zip(names, values, strict=False))))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BY_HAND)
def test_a_recipe_that_is_none_is_refused_in_words(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(BY_HAND[name])
    said = refusal_of(lambda: str(lab.check_recipe(path)))
    assert said or name in ("long name.yaml", "digits.yaml", "cells.ipynb")
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code in (0, 1, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if said and kind_of(path) == "recipe":
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1


def check_damaged(folder, name, edits):
    path = folder / name
    path.write_bytes(damaged(SOUND[name], edits))
    refusal_of(lambda: str(lab.check_recipe(path)))


@pytest.mark.timeout(300)
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(sorted(SOUND)), edits=EDITS)
def test_a_damaged_recipe_is_reviewed_or_refused_in_words(tmp_path, name, edits):
    check_damaged(tmp_path, name, edits)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(
    max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(sorted(SOUND)), edits=EDITS)
def test_thousands_of_damaged_recipes_are_reviewed_or_refused_in_words(tmp_path, name, edits):
    check_damaged(tmp_path, name, edits)


@pytest.mark.parametrize("name", SOUND)
def test_the_recipes_that_are_damaged_here_are_sound(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(SOUND[name])
    assert refusal_of(lambda: str(lab.check_recipe(path))) is None
