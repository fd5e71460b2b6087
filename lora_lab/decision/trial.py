"""`decide`: prompt, retrieval or LoRA, all tried on the same validation rows in a given time.

The rule that turns the measurements into a recommendation is in `lessons/deciding.py`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

from lora_lab.decision.asking import (
    Asked,
    Way,
    ask_in,
    best_of,
    in_words,
    joined,
    ways_to_ask,
    which_fit,
    with_test,
)
from lora_lab.decision.outcome import (
    KINDS,
    Decision,
    change_to,
    stands_for,
    with_measurements,
)
from lora_lab.decision.timed_sweep import step_seconds
from lora_lab.lessons.deciding import LORA, Situation, advise
from lora_lab.models.architecture import context_of
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import Scores, StepRecord
from lora_lab.tasks.examples import Example, Task
from lora_lab.training.evaluation import Model, evaluate
from lora_lab.training.fit import follow_fit
from lora_lab.training.loop import Diverged
from lora_lab.training.store import DEFAULT, Default, Run
from lora_lab.wording import counted

ASKING, TRAINING = 0.3, 0.5  # shares of the time; the rest is for asking the adapter, and the test
REHEARSED = 2  # questions that show what an answer costs in a way
FEWEST = 20  # validation rows below which a way is dropped rather than a row
WORTH_MORE = 5  # with fewer further validation rows, none are asked
FEWEST_STEPS = 20  # a shorter training teaches too little to be judged
CHECKS = 10  # validations in a training
PATIENCE = 3  # of these without a better loss, after which a training stops
RATES = (1.0, 3.0, 1 / 3)  # times the learning rate to start with, in this order
FURTHER = (9.0, 1 / 9, 27.0, 1 / 27)  # beyond an end, where that end was the best

Tell = Callable[[str], None]


def decide(
    base: Base,
    task: Task,
    *,
    minutes: float,
    situation: Situation,
    spent: float = 0.0,
    recipe: Recipe | None = None,
    instruction: str | None = None,
    test: bool = True,
    store: str | Path | Default | None = DEFAULT,
    tell: Tell | None = None,
) -> Decision:
    """Try every way on the same validation rows, recommend one, and ask it the test once.

    The time is shared out by measuring the cost of an answer in each way, and of a training step.
    If it is short, fewer rows are asked and fewer ways are tried; those left out are named. The
    test is not asked before the recommendation is made.

    Args:
        base: the base that is asked and trained; it stays as it was.
        task: a task with training, validation and test examples.
        minutes: wall time for everything.
        spent: seconds of it that are gone already.
        situation: the goal, the share that is needed, how often answers change, prices. The
            measurements replace its counts of right answers, and its number of examples.
        recipe: how LoRA begins; None: the task's own. Three times its learning rate and a third
            are tried too, and rates beyond an end that was best. Steps are cut if time is short.
        instruction: words to try before each prompt; None: written from the answers, if it can be.
        test: whether the test is asked at the end; False keeps it for `final_test`, after a sweep.
        store: where the trainings are kept, as in `fit`.
        tell: called with a line of text at each event; None: not called.

    Raises:
        ValueError: if there is too little time to try anything, with the minutes that would do.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"{minutes:g} minutes leave no time to try anything; give 1 or more")
    tell = tell or (lambda words: None)
    start = time.monotonic() - spent
    trial = _Trial(base, task, 60 * minutes, tell, store, start=start)
    trial.ask_ways(instruction)
    trial.train_ways(recipe or task.recipe)
    more_rows = trial.ask_more()
    situation = with_measurements(situation, task, trial.tried)
    advice = advise(situation)
    chosen = stands_for(advice.recommendation, trial.tried)
    tell(f"recommended: {advice.recommendation}." + (" Now the test, once." if test else ""))
    asked, bare = trial.ask_test(chosen) if test else (None, None)
    run = trial.runs.get(str(stands_for(LORA, trial.tried)))
    before, after = trial.old_skills(run)
    return Decision(
        task=task,
        base_name=base.name,
        rows=len(trial.rows),
        more_rows=more_rows,
        tried=tuple(trial.tried),
        left_out=trial.left_out,
        situation=situation,
        advice=advice,
        chosen=chosen,
        test=asked,
        bare_test=bare,
        change=change_to(asked, bare, task),
        run=run,
        before=before,
        after=after,
        minutes=minutes,
        seconds=trial.spent,
    )


