"""The numbers of a surface, and their picture."""

import io
import math
import statistics

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy import stats

from lora_lab.plots import axes_for, cell_in_words, draw_surface, picture, surface_size
from lora_lab.records import Scores, StepRecord
from lora_lab.training.run_files import DIVERGED
from lora_lab.training.store import Run
from lora_lab.training.surface import Cell, Surface, surface_of
from tiny import recipe


def surface(scores, *, measure="exact match", seeds=5, **changes):
    """A surface of r × learning_rate, whole unless said otherwise."""
    cells = {place: Cell(dict(enumerate(numbers)), 0, 1.0) for place, numbers in scores.items()}
    options = {"x": "r", "y": "learning_rate", "cells": cells, "seeds": seeds, "measure": measure}
    return Surface(**options | changes)


def spread(mean, seed=0, count=5, width=0.02):
    return (mean + np.random.default_rng(seed).normal(0, width, count)).tolist()


FOUR = {
    (1, 1e-3): spread(0.2, 1), (1, 1e-2): spread(0.5, 2),
    (4, 1e-3): spread(0.9, 3), (4, 1e-2): spread(0.3, 4),
}  # fmt: skip


# --- numbers --------------------------------------------------------------------------------


def test_the_ridge_is_the_best_of_each_column_and_the_best_is_the_best_of_all():
    found = surface(FOUR)
    assert found.ridge == {1: 1e-2, 4: 1e-3}
    assert found.best == (4, 1e-3)
    losses = surface(FOUR, measure="validation loss")
    assert losses.ridge == {1: 1e-3, 4: 1e-2}
    assert losses.best == (1, 1e-3)


@pytest.mark.parametrize("measure", ["exact match", "loss"])
def test_the_plateau_leaves_out_what_a_paired_t_test_finds_below_the_best(measure):
    rng = np.random.default_rng(7)
    common = rng.normal(0, 0.1, 6)  # what a seed does to all cells: pairing takes it out
    cells = {
        (r, rate): (0.5 + 0.01 * r + common + rng.normal(0, 0.02, 6)).tolist()
        for r in (0, 2, 4, 6)
        for rate in (1e-3, 1e-2)
    }
    found = surface(cells, measure=measure, seeds=6)
    side = "greater" if measure == "exact match" else "less"
    tests = {
        place: stats.ttest_rel(cells[found.best], numbers, alternative=side).pvalue
        for place, numbers in cells.items()
        if place != found.best
    }
    alike = {place for place, p in tests.items() if p >= 0.05 / 7}
    assert found.plateau == alike | {found.best}
    assert 1 < len(found.plateau) < 8


def test_of_two_settings_one_test_at_5_percent_decides():
    gains = [-0.003, 0.007, 0.017, 0.027, 0.037]  # t = 2.40: p = 0.037
    assert 0.03 < stats.ttest_1samp(gains, 0, alternative="greater").pvalue < 0.05
    cells = {(1, 1): [0.5 + gain for gain in gains], (2, 1): [0.5] * 5}
    assert surface(cells).plateau == {(1, 1)}


def test_the_plateau_holds_the_truly_best_setting_in_95_of_100_surfaces():
    rng, kept = np.random.default_rng(0), 0
    for _ in range(400):
        cells = {(r, rate): rng.normal(0.5, 0.05, 5).tolist() for r in (1, 2) for rate in (1, 2, 3)}
        cells[2, 3] = rng.normal(0.51, 0.05, 5).tolist()
        kept += (2, 3) in surface(cells).plateau
    assert kept >= 380


def test_equal_seeds_are_alike_and_a_constant_distance_is_not():
    same = surface({(1, 1): [1.0] * 5, (1, 2): [1.0] * 5, (2, 1): [0.9] * 5, (2, 2): [1.0] * 5})
    assert same.plateau == {(1, 1), (1, 2), (2, 2)}


def test_with_fewer_than_five_seeds_a_cell_has_no_verdict_and_there_is_no_plateau():
    few = FOUR | {(1, 1e-3): FOUR[1, 1e-3][:4]}
    assert surface(few).plateau == frozenset()
    assert surface(FOUR).plateau == {(4, 1e-3)}


