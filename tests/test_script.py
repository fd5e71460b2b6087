import ast
import contextlib
import dataclasses
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

from lora_lab.models.bases import load_base
from lora_lab.recipe import CHOICES
from lora_lab.tasks.examples import Example
from lora_lab.tasks.files import file_task
from lora_lab.training.loop import train
from lora_lab.training.script import OPTIMIZERS, PROGRAM, to_code
from tiny import letters_task, recipe, tiny_base

HOSTILE = 'x"); import os; os.mkdir("hacked")#.csv'  # a file of this name is a task of this name
ODD = [Example('say """hi"""\n\\n \\', 'a "quoted" é\\'), Example("{$x}", "}"), Example("a", "")]
TASK = dataclasses.replace(letters_task(), name=HOSTILE, train=[*letters_task().train[:8], *ODD])

RUNNER = """
import contextlib, io, json, os, runpy, sys, traceback

class NotHere:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "lora_lab":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotHere())
found = {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path("script.py", run_name="__main__")
    except BaseException:
        printed.write(traceback.format_exc())
    found[folder] = printed.getvalue()
print(json.dumps(found))
"""


def run_scripts(folders):
    """What each folder's script.py prints, in one process that can't import this package."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, *map(str, folders)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {Path(folder): printed for folder, printed in json.loads(done.stdout).items()}


# --- bases ----------------------------------------------------------------------------------


def plain_tokenizer(tokenizer):
    tokenizer.chat_template = None


def trimming_template(tokenizer):  # what stands before the answer is not what a prompt alone gives
    tokenizer.chat_template = (
        "{% for m in messages %}<|user|>{{ m.content | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


def template_without_an_end(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "\n\n")


def padding_on_the_left(tokenizer):
    tokenizer.padding_side = "left"


def no_padding(tokenizer):
    tokenizer.pad_token = None


BASES = {
    "": lambda tokenizer: None,
    "bfloat16": lambda tokenizer: None,
    "nf4": lambda tokenizer: None,
    "plain": plain_tokenizer,
    "trimming": trimming_template,
    "endless": template_without_an_end,
    "left": padding_on_the_left,
    "no padding": no_padding,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    found = {}
    for name, change in BASES.items():
        folder = tmp_path_factory.mktemp("base")
        base = tiny_base(hidden=64)
        change(base.tokenizer)
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        found[name] = load_base(
            folder,
            device="cpu",
            dtype="bfloat16" if name == "bfloat16" else "float32",
            quantize="nf4" if name == "nf4" else None,
        )
    return found


@pytest.fixture(scope="module")
def base(bases):
    return bases[""]


# --- the same losses ------------------------------------------------------------------------

DECAY = {"weight_decay": 0.5, "learning_rate": 3e-2}  # so strong that its absence shows
ADALORA = {"method": "adalora", "init_r": 5, "target_r": 2}
CASES = [  # (a base of BASES, what its recipe has)
    ("", {"lora_dropout": 0.3}),
    ("", {"lora_dropout": 0.3, "gradient_accumulation_steps": 2, "gradient_checkpointing": True}),
    ("", {"loraplus_lr_ratio": 4.0, "use_dora": True, **DECAY}),
    ("", {"loraplus_lr_ratio": 4.0, "use_rslora": True, "target_modules": ("q_proj", "v_proj")}),
    ("", {"use_dora": True, "lora_dropout": 0.1}),
    ("", {"init_lora_weights": "pissa"}),
    ("", {"init_lora_weights": "pissa_niter_2", "lora_dropout": 0.1}),
    ("", {"init_lora_weights": "olora"}),
    ("", {"init_lora_weights": "orthogonal", "r": 4}),
    ("", {"init_lora_weights": "gaussian"}),
    ("", {"init_lora_weights": False}),
    ("", ADALORA | {"gradient_accumulation_steps": 2}),
    ("", ADALORA | {"lora_dropout": 0.3, "deltaT": 2, "tinit": 0, "tfinal": 2, **DECAY}),
    ("", ADALORA | {"quantize": "nf4"}),
    ("bfloat16", ADALORA),
    ("", {"quantize": "nf4", "optimizer": "adamw_8bit", "use_dora": True}),
    ("", {"quantize": "nf4", "lora_dropout": 0.3, "gradient_checkpointing": True}),
    ("", {"quantize": "fp4", "double_quant": False, "compute_dtype": "bfloat16"}),
    ("", {"quantize": "int8"}),
    ("nf4", {"modules_to_save": ("lm_head",)}),
    ("bfloat16", {"quantize": "nf4"}),
    ("bfloat16", {"lora_dropout": 0.3}),
    ("bfloat16", {"method": "full"}),
    ("", {"method": "full", "loss_on": "all", "gradient_checkpointing": True, **DECAY}),
    ("", {"method": "full", "optimizer": "adamw_8bit", "learning_rate": 1e-2}),
    ("", {"method": "full", "optimizer": "paged_adamw_8bit", "gradient_accumulation_steps": 3}),
    ("", {"optimizer": "sgd", "lr_scheduler_type": "constant", "weight_decay": 0.5}),
    ("", {"lr_scheduler_type": "constant", "warmup_steps": 3}),
    ("", {"lr_scheduler_type": "cosine", "warmup_steps": 2, "gradient_accumulation_steps": 2}),
    ("", {"lr_scheduler_type": "linear", "warmup_steps": 5}),
    ("", {"layers_to_transform": (1,), "max_grad_norm": float("inf"), "learning_rate": 0.1}),
    ("", {"layers_to_transform": (0,), "target_modules": ("o_proj",), "max_grad_norm": 0.05}),
    ("", {"target_modules": r".*layers\.1\..*_proj", "seed": 2**32 - 1, "lora_dropout": 0.1}),
    ("", {"modules_to_save": ("lm_head", "embed_tokens"), **DECAY}),
    ("", {"target_modules": ("embed_tokens", "lm_head", "v_proj")}),
    ("", {"max_length": 8, "batch_size": 3}),
    ("", {"learning_rate": np.float64(3e-3), "lora_alpha": np.float32(7), "r": np.int64(3)}),
    ("plain", {"lora_dropout": 0.1}),
    ("trimming", {"loss_on": "all"}),
    ("endless", {}),
    ("left", {}),
    ("no padding", {}),
]
VALUES = {  # what a random recipe is drawn from
    "target_modules": ("all-linear", ("q_proj", "v_proj"), ("down_proj",), r".*self_attn\..*"),
    "lora_dropout": (0.0, 0.0, 0.3),
    "use_rslora": (False, True),
    "use_dora": (False, True),
    "init_lora_weights": (True, True, "pissa", "olora", "gaussian", "orthogonal"),
    "r": (2, 4, 6),
    "target_r": (2, 3),
    "deltaT": (1, 2),
    "layers_to_transform": (None, None, (0,)),
    "modules_to_save": ((), (), ("lm_head",)),
    "loraplus_lr_ratio": (1.0, 3.0),
    "quantize": (None, None, "nf4", "fp4", "int8"),
    "double_quant": (True, False),
    "optimizer": ("adamw", "adamw", "sgd", "adamw_8bit"),
    "lr_scheduler_type": ("linear", "cosine", "constant"),
    "warmup_steps": (0, 2),
    "weight_decay": (0.0, 0.5),
    "max_grad_norm": (1.0, float("inf")),
    "batch_size": (1, 4),
    "gradient_accumulation_steps": (1, 2),
    "gradient_checkpointing": (False, True),
    "loss_on": ("answer", "all"),
    "seed": (0, 1, 2),
}


def drawn_cases(count, seed):
    """Cases of which each holds as many drawn choices as go together."""
    draw, cases = random.Random(seed), []
    for _ in range(count):
        changes = {"method": draw.choice(["lora", "lora", "lora", "adalora", "full"])}
        for field in draw.sample(sorted(VALUES), len(VALUES)):
            with contextlib.suppress(ValueError):
                more = changes | {field: draw.choice(VALUES[field])}
                recipe(**{"steps": 6} | more)
                changes = more
        cases.append((draw.choice(["", "", "plain", "nf4", "bfloat16"]), changes))
    return cases


def check_cases(cases, bases, place):
    """Train each case here and by its script, and compare all losses. What ran, by folder."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes does not exist for this machine")
    trained = {}
    for number, (name, changes) in enumerate(cases):
        folder, base = place / str(number), bases[name]
        folder.mkdir()
        wanted = recipe(**{"steps": 6} | changes)
        try:
            code = to_code(wanted, base, TASK)
        except ValueError as error:  # not for the script alone
            with pytest.raises(ValueError, match=re.escape(str(error))):
                train(base, TASK, wanted)
            continue
        (folder / "script.py").write_text(code, encoding="utf-8")
        trained[folder] = train(base, TASK, wanted)
        list(trained[folder])
    printed = run_scripts(trained)
    wrong = {}
    for folder, training in trained.items():
        weight = training.recipe.orth_reg_weight
        losses = [record.loss + weight * (record.orthogonality or 0) for record in training.records]
        found = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed[folder])]
        rel = 1e-3 if training.base.dtype == torch.bfloat16 else 1e-4
        if found != pytest.approx(losses, rel=rel):
            wrong[str(cases[int(folder.name)])] = (losses, found or printed[folder])
    assert not wrong
    return trained


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory):
    return check_cases(CASES, bases, tmp_path_factory.mktemp("cases"))


