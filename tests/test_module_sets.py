"""Sets of modules drawn: what they learn, a hunt, a model's tree; and the recorded tables."""

import itertools
import tomllib

import pytest
from matplotlib.figure import Figure

import lora_lab as lab
from lora_lab import plots
from lora_lab.cost.estimates import find_shape
from lora_lab.findings.recordings import recording
from lora_lab.models.architecture import layer_of
from lora_lab.places import data_folder

TOML = data_folder() / "recorded" / "target_modules.toml"


def axes():
    return Figure().subplots()


def test_a_set_has_a_mark_at_its_mean_and_a_line_over_its_interval_for_each_task():
    scores = {
        "facts": {"q": [0.2, 0.4], "all": [1.0, 1.0]},
        "JSON": {"q": [0.5, 0.6], "all": [0, 0]},
    }
    ax = plots.draw_sets(axes(), "Which?", scores)
    marks = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert marks == pytest.approx([30, 100, 55, 0])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["q", "all"]
    assert ax.get_title(loc="right") == "2 seeds"
    assert "q, facts: 30 % (" in ax.get_label()
    assert "all, JSON: 0 % (" in ax.get_label()


def test_a_hunt_has_a_row_for_each_training_and_frames_the_secret():
    left = {("q", "k"): 0.8, ("k",): 0.25}
    ax = plots.draw_hunt(axes(), ("q", "k", "v"), left, ("k",))
    bars = [bar for bar in ax.patches if bar.get_height() == pytest.approx(0.5)]
    assert [bar.get_width() for bar in bars] == pytest.approx([4, 1.25])
    assert "q, k: 80 %; k: 25 %" in ax.get_label()
    assert ax.get_label().endswith("The change is in k.")
    framed = len(ax.patches)
    assert len(plots.draw_hunt(axes(), ("q", "k", "v"), left).patches) == framed - 1


def test_a_tree_draws_each_matrix_to_scale_and_a_and_b_where_there_is_an_adapter():
    inside = [
        matrix for matrix in find_shape("pocket").matrices if layer_of(matrix.name) is not None
    ]
    (down,) = (matrix for matrix in inside if matrix.name == "model.layers.1.mlp.down_proj")
    ax = plots.draw_module_tree(axes(), "pocket", inside, {down.name}, 16)
    sizes = [(round(bar.get_width()), round(bar.get_height())) for bar in ax.patches]
    assert len(sizes) == 28 + 2
    assert sizes.count((384, 128)) == 4
    assert sizes.count((128, 384)) == 8
    assert (16, 128) in sizes  # B
    assert (384, 16) in sizes  # A
    assert ax.get_label() == (
        "1 of the 28 matrices in pocket's 4 layers get an adapter of rank 16: down_proj."
    )


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
