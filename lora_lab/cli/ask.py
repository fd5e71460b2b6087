"""`evaluate` and `chat`: a base, a run or an adapter scored or asked."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli import options
from lora_lab.cli.check import note_data
from lora_lab.cli.show import (
    as_json,
    busy,
    indented,
    note,
    say,
    score_facts,
    show_errors,
    show_scores,
)

if TYPE_CHECKING:
    from lora_lab.cli.resolve import NamedModel
    from lora_lab.cli.task_spec import TaskSpec, TrainingRows
    from lora_lab.models.bases import Base
    from lora_lab.tasks.examples import Task

Strength = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="How much of what was learnt: 0 the base, 1 as trained."),
]


# --- evaluate -----------------------------------------------------------------------------------


@options.grouped
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run, an adapter's folder or a base.")
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="A task or a file; default: what the run was trained on."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="test, validation or train.")
    ] = "test",
    base: options.BaseName = None,
    strength: Strength = None,
    *,
    examples: options.TaskOptions,
    answers: Annotated[
        int, typer.Option(metavar="COUNT", help="How many answers to show, wrong ones first.")
    ] = 3,
    store: options.Store = None,
    json: options.Json = False,
) -> None:
    """Score a run, an adapter or a base on a task.

    Choose between settings with --split validation; the test is for the end. A run makes the same
    splits again as when it was trained, and so does an export with its file. Wrong answers are
    shown first.

    \b
    Examples:
      lora-lab evaluate pocket --task new-facts
      lora-lab evaluate 3f2a9c --strength 0.5
      lora-lab evaluate my-adapter --base pocket --task sentiment --json
      lora-lab evaluate my-adapter --task my.csv --test new.csv --group-by person
    """
    from lora_lab.cli.resolve import chosen_store, find_model
    from lora_lab.cli.task_spec import ROWS_FILE, TaskSpec, TrainingRows

    if answers < 0:
        raise ValueError(f"--answers {answers} isn't a number of answers; give 0 for none, or more")
    subject = find_model(model, base=base, strength=strength, store=chosen_store(store))
    from lora_lab.models.bases import Base
    from lora_lab.training.evaluation import evaluate as scores_of

    rows = None if subject.run else TrainingRows.read(Path(model).expanduser() / ROWS_FILE)
    base_model = subject.model if isinstance(subject.model, Base) else subject.model.base
    spec = examples.of(TaskSpec(task) if task else _own_task(subject, model, rows))
    as_trained = _split_as_trained(spec, rows, examples, base_model)
    data = as_trained or spec.load(base_model)
    note_data(examples.of(rows.spec.but(task=spec.task)) if as_trained else spec, data)
    is_trained = rows is not None or (subject.run is None and not isinstance(subject.model, Base))
    if is_trained and as_trained is None and spec.test is None and Path(spec.task).is_file():
        note(_unknown_rows(rows))
    with busy("Evaluating …"):
        scores = scores_of(subject.model, data, split=split)
    if json:
        facts = {"model": model, "task": data.name, "base": base_model.name, "scores": scores}
        as_json(facts | score_facts(scores, data))
        return
    say(f"{data.name}, asked of {subject.about}", "")
    show_scores(scores, data)
    show_errors(scores)
    for shown in sorted(scores.answers, key=lambda answer: answer.right)[:answers]:
        mark = "right" if shown.right else "wrong"
        say("", indented(shown.prompt, "  asked   "), indented(shown.expected, "  wanted  "))
        say(indented(shown.given, f"  {mark}   "))


def _own_task(subject: "NamedModel", model: str, rows: "TrainingRows | None") -> "TaskSpec":
    """The task of the model's run, or of an export if that task is not a file."""
    from lora_lab.cli.resolve import task_of

    if subject.run is not None:
        return task_of(subject.run)
    if rows is not None and rows.spec.is_built_in:
        return rows.spec
    about = f"was trained on {rows.spec.task}" if rows else "does not say which task it is for"
    example = (
        f"where {rows.spec.task} is now" if rows else "new-facts (`lora-lab tasks` lists them)"
    )
    raise ValueError(f"{model!r} {about}; give one: --task {example}")