@pytest.mark.filterwarnings("ignore:.* examples are left out")
def test_the_script_gives_the_same_losses_without_this_package(trained):
    assert len(trained) == len(CASES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* examples are left out")
@pytest.mark.parametrize("seed", range(4))
def test_recipes_drawn_at_random_give_the_same_losses_too(bases, seed, tmp_path):
    assert len(check_cases(drawn_cases(40, seed), bases, tmp_path)) > 20


def test_the_script_saves_what_it_learnt_and_writes_nothing_else(trained):
    for folder, training in trained.items():
        kept = folder / f"x-import-os-os.mkdir-hacked-.csv-{training.recipe.method}"
        assert sorted(folder.iterdir()) == [folder / "script.py", kept]
        assert ".safetensors" in {path.suffix for path in kept.iterdir()}
        if ADALORA.items() <= dataclasses.asdict(training.recipe).items():
            ranks = PeftConfig.from_pretrained(kept).rank_pattern
            assert sum(map(sum, ranks.values())) == 2 * 14


def test_peft_loads_what_the_script_saved_and_answers_as_the_training_does(trained):
    ids, compared = torch.arange(5, 25)[None], 0
    for folder, training in trained.items():
        method, how = training.recipe.method, training.recipe.quantize or training.base.quantization
        if how or method == "adalora" or training.base.dtype != torch.float32:
            continue
        kept = next(path for path in folder.iterdir() if path.is_dir())
        if method == "full":
            model = AutoModelForCausalLM.from_pretrained(kept)
        else:
            model = AutoModelForCausalLM.from_pretrained(training.base.path)
            model = PeftModel.from_pretrained(model, kept)
        with torch.no_grad():
            found, expected = (one.eval()(input_ids=ids).logits for one in (model, training.model))
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
        compared += 1
    assert compared > 20


# --- a program with data, whatever the data is ----------------------------------------------


def constants_of(code):
    """What stands in the constants of a script, read as data; anything else is an error."""
    found = [node for node in ast.parse(code).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in found}


def without_constants(code):
    """The program's tree, whatever its constants are."""
    tree = ast.parse(code)
    for node in tree.body:
        if isinstance(node, ast.Assign):
            node.value = ast.Constant(None)
    return ast.dump(tree)


NASTY = [
    '"',
    "'",
    '"""',
    "'''",
    "\\",
    "\n",
    "\r",
    "\0",
    "\x0c",
    "\u2028",
    "\u202e",
    "\ud800",
    "#",
    "{",
    "$",
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(NASTY), st.text(max_size=8), st.sampled_from(["(", ")", "os.abort()"])
    )
).map("".join)
ENCODABLE = TEXTS.map(lambda text: text.encode("utf-8", "ignore").decode())


