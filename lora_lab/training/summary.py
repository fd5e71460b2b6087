"""The settings of a sweep side by side: a mean and its interval for each, and verdicts."""

import dataclasses
import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lora_lab.maths.comparison import Comparison
from lora_lab.maths.looks import holm_levels
from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.maths.statistics import mean_interval
from lora_lab.recipe import Recipe, nearest
from lora_lab.training.confounds import confounds_of, value_text
from lora_lab.training.pairing import compare_measure
from lora_lab.training.run_files import DIVERGED
from lora_lab.training.store import Run
from lora_lab.wording import significant

MEASURES = ("value", "loss", "old_knowledge", "strangers")  # of Scores
NUMBERS = ("mean", "low", "high", "seeds", "diverged")  # columns of a summary, after the fields
FIELDS = [field.name for field in dataclasses.fields(Recipe)]
TIE = 1e-12  # means that differ by less are equal: their sums were rounded
Row = dict[str, object]  # a setting: its varying fields, then NUMBERS


@dataclass(frozen=True, eq=False, repr=False)
class FieldComparison:
    """The values of a recipe's field, each compared with a reference value; a notebook shows it."""

    field: str
    measure: str  # the metric's name, "loss", "old_knowledge" or "strangers"
    reference: object  # the value that the others are compared with
    comparisons: Mapping[object, Comparison | None]  # of the others; None: a seed diverged
    rows: tuple[Row, ...]  # of the summary, best mean first
    notes: tuple[str, ...]  # how settings were chosen; Holm's correction
    confounds: tuple[str, ...]  # what else may explain a difference

    def table(self) -> pd.DataFrame:
        """A row for each value, best mean first, with the summary's columns and the `verdict`."""
        return pd.DataFrame(
            {**row, "verdict": self._verdict_of(row[self.field])} for row in self.rows
        )

    def _verdict_of(self, value: object) -> str:
        if value == self.reference:
            return "the others are compared with it"
        found = self.comparisons[value]
        return found.verdict if found else "diverged with some seeds: nothing to compare"

    def _shown(self) -> pd.DataFrame:
        """The table in words: percent, the interval in one column, fields as they are written."""
        scale = 1 if self.measure in LOWER_IS_BETTER else 100
        unit = LOWER_IS_BETTER.get(self.measure, " %")
        rows = []
        for row in self.rows:
            mean, low, high = (
                "-" if math.isnan(row[name]) else significant(scale * row[name])
                for name in ("mean", "low", "high")
            )
            fields = {name: value_text(value) for name, value in row.items() if name in FIELDS}
            numbers = {
                f"{self.measure},{unit}".rstrip(","): mean,
                "95 % interval": "-" if low == "-" else f"{low} to {high}",
                "seeds": str(row["seeds"]),
                f"beside {self.field}={value_text(self.reference)}": self._verdict_of(
                    row[self.field]
                ),
            }
            rows.append(fields | numbers)
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return "\n".join([self._shown().to_string(index=False), *self.notes, *self.confounds])

    def _repr_html_(self) -> str:
        sentences = "<br>".join(map(html.escape, (*self.notes, *self.confounds)))
        return f"{self._shown().to_html(index=False)}<p>{sentences}</p>"


def summary_of(runs: Sequence[Run], measure: str, fields: Sequence[str]) -> list[Row]:
    """A row for each setting: those fields, the mean over its seeds, and the mean's 95 % interval.

    A setting with a diverged seed has no mean: a mean over the other seeds would flatter it.

    Raises:
        ValueError: for an unknown measure, or if no run has it.
    """
    if measure not in MEASURES:
        raise ValueError(
            f"{measure!r} isn't a score of a run; {nearest(measure, MEASURES)}"
            f"give {', '.join(map(repr, MEASURES))}"
        )
    rows = []
    for recipe, group in _settings_of(runs).items():
        diverged = sum(run.status == DIVERGED for run in group)
        scores = [getattr(run.scores, measure) for run in group if run.scores]
        numbers = [number for number in scores if number is not None]
        mean = low = high = math.nan
        if numbers and not diverged:
            mean = statistics.fmean(numbers)
        if len(numbers) > 1 and not diverged:
            share = _measure_name(group, measure) not in LOWER_IS_BETTER
            low, high = interval_of_scores(numbers, share=share)
        values = mean, low, high, len(numbers), diverged
        row = {name: getattr(recipe, name) for name in fields}
        rows.append(row | dict(zip(NUMBERS, values, strict=True)))
    if not any(row["seeds"] for row in rows):
        raise ValueError(f"no run has a {measure!r}; train the sweep with evaluate=True")
    return rows


def best_setting(runs: Sequence[Run]) -> list[Run]:
    """The runs of the setting with the best mean score on validation; the first of equal settings.

    A setting with a diverged seed is not chosen.

    Raises:
        ValueError: if no setting can be chosen, or if the runs were scored on the test.
    """
    best: tuple[float, list[Run]] | None = None
    for group in _settings_of(runs).values():
        if _diverged(group) or any(run.scores is None for run in group):
            continue
        scores = [run.scores for run in group]
        if other := next((of_run.split for of_run in scores if of_run.split != "validation"), ""):
            raise ValueError(
                f"the runs were scored on the {other}, which must not choose; "
                "sweep with evaluate='validation'"
            )
        mean = statistics.fmean(score.value for score in scores)
        gain = -mean if scores[0].metric_name in LOWER_IS_BETTER else mean
        if math.isfinite(gain) and (best is None or gain > best[0] + TIE):
            best = gain, group
    if best is None:
        raise ValueError("every setting diverged with some seed; lower the learning rate")
    return best[1]


