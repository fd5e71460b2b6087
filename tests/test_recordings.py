"""Measurements kept in data/recorded/: read as they were made, and asked for by name."""

import re
from importlib.metadata import version

import pytest

from lora_lab.findings.recordings import keep_recording, recorded_names, recording


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_lab.findings.recordings.data_folder", lambda: tmp_path)
    (tmp_path / "recorded").mkdir()
    for settings in ("rank.toml", "target_modules.toml"):
        (tmp_path / "recorded" / settings).touch()
    return tmp_path / "recorded"


def test_what_is_kept_is_read_as_it_was_made_with_place_and_date(folder):
    rows = [{"r": 1, "value": 0.5}, {"r": 2, "value": None}]
    keep_recording(folder / "rank/tiny.json", {"n": 2}, iter(rows), "some CPU")
    made = recording("rank/tiny")
    assert (made.settings, [*made.rows], made.device) == ({"n": 2}, rows, "some CPU")
    assert made.versions["torch"] == version("torch")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made.date)
    assert made.table().r.tolist() == [1, 2]


def test_a_measurement_that_breaks_off_leaves_nothing_behind(folder):
    def rows():
        yield {"r": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_recording(folder / "rank/tiny.json", {}, rows(), "some CPU")
    assert recorded_names() == ()


def test_a_misspelt_recording_is_refused_with_the_nearest(folder):
    keep_recording(folder / "target_modules/facts.json", {}, [], "some CPU")
    with pytest.raises(ValueError, match="did you mean 'target_modules/facts'"):
        recording("target_modules/fact")


@pytest.mark.parametrize("name", recorded_names())
def test_each_recording_of_the_course_can_be_read_and_is_not_empty(name):
    made = recording(name)
    assert made.rows
    assert made.settings
    assert made.device