@settings(max_examples=60, deadline=None)
@given(
    name=st.one_of(TEXTS, TEXTS.map(lambda text: 400 * (text or "a"))),
    hub_id=TEXTS,
    folder=TEXTS.map(lambda text: text.replace("\0", "")[:40]),
    examples=st.lists(st.tuples(ENCODABLE, ENCODABLE), min_size=1, max_size=3),
)
def test_no_name_and_no_text_becomes_code(base, name, hub_id, folder, examples):
    task = dataclasses.replace(TASK, name=name, train=[Example(*pair) for pair in examples])
    wanted = recipe(max_length=100_000)
    for changed in (
        dataclasses.replace(base, name=f"a/{hub_id}"),
        dataclasses.replace(base, path=Path("/no/where", folder)),
    ):
        code = to_code(wanted, changed, task)
        assert code.encode("utf-8").decode("utf-8") == code
        assert without_constants(code) == without_constants(PROGRAM.read_text(encoding="utf-8"))
        constants = constants_of(code)
        assert constants["EXAMPLES"] == examples
        path = str(changed.path)
        assert constants["BASE"] == (changed.name if "/" in changed.name else path)
        assert re.fullmatch(r"\w[\w.-]{0,90}-lora", constants["FOLDER"])


@pytest.mark.parametrize(
    "targets", [r'.*(q_proj|"\)\nimport os#)', r"[\s\S]*v_proj|\'\'\'", '(?x) .*q_proj # """\n']
)
def test_a_regex_of_target_modules_is_data_too(base, targets):
    code = to_code(recipe(target_modules=targets), base, TASK)
    assert constants_of(code)["ADAPTER"]["target_modules"] == targets
    assert without_constants(code) == without_constants(PROGRAM.read_text(encoding="utf-8"))


