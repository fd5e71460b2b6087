"""`check_recipe`: no false alarm on public examples, a finding for each failure, equal commands."""

import dataclasses
import json
import math
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_lab.cli.app import app
from lora_lab.cli.options import value_of
from lora_lab.places import data_folder
from lora_lab.recipe import Recipe
from lora_lab.review.base_names import short_name
from lora_lab.review.named_base import _shape, named_base
from lora_lab.review.recipe import check_recipe
from lora_lab.review.recipe_settings import shipped_factors
from lora_lab.tools.reading import read_settings
from test_tools import PUBLIC, file_of

FULL_RATE = "learning_rate (2e-5|1e-5)"
CONTRADICT = {  # public examples with a finding above a note, and what they contradict
    # the same rate as in gemma/2B_full.yaml; torchtune's other LoRA files have 1e-4 to 2e-3
    "pytorch/torchtune recipes/configs/gemma/2B_lora.yaml": FULL_RATE,
    "pytorch/torchtune recipes/configs/gemma2/2B_lora_single_device.yaml": FULL_RATE,
    # docs/training_stability.qmd of Axolotl: a LoRA rate of 1e-4 to 3e-4
    "axolotl-ai-cloud/axolotl examples/llama-2/qlora-fsdp.yml": FULL_RATE,
    # Axolotl's own warning: packing without an attention backend (schemas/validation.py)
    "axolotl-ai-cloud/axolotl examples/archived/tiny-llama/lora-mps.yml": "are packed",
    # one epoch of 52,000 rows; 160 other notebooks have 2e-4, and 97 keep 2e-5 for "long" runs
    "unslothai/notebooks nb/TinyLlama_(1.1B)-Alpaca.ipynb": FULL_RATE,
    # 100 steps of warm-up, and 50 steps in all
    "pytorch/torchtune recipes/configs/dev/11B_lora_multi_dataset.yaml": "100 steps of warm-up",
    # its other LoRA examples have 1e-4 to 2e-3
    "huggingface/peft examples/causal_language_modeling/"
    "peft_lora_clm_with_additional_tokens.ipynb": FULL_RATE,
    # appends the end token, and takes the loss from it
    "huggingface/peft examples/alora_finetuning/alora_finetuning.py": "padding token is the end",
}


def alarms(review) -> list[str]:
    return [found.what for found in review if found.severity != "note"]


def test_public_examples_raise_no_alarm_save_where_they_contradict_themselves(tmp_path):
    found = {}
    for number, entry in enumerate(PUBLIC):
        folder = tmp_path / str(number)
        folder.mkdir()
        if whats := alarms(check_recipe(file_of(entry, folder))):
            found[entry["source"]] = whats
    assert {*found} == {*CONTRADICT}
    for source, whats in found.items():
        assert len(whats) == 1, (source, whats)
        assert re.search(CONTRADICT[source], whats[0]), (source, whats)


# --- one failure each ---------------------------------------------------------------------------

