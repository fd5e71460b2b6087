"""A run of each setting, picked by hand: their scores, and what else differs."""

import html

import ipywidgets as widgets

from lora_lab.training.sweep import Sweep
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import LabBox


class PickRuns(LabBox):
    """A learning rate and a seed to pick for each value of a field; below, the scores.

    `picked` is the sweep of the picked runs, `said` the lines that are shown.

    Args:
        sweep: with scores, and a run for each value, learning rate and seed.
        field: the recipe's field that is compared, such as "r".

    Raises:
        ValueError: if a run is missing or has no scores.
    """

    def __init__(self, sweep: Sweep, field: str) -> None:
        self._runs = {
            (getattr(run.recipe, field), run.recipe.learning_rate, run.recipe.seed): run
            for run in sweep.runs
        }
        values, rates, seeds = (sorted({*column}) for column in zip(*self._runs, strict=True))
        whole = len(self._runs) == len(values) * len(rates) * len(seeds)
        if not whole or any(run.scores is None for run in sweep.runs):
            raise ValueError(
                f"{len(self._runs)} runs of {len(values)} values of {field!r} × {len(rates)} "
                f"learning rates × {len(seeds)} seeds leave something out, or were not evaluated; "
                "give a whole sweep with evaluate=True"
            )
        self.field = field
        self.rates = {value: _number_choice("learning_rate", rates) for value in values}
        self.seeds = {value: _number_choice("seed", seeds) for value in values}
        self.outcome = widgets.HTML()
        rows = [
            widgets.HBox(
                [_bold(f"{field} {value}"), rate, self.seeds[value]],
                layout={"flex_flow": "row wrap", "align_items": "center"},
            )
            for value, rate in self.rates.items()
        ]
        super().__init__([widgets.HTML(markup.title("Pick a winner")), *rows, self.outcome])
        for control in (*self.rates.values(), *self.seeds.values()):
            control.observe(lambda _: self._show(), names="value")
        self._show()

    @property
    def picked(self) -> Sweep:
        """The picked run of each value."""
        keys = [(value, self.rates[value].value, self.seeds[value].value) for value in self.rates]
        return Sweep(tuple(self._runs[key] for key in keys))

    @property
    def said(self) -> tuple[str, ...]:
        """Lines with the scores of the picked runs, then with what else differs between them."""
        marks = [
            f"{self.field} {getattr(run.recipe, self.field)}: {run.scores.value:.0%}"
            for run in self.picked.runs
        ]
        metric = self.picked.runs[0].scores.metric_name
        return f"{metric}: {'; '.join(marks)}", *self.picked.confounds()

    def _show(self) -> None:
        scores, *confounds = self.said
        others = f"What else differs:{markup.bullets(confounds)}"
        self.outcome.value = f"<b>{html.escape(scores)}</b><br>{others}"

    def __repr__(self) -> str:
        return f"PickRuns: {self.field} {', '.join(map(str, self.rates))}"


def _bold(label: str) -> widgets.HTML:
    return widgets.HTML(f"<b>{html.escape(label)}</b>", layout={"width": "5em"})


def _number_choice(field: str, values: list) -> widgets.Dropdown:
    choice = widgets.Dropdown(
        options=[(f"{value:g}", value) for value in values], description=field
    )
    choice.style.description_width = f"{0.55 * len(field) + 1:.1f}em"
    choice.layout.width = f"{0.55 * len(field) + 8:.1f}em"
    return choice
