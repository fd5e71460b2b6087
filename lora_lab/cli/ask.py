"""`evaluate`, `chat` and `export`: what can be done with a base, a run or an adapter."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli.options import (
    AnswerColumn,
    BaseName,
    Count,
    Json,
    PromptColumn,
    Store,
    TaskSeed,
)
from lora_lab.cli.show import as_json, busy, indented, note, say, show_scores

if TYPE_CHECKING:
    from lora_lab.cli.resolve import Found
    from lora_lab.cli.task_spec import Wanted

Strength = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="How much of what was learnt: 0 the base, 1 as trained."),
]


# --- evaluate -----------------------------------------------------------------------------------


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
    base: BaseName = None,
    strength: Strength = None,
    n: Count = None,
    task_seed: TaskSeed = None,
    prompt: PromptColumn = None,
    answer: AnswerColumn = None,
    answers: Annotated[int, typer.Option(metavar="COUNT", help="How many answers to show.")] = 3,
    store: Store = None,
    json: Json = False,
) -> None:
    """Score a run, an adapter or a base on a task.

    Choose between settings with --split validation; the test is for the end.

    \b
    Examples:
      lora-lab evaluate pocket --task new-facts
      lora-lab evaluate 3f2a9c --strength 0.5
      lora-lab evaluate my-adapter --base pocket --task sentiment --json
    """
    from lora_lab.cli.resolve import chosen_store, find_model
    from lora_lab.cli.task_spec import Wanted
    from lora_lab.models.bases import Base
    from lora_lab.training.evaluation import evaluate as scores_of

    if answers < 0:
        raise ValueError(f"--answers {answers} is no number of answers; give 0 for none, or more")
    found = find_model(model, base=base, strength=strength, store=chosen_store(store))
    wanted = Wanted(task) if task else _own_task(found, model)
    wanted = wanted.but(n=n, seed=task_seed, prompt=prompt, answer=answer)
    on = found.model if isinstance(found.model, Base) else found.model.base
    what = wanted.load(on)
    with busy("Evaluating …"):
        scores = scores_of(found.model, what, split=split)
    if json:
        as_json({"model": model, "task": what.name, "base": on.name, "scores": scores})
        return
    say(f"{what.name}, asked of {found.about}", "")
    show_scores(scores)
    for one in scores.answers[:answers]:
        mark = "right" if one.right else "wrong"
        say("", indented(one.prompt, "  asked   "), indented(one.expected, "  wanted  "))
        say(indented(one.given, f"  {mark}   "))


def _own_task(found: "Found", model: str) -> "Wanted":
    from lora_lab.cli.resolve import task_of

    if found.run is None:
        raise ValueError(
            f"{model!r} does not say which task it is for; give one: --task new-facts "
            "(`lora-lab tasks` lists them)"
        )
    return task_of(found.run)


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
    base: BaseName = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="COUNT", help="Where an answer is cut.")
    ] = 64,
    store: Store = None,
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
    from lora_lab.cli.resolve import chosen_store, find_model
    from lora_lab.training.evaluation import generate

    asked = None if prompt is None else [prompt.strip()]
    if prompt is None and not sys.stdin.isatty():
        asked = [line.strip() for line in sys.stdin if line.strip()]
    if asked in ([], [""]):
        raise ValueError("the question is empty; give one in quotes, or through a pipe")
    found = find_model(model, base=base, strength=strength, store=chosen_store(store))
    if asked is not None:
        answers = generate(found.model, asked, max_new_tokens=max_new_tokens)
        note(f"{found.about} answers:")
        say(*answers)
        return
    note(f"You are asking {found.about}.")
    _talk(found, max_new_tokens)


def _talk(found: "Found", max_new_tokens: int) -> None:
    from lora_lab.training.evaluation import generate

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` its arrow keys and history
    note("Each question stands alone. `/strength 0.5` changes how much of what was learnt counts.")
    note("Ctrl-D ends it.")
    while True:
        try:
            asked = input("> ").strip()
            if asked.startswith("/"):
                _command(found, asked)
            elif asked:
                say(generate(found.model, [asked], max_new_tokens=max_new_tokens)[0])
        except ValueError as error:  # the question is too long
            note(str(error))
        except (EOFError, KeyboardInterrupt):
            say("")
            return


def _command(found: "Found", asked: str) -> None:
    name, _, value = asked.partition(" ")
    if name != "/strength" or not hasattr(found.model, "strength"):
        note("There is `/strength 0.5`, where something was learnt; Ctrl-D ends the talk.")
        return
    try:
        found.model.strength = float(value)
        note(f"The strength is {found.model.strength:g} now.")
    except ValueError as error:
        note(str(error))


# --- export -------------------------------------------------------------------------------------


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run from `lora-lab runs`.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or an empty folder.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Write what a run learnt as plain files.

    A LoRA run gives an adapter (PeftModel.from_pretrained reads it); a full fine-tune gives a
    model's folder, tokenizer included (AutoModelForCausalLM.from_pretrained reads it).

    \b
    Examples:
      lora-lab export 3f2a9c my-adapter
    """
    from lora_lab.cli.resolve import chosen_store, find_run
    from lora_lab.models.learned import save_adapter

    found = find_run(str(run), chosen_store(store))
    folder = folder.expanduser()
    whole = found.recipe.method == "full"
    if whole:
        _save_model(found, folder)
    else:
        save_adapter(found, folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    if json:
        kind = "model" if whole else "adapter"
        as_json({"folder": folder.resolve(), "kind": kind, "megabytes": round(size, 3)})
        return
    say(f"{folder} now holds the {'model' if whole else 'adapter'} ({size:.1f} MB). To load it:")
    if whole:
        say(f'  AutoModelForCausalLM.from_pretrained("{folder}")')
    else:
        say(f'  PeftModel.from_pretrained(base, "{folder}")     base: {found.base_name}')
        say(f"  lora-lab chat {folder}")


def _save_model(run: object, folder: Path) -> None:
    from lora_lab.places import make_folder_atomically

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder; give a new one, nothing is lost")
    with make_folder_atomically(folder) as new:
        run.model.save_pretrained(new)
        run.tokenizer.save_pretrained(new)
