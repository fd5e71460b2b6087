"""Lesson 08's recordings are of the settings that were committed, and read as these say."""

import tomllib

import pytest

from lora_lab.findings.recordings import recording
from lora_lab.places import data_folder

WANTED = tomllib.loads((data_folder() / "recorded" / "adalora.toml").read_text(encoding="utf-8"))
COMPARED = ("facts", "uneven")


@pytest.mark.parametrize("name", WANTED)
def test_each_is_recorded_with_the_settings_that_were_committed(name):
    assert recording(f"adalora/{name}").settings == WANTED[name]


@pytest.mark.parametrize("name", COMPARED)
def test_every_setting_was_tried_at_its_rates_and_tested_at_the_best_validation_loss(name):
    wanted, table = WANTED[name], recording(f"adalora/{name}").table()
    trained = table[table.setting.isin(wanted["settings"])]
    assert set(trained.status) == {"finished"}
    for setting, own in trained.groupby("setting"):
        tried = own.groupby("learning_rate").seed.apply(list).to_dict()
        rates = wanted["settings"][setting]["learning_rates"]
        assert tried == dict.fromkeys(rates, wanted["seeds"])
        best = own.groupby("learning_rate").validation_loss.mean().idxmin()
        assert set(own.dropna(subset="value").learning_rate) == {best}
        if setting in wanted["cut"]:
            cut = table[table.setting == f"{setting}, cut to {wanted['cut'][setting]}"]
            assert cut.learning_rate.tolist() == [best] * 3
            assert cut.value.notna().all()
    assert {*table.setting} == {*wanted["settings"]} | {
        f"{setting}, cut to {k}" for setting, k in wanted["cut"].items()
    }


@pytest.mark.parametrize("name", COMPARED)
def test_adalora_ends_with_its_budget_and_lora_has_no_ranks_to_tell(name):
    for row in recording(f"adalora/{name}").rows:
        target = WANTED[name]["settings"].get(row["setting"], {}).get("target_r")
        assert (row["ranks"] and sum(row["ranks"].values())) == (target and 28 * target)


def test_each_teacher_hides_what_the_settings_say_and_28_triplets_are_shared_out():
    rows = recording("adalora/planted").rows
    wanted = WANTED["planted"]
    assert [(row["teacher"], row["seed"]) for row in rows] == [
        (teacher, seed) for teacher in wanted["teachers"] for seed in wanted["seeds"]
    ]
    hidden = {"one": [6], "uneven": [2, 2, 6, 6, 6, 6], "q and k": [4] * 8, "everywhere": [1] * 28}
    for row in rows:
        assert sorted(row["planted"].values()) == hidden[row["teacher"]]
        assert sum(row["ranks"].values()) == 28
        assert {*row["planted"]} <= {*row["ranks"]}
        assert row["student"] < row["base"]
    both = {n for row in rows if row["teacher"] == "q and k" for n in row["planted"]}
    assert {name.rpartition(".")[2] for name in both} == {"q_proj", "k_proj"}
