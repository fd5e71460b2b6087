"""`final_test`: the test, asked only once, after everything was chosen on validation."""

import time
from dataclasses import replace

from lora_lab.decision.asking import Way, ask_in, ways_to_ask, with_test
from lora_lab.decision.outcome import Decision, change_to, stands_for, with_measurements
from lora_lab.lessons.deciding import LORA, advise
from lora_lab.models.bases import Base
from lora_lab.training.store import Run
from lora_lab.wording import counted


def final_test(base: Base, decision: Decision, run: Run | None = None) -> Decision:
    """The decision with its test: the way that validation prefers is asked the test rows, once.

    Args:
        base: the decision's base.
        decision: made with `test=False`.
        run: an adapter that was trained since, such as `sweep.best()[0]`. It is asked the same
            validation rows as the ways that were tried, and joins them. None: there is none.

    Returns:
        The decision with the run among the tried ways, its recommendation now, and the test of the
        chosen way and of the bare prompt. If the run is stored, its test scores are stored too.

    Raises:
        ValueError: if the test was asked before; if the run is of other examples or another base.
    """
    if decision.test is not None:
        raise ValueError(
            f"the test was asked already: {decision.test} has {decision.test.right} of "
            f"{decision.test.count}. Asked again after another choice it would flatter; collect "
            "new rows for another test"
        )
    start, task, tried = time.monotonic(), decision.task, [*decision.tried]
    own = decision.run
    if run is not None:
        _check_same(run, decision)
        choice = f"swept: r {run.recipe.r}, rate {run.recipe.learning_rate:g}, "
        way = Way(name=LORA, choice=choice + counted(run.recipe.steps, "step"))
        rows = task.validation[: decision.rows + decision.more_rows]
        tried.append(ask_in(way, run, task, rows))
        own = run
    situation = with_measurements(decision.situation, task, tried)
    advice = advise(situation)
    chosen = stands_for(advice.recommendation, tried)
    if chosen.name == LORA:
        swept = run is not None and chosen is tried[-1]
        own = run if swept else decision.run
        # the trainings of `decide` validated only on the rows that it asked
        learnt = task if swept else replace(task, validation=task.validation[: decision.rows])
        own, test = with_test(base, learnt, own, chosen)
    else:
        words = next((asked.choice for asked in tried if asked.name == "instruction"), None)
        ways = {str(way): way for way in ways_to_ask(base, task, words)}
        test = ask_in(ways[str(chosen)], base, task, task.test)
    bare = None
    if chosen is not tried[0]:
        bare = ask_in(Way(name="prompt"), base, task, task.test)
    return replace(
        decision,
        tried=tuple(tried),
        situation=situation,
        advice=advice,
        chosen=chosen,
        test=test,
        bare_test=bare,
        change=change_to(test, bare, task),
        run=own,
        after=own.scores if own is not None and decision.after is not None else decision.after,
        seconds=decision.seconds + time.monotonic() - start,
    )


def _check_same(run: Run, decision: Decision) -> None:
    """Refuse a run of another base or task."""
    if (run.base_name, run.task_name) != (decision.base_name, decision.task.name):
        raise ValueError(
            f"the run learned {run.task_name!r} on {run.base_name}, and the decision is about "
            f"{decision.task.name!r} on {decision.base_name}; give a run of the same task and base"
        )
