"""Whether a step can be taken here at all, checked before its adapter is made."""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch

from lora_lab.cost.estimates import memory_beside_base, sizes_drawn
from lora_lab.cost.memory import ERROR
from lora_lab.machine import resources
from lora_lab.models.architecture import adapted_matrices, context_of
from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import modules_of
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Encoded, check_passes
from lora_lab.wording import memory_size

AT_LEAST = 8  # bytes for each number of an adapter: float32, and its gradient


def check_fits(base: Base, encoded: Sequence[Encoded], recipe: Recipe) -> None:
    """Refuse a step that repeats the data many times, or that needs more memory than is free.

    Where the free memory is not known, no step is refused for its memory.

    Raises:
        ValueError: with what the step needs, what is free, and what to change.
    """
    check_passes(len(encoded), recipe)
    free = free_memory(base.device)
    if free is None:
        return
    modules = modules_of(base.model, base.name)
    field, r = ("init_r", recipe.init_r) if recipe.method == "adalora" else ("r", recipe.r)
    numbers = sum(
        r * (matrix.in_features + matrix.out_features)
        for matrix in adapted_matrices(modules, recipe)
    )
    if AT_LEAST * numbers > free:
        raise ValueError(
            f"{field}={r} makes an adapter of {numbers:,} numbers: with their gradients "
            f"{memory_size(AT_LEAST * numbers)}, and {memory_size(free)} are free; give a "
            f"smaller {field} (8 is usual)"
        )
    tokens = recipe.batch_size * min(len(example.input_ids) for example in encoded)
    width = base.model.config.get_text_config().hidden_size
    needed = tokens * width * base.dtype.itemsize  # one layer's output; a step takes more
    if needed <= free:
        estimate = memory_beside_base(base, recipe, islice(sizes_drawn(encoded, recipe), 1))
        needed = 0 if estimate is None else (1 - ERROR) * estimate
    if needed > free:
        whole = recipe.method == "full"
        raise ValueError(
            f"a step with batch_size={recipe.batch_size}{'' if whole else f' and {field}={r}'} "
            f"needs {memory_size(needed)} more memory at least, and {memory_size(free)} are free; "
            "give a smaller batch_size (more gradient_accumulation_steps make up for it), a "
            f"smaller max_length or {'method=lora' if whole else f'a smaller {field}'}"
        )


def check_context(base: Base, encoded: Sequence[Encoded]) -> None:
    """Refuse examples with more tokens than the model has positions for.

    GPT-2 fails on them in mid-training. A model with rotary positions goes on, although it has
    never seen such positions.

    Raises:
        ValueError: with both numbers, and the `max_length` that leaves such examples out.
    """
    context = context_of(base.model)
    longest = max((len(example.input_ids) for example in encoded), default=0)
    if context is not None and longest > context:
        raise ValueError(
            f"an example has {longest:,} tokens, and {base.name} has positions for {context:,}; "
            f"give max_length={context}, which leaves out what is longer"
        )


def free_memory(device: torch.device) -> int | None:
    """The free bytes of a device's memory; None: not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return resources.memory()[1] if device.type == "cpu" else None


def largest_run(recipes: Iterable[Recipe]) -> Recipe:
    """The recipe of the run that takes the most memory, by the choices that weigh most."""
    return max(recipes, key=lambda of: (of.method == "full", of.batch_size, of.loss_on, of.r))