def test_the_interval_is_students_and_of_a_share_within_0_and_1():
    numbers = [0.91, 0.99, 1.0, 0.97, 0.95]
    cells = {(1, 1): numbers, (1, 2): [0.5], (2, 1): numbers, (2, 2): numbers}
    expected = stats.t.interval(0.95, 4, statistics.mean(numbers), stats.sem(numbers))
    assert surface(cells, measure="loss").interval((1, 1)) == pytest.approx(expected)
    assert surface(cells).interval((1, 1)) == pytest.approx((expected[0], 1.0))
    assert surface(cells).interval((1, 2)) is None


def test_a_setting_with_a_diverged_seed_has_no_mean_and_is_never_the_best():
    cells = surface(FOUR).cells | {(4, 1e-3): Cell(dict(enumerate(spread(0.9)[:4])), 1, 1.0)}
    found = surface(FOUR, cells=cells)
    assert math.isnan(cells[4, 1e-3].mean)
    assert found.best == (1, 1e-2)
    assert found.ridge == {1: 1e-2, 4: 1e-2}
    assert (4, 1e-3) not in found.plateau
    assert found.is_whole


# --- runs -----------------------------------------------------------------------------------


def run(r, rate, seed, value, **changes):
    records = [StepRecord(1, 5.0, rate, 1.0, 8, 4.5), StepRecord(2, 4.0, rate, 1.0, 8, 3.0 - value)]
    scores = Scores("accuracy", value, {}, 0.25, None, 2.0, (), "test")
    made = recipe(r=r, learning_rate=rate, seed=seed, steps=2)
    facts = {"recipe": made, "records": tuple(records), "scores": scores} | changes
    return Run(base_name="tiny", task_name="letters", path=None, **facts)


DONE = {(1, 0.1): 1.0, (1, 0.2): 0.5, (2, 0.1): 0.0, (2, 0.2): 0.0}
ASKED = {"x": "r", "y": "learning_rate", "seeds": 2, "done": DONE}


def test_each_score_of_a_run_is_found_and_named():
    runs = [run(1, 0.1, 0, 0.5), run(1, 0.1, 1, 0.75), run(1, 0.2, 0, 1.0)]
    shown = surface_of(runs, score="value", **ASKED)
    assert shown.measure == "accuracy"
    assert shown.cells == {
        (1, 0.1): Cell({0: 0.5, 1: 0.75}, 0, 1.0),
        (1, 0.2): Cell({0: 1.0}, 0, 0.5),
        (2, 0.1): Cell({}, 0, 0.0),
        (2, 0.2): Cell({}, 0, 0.0),
    }
    validated = surface_of(runs, score="validation_loss", **ASKED)
    assert validated.cells[1, 0.1].scores == {0: 2.5, 1: 2.25}
    assert (validated.measure, validated.lower_is_better) == ("validation loss", True)
    assert surface_of(runs, score="old_knowledge", **ASKED).cells[1, 0.2].scores == {0: 0.25}
    assert surface_of(runs, score="loss", **ASKED).cells[1, 0.2].scores == {0: 2.0}
    assert surface_of(runs, score="strangers", **ASKED).best is None  # not measured


def test_a_diverged_run_counts_as_diverged_whatever_its_scores():
    runs = [run(1, 0.1, 0, 0.5), run(1, 0.1, 1, 0.9, status=DIVERGED, scores=None)]
    assert surface_of(runs, score="value", **ASKED).cells[1, 0.1] == Cell({0: 0.5}, 1, 1.0)


def test_an_unknown_score_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'validation_loss'"):
        surface_of([], score="validation_los", **ASKED)


# --- the picture ----------------------------------------------------------------------------


@pytest.fixture
def ax():
    return Figure().subplots()


