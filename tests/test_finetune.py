"""notebooks/finetune.py: from a file to an adapter, in plain PEFT and transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lora_lab as lab

SCRIPT = Path(__file__).parents[1] / "notebooks" / "finetune.py"


@pytest.fixture(scope="module")
def base():
    return lab.load_base("pocket", device="cpu", dtype="float32")


def test_it_is_short_and_has_nothing_of_this_package():
    lines = [line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 29
    assert "lora_lab" not in SCRIPT.read_text(encoding="utf-8")


def test_it_teaches_what_the_file_says_and_learns_nothing_of_the_question(base, tmp_path):
    invoices = lab.load_task("json", base, n=200)
    rows = [{"prompt": example.prompt, "answer": example.answer} for example in invoices.train]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [base.path, tmp_path / "rows.jsonl", tmp_path / "adapter", "3e-3"]
    subprocess.run([sys.executable, SCRIPT, *words], check=True, capture_output=True)
    scores = lab.evaluate(lab.load_adapter(base, tmp_path / "adapter"), invoices)
    assert scores.metrics["exact match"] >= 0.9
    assert scores.old_knowledge >= 0.95  # labels on the questions would cost much of it