AXOLOTL = {
    **{"base_model": "meta-llama/Llama-3.2-1B", "adapter": "lora", "lora_r": 16, "lora_alpha": 32},
    **{"lora_target_linear": True, "micro_batch_size": 2, "num_epochs": 1, "learning_rate": 2e-4},
    **{"sequence_len": 512, "optimizer": "adamw_torch", "lr_scheduler": "cosine"},
}
LLAMA_FACTORY = {
    **{"model_name_or_path": "meta-llama/Llama-3.2-1B", "finetuning_type": "lora", "lora_rank": 8},
    **{"lora_target": "all", "learning_rate": 1e-4, "num_train_epochs": 3.0, "stage": "sft"},
}
TRL = {
    **{"model_name_or_path": "Qwen/Qwen2.5-0.5B", "dataset_name": "a/b", "use_peft": True},
    **{"lora_r": 8, "lora_alpha": 16, "lora_target_modules": ["q_proj"], "learning_rate": 2e-4},
    "max_steps": 100,
}
SCRIPT = """
tokenizer = AutoTokenizer.from_pretrained("meta-llama/Llama-3.2-1B")
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B")
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
arguments = TrainingArguments(learning_rate=2e-4, max_steps=100{arguments})
trainer = Trainer(model, arguments, data_collator={collator})
trainer.train()
"""
PLAIN = SCRIPT.format(arguments="", collator="DataCollatorForSeq2Seq(tokenizer)")
LOADED = """
model = PeftModel.from_pretrained(base, "mine"{more})
Trainer(model, TrainingArguments(learning_rate=2e-4, max_steps=100)).train()
"""
BROKEN = {  # the failure: (settings or code, severity, what is found)
    "a misspelt module": (
        AXOLOTL | {"lora_target_linear": None, "lora_target_modules": ["q_proj", "v_porj"]},
        "grave",
        "target_modules: 'v_porj' matches no layer of llama-3.2-1b; did you mean 'v_proj'?",
    ),
    "modules of another architecture": (
        AXOLOTL | {"lora_target_linear": None, "lora_target_modules": ["query_key_value"]},
        "grave",
        "target_modules: 'query_key_value' matches no layer of llama-3.2-1b",
    ),
    "a layer that is not there": (
        AXOLOTL
        | {"lora_target_linear": None, "lora_target_modules": ["q_proj"]}
        | {"peft_layers_to_transform": [3, 16]},
        "grave",
        "layers_to_transform names layer 16, and llama-3.2-1b has 16 layers",
    ),
    "full fine-tuning's rate": (
        AXOLOTL | {"learning_rate": "2e-5"},
        "warning",
        "learning_rate 2e-5 with LoRA",
    ),
    "the tool's default rate": (
        {key: value for key, value in TRL.items() if key != "learning_rate"},
        "warning",
        "learning_rate 2e-5, TRL's default, with LoRA",
    ),
    "full fine-tuning's rate for a classifier": (
        PLAIN.replace("r=8,", 'r=8, task_type="SEQ_CLS",').replace("2e-4", "2e-5"),
        "warning",
        "learning_rate 2e-5 with LoRA",
    ),
    "the trainer's default rate for a classifier": (
        PLAIN.replace("r=8,", "r=8, task_type=TaskType.SEQ_CLS,")
        .replace("learning_rate=2e-4, ", "")
        .replace("TrainingArguments", "SFTConfig")
        .replace("Trainer(", "SFTTrainer("),
        "warning",
        "learning_rate 2e-5, TRL's default, with LoRA",
    ),
    "a rate that is far too high": (
        AXOLOTL | {"learning_rate": 0.02},
        "grave",
        "learning_rate 0.02 is far above what wide models bear",
    ),
    "a rate that is high for the width": (
        AXOLOTL | {"learning_rate": 0.0025},
        "note",
        "learning_rate 0.0025 is 5.0 times what tinker-cookbook gives for a hidden size of 2,048",
    ),
    "a factor out of range": (
        AXOLOTL | {"lora_r": 4, "lora_alpha": 512},
        "warning",
        "the factor on the change is 128: lora_alpha 512, r 4",
    ),
    "a rank as wide as a matrix": (
        AXOLOTL | {"lora_r": 512, "lora_alpha": 512},
        "warning",
        "r 512 is not below the width of k_proj (512)",
    ),
    "AdaLoRA under Trainer": (
        PLAIN.replace("LoraConfig(r=8", "AdaLoraConfig(total_step=100, tinit=10, tfinal=30"),
        "grave",
        "AdaLoRA under Trainer, and nothing calls update_and_allocate",
    ),
    "AdaLoRA without its steps": (
        PLAIN.replace("LoraConfig(r=8", "AdaLoraConfig(target_r=4").replace(
            "trainer.train()", "model.base_model.update_and_allocate(1)"
        ),
        "grave",
        "AdaLoRA without total_step",
    ),
    "AdaLoRA without a rank to prune": (
        {"peft_type": "ADALORA", "init_r": 8, "target_r": 8, "total_step": 100},
        "grave",
        "target_r=8 leaves nothing to prune from init_r=8",
    ),
    "an end that is never learnt": (
        SCRIPT.format(
            arguments="", collator="DataCollatorForLanguageModeling(tokenizer, mlm=False)"
        )
        + "tokenizer.pad_token = tokenizer.eos_token\ntext = text + tokenizer.eos_token\n",
        "warning",
        "the padding token is the end token, and DataCollatorForLanguageModeling makes the labels",
    ),
    "warm-up to the end": (TRL | {"warmup_steps": 100}, "grave", "100 steps of warm-up, and 100"),
    "warm-up for most of it": (
        TRL | {"warmup_steps": 0.7},
        "warning",
        "the warm-up takes 70 % of the steps",
    ),
    "packed examples that see each other": (
        TRL | {"packing": True},
        "warning",
        "examples are packed, and the attention (none named) does not keep them apart",
    ),
    "LLaMA-Factory's packing": (
        LLAMA_FACTORY | {"packing": True},
        "warning",
        "examples are packed",
    ),
    "checkpointing without gradients": (
        SCRIPT.format(
            arguments=", gradient_checkpointing=True, "
            'gradient_checkpointing_kwargs={"use_reentrant": True}',
            collator="None",
        ),
        "grave",
        "gradient checkpointing with use_reentrant=True",
    ),
    "two precisions": (TRL | {"bf16": True, "fp16": True}, "grave", "bf16 and fp16 are both on"),
    "4 bits by default": (
        PLAIN + "BitsAndBytesConfig(load_in_4bit=True)\n",
        "note",
        "4 bits without bnb_4bit_quant_type",
    ),
    "QLoRA without 4 bits": (
        AXOLOTL | {"adapter": "qlora"},
        "grave",
        "adapter: qlora without load_in_4bit: true",
    ),
    "4 bits without an adapter": (
        AXOLOTL | {"adapter": None, "load_in_4bit": True},
        "grave",
        "quantize='nf4' can't train with method='full'",
    ),
    "two warm-ups": (
        AXOLOTL | {"warmup_steps": 10, "warmup_ratio": 0.1},
        "grave",
        "warmup_steps and warmup_ratio are both given",
    ),
    "new tokens that stay random": (
        AXOLOTL | {"tokens": ["<call>"]},
        "warning",
        "tokens are added, and their embeddings are not trained",
    ),
    "an adapter that is frozen": (
        PLAIN.replace("r=8,", "r=8, inference_mode=True,"),
        "grave",
        "the adapter is made with inference_mode=True",
    ),
    "LoRA that is not switched on": (
        {key: value for key, value in TRL.items() if key != "use_peft"},
        "grave",
        "LoRA's settings without use_peft: true",
    ),
    "a validation that never comes": (
        TRL | {"eval_strategy": "steps", "eval_steps": 500},
        "warning",
        "a validation every 500 steps, and 100 steps in all",
    ),
    "a best state that was not saved": (
        TRL | {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_steps": 10},
        "grave",
        "load_best_model_at_end with validations by epoch and saves by steps",
    ),
    "steps and epochs": (
        TRL | {"num_train_epochs": 3},
        "note",
        "100 steps and 3 epochs are both given",
    ),
    "labels that are shifted twice": (
        PLAIN + "loss = model(input_ids=ids[:, :-1], labels=ids[:, 1:].contiguous()).loss\n",
        "warning",
        "labels are shifted here",
    ),
    "labels that are shifted twice, in a dict": (
        PLAIN + 'row = {"input_ids": ids[:-1], "labels": ids[1:]}\n',
        "warning",
        "labels are shifted here",
    ),
    "a loss on the prompt": (
        SCRIPT.format(
            arguments="", collator="DataCollatorForLanguageModeling(tokenizer, mlm=False)"
        ),
        "note",
        "every token earns a loss, those of the prompt too",
    ),
    "a loaded adapter that stays frozen": (
        LOADED.format(more=""),
        "grave",
        "a saved adapter is trained on, and PeftModel.from_pretrained has no is_trainable",
    ),
    "a misspelt key": (
        AXOLOTL | {"gradient_acumulation_steps": 4},
        "note",
        "'gradient_acumulation_steps' (did you mean 'gradient_accumulation_steps'?)",
    ),
    "PiSSA on 4 bits": (
        LLAMA_FACTORY | {"pissa_init": True, "quantization_bit": 4},
        "grave",
        "init_lora_weights='pissa_niter_16' takes its start out of the base's weights",
    ),
}


def as_source(source: dict | str, folder) -> dict | Path:
    """Settings as they are; code as a file."""
    if isinstance(source, dict):
        return source
    path = folder / "train.py"
    path.write_text(source)
    return path


@pytest.mark.parametrize("failure", BROKEN)
def test_each_failure_has_its_finding_and_no_other_alarm(failure, tmp_path):
    source, severity, words = BROKEN[failure]
    review = check_recipe(as_source(source, tmp_path))
    assert [(found.severity, found.what) for found in review if words in found.what], str(review)
    found = next(found for found in review if words in found.what)
    assert found.severity == severity
    others = [other for other in review if other is not found and other.severity != "note"]
    assert others == []


@pytest.mark.parametrize("source", [AXOLOTL, LLAMA_FACTORY, TRL, PLAIN], ids=["A", "L", "T", "S"])
def test_the_settings_without_the_failure_raise_nothing(source, tmp_path):
    assert alarms(check_recipe(as_source(source, tmp_path))) == []


@pytest.mark.parametrize(
    "source",
    [
        LOADED.format(more=", is_trainable=True"),
        LOADED.format(more=", is_trainable=args.go_on"),
        LOADED.replace("model = ", "base = ").format(more=").merge_and_unload("),
        PLAIN + 'PeftModel.from_pretrained(base, "mine")\n',  # loaded again to be used
        PLAIN + "row = dict(input_ids=ids[:, :-1], labels=ids[:, :-1])\n",
        PLAIN + "row = dict(input_ids=ids, labels=ids)\n",
    ],
)
def test_what_only_looks_like_a_frozen_adapter_or_shifted_labels_raises_nothing(source, tmp_path):
    found = [finding.what for finding in check_recipe(as_source(source, tmp_path))]
    assert not any("shifted" in what or "is_trainable" in what for what in found)


def test_rows_longer_than_the_maximum_are_counted_in_the_file_beside_the_recipe(tmp_path):
    rows = [{"prompt": "word " * 30, "answer": "yes"}] * 8 + [
        {"prompt": "w " * 9000, "answer": "no"}
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "axolotl.yaml"
    settings = AXOLOTL | {"datasets": [{"path": "my.jsonl", "type": "alpaca"}]}
    recipe.write_text(yaml.safe_dump(settings | {"sequence_len": 512}))
    review = check_recipe(recipe)
    assert alarms(review)[0].startswith("1 of 9 rows in my.jsonl (11 %) are longer than max_length")
    assert review.facts["length"] == "1 epoch = 5 steps"
    assert "--steps 5" in review.facts["with lora-lab"]
    assert review.facts["with lora-lab"].startswith("lora-lab train my.jsonl ")
    recipe.write_text(yaml.safe_dump(settings | {"sequence_len": 8192}))
    assert alarms(check_recipe(recipe)) == []


# --- a training's log ---------------------------------------------------------------------------


def log(losses, evals=(), *, steps=None, planned=None, **more) -> dict:
    history = [{"step": 10 * n, "loss": loss, **more} for n, loss in enumerate(losses, start=1)]
    history += [{"step": step, "eval_loss": loss} for step, loss in evals]
    last = 10 * len(losses)
    return {
        "log_history": history,
        "global_step": steps or last,
        "max_steps": planned or steps or last,
    }


FALLING = [2 / (1 + n / 10) + 0.01 * (n % 3) for n in range(60)]
LOGS = {
    "never fell": (log([1.2 + 0.01 * (n % 2) for n in range(40)]), "the loss never fell"),
    "a coin's toss": (log([0.6931] * 40), "0.693 is a coin's toss"),
    "diverged": (log([2 - n / 40 for n in range(40)] + [6.0] * 10), "the loss diverged"),
    "not a number": (log(FALLING[:20] + [math.nan] * 5), "the loss is not a number from step 210"),
    "zero": (log(FALLING[:20] + [0.0] * 10, grad_norm=1.0), "the last 10 losses are exactly 0"),
    "no gradient": (
        log([1.0] * 40, grad_norm=0.0),
        "the gradient's norm is 0 in every record",
    ),
    "learnt by heart": (
        log(FALLING, [(100, 1.5), (200, 1.2), (300, 1.3), (600, 1.9)]),
        "the validation loss rose from 1.2 at step 200 to 1.9 at step 600",
    ),
    "not finished": (log(FALLING, planned=1000), "600 of 1,000 steps were made"),
}


def test_before_a_nan_the_checkpoint_with_the_lowest_validation_loss_is_named():
    losses = FALLING[:40] + [math.nan] * 5
    review = check_recipe(log(losses, [(100, 1.5), (200, 1.2), (300, 1.9)]))
    assert "best that of step 200: after it the validation loss rose" in review[0].do
    fell = check_recipe(log(losses, [(100, 1.5), (200, 1.2), (300, 1.0)]))
    assert "best that of" not in fell[0].do


@pytest.mark.parametrize("name", LOGS)
def test_a_curve_that_went_wrong_has_its_finding(name):
    state, words = LOGS[name]
    review = check_recipe(state)
    assert any(words in found.what for found in review), str(review)
    assert review.kind.startswith("log of a training")


def test_a_curve_that_went_well_raises_nothing(tmp_path):
    state = log(FALLING, [(200, 1.2), (400, 1.0), (600, 0.95)], grad_norm=0.8)
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps(state))
    review = check_recipe(path)
    assert len(review) == 0
    assert review.facts["steps"] == "600 of 600"
    assert check_recipe(tmp_path).facts == review.facts  # a checkpoint's folder without an adapter


def test_a_training_that_a_callback_ended_is_no_accident():
    state = log(FALLING, planned=1000) | {"stateful_callbacks": {"EarlyStoppingCallback": {}}}
    assert len(check_recipe(state)) == 0


# --- facts --------------------------------------------------------------------------------------


def test_parameters_are_those_that_peft_counts_on_llama_3_2_1b():
    """22.5 million is what PEFT prints for r 32 on all linear layers of Llama 3.2 1B."""
    facts = check_recipe(AXOLOTL | {"lora_r": 32, "lora_alpha": 16}).facts
    assert facts["trained"].startswith("22,544,384 of 1,258,358,784 parameters (1.8 %)")
    assert facts["modules"].startswith("112 matrices: q_proj, k_proj, v_proj, o_proj")
    assert "GiB in tensors" in facts["memory"]


def test_without_targets_they_are_pefts_for_the_architecture():
    import peft

    from lora_lab.review.named_base import PEFT_TARGETS

    table = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    assert {kind: tuple(table[kind]) for kind in PEFT_TARGETS} == PEFT_TARGETS
    facts = check_recipe({**TRL, "lora_target_modules": None}).facts
    assert facts["modules"].endswith(": q_proj, v_proj")


def test_a_base_that_is_not_known_has_no_counts_and_no_alarm():
    review = check_recipe(AXOLOTL | {"base_model": "me/my-model"})
    assert alarms(review) == []
    assert "trained" not in review.facts


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("NousResearch/Llama-3.2-1B", "llama-3.2-1b"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-unsloth-bnb-4bit", "llama-3.1-8b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"),
        ("Qwen/Qwen3-VL-4B-Instruct", None),
        ("unsloth/Phi-3.5-mini-instruct", None),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", None),
    ],
)
def test_a_base_is_known_by_the_parts_of_its_name_that_decide_the_shape(name, shape):
    found = named_base(name)
    assert (found and found.shape.name) == shape
    assert found is None or found.is_exact


