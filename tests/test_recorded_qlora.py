"""What lesson 09's evidence reads as recorded: by the settings that were committed, all of it."""

import tomllib

import pytest

from lora_lab.cost.memory import ERROR
from lora_lab.findings.recordings import recorded_names, recording
from lora_lab.places import data_folder

WANTED = tomllib.loads((data_folder() / "recorded/qlora.toml").read_text(encoding="utf-8"))
NAMES = [name for name in recorded_names() if name.startswith("qlora/")]


@pytest.mark.parametrize("name", NAMES)
def test_a_record_was_made_with_the_settings_that_were_committed(name):
    assert recording(name).settings == WANTED[name.removeprefix("qlora/")]


def test_all_that_was_asked_for_is_there():
    assert sorted(f"qlora/{name}" for name in WANTED) == NAMES


def test_what_a_step_holds_is_what_was_told_give_or_take_the_promised_error():
    rows, wanted = recording("qlora/memory").rows, WANTED["memory"]
    assert [(row["kind"], row["recipe"]) for row in rows] == [
        (kind, changes) for kind in wanted["kinds"] for changes in wanted["recipes"]
    ]
    for row in rows:
        assert row["estimated"]["total"] == pytest.approx(row["measured"]["total"], rel=ERROR)


def test_every_kind_took_the_same_batches_in_turn():
    table = recording("qlora/speed").table()
    for _, steps in table.groupby(["batch_size", "step"]):
        assert steps.kind.tolist() == WANTED["speed"]["kinds"]
        assert steps.tokens.nunique() == 1
    assert len(table) == 2 * 4 * 5
    assert (table.seconds > 0).all()


def test_every_type_rounded_every_kind_of_weights():
    table = recording("qlora/weights").table()
    assert set(WANTED["weights"]["quant_types"]) == set(table.quant_type.dropna())
    assert table.groupby("quant_type").size().eq(4).all()
    assert table["most values in 32"].max() <= 16  # Q4_1
