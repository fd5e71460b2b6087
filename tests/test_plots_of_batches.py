import math

import pytest
from matplotlib.figure import Figure

from lora_lab.plots import draw_by_batch, draw_fan, draw_last_losses


@pytest.fixture
def ax():
    return Figure().subplots()


def test_the_fan_has_an_arrow_at_each_angle_on_both_sides_and_one_for_all_examples(ax):
    draw_fan(ax, 16, [30.0, 60.0, 90.0], 200)
    ends = [note.xy for note in ax.texts if getattr(note, "arrow_patch", None)]
    turned = [round(math.degrees(math.atan2(y, x))) for x, y in ends]
    assert turned == [30, -60, 90, 0]
    assert ax.get_title(loc="left") == "A batch of 16 examples points 60° off"
    assert "60° away from the gradient of all 200 examples in the mean, 30 to 90°" in ax.get_label()


def test_a_batch_of_one_is_one_example(ax):
    draw_fan(ax, 1, [80.0], 200)
    assert ax.get_title(loc="left") == "A batch of 1 example points 80° off"


def test_each_team_is_a_line_of_means_over_the_logarithm_of_the_batch(ax):
    series = {"examples": {4: [0.9, 1.0], 64: [0.5, 0.7]}, "steps": {4: [0.1, 0.1], 16: [0.4, 0.6]}}
    draw_by_batch(ax, series)
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["examples"].get_xdata() == pytest.approx([2, 6])
    assert lines["examples"].get_ydata() == pytest.approx([95, 60])
    assert lines["steps"].get_ydata() == pytest.approx([10, 50])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["4", "16", "64"]
    assert "examples, by batch 4: 95 % (" in ax.get_label()
    assert ax.get_title(loc="right") == "2 seeds"


def test_each_run_is_a_point_and_the_limit_divides_their_means(ax):
    draw_last_losses(ax, {"style": [(0.1, 0.9), (0.19, 0.7), (0.2, 0.5)], "json": [(0.01, 1)]}, 0.2)
    lines = {line.get_label(): line for line in ax.lines}
    assert [*lines["style"].get_xdata()] == [0.1, 0.19, 0.2]
    assert lines["style"].get_ydata() == pytest.approx([90, 70, 50])
    assert "style, below 0.2: 80 % in 2 runs; style, above 0.2: 50 % in 1 run" in ax.get_label()
    assert "json, below 0.2: 100 % in 1 run" in ax.get_label()
    assert ax.get_title(loc="right") == "4 runs"
