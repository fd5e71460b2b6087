"""One run of each setting, picked by hand: who wins, and what else differs between the two."""

import html

import ipywidgets as widgets

from lora_lab.training.sweep import Sweep
from lora_lab.widgets import words
from lora_lab.widgets.lab_face import LabBox


class PickRuns(LabBox):
    """A learning rate and a seed to pick for each value of a field; below, what comes of it.

    `picked` is the sweep of the picked runs, `said` what is shown, in plain lines.

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
        values, rates, seeds = (sorted({*one}) for one in zip(*self._runs, strict=True))
        whole = len(self._runs) == len(values) * len(rates) * len(seeds)
        if not whole or any(run.scores is None for run in sweep.runs):
            raise ValueError(
                f"{len(self._runs)} runs of {len(values)} values of {field!r} × {len(rates)} "
                f"learning rates × {len(seeds)} seeds leave something out, or were not evaluated; "
                "give a whole sweep with evaluate=True"
            )
        self.field = field
        self.rates = {one: _choice("learning_rate", rates) for one in values}
        self.seeds = {one: _choice("seed", seeds) for one in values}
        self.outcome = widgets.HTML()
        rows = [
            widgets.HBox(
                [_label(f"{field} {one}"), rate, self.seeds[one]],
                layout={"flex_flow": "row wrap", "align_items": "center"},
            )
            for one, rate in self.rates.items()
        ]
        super().__init__([widgets.HTML(words.title("Pick a winner")), *rows, self.outcome])
        for control in (*self.rates.values(), *self.seeds.values()):
            control.observe(lambda _: self._show(), names="value")
        self._show()

    @property
    def picked(self) -> Sweep:
        """The picked run of each value."""
        return Sweep(
            tuple(
                self._runs[one, self.rates[one].value, self.seeds[one].value] for one in self.rates
            )
        )

    @property
    def said(self) -> tuple[str, ...]:
        """Each one's score, then what else differs."""
        marks = [
            f"{self.field} {getattr(run.recipe, self.field)}: {run.scores.value:.0%}"
            for run in self.picked.runs
        ]
        return (f"{self.picked.runs[0].scores.metric_name}: {'; '.join(marks)}",) + (
            self.picked.confounds()
        )

    def _show(self) -> None:
        scores, *confounds = map(html.escape, self.said)
        items = "".join(f"<li>{one}</li>" for one in confounds)
        self.outcome.value = f"<b>{scores}</b><br>What else differs:<ul>{items}</ul>"

    def __repr__(self) -> str:
        return f"PickRuns: {self.field} {', '.join(map(str, self.rates))}"


def _label(said: str) -> widgets.HTML:
    return widgets.HTML(f"<b>{html.escape(said)}</b>", layout={"width": "5em"})


def _choice(field: str, values: list) -> widgets.Dropdown:
    choice = widgets.Dropdown(options=[(f"{one:g}", one) for one in values], description=field)
    choice.style.description_width = f"{0.55 * len(field) + 1:.1f}em"
    choice.layout.width = f"{0.55 * len(field) + 8:.1f}em"
    return choice