def test_a_file_with_a_hostile_name_makes_a_script_that_is_the_same_program(base, tmp_path):
    (tmp_path / HOSTILE).write_text("prompt,answer\n" + "".join(f"a{n},b\n" for n in range(9)))
    code = to_code(recipe(), base, file_task(tmp_path / HOSTILE))
    assert without_constants(code) == without_constants(PROGRAM.read_text(encoding="utf-8"))
    assert "os.mkdir" not in code.replace(constants_of(code)["FOLDER"], "")


def test_every_constant_of_the_program_is_given_a_value(base):
    code, program = to_code(recipe(), base, TASK), PROGRAM.read_text(encoding="utf-8")
    assert constants_of(code).keys() == constants_of(program).keys()
    assert constants_of(code)["RECIPE"].keys() == constants_of(program)["RECIPE"].keys()
    assert set(OPTIMIZERS) == set(CHOICES["optimizer"])


def test_the_script_does_not_mention_this_package(base):
    assert "lora_lab" not in to_code(recipe(), base, TASK)
    assert "lora_lab" not in PROGRAM.read_text(encoding="utf-8")


def test_a_scripts_base_is_found_from_every_folder(base, monkeypatch):
    monkeypatch.chdir(base.path.parent)
    near = dataclasses.replace(base, path=Path(base.path.name))
    assert constants_of(to_code(recipe(), near, TASK))["BASE"] == str(base.path)


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ({"teacher": {}}, {}, "planted teacher"),
        ({}, {"quantize": "nf4", "init_lora_weights": "loftq"}, "can't be written out yet"),
        (
            {},
            {"target_modules": ("lm_head", "q_proj"), "lora_dropout": 0.1},
            "lora_dropout=0.1 on the output layer.*give lora_dropout=0",
        ),
        ({}, {"target_modules": ("q_porj",)}, "did you mean 'q_proj'"),
        ({}, {"target_modules": ("q_proj", "v_porj")}, "did you mean 'v_proj'"),
        ({}, {"max_length": 2}, "all 11 training examples are too long"),
        ({"train": []}, {}, "no training examples; give at least one"),
        (
            {},
            {"init_lora_weights": "orthogonal", "r": 4, "quantize": "nf4"},
            "can't start on nf4 weights",
        ),
    ],
)
def test_what_no_script_can_hold_is_refused(base, task, changes, words):
    with pytest.raises(ValueError, match=words):
        to_code(recipe(**changes), base, dataclasses.replace(TASK, **task))
