"""Evidence on ways to ask a base, beside trained settings: chosen on validation, tested once."""

import dataclasses
import statistics

import pytest

import lora_lab as lab
from lora_lab.findings import plans
from lora_lab.findings.evidence import FINAL, TUNING, Evidence, read_rows
from lora_lab.findings.evidence_runs import best_choice, make_missing, missing_runs
from lora_lab.findings.plans import plan
from lora_lab.tasks.examples import prompt_ids
from lora_lab.tasks.prompting import few_shot, retrieved
from lora_lab.training.evaluation import mean_loss

PLAN = """
question = "Does LoRA read an invoice better than a prompt?"
base = "pocket"
task = "json"
n = 12
learning_rates = [3e-3]
tuning_seeds = [100]
seeds = [0, 1]
against = "retrieval"
main = "LoRA"
common = { steps = 2, batch_size = 4, max_length = 96 }

[settings]
"instruction" = { way = "instruction", tries = ["As JSON.", "Write the invoice as JSON."] }
"few-shot" = { way = "few-shot", tries = [1, 2] }
"retrieval" = { way = "retrieval", tries = [2] }
"LoRA" = { r = 2 }
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The plan, with all its runs made."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "data_folder", lambda: folder)
        (folder / "evidence").mkdir()
        (folder / "evidence" / "ways.toml").write_text(PLAN)
        plans._read.cache_clear()
        chosen = plan("ways")
        first = missing_runs(chosen, ())
        [*make_missing(chosen)]
        yield chosen, first, read_rows(chosen)
        plans._read.cache_clear()


@pytest.fixture(scope="module")
def base():
    return lab.load_base("pocket", device="cpu", dtype="float32")


def test_only_what_has_a_choice_is_tuned_first(finished):
    _, first, _ = finished
    assert {(run.stage, run.setting, run.choice) for run in first} == {
        (TUNING, "instruction", 1),
        (TUNING, "instruction", 2),
        (TUNING, "few-shot", 1),
        (TUNING, "few-shot", 2),
    }


def test_a_number_of_examples_is_chosen_by_the_loss_on_validation(finished, base):
    chosen, _, rows = finished
    task = lab.load_task("json", base, n=12, seed=100)
    losses = {}
    for count in (1, 2):
        written = few_shot(base.tokenizer, task, count)
        prompted = [
            dataclasses.replace(example, prompt=written(example.prompt))
            for example in task.validation
        ]
        losses[count] = mean_loss(base.model, base.tokenizer, prompted)
    tuning = [row for row in rows if (row.setting, row.stage) == ("few-shot", TUNING)]
    kept = {row.tried: row.validation_loss for row in tuning}
    assert kept == pytest.approx(losses, rel=1e-5)
    assert best_choice(chosen, rows, "few-shot") == min(losses, key=losses.__getitem__)


def test_a_way_is_tested_as_its_prompts_are_answered_without_training(finished, base):
    _, _, rows = finished
    (row,) = (row for row in rows if (row.setting, row.stage, row.seed) == ("retrieval", FINAL, 1))
    task = lab.load_task("json", base, n=12, seed=1)
    written = retrieved(base.tokenizer, task, 2)
    prompted = [
        dataclasses.replace(example, prompt=written(example.prompt)) for example in task.test
    ]
    scores = lab.evaluate(base, dataclasses.replace(task, test=prompted))
    lengths = [len(prompt_ids(base.tokenizer, example.prompt)) for example in prompted]
    assert (row.value, row.old_knowledge) == pytest.approx((scores.value, scores.old_knowledge))
    assert row.prompt_tokens == pytest.approx(statistics.fmean(lengths))
    assert (row.learning_rate, row.train_loss, row.tried) == (None, None, 2)


def test_an_adapters_prompt_is_the_bare_question(finished, base):
    _, _, rows = finished
    (row,) = (row for row in rows if (row.setting, row.stage, row.seed) == ("LoRA", FINAL, 0))
    test = lab.load_task("json", base, n=12, seed=0).test
    lengths = [len(prompt_ids(base.tokenizer, example.prompt)) for example in test]
    assert row.prompt_tokens == pytest.approx(statistics.fmean(lengths))
    assert (row.learning_rate, row.tried) == (3e-3, None)


def test_the_table_names_what_was_chosen_in_each_way(finished):
    chosen, _, rows = finished
    table = Evidence(chosen, rows).table().set_index("setting")
    assert table.loc["retrieval", "chosen"] == "2 examples"
    assert table.loc["LoRA", "chosen"] == "rate 0.003"
    assert table.loc["instruction", "chosen"].startswith("instruction ")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('way = "retrieval"', 'way = "retrival"', "did you mean 'retrieval'"),
        ("tries = [2]", "tries = [0]", "numbers of worked examples, 1 or more"),
        ("tries = [2]", 'tries = ["two"]', "numbers of worked examples, 1 or more"),
        ("tries = [2]", "r = 3, tries = [2]", "trains nothing, and gives 'r'"),
        ("tries = [1, 2]", "tries = []", "can't be tried"),
        ('"As JSON."', "3", "give a list of texts"),
    ],
)
def test_a_way_that_can_not_be_tried_is_refused(tmp_path, monkeypatch, old, new, said):
    monkeypatch.setattr(plans, "data_folder", lambda: tmp_path)
    (tmp_path / "evidence").mkdir()
    assert PLAN.count(old) == 1
    (tmp_path / "evidence" / "ways.toml").write_text(PLAN.replace(old, new))
    plans._read.cache_clear()
    with pytest.raises(ValueError, match=said):
        plan("ways")
    plans._read.cache_clear()
