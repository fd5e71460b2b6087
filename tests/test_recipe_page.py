"""The page that people copy from: its code trains, and its numbers are those of data/."""

import json
import re
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch

from lora_lab.findings.defaults import defaults
from lora_lab.findings.papers import papers
from lora_lab.findings.plans import evidence_ids
from lora_lab.models.bases import load_base

PAGE = (Path(__file__).parents[1] / "notebooks" / "recipe.md").read_text(encoding="utf-8")
LORA, ON_4_BITS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TOOLS = re.findall(
    r"^\| (.+?) \| (\d+) \| (\d+) \| ([\d.]+) \| .+? \| (.+?) \|$", PAGE, re.MULTILINE
)


def on_4_bits():
    """The script with its model loaded as the second block says."""
    (line,) = re.findall(r"^model = AutoModelForCausalLM.*$", LORA, re.MULTILINE)
    return LORA.replace(line, ON_4_BITS)


@pytest.mark.parametrize("script", [LORA, on_4_bits()], ids=["16 bits", "4 bits"])
def test_the_code_trains_and_saves_an_adapter_that_peft_reads(script, tmp_path):
    base = load_base("pocket", device="cpu")
    rows = [{"prompt": f"Say it {number} times.", "answer": "oak"} for number in range(16)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert script.count("meta-llama/Llama-3.1-8B-Instruct") == 1
    script = script.replace("meta-llama/Llama-3.1-8B-Instruct", str(base.path))
    ended = "assert all(row['labels'][-1] == tokenizer.eos_token_id for row in rows)\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script + ended],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"trainable params: 163,840", done.stdout)
    config = peft.LoraConfig.from_pretrained(tmp_path / "adapter")
    assert (config.r, config.lora_alpha) == (16, 32)
    adapted = peft.PeftModel.from_pretrained(base.model, tmp_path / "adapter")
    trained = [weight for name, weight in adapted.named_parameters() if "lora_B" in name]
    assert all(torch.isfinite(weight).all() for weight in trained)
    assert any(weight.abs().max() > 0 for weight in trained)


def test_the_table_says_what_the_code_does():
    for row, code in (
        ("| learning rate | 2e-4,", "learning_rate=2e-4,"),
        ("| `r` | 16 |", "r=16,"),
        ("| `lora_alpha` | 32,", "lora_alpha=32,"),
        ('| `target_modules` | `"all-linear"` |', 'target_modules="all-linear"'),
    ):
        assert row in PAGE
        assert code in LORA
    per_device, steps = (
        int(re.search(rf"{name}=(\d+)", LORA)[1])
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    assert f"| batch | {per_device * steps} examples a step" in PAGE


def test_each_reason_names_evidence_or_a_published_number_that_is_there():
    named = {
        name for name in re.findall(r"`([a-z0-9-]+-[a-z0-9-]+)`", PAGE.split("## The same")[0])
    }
    assert len(named) >= 15
    assert named <= {*papers(), *evidence_ids()}


def test_the_numbers_in_the_table_are_the_published_ones():
    tinker = papers()["tinker-llama-1b"].rows
    assert f"r 16 reaches a loss of {min(tinker['r 16'][:4]):.3f}" in PAGE
    assert f"r 128 one of {min(tinker['r 128'][:4]):.3f}" in PAGE
    assert min(tinker["r 4"][:4]) < tinker["r 128"][1]
    nf4, bf16 = (
        papers()["qlora-table-4"].rows[row][-1] for row in ("NF4 + double quantization", "BF16")
    )
    assert f"reach a mean of {nf4} % where bfloat16 reaches {bf16} %" in PAGE
    examples = papers()["axolotl-examples"].rows
    assert f"{examples['learning rate 2e-4'][0]} of Axolotl's 178 examples use 2e-4" in PAGE


def test_the_tools_in_the_table_ship_these_values():
    assert len(TOOLS) >= 9
    for name, r, alpha, scaling, rate in TOOLS:
        shipped = defaults()[name]
        assert (int(r), int(alpha), float(scaling)) == (
            shipped.r,
            shipped.lora_alpha,
            shipped.scaling,
        )
        assert (None if rate == "–" else float(rate)) == shipped.learning_rate
