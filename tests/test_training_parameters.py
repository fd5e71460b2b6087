"""What lesson 10's evidence shows of data/recorded/: of the settings written down."""

import tomllib

import pytest

from lora_lab.findings.recordings import recipes_of, recording
from lora_lab.places import data_folder

FOLDER = data_folder() / "recorded"
WANTED = tomllib.loads((FOLDER / "training_parameters.toml").read_text(encoding="utf-8"))
MADE = sorted(path.stem for path in (FOLDER / "training_parameters").glob("*.json"))


@pytest.mark.parametrize("name", WANTED)
def test_every_setting_is_a_recipe_at_every_learning_rate(name):
    wanted = WANTED[name]
    assert len({*recipes_of(wanted)}) == len(wanted["settings"]) * len(wanted["learning_rates"])


@pytest.mark.parametrize("name", ["batch", "batch-full"])
def test_batches_are_compared_at_equal_examples_and_at_equal_steps(name):
    pairs = {(setting["batch_size"], setting["steps"]) for setting in WANTED[name]["settings"]}
    sizes = {size for size, _ in pairs}
    assert pairs == {(size, 960 // size) for size in sizes} | {(size, 60) for size in sizes}


@pytest.mark.parametrize("name", MADE)
def test_a_recording_holds_every_run_that_was_written_down_and_none_beside_them(name):
    made, wanted = recording(f"training_parameters/{name}"), WANTED[name]
    assert made.settings == wanted
    varying = {field for setting in wanted["settings"] for field in setting} | {"learning_rate"}
    expected = [
        {field: getattr(recipe, field) for field in varying} | {"seed": seed}
        for recipe in recipes_of(wanted)
        for seed in wanted["seeds"]
    ]
    assert [{field: row[field] for field in expected[0]} for row in made.rows] == expected
