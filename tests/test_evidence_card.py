"""The card of a body of evidence: verdict, picture, and the rest folded."""

import dataclasses

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from lora_lab import plots
from lora_lab.plots import axes_for
from lora_lab.training.run_files import DIVERGED
from lora_lab.widgets.evidence_card import EvidenceCard
from test_evidence import GOOD, finals, folder, tuned  # noqa: F401 - a fixture
from test_evidence import plan as read_plan

VALUES = {"r 1": [0.50, 0.52, 0.48, 0.51, 0.49], "r 2": [0.60, 0.63, 0.59, 0.60, 0.58]}


@pytest.fixture
def card(folder):  # noqa: F811
    chosen = read_plan("rank")
    return EvidenceCard(chosen, (*tuned(chosen, GOOD), *finals(chosen, VALUES)))


def test_a_notebook_shows_the_verdict_then_the_picture_then_the_rest_folded(card):
    InteractiveShell.instance()
    with capture_output() as shown:
        card._ipython_display_()
    first, picture, rest = (output.data for output in shown.outputs)
    assert card.verdict in first["text/plain"]
    assert "better by" in first["text/html"]
    assert picture["image/png"]
    assert "<details>" in rest["text/html"]
    for words in (card.conventions, card.source, "the others are compared with it"):
        assert words in rest["text/plain"]


def test_words_of_a_plan_are_escaped(card):
    InteractiveShell.instance()
    risky = EvidenceCard(dataclasses.replace(card.plan, question="Is r < 2 & <b>?"), card.rows)
    with capture_output() as shown:
        risky._ipython_display_()
    assert "Is r &lt; 2 &amp; &lt;b&gt;?" in shown.outputs[0].data["text/html"]


def test_the_pictures_words_give_each_mean_with_its_interval(card):
    alt = card.picture().alt
    assert "r 1, exact match: 50 % (48 to 52 %)" in alt
    assert "r 2, old facts kept: 90 % (90 to 90 %)" in alt
    assert "strangers" not in alt  # nobody asked about them
    assert len(card.picture().png) < 60_000


def test_a_picture_of_some_settings_leaves_out_the_others(card):
    alt = card.picture("r 2").alt
    assert "r 2, exact match: 60 %" in alt
    assert "r 1" not in alt
    with pytest.raises(ValueError, match="'r 3' isn't a setting of rank; did you mean 'r [12]'"):
        card.picture("r 1", "r 3")


def test_each_seed_has_a_tick_and_each_setting_a_row():
    scores = {"value": VALUES, "old_knowledge": {"r 1": [1.0] * 5, "r 2": []}}
    ax = plots.draw_evidence(axes_for(plots.draw_evidence, (500, 200)), "?", "accuracy", scores)
    ticks = [line.get_xdata() for line in ax.lines if line.get_marker() == "|"]
    assert [len(values) for values in ticks] == [5, 5, 5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["r 1", "r 2"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "accuracy",
        "old facts kept",
    ]


def test_what_has_no_picture_says_why(card):
    with pytest.raises(ValueError, match="nothing is measured yet"):
        EvidenceCard(card.plan, ()).picture()
    rows = [dataclasses.replace(row, metric=row.metric and "perplexity") for row in card.rows]
    with pytest.raises(ValueError, match="perplexity isn't a share"):
        EvidenceCard(card.plan, tuple(rows)).picture()


def test_a_setting_with_a_diverged_seed_is_not_drawn_and_the_legend_stays(card):
    first = next(row for row in card.rows if row.metric)
    broken = dataclasses.replace(first, status=DIVERGED, metric=None, value=None)
    rows = tuple(broken if row == first else row for row in card.rows)
    alt = EvidenceCard(card.plan, rows).picture().alt
    assert "r 1," not in alt
    assert "r 2, exact match: 60 %" in alt
    scores = {"value": VALUES | {"r 1": []}, "old_knowledge": {"r 1": [], "r 2": [1.0] * 5}}
    ax = plots.draw_evidence(axes_for(plots.draw_evidence, (500, 200)), "?", "accuracy", scores)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["accuracy", "old facts kept"]


def test_a_card_can_be_shown_while_its_runs_are_made(card):
    rows = [row for row in card.rows if row.metric]
    one_seed = EvidenceCard(card.plan, tuple(row for row in rows if row.seed == 0))
    assert one_seed.verdict == "not settled: r 1 lacks 4 seeds of 5"
    assert "r 1, exact match: 50 %;" in one_seed.picture().alt
    none = {"metric": None, "value": None, "status": DIVERGED}
    diverged = EvidenceCard(card.plan, tuple(dataclasses.replace(row, **none) for row in rows))
    InteractiveShell.instance()
    with capture_output() as shown:
        diverged._ipython_display_()
    assert len(shown.outputs) == 2  # no picture
    assert "diverged with 5 of 5 seeds" in shown.outputs[1].data["text/plain"]
