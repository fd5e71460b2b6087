import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftConfig

from lora_lab.scripts import to_code
from lora_lab.tasks.examples import Example
from lora_lab.training import train
from tiny import letters_task, recipe, tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tiny_base(hidden=64)
    base.path = tmp_path_factory.mktemp("base")
    base.model.save_pretrained(base.path)
    base.tokenizer.save_pretrained(base.path)
    return base


def task_with_odd_texts():
    task = letters_task()
    odd = [Example('say """hi"""\n\\n \\', 'a "quoted" é\\'), Example("{$x}", "}")]
    return type(task)(
        **{name: getattr(task, name) for name in task.__dataclass_fields__}
        | {"train": [*task.train[:8], *odd]}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"loraplus_lr_ratio": 4.0, "use_rslora": True, "target_modules": ("q_proj", "v_proj")},
        {"lr_scheduler_type": "cosine", "warmup_steps": 2, "gradient_accumulation_steps": 2},
        {"method": "full", "weight_decay": 0.1, "loss_on": "all"},
        {"layers_to_transform": (1,), "optimizer": "sgd", "lr_scheduler_type": "constant"},
        {"method": "adalora", "init_r": 5, "target_r": 2, "gradient_accumulation_steps": 2},
        {"quantize": "nf4", "optimizer": "adamw_8bit"},
        {"quantize": "fp4", "double_quant": False, "compute_dtype": "bfloat16"},
        {"quantize": "int8"},
    ],
    ids=str,
)
def test_the_script_gives_the_same_losses_without_this_package(base, changes, tmp_path):
    wanted, task = recipe(steps=6, **changes), task_with_odd_texts()
    expected = [
        record.loss + wanted.orth_reg_weight * (record.orthogonality or 0)
        for record in train(base, task, wanted)
    ]
    (tmp_path / "script.py").write_text(to_code(wanted, base, task), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert losses == pytest.approx(expected, rel=1e-4)
    saved = Path(tmp_path / f"letters-{wanted.method}")
    assert ".safetensors" in {path.suffix for path in saved.iterdir()}
    if wanted.method == "adalora":
        ranks = PeftConfig.from_pretrained(saved).rank_pattern
        assert sum(map(sum, ranks.values())) == 2 * 14


def test_the_script_does_not_mention_this_package(base):
    assert "lora_lab" not in to_code(recipe(), base, letters_task())


def test_what_no_script_can_hold_is_refused(base):
    import dataclasses

    planted = dataclasses.replace(letters_task(), teacher={})
    with pytest.raises(ValueError, match="planted teacher"):
        to_code(recipe(), base, planted)
    with pytest.raises(ValueError, match="can't be written out yet"):
        to_code(recipe(quantize="nf4", init_lora_weights="loftq"), base, letters_task())
