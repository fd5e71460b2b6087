"""Sets of modules drawn side by side, and the recorded table that they come from."""

import itertools
import tomllib

import pandas as pd
import pytest
from matplotlib.figure import Figure

import lora_lab as lab
from lora_lab import plots
from lora_lab.findings.recordings import recording
from lora_lab.places import data_folder
from lora_lab.widgets.module_sets import ModuleSets

TOML = data_folder() / "recorded" / "target_modules.toml"
TABLE = pd.DataFrame(
    [
        {"setting": setting, "trained": trained, "value": value, "old_knowledge": value / 2}
        for setting, trained, values in (("q, r 2", 10, (0.2, 0.4)), ("q, r 4", 20, (0.6, 0.8)))
        for value in values
    ]
)
COMPARISONS = {"equal r": {"q": "q, r 2"}, "equal parameters": {"q": "q, r 4"}}


def test_a_set_is_a_bar_to_its_mean_with_a_dot_for_each_seed():
    new, old = {"q": [0.2, 0.4], "all": [1.0, 1.0]}, {"q": [0.5, 0.6], "all": [0.1, 0.3]}
    ax = plots.draw_sets(Figure().subplots(), new, {"q": 10, "all": 2000}, old, "equal r")
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([30, 100])
    dots = [round(share) for line in ax.lines for share in line.get_xdata()]
    assert dots == [20, 40, 50, 60, 100, 100, 10, 30]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["q\n10", "all\n2,000"]
    assert "at equal r" in ax.get_title(loc="left")
    assert "q 30 % (10 parameters); all 100 % (2,000 parameters)" in ax.get_label()


def test_the_toggle_draws_the_settings_of_its_comparison():
    sets = ModuleSets(TABLE, COMPARISONS)
    assert "at equal r, as a mean of 2 seeds: q 30 % (10 parameters)" in sets.picture.alt
    before = sets.view.value
    sets.compared.value = "equal parameters"
    assert "at equal parameters, as a mean of 2 seeds: q 70 % (20 parameters)" in sets.picture.alt
    assert sets.view.value != before
    assert sets._repr_mimebundle_()[0]["text/plain"] == "ModuleSets: equal r, equal parameters"


# --- what was recorded --------------------------------------------------------------------------


def test_every_setting_was_tried_at_every_rate_and_seed_and_asked_at_the_best_validation_loss():
    made = recording("target_modules/facts")
    table = made.table()
    wanted = tomllib.loads(TOML.read_text(encoding="utf-8"))["facts"]
    assert made.settings == wanted
    tried = table.groupby("setting")[["learning_rate", "seed"]].apply(
        lambda own: {*zip(own.learning_rate, own.seed, strict=True)}
    )
    rates = set(itertools.product(wanted["learning_rates"], wanted["seeds"]))
    assert tried.to_dict() == dict.fromkeys(wanted["settings"], rates)
    for _, own in table.groupby("setting"):
        losses = own.groupby("learning_rate").validation_loss.mean()
        asked = own.dropna(subset="value")
        assert set(asked.learning_rate) == {losses.idxmin()}
        assert sorted(asked.seed) == wanted["seeds"]


def test_the_recorded_counts_are_those_of_the_budget():
    made = recording("target_modules/facts")
    table = made.table()
    for setting, changes in made.settings["settings"].items():
        trained = lab.estimate("pocket", lab.Recipe(**changes)).trainable_parameters
        assert set(table[table.setting == setting].trained) == {trained}


def test_each_kind_of_module_had_a_change_planted_and_its_map_told():
    made = recording("target_modules/planted")
    table = made.table()
    wanted = tomllib.loads(TOML.read_text(encoding="utf-8"))["planted"]
    assert made.settings == wanted
    kinds = [place.rpartition(".")[2] for place in table.planted]
    assert kinds == [kind for kind in wanted["modules"] for _ in wanted["seeds"]]
    for row in table.itertuples():
        assert len(row.changes) == 28
        assert row.planted in row.changes
        assert 0 < row.student < row.base
