"""The learning-rate finder: a short run with a growing learning rate."""

import dataclasses
from contextlib import suppress

from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.loop import Diverged, Training


def try_learning_rates(
    base: Base, task: Task, recipe: Recipe, *, lowest: float = 1e-5, highest: float = 1.0
) -> tuple[StepRecord, ...]:
    """The learning-rate finder: one short run whose rate grows by the same factor at each step.

    It takes `recipe.steps` steps from the lowest rate to the highest, without warm-up or decay. It
    ends early once the loss is far too high. Each record holds its rate, and the loss before the
    step.

    Raises:
        ValueError: if the rates do not grow, or there are fewer than two steps.

    Source:
        Smith, arXiv:1506.01186, section 3.3, whose rate grows linearly; by a factor, as in fastai.
    """
    if not 0 < lowest < highest or recipe.steps < 2:
        raise ValueError(
            f"{recipe.steps} steps from {lowest:g} to {highest:g} try no range of learning rates; "
            "give 2 steps or more, a lowest above 0 and a highest above that"
        )
    growth = (highest / lowest) ** (1 / (recipe.steps - 1))
    flat = {"learning_rate": lowest, "lr_scheduler_type": "constant", "warmup_steps": 0}
    flat["patience"] = None  # it is the loss that ends it
    training = Training(base, task, dataclasses.replace(recipe, **flat))
    with suppress(Diverged):
        for record in training:
            rate = record.learning_rate * growth
            training.recipe = dataclasses.replace(training.recipe, learning_rate=rate)
    return tuple(training.records)