def test_a_cell_says_its_mean_and_its_interval_darker_where_better(ax):
    draw_surface(ax, surface(FOUR))
    low, high = surface(FOUR).interval((4, 1e-3))
    texts = [text.get_text() for text in ax.texts if text.get_position()[0] == 1]
    mean = statistics.mean(FOUR[4, 1e-3])
    assert texts[:2] == [f"{100 * mean:.0f}", f"{100 * low:.0f} to {100 * high:.0f}"]
    shades = {(bar.get_x(), bar.get_y()): sum(bar.get_facecolor()[:3]) for bar in ax.patches}
    means = [statistics.mean(numbers) for numbers in FOUR.values()]
    darkest_first = sorted(range(4), key=[*shades.values()].__getitem__)
    assert darkest_first == sorted(range(4), key=means.__getitem__, reverse=True)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0.001", "0.01"]
    assert ax.figure.texts[0].get_text() == "exact match, %: mean, 95 % interval; 5 seeds"


def test_a_loss_is_darker_where_it_is_lower_and_has_its_margin(ax):
    draw_surface(ax, surface(FOUR, measure="validation loss"))
    first, *_, last = (sum(bar.get_facecolor()[:3]) for bar in ax.patches[:3])
    assert first < last  # 0.2 and 0.9 nats
    assert ax.texts[1].get_text() == "± 0.02"


@pytest.mark.parametrize(
    ("best", "said"),
    [
        ({1: 1e-2, 4: 1e-3, 16: 1e-3}, "The best learning_rate falls with r"),
        ({1: 1e-3, 4: 1e-3, 16: 1e-2}, "The best learning_rate rises with r"),
        ({1: 1e-3, 4: 1e-2, 16: 1e-3}, "The best learning_rate is 0.001 to 0.01"),
        ({1: 1e-2, 4: 1e-2, 16: 1e-2}, "The best learning_rate is 0.01 at each r"),
    ],
)
def test_the_title_states_the_finding_when_all_is_trained(best, said):
    scores = {
        (r, rate): spread(0.9 if rate == best[r] else 0.2) for r in best for rate in (1e-3, 1e-2)
    }
    title = draw_surface(Figure().subplots(), surface(scores)).get_title(loc="left")
    assert title == said


def test_the_title_asks_while_a_seed_is_missing(ax):
    title = draw_surface(ax, surface(FOUR, seeds=10)).get_title(loc="left")
    assert title == "Which learning_rate for each r?"


def test_the_ridge_goes_through_the_best_cell_of_each_column(ax):
    draw_surface(ax, surface(FOUR))
    ridge = ax.lines[0]
    assert ridge.get_xdata() == [0, 1]
    assert [round(y) for y in ridge.get_ydata()] == [1, 0]


def test_the_frame_goes_around_the_plateau_and_is_dashed_while_seeds_are_missing(ax):
    alike = FOUR | {(1, 1e-3): FOUR[4, 1e-3]}
    draw_surface(ax, surface(alike))
    edges = {tuple(map(tuple, edge.get_xydata())) for edge in ax.lines[1:]}
    assert len(edges) == 6  # two cells side by side: the bottom row
    ends = {end for edge in edges for end in edge}
    assert ends == {(x, y) for x in (-0.5, 0.5, 1.5) for y in (-0.5, 0.5)}
    assert ax.lines[1].get_linestyle() == "-"
    ax = Figure().subplots()
    draw_surface(ax, surface(alike, seeds=10))
    assert ax.lines[1].get_linestyle() != "-"


def test_a_cell_under_way_shows_how_much_of_it_is_trained(ax):
    cells = surface(FOUR).cells | {(1, 1e-3): Cell({}, 0, 0.25)}
    draw_surface(ax, surface(FOUR, cells=cells))
    whole, part = (bar for bar in ax.patches if bar.get_height() < 0.5)
    assert part.get_width() == pytest.approx(0.25 * whole.get_width())
    assert part.get_x() == pytest.approx(-0.45)
    assert ax.texts[0].get_text() == "…"
    assert ax.figure.texts[0].get_text().endswith("interval; 0 to 5 of 5 seeds")


def test_of_one_seed_a_cell_says_its_score_alone_and_no_interval_is_named(ax):
    cells = {(1, 1): Cell({0: 0.5}, 0, 1.0), (2, 1): Cell({0: 0.7}, 0, 1.0)}
    draw_surface(ax, surface({}, cells=cells, seeds=1))
    assert [text.get_text() for text in ax.texts] == ["50", "70"]
    assert [text.get_text() for text in ax.figure.texts] == ["exact match, %; 1 seed"]


