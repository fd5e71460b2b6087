"""Early stopping: the best validation loss of a run, and when its patience is at an end."""

import math
from collections.abc import Iterable, Sequence

from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord

FLAT_SHARE = 0.01  # a loss that falls by less is flat
FLAT_VALIDATIONS = 3  # at least this many validations in a row ...
FLAT_STEPS = 0.3  # ... over this share of the steps: less may be chance


class Validations:
    """The validations of a run so far: the best, and how many came after it.

    Only a lower loss is better, as for transformers' EarlyStoppingCallback with its usual threshold
    of 0. A loss that isn't a number is never better.
    """

    def __init__(self, records: Iterable[StepRecord] = ()) -> None:
        self.best: StepRecord | None = None  # of equal losses the first
        self.last: StepRecord | None = None
        self.without_better = 0
        for record in records:
            self.note(record)

    def note(self, record: StepRecord) -> bool:
        """Count a step; whether it has the best validation loss so far."""
        loss = record.validation_loss
        if loss is None:
            return False
        best = math.inf if self.best is None else self.best.validation_loss
        if loss < best:
            self.best, self.without_better = record, 0
        elif self.last is not None:
            self.without_better += 1
        self.last = record
        return self.best is record

    def exhaust(self, patience: int | None) -> bool:
        """Whether the patience is at an end; a patience of None or 0 never is."""
        return bool(patience) and self.without_better >= patience


def flat_since(records: Iterable[StepRecord]) -> StepRecord | None:
    """The validated step since which the validation loss has stayed the same, or got worse.

    No later validation loss is lower by more than FLAT_SHARE. None: it has fallen until lately, so
    that fewer than FLAT_VALIDATIONS validations or less than FLAT_STEPS of all steps came after.
    """
    validated = [record for record in records if record.validation_loss is not None]
    least, since = math.inf, None  # the least of the losses that come later
    for record in reversed(validated):
        if record.validation_loss * (1 - FLAT_SHARE) <= least:
            since = record
        least = min(least, record.validation_loss)
    if since is None:
        return None
    later = len(validated) - 1 - validated.index(since)
    long = validated[-1].step - since.step >= FLAT_STEPS * validated[-1].step
    return since if later >= FLAT_VALIDATIONS and long else None


def has_ended(records: Sequence[StepRecord], recipe: Recipe) -> bool:
    """Whether a run with these records has no step left: all are done, or patience has ended it."""
    if len(records) >= recipe.steps:
        return True
    return bool(recipe.patience) and Validations(records).exhaust(recipe.patience)


def kept_step(records: Sequence[StepRecord], recipe: Recipe) -> StepRecord | None:
    """The step whose weights an ended run keeps: the best validated with a patience, else the last.

    None: nothing is trained yet.
    """
    best = Validations(records).best if recipe.patience else None
    return best or (records[-1] if records else None)
