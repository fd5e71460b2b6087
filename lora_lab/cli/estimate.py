"""`estimate`: what a fine-tune will cost, before it runs."""

import warnings
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli import options
from lora_lab.cli.check import note_data
from lora_lab.cli.show import as_json, busy, say, table
from lora_lab.wording import memory_unit

if TYPE_CHECKING:
    from lora_lab.cost.gpus import Fit
    from lora_lab.records import Memory

GIB = 2**30
PARTS = {  # of a budget's memory, in words
    "weights": "the base's weights",
    "adapters": "what is trained",
    "gradients": "its gradients",
    "optimizer": "the optimizer's state",
    "activations": "activations",
    "logits": "logits and their loss",
    "total": "at the peak",
}


@options.grouped
def estimate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="pocket, smollm2, llama-7b …, or a folder with config.json."
        ),
    ],
    recipe: dict,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="A task or a file, for its lengths; else all have max-length."
        ),
    ] = None,
    *,
    examples: options.TaskOptions,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Show what a fine-tune costs: parameters, memory, time. Nothing is trained.

    MODEL is a well-known model by its name, or a folder; weights are not needed. With --task it
    is a base that is here, and the recipe starts from the task's own.

    Every field of lab.Recipe is an option. After --targets names may stand with spaces between
    them, so MODEL comes before it.

    \b
    Examples:
      lora-lab estimate llama-7b --r 8 --targets q_proj v_proj
      lora-lab estimate llama-3.1-8b --quantize nf4 --max-length 1024
      lora-lab estimate llama-2-70b --method full --json
      lora-lab estimate pocket --task sentiment
    """
    in_use = [name for name, value in asdict(examples).items() if value is not None]
    if in_use and task is None:
        option = f"--{in_use[0].replace('_', '-')}"
        raise ValueError(f"{option} is about a task, and no task is given; give --task")
    if task is None:
        from lora_lab.cost.known_models import find_named

        find_named(model)  # refuses a misspelt name before torch is imported
    with busy("Counting …"):
        from lora_lab.cost import budget, estimates, gpus
        from lora_lab.machine.devices import choose_device, in_words
        from lora_lab.recipe import Recipe

        target = choose_device(device)
        source, settings, data = model, Recipe(**recipe), None
        if task is not None:
            from lora_lab.cli.task_spec import TaskSpec

            spec = examples.of(TaskSpec(task))
            source, data = spec.load_with_base(model, device)
            settings = replace(data.recipe, **recipe)
            note_data(spec, data, source, settings.max_length)
        shape = estimates.find_shape(source)
        cost = estimates.estimate(source, settings, data)
        saving = replace(settings, gradient_checkpointing=True)
        with warnings.catch_warnings(action="ignore"):  # the first estimate has warned
            checkpointed = estimates.estimate(source, saving, data)
        dtype = estimates.dtype_and_device(source, shape)[0]
        others, lighter = cost.trainer_memory, checkpointed.trainer_memory
        fits = gpus.which_gpu(others, lighter, dtype) if others and lighter else ()
        rate = estimates.flops_per_second(shape, settings, target)
        seconds = cost.flops_per_step and estimates.expected_seconds(cost.flops_per_step, rate)
        by_layer = budget.trained_by_layer(shape, settings)
    if json:
        facts = {
            "model": shape.name,
            "recipe": asdict(settings),
            **asdict(cost),
            "trainable_by_layer": by_layer,
            "device": in_words(target),
            "flops_per_second": rate,
            "seconds_per_step": seconds,
            "memory_with_checkpointing": checkpointed.memory,
            "usual_memory_with_checkpointing": checkpointed.usual_memory,
            "trainer_memory_with_checkpointing": checkpointed.trainer_memory,
            "gpus": [_fit_facts(fit) for fit in fits],
        }
        as_json(facts)
        return
    share = cost.trainable_parameters / cost.total_parameters
    say(
        f"{shape.name}: {cost.trainable_parameters:,} of {cost.total_parameters:,} parameters are "
        f"trained ({100 * share:.3g} %){_per_layer(by_layer)}"
    )
    if seconds:
        say(
            f"a step: {cost.flops_per_step:.3g} FLOPs, {_time_range(*seconds)} on "
            f"{in_words(target)} ({rate:.2g} FLOPs a second)"
        )
    if cost.memory:
        _show_memory(cost.memory, checkpointed.memory)
        if settings.method == "full":
            _show_usual(cost.usual_memory, checkpointed.usual_memory, dtype)
        if fits:
            _show_fits(fits, others, lighter)


def _per_layer(by_layer: dict[int | None, int]) -> str:
    """The number of trained parameters in a layer, as a range if the layers differ."""
    counts = {count for layer, count in by_layer.items() if layer is not None}
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    return f", {most:,} in a layer" if least == most else f", {least:,} to {most:,} in a layer"


def _time_range(least: float, most: float) -> str:
    """Two times with one unit: "1.2 to 4.4 s"."""
    unit, seconds = next(
        (unit, seconds)
        for unit, seconds in {"h": 3600, "min": 60, "s": 1, "ms": 1e-3}.items()
        if most >= 2 * seconds or unit == "ms"
    )
    return f"{least / seconds:.2g} to {most / seconds:.2g} {unit}"


def _show_memory(memory: "Memory", checkpointed: "Memory") -> None:
    from lora_lab.cost.memory import ERROR

    name, unit = memory_unit(memory.total)
    rows = [
        (words, *(f"{getattr(column, part) / unit:.2f}" for column in (memory, checkpointed)))
        for part, words in PARTS.items()
    ]
    say("")
    table(
        (f"memory, each part at its most ({name})", "plain", "checkpointed"),
        rows,
        "plain, checkpointed",
    )
    say(f"The peak is right within {ERROR:.0%}.", "")


def _show_usual(memory: "Memory", checkpointed: "Memory", dtype: str) -> None:
    name, unit = memory_unit(memory.total)
    mixed = "float32" if dtype == "float32" else "mixed precision"
    say(
        f"That is this lab's loop, which leaves the base as it was and trains a float32 copy. The "
        f"usual loop\n({mixed}: 16 bytes a parameter, as in ZeRO, arXiv:1910.02054, section 3.1) "
        f"holds {memory.total / unit:.2f} {name}, checkpointed {checkpointed.total / unit:.2f}.",
        "",
    )


def _show_fits(fits: tuple["Fit", ...], memory: "Memory", checkpointed: "Memory") -> None:
    from lora_lab.cost.gpus import ERROR, FITS, FORETOLD, NOT, cached

    rows = []
    for fit in fits:
        left = f"{abs(fit.spare) / GIB:.1f} GiB {'left' if fit.spare >= 0 else 'too few'}"
        verdict = f"{fit.verdict}, {fit.note}" if fit.note and fit.verdict != NOT else fit.verdict
        rows.append((fit.card.name, f"{fit.card.usable / GIB:.1f}", verdict, left))
    name, unit = memory_unit(memory.total)
    held, kept = memory.total / unit, cached(memory) / unit
    lighter = checkpointed.total / unit
    say(
        f"On a GPU transformers' Trainer with PEFT holds {held:.2f} {name} in tensors "
        f"(checkpointed {lighter:.2f}),\nand torch may keep {kept:.2f} beside them.",
        "",
    )
    table(("GPU", "usable GiB", "", ""), rows, "usable GiB")
    failed, ran = FORETOLD["out of memory"], FORETOLD["ran"]
    say(
        "",
        f"fits: both have room, and {ERROR:.0%} more. at the edge: the tensors have room, the rest "
        "may not.",
        f"Of {sum(failed.values())} published runs that ran out of memory, this says of "
        f"{failed[NOT]} that they do not fit;\nof {sum(ran.values())} that ran, of {ran[FITS]} "
        "that they fit. The estimate was made without them.",
    )


def _fit_facts(fit: "Fit") -> dict:
    return {
        "name": fit.card.name,
        "usable": fit.card.usable,
        "verdict": fit.verdict,
        "spare": fit.spare,
        "note": fit.note,
    }
