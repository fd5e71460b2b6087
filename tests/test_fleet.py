"""Headless: many customers on one base, drawn to scale."""

import html

import pytest
from matplotlib.figure import Figure

from lora_lab import plots
from lora_lab.cost.gpus import cards
from lora_lab.lessons.shipping import Fleet, fleet
from lora_lab.widgets.fleet import CUSTOMERS, MODELS, RANKS, FleetView

ONE = Fleet("a model", customers=3, base=10 * 10**9, adapter=10**8)
(H100,) = [card for card in cards() if card.name == "H100"]


@pytest.fixture
def ax():
    return Figure().subplots()


def test_bars_are_to_scale_and_the_finding_is_the_title(ax):
    plots.draw_fleet(ax, ONE, H100)
    lengths = [bar.get_width() for bar in ax.patches]
    assert lengths == pytest.approx([10, 0.3, 10, 10, 10])
    assert ax.get_title(loc="left") == "3 customers on a model: 10.3 or 30 GB"
    assert "An adapter is 1 % of the base. On one H100 fit: adapters and merged." in ax.get_label()


def test_what_does_not_fit_on_the_card_is_said(ax):
    many = Fleet("a model", customers=40, base=10 * 10**9, adapter=10**7)
    plots.draw_fleet(ax, many, H100)
    assert "An adapter is 0.10 % of the base. On one H100 fit: adapters." in ax.get_label()


def test_small_models_are_told_in_megabytes(ax):
    plots.draw_fleet(ax, Fleet("a model", customers=2, base=2 * 10**6, adapter=10**5))
    assert ax.get_title(loc="left").endswith("2.2 or 4 MB")


def test_a_row_for_each_way_has_a_bar_for_each_task(ax):
    shares = {"style": {"sum": 0.5, "mean": 0.25}, "facts": {"sum": 1.0, "mean": 0.75}}
    plots.draw_combined(ax, shares, "What is left?")
    assert [bar.get_width() for bar in ax.patches] == [50, 25, 100, 75]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["sum", "mean"]
    assert ax.get_label() == (
        "What is left? Right answers: sum: style 50 %, facts 100 %; mean: style 25 %, facts 75 %."
    )


def test_a_moved_control_draws_anew():
    view = FleetView(customers=40)
    before = view.view.value
    view.customers.value = 100
    assert view.fleet == fleet("llama-3.1-8b", 16, 100)
    assert view.view.value != before
    assert view.picture.alt in html.unescape(view.said.value)


def test_each_model_rank_and_number_can_be_drawn():
    view = FleetView("pocket", r=8, customers=1)
    for model in MODELS:
        view.model.value = model
    view.r.value, view.customers.value = RANKS[-1], CUSTOMERS[-1]
    assert view.table().loc["llama-3.2-3b", "base"] == "6.4 GB"
    assert [*view.table().index] == [*MODELS]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"model": "lama-7b"}, "llama-7b"), ({"r": 3}, "r=3"), ({"customers": 7}, "customers=7")],
)
def test_an_unknown_choice_is_refused_with_what_would_do(given, said):
    with pytest.raises(ValueError, match=said):
        FleetView(**given)
