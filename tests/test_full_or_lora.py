"""Full fine-tuning beside LoRA: equal new facts, directions, costs, and their pictures."""

import dataclasses

import pytest
import torch
from matplotlib.figure import Figure

import lora_lab as lab
from lora_lab.lessons import full_or_lora
from lora_lab.lessons.full_or_lora import (
    Sides,
    cost_table,
    keeps_more,
    kept_at_equal,
    kept_table,
    teams_table,
    turned_down_table,
)
from lora_lab.maths.intruders import intruder_dimensions
from lora_lab.plots import draw_directions, draw_frontier
from lora_lab.recipe import Recipe
from tiny import letters_task, tiny_base

PATH = [(0.2, 1.0), (0.6, 0.8), (1.0, 0.4)]
PATHS = {  # by way and rate: two seeds
    "full": {"1e-4": [(0.5, 1.0), (0.7, 1.0)], "1e-3": [(1.0, 0.8), (1.0, 0.7)]},
    "LoRA r 4": {"1e-3": [(0.5, 0.9), (0.6, 0.8)], "1e-2": [(1.0, 0.5), (1.0, 0.4)]},
    "attention r 10": {"1e-3": [(0.5, 0.9), (0.6, 0.8)], "1e-2": [(0.9, 0.5), (0.7, 0.4)]},
}


@pytest.fixture
def ax():
    return Figure().subplots()


# --- at equal new facts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "old"), [(0.2, 1.0), (0.4, 0.9), (0.6, 0.8), (0.8, 0.6), (0.1, None), (1.1, None)]
)
def test_what_is_kept_lies_on_the_line_between_two_rates(new, old):
    assert kept_at_equal(PATH, new) == (old if old is None else pytest.approx(old))


def test_the_first_crossing_counts_where_a_path_turns_back():
    assert kept_at_equal([(0.5, 0.8), (0.9, 0.4), (0.6, 0.1)], 0.7) == pytest.approx(0.6)
    assert kept_at_equal([(0.9, 0.4), (0.6, 0.1)], 0.75) == pytest.approx(0.25)
    assert kept_at_equal([(0.9, 0.4), (0.9, 0.1)], 0.9) is None


def test_the_table_compares_by_seed_and_says_who_never_got_there():
    table = kept_table(PATHS, 0.8)
    kept = table["old facts kept at 80 % new"]
    assert kept["full"].startswith("89 % (")  # (1 - .2 × .6 = .88) and (1 - .3 / 3 = .9)
    assert kept["LoRA r 4"].startswith("63 % (")  # .66 and .6
    assert kept["attention r 10"] == "1 seed of 2 got there"
    assert table["beside full"]["attention r 10"] == "not compared"
    assert "not settled" in table["beside full"]["LoRA r 4"], "two seeds settle nothing"
    assert keeps_more(PATHS, 0.8) == ["full", "full"]
    assert keeps_more(PATHS, 0.8, b="attention r 10") == ["full"]


def test_the_teams_table_has_the_settings_of_each_team_in_percent():
    found = {"one": lab.evidence("full-or-lora-facts"), "two": lab.evidence("full-or-lora-rates")}
    table = teams_table(found)
    assert [*table.index] == [
        (team, name) for team, evidence in found.items() for name in evidence.runs
    ]
    row = table.loc[("two", "full, 5e-4")]
    runs = found["two"].runs["full, 5e-4"]
    new, old = (
        100 * sum(getattr(run.scores, share) for run in runs) / len(runs)
        for share in ("value", "old_knowledge")
    )
    assert float(row["new facts right, %"]) == pytest.approx(new, abs=0.05)
    assert float(row["old facts kept, %"]) == pytest.approx(old, abs=0.05)
    assert row["seeds"] == len(runs)


def test_the_frontier_has_the_ways_of_its_plan_in_the_order_of_their_rates():
    paths = full_or_lora.frontier()
    for way, by_rate in paths.items():
        rates = [*map(float, by_rate)]
        assert rates == sorted(rates), way
        assert all(
            0 <= share <= 1 for seeds in by_rate.values() for pair in seeds for share in pair
        )


def test_the_recipes_that_are_shown_are_those_of_the_frontiers_plan():
    chosen = lab.evidence(full_or_lora.FRONTIER).plan
    for setting, recipe in {
        "full, 4e-4": full_or_lora.WAYS["full"],
        "LoRA r 4, 3e-3": full_or_lora.WAYS["LoRA, r 4"],
        "LoRA r 64, 3e-3": full_or_lora.WAYS["LoRA, r 64"],
    }.items():
        (rate,) = chosen.choices(setting)
        assert dataclasses.replace(chosen.recipe(setting, rate, 0), eval_steps=None) == recipe


# --- what each writes ---------------------------------------------------------------------------

SHORT = {"steps": 4, "batch_size": 4, "learning_rate": 0.05, "max_length": 32}
WAYS = {"full": Recipe(method="full", **SHORT), "LoRA": Recipe(r=2, **SHORT)}


@pytest.fixture(scope="module")
def sides():
    base, task = tiny_base(), letters_task()
    return Sides(base, dataclasses.replace(task, old_knowledge=task.test), WAYS)


