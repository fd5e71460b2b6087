"""Runs kept side by side: a row for each setting, with its scores, its cost, and a verdict."""

import dataclasses
import html
import statistics
from collections.abc import Iterator, Sequence

import pandas as pd

from lora_lab.maths.comparison import SEEDS
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import Answer, Budget
from lora_lab.training.confounds import confounds_of
from lora_lab.training.pairing import compare
from lora_lab.training.store import Run
from lora_lab.widgets import markup, run_summary
from lora_lab.wording import counted, in_short, percent

MOST = 8  # rows: more are not compared at a glance


@dataclasses.dataclass
class Kept:
    """A setting that is kept: its runs by seed, and where they were trained and tested."""

    base: str  # its name
    folder: str  # where it is: two bases may have the same name
    task: str
    questions: tuple[tuple[str, str], ...]  # prompts and right answers of the test
    recipe: Recipe  # with seed 0
    budget: Budget | None
    runs: dict[int, Run]

    @property
    def place(self) -> tuple:
        """The base and the test: scores can be compared if these are equal."""
        return self.base, self.folder, self.task, self.questions

    @property
    def seconds(self) -> float:
        """The seconds that a run took to train, as a mean over its seeds."""
        return statistics.fmean(
            sum(record.seconds for record in run.records) for run in self.runs.values()
        )

    def mean(self, score: str) -> float | None:
        """The mean of a field of the scores; None: it was not measured."""
        values = [getattr(run.scores, score) for run in self.runs.values()]
        return None if None in values else statistics.fmean(values)


