"""A live heat-map over two fields of a recipe: it fills as runs finish; click a cell for curves."""

import dataclasses
import html
import statistics
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from lora_lab import plots
from lora_lab.models.bases import Base
from lora_lab.recipe import REAL, WHOLE, Recipe, nearest
from lora_lab.tasks.examples import Task
from lora_lab.training.store import DEFAULT, Default
from lora_lab.training.surface import VALIDATION, Place, Surface, surface_of
from lora_lab.training.sweep import Sweep
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import columns, labelled, row
from lora_lab.widgets.cell_grid import CellGrid
from lora_lab.widgets.sweep_following import SweepFollower, with_seeds
from lora_lab.widgets.working_box import WorkingBox
from lora_lab.wording import counted, percent

NUMBERS = tuple(name for name in (*WHOLE, *REAL) if name not in ("seed", "eval_steps", "patience"))
MOST = 10  # values of a field: more cells are too small to read
TESTED = {"new facts right": "value", "old facts kept": "old_knowledge"}  # of a ridge
CURVES = (460, 270)  # pixels on the screen: beside the surface on a laptop
HELP = (
    "Choose a setting by its validation loss; the test scores the chosen one (notebook 04). The "
    "frame holds the truly best setting in 95 % of such surfaces, if you look when all seeds are "
    "trained; while seeds are missing, it is dashed."
)


