"""Early stopping: beside transformers' callback, the weights that are kept, and all the engines."""

import dataclasses
import hashlib
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

import lora_lab as lab
from lora_lab import __version__
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Example
from lora_lab.training.early_stopping import Validations, has_ended, kept_step
from lora_lab.training.evaluation import mean_loss
from lora_lab.training.fit import fit
from lora_lab.training.loop import train
from lora_lab.training.packing import train_packed
from lora_lab.training.script import to_code
from lora_lab.training.store import identity, read_run
from lora_lab.training.sweep import sweep
from lora_lab.widgets.live_lab import LiveLab
from test_contract import FIELDS
from tiny import letters_task, recipe, tiny_base

# What is learnt from wrong answers makes the right ones ever less likely: the validation loss falls
# while the model learns the form of an answer, and then rises.
WRONG = [
    Example(one.prompt, "ABCDEFGH"[5 * place % 7]) for place, one in enumerate(letters_task().train)
]
TASK = dataclasses.replace(letters_task(), train=WRONG)
STOPPED = {"steps": 60, "eval_steps": 4, "patience": 2, "learning_rate": 5e-2}


@pytest.fixture
def base():
    return tiny_base()


def validated(*losses):
    """Records whose every second step is validated."""
    every = [loss for own in losses for loss in (None, own)]
    return [StepRecord(n + 1, 1.0, 0.1, 1.0, 7, loss) for n, loss in enumerate(every)]


# --- transformers' callback ---------------------------------------------------------------------


class Remembering:
    """What `Trainer._determine_best_metric` needs of a Trainer."""

    def __init__(self, arguments, state):
        self.args, self.state = arguments, state


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return TrainingArguments(
        output_dir=tmp_path_factory.mktemp("trainer"),
        eval_strategy="steps",
        save_strategy="steps",
        metric_for_best_model="eval_loss",
        load_best_model_at_end=True,
        use_cpu=True,
    )


def stopped_by_transformers(losses, patience, arguments):
    """How many validations there were, and which one was the best (from 1; 0: none)."""
    state, control, best = TrainerState(), TrainerControl(), 0
    callback = EarlyStoppingCallback(early_stopping_patience=patience)
    for count, loss in enumerate(losses, 1):
        metrics = {"eval_loss": loss}
        callback.on_evaluate(arguments, state, control, metrics)
        if Trainer._determine_best_metric(Remembering(arguments, state), metrics, None):
            best = count
        if control.should_training_stop:
            return count, best
    return None, best


few_values = st.sampled_from([0.5, 0.7, 0.9, 1.1, math.inf, math.nan])  # so that many are equal


@given(st.lists(few_values | st.floats(0, 10), min_size=1, max_size=12), st.integers(1, 4))
def test_training_stops_where_transformers_would_and_keeps_the_same_best(
    arguments, losses, patience
):
    stop, best = stopped_by_transformers(losses, patience, arguments)
    made = Recipe(steps=1000, eval_steps=2, patience=patience)
    records = validated(*losses)
    ends = [count for count in range(1, len(records) + 1) if has_ended(records[:count], made)]
    assert ends[:1] == ([] if stop is None else [2 * stop])
    seen = records[: ends[0]] if ends else records
    kept = kept_step(seen, made)
    assert kept.step == (2 * best if best else len(seen))


def test_without_a_patience_all_steps_are_trained_and_the_last_is_kept():
    records = validated(1.0, 2.0, 3.0)
    assert not has_ended(records, Recipe(steps=7, eval_steps=2))
    assert has_ended(records, Recipe(steps=6, eval_steps=2))
    assert kept_step(records, Recipe(steps=6, eval_steps=2)).step == 6
    assert kept_step([], Recipe()) is None


