import dataclasses
import re

import pytest

from lora_lab.findings.defaults import ToolDefaults, defaults, table


def test_what_a_tool_ships_is_read_with_its_file():
    trl = defaults()["TRL, default"]
    assert (trl.r, trl.lora_alpha, trl.lora_dropout, trl.learning_rate) == (16, 32, 0.05, 2e-5)
    assert trl.target_modules is None  # the file does not say
    assert trl.source == "huggingface/trl, trl/trainer/model_config.py, at f2cd5771"
    assert defaults()["PEFT, default"].target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("name", "scaling"),
    [
        ("TRL, guide, SFT", 16 / 256),
        ("Unsloth Studio, text", 16 / 64),
        ("PEFT, default", 8 / 8),
        ("LLaVA 1.5", 2),
        ("PEFT, the same with rsLoRA", 8),  # 64 / sqrt(64)
        ("MLX-LM, example", 20),  # the file says so itself
        ("Tinker cookbook, default", None),  # the file gives no alpha
    ],
)
def test_the_scaling_is_the_one_worked_out_by_hand(name, scaling):
    assert defaults()[name].scaling == scaling


def test_the_same_model_and_data_come_with_scalings_four_times_apart():
    lora, qlora = (defaults()[f"Axolotl, Llama 3.2 1B, {way}"] for way in ("LoRA", "QLoRA"))
    assert lora.learning_rate == qlora.learning_rate
    assert lora.scaling == 4 * qlora.scaling == 2


def test_a_batch_is_what_one_step_sees():
    assert defaults()["LLaMA-Factory, web page"].batch == 2 * 8
    assert defaults()["Axolotl, Llama 3.2 1B, LoRA"].batch == 2 * 2
    assert defaults()["Alpaca-LoRA, default"].batch == 128
    assert defaults()["TRL, default"].batch is None
    alone = dataclasses.replace(defaults()["TRL, default"], batch_size=8)
    assert alone.batch == 8


def test_each_names_a_repository_a_file_and_a_whole_commit():
    for name, tool in defaults().items():
        assert tool.name == name
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", tool.repository)
        assert re.fullmatch(r"[\w./-]+\.\w+", tool.file)
        assert re.fullmatch(r"[0-9a-f]{40}", tool.commit)
        assert tool.source == f"{tool.repository}, {tool.file}, at {tool.commit[:8]}"
        assert tool.lora_alpha is None or tool.scale is None
        assert tool.warmup_ratio is None or tool.warmup_steps is None


def test_ten_tools_are_there_with_what_they_do():
    tools = {name.split(",")[0] for name in defaults()}
    wanted = "PEFT TRL Axolotl Unsloth LLaMA-Factory torchtune AutoTrain LitGPT MLX-LM".split()
    assert {*wanted, "Unsloth Studio", "Tinker cookbook"} <= tools


def test_the_table_has_a_row_for_each_file():
    found = table()
    assert [*found.index] == [*defaults()]
    assert found.loc["AutoTrain, default", "learning_rate"] == 3e-5
    assert found.loc["torchtune, Llama 3.1 8B", "batch"] == 16
    assert found.loc["Unsloth, default", "scaling"] == 1
    assert found.loc["Unsloth, default", "learning_rate"] is None
    assert not {"name", "repository", "file", "commit"} & {*found.columns}


def test_nobody_can_change_what_a_tool_ships():
    with pytest.raises(TypeError):
        defaults()["TRL, default"] = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        defaults()["TRL, default"].r = 8
    assert isinstance(defaults()["TRL, default"], ToolDefaults)