def test_a_larger_relative_lends_names_and_no_counts():
    found = named_base("google/gemma-2-9b")
    assert not found.is_exact
    review = check_recipe(
        AXOLOTL
        | {"base_model": "google/gemma-2-9b", "lora_target_linear": None}
        | {"lora_target_modules": ["v_porj", "q_proj"]}
    )
    assert "no layer of models like gemma-2-2b" in alarms(review)[0]
    assert "trained" not in review.facts


def named_bases() -> dict:
    with (data_folder() / "named_bases.toml").open("rb") as file:
        return tomllib.load(file)


@pytest.mark.parametrize("name", named_bases())
def test_a_named_base_has_as_many_parameters_as_its_publisher_says(name):
    facts = named_bases()[name]
    digits = facts["published"].removesuffix("B")
    unit = 1e9 / 10 ** len(digits.partition(".")[2])
    parameters = _shape(short_name(facts["hub"])).parameters
    assert abs(parameters - float(digits) * 1e9) < unit


def test_the_range_of_factors_is_that_of_what_tools_ship():
    assert shipped_factors() == (0.0625, 32)


# --- the equal command --------------------------------------------------------------------------


def parsed(command: str) -> tuple[dict, str | None, dict]:
    """The task, the base and the fields that our own parser makes of a command."""
    words = shlex.split(command)
    assert words[:2] == ["lora-lab", "train"]
    train = typer.main.get_command(app).commands["train"]
    options = train.make_context("train", words[2:]).params
    fields = {
        field.name: value_of(field, options[field.name])
        for field in dataclasses.fields(Recipe)
        if options.get(field.name) is not None
    }
    return options["task"], options["base"], fields


