import dataclasses
import json

import pytest

from lora_lab.findings.claim_runs import Setting, scores_of, try_settings
from lora_lab.findings.recordings import kept_scores
from lora_lab.models.adapted import load_adapter
from lora_lab.models.bases import load_base
from lora_lab.models.learned import save_adapter
from lora_lab.recipe import Recipe
from lora_lab.tasks.changing_facts import changed_facts
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate, generate
from lora_lab.training.fit import fit

SEED = 1
RECIPE = Recipe(r=4, learning_rate=5e-3, batch_size=10, steps=40, max_length=96)


@pytest.fixture(scope="module")
def base():
    return load_base("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def task():
    task = load_task("new-facts", n=20, seed=SEED)
    return dataclasses.replace(task, old_knowledge=(), strangers=())


@pytest.fixture(scope="module")
def changed(task):
    return changed_facts(task, 8, seed=SEED)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def adapter(base, task, store):
    return fit(base, task, dataclasses.replace(RECIPE, seed=SEED), store=store)


@pytest.fixture
def tried(base, task, store):
    """What one way scores when 8 of the 20 facts change, unless it is said how many."""

    def try_way(way, changed=8):
        setting = Setting(base="pocket", recipe=RECIPE, task="new-facts", way=way, changed=changed)
        (trial,) = try_settings(base, task, {"it": setting}, SEED, store=store)
        assert (trial.setting, trial.seed) == ("it", SEED)
        return trial.scores

    return try_way


def right(model, examples):
    """The share of right answers, counted here."""
    given = generate(model, [example.prompt for example in examples])
    return sum(a == b.answer for a, b in zip(given, examples, strict=True)) / len(examples)


def test_a_stale_adapter_is_marked_by_what_is_true_after_the_change(tried, adapter, task, changed):
    assert right(adapter, task.test) >= 0.7  # it did learn
    assert tried("stale")["value"] == right(adapter, changed.task.test)
    assert tried("stale")["value"] <= 0.6  # 12 of 20 are as they were


def test_with_an_edited_prompt_the_base_and_the_stale_adapter_read_the_notes(
    tried, base, adapter, changed
):
    assert tried("noted")["value"] == right(base, changed.noted.test)
    assert tried("noted")["value"] >= 0.9
    assert tried("stale, noted")["value"] == right(adapter, changed.noted.test)


def test_trained_again_it_learns_the_facts_as_they_are_now(tried, base, changed, adapter):
    again = fit(base, changed.task, adapter.recipe, store=None)
    assert tried("again") == scores_of(again)


def test_a_switched_adapter_answers_as_it_does_alone_and_is_not_loaded_again(tried):
    switched = tried("switch", changed=20)  # no answer is the same before and after
    assert switched["alike"] == 1
    assert 0 < switched["seconds"] < tried("load")["seconds"]


def test_half_the_strength_answers_as_an_adapter_whose_config_says_half_of_alpha(
    tried, base, task, adapter, tmp_path
):
    config = save_adapter(adapter, tmp_path / "halved") / "adapter_config.json"
    halved = json.loads(config.read_text()) | {"lora_alpha": RECIPE.lora_alpha / 2}
    config.write_text(json.dumps(halved))
    expected = kept_scores(evaluate(load_adapter(base, config.parent), task))
    assert tried("half strength", changed=None) == pytest.approx(expected)
    assert expected["loss"] != pytest.approx(adapter.scores.loss, rel=0.01)


def test_plain_fits_and_other_ways_are_told_in_the_order_of_the_settings(base, task, store):
    plain = Setting(base="pocket", recipe=RECIPE, task="new-facts")
    noted = dataclasses.replace(plain, way="noted", changed=8)
    trials = try_settings(base, task, {"noted": noted, "plain": plain}, SEED, store=store)
    assert [trial.setting for trial in trials] == ["noted", "plain"]
    assert trials[1].scores == scores_of(
        fit(base, task, dataclasses.replace(RECIPE, seed=SEED), store=store)
    )
