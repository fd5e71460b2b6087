import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from lora_lab.lessons.scalings import found_scalings
from lora_lab.plots import draw_alpha_map, draw_first_steps, draw_plane, draw_scalings, draw_twins
from lora_lab.records import StepRecord


@pytest.fixture
def ax():
    return Figure().subplots()


def records(*losses):
    return [StepRecord(step, loss, 1e-3, 1.0, 10) for step, loss in enumerate(losses, 1)]


def test_the_map_writes_each_loss_in_its_place_and_draws_the_line_between_the_rates(ax):
    losses = {(4, 1e-3): 9.0, (4, 1e-2): 2.0, (8, 1e-3): 6.0, (8, 1e-2): math.nan}
    draw_alpha_map(ax, "AdamW", losses, {4: 10**-2.5, 8: 1e-3}, 5.0)
    *losses, level = ax.texts
    written = {(x, y): text.get_text() for text in losses for x, y in [text.get_position()]}
    assert level.get_text() == "5 nats"
    assert level.xy == pytest.approx((0.5, 0.25))  # halfway between the line's first two places
    assert written == {(0, 0): "9.0", (0, 1): "2.0", (1, 0): "6.0", (1, 1): "–"}
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [0, 1]
    assert line.get_ydata() == pytest.approx([0.5, 0])  # halfway between the two rates, on it
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["4", "8"]
    assert ax.get_title(loc="left") == "AdamW: what does the same?"
    assert (
        "the loss is 5 nats at learning rate 0.0032 at alpha 4, 0.001 at alpha 8" in ax.get_label()
    )


def test_the_lower_a_loss_the_darker_its_place(ax):
    draw_alpha_map(ax, "SGD", {(4, 1e-3): 9.0, (4, 1e-2): 1.0}, {4: 5e-3}, 5.0)
    light, dark = (sum(bar.get_facecolor()[:3]) for bar in ax.patches)
    assert light > dark


def test_twins_are_drawn_one_upon_the_other_and_the_distance_is_told(ax):
    curves = {"alpha × 4": records(9, 5), "B's rate × 4": records(9, 5), "rate × 4": records(9, 4)}
    draw_twins(ax, "AdamW", curves)
    broad, dashed, other = ax.lines
    assert broad.get_ydata().tolist() == dashed.get_ydata().tolist() == [9, 5]
    assert other.get_ydata().tolist() == [9, 4]
    assert broad.get_linewidth() > 2 * dashed.get_linewidth()
    assert "B's rate × 4 ends at 5.00, at most 0 from the first" in ax.get_label()
    assert "rate × 4 ends at 4.00, at most 1 from the first" in ax.get_label()


def test_the_plane_shows_means_and_seeds_old_across_and_new_upwards(ax):
    paths = {"trained": {"alpha 1": [(1.0, 0.2), (0.8, 0.4)]}, "used": {"× 4": [(0.5, 1.0)]}}
    draw_plane(ax, paths)
    mean, seeds, used, _ = ax.lines
    assert mean.get_xydata()[0] == pytest.approx([90, 30])
    assert seeds.get_xydata() == pytest.approx(np.array([[100, 20], [80, 40]]))
    assert used.get_xydata()[0] == pytest.approx([50, 100])
    assert [text.get_text() for text in ax.texts] == ["alpha 1", "× 4"]
    assert ax.get_title(loc="right") == "2 seeds"
    assert "trained, alpha 1: old 90 %, new 30 %" in ax.get_label()


def test_settings_that_lie_together_share_a_label(ax):
    near = {"64": [(0.40, 0.92)], "256": [(0.39, 0.93)], "4": [(0.65, 0.80)]}
    draw_plane(ax, {"alpha": near})
    assert [text.get_text() for text in ax.texts] == ["64, 256", "4"]


def test_a_first_steps_optimizer_has_a_colour_and_its_factor_a_line(ax):
    sizes = {
        "AdamW, α / r": {1: 0.02, 64: 0.01},
        "AdamW, α / √r": {1: 0.02, 64: 0.05},
        "SGD, α / r": {1: 0.03, 64: 0.0002},
    }
    draw_first_steps(ax, sizes)
    whole, root, sgd = ax.lines
    assert whole.get_xydata() == pytest.approx(np.array([[1, 2], [64, 1]]))
    assert whole.get_color() == root.get_color() != sgd.get_color()
    assert (whole.get_linestyle(), root.get_linestyle()) == ("-", "--")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "64"]
    assert "From r 1 to r 64, AdamW, α / r: from 2.0 % to 1.0 %" in ax.get_label()


def test_each_scaling_stands_at_its_factor_and_like_ones_are_stacked(ax):
    settings = found_scalings()
    draw_scalings(ax, settings)
    places = [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in ax.lines]
    assert [x for x, _ in places] == [setting.scaling for setting in settings]
    twice = sum(setting.scaling == 2 for setting in settings)
    assert [y for x, y in places if x == 2] == list(range(1, twice + 1))
    assert len({*places}) == len(settings)
    first, last = (text.get_text() for text in ax.texts)
    assert first == "TRL, guide, SFT:\nr 256, alpha 16"
    assert last == "TRL, guide, GRPO:\nr 1, alpha 32"
    assert f"2 in {twice}," in ax.get_label()