@pytest.mark.parametrize("entry", PUBLIC, ids=lambda entry: entry["source"])
def test_the_command_is_taken_by_our_own_parser_and_says_the_same(entry, tmp_path):
    from lora_lab.tools.reading import read

    path = file_of(entry, tmp_path)
    brought = read(path)
    command = check_recipe(path).facts["with lora-lab"]
    if command.startswith("no such command"):
        assert brought.stage not in ("sft", "pretrain")
        return
    task, base, fields = parsed(command)
    assert task == "data.jsonl"
    assert base == brought.base
    made = Recipe(**fields)
    for name, value in brought.fields.items():
        if name not in ("warmup_steps", "target_modules"):
            assert getattr(made, name) == value, name
    if "target_modules" in brought.fields:
        targets = brought.fields["target_modules"]
        assert made.target_modules == (tuple(targets) if isinstance(targets, list) else targets)


def test_names_with_spaces_and_quotes_are_quoted_for_the_shell():
    settings = AXOLOTL | {"base_model": "it's a; rm -rf $HOME/x"}
    settings |= {"datasets": [{"path": "my data (1).jsonl", "type": "alpaca"}]}
    task, base, _ = parsed(check_recipe(settings).facts["with lora-lab"])
    assert task == "my data (1).jsonl"
    assert base == "it's a; rm -rf $HOME/x"