def test_a_single_seed_says_so_and_so_does_a_setting_that_diverged(ax):
    cells = {
        (1, 1): Cell({0: 0.5}, 0, 0.2), (1, 2): Cell({}, 2, 1.0),
        (2, 1): Cell(), (2, 2): Cell({0: 0.7}, 0, 0.2),
    }  # fmt: skip
    draw_surface(ax, surface({}, cells=cells))
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("1 seed") == 2
    assert texts[texts.index("diverged") + 1] == "2 seeds"


def test_the_alternative_text_states_the_finding_with_its_numbers(ax):
    draw_surface(ax, surface(FOUR))
    words = ax.get_label()
    mean = f"{100 * statistics.mean(FOUR[4, 1e-3]):.0f}"
    assert words.startswith("exact match, %, by r and learning_rate; 5 seeds. Best: r 4, ")
    assert f"r 4, learning_rate 0.001: {mean} % (" in words
    assert "1 of 4 settings, the best included, can't be told apart from it" in words
    assert words.endswith("The best learning_rate: 0.01 at r 1, 0.001 at r 4.")
    empty = surface({}, cells={(1, 1): Cell(), (2, 1): Cell()})
    assert draw_surface(Figure().subplots(), empty).get_label() == (
        "exact match, %, by r and learning_rate: none of 2 settings has a score yet."
    )


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (Cell(), "not trained yet"),
        (Cell({}, 0, 0.07), "7 % trained"),
        (Cell({0: 0.5}, 0, 0.2), "0.50 (1 seed)"),
        (Cell({0: 0.0051, 1: 0.0049}, 0, 1.0), "0.0050 ± 0.0013 (2 seeds)"),
        (Cell({0: 0.5}, 1, 1.0), "1 of 5 seeds diverged"),
    ],
)
def test_a_cell_in_words(cell, said):
    found = surface({}, cells={(1, 2): cell}, measure="loss")
    assert cell_in_words(found, (1, 2)) == f"r 1, learning_rate 2: {said}"


def test_its_png_is_small_and_its_palette_is_true_to_the_colours():
    cells = {
        (r, rate): spread(0.1 * r + rate, r) for r in range(1, 6) for rate in (0, 0.1, 0.2, 0.3)
    }
    made = picture(draw_surface, surface(cells), size=surface_size(5, 4))
    assert len(made.png) < 60_000
    pixels = imread(io.BytesIO(made.png), format="png")[..., :3]
    whole = io.BytesIO()
    figure = draw_surface(axes_for(draw_surface, made.size), surface(cells)).figure
    figure.savefig(whole, format="png", dpi=160)
    whole.seek(0)
    expected = imread(whole, format="png")[..., :3]
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 0.01


@pytest.mark.parametrize("seeds", [1, 10], ids=["whole", "while it fills"])
def test_title_and_words_below_stay_inside_the_picture(seeds):
    alphas, rates = (4, 16, 64), (1e-3, 3e-3)  # the best goes down and up: the longest title
    cells = {
        (alpha, rate): Cell({0: 0.5 + rate * (alpha == 16) - rate / 2}, 0, 1.0)
        for alpha in alphas
        for rate in rates
    }
    found = surface({}, cells=cells, x="lora_alpha", seeds=seeds, measure="validation loss")
    size = surface_size(3, 2)
    figure = draw_surface(axes_for(draw_surface, size), found).figure
    canvas = FigureCanvasAgg(figure)
    (ax,) = figure.axes
    for text in (*figure.texts, ax.title, ax._left_title):
        assert text.get_window_extent(canvas.get_renderer()).x1 <= size[0]


def test_the_picture_has_room_for_the_words_of_each_cell():
    width, height = surface_size(8, 6)
    left, right, bottom, top = draw_surface.margins
    assert (width - left - right) / 8 >= 70
    assert (height - bottom - top) / 6 >= 40
