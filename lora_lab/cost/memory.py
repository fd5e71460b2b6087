"""The memory of a training step, part by part: a step is traced, and nothing is run.

Only layers that differ are traced. Each traced layer counts as often as the model has it. All sizes
are in bytes.
"""

from lora_lab.cost.budget import Batch
from lora_lab.cost.stacks import TRAINER, Stack
from lora_lab.cost.static_memory import (
    Trained,
    adapter_bytes,
    lab_static_memory,
    stack_static_memory,
    stack_tensors,
    trained_tensors,
    usual_static_memory,
)
from lora_lab.cost.steps import PARTS, Peaks, step_peaks
from lora_lab.models.architecture import Shape
from lora_lab.recipe import Recipe
from lora_lab.records import Memory

ERROR = 0.1  # a share of the total, either way; measured on a CPU


def memory(
    shape: Shape,
    recipe: Recipe,
    batch: Batch,
    dtype: str = "float32",
    device: str = "cpu",
    validation: Batch | None = None,
) -> Memory:
    """The memory of a run of `lora_lab.training.loop`, part by part, and at its peak.

    The total is right within `ERROR`, as measured on a CPU with the model's own forward pass. A
    Llama in float32 takes less on a CPU (`models/lean.py`), save what is kept of frozen layers.

    Args:
        shape: the base's.
        recipe: the choices of the training. If it quantises, the base was loaded quantised.
        batch: the batch of a pass.
        dtype: of the base; where it is quantised, of the products.
        device: "cuda" for a GPU with memory of its own, else "cpu".
        validation: the largest batch of the validations between the steps; None: no validations.

    Raises:
        ValueError: for a recipe that does not fit the model, and for a model whose step can't be
            traced, such as an encoder-decoder.
    """
    trained = trained_tensors(shape, recipe, dtype)
    step = step_peaks(shape, recipe, batch, dtype)
    peaks = [_with_update(step, shape, recipe, trained)]
    if validation:
        peaks.append(step_peaks(shape, recipe, validation, dtype, "score"))
    return _memory_at_peak(lab_static_memory(shape, recipe, dtype, device), peaks)


def usual_memory(shape: Shape, recipe: Recipe, batch: Batch, dtype: str = "float32") -> Memory:
    """The memory of a training step in a usual loop, which keeps no copy of the last good weights.

    Full fine-tuning then trains the base itself: in float32, or on a 16-bit base in mixed precision
    (`usual_static_memory` has the bytes). Papers and rules of thumb count this memory.
    """
    trained = trained_tensors(shape, recipe, dtype, usual=True)
    mixed = recipe.method == "full" and dtype != "float32"
    what = "mixed step" if mixed else "step"
    peaks = step_peaks(shape, recipe, batch, dtype, what)
    peaks = _with_update(peaks, shape, recipe, trained)
    return _memory_at_peak(usual_static_memory(shape, recipe, dtype), [peaks])


def stack_memory(
    shape: Shape, recipe: Recipe, batch: Batch, dtype: str, stack: Stack = TRAINER
) -> Memory:
    """The memory of the tensors of a step on a GPU, in another training program.

    Raises:
        ValueError: as `memory` does.
    """
    full = recipe.method == "full" and dtype != "float32"
    peaks = step_peaks(shape, recipe, batch, dtype, "mixed step" if full else "step", stack)
    trained = stack_tensors(shape, recipe, dtype, stack)
    if recipe.optimizer == "adamw":  # torch updates all tensors at once, with a copy of each
        update = 2 * sum(tensor.bytes for tensor in trained)
        peaks = peaks._replace(together=max(peaks.together, update))
    return _memory_at_peak(stack_static_memory(shape, recipe, dtype, stack), [peaks])


def _memory_at_peak(always: dict[str, int], peaks: list[Peaks]) -> Memory:
    comes_and_goes = {part: max(getattr(peak, part) for peak in peaks) for part in PARTS}
    total = sum(always.values()) + max(peak.together for peak in peaks)
    return Memory(**always, **comes_and_goes, total=total)


def _with_update(peaks: Peaks, shape: Shape, recipe: Recipe, trained: list[Trained]) -> Peaks:
    """The peaks of a step with the optimizer's update, which follows the last gradient."""
    gradients = sum(tensor.bytes for tensor in trained)
    most = {}
    if recipe.method == "adalora":  # the orthogonality term's gradients, before they are added
        twice = gradients + adapter_bytes(shape, recipe, trained)
        most = {"gradients": max(peaks.gradients, twice), "together": twice}
    elif recipe.optimizer == "adamw":  # it makes two tensors as large as a parameter
        most["together"] = gradients + 2 * max(tensor.bytes for tensor in trained)
    most["together"] = max(peaks.together, most.get("together", 0))
    return peaks._replace(**most)
