"""Evidence: the results of a plan, a row for each run; its table, verdict and conventions."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import msgspec
import pandas as pd

from lora_lab.findings.plans import DIGITS, INSTRUCTION, WAY, Plan, evidence_folder, plan
from lora_lab.findings.recordings import run_of_scores
from lora_lab.maths.comparison import Comparison
from lora_lab.maths.looks import holm_levels
from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.maths.statistics import LEVEL
from lora_lab.places import write_atomically
from lora_lab.recipe import Recipe
from lora_lab.training.confounds import value_text
from lora_lab.training.pairing import compare_measure
from lora_lab.training.run_files import DIVERGED
from lora_lab.training.store import Run
from lora_lab.training.summary import interval_of_scores
from lora_lab.wording import counted, significant

TUNING, FINAL = "tuning", "final"  # stages of a plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run of a plan: what was chosen, and what it measured."""

    plan: str  # the plan's fingerprint when it was run
    stage: Literal["tuning", "final"]  # tuning: validation chooses by it; final: it is tested
    setting: str
    learning_rate: float | None  # None: nothing is trained, the base is asked in some way
    seed: int
    status: Literal["finished", "diverged"]
    train_loss: float | None = None  # of the last step, nats per label
    validation_loss: float | None = None  # after the last step
    metric: str | None = None
    value: float | None = None  # of the metric, on the test
    loss: float | None = None  # nats per answer token of the test
    old_knowledge: float | None = None
    strangers: float | None = None
    seconds: float | None = None  # of all steps
    device: str = ""
    versions: str = ""
    date: str = ""
    tried: int | None = None  # of a way to ask: examples shown, or the instruction's number
    prompt_tokens: float | None = None  # the mean of a test question, chat format included

    @property
    def choice(self) -> float:
        """The number that validation chooses: the learning rate, or what was tried."""
        return self.tried if self.learning_rate is None else self.learning_rate


SHARES = {"old_knowledge": "old facts kept", "strangers": "strangers kept"}  # in a reader's words
OF_WAYS = ("tried", "prompt_tokens")  # columns that only a plan with ways to ask has
FIXED = tuple(part.name for part in fields(Row) if part.name not in OF_WAYS)


# --- files ----------------------------------------------------------------------------------


def rows_path(plan: Plan) -> Path:
    """The file of a plan's results."""
    return evidence_folder() / f"{plan.id}.csv"


def read_rows(plan: Plan) -> tuple[Row, ...]:
    """A plan's results so far.

    Raises:
        ValueError: for a row that was cut off or can't be read, with its line; for a row that
            another version of the plan has made; for a run that is there twice.
    """
    path = rows_path(plan)
    if not path.exists():
        return ()
    try:
        text = path.read_text(encoding="utf-8-sig")  # -sig: a spreadsheet may have written it
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} isn't UTF-8 text ({error}); save it as UTF-8") from error
    if text and not text.endswith("\n"):
        line = text.count("\n") + 1
        raise ValueError(
            f"{path.name}, line {line}: the file ends in the middle of a row; delete that line, "
            f"and `make evidence ONLY={plan.id}` runs it again"
        )
    reader = csv.DictReader(io.StringIO(text))
    if lacking := [name for name in FIXED if name not in (reader.fieldnames or FIXED)]:
        raise ValueError(
            f"{path.name}, line 1 has no column {lacking[0]!r}; give the names of all columns, "
            "with commas between them"
        )
    lines: dict[tuple[object, ...], int] = {}
    rows = []
    for cells in reader:
        line = reader.line_num
        row = _read_row(plan, path.name, line, cells)
        run = (row.stage, row.setting, row.choice, row.seed)
        if lines.setdefault(run, line) != line:
            raise ValueError(
                f"{path.name}, line {line} is the same run as line {lines[run]}; delete one of them"
            )
        rows.append(row)
    return tuple(rows)


def _read_row(plan: Plan, name: str, line: int, cells: Mapping[str | None, object]) -> Row:
    mend = f"delete that line, and `make evidence ONLY={plan.id}` runs it again"
    if None in cells or None in cells.values():
        raise ValueError(f"{name}, line {line}: the row has too many or too few cells; {mend}")
    names = {*FIXED, *OF_WAYS}
    known = {column: cell for column, cell in cells.items() if column in names and cell != ""}
    known.setdefault("learning_rate", None)
    try:
        row = msgspec.convert(known, Row, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}, line {line}: {error}; {mend}") from error
    if row.plan != plan.fingerprint:
        raise ValueError(
            f"{name}, line {line} was made by another version of {plan.id}.toml ({row.plan}, now "
            f"{plan.fingerprint}); take back the change of the plan, or delete {name} and run "
            f"`make evidence ONLY={plan.id}`"
        )
    if row.setting not in plan.settings:
        raise ValueError(f"{name}, line {line}: the plan has no setting {row.setting!r}; {mend}")
    if row.choice is None or plan.is_trained(row.setting) != (row.learning_rate is not None):
        given = "a learning rate" if plan.is_trained(row.setting) else "what was tried"
        raise ValueError(
            f"{name}, line {line}: {row.setting!r} needs {given}, and no other; {mend}"
        )
    return row