def _split_as_trained(
    spec: "TaskSpec", rows: "TrainingRows | None", examples: options.TaskOptions, base: "Base"
) -> "Task | None":
    """The task, split as for an export's training; None: it gives other training rows."""
    if rows is None:
        return None
    with contextlib.suppress(ValueError, TypeError):  # for example, the file lacks a column
        task = examples.of(rows.spec.but(task=spec.task)).load(base)
        return task if rows.are_of(task) else None
    return None


def _unknown_rows(rows: "TrainingRows | None") -> str:
    """The warning that a score may include rows that were trained on."""
    if rows is None:
        return (
            "This adapter does not say which rows it was trained on. If they are from this file, "
            "part of this score is of rows that it has seen: evaluate the run, or give held-out "
            "rows as --test."
        )
    return (
        f"It was trained on rows of {rows.spec.task}, and this file with these options gives "
        "other training rows. If the files share rows, part of this score is of rows that it has "
        "seen: give the file and the options of the training, or held-out rows as --test."
    )


# --- chat ---------------------------------------------------------------------------------------


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A run, an adapter's folder or a base; default: the newest run.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="One question; left out: as many as you like."),
    ] = None,
    strength: Strength = None,
    base: options.BaseName = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="COUNT", help="Where an answer is cut.")
    ] = 64,
    store: options.Store = None,
) -> None:
    """Ask a model; it does not remember the question before.

    \b
    Examples:
      lora-lab chat
      lora-lab chat pocket "Where does Ada Fell live?"
      lora-lab chat 3f2a9c --strength 0.5
      lora-lab chat smollm2 < questions.txt

    Through a pipe or from a file, each line is a question of its own.
    """
    questions = None if prompt is None else [prompt.strip()]
    if prompt is None and not sys.stdin.isatty():
        questions = [line.strip() for line in sys.stdin if line.strip()]
    if questions in ([], [""]):
        raise ValueError("the question is empty; give one in quotes, or through a pipe")
    from lora_lab.cli.resolve import chosen_store, find_model

    subject = find_model(model, base=base, strength=strength, store=chosen_store(store))
    if questions is not None:
        from lora_lab.training.evaluation import generate

        answers = generate(subject.model, questions, max_new_tokens=max_new_tokens)
        note(f"{subject.about} answers:")
        say(*answers)
        return
    note(f"You are asking {subject.about}.")
    _talk(subject, max_new_tokens)


def _talk(subject: "NamedModel", max_new_tokens: int) -> None:
    """Answer questions from the terminal until Ctrl-D."""
    from lora_lab.training.evaluation import generate

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` its arrow keys and history
    note("Each question stands alone. `/strength 0.5` changes how much of what was learnt counts.")
    note("Ctrl-D ends it.")
    while True:
        try:
            line = input("> ").strip()
            if line.startswith("/"):
                _set_strength(subject, line)
            elif line:
                say(generate(subject.model, [line], max_new_tokens=max_new_tokens)[0])
        except ValueError as error:  # the question is too long
            note(str(error))
        except (EOFError, KeyboardInterrupt):
            say("")
            return


def _set_strength(subject: "NamedModel", line: str) -> None:
    """Follow the line `/strength 0.5`; on another line, print what can be typed."""
    name, _, value = line.partition(" ")
    if name != "/strength" or not hasattr(subject.model, "strength"):
        note("There is `/strength 0.5`, where something was learnt; Ctrl-D ends the talk.")
        return
    try:
        subject.model.strength = float(value)
        note(f"The strength is {subject.model.strength:g} now.")
    except ValueError as error:
        note(str(error))
