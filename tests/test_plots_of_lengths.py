import pytest
from matplotlib.figure import Figure

from lora_lab.plots import (
    draw_by_limit,
    draw_cost_of_length,
    draw_lengths,
    draw_right,
    draw_strips,
    strips_size,
)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_each_task_has_its_box_from_the_top_down_with_its_median(ax):
    draw_lengths(ax, {"facts": [10, 11, 12], "verses": [40, 60, 90, 95]}, 512)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["verses", "facts"]
    medians = [line.get_xdata()[0] for line in ax.lines if line.get_linewidth() == 1.6]
    assert medians == [75, 11]
    assert "facts 11, at most 12; verses 75, at most 95" in ax.get_label()
    (advised,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert advised.get_xdata() == [512, 512]


def test_each_cost_is_told_beside_that_of_its_own_shortest_length(ax):
    draw_cost_of_length(ax, {"FLOPs": {64: 2.0, 128: 5.0}, "time": {32: 1.0, 64: 1.5}})
    flops, time, in_step = ax.lines
    assert flops.get_xydata().tolist() == [[64, 1], [128, 2.5]]
    assert time.get_xydata().tolist() == [[32, 1], [64, 1.5]]
    assert in_step.get_xydata().tolist() == [[32, 1], [128, 4]]
    assert "FLOPs × 2.5 from 64 to 128 tokens" in ax.get_label()


def test_each_way_has_a_bar_with_its_mean_and_a_dot_for_each_seed(ax):
    draw_right(ax, {"cut": [0.5, 0.75], "as many left out at random": []}, "What is lost?")
    (bar,) = ax.patches
    assert (bar.get_width(), ax.lines[0].get_xdata().tolist()) == (62.5, [50, 75])
    assert ax.get_label() == "What is lost? Right answers: cut 62 %."
    assert ax.get_xlabel() == "right, % (2 seeds)"
    assert ax.get_yticklabels()[1].get_text() == "as many left out\nat random"


def test_before_a_training_the_bars_say_that_there_is_none(ax):
    draw_right(ax, {"cut": []}, "What is lost?")
    assert ax.get_label() == "What is lost? Right answers: none trained yet."


def test_each_way_has_a_line_of_means_by_limit_beside_the_whole_examples(ax):
    right = {"cut": {34: [0.5, 0.7], 32: [0.25, 0.25]}, "left out": {34: [0.4, 0.5]}}
    draw_by_limit(ax, right, 0.9, "Which costs more?")
    whole, cut = ax.lines[:2]
    assert whole.get_ydata() == [90, 90]
    assert cut.get_xydata().tolist() == [[32, 25], [34, 60]]
    said = "whole 90 %; cut 25 % at 32, 60 % at 34; left out 45 % at 34"
    assert ax.get_label() == f"Which costs more? Right answers: {said}."


def test_a_strip_has_its_segments_in_a_row_and_the_title_counts_them(ax):
    rows = [
        [("prompt", 2), ("answer", 1), ("end", 1), ("prompt", 1), ("answer", 1)],
        [("prompt", 3), ("pad", 3), ("cut", 4)],
    ]
    draw_strips(ax, "Cut at 6", rows)
    kept = [(bar.get_x(), bar.get_width()) for bar in ax.patches if bar.get_height() == 0.8]
    segments = [(0, 2), (2, 1), (3, 1), (4, 1), (5, 1), (0, 3), (3, 3), (6, 4)]
    assert kept[: len(segments)] == segments
    assert ax.get_title(loc="left").startswith("Cut at 6: 2 rows, 12 places, 25 % padding, 2 with")
    assert ax.get_label().endswith("9 tokens of examples.")
    assert strips_size(3)[1] > strips_size(2)[1]