def write_rows(plan: Plan, rows: Sequence[Row]) -> None:
    """Write a plan's results as one whole file: tuning first, ordered by setting and rate."""
    order = {name: place for place, name in enumerate(plan.settings)}
    rows = sorted(
        rows,
        key=lambda row: (row.stage != TUNING, order[row.setting], row.choice, row.seed),
    )
    text = io.StringIO()
    measured = FIXED if plan.only_trains else (*FIXED, *OF_WAYS)
    writer = csv.DictWriter(text, [*measured, *plan.varying], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: _cell(getattr(row, name)) for name in measured}
        varied = {name: plan.settings[row.setting].get(name) for name in plan.varying}
        cells |= {name: value_text(value) for name, value in varied.items() if value is not None}
        writer.writerow(cells)
    with write_atomically(rows_path(plan)) as file:
        file.write_text(text.getvalue(), encoding="utf-8", newline="")


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return "" if value is None else value


# --- the results, compared ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Evidence:
    """A question with its runs, its table and its verdict."""

    plan: Plan
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, id: str) -> Self:
        """The evidence with an id, from data/evidence/.

        Raises:
            ValueError: for an unknown id, with the nearest; for a file that is damaged.
        """
        chosen = plan(id)
        return cls(chosen, read_rows(chosen))

    @property
    def question(self) -> str:
        """The question, in a sentence."""
        return self.plan.question

    @cached_property
    def runs(self) -> Mapping[str, tuple[Run, ...]]:
        """The tested runs of each setting, at its chosen learning rate; a run for each seed."""
        finals = [row for row in self.rows if row.stage == FINAL]
        return {
            name: tuple(_run(self.plan, row) for row in finals if row.setting == name)
            for name in self.plan.settings
        }

    def comparison(
        self, setting: str, *, of: str | None = None, level: float = LEVEL
    ) -> Comparison:
        """A setting compared with the plan's reference, paired by seed.

        Args:
            setting: another setting's name.
            of: "value" (the task's metric), "loss", "old_knowledge" or "strangers"; None: the
                measure of the plan.
            level: how often the interval misses the true difference.

        Raises:
            ValueError: if a seed diverged, or runs are missing.
        """
        a, b = self.runs[self.plan.against], self.runs[setting]
        of = of or self.plan.measure
        lower = (self._metric if of == "value" else of) in LOWER_IS_BETTER
        margin = None if lower else self.plan.margin
        found = compare_measure(a, b, measure=of, margin=margin, level=level)
        return replace(found, a=self.plan.against, b=setting)

    @property
    def verdict(self) -> str:
        """The plan's main comparison in one line: effect, 95 % interval, number of seeds."""
        if not any(self.runs.values()):
            return f"not measured yet: `make evidence ONLY={self.plan.id}` does it"
        against, main = self.plan.against, self.plan.main
        for name in (against, main):
            if broken := self._lack(name):
                return f"not settled: {name} {broken}"
        found, of = self.comparison(main), self.plan.measure
        measured = "" if of == "value" else f", {SHARES.get(of, of)}"
        return f"{main} beside {against}{measured}: {_bare(found)}"

    def table(self) -> pd.DataFrame:
        """A row for each setting: its learning rate, its scores, the comparison with the reference.

        Shares are in percent, the metric with its 95 % interval. Holm's correction widens the
        intervals of the verdicts, since there are several comparisons.
        """
        verdicts = self._verdicts()
        scale, unit = (1, "") if self._metric in LOWER_IS_BETTER else (100, ", %")
        rows = []
        for name, runs in self.runs.items():
            row = {"setting": name, self._chosen: "", f"{self._metric}{unit}": ""}
            if runs and not self._lack(name):
                values = [run.scores.value for run in runs]
                low, high = interval_of_scores(values, share=scale == 100)
                mean = statistics.fmean(values)
                row |= {
                    self._chosen: self._choice_text(name),
                    f"{self._metric}{unit}": significant(scale * mean),
                    "95 % interval": f"{significant(scale * low)} to {significant(scale * high)}",
                }
                for share, name_of_share in SHARES.items():
                    kept = [getattr(run.scores, share) for run in runs]
                    if None not in kept:
                        row[f"{name_of_share}, %"] = significant(100 * statistics.fmean(kept))
            rows.append(row | {"seeds": len(runs), self._beside: verdicts[name]})
        return pd.DataFrame(rows).fillna("")

    @property
    def source(self) -> str:
        """Where the results are, and where they were measured."""
        devices = sorted({row.device for row in self.rows})
        return f"data/evidence/{self.plan.id}.csv, {len(self.rows)} runs; {'; '.join(devices)}"

    @property
    def date(self) -> str:
        """When the last of the runs was made: "2026-11-28"; empty where there is none."""
        return max((row.date for row in self.rows), default="")

    @property
    def conventions(self) -> str:
        """How the runs were made and compared."""
        plan, lengths = self.plan, {len(runs) for runs in self.runs.values()}
        rates = ", ".join(f"{rate:g}" for rate in plan.learning_rates)
        common = ", ".join(f"{name}={value_text(value)}" for name, value in plan.common.items())
        task = f"{plan.task} with n={plan.n}" if plan.n else plan.task
        chosen = f"All have the learning rate {rates}, which was not tuned."
        if len(plan.learning_rates) > 1:
            chosen = (
                f"Each setting has its own learning rate, chosen from {rates} (and beyond, where "
                "an end was the best) by the least mean validation loss of "
                f"{counted(len(plan.tuning_seeds), 'seed')}."
            )
        elif not rates:
            chosen = "The learning rates stand with the settings, and were not tuned."
        if not plan.only_trains:
            chosen += " The ways to ask have their instruction or number of examples chosen so too."
        return (
            f"{plan.base}, {task}; in all settings: {common or 'the default recipe'}. {chosen} "
            f"Then {' or '.join(map(str, sorted(lengths)))} fresh seeds were trained and tested "
            "once. A seed draws the examples, the questions, the start and the order. Verdicts are "
            f"paired by seed; a difference below {100 * plan.margin:g} points does not matter. "
            f"{self._holm_words}{plan.notes}"
        ).rstrip()

    @property
    def _holm_words(self) -> str:
        """Why the table's intervals are wider than the verdict's, where they are."""
        others = sum(bool(runs) for runs in self.runs.values()) - 1
        if others < 2:
            return ""
        return (
            f"The table's {others} verdicts have wider intervals than the line above it: several "
            "comparisons find a false difference more easily, and Holm's correction allows for it. "
        )

    def __repr__(self) -> str:
        return f"{self.question}\n{self.verdict}\n{self.table().to_string(index=False)}"

    @property
    def _chosen(self) -> str:
        """The heading of the column with the choices of validation."""
        return "learning rate" if self.plan.only_trains else "chosen"

    def _choice_text(self, setting: str) -> str:
        """The choice of validation for a setting: a rate, "8 examples" or "instruction 2"."""
        choice = next(
            row.choice for row in self.rows if row.stage == FINAL and row.setting == setting
        )
        if self.plan.is_trained(setting):
            return f"{choice:g}" if self.plan.only_trains else f"rate {choice:g}"
        if self.plan.settings[setting][WAY] == INSTRUCTION:
            return f"{INSTRUCTION} {choice}"
        return counted(choice, "example")

    @property
    def _beside(self) -> str:
        """The heading of the verdicts."""
        of = self.plan.measure
        return f"beside {self.plan.against}" + f" ({SHARES.get(of, of)})" * (of != "value")

    @property
    def _metric(self) -> str:
        names = {row.metric for row in self.rows if row.metric}
        return names.pop() if names else "score"

    def _lack(self, setting: str) -> str:
        """What keeps a setting from being compared, in words; empty: nothing does."""
        runs = self.runs[setting]
        diverged = sum(run.status == DIVERGED for run in runs)
        if diverged:
            return f"diverged with {diverged} of {counted(len(runs), 'seed')}"
        missing = len(self.plan.seeds) - len(runs)
        return f"lacks {counted(missing, 'seed')} of {len(self.plan.seeds)}" if missing else ""

    def _verdicts(self) -> dict[str, str]:
        """Each setting's verdict beside the reference, with Holm's correction."""
        against = self.plan.against
        verdicts = {name: self._lack(name) for name in self.plan.settings}
        if verdicts[against]:
            return verdicts
        whole = [name for name, lack in verdicts.items() if not lack and name != against]
        p_values = [self.comparison(name).p_value for name in whole]
        for name, level in zip(whole, holm_levels(p_values), strict=True):
            verdicts[name] = _bare(self.comparison(name, level=level))
        return verdicts | {against: "the others are compared with it"}


def _bare(comparison: Comparison) -> str:
    """The verdict without the setting's name, which stands beside it."""
    return comparison.verdict.removeprefix(f"{comparison.b} is ")


def _run(plan: Plan, row: Row) -> Run:
    """The run of a row, at its rate and seed. For a way to ask, it is a run without training."""
    trained = plan.is_trained(row.setting)
    return run_of_scores(
        plan.recipe(row.setting, row.learning_rate, row.seed) if trained else Recipe(seed=row.seed),
        asdict(row),
        base_name=plan.base,
        task_name=plan.task,
        about=row.device,
        date=row.date,
    )
