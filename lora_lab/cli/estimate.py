"""`estimate`: what a fine-tune will cost, before it runs."""

import warnings
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli.options import (
    AnswerColumn,
    Count,
    Device,
    Json,
    PromptColumn,
    TaskSeed,
    recipe_options,
)
from lora_lab.cli.show import as_json, busy, say, table

if TYPE_CHECKING:
    from lora_lab.cost.gpus import Fit
    from lora_lab.models.bases import Base
    from lora_lab.records import Memory
    from lora_lab.tasks.examples import Task

GIB, MIB = 2**30, 2**20
PARTS = {  # of a budget's memory, in words
    "weights": "the base's weights",
    "adapters": "what is trained",
    "gradients": "its gradients",
    "optimizer": "the optimizer's state",
    "activations": "activations",
    "logits": "logits and their loss",
    "total": "at the peak",
}


@recipe_options
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
            metavar="TASK", help="A task or a file, for its lengths; else all are max-length."
        ),
    ] = None,
    n: Count = None,
    task_seed: TaskSeed = None,
    prompt: PromptColumn = None,
    answer: AnswerColumn = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Tell what a fine-tune costs: parameters, memory, time. Nothing is trained.

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
    about = {"--n": n, "--task-seed": task_seed, "--prompt": prompt, "--answer": answer}
    given = [name for name, value in about.items() if value is not None]
    if given and task is None:
        raise ValueError(f"{given[0]} says something of a task, and there is none; give --task")
    with busy("Counting …"):
        from lora_lab.cost import budget, estimates, gpus
        from lora_lab.machine.devices import choose_device, in_words
        from lora_lab.recipe import Recipe

        where = choose_device(device)
        what, how, lengths_of = model, Recipe(**recipe), None
        if task is not None:
            what, lengths_of = _load(model, device, task, n, task_seed, prompt, answer)
            how = replace(lengths_of.recipe, **recipe)
        shape = estimates.find_shape(what)
        told = estimates.estimate(what, how, lengths_of)
        lighter = replace(how, gradient_checkpointing=True)
        with warnings.catch_warnings(action="ignore"):  # told already
            checked = estimates.estimate(what, lighter, lengths_of)
        checkpointed, dtype = checked.memory, estimates.kept_in(what, shape)[0]
        fits = gpus.which_gpu(told.memory, checkpointed, dtype) if told.memory else ()
        rate = estimates.flops_per_second(shape, how, where)
        seconds = told.flops_per_step and estimates.expected_seconds(told.flops_per_step, rate)
        by_layer = budget.trained_by_layer(shape, how)
    if json:
        facts = {
            "model": shape.name,
            "recipe": asdict(how),
            **asdict(told),
            "trainable_by_layer": by_layer,
            "device": in_words(where),
            "flops_per_second": rate,
            "seconds_per_step": seconds,
            "memory_with_checkpointing": checkpointed,
            "usual_memory_with_checkpointing": checked.usual_memory,
            "gpus": [_facts(fit) for fit in fits],
        }
        as_json(facts)
        return
    share = told.trainable_parameters / told.total_parameters
    say(
        f"{shape.name}: {told.trainable_parameters:,} of {told.total_parameters:,} parameters are "
        f"trained ({100 * share:.3g} %){_each(by_layer)}"
    )
    if seconds:
        say(
            f"a step: {told.flops_per_step:.3g} FLOPs, {_between(*seconds)} on {in_words(where)} "
            f"({rate:.2g} FLOPs a second)"
        )
    if told.memory:
        _show_memory(told.memory, checkpointed)
        if how.method == "full":
            _show_usual(told.usual_memory, checked.usual_memory, dtype)
        _show_fits(fits)


def _load(
    model: str,
    device: str,
    task: str,
    n: int | None,
    seed: int | None,
    prompt: str | None,
    answer: str | None,
) -> tuple["Base", "Task"]:
    from lora_lab.cli.task_spec import Wanted
    from lora_lab.models.bases import load_base

    base = load_base(model, device=device)
    return base, Wanted(task).but(n=n, seed=seed, prompt=prompt, answer=answer).load(base)


def _each(by_layer: dict[int | None, int]) -> str:
    """How many are trained in a layer, or in the layers if they differ."""
    counts = {count for layer, count in by_layer.items() if layer is not None}
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    return f", {most:,} in a layer" if least == most else f", {least:,} to {most:,} in a layer"


def _between(least: float, most: float) -> str:
    """Two times with one unit: "1.2 to 4.4 s"."""
    unit, seconds = next(
        (unit, seconds)
        for unit, seconds in {"h": 3600, "min": 60, "s": 1, "ms": 1e-3}.items()
        if most >= 2 * seconds or unit == "ms"
    )
    return f"{least / seconds:.2g} to {most / seconds:.2g} {unit}"


def _show_memory(memory: "Memory", checkpointed: "Memory") -> None:
    from lora_lab.cost.memory import ERROR

    unit, name = _unit(memory.total)
    rows = [
        (words, *(f"{getattr(one, part) / unit:.2f}" for one in (memory, checkpointed)))
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
    unit, name = _unit(memory.total)
    mixed = "float32" if dtype == "float32" else "mixed precision"
    say(
        f"That is this lab's loop, which leaves the base as it was and trains a float32 copy. The "
        f"usual one\n({mixed}: 16 bytes a parameter, as in ZeRO, arXiv:1910.02054, section 3.1) "
        f"holds {memory.total / unit:.2f} {name}, checkpointed {checkpointed.total / unit:.2f}.",
        "",
    )


def _unit(size: int) -> tuple[int, str]:
    return (GIB, "GiB") if size >= GIB else (MIB, "MiB")


def _show_fits(fits: tuple["Fit", ...]) -> None:
    rows = []
    for fit in fits:
        left = f"{abs(fit.spare) / GIB:.1f} GiB {'left' if fit.spare >= 0 else 'too few'}"
        verdict = f"{fit.verdict}, {fit.note}" if fit.note and fit.spare >= 0 else fit.verdict
        rows.append((fit.card.name, f"{fit.card.usable / GIB:.1f}", verdict, left))
    table(("GPU", "usable GiB", "", ""), rows, "usable GiB")


def _facts(fit: "Fit") -> dict:
    return {
        "name": fit.card.name,
        "usable": fit.card.usable,
        "verdict": fit.verdict,
        "spare": fit.spare,
        "note": fit.note,
    }