class SurfaceLab(WorkingBox):
    """Trains every pair of values of x and y with several seeds, and draws the scores.

    The first seed of all cells is trained first, so that the whole surface can be seen early. Stop
    keeps the finished runs, and Train goes on. After `wait()`, `sweep` holds the finished runs and
    `surface` their scores. `show_cell` shows a cell's curves, as a click on it does.

    Args:
        base: stays as it was.
        task: what to learn; its recipe gives all other values.
        x: the recipe's field of the columns, a number.
        y: the field of the rows.
        xs: the values of x to begin with, 2 or more.
        ys: the values of y.
        seeds: how many runs each cell gets, with the seeds from 0 on.
        score: the score that the cells show first: "validation_loss", "value" (the task's
            metric), "loss" (on the test), "old_knowledge" or "strangers"; None: the first that
            the task has.
        engine: as in `lab.sweep`.
        store: as in `lab.sweep`: finished runs are replayed.
        changes: recipe fields that replace those of the task's own recipe. A function gives a
            field's value for each x: `steps=lambda batch_size: 960 // batch_size`.

    Raises:
        ValueError: for a field that isn't a number, or values that no recipe takes.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        x: str = "r",
        y: str = "learning_rate",
        *,
        xs: Sequence[float],
        ys: Sequence[float],
        seeds: int = 10,
        score: str | None = None,
        engine: str = "auto",
        store: str | Path | Default | None = DEFAULT,
        **changes: object,
    ) -> None:
        super().__init__("Train")
        _check_fields(x, y)
        self.base, self.task, self.x, self.y = base, task, x, y
        self._tied = {field: value for field, value in changes.items() if callable(value)}
        fixed = {field: value for field, value in changes.items() if field not in self._tied}
        self._recipe = dataclasses.replace(task.recipe, **fixed)
        self._follower = SweepFollower(base, task, engine=engine, store=store)
        self.x_values, self.y_values = _values_text(x, xs), _values_text(y, ys)
        self.seeds = labelled(widgets.BoundedIntText(seeds, 1, 100), "seeds", "8em")
        self.score = labelled(widgets.Dropdown(options=_scores_of(task)), "show", "19em")
        if score is not None:
            self.score.value = _known_score(score, [value for _, value in self.score.options])
        self.counts, self.cell_label = widgets.HTML(), widgets.HTML()
        self._lay_out()
        self._take_values()
        self._wire()

    def _lay_out(self) -> None:
        self.loss_picture.layout.width = f"{CURVES[0]}px"
        curves = widgets.VBox([self.cell_label, self.loss_picture])
        self._charts = columns(widgets.Box(), curves)
        question = f"{self.x} × {self.y} on {self.task.name}: where is the best?"
        self.children = [
            widgets.HTML(markup.title(question)),
            row(self.x_values, self.y_values, self.seeds, self.counts),
            row(self.train_button, self.stop_button, self.progress, self.state),
            row(self.score, widgets.HTML(markup.help_text(HELP))),
            self.panel.warnings,
            self._charts,
        ]

    def _wire(self) -> None:
        self.train_button.on_click(lambda _: self.start())
        self.score.observe(lambda _: self._show(), names="value")
        for control in (self.x_values, self.y_values, self.seeds):
            control.observe(lambda _: self._on_values(), names="value")

    # --- what a notebook calls and reads ---

    def start(self) -> None:
        """Train the missing runs in the background, as a click on Train does."""
        if not self.train_button.disabled:
            self._set_busy(True)
            self._work.submit("train", self._train)

    def train(self) -> Surface:
        """Train the missing runs as a click on Train does, wait for it, and return the surface.

        Raises:
            RuntimeError: if it was stopped before its end.
        """
        self.start()
        self.wait()
        if not self.surface.is_whole:
            raise RuntimeError("it was stopped before its end; train() goes on from there")
        return self.surface

    def show_cell(self, x: float, y: float) -> None:
        """Show the curves of a cell, as a click on it does."""
        if (x, y) not in self.grid.cells:
            raise ValueError(
                f"there is no cell {self.x} {x:g}, {self.y} {y:g}; {self.x} is one of "
                f"{self.x_values.value}, {self.y} of {self.y_values.value}"
            )
        self.grid.choose((x, y))

    @property
    def sweep(self) -> Sweep:
        """The finished runs of all cells.

        Raises:
            RuntimeError: if no run is finished yet.
        """
        runs = self._follower.finished(
            dataclasses.replace(setting, seed=seed)
            for setting in self._settings.values()
            for seed in self._seeds
        )
        if not runs:
            raise RuntimeError("no run is finished yet; press Train, or call start() and wait()")
        return Sweep(tuple(runs))

    @property
    def surface(self) -> Surface:
        """The scores that are shown, as far as they are known."""
        done = {
            place: sum(map(self._follower.done, self._runs_of(place))) / len(self._seeds)
            for place in self._settings
        }
        recipes = [recipe for place in self._settings for recipe in self._runs_of(place)]
        return surface_of(
            self._follower.finished(recipes),
            x=self.x,
            y=self.y,
            score=self.score.value,
            seeds=len(self._seeds),
            done=done,
        )

    def ridge_table(self) -> pd.DataFrame:
        """A row for each x: its best y by the score that is shown, and the test's scores there.

        Shares are means over the seeds.
        """
        rows = []
        for x, y in self.surface.ridge.items():
            runs = self._follower.finished(self._runs_of((x, y)))
            scores = {
                name: [getattr(run.scores, measure) for run in runs]
                for name, measure in TESTED.items()
            }
            shares = {
                name: percent(statistics.fmean(known))
                for name, known in scores.items()
                if None not in known
            }
            rows.append({self.x: f"{x:g}", f"best {self.y}": f"{y:g}"} | shares)
        return pd.DataFrame(rows).set_index(self.x)

    @property
    def picture(self) -> plots.Picture:
        """The surface as it stands, for readers without a kernel."""
        return plots.picture(plots.draw_surface, self.surface, size=self._size)

    @property
    def curves(self) -> plots.Picture:
        """The loss of the chosen cell's seeds, step by step."""
        recipes = self._runs_of(self.grid.chosen)
        runs = [records for records in map(self._follower.records_of, recipes) if records]
        newest = runs[-1] if runs else ()
        band = runs if len(runs) > 1 else ()
        numbers = newest, (), recipes[0].steps, band
        return plots.picture(plots.draw_loss, *numbers, size=CURVES)

    def __repr__(self) -> str:
        axes = f"{self.x} {self.x_values.value} × {self.y} {self.y_values.value}"
        return f"SurfaceLab: {self.base.name} · {self.task.name} · {axes}"

    # --- values are chosen ---

    def _on_values(self) -> None:
        if self._work.busy:
            return
        try:
            self._take_values()
        except (TypeError, ValueError) as error:  # the picture stays
            self.state.value = markup.error_text(error)
            self.train_button.disabled = True

    def _take_values(self) -> None:
        """Make the cells for the controls' values; runs of earlier choices are kept."""
        xs, ys = _numbers(self.x, self.x_values.value), _numbers(self.y, self.y_values.value)
        self._settings = {(x, y): self._setting(x, y) for y in reversed(ys) for x in xs}
        self._seeds = range(self.seeds.value)
        self._size = plots.surface_size(len(xs), len(ys))
        rows = [[(x, y) for x in xs] for y in reversed(ys)]
        self.grid = CellGrid(
            rows, self._size, plots.draw_surface.margins, lambda _: self._show_curves()
        )
        self._charts.children = [self.grid, *self._charts.children[1:]]
        count = counted(len(self._settings) * len(self._seeds), "run")
        words = f"{counted(len(self._settings), 'setting')} × {counted(self.seeds.value, 'seed')}"
        self.counts.value = markup.faint(f"{words} = {count}")
        self.panel.reset_bar()
        self.train_button.disabled = False
        self._say("ready: press Train")
        self._show()
        self.grid.choose(rows[0][0])

    def _setting(self, x: float, y: float) -> Recipe:
        """The recipe of a cell. Its last step is validated."""
        tied = {field: value(x) for field, value in self._tied.items()}
        recipe = dataclasses.replace(self._recipe, **{self.x: x, self.y: y}, **tied)
        if recipe.eval_steps is not None:
            return recipe
        return dataclasses.replace(recipe, eval_steps=recipe.steps)

    def _runs_of(self, place: Place) -> list[Recipe]:
        return with_seeds([self._settings[place]], self._seeds)

    # --- what the thread does ---

    def _train(self) -> None:
        settings = [*self._settings.values()]
        self.panel.reset_bar()
        self._say("getting ready …")
        self.panel.check_sweep(self.base, self.task, settings)
        self.panel.follow_sweep(self._follower, settings, self._seeds, self._show_all)
        whole = self.surface.is_whole
        self.progress.bar_style = "success" if whole else ""
        self._say(self.panel.outcome + ("" if whole else "; Train goes on"))

    # --- what is shown ---

    def _at_rest(self) -> None:
        self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        self.panel.set_busy(busy)
        for control in (self.x_values, self.y_values, self.seeds):
            control.disabled = busy

    def _show(self) -> None:
        surface = self.surface
        names = {place: plots.cell_in_words(surface, place) for place in surface.cells}
        drawn = plots.picture(plots.draw_surface, surface, size=self._size)
        self.grid.show(drawn, names)

    def _show_all(self) -> None:
        self._show()
        self._show_curves()

    def _show_curves(self) -> None:
        place = self.grid.chosen
        self.cell_label.value = html.escape(plots.cell_in_words(self.surface, place))
        self.loss_picture.show(self.curves)