def test_each_way_is_trained_once_and_the_base_stays_as_it_was(sides):
    before = {name: tensor.clone() for name, tensor in sides.base.model.state_dict().items()}
    assert sides.adapted("full") is sides.adapted("full") is sides.adapted("full", 0)
    assert sides.changes("full") is sides.changes("full", seed=0)
    assert sides.adapted("LoRA", 1) is not sides.adapted("LoRA")
    torch.testing.assert_close(sides.base.model.state_dict(), before, rtol=0, atol=0)


def test_directions_and_intruders_are_those_of_the_change(sides):
    name, change = next(iter(sides.changes("full").items()))
    weight = sides.base.model.get_submodule(name).weight.detach()
    trained = sides.adapted("full").model.get_submodule(name).weight
    torch.testing.assert_close(weight + change, trained)
    rows, new = sides.directions("full", name, top_k=3)
    assert rows.shape == (3, min(weight.shape))
    assert new == intruder_dimensions(weight, change, 3).tolist()
    total = sum(len(sides.directions("full", change)[1]) for change in sides.changes("full"))
    assert sides.intruders("full") == total
    table = sides.table()
    assert [*table.index] == ["full", "LoRA"]
    assert table.iloc[0, 3] == str(total)


def test_turned_down_to_1_is_as_trained_and_to_0_all_of_it_is_gone(sides):
    scored = sides.turned_down("LoRA", shares=(1, 0.5, 0), seeds=(0, 1))
    assert len(scored) == 2 * 2 * 3
    one = scored[scored.share == 1].set_index(["what", "seed"])[["new", "old"]]
    assert (one.loc["intruders"] == one.loc["all of ΔW"]).all(axis=None)
    nothing = scored[(scored.share == 0) & (scored.what == "all of ΔW")]
    asked = sides._asked
    assert (nothing.new == lab.evaluate(sides.base, asked).value).all()
    assert sides.adapted("LoRA").strength == 1
    table = turned_down_table(scored)
    assert table.shape == (6, 2)
    assert [*table.index.get_level_values(0)] == ["all of ΔW"] * 3 + ["intruders"] * 3


def test_shrunk_intruders_leave_the_rest_of_the_change(sides):
    shrunk = sides._shrunk("LoRA", 0, 0.5)
    for name, change in sides.changes("LoRA").items():
        weight = sides.base.model.get_submodule(name).weight.detach()
        places = intruder_dimensions(weight, change, full_or_lora.TOP)
        U, S, Vh = torch.linalg.svd(weight + change, full_matrices=False)
        wanted = weight + change - 0.5 * (U[:, places] * S[places]) @ Vh[places]
        torch.testing.assert_close(
            shrunk.model.get_submodule(name).weight, wanted, atol=1e-4, rtol=0
        )


# --- what each costs ----------------------------------------------------------------------------


def test_the_costs_are_the_estimates_and_the_bytes_on_disk_the_trained_numbers():
    sizes = {"r": 16, "batch_size": 4, "max_length": 512}
    table = cost_table("llama-7b", **sizes)
    whole = lab.estimate("llama-7b", Recipe(method="full", **sizes))
    thin = lab.estimate("llama-7b", Recipe(**sizes))
    assert table["full"]["memory at the peak, GiB"] == f"{whole.usual_memory.total / 2**30:,.0f}"
    assert float(table["LoRA"]["memory at the peak, GiB"]) == pytest.approx(
        thin.trainer_memory.total / 2**30, rel=0.01
    )
    assert table["full"]["on disk for a task, MB"] == f"{2 * 6_738_415_616 / 1e6:,.0f}"
    assert table["LoRA"]["on disk for a task, MB"] == f"{4 * thin.trainable_parameters / 1e6:,.0f}"
    assert table["full"]["adapters, GiB"] == "–"


# --- pictures -----------------------------------------------------------------------------------


def test_the_frontier_has_a_point_for_each_rate_at_the_mean_of_the_seeds(ax):
    draw_frontier(ax, "Which?", PATHS, 0.8)
    (full,) = [line for line in ax.lines if line.get_label() == "full"]
    assert full.get_xdata().tolist() == pytest.approx([100, 75])  # old facts
    assert full.get_ydata().tolist() == pytest.approx([60, 100])  # new facts
    assert "full, rate 1e-4: new 60 %, old 100 %, rate 1e-3: new 100 %, old 75 %" in ax.get_label()
    assert any(set(line.get_ydata()) == {80} for line in ax.lines), "a line where they are compared"
    assert "2 seeds" in ax.get_title(loc="right")


def test_a_frontier_without_runs_is_drawn_empty_and_says_so(ax, recwarn):
    draw_frontier(ax, "Which?", {})
    assert "not measured yet" in ax.get_title(loc="right")
    assert not recwarn.list


def test_a_direction_that_is_new_is_named_in_its_row(ax):
    draw_directions(ax, "Which?", [[0.9, 0.1, 0.2], [0.3, 0.2, 0.4]], [1])
    (word,) = ax.texts
    assert (word.get_text(), word.xy[1]) == ("new", 2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2"]
    assert "1: 0.90, 2: 0.40. Resemble none: 2." in ax.get_label()
    assert ax.images[0].get_array().tolist() == [[0.9, 0.1, 0.2], [0.3, 0.2, 0.4]]