class KeptRuns:
    """At most eight settings, in the order in which they were kept, and a reference among them.

    `rows` are numbered from 1; `reference` is the number of the row with which the others are
    compared.
    """

    def __init__(self) -> None:
        self.rows: list[Kept] = []
        self.reference = 1

    def keep(self, base: Base, runs: Sequence[Run], budget: Budget | None) -> str:
        """Keep the runs of a setting; a setting that is already there gets their seeds.

        Args:
            base: the base that was fine-tuned.
            runs: runs of the same recipe, each with its seed, scored on the same questions.
            budget: the cost of the recipe; None: not known.

        Returns:
            A sentence on what was kept.

        Raises:
            ValueError: for a ninth setting.
        """
        first = runs[0]
        row = Kept(
            base=base.name,
            folder=str(base.path),
            task=first.task_name,
            questions=_questions_of(first.scores.answers),
            recipe=_without_seed(first.recipe),
            budget=budget,
            runs={},
        )
        known = [old for old in self.rows if old.place == row.place and old.recipe == row.recipe]
        if known:
            (row,) = known
        elif len(self.rows) == MOST:
            raise ValueError(
                f"{MOST} settings are kept, and a ninth would not fit on a page; take one out first"
            )
        else:
            self.rows.append(row)
        # The steps between validations change nothing in what is learnt, and would part the runs.
        row.runs |= {
            run.recipe.seed: dataclasses.replace(
                run, recipe=dataclasses.replace(row.recipe, seed=run.recipe.seed), budget=budget
            )
            for run in runs
        }
        number = self.rows.index(row) + 1
        return f"run {number} has {counted(len(row.runs), 'seed')}"

    def drop(self, number: int) -> None:
        """Take a row out; the next rows move up. The first row replaces a lost reference."""
        row = self._row(number)
        reference = self.rows[self.reference - 1]
        self.rows.remove(row)
        self.reference = 1 if row is reference else self.rows.index(reference) + 1

    def refer_to(self, number: int) -> None:
        """Compare the others with this row."""
        self._row(number)
        self.reference = number

    def _row(self, number: int) -> Kept:
        if number not in range(1, len(self.rows) + 1):
            kept = f"give 1 to {len(self.rows)}" if self.rows else "nothing is kept yet"
            raise ValueError(f"there is no run {number}; {kept}")
        return self.rows[number - 1]

    # --- tables and verdicts ---

    @property
    def names(self) -> list[str]:
        """A name for each row: the first's base and task; for the others, what differs from it."""
        return [self._name(row) for row in self.rows]

    def _name(self, row: Kept) -> str:
        first = self.rows[0]
        if row is first:
            return f"{row.base} · {row.task}"
        differing = [
            name
            for name, same in (
                (row.base, (row.base, row.folder) == (first.base, first.folder)),
                (row.task, (row.task, row.questions) == (first.task, first.questions)),
            )
            if not same
        ]
        changes = run_summary.differences(first.recipe, row.recipe)
        return " · ".join([*differing, *([changes] if changes else [])])

    def verdict(self, row: Kept) -> str:
        """The verdict of `lab.compare` on a row against the reference."""
        reference = self.rows[self.reference - 1]
        if row is reference:
            return "the others are compared with it"
        if row.place != reference.place:
            return "another test: not compared"
        shared = sorted(row.runs.keys() & reference.runs.keys())
        if len(shared) < 2:
            return f"{counted(len(shared), 'seed')} in common; a verdict takes {SEEDS}"
        sides = ([side.runs[seed] for seed in shared] for side in (reference, row))
        try:
            found = compare(*sides)
        except ValueError as error:  # a score that is NaN, a metric of unknown direction
            return str(error)
        return dataclasses.replace(found, b="it").verdict

    def confounds(self, row: Kept) -> tuple[str, ...]:
        """What else may explain a difference from the reference."""
        reference = self.rows[self.reference - 1]
        if row is reference:
            return ()
        return confounds_of([*reference.runs.values(), *row.runs.values()])

    def table(self) -> pd.DataFrame:
        """A row for each setting: means over its seeds, shares between 0 and 1."""
        rows = [
            {
                "run": name,
                "seeds": len(row.runs),
                "metric": next(iter(row.runs.values())).scores.metric_name,
                "score": row.mean("value"),
                "loss": row.mean("loss"),
                "old_knowledge": row.mean("old_knowledge"),
                "strangers": row.mean("strangers"),
                "trained_parameters": row.budget and row.budget.trainable_parameters,
                "seconds": row.seconds,
                "verdict": self.verdict(row),
                "confounds": " ".join(self.confounds(row)),
            }
            for row, name in zip(self.rows, self.names, strict=True)
        ]
        index = pd.RangeIndex(1, len(rows) + 1, name="number")
        return pd.DataFrame(rows, index=index)

    def runs_table(self) -> pd.DataFrame:
        """A row for each seed of each setting: base, task, every field of the recipe, scores."""
        return pd.DataFrame(
            {
                "number": number,
                "base": row.base,
                "task": row.task,
                **dataclasses.asdict(run.recipe),
                "metric": run.scores.metric_name,
                "score": run.scores.value,
                "loss": run.scores.loss,
                "old_knowledge": run.scores.old_knowledge,
                "strangers": run.scores.strangers,
                "seconds": sum(record.seconds for record in run.records),
            }
            for number, row in enumerate(self.rows, 1)
            for run in row.runs.values()
        )

    @property
    def page(self) -> str:
        """The table as HTML, and under it what else may explain a difference."""
        if not self.rows:
            return markup.faint("Nothing is kept yet. Train, then press Keep.")
        heads = ["", "run", "seeds", "score", "old facts", "strangers", "trained", "training"]
        heads.append(f"beside run {self.reference}")
        rows, sentences = [], []
        for number, (row, name) in enumerate(zip(self.rows, self.names, strict=True), 1):
            other = self.confounds(row)
            flag = f" ⚑ {len(other)}" if other else ""
            rows.append([str(number), name, *_cells(row), self.verdict(row) + flag])
            sentences += [f"run {number}: {sentence}" for sentence in other]
        return markup.table("lora-lab-kept", heads, rows) + _folded_sentences(sentences)


def _cells(row: Kept) -> Iterator[str]:
    """The numbers of a row as text."""
    scores = [run.scores for run in row.runs.values()]
    mean = run_summary.score_text(scores[0].metric_name, row.mean("value"))
    ends = run_summary.score_range(scores)
    yield str(len(scores))
    yield f"{mean} ({ends})" if " to " in ends else mean
    for name in ("old_knowledge", "strangers"):
        share = row.mean(name)
        yield "–" if share is None else percent(share)
    yield in_short(row.budget.trainable_parameters) if row.budget else "–"
    yield f"{row.seconds:.1f} s"


def _folded_sentences(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    lines = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return (
        f"<details><summary>⚑ {counted(len(sentences), 'thing')} that may explain a difference, "
        f"beside what was meant</summary><ul>{lines}</ul></details>"
    )


def _questions_of(answers: Sequence[Answer]) -> tuple[tuple[str, str], ...]:
    return tuple((answer.prompt, answer.expected) for answer in answers)


def _without_seed(recipe: Recipe) -> Recipe:
    watched = {} if recipe.patience else {"eval_steps": None}  # without patience it has no effect
    return dataclasses.replace(recipe, seed=0, **watched)