def test_what_is_not_in_the_command_is_named():
    settings = AXOLOTL | {"optimizer": "muon", "sample_packing": True, "neftune_noise_alpha": 5}
    settings |= {"attn_implementation": "flash_attention_2"}
    left = check_recipe(settings).facts["not in it"]
    for words in ("--steps (epochs 1", "optimizer muon", "packing", "neftune_noise_alpha"):
        assert words in left
    assert "output_dir" not in check_recipe(settings | {"output_dir": "x"}).facts["not in it"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("tickets.jsonl", "the data: tickets.jsonl is not beside the recipe"),
        ("tatsu-lab/alpaca", "the data: save tatsu-lab/alpaca as a file"),
    ],
)
def test_data_that_are_not_here_are_told_by_what_they_are(path, words):
    settings = AXOLOTL | {"datasets": [{"path": path, "type": "alpaca"}]}
    assert words in check_recipe(settings).facts["not in it"]


@pytest.mark.parametrize(
    ("targets", "option", "facts"),
    [
        (
            ["q_proj", "v_porj"],
            "--target-modules q_proj,v_proj",
            {"mended in it": "v_porj → v_proj (a layer of llama-3.2-1b)"},
        ),
        (["v_porj", "v_proj"], "--target-modules v_proj ", {"mended in it": "v_porj → v_proj"}),
        (
            ["q_proj", "query_key_value"],
            "--target-modules q_proj ",
            {"not in it": "the target query_key_value"},
        ),
        (["query_key_value"], "", {"not in it": "the target query_key_value"}),
    ],
)
def test_the_command_has_the_modules_that_were_meant_and_says_so(targets, option, facts):
    settings = AXOLOTL | {"lora_target_linear": None, "lora_target_modules": targets}
    found = check_recipe(settings).facts
    assert option in found["with lora-lab"]
    if not option:
        assert "--target-modules" not in found["with lora-lab"]
    for name, words in facts.items():
        assert found[name].startswith(words)
    assert ("mended in it" in found) == ("mended in it" in facts)


