"""The learning curves of lesson 01 are recorded by the settings that were committed."""

import tomllib

import pytest

from lora_lab.findings.recordings import recorded_names, recording
from lora_lab.lessons.approaches import recorded_curves
from lora_lab.places import data_folder

WANTED = tomllib.loads((data_folder() / "recorded/approaches.toml").read_text(encoding="utf-8"))
NAMES = [name for name in recorded_names() if name.startswith("approaches/")]


@pytest.mark.parametrize("name", NAMES)
def test_a_record_was_made_with_the_settings_that_were_committed(name):
    table, _, seed = name.removeprefix("approaches/").rpartition("-")
    assert recording(name).settings == WANTED[table]
    assert int(seed) in WANTED[table]["seeds"]


def test_the_curves_have_every_task_and_size():
    curves = recorded_curves()
    assert [*curves] == WANTED["curves"]["tasks"]
    assert all([*scores] == WANTED["curves"]["n"] for scores in curves.values())
    assert all(
        0 <= one <= 1 for scores in curves.values() for each in scores.values() for one in each
    )
