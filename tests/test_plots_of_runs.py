import math

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp, ttest_ind

from lora_lab import plots
from lora_lab.plots import (
    draw_by_rate,
    draw_curves,
    draw_differences,
    draw_noise,
    draw_pairs,
    draw_rate_finder,
    draw_rate_map,
)
from lora_lab.records import StepRecord
from lora_lab.training.pairing import comparison_of_answers


def axes():
    return Figure().subplots()


def drawn(ax):
    return [line.get_xydata().tolist() for line in ax.lines]


def test_the_finder_is_drawn_by_rate_with_the_chosen_one():
    pairs = ((1e-4, 4.0), (1e-3, 1.5), (1e-2, 0.5), (1e-1, 2.5))
    records = [StepRecord(step, loss, rate, 1.0, 9) for step, (rate, loss) in enumerate(pairs, 1)]
    ax = draw_rate_finder(axes(), records, 1e-3)
    assert drawn(ax)[0] == [list(pair) for pair in pairs]
    assert {x for x, _ in drawn(ax)[1]} == {1e-3}
    assert (ax.get_xscale(), ax.get_ylim()) == ("log", (0, 4))
    assert ax.get_label() == (
        "The loss goes from 4.00 at 0.0001 down to 0.50 at 0.01, and ends at 2.50 at 0.1; 0.001 is "
        "chosen."
    )


def test_the_map_marks_the_lowest_loss_of_each_row_and_says_what_diverged():
    losses = {(1e-3, 10): 0.75, (1e-2, 10): 0.5, (1e-3, 40): 0.25, (1e-2, 40): math.nan}
    ax = draw_rate_map(axes(), losses)
    cells = [
        (text.get_text(), to_hex(bar.get_facecolor()).upper())
        for text, bar in zip(ax.texts, ax.patches, strict=True)
    ]
    pale = plots.PALE
    assert cells == [("0.75", pale), ("0.50", plots.RUN), ("0.25", plots.RUN), ("diverged", pale)]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.001", "0.01"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["10", "40"]
    assert ax.get_label() == (
        "The lowest loss, in nats per token. 10 steps: 0.50 at 0.01; 40 steps: 0.25 at 0.001."
    )


def test_settings_are_drawn_rate_by_rate_with_mean_and_seeds():
    shares = {"r 1": {1e-3: (0.5, 0.75), 1e-2: (0.5, 0.5)}, "r 8": {1e-2: (0.25, 1.0)}}
    ax = draw_by_rate(axes(), shares)
    assert drawn(ax) == [
        [[-0.025, 62.5], [0.975, 50]],
        [[-0.025, 50], [-0.025, 75]],
        [[0.975, 50], [0.975, 50]],
        [[1.025, 62.5]],
        [[1.025, 25], [1.025, 100]],
    ]
    assert [text.get_text() for text in ax.texts] == ["r 1", "r 8"]
    assert ax.get_title(loc="right") == "2 seeds"
    assert ax.get_label() == (
        "Right answers, as a mean of 2 seeds: r 1 62 % at 0.001, 50 % at 0.01; r 8 62 % at 0.01."
    )


def test_noise_is_drawn_in_a_row_for_each_cause_over_the_expected_range():
    ax = draw_noise(axes(), {"test sets": (0.75, 0.5), "seeds": (0.25,)}, 0.5, 0.875)
    assert drawn(ax) == [[[75, 0], [50, 0]], [[25, 1]]]
    (band,) = ax.patches
    assert (band.get_x(), band.get_width()) == (50, 37.5)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["test sets: 2", "seeds: 1"]
    assert ax.get_label() == (
        "Right answers. test sets: 2 from 50 to 75 %; seeds: 1 from 25 to 25 %; the formula "
        "expects 50 to 88 %."
    )


def test_differences_are_drawn_with_both_intervals_and_their_verdict():
    pairs = [(True, True)] * 160 + [(True, False)] * 10 + [(False, True)] * 30
    comparison = comparison_of_answers(*zip(*pairs, strict=True))
    half = 100 * comparison.answers.unpaired_margin
    ax = draw_differences(axes(), {"r 8": comparison})
    paired, unpaired = drawn(ax)[1], drawn(ax)[3]
    assert [x for x, _ in paired] == [100 * comparison.low, 100 * comparison.high]
    assert [x for x, _ in unpaired] == [10 - half, 10 + half]
    assert {x for x, _ in drawn(ax)[0]} == {0}
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["r 8"]
    assert [text.get_text() for text in ax.texts] == ["better"]
    assert ax.get_label() == "r 8 +10 points, 4 to 16 paired, p 0.0022: better."


def test_pairs_are_drawn_as_a_line_for_each_seed_beside_both_intervals():
    a, b = (0.5, 0.6, 0.9), (0.6, 0.7, 0.85)
    ax = draw_pairs(axes(), {"ranks": (a, b)})
    lines, intervals = ax.child_axes
    assert [[y for _, y in line] for line in drawn(lines)] == [[50, 60], [60, 70], [90, 85]]
    assert [to_hex(line.get_color()).upper() for line in lines.lines] == [
        plots.RUN,
        plots.RUN,
        plots.EARLIER,
    ]
    differences = [100 * (y - x) for x, y in zip(a, b, strict=True)]
    paired = ttest_1samp(differences, 0).confidence_interval()
    apart = ttest_ind([100 * y for y in b], [100 * x for x in a]).confidence_interval()
    for line, wanted in ((intervals.lines[1], paired), (intervals.lines[3], apart)):
        assert line.get_xdata() == pytest.approx([wanted.low, wanted.high])
    assert ax.get_title(loc="right") == "3 seeds"
    assert ax.get_label().startswith("ranks: B less A is +5.0 points, paired -16.5 to 26.5")


def test_curves_are_drawn_in_a_panel_each_with_the_validation_dashed():
    records = [
        StepRecord(1, 4.0, 0.1, 1.0, 9),
        StepRecord(2, 1.0, 0.1, 1.0, 9, validation_loss=2.0),
    ]
    broken = [StepRecord(1, 4.0, 0.1, 1.0, 9), StepRecord(2, math.nan, 0.1, 1.0, 9)]
    ax = draw_curves(axes(), {"A": records, "B": broken})
    one, other = ax.child_axes
    assert [line.get_linestyle() for line in one.lines] == ["-", "--"]
    assert one.lines[1].get_xydata().tolist() == [[2, 2]]
    assert len(other.lines) == 1
    assert "A: training loss from 4.00 to 1.00, validation loss 2.00 at its lowest and 2.00" in (
        ax.get_label()
    )