def _known_score(score: str, known: Sequence[str]) -> str:
    if score not in known:
        raise ValueError(
            f"score={score!r} is not measured on this task; {nearest(score, known)}"
            f"give {', '.join(map(repr, known))}"
        )
    return score


def _check_fields(x: str, y: str) -> None:
    for field in (x, y):
        if field not in NUMBERS:
            raise ValueError(
                f"{field!r} isn't a number of a recipe; {nearest(field, NUMBERS)}"
                "give for example 'r', 'lora_alpha' or 'learning_rate'"
            )
    if x == y:
        raise ValueError(
            f"x and y are both {x!r}; give two fields, such as 'r' and 'learning_rate'"
        )


def _values_text(field: str, values: Sequence[float]) -> widgets.Text:
    text = ", ".join(f"{value:.12g}" for value in values)
    control = widgets.Text(text, continuous_update=False)
    return labelled(control, field, f"{0.6 * (len(field) + len(text)) + 2:.0f}em")


def _numbers(field: str, text: str) -> list[float]:
    """The values in a text, least first: whole numbers for fields that count."""
    kind = int if field in WHOLE else float
    try:
        values = sorted({kind(part) for part in text.replace(";", ",").split(",") if part.strip()})
    except ValueError:
        raise ValueError(
            f"{field}: {text!r} isn't a list of {'whole ' * (kind is int)}numbers; give for "
            f"example {'1, 2, 4, 8' if kind is int else '0.001, 0.003, 0.01'}"
        ) from None
    if not 2 <= len(values) <= MOST:
        raise ValueError(f"{field}: {counted(len(values), 'value')} make no axis; give 2 to {MOST}")
    return values


def _scores_of(task: Task) -> list[tuple[str, str]]:
    """The scores that a run of the task has: a name, and the word for `surface_of`."""
    scores = [("validation loss", VALIDATION)] if task.validation else []
    scores += [(f"{task.metric} on the test", "value"), ("loss on the test", "loss")]
    scores += [("old facts kept", "old_knowledge")] if task.old_knowledge else []
    return scores + ([("strangers still “not known”", "strangers")] if task.strangers else [])
