"""What notebook 01 shows as recorded: by the settings that were committed, and nobody's text."""

import dataclasses
import tomllib

import pytest

import lora_lab as lab
from lora_lab.findings.recordings import recorded_names, recording
from lora_lab.lessons.approaches import (
    Tried,
    recorded_approaches,
    recorded_curves,
    retrieved,
    try_approach,
)
from lora_lab.models.built_in import list_bases
from lora_lab.places import data_folder

WANTED = tomllib.loads((data_folder() / "recorded/approaches.toml").read_text(encoding="utf-8"))
NAMES = [name for name in recorded_names() if name.startswith("approaches/")]


@pytest.mark.parametrize("name", NAMES)
def test_a_record_was_made_with_the_settings_that_were_committed(name):
    table, _, seed = name.removeprefix("approaches/").rpartition("-")
    assert recording(name).settings == WANTED[table]
    assert int(seed) in WANTED[table]["seeds"]


def test_every_way_was_asked_all_questions_with_every_seed():
    tried = recorded_approaches("home-commands")
    assert {len(results) for results in tried.values()} == {len(next(iter(tried.values())))}
    assert {len(one.right) for results in tried.values() for one in results} == {60}
    assert [*tried][:4] == ["bare", "zero-shot", "few-shot", "retrieval"]
    assert all(isinstance(one, Tried) for results in tried.values() for one in results)


def test_the_recorded_adapter_is_the_tasks_own_recipe():
    for name in NAMES:
        for row in recording(name).rows:
            if row.get("approach") != "LoRA":
                continue
            seed = int(name.rpartition("-")[2])
            recipe = lab.Recipe(**row["recipe"])
            task = lab.load_task("home-commands")
            assert recipe == dataclasses.replace(task.recipe, steps=50, seed=seed)
            assert len(row["losses"]) == recipe.steps


def test_the_curves_have_every_task_and_size():
    curves = recorded_curves()
    assert [*curves] == WANTED["curves"]["tasks"]
    assert all([*scores] == WANTED["curves"]["n"] for scores in curves.values())
    assert all(
        0 <= one <= 1 for scores in curves.values() for each in scores.values() for one in each
    )


def test_what_was_not_recorded_is_told_with_what_makes_it():
    with pytest.raises(ValueError, match="`make recorded` measures what is missing"):
        recorded_approaches("nothing")


@pytest.mark.slow
def test_a_way_asked_again_is_right_where_it_was():
    if not any(one.name == "smollm2" and one.prepared for one in list_bases()):
        pytest.skip("smollm2 is not prepared: run `lora-lab prepare`")
    base = lab.load_base("smollm2", device="cpu", dtype="float32")
    task = lab.load_task("home-commands", base)
    few = task.test[:8]
    near = retrieved(base.tokenizer, task, WANTED["home-commands"]["shots"])
    again = try_approach("", base, task, [near(one.prompt) for one in few], examples=few)
    before = recorded_approaches("home-commands")["retrieval"][0].right[:8]
    differ = sum(a != b for a, b in zip(again.right, before, strict=True))
    assert differ <= 1  # another processor may tip one
