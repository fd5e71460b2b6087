import pytest
from matplotlib.figure import Figure

from lora_lab.plots import draw_cost_of_length, draw_lengths


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
