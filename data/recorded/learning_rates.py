"""Train a setting at several learning rates, for the recordings of notebooks 07 and 08."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import lora_lab as lab
from lora_lab.models.bases import Base
from lora_lab.tasks.examples import Task
from lora_lab.training.store import FINISHED, Run


def runs_at_each_rate(
    base: Base, tasks: Mapping[int, Task], fields: Mapping, rates: Sequence[float]
) -> Iterator[tuple[Run, Task, bool, dict]]:
    """Every run of a setting, with its task, whether its rate is the best, and facts to record.

    The best learning rate has the lowest mean of validation losses. Runs are kept in the store: a
    measurement that was stopped goes on.

    Args:
        base: what is trained.
        tasks: by seed.
        fields: of the recipe, all but the learning rate.
        rates: learning rates.
    """
    runs = {
        rate: [
            lab.sweep(
                base,
                task,
                [lab.Recipe(**fields, learning_rate=rate)],
                seeds=[seed],
                evaluate=False,
            ).runs[0]
            for seed, task in tasks.items()
        ]
        for rate in rates
    }
    losses = {rate: statistics.mean(map(last_loss, runs[rate])) for rate in rates}
    best = min(losses, key=losses.get)
    for rate in rates:
        for (seed, task), run in zip(tasks.items(), runs[rate], strict=True):
            facts = {"seed": seed, "learning_rate": rate, "status": run.status}
            yield run, task, rate == best, facts | {"validation_loss": last_loss(run)}


def last_loss(run: Run) -> float:
    """The validation loss after the last step; infinite for a run that diverged."""
    loss = run.records[-1].validation_loss if run.records else None
    return math.inf if loss is None or run.status != FINISHED else loss


def scores_on_test(model: object, task: Task) -> dict[str, float | None]:
    """The scores on the test that a recording keeps."""
    scores = lab.evaluate(model, task)
    return {"value": scores.value, "old_knowledge": scores.old_knowledge}
