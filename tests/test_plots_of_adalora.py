import math

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lora_lab import plots
from lora_lab.plots import draw_budget, draw_importance, draw_ranks, draw_rivals


@pytest.fixture
def ax():
    return Figure().subplots()


RANKS = {"m.layers.0.up": 3, "m.layers.0.down": 0, "m.layers.1.up": 1, "m.layers.1.down": 2}


def test_ranks_stand_in_their_cells_and_planted_ones_are_framed_with_what_is_hidden(ax):
    draw_ranks(ax, RANKS, {"m.layers.1.down": 6})
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts == {(0, 0): "3", (0, 1): "0", (1, 0): "1", (1, 1): "2 / 6"}
    frames = [bar for bar in ax.patches if to_hex(bar.get_edgecolor()).upper() == plots.NEW]
    (frame,) = frames
    assert (round(frame.get_x() + frame.get_width() / 2), round(frame.get_y() + 0.42)) == (1, 1)
    assert ax.get_title(loc="left") == "Who has how much rank? 6 triplets"
    assert ax.get_label() == (
        "6 triplets in 4 matrices: up 4, down 2; 2 of them where 6 are planted."
    )


def test_without_planted_ranks_nothing_is_framed(ax):
    draw_ranks(ax, RANKS)
    assert not [bar for bar in ax.patches if to_hex(bar.get_edgecolor()).upper() == plots.NEW]
    assert ax.get_label() == "6 triplets in 4 matrices: up 4, down 2."


def test_the_budget_is_a_staircase_with_its_two_phases_marked(ax):
    draw_budget(ax, [8, 8, 5, 3, 2, 2], 2, 1)
    curve, *marks = ax.lines
    assert [*curve.get_xdata()] == [1, 2, 3, 4, 5, 6]
    assert [*curve.get_ydata()] == [8, 8, 5, 3, 2, 2]
    assert [line.get_xdata()[0] for line in marks] == [2, 5]
    assert "8 triplets up to step 2" in ax.get_label()
    assert "2 from step 5 to step 6" in ax.get_label()


def test_a_triplet_is_drawn_with_the_threshold_and_the_words_say_how_it_went(ax):
    draw_importance(ax, [1, 2, 3], [2, 2, 2], [2, 4, 6], [math.nan, 5, 5])
    drawn = {line.get_label(): [*line.get_ydata()] for line in ax.lines}
    assert drawn["importance"] == [2, 4, 6]
    assert drawn["threshold"][1:] == [5, 5]
    assert drawn["λ's sensitivity"] == [1, 2, 3]
    assert ax.get_yscale() == "log"
    assert ax.get_label() == (
        "A triplet over 3 steps: below the threshold in 1 of them, and kept at the last."
    )


def test_rivals_have_a_bar_to_the_mean_and_a_dot_a_seed_and_adaloras_are_blue(ax):
    values = {"LoRA, r 2": [60.0, 80.0], "AdaLoRA, 8 to 2": [50.0, 70.0]}
    draw_rivals(ax, values, "Who?", "facts, %")
    assert [bar.get_width() for bar in ax.patches] == [70.0, 60.0]
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [plots.EARLIER, plots.RUN]
    assert [[*line.get_xdata()] for line in ax.lines] == [*values.values()]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [*values]
    assert ax.get_label() == (
        "Who? In facts, %, 2 seeds: LoRA, r 2 70 (60 to 80); AdaLoRA, 8 to 2 60 (50 to 70)."
    )
