"""Exports as others load them: with plain PEFT and transformers, no lora_lab and no network."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import lora_lab as lab
from isolation import OFFLINE
from lora_lab.assets import downloads
from lora_lab.decision.report import report_of_run
from lora_lab.maths.statistics import wilson
from lora_lab.models.built_in import BUILT_IN
from lora_lab.models.merging import merge
from lora_lab.review.adapter import check_adapter
from lora_lab.training import exports
from lora_lab.training.intervals import intervals_of
from tiny import letters_task, recipe, tiny_base

HUB = "somebody/tiny"  # a base of the hub, in a cache as the hub's client lays it out
PROMPTS = ["ab", "cd", "eh", "ha", "bb"]
KINDS = {  # name: (the recipe's changes, the export's options)
    "LoRA": ({}, {}),
    "rsLoRA with dropout": ({"use_rslora": True, "lora_dropout": 0.1}, {}),
    "DoRA": ({"use_dora": True}, {}),
    "AdaLoRA": ({"method": "adalora", "init_r": 6, "target_r": 3}, {}),
    "PiSSA": ({"init_lora_weights": "pissa"}, {}),
    "a layer trained whole": ({"modules_to_save": ("lm_head",)}, {}),
    "on NF4": ({"quantize": "nf4"}, {}),
    "on 8 bits": ({"quantize": "int8"}, {}),
    "base of the hub": ({}, {"base": HUB}),
    "base inside": ({}, {"with_base": True}),
    "merged, bfloat16": ({}, {"merge": True}),
    "merged, float16": ({}, {"merge": True, "dtype": "float16"}),
    "merged from NF4": ({"quantize": "nf4"}, {"merge": True}),
    "merged into the output layer": ({"target_modules": ("lm_head",)}, {"merge": True}),
    "full": ({"method": "full"}, {}),
}
LOADER = """
import contextlib, io, json, re, sys
sys.modules["lora_lab"] = None  # importing it fails
answers = {}
for folder in sys.argv[2:]:
    page = open(folder + "/README.md", encoding="utf-8").read()
    load, ask = re.findall(r"```python\\n(.*?)```", page, re.DOTALL)[:2]
    names = {}
    exec(load, names)
    answers[folder] = []
    for question in json.loads(sys.argv[1]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(ask.replace('"..."', repr(question)), names)
        answers[folder].append(out.getvalue().removesuffix("\\n"))
from transformers import AutoModelForCausalLM  # plain transformers follows the adapter's base too
answers["followed"] = type(AutoModelForCausalLM.from_pretrained("base-of-the-hub")).__name__
print(json.dumps(answers))
"""


def folder_name(kind):
    return re.sub(r"\W+", "-", kind)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny base, `tiny`, which the hub's cache in `hub` has too."""
    folder, base = tmp_path_factory.mktemp("exports"), tiny_base(hidden=64)
    base.model.save_pretrained(folder / "tiny")
    base.tokenizer.save_pretrained(folder / "tiny")
    cached = folder / "hub" / f"models--{HUB.replace('/', '--')}"
    shutil.copytree(folder / "tiny", cached / "snapshots" / "0123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    return folder


def trained(place, **changes):
    base = lab.load_base(place / "tiny")
    settings = recipe(**{"steps": 40, "learning_rate": 3e-2} | changes)
    return lab.fit(base, letters_task(), settings, store=place / "store")


@pytest.fixture(scope="module")
def loaded(place):
    """Each kind's answers here, and after export in a process without lora_lab and network."""
    here, runs = {}, {}
    for kind, (changes, options) in KINDS.items():
        key = json.dumps(changes)
        if key not in runs:
            runs[key] = trained(place, **changes)
        lab.export(runs[key], place / folder_name(kind), task=letters_task(), **options)
        here[kind] = lab.generate(runs[key], PROMPTS, max_new_tokens=64)
    (place / "base-inside").rename(place / "moved")  # a base inside goes along
    page = place / "moved" / "README.md"
    page.write_text(page.read_text().replace('"base-inside', '"moved'))
    environment = os.environ | {
        "PYTHONPATH": str(OFFLINE),
        "HF_HUB_CACHE": str(place / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    folders = ["moved" if kind == "base inside" else folder_name(kind) for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps(PROMPTS), *folders],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout.splitlines()[-1])
    return here, dict(zip(KINDS, map(there.get, folders), strict=True)), there["followed"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_answers_as_before_where_there_is_no_lora_lab(loaded, kind, place):
    here, there, _ = loaded
    assert there[kind] == here[kind]
    base = lab.load_base(place / "tiny")
    assert here[kind] != lab.generate(base, PROMPTS, max_new_tokens=64)


def test_plain_transformers_follows_the_base_that_an_adapter_names(loaded):
    assert loaded[2] == "LlamaForCausalLM"


# --- the folder ---------------------------------------------------------------------------------


@pytest.fixture
def run(place):
    return trained(place)


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def test_an_adapter_names_its_base_by_the_hubs_id_else_by_its_folder(run, place, tmp_path):
    made = lab.export(run, tmp_path / "local")
    assert config_of(tmp_path / "local")["base_model_name_or_path"] == str(place / "tiny")
    assert (made.base, made.hub) == (str(place / "tiny"), "")
    made = lab.export(run, tmp_path / "named", base=HUB)
    assert config_of(tmp_path / "named")["base_model_name_or_path"] == HUB
    assert (made.base, made.hub) == (HUB, HUB)
    on_hub = replace(run, base_name=HUB, _base_path=str(place / "tiny"))
    lab.export(on_hub, tmp_path / "of the hub")
    assert config_of(tmp_path / "of the hub")["base_model_name_or_path"] == HUB


def test_smollm2_is_named_by_the_hubs_id_and_pocket_by_its_folder(run, tmp_path, monkeypatch):
    for module in ("exports", "built_in"):
        where = exports if module == "exports" else sys.modules["lora_lab.models.built_in"]
        monkeypatch.setattr(where, "prepared_folder", lambda name: Path(run.base_place))
    for name, named in (
        ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("pocket", run.base_place),
    ):
        built_in = replace(run, base_name=name, _base=None, _base_path="")
        made = lab.export(built_in, tmp_path / name)
        assert config_of(tmp_path / name)["base_model_name_or_path"] == named == made.base
    card = ModelCard.load(tmp_path / "smollm2" / "README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert BUILT_IN["smollm2"].beside_hub in card.text
    assert ModelCard.load(tmp_path / "pocket" / "README.md").data.base_model is None


def test_a_saved_adapter_names_smollm2_as_the_hub_does(run, tmp_path):
    learned = run.learned
    learned.config.base_model_name_or_path = "smollm2"
    lab.save_adapter(run, tmp_path / "a")
    named = config_of(tmp_path / "a")["base_model_name_or_path"]
    assert named == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert learned.config.base_model_name_or_path == "smollm2"  # what is exported is a copy


def test_what_smollm2_says_of_its_4_bit_values_is_what_its_file_holds():
    """The error of rounding to steps of size d, with each place in a step as likely: d / √12."""
    gguf = pytest.importorskip("gguf")
    try:
        (file,) = downloads.prepared("smollm2").glob("*.gguf")
    except FileNotFoundError:
        pytest.skip("smollm2 is not prepared: run `lora-lab prepare`")
    kinds, error, size = {}, 0.0, 0.0
    for tensor in gguf.GGUFReader(file).tensors:
        kind = tensor.tensor_type.name
        kinds[kind] = kinds.get(kind, 0) + int(tensor.n_elements)
        if kind == "Q4_1":  # a block: its step and its least value in float16, 32 codes of 4 bits
            blocks = np.asarray(tensor.data).reshape(-1, 20)
            steps = blocks[:, :2].copy().view(np.float16).astype(np.float64)
            error += 32 * (steps**2 / 12).sum()
            weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            size += (weights.astype(np.float64) ** 2).sum()
    words = BUILT_IN["smollm2"].beside_hub
    assert f"{kinds['Q4_1'] / 1e6:.0f} M of its {sum(kinds.values()) / 1e6:.1f} M" in words
    assert f"{100 * (error / size) ** 0.5:.1f} % of their size" in words
    assert set(kinds) == {"Q4_1", "Q8_0", "F32"}  # the embedding's are the 8 bits
    assert kinds["Q8_0"] == 49152 * 576


def test_the_tokenizer_and_its_chat_template_are_in_the_folder(run, tmp_path):
    from transformers import AutoTokenizer

    lab.export(run, tmp_path / "a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert tokenizer.chat_template == run.tokenizer.chat_template
    assert tokenizer.get_vocab() == run.tokenizer.get_vocab()


def test_a_padding_token_that_is_the_end_is_noted_save_in_an_export_of_ours(run, tmp_path):
    from transformers import AutoTokenizer

    lab.export(run, tmp_path / "a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    tokenizer.pad_token = tokenizer.eos_token  # as smollm2's is, by its publisher
    tokenizer.save_pretrained(tmp_path / "a")
    noted = f"pad_token is the eos_token {tokenizer.eos_token!r}"
    assert noted not in [found.what for found in check_adapter(tmp_path / "a")]
    (tmp_path / "a" / "README.md").write_text("---\ntags:\n- lora\n---\n\n- lora-lab\n")
    assert noted in [found.what for found in check_adapter(tmp_path / "a")]


def test_a_base_without_a_chat_template_is_asked_with_a_line_break(run, tmp_path):
    tokenizer = run.tokenizer
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    run.base.model.save_pretrained(tmp_path / "bare")
    lab.export(run, tmp_path / "a", base=str(tmp_path / "bare"))
    page = (tmp_path / "a" / "README.md").read_text()
    assert 'tokenizer(f"{question}\\n"' in page
    assert "apply_chat_template" not in page


def test_a_quantised_base_is_loaded_as_it_was_trained_on(place, tmp_path):
    made = lab.export(trained(place, quantize="nf4"), tmp_path / "a")
    assert made.quantization == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "float32",
    }
    own = lab.load_base(place / "tiny", quantize="fp4")  # the base itself, and not the recipe
    run = lab.fit(own, letters_task(), recipe(), store=tmp_path / "store")
    for one in (run, replace(run, _base=None)):
        assert exports._quantization(one)["bnb_4bit_quant_type"] == "fp4"
    assert made.dtype == "float32"
    assert exports._quantization(trained(place)) is None


def test_only_what_a_base_needs_is_copied_with_it(run, place, tmp_path):
    shutil.copytree(place / "tiny", tmp_path / "mine")
    for name in ("notes.md", "optimizer.pt", "asset.json"):
        (tmp_path / "mine" / name).write_text("{}")
    (tmp_path / "mine" / ".git").mkdir()
    lab.export(run, tmp_path / "a", base=str(tmp_path / "mine"), with_base=True)
    copied = {path.name for path in (tmp_path / "a" / "base").iterdir()}
    assert copied == {path.name for path in (place / "tiny").iterdir()}


# --- merged -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_merged_weights_are_rounded_once_and_the_rounding_is_told(run, dtype, digits):
    before = {name: weight.clone() for name, weight in run.base.model.state_dict().items()}
    made = merge(run.base, run.learned, getattr(torch, dtype))
    for name, weight in run.base.model.state_dict().items():
        assert torch.equal(weight, before[name])
    config, tensors = run.learned.config, run.learned.tensors
    change = error = 0.0
    for key in tensors:
        if "lora_A" in key:
            name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            pair = tensors[key.replace("lora_A", "lora_B")].double() @ tensors[key].double()
            delta = pair * config.lora_alpha / config.r
            merged = made.model.get_parameter(name)
            exact = before[name].double() + delta
            change += delta.square().sum()
            error += (merged.double() - exact).square().sum()
            assert merged.dtype == getattr(torch, dtype)
            assert ((merged.double() - exact).abs() <= exact.abs() * 2.0**-digits + 1e-6).all()
    assert made.rounding == pytest.approx(((error / change) ** 0.5).item(), rel=1e-2)


def test_an_adapter_on_tied_weights_changes_only_its_own_layer(place):
    run = trained(place, target_modules=("lm_head",))
    model = merge(run.base, run.learned, torch.bfloat16).model
    embedding = run.base.model.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, embedding.bfloat16())
    assert not torch.equal(model.get_output_embeddings().weight, embedding.bfloat16())
    assert not model.config.tie_word_embeddings
    untouched = trained(place)
    model = merge(untouched.base, untouched.learned, torch.bfloat16).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings


def test_weights_too_large_for_float16_are_refused(run):
    huge = replace(run.learned, tensors={k: 3e3 * v for k, v in run.learned.tensors.items()})
    with pytest.raises(ValueError, match=r"too large for float16 .* give bfloat16"):
        merge(run.base, huge, torch.float16)
    merge(run.base, huge, torch.bfloat16)


def test_a_change_of_nothing_loses_nothing(run):
    still = {
        name: 0 * tensor if "lora_B" in name else tensor
        for name, tensor in run.learned.tensors.items()
    }
    assert merge(run.base, replace(run.learned, tensors=still), torch.bfloat16).rounding == 0


# --- the card -----------------------------------------------------------------------------------


def test_the_card_has_the_hubs_metadata_and_the_scores(run, tmp_path):
    lab.export(run, tmp_path / "mine", base=HUB, task=letters_task())
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.base_model == HUB
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "text-generation"
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results == {name: round(value, 4) for name, value in run.scores.metrics.items()}
    right, count = sum(answer.right for answer in run.scores.answers), len(run.scores.answers)
    low, high = wilson(right, count)
    share, interval = f"{100 * right / count:.0f} %", f"{100 * low:.0f} to {100 * high:.0f} %"
    assert f"| exact match | - | {share} | {interval} | {count} |" in card.text
    assert "24 examples to train, 8 to validate, 16 to test." in card.text
    assert "| `r` | `3` |" in card.text
    assert "| scaling: the factor really applied | 2.33 |" in card.text
    assert "`init_r`" not in card.text  # AdaLoRA's
    assert run.about in card.text
    lab.export(run, tmp_path / "merged", merge=True)
    assert ModelCard.load(tmp_path / "merged" / "README.md").data.library_name == "transformers"


def test_the_card_shows_the_base_beside_the_run_and_what_was_forgotten(run, tmp_path):
    before = replace(
        run.scores, metrics={"exact match": 0.125, "perplexity": 91.0}, old_knowledge=1.0
    )
    after = replace(run, scores=replace(run.scores, old_knowledge=0.5))
    task = letters_task()
    task = replace(task, old_knowledge=task.train)
    lab.export(after, tmp_path / "a", task=task, before=before)
    page = (tmp_path / "a" / "README.md").read_text()
    assert "| exact match | 12 % |" in page
    assert "| old facts kept | 100 % | 50 % | 31 to 69 % | 24 |" in page
    assert "was not asked again" not in page
    lab.export(run, tmp_path / "b")
    assert (
        "What the base could do before was not asked again."
        in (tmp_path / "b/README.md").read_text()
    )


def test_where_the_task_has_groups_card_and_report_have_the_intervals_of_evaluate(run, tmp_path):
    task = letters_task()
    groups = {example.prompt: str(n % 3) for n, example in enumerate(task.test)}
    grouped = replace(task, groups=groups)
    low, high = intervals_of(run.scores, grouped)["exact match"]
    by_group = f"{100 * low:.0f} to {100 * high:.0f} %"
    low, high = wilson(sum(answer.right for answer in run.scores.answers), len(task.test))
    by_row = f"{100 * low:.0f} to {100 * high:.0f} %"
    assert by_group != by_row
    changed = replace(grouped, test=task.test[1:])  # so nobody knows the groups of what was asked
    given = {"grouped": grouped, "rows": task, "none": None, "changed": changed}
    for name, of in given.items():
        lab.export(run, tmp_path / name, task=of)
        page = (tmp_path / name / "README.md").read_text()
        (row,) = re.findall(r"\| exact match \|.+", page)
        report = report_of_run(run, of, "about", None)
        for text in (row, report.partition("## The data")[0]):
            assert (by_group in text) == (name == "grouped")
            assert (by_row in text) == (name != "grouped")
        for text in (page, report):
            assert ("of 3 groups are worth fewer" in text) == (name == "grouped")
            assert ("is not known any more" in text) == (name in ("none", "changed"))
        assert ("for questions that are independent" in page) == (name != "grouped")


def test_a_metric_that_is_no_share_of_right_answers_gets_no_interval(run, tmp_path):
    scores = replace(
        run.scores, metric_name="field F1", metrics={"field F1": 0.777, "perplexity": 3.0}
    )
    lab.export(replace(run, scores=scores), tmp_path / "a")
    page = (tmp_path / "a" / "README.md").read_text()
    assert "| field F1 | - | 78 % | - | 16 |" in page
    assert "| perplexity | - | 3 | - | 16 |" in page


def test_the_card_says_what_is_missing(run, tmp_path):
    bare = replace(run, scores=None, status="diverged", message="the loss was NaN at step 3")
    lab.export(bare, tmp_path / "a")
    page = (tmp_path / "a" / "README.md").read_text()
    assert "It was not scored." in page
    assert "(diverged): the loss was NaN at step 3" in page
    assert "The data were not at hand" in page
    changed = replace(letters_task(), test=letters_task().test[:-1])
    lab.export(run, tmp_path / "b", task=changed)
    assert "The data have changed since it was scored." in (tmp_path / "b/README.md").read_text()
    lab.export(run, tmp_path / "c", task=letters_task())
    assert "changed since" not in (tmp_path / "c/README.md").read_text()


def test_the_card_hides_hints_of_personal_data_in_what_it_says_of_the_data(run, tmp_path):
    about = "labels: ask eve.smith@shop.io or call +44 20 7946 0958"
    private = replace(run, task_name="eve.smith@shop.io.csv", about=about)
    lab.export(private, tmp_path / "a", task=replace(letters_task(), about=about))
    lab.export(private, tmp_path / "b")
    for name in "ab":
        page = (tmp_path / name / "README.md").read_text()
        assert "eve.smith" not in page
        assert "7946" not in page
        assert "[e-mail]" in page


def test_names_can_not_break_the_card(run, tmp_path):
    odd = replace(run, task_name='a "b" `c`\n---\n# d: {e}.csv')
    lab.export(odd, tmp_path / "a")
    card = ModelCard.load(tmp_path / "a" / "README.md")
    assert card.data.eval_results[0].dataset_name == odd.task_name
    assert [line for line in card.text.splitlines() if line.startswith("# ")] == [
        f'# a "b" `c` --- # d: {{e}}.csv on {run.base_name}'
    ]


# --- what is refused ----------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_words_and_nothing_is_written(run, place, tmp_path):
    full = trained(place, method="full")
    for subject, options, words in (
        (full, {"merge": True}, r"merge does not fit method='full'"),
        (full, {"with_base": True}, r"with_base does not fit a model export"),
        (run, {"merge": True, "with_base": True}, r"with_base does not fit a merged export"),
        (run, {"merge": True, "dtype": "float32"}, r"'float32' is not of 16 bits; give bfloat16"),
        (run, {"base": "not here"}, r"'not here' is neither a folder here nor an id of the hub"),
    ):
        with pytest.raises(ValueError, match=words):
            lab.export(subject, tmp_path / "a", **options)
        assert not (tmp_path / "a").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        lab.export(run, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_run_whose_base_is_gone_asks_for_it(run, place, tmp_path):
    gone = replace(run, _base=None, _base_path=str(tmp_path / "gone"))
    with pytest.raises(
        FileNotFoundError, match=r"the base was in .*gone, and is not there any more; .*--base"
    ):
        lab.export(gone, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    lab.export(gone, tmp_path / "a", base=str(place / "tiny"))
    assert config_of(tmp_path / "a")["base_model_name_or_path"] == str(place / "tiny")
    merged = lab.export(gone, tmp_path / "b", base=str(place / "tiny"), merge=True)
    assert merged.kind == "merged"