def test_the_modules_of_a_base_that_is_not_known_are_taken_as_they_are():
    settings = AXOLOTL | {"base_model": "acme/unheard-of", "lora_target_linear": None}
    facts = check_recipe(settings | {"lora_target_modules": ["q_proj", "v_porj"]}).facts
    assert "--target-modules q_proj,v_porj" in facts["with lora-lab"]
    assert "mended in it" not in facts


@pytest.mark.parametrize(
    ("warmup", "words"),
    [({"warmup_ratio": 0.03}, "a warm-up of 3 %"), ({"warmup_steps": 20}, "a warm-up of 20 steps")],
)
def test_a_warm_up_without_a_number_of_steps_is_said_not_to_be_in_the_command(warmup, words):
    facts = check_recipe(AXOLOTL | warmup).facts
    assert "--warmup-steps" not in facts["with lora-lab"]
    assert f"--warmup-steps ({words}: give it with --steps)" in facts["not in it"]
    facts = check_recipe(AXOLOTL | warmup | {"max_steps": 100}).facts
    assert "--warmup-steps" in facts["with lora-lab"]
    assert "--warmup-steps" not in facts.get("not in it", "")


def test_a_classifier_has_no_command(tmp_path):
    facts = check_recipe(as_source(BROKEN["full fine-tuning's rate for a classifier"][0], tmp_path))
    assert facts.facts["with lora-lab"].startswith("no such command: it trains causal")


