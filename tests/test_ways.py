"""The pictures of notebook 01, by the numbers on their axes."""

import pytest
from matplotlib.figure import Figure

from lora_lab import plots
from lora_lab.lessons.approaches import Tried
from lora_lab.maths.statistics import wilson


def tried(right, asked, tokens=20.0):
    flags = (True,) * right + (False,) * (asked - right)
    return Tried(approach="", right=flags, prompt_tokens=tokens, answer_tokens=5, seconds=0.1)


def axes():
    return Figure().subplots()


def test_each_way_is_a_point_in_its_interval_with_a_tick_for_each_seed():
    ways = {"a": [tried(10, 60), tried(20, 60, 40)], "b": [tried(60, 60, 5), tried(60, 60, 5)]}
    ax = plots.draw_ways(axes(), ways)
    interval, point, seeds, *_ = ax.lines
    low, high = wilson(30, 120)
    assert list(interval.get_xdata()) == pytest.approx([100 * low, 100 * high])
    assert list(point.get_xdata()) == [25]
    assert list(seeds.get_xdata()) == pytest.approx([100 / 6, 100 / 3])
    assert [text.get_text() for text in ax.texts] == [
        "30",
        "5",
        "tokens in",
        "120 questions, 2 seeds",
    ]
    assert "a 25 % (18 % to 33 %); b 100 % (97 % to 100 %)" in ax.get_label()


def test_ways_of_unequal_seeds_name_no_number_of_questions():
    ax = plots.draw_ways(axes(), {"a": [tried(1, 2)], "b": [tried(1, 2), tried(2, 2)]})
    assert ax.texts[-1].get_text() == ""


def test_scores_by_examples_are_means_in_the_seeds_range():
    curves = {"json": {10: [0.2, 0.4], 100: [0.9, 1.0]}, "style": {10: [0, 0], 100: [0.5, 0.7]}}
    ax = plots.draw_examples(axes(), curves)
    assert [list(line.get_xdata()) for line in ax.lines] == [[10, 100], [10, 100]]
    means = [list(line.get_ydata()) for line in ax.lines]
    assert means == [pytest.approx([30, 95]), pytest.approx([0, 60])]
    ends = ax.collections[0].get_paths()[0].vertices
    assert {*ends[:, 1].round()} == {20, 40, 90, 100}
    assert "Mean of 2 seeds" in ax.get_label()
    assert "json: 10 30 %, 100 95 %" in ax.get_label()
