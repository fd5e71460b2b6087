"""The pictures of notebook 01, by the numbers on their axes."""

import pytest
from matplotlib.figure import Figure

from lora_lab import plots


def axes():
    return Figure().subplots()


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
