"""What the end of a training would bring to light is refused before its first step."""

import dataclasses

import pytest
import torch
from loky import get_reusable_executor
from transformers import GPT2Config, GPT2LMHeadModel

from lora_lab.models.adapters import adapt, check_trainable
from lora_lab.models.bases import quantized_base
from lora_lab.models.quantization import Quantization
from lora_lab.tasks.examples import Example
from lora_lab.training import sweep as sweeps
from lora_lab.training.evaluation import METRICS, evaluate
from lora_lab.training.fit import fit
from lora_lab.training.loop import Training
from lora_lab.training.processes import follow_in_processes
from lora_lab.training.sweep import sweep
from tiny import letters_task, recipe, tiny_base

LONG = Example("x" * 300, "X")  # tiny's context has 256 tokens
TOO_LONG = "more than the 256 tokens of the model's context; shorten the prompt"
LONG_ANSWER = Example("x", "X" * 250)
BAD_TASKS = {
    "test": ({"test": [*letters_task().test, LONG]}, TOO_LONG),
    "answer": ({"test": [LONG_ANSWER]}, "an answer of up to 254 are more than the 256 tokens"),
    "old knowledge": ({"old_knowledge": [LONG]}, TOO_LONG),
    "strangers": ({"strangers": [LONG]}, TOO_LONG),
    "no test": ({"test": []}, "has no test examples; give another split"),
    "metric": ({"metric": "acuracy"}, "'acuracy', which is not known; did you mean 'accuracy'"),
}


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def no_step(monkeypatch):
    """A step is never taken, and no worker started."""

    def stop(*_, **__):
        raise AssertionError("it was begun")

    monkeypatch.setattr(Training, "_one_step", stop)
    monkeypatch.setattr(sweeps, "follow_in_processes", stop)


# --- tasks that can't be evaluated ---------------------------------------------------------------


@pytest.mark.parametrize(("changes", "words"), BAD_TASKS.values(), ids=BAD_TASKS)
def test_a_task_that_could_not_be_evaluated_is_refused_before_the_first_step(
    base, changes, words, no_step, tmp_path
):
    task = dataclasses.replace(letters_task(), **changes)
    with pytest.raises(ValueError, match=words):  # the words are those of evaluate
        evaluate(base, task)
    for store in (None, tmp_path):
        with pytest.raises(ValueError, match=words):
            fit(base, task, recipe(), store=store)
        for engine in ("sequential", "processes"):
            with pytest.raises(ValueError, match=words):
                sweep(base, task, [recipe()], engine=engine, store=store)
    assert list(tmp_path.iterdir()) == []


def test_training_afresh_what_is_refused_leaves_the_stored_run(base, tmp_path):
    task = dataclasses.replace(letters_task(), test=[LONG])
    stored = fit(base, task, recipe(steps=2), store=tmp_path, evaluate=False)
    with pytest.raises(ValueError, match=TOO_LONG):
        fit(base, task, recipe(steps=2), store=tmp_path, fresh=True)
    kept = fit(base, task, recipe(steps=2), store=tmp_path, evaluate=False)
    assert kept.replayed
    assert kept.records == stored.records


@pytest.mark.parametrize("changes", [one for one, _ in BAD_TASKS.values()], ids=BAD_TASKS)
def test_a_task_that_is_not_evaluated_is_trained_all_the_same(base, changes):
    task = dataclasses.replace(letters_task(), **changes)
    assert len(fit(base, task, recipe(steps=2), store=None, evaluate=False).records) == 2


def test_a_worker_refuses_before_the_first_step_too(base, tmp_path):
    task = dataclasses.replace(letters_task(), test=[LONG])
    options = {"store": tmp_path, "fresh": False, "evaluate": True}
    with pytest.raises(ValueError, match=TOO_LONG):
        list(follow_in_processes(base, task, [recipe(steps=100_000)], **options))
    get_reusable_executor().shutdown(wait=True, kill_workers=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_that_is_known_can_mark(base, metric):
    assert evaluate(base, dataclasses.replace(letters_task(), metric=metric)).metric_name == metric


# --- recipes whose result could not be kept ------------------------------------------------------


def with_conv1d():
    base = tiny_base()
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=64, n_layer=1, n_head=4)).eval()
    return dataclasses.replace(base, name="gpt2", model=model)


EMBEDDING = "can't start the embedding 'model.embed_tokens'"
BAD_RECIPES = [
    *(
        ({"init_lora_weights": init, **changes}, words)
        for init in ("pissa", "pissa_niter_4", "olora")
        for changes, words in [
            ({"r": 17}, "r=17 directions .* no more than 16; give r=16 at most"),
            ({"r": 33, "target_modules": ("q_proj",)}, "q_proj' has no more than 32; give r=32"),
            ({"target_modules": ("embed_tokens",)}, EMBEDDING),
            ({"target_modules": ("q_proj", "embed_tokens"), "r": 100}, EMBEDDING),
            ({"target_modules": ".*(embed_tokens|q_proj)"}, EMBEDDING),
        ]
    ),
]


@pytest.mark.parametrize(("changes", "words"), BAD_RECIPES, ids=str)
def test_a_start_out_of_the_bases_weights_that_could_not_be_kept_is_refused(
    base, changes, words, no_step
):
    wrong = recipe(**changes)
    for refused in (
        lambda: adapt(base, wrong),
        lambda: check_trainable(base, wrong),
        lambda: fit(base, letters_task(), wrong, store=None),
        lambda: sweep(base, letters_task(), [recipe(), wrong], engine="sequential", store=None),
        lambda: sweep(base, letters_task(), [recipe(), wrong], engine="processes", store=None),
    ):
        with pytest.raises(ValueError, match=words):
            refused()


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_the_widest_start_that_a_layer_has_is_trained_kept_and_evaluated(base, init):
    run = fit(base, letters_task(), recipe(r=16, init_lora_weights=init, steps=3), store=None)
    assert run.scores.loss > 0


def test_olora_is_refused_on_a_conv1d_whose_weight_peft_takes_for_the_transposed_one():
    base = with_conv1d()
    for targets in ("all-linear", ("c_attn",), r".*attn\.c_proj"):  # the last one is square
        with pytest.raises(ValueError, match=r"a Conv1D: PEFT .* give 'pissa'"):
            adapt(base, recipe(init_lora_weights="olora", target_modules=targets))
    ids = torch.arange(8)[None]
    started = adapt(base, recipe(init_lora_weights="pissa", target_modules="all-linear")).eval()
    with torch.no_grad():
        torch.testing.assert_close(started(ids).logits, base.model(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_an_orthogonal_start_is_refused_on_quantised_weights(quantize):
    wide = tiny_base(hidden=64)
    for base, how in (
        (wide, recipe(r=4, init_lora_weights="orthogonal", quantize=quantize)),
        (quantized_base(wide, Quantization(quantize)), recipe(r=4, init_lora_weights="orthogonal")),
    ):
        with pytest.raises(ValueError, match=f"'orthogonal' can't start on {quantize} weights"):
            adapt(base, how)


def test_one_bad_recipe_among_many_is_refused_before_any_is_trained(base, no_step):
    many = [recipe(r=1), recipe(r=2), recipe(target_modules=("q_porj",))]
    with pytest.raises(ValueError, match="did you mean 'q_proj'"):
        sweep(base, letters_task(), many, engine="sequential", store=None)