def interval_of_scores(scores: Sequence[float], *, share: bool) -> tuple[float, float]:
    """The 95 % interval of the true mean over seeds; of a share, kept within 0 to 1."""
    low, high = mean_interval(scores)
    return (max(0.0, low), min(1.0, high)) if share else (low, high)


def compare_field(
    runs: Sequence[Run], field: str, *, of: str, against: object, margin: float | None
) -> FieldComparison:
    """The values of a field compared, as `Sweep.compare` describes it."""
    chosen, notes = _chosen_runs(runs, field)
    reference = next(iter(chosen)) if against is None else against
    if reference not in chosen:
        known = ", ".join(map(value_text, chosen))
        raise ValueError(f"against={against!r} was not tried; {field} is one of {known}")
    if _diverged(chosen[reference]):
        raise ValueError(
            f"{field}={value_text(reference)} diverged with some seeds and can't be compared with; "
            "name another value with against="
        )
    runs_of_values = [run for group in chosen.values() for run in group]
    rows = summary_of(runs_of_values, of, varying_fields(runs))
    measure = _measure_name(chosen[reference], of)
    lower = measure in LOWER_IS_BETTER
    rows.sort(key=lambda row: math.inf if math.isnan(row["mean"]) else (lower - 0.5) * row["mean"])
    others = [value for value in chosen if value != reference]
    whole = [value for value in others if not _diverged(chosen[value])]

    def compared(value: object, **options: float) -> Comparison:
        pair = chosen[reference], chosen[value]
        found = compare_measure(*pair, measure=of, margin=margin, **options)
        names = (f"{field}={value_text(own)}" for own in (reference, value))
        return dataclasses.replace(found, **dict(zip("ab", names, strict=True)))

    levels = holm_levels([compared(value).p_value for value in whole])
    comparisons = dict.fromkeys(others) | {
        value: compared(value, level=level) for value, level in zip(whole, levels, strict=True)
    }
    if len(whole) > 1:
        notes.append(
            f"{len(whole)} comparisons in one table: Holm's correction widens the intervals of the "
            "verdicts, so that only 1 such table in 20 calls equal settings different."
        )
    return FieldComparison(
        field, measure, reference, comparisons, tuple(rows), tuple(notes), confounds_of(runs)
    )


def _chosen_runs(runs: Sequence[Run], field: str) -> tuple[dict[object, list[Run]], list[str]]:
    """The runs that stand for each value of a field; and a sentence where they were chosen.

    Of several settings with the same value, it is the one with the least mean validation loss.
    """
    if field not in FIELDS:
        raise ValueError(f"{field!r} isn't a field of a recipe; {nearest(field, FIELDS)}choose one")
    varying = varying_fields(runs)
    if field not in varying:
        others = f"these do: {', '.join(varying)}" if varying else "nothing but the seed does"
        raise ValueError(f"{field} does not vary between the settings of this sweep; {others}")
    tried: dict[object, list[list[Run]]] = {}
    for recipe, group in _settings_of(runs).items():
        tried.setdefault(getattr(recipe, field), []).append(group)
    chosen = {
        value: groups[0] if len(groups) == 1 else min(groups, key=_validation_loss)
        for value, groups in tried.items()
    }
    if all(len(groups) == 1 for groups in tried.values()):
        return chosen, []
    others = " and ".join(name for name in varying if name != field)
    return chosen, [f"For each {field}, the least mean validation loss chose {others}."]


def _validation_loss(group: Sequence[Run]) -> float:
    """The mean of the seeds' last validation losses, or of their best losses with a patience.

    It is infinite if a seed diverged.
    """
    losses = []
    for run in group:
        by_step = [record.validation_loss for record in run.records]
        validated = [loss for loss in by_step if loss is not None]
        if not validated and not _diverged(group):
            raise ValueError(
                "several settings share a value, and their runs hold no validation loss to choose "
                "by (the test must not choose); train them with eval_steps=steps, or "
                "compare the runs of one setting a value"
            )
        losses += [min(validated)] if validated and run.recipe.patience else validated[-1:]
    return math.inf if _diverged(group) else statistics.fmean(losses)


def _settings_of(runs: Sequence[Run]) -> dict[Recipe, list[Run]]:
    """The runs of each setting: all seeds of one recipe, in the sweep's order."""
    settings: dict[Recipe, list[Run]] = {}
    for run in runs:
        settings.setdefault(dataclasses.replace(run.recipe, seed=0), []).append(run)
    return settings


def varying_fields(runs: Sequence[Run]) -> list[str]:
    """The recipe's fields in which the settings of these runs differ."""
    settings = _settings_of(runs)
    return [name for name in FIELDS if len({getattr(recipe, name) for recipe in settings}) > 1]


def _diverged(group: Sequence[Run]) -> bool:
    return any(run.status == DIVERGED for run in group)


def _measure_name(group: Sequence[Run], measure: str) -> str:
    """The measure's own name: the metric's for "value"."""
    if measure != "value":
        return measure
    return next(run.scores.metric_name for run in group if run.scores)
