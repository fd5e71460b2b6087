"""Whether a training fits into the free memory, checked before it begins."""

import dataclasses

from lora_lab.cost.estimates import more_memory
from lora_lab.cost.limits import free_memory
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.wording import memory_size


def check_room(base: Base, task: Task, recipe: Recipe) -> None:
    """Refuse a step that needs more memory than is free.

    Nothing is refused if the needed or the free memory is not known.

    Raises:
        MemoryError: with the needed and the free memory, and the batch size that would fit.
    """
    free = free_memory(base.device)
    needed = more_memory(base, task, recipe)
    if free is None or needed is None or needed <= free:
        return
    size, smaller = recipe.batch_size, needed
    while size > 1 and smaller > free:
        size //= 2
        smaller = more_memory(base, task, dataclasses.replace(recipe, batch_size=size))
    fits = f"batch_size={size} would fit" if smaller <= free else "no batch_size would fit"
    raise MemoryError(
        f"a step with batch_size={recipe.batch_size} needs about {memory_size(needed)} more "
        f"memory, and {memory_size(free)} are free; {fits}"
    )
