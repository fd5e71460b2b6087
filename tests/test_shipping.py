"""Adapters shipped: against PEFT's own switch, batch and merge, and numbers worked out by hand."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import lora_lab as lab
from lora_lab.findings.recordings import recording
from lora_lab.lessons import shipping
from lora_lab.models.adapted import load_adapter
from lora_lab.tasks.examples import Example
from tiny import letters_task, recipe, tiny_base

TASK = replace(letters_task(), old_knowledge=(Example("ab", "B"), Example("ba", "C")))
TASKS = {"one": TASK, "two": replace(TASK, name="two", train=TASK.train[8:])}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    made = tiny_base()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return lab.load_base(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    for seed, (name, task) in enumerate(TASKS.items()):
        trained = shipping.run_through(lab.train(base, task, recipe(seed=seed)))
        lab.save_adapter(trained, place / name)
    return {name: place / name for name in TASKS}


def test_a_fleet_is_one_base_with_its_adapters_or_as_many_bases():
    one = shipping.fleet("llama-3.1-8b", r=16, customers=40)
    assert (one.base, one.adapter) == (2 * 8_030_261_248, 2 * 41_943_040)  # as PEFT counts
    assert one.apart == one.base + 40 * one.adapter
    assert one.merged == 40 * one.base


def test_a_saved_adapter_loads_into_plain_peft_without_any_difference(base, folders):
    trained = load_adapter(base, folders["one"])
    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype="float32")
    model = PeftModel.from_pretrained(plain, folders["one"]).eval()
    assert shipping.loaded_difference(base, trained.model, model, TASK) == 0
    other = PeftModel.from_pretrained(model.unload(), folders["two"]).eval()
    assert shipping.loaded_difference(base, trained.model, other, TASK) > 1e-3


def test_a_batch_is_padded_on_the_left_and_holds_each_prompt(base):
    batch = shipping.batch_of(base, ["a", "abc"])
    assert batch["attention_mask"].tolist()[0][:2] == [0, 0]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 6]  # user, space, letters, assistant
    assert batch["input_ids"].shape == (2, 6)


def test_switching_and_reading_are_timed(base, folders):
    table = shipping.switch_times(base, folders)
    assert [*table.index][0] == "switch to an adapter that is loaded"
    assert all(float(cell.replace(",", "")) > 0 for cell in table["milliseconds"])


def test_a_step_takes_its_middle_time():
    waits = iter((0.0, 0.05, 0.0))
    assert shipping.milliseconds(lambda: shipping.time.sleep(next(waits)), repeats=3) < 40


def test_merged_in_float32_only_last_digits_differ_and_in_bfloat16_more(base, folders):
    merges = shipping.merged_and_beside(base, folders["one"], TASK)
    beside, merged, rounded = merges.differences.values()
    assert beside == 0 < merged < 1e-4 < rounded < 1
    assert [*merges.table().index] == [*merges.times] == [*merges.scores]
    assert base.model.model.layers[0].mlp.up_proj.__class__.__name__ == "Linear"  # left alone


def test_a_sum_is_what_peft_makes_and_answers_as_both_changes_together(base, folders):
    made = shipping.combine(base, folders, TASKS, ways={"sum": ((1.0, 1.0), "cat")})
    model = load_adapter(base, folders["one"], name="one").load(folders["two"], "two").model
    both = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            changes = [layer.get_delta_weight(adapter) for adapter in TASKS]
            both[name.removeprefix("base_model.model.")] = sum(changes)
    own = AutoModelForCausalLM.from_pretrained(base.path, dtype="float32")
    with torch.no_grad():
        for name, change in both.items():
            own.get_submodule(name).weight += change
    wanted = lab.evaluate(replace(base, model=own), TASK)
    assert made.scores["sum"]["one"].loss == pytest.approx(wanted.loss, rel=1e-4)
    assert [*made.scores] == ["one alone", "two alone", "sum"]


def test_a_table_of_combined_has_each_task_and_what_was_kept(base, folders):
    made = shipping.combine(base, folders, TASKS, ways={"half": ((0.5, 0.5), "cat")})
    rows = made.rows()
    assert rows["half"]["one"] == made.right("half", "one") == made.scores["half"]["one"].value
    assert rows["half"]["old facts kept"] == made.scores["half"]["one"].old_knowledge
    assert made.shares()["two"]["half"] == made.right("half", "two")
    assert [*made.table().columns] == ["one", "two", "old facts kept"]
    assert "half" in repr(made)
    assert "<table" in made._repr_html_()


def test_one_training_on_both_has_a_row_of_its_own(base, folders):
    both = shipping.run_through(lab.train(base, shipping.both_tasks(TASKS), recipe(steps=3)))
    made = shipping.combine(base, folders, TASKS, both, ways={})
    loss = lab.evaluate(both, TASK).loss
    assert made.scores["one adapter trained on both"]["one"].loss == pytest.approx(loss, rel=1e-5)


def test_both_tasks_come_about_equally_often():
    few = replace(TASK, train=TASK.train[:5])
    together = shipping.both_tasks({"many": TASK, "few": few}).train
    assert len(together) == 24 + 4 * 5
    assert together.count(TASK.train[0]) == 5
    assert together.count(TASK.train[20]) == 1


def test_a_server_that_ignores_rslora_takes_another_factor_and_alpha_mends_it(base, tmp_path):
    few = replace(TASK, train=TASK.train[:8], test=TASK.train[:8])
    stable = recipe(r=4, lora_alpha=2, use_rslora=True, steps=120, learning_rate=1e-2)
    folder = lab.save_adapter(shipping.run_through(lab.train(base, few, stable)), tmp_path / "rs")
    table = shipping.served(base, folder, few)
    assert table["factor"].tolist() == ["1", "1", "0.5", "1"]  # 2 / √4, and 2 / 4
    right = table["right answers"]
    assert right.iloc[0] == right.iloc[3] != right.iloc[1]
    assert json.loads((folder / "adapter_config.json").read_text())["use_rslora"]  # not written to


def test_two_in_one_trains_and_asks_with_its_seed():
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    short = replace(shipping.RECIPE, steps=2)
    one, other = (shipping.two_in_one(base, seed, short) for seed in (0, 1))
    assert [*one.scores] == [
        "style alone",
        "facts alone",
        *shipping.ADDED,
        "one adapter trained on both",
    ]
    way = "one adapter trained on both"
    assert one.scores[way]["facts"].loss != other.scores[way]["facts"].loss


def test_the_recording_has_each_way_for_each_seed_and_none_beside():
    kept = recording("shipping/two-in-one")
    rows = kept.table()
    assert sorted({*rows.seed}) == kept.settings["seeds"]
    assert len(rows) == len(kept.settings["seeds"]) * (len(shipping.ADDED) + 3)
