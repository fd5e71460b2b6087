"""Recipes of other programs, read: settings rebuilt from public examples, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from lora_lab.tools.brought_recipe import as_names, as_number
from lora_lab.tools.files import LARGEST, mapping_of
from lora_lab.tools.python_calls import Unread, read_code
from lora_lab.tools.reading import read, read_settings
from lora_lab.tools.scripts import read as read_script
from lora_lab.tools.trainer_state import TrainerState
from lora_lab.tools.vocabulary import keys_of

FIXTURES = Path(__file__).parent / "fixtures" / "recipes"
PUBLIC = yaml.safe_load((FIXTURES / "public.yaml").read_text(encoding="utf-8"))
TOOLS = {
    "axolotl-ai-cloud/axolotl": "Axolotl",
    "hiyouga/LLaMA-Factory": "LLaMA-Factory",
    "pytorch/torchtune": "torchtune",
    "unslothai/notebooks": "Unsloth",
}


def file_of(entry: dict, folder: Path) -> Path:
    """The fixture as a file of the kind that it has in its repository."""
    name = entry["source"].rpartition("/")[2]
    path = folder / name
    if "code" in entry and name.endswith(".ipynb"):
        cells = [
            {"cell_type": "markdown", "source": ["# A notebook\n"]},
            {"cell_type": "code", "source": ["%%capture\n", "!pip install peft\n", "import os\n"]},
            {"cell_type": "code", "source": entry["code"].splitlines(keepends=True)},
        ]
        path.write_text(json.dumps({"cells": cells, "nbformat": 4}), encoding="utf-8")
    elif "code" in entry:
        path.write_text(entry["code"], encoding="utf-8")
    elif "options" in entry:
        options = (
            f"--{key}" if value is True else f'--{key} "{value}"'
            for key, value in entry["options"].items()
        )
        path.write_text("python train.py \\\n" + " \\\n".join(options), encoding="utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(entry["settings"]), encoding="utf-8")
    else:
        path.write_text(yaml.safe_dump(entry["settings"]), encoding="utf-8")
    return path


def test_there_are_sixty_public_examples_and_more_of_six_tools():
    assert len(PUBLIC) >= 60
    assert len({entry["source"] for entry in PUBLIC}) == len(PUBLIC)
    assert {entry["source"].split()[0] for entry in PUBLIC} == {
        *TOOLS,
        "huggingface/trl",
        "huggingface/peft",
    }


@pytest.mark.parametrize("entry", PUBLIC, ids=lambda entry: entry["source"])
def test_a_public_example_is_read_as_it_stands_in_its_source(entry, tmp_path):
    brought = read(file_of(entry, tmp_path))
    repository = entry["source"].split()[0]
    assert brought.tool == TOOLS.get(repository, brought.tool)
    assert {name: brought.fields.get(name) for name in entry["expect"]} == entry["expect"]
    if "11B_lora_multi_dataset" not in entry["source"]:  # 100 steps of warm-up, and 50 in all
        brought.recipe(10_000)  # lab.Recipe takes it


# --- whose file it is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "tool"),
    [
        ({"base_model": "x/y", "adapter": "lora", "lora_r": 8, "learning_rate": "2e-4"}, "Axolotl"),
        ({"model_name_or_path": "x/y", "finetuning_type": "lora", "lora_rank": 8}, "LLaMA-Factory"),
        ({"model_name_or_path": "x/y", "use_peft": True, "lora_r": 8}, "TRL"),
        ({"per_device_train_batch_size": 2, "learning_rate": 1e-4}, "TRL"),
        ({"model": {"_component_": "torchtune.models.llama3.lora_llama3_8b"}}, "torchtune"),
        ({"peft_type": "LORA", "r": 4}, "PEFT"),
        ({"r": 4, "lora_alpha": 8, "steps": 20}, "lora_lab"),
    ],
)
def test_settings_show_whose_they_are(settings, tool):
    assert read_settings(settings, "x.yaml").tool == tool


@pytest.mark.parametrize(
    "settings", [{}, {"name": "Ada", "age": 36}, {"compute_environment": "LOCAL", "debug": False}]
)
def test_settings_of_an_unknown_program_are_refused_with_the_known_ones(settings):
    with pytest.raises(ValueError, match=r"no program that is known.*Axolotl's.*torchtune's"):
        read_settings(settings, "x.yaml")


def test_a_log_is_known_by_its_history():
    state = read_settings({"log_history": [{"loss": 2.0, "step": 1}], "max_steps": 5}, "s.json")
    assert isinstance(state, TrainerState)
    assert state.losses == ((1, 2.0),)
    with pytest.raises(ValueError, match="isn't a list of records"):
        read_settings({"log_history": {"loss": 1}}, "s.json")


def test_what_only_chats_or_exports_is_refused():
    settings = {"model_name_or_path": "x/y", "template": "qwen3", "infer_backend": "huggingface"}
    with pytest.raises(ValueError, match="trains nothing"):
        read_settings(settings, "chat.yaml")


# --- each tool's own words ----------------------------------------------------------------------


def test_llamafactorys_alpha_is_twice_its_rank_where_it_is_left_out():
    settings = {"model_name_or_path": "x/y", "finetuning_type": "lora", "lora_rank": 12}
    assert read_settings(settings, "x.yaml").fields["lora_alpha"] == 24


def test_torchtunes_module_names_become_those_of_the_hub():
    settings = {
        "model": {
            "_component_": "torchtune.models.llama3_2.qlora_llama3_2_1b",
            "lora_attn_modules": ["q_proj", "output_proj"],
            "apply_lora_to_mlp": True,
            "apply_lora_to_output": True,
        }
    }
    brought = read_settings(settings, "x.yaml")
    assert brought.said["quantize"] == "nf4"
    assert brought.said["target_modules"] == (
        *("q_proj", "o_proj", "gate_proj", "down_proj", "up_proj", "lm_head"),
    )


def test_trl_trains_every_weight_without_use_peft():
    settings = {"model_name_or_path": "x/y", "lora_r": 8, "dataset_name": "a/b"}
    brought = read_settings(settings, "x.yaml")
    assert brought.fields["method"] == "full"
    assert brought.traits["adapter_ignored"]


def test_a_share_of_warm_up_becomes_steps_once_the_steps_are_known():
    settings = {"base_model": "x/y", "adapter": "lora", "lora_r": 8, "lora_alpha": 16}
    settings |= {"micro_batch_size": 4, "num_epochs": 3, "warmup_ratio": 0.1, "learning_rate": 1e-4}
    brought = read_settings(settings, "x.yaml")
    assert brought.steps_for(102) == 78  # 26 batches, three times
    assert brought.recipe(78).warmup_steps == 8
    assert brought.recipe().warmup_steps == 0


def test_warm_up_below_one_is_a_share_as_in_transformers_5():
    settings = {"model_name_or_path": "x/y", "use_peft": True, "warmup_steps": 0.1}
    assert read_settings(settings, "x.yaml").warmup_ratio == 0.1


@pytest.mark.parametrize(("text", "number"), [("2e-4", 2e-4), ("16", 16), (" 1_000 ", 1000)])
def test_numbers_may_stand_between_quotes(text, number):
    assert as_number(text, "x") == number


def test_what_is_no_number_is_refused_by_its_key():
    settings = {"base_model": "x/y", "adapter": "lora", "lora_r": "many", "learning_rate": 1e-4}
    with pytest.raises(ValueError, match="lora_r is 'many', which isn't a number"):
        read_settings(settings, "x.yaml")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("q_proj,v_proj", ("q_proj", "v_proj")),
        (["all-linear"], "all-linear"),
        ("all-linear", "all-linear"),
        (r".*\.q_proj", r".*\.q_proj"),
        ("none", None),
    ],
)
def test_modules_are_lists_texts_or_regexes(given, names):
    assert as_names(given) == names


def test_an_unknown_key_is_kept_and_named():
    settings = {"base_model": "x/y", "adapter": "lora", "lora_r": 8, "leraning_rate": 1e-4}
    settings["num_epochs"] = 1
    brought = read_settings(settings, "x.yaml")
    assert brought.unknown == ("leraning_rate",)
    assert "learning_rate" in keys_of("Axolotl")


# --- scripts and notebooks ----------------------------------------------------------------------


def test_nothing_of_a_script_is_run(tmp_path):
    touched = tmp_path / "touched"
    script = tmp_path / "x.py"
    script.write_text(
        f"open({str(touched)!r}, 'w')\n__import__('os').mkdir({str(touched) + '2'!r})\n"
        "LoraConfig(r=[open, 4][1], lora_alpha=2 ** 10 ** 10, lora_dropout=0.1)\n"
    )
    brought = read(script)
    assert not list(tmp_path.glob("touched*"))
    assert brought.said["lora_dropout"] == 0.1
    assert "r" not in brought.said


def test_values_come_from_names_defaults_and_arithmetic():
    code = read_code(
        "RANK = 4\n"
        "def train(alpha: float = 32.0, *, rate=1e-4): ...\n"
        "parser.add_argument('--batch-size', type=int, default=3)\n"
        "parser.add_argument('--quantize', action='store_true')\n"
        "class Settings:\n    epochs: int = field(default=7)\n"
        "shared = dict(bias='none', use_dora=False)\n"
        "LoraConfig(r=RANK * 2 + 1, lora_alpha=alpha, task_type=TaskType.CAUSAL_LM, **shared)\n"
        "TrainingArguments(learning_rate=rate, num_train_epochs=settings.epochs,\n"
        "    per_device_train_batch_size=args.batch_size, seed=secret())\n",
        "x.py",
    )
    adapter, arguments = code.all("LoraConfig", "TrainingArguments")
    assert adapter.known() == {
        **{"r": 9, "lora_alpha": 32.0, "task_type": "CAUSAL_LM", "bias": "none"},
        "use_dora": False,
    }
    assert arguments.known() == {
        **{"learning_rate": 1e-4, "num_train_epochs": 7, "per_device_train_batch_size": 3}
    }
    assert isinstance(arguments.arguments["seed"], Unread)


def test_branches_that_are_switched_off_are_left_out():
    code = read_code(
        "if False:\n    LoraConfig(r=1)\n"
        "def main(quantize: bool = False):\n    if quantize:\n        LoraConfig(r=2)\n"
        "if cuda():\n    rank = 3\nelse:\n    rank = 4\nLoraConfig(r=rank)\n",
        "x.py",
    )
    assert [call.known() for call in code.all("LoraConfig")] == [{"r": 3}]


def test_what_only_a_run_gives_is_named_and_no_default_is_put_in_its_place():
    text = "LoraConfig(r=choose(), lora_alpha=4)\nTrainingArguments(learning_rate=rate())\n"
    brought = read_script(text, "x.py")
    assert "r" not in brought.fields
    assert "learning_rate" not in brought.fields
    assert "only a run would give r, learning_rate" in brought.notes[0]


def test_a_notebooks_cells_of_other_languages_are_left_out():
    cells = [
        "%%bash\nLoraConfig(r=1)",
        "!pip install x\nLoraConfig(r=2)",
        "for in\nLoraConfig(r=3)",
    ]
    text = json.dumps({"cells": [{"cell_type": "code", "source": [cell]} for cell in cells]})
    code = read_code(text, "x.ipynb")
    assert [call.known() for call in code.all("LoraConfig")] == [{"r": 2}]
    assert code.notes == ["cell 3 isn't plain Python, and was left out"]


@pytest.mark.parametrize(
    ("trainer", "stage"),
    [("SFTTrainer", "sft"), ("DPOTrainer", "dpo"), ("GRPOTrainer", "grpo"), ("Trainer", "sft")],
)
def test_the_trainer_shows_the_stage(trainer, stage):
    assert read_script(f"LoraConfig(r=2)\n{trainer}(model)\n", "x.py").stage == stage


# --- files that can't be read -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.yaml", "a: [1\nb: 2", r"broken at line 2, column"),
        ("x.json", '{"r": }', r"broken at line 1, column 7"),
        ("x.toml", "r = ", "broken"),
        ("x.sh", "python train.py --lora_r 'eight", r"broken in line 1"),
        ("x.sh", "echo hello", "no options"),
        ("x.yaml", "- 1\n- 2", "a list, not settings by name"),
        ("x.yaml", "just words", "a text, not settings"),
        ("x.yaml", "a: 1\n---\nb: 2", "2 YAML documents"),
        ("x.yaml", "  \n", "is empty"),
        ("x.yaml", "a: \0", "binary data"),
        ("x.yaml", "a: !!python/object/apply:os.system ['true']", "broken"),
        ("x.yaml", "[" * 300 + "]" * 300, "nests deeper"),
        ("x.py", "def f(:\n", "isn't Python: line 1"),
        ("x.py", "print('hello')\n", "makes no adapter and no trainer"),
        ("x.ipynb", "{}", "isn't a notebook"),
        ("x.ipynb", "nonsense", "isn't a notebook"),
        ("x.docx", "text", "of a kind that is not read as a recipe"),
    ],
)
def test_a_broken_file_is_refused_in_a_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read(path)


def test_a_file_above_five_megabytes_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\n" + "#" * LARGEST)
    with pytest.raises(ValueError, match=r"5\.0 MB, and no recipe is longer than 5 MB"):
        read(path)


def test_aliases_can_not_blow_a_file_up():
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ValueError, match="aliases"):
        mapping_of("\n".join(lines), "x.yaml")


def test_a_missing_file_and_what_is_no_recipe_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read(tmp_path / "x.yaml")
    with pytest.raises(ValueError, match="isn't a file"):
        read(tmp_path)
    with pytest.raises(TypeError, match="int isn't a recipe"):
        read(3)


def test_options_of_a_script_go_over_lines_and_take_equals():
    text = "export A=1\npython t.py --lora_r 8 \\\n  --bf16 --learning-rate=1e-4 --names a b\n"
    assert mapping_of(text, "x.sh") == {
        **{"lora_r": "8", "bf16": True, "learning_rate": "1e-4", "names": ["a", "b"]}
    }