@dataclass
class _Trial:
    """The ways tried so far, and the time that is left."""

    base: Base
    task: Task
    seconds: float  # given
    tell: Tell
    store: str | Path | Default | None = None  # of the trainings
    tried: list[Asked] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)  # by the name of their way
    ways: dict[str, Way] = field(default_factory=dict)  # those that were asked
    rows: Sequence[Example] = ()  # the validation questions of every way
    start: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.start

    # --- asking -----------------------------------------------------------------------------

    def ask_ways(self, instruction: str | None) -> None:
        """Ask the base in each way that there is time for, all on the same rows."""
        costs = self._costs(ways_to_ask(self.base, self.task, instruction))
        bare = min(costs.values())
        validation = self.task.validation
        enough = min(FEWEST, len(validation))
        while True:
            asking = (ASKING * self.seconds - self.spent) / sum(costs.values())
            again = (1 - ASKING - TRAINING) * self.seconds / 2 / bare / len(RATES)
            rows = min(len(validation), int(min(asking, again)))
            if rows >= enough:
                break
            dearest = max(costs, key=costs.__getitem__)
            if len(costs) == 1:
                seconds = max(
                    (enough * bare + self.spent) / ASKING,  # what is spent counts as asking
                    enough * bare * 2 * len(RATES) / (1 - ASKING - TRAINING),
                )
                raise ValueError(
                    f"{self.seconds / 60:g} minutes are too few: {self.spent:.0f} s went to the "
                    f"start, an answer of {self.base.name} takes {bare:.2g} s, and {enough} "
                    "validation rows are the fewest that tell anything. Most of the time is kept "
                    f"for training and the test; give {math.ceil(1.2 * seconds / 60)} minutes or "
                    "more"
                )
            cost = costs.pop(dearest)
            self.left_out[dearest] = f"an answer takes {cost:.2g} s, which left no time for it"
        self.rows = validation[:rows]
        self.tell(f"{counted(rows, 'validation row')} for each of {counted(len(costs), 'way')}")
        for name in costs:
            self._ask(self.ways[name], self.base)

    def _costs(self, ways: Sequence[Way]) -> dict[str, float]:
        """Seconds of an answer in each way that fits into the context, the bare prompt first."""
        fits = which_fit(self.base, self.task.validation)
        first = [*compress(self.task.validation, fits)][:REHEARSED]
        if not first:
            raise ValueError(
                f"no validation row fits into the {context_of(self.base.model):,} tokens of "
                f"{self.base.name}'s context, its answer included; shorten the prompts, or give a "
                "base with a longer context"
            )
        ask_in(ways[0], self.base, self.task, first)  # the first answer of all is slower
        costs = {}
        for way in ways:
            asked = ask_in(way, self.base, self.task, first)
            if asked.unasked == asked.count:
                self.left_out[str(way)] = (
                    f"a prompt of about {asked.prompt_tokens:,.0f} tokens and its answer are more "
                    f"than the {context_of(self.base.model):,} tokens of the model's context"
                )
                continue
            costs[str(way)], self.ways[str(way)] = asked.seconds, way
        return costs

    def _ask(self, way: Way, model: Model) -> None:
        """Ask the validation rows in a way, keep the answers, and report their share."""
        asked = ask_in(way, model, self.task, self.rows)
        self.tried.append(asked)
        self.tell(f"{asked}: {in_words(asked)}")

    # --- training ---------------------------------------------------------------------------

    @property
    def learnt(self) -> Task:
        """The task as it is trained on: it validates on the rows that all ways are asked."""
        return replace(self.task, validation=list(self.rows))

    def train_ways(self, recipe: Recipe) -> None:
        """Train an adapter at each learning rate that there is time for, and ask it the same."""
        step = step_seconds(self.base, self.learnt, recipe)
        checks = CHECKS * len(self.rows) / (3 * recipe.batch_size)  # in steps: no backward pass
        room = (ASKING + TRAINING) * self.seconds - self.spent
        steps = min(recipe.steps, int(room / step - checks))
        if steps < min(FEWEST_STEPS, recipe.steps):
            self.left_out["LoRA"] = (
                f"a step takes {step:.2g} s, which left time for {max(steps, 0)} of "
                f"{counted(recipe.steps, 'step')}"
            )
            return
        each = (steps + checks) * step
        measured: dict[float, float] = {}  # times the learning rate: the share of right answers
        for times in (*RATES, *FURTHER):
            if times in FURTHER and not _is_beyond_the_best(times, measured):
                continue
            rate = float(f"{times * recipe.learning_rate:.2g}")
            way = Way(name="LoRA", choice=f"rate {rate:g}, up to {counted(steps, 'step')}")
            if self.runs and self.spent + each > (ASKING + TRAINING) * self.seconds:
                why = f"a training takes about {each:.0f} s, and none was left"
                if times in FURTHER:
                    end = "largest" if times > 1 else "smallest"
                    why += f"; it may be better, since the best rate is the {end} of those"
                self.left_out[str(way)] = why
                continue
            settings = replace(
                recipe,
                learning_rate=rate,
                steps=steps,
                warmup_steps=min(recipe.warmup_steps, steps - 1),
                eval_steps=max(1, steps // CHECKS),
                patience=PATIENCE,
            )
            self._train(way, settings, reserve=2 * len(self.rows) * self.tried[0].seconds)
            if str(way) in self.runs:
                measured[times] = self.tried[-1].share

    def _train(self, way: Way, recipe: Recipe, reserve: float) -> None:
        """Train with a recipe and ask the adapter; stop in time for the rest of the work."""
        self.tell(f"{way}: trains")
        kept = {"store": self.store, "evaluate": False}
        followed = follow_fit(self.base, self.learnt, recipe, **kept)
        with closing(followed):
            try:
                for news in followed:
                    late = self.spent > self.seconds - reserve
                    if isinstance(news, StepRecord) and late and news.step < recipe.steps:
                        self.left_out[str(way)] = f"time was up at step {news.step}"
                        return
            except Diverged as error:
                self.left_out[str(way)] = str(error)
                return
        self._ask(way, news)
        self.runs[str(way)], self.ways[str(way)] = news, way

    # --- more rows ---------------------------------------------------------------------------

    def ask_more(self) -> int:
        """Ask the best way of each kind the remaining rows, as many as there is time for.

        Returns:
            How many further rows each of them was asked.
        """
        kinds = [[asked for asked in self.tried if asked.name in names] for names in KINDS.values()]
        best = [best_of(ways) for ways in kinds if ways]
        dearest = max(asked.seconds for asked in best)
        test = len(self.task.test) * (dearest + self.tried[0].seconds)
        room = 0.9 * (self.seconds - self.spent) - test
        rest = self.task.validation[len(self.rows) :]
        count = min(len(rest), int(room / sum(asked.seconds for asked in best)))
        if count < WORTH_MORE:
            return 0
        self.tell(f"time is left for {counted(count, 'row')} more, for the best of each kind")
        whole = []
        for asked in best:
            model = self.runs.get(str(asked), self.base)
            more = ask_in(self.ways[str(asked)], model, self.task, rest[:count])
            whole.append(joined(asked, more, self.task))
        for asked, longer in zip(best, whole, strict=True):
            self.tried[self.tried.index(asked)] = longer
            self.tell(f"{longer}: {in_words(longer)}")
        return count

    # --- the end ----------------------------------------------------------------------------

    def ask_test(self, chosen: Asked) -> tuple[Asked, Asked | None]:
        """The test in the chosen way and bare, with as many rows as there is time for."""
        model = self.runs.get(str(chosen), self.base)
        bare = self.tried[0]
        both = chosen.seconds + (0 if chosen is bare else bare.seconds)
        room = self.seconds - self.spent
        rows = max(min(len(self.task.test), int(room / both)), min(FEWEST, len(self.task.test)))
        if rows < len(self.task.test):
            self.left_out["the rest of the test"] = (
                f"time was left for {rows} of {counted(len(self.task.test), 'row')}"
            )
        questions = self.task.test[:rows]
        if str(chosen) in self.runs and rows == len(self.task.test):
            run = self.runs[str(chosen)]
            self.runs[str(chosen)], test = with_test(self.base, self.learnt, run, chosen)
        else:
            test = ask_in(self.ways[str(chosen)], model, self.task, questions)
        if chosen is bare:
            return test, None
        return test, ask_in(self.ways[str(bare)], self.base, self.task, questions)

    def old_skills(self, run: Run | None) -> tuple[Scores | None, Scores | None]:
        """The old knowledge of base and adapter, if the task asks for it."""
        if run is None or not self.task.old_knowledge:
            return None, None
        few = replace(self.task, validation=self.task.validation[:1])  # its answers are not read
        before = evaluate(self.base, few, split="validation")
        return before, run.scores or evaluate(run, few, split="validation")


def _is_beyond_the_best(times: float, measured: Mapping[float, float]) -> bool:
    """Whether the next rate towards the middle was the best of all, and no other equals it."""
    best = [tried for tried, share in measured.items() if share == max(measured.values())]
    return len(best) == 1 and math.isclose(best[0], times / 3 if times > 1 else times * 3)