def test_another_loss_has_no_command():
    facts = check_recipe(AXOLOTL | {"rl": "dpo", "learning_rate": 5e-6}).facts
    assert facts["with lora-lab"] == "no such command: dpo is another loss"


# --- other sources ------------------------------------------------------------------------------


def test_a_recipe_of_our_own_is_looked_through_as_well():
    review = check_recipe(Recipe(learning_rate=1e-5, steps=50))
    assert alarms(review) == ["learning_rate 1e-5 with LoRA"]
    assert review.kind == "recipe for lora_lab"


def test_another_method_is_said_to_be_one():
    review = check_recipe({"peft_type": "IA3", "target_modules": ["k_proj"]})
    assert [found.severity for found in review] == ["note"]
    assert "ia3 is neither LoRA" in review[0].what


def test_a_folder_with_nothing_but_a_log_is_looked_through(tmp_path, capsys):
    (tmp_path / "trainer_state.json").write_text(json.dumps(LOGS["diverged"][0]))
    with pytest.raises(SystemExit) as ended:
        app(["check", str(tmp_path)])
    assert ended.value.code == 1
    assert "the loss diverged" in capsys.readouterr().out


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a folder without adapter_config"):
        check_recipe(tmp_path)


def test_a_warm_up_longer_than_the_epochs_of_its_file_hides_no_other_finding(tmp_path):
    rows = "".join(json.dumps({"instruction": f"{n}?", "output": "x"}) + "\n" for n in range(80))
    (tmp_path / "rows.jsonl").write_text(rows)
    recipe = {
        "base_model": "NousResearch/Meta-Llama-3-8B",
        "adapter": "lora",
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_target_modules": ["q_proj", "v_porj"],
        "learning_rate": 1e-5,
        "num_epochs": 1,
        "micro_batch_size": 8,
        "warmup_steps": 1000,
        "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
    }
    (tmp_path / "axolotl.yaml").write_text(yaml.safe_dump(recipe))
    review = check_recipe(tmp_path / "axolotl.yaml")
    assert review.facts["length"] == "1 epoch = 10 steps"
    found = " ".join(alarms(review))
    for words in ("1000 steps of warm-up, and 10 steps in all", "'v_porj'", "learning_rate 1e-5"):
        assert words in found


def test_settings_that_lab_recipe_refuses_become_a_finding_and_no_error():
    review = check_recipe(AXOLOTL | {"lora_dropout": 1.5})
    assert review.is_grave
    assert "lora_dropout=1.5" in review[0].what


def test_facts_of_settings_do_not_depend_on_the_order_of_keys():
    backwards = dict(reversed(AXOLOTL.items()))
    assert check_recipe(AXOLOTL).facts == check_recipe(backwards).facts
    assert read_settings(AXOLOTL, "x").fields == read_settings(backwards, "x").fields


# --- odd values, and the command line -----------------------------------------------------------

ODD = st.sampled_from(
    [None, "", 0, -1, True, "x", "2e-4", [], {}, ["a"], {"a": 1}, 10**30, math.nan, math.inf, -0.5]
    + [[1, [2]], [None], "(((a+)+)+)$", [{"path": 3}], "auto", 1e-300, {"_component_": 3}]
)


@settings(max_examples=60, deadline=None)
@given(
    given_settings=st.sampled_from([AXOLOTL, LLAMA_FACTORY, TRL]),
    place=st.integers(0, 99),
    value=ODD,
)
def test_an_odd_value_is_refused_in_words_or_reviewed(given_settings, place, value):
    keys = [*given_settings]
    changed = given_settings | {keys[place % len(keys)]: value}
    try:
        said = str(check_recipe(changed))
    except ValueError as error:
        said = str(error)
    assert "; " in said or "odd" in said or "do: " in said  # a remedy, or nothing odd


def test_the_command_line_ends_with_1_on_a_grave_finding(tmp_path, capsys):
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(BROKEN["a misspelt module"][0]))
    with pytest.raises(SystemExit) as ended:
        app(["check", str(path), "--json"])
    assert ended.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "recipe for Axolotl"
    assert found["findings"][0]["severity"] == "grave"
    path.write_text(yaml.safe_dump(AXOLOTL))
    with pytest.raises(SystemExit) as ended:
        app(["check", str(path)])
    assert ended.value.code in (None, 0)
    assert "Nothing odd was found." in capsys.readouterr().out
