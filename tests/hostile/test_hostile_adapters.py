"""Broken adapter folders: each is loaded, or refused in our own words; the check never fails."""

import json
import math
import shutil
import struct
import warnings

import pytest

import lora_lab as lab
from hostile import refusal_of
from lora_lab.review.adapter import check_adapter
from tiny import letters_task, recipe, tiny_base

BASE, TASK = tiny_base(), letters_task()
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ODD = [  # put in place of the value of each field
    *(None, "", [], {}, True, 0, -1, -0.5, math.inf, math.nan, 10**30),
    *([None], ["a"], [[]], ["", "q_proj"], {"a": None}, {"": -1}, {"(": 1}),
    *("(", "\u202e", "<b>x</b>", "\x1b[2J", "../../x", "x" * 1000),
]
FIELDS = (
    "alpha_pattern base_model_name_or_path bias corda_config eva_config exclude_modules "
    "fan_in_fan_out inference_mode init_lora_weights layer_replication layers_pattern "
    "layers_to_transform loftq_config lora_alpha lora_bias lora_dropout lora_ga_config "
    "megatron_config modules_to_save peft_type qalora_group_size r rank_pattern revision "
    "target_modules target_parameters task_type trainable_token_indices use_bdlora use_dora "
    "use_qalora use_rslora"
).split()

FREE = "base_model_name_or_path inference_mode loftq_config qalora_group_size revision".split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return lab.save_adapter(lab.fit(BASE, TASK, recipe(steps=1), store=None), folder / "adapter")


def load(folder):
    with warnings.catch_warnings():  # of what PEFT itself says of odd values
        warnings.simplefilter("ignore")
        lab.load_adapter(BASE, folder)


@pytest.mark.parametrize("field", FIELDS)
def test_an_odd_value_in_a_configuration_is_taken_or_refused_in_our_words(field, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    sound = json.loads((folder / CONFIG).read_text())
    refused = 0
    for value in ODD:
        (folder / CONFIG).write_text(json.dumps({**sound, field: value}))
        refused += refusal_of(load, folder) is not None
        check_adapter(folder)
    assert refused >= (0 if field in FREE else 2)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("target_modules", ["a"], "PEFT can't make an adapter of this configuration"),
        ("use_bdlora", {}, "PEFT can't make an adapter of this configuration"),
        ("layers_pattern", ["a"], "PEFT refuses .*; save it again"),
        ("modules_to_save", [None], "isn't a configuration of an adapter"),
    ],
)
def test_what_peft_refuses_ends_in_what_would_do(field, value, words, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    sound = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**sound, field: value}))
    with pytest.raises(ValueError, match=words):
        load(folder)


WHOLE = struct.Struct("<Q")  # a safetensors file begins with the length of its header
DAMAGED = {
    "nothing": lambda whole: b"",
    "four bytes": lambda whole: whole[:4],
    "half": lambda whole: whole[: len(whole) // 2],
    "a header cut off": lambda whole: whole[:40],
    "a header without end": lambda whole: WHOLE.pack(2**60) + whole[8:],
    "zeros": lambda whole: bytes(100),
    "text": lambda whole: b"hello",
    "a longer tail": lambda whole: whole + bytes(9),
    "no tensors": lambda whole: WHOLE.pack(2) + b"{}",
    "a pickle": lambda whole: b"\x80\x04K\x01.",
    "nested brackets": lambda whole: WHOLE.pack(20_000) + b"[" * 20_000,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_weights_are_refused_with_what_to_do_and_found_grave(damage, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    (folder / WEIGHTS).write_bytes(DAMAGED[damage]((saved / WEIGHTS).read_bytes()))
    assert "save" in refusal_of(load, folder)
    assert check_adapter(folder).is_grave