# --- the recipe ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patience": 3}, r"and eval_steps=None makes none; give for example eval_steps=5"),
        ({"patience": -1, "eval_steps": 2}, r"patience=-1 is not a number of validations"),
        ({"patience": 1.5, "eval_steps": 2}, r"patience=1.5 is not a whole number"),
        ({"patience": True, "eval_steps": 2}, r"patience=True is not a whole number"),
        ({"patience": 2, "eval_steps": 2, "method": "adalora"}, r"before its ranks are decided"),
    ],
)
def test_a_patience_that_can_not_work_is_refused(changes, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Recipe(**changes)


def test_a_patience_of_0_is_none_at_all():
    assert Recipe(patience=0) == Recipe()


def test_runs_from_before_there_was_a_patience_stay_the_same_runs(base, tmp_path):
    before = {name: getattr(Recipe(), name) for name in FIELDS if name != "patience"}
    parts = json.dumps(before, sort_keys=True), base.fingerprint(), TASK.fingerprint(), __version__
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    assert identity(base, TASK, Recipe()) == identity(base, TASK, Recipe(patience=0)) == digest
    run = fit(base, TASK, recipe(steps=2), store=tmp_path)
    assert "patience" not in json.loads((run.path / "run.json").read_text())["recipe"]
    others = [Recipe(eval_steps=5, patience=patience) for patience in (None, 1, 2)]
    assert len({identity(base, TASK, other) for other in others}) == 3


def test_a_patience_without_an_example_to_validate_is_refused_before_training(base):
    empty = dataclasses.replace(TASK, validation=[])
    with pytest.raises(ValueError, match=r"'letters' has no validation example of at most max_le"):
        train(base, empty, recipe(**STOPPED))
    train(base, empty, recipe(steps=2))


def test_a_script_says_that_it_measures_no_validation_loss(base):
    with pytest.raises(ValueError, match=r"patience=2 stops at a validation loss, and the script"):
        to_code(recipe(**STOPPED), base, TASK)


# --- the weights that are kept ------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"method": "full", "learning_rate": 3e-2}], ids=str)
def test_a_run_that_stops_early_keeps_the_weights_of_its_best_validation(base, changes):
    made = recipe(**STOPPED | changes)
    training = train(base, TASK, made)
    records = list(training)
    best = Validations(records).best
    assert len(records) < made.steps
    assert len(records) == best.step + made.patience * made.eval_steps
    assert training.ended
    assert list(training) == []
    again = train(base, TASK, dataclasses.replace(made, patience=None))
    weights = {record.step: again._weights() for record in again}
    assert records == again.records[: len(records)]
    for name, kept in training._trainable.items():
        assert torch.equal(kept, weights[best.step][name]), name
        assert not torch.equal(kept, weights[len(records)][name]), name
    measured = mean_loss(training.model, base.tokenizer, TASK.validation)
    assert measured == best.validation_loss


def test_a_run_that_trains_all_its_steps_keeps_the_best_as_well(base):
    made = recipe(**STOPPED | {"patience": 50})
    run = fit(base, TASK, made, store=None)
    assert len(run.records) == made.steps
    assert run.kept_step == Validations(run.records).best != run.records[-1]
    validated = mean_loss(run.model, base.tokenizer, TASK.validation)
    assert validated == run.kept_step.validation_loss


def test_a_stopped_run_is_replayed_as_it_was_and_is_no_damaged_one(base, tmp_path):
    run = fit(base, TASK, recipe(**STOPPED), store=tmp_path)
    again = fit(base, TASK, recipe(**STOPPED), store=tmp_path)
    assert again.replayed
    assert (again.records, again.scores) == (run.records, run.scores)
    lines = (run.path / "records.jsonl").read_text().splitlines(keepends=True)
    (run.path / "records.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=f"holds {len(lines) - 1} of 60 steps"):
        read_run(run.path)


@pytest.mark.parametrize("stop", [5, 23, 24, 25, 28, 29, 31, 32])
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_records_and_weights(base, stop):
    made = recipe(**STOPPED)
    whole = train(base, TASK, made)
    list(whole)
    first = train(base, TASK, made)
    for record in first:
        if record.step == stop:
            break
    again = train(base, TASK, made)
    again.restore(first.checkpoint())
    list(again)
    assert again.records == whole.records
    for name, tensor in whole._trainable.items():
        assert torch.equal(again._trainable[name], tensor), name


# --- engines ------------------------------------------------------------------------------------


def test_every_engine_stops_at_the_same_step_with_the_same_weights(base, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")
    made = [recipe(**STOPPED | {"seed": seed}) for seed in (0, 1)]
    alone = [fit(base, TASK, one, store=None) for one in made]
    assert len({len(run.records) for run in alone} - {60}) >= 1
    side = sweep(base, TASK, made[:1], seeds=(0, 1), engine="processes", store=tmp_path).runs
    assert [run.records for run in side] == [run.records for run in alone]
    for run, own in zip(side, alone, strict=True):
        for name, tensor in own.learned.tensors.items():
            assert torch.equal(run.learned.tensors[name], tensor), name


def test_a_pack_lets_a_run_go_when_its_patience_ends_and_trains_the_others_on(base, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")
    made = [recipe(**STOPPED), recipe(steps=60, seed=1), recipe(**STOPPED | {"seed": 2, "r": 2})]
    runs = {
        one: news
        for one, news in train_packed(base, TASK, made, store=None)
        if not isinstance(news, StepRecord)
    }
    assert len(runs[made[1]].records) == 60
    for one in (made[0], made[2]):  # rounding alone may move the step at which it ends
        records, kept = runs[one].records, runs[one].kept_step
        assert has_ended(records, one)
        assert len(records) == kept.step + one.patience * one.eval_steps < 60
        validated = mean_loss(runs[one].model, base.tokenizer, TASK.validation)
        assert validated == pytest.approx(kept.validation_loss, rel=1e-5)


def test_traced_steps_stop_as_torchs_do(monkeypatch):
    pytest.importorskip("onnxruntime")
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    task = lab.load_task("sentiment", base, n=64)
    made = dataclasses.replace(
        task.recipe, steps=40, eval_steps=2, patience=2, learning_rate=1e-2, warmup_steps=0
    )
    ends = {}
    for step in ("torch", "traced"):
        monkeypatch.setenv("LORA_LAB_STEP", step)
        run = fit(base, task, made, store=None, evaluate=False)
        assert ("traced" in run.about) == (step == "traced")
        ends[step] = len(run.records), run.kept_step.step
        assert len(run.records) < 40
    assert ends["torch"] == ends["traced"]


def test_the_live_lab_counts_an_early_stop_as_finished(base):
    live = LiveLab(base, TASK, **STOPPED)
    assert live.recipe.patience == STOPPED["patience"]
    result = live.train()
    done = len(result.records)
    assert done < 60
    assert live.state.value.startswith(f"finished: {done} steps of 60, stopped early by patience, ")
    assert result.scores == fit(base, live.part, live.recipe, store=None).scores
