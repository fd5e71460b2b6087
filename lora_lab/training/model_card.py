"""The model card of an exported run: how to load it, how it was trained, its scores."""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab import __version__
from lora_lab.maths.measures import FORGETTING, LOWER_IS_BETTER
from lora_lab.models.adapter_config import CARD_TAG
from lora_lab.models.built_in import BUILT_IN
from lora_lab.recipe import ONLY, Recipe
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task
from lora_lab.tasks.personal_data import without_personal_data
from lora_lab.training.intervals import Ends, are_of, kept_intervals
from lora_lab.training.run_files import FINISHED
from lora_lab.training.store import Run
from lora_lab.wording import (
    counted,
    fine_percent,
    markdown_table,
    percent,
    percent_range,
    significant,
)

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

ADAPTER, MERGED, MODEL = "adapter", "merged", "model"  # the kinds of an export
ALWAYS = ("method", "learning_rate", "batch_size", "steps", "seed")  # fields in each card
OF_LORA = ("r", "lora_alpha", "target_modules")
DEPENDENT = (
    "Wilson's interval is for questions that are independent of each other. Questions made from "
    "few templates are not: the true interval is wider."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A run's files as somebody else gets them."""

    folder: Path
    kind: str  # ADAPTER, MERGED, or MODEL: every weight was trained
    base: str  # what an adapter's configuration names: a hub id, or a folder's absolute path
    hub: str  # the base's id on the hub; empty: none is known
    base_inside: bool  # whether the base's files are in the folder `base` of this one
    has_template: bool  # whether the tokenizer has a chat template
    dtype: str  # of the weights when they are loaded as trained, or of the merged ones
    rounding: float | None = None  # merged: the rounding's size beside that of the change
    quantization: dict[str, object] | None = None  # for transformers' BitsAndBytesConfig


def model_card(
    run: Run, made: Export, task: Task | None = None, before: Scores | None = None
) -> "ModelCard":
    """The card of an export, a README.md with the hub's metadata. Nothing is asked of the network.

    Args:
        run: what is exported.
        made: its files.
        task: the data that it was trained on; None: they are not here any more.
        before: the base's own scores on the same questions; None: not known.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        base_model=made.hub or None,
        library_name="peft" if made.kind == ADAPTER else "transformers",
        pipeline_tag="text-generation",
        tags=[run.recipe.method, CARD_TAG],
        model_name=made.folder.name,
        eval_results=_results(run) or None,
    )
    parts = (
        f"# {_of_data(run.task_name)} on {_one_line(run.base_name)}",
        _what(run, made),
        f"## Load it\n\n{_loading(run, made)}",
        f"## How it was trained\n\n{_training(run)}",
        f"## Scores\n\n{_scores(run, task, before)}",
        f"## Data\n\n{_data(run, task)}",
        f"## Limits\n\n{_limits(run, made)}",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _results(run: Run) -> "list[EvalResult]":
    """The scores as the hub's index of models takes them."""
    from huggingface_hub import EvalResult

    if run.scores is None:
        return []
    task_name, _ = without_personal_data(run.task_name)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task_name,
            dataset_name=task_name,
            dataset_split=run.scores.split,
            metric_type=re.sub(r"\W+", "_", name.lower()),
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in run.scores.metrics.items()
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _of_data(text: str) -> str:
    """A text about the data in one line, without hints of personal data: cards are public."""
    return _one_line(without_personal_data(text)[0])


def _code(text: str) -> str:
    """A name as Markdown shows it letter by letter."""
    return f"`{_one_line(text.replace('`', ' '))}`"


def _what(run: Run, made: Export) -> str:
    base, task = _code(made.hub or run.base_name), _code(_of_data(run.task_name))
    method = "AdaLoRA" if run.recipe.method == "adalora" else "LoRA"
    what = {
        ADAPTER: f"An adapter ({method}) for {base}, trained on {task}.",
        MERGED: f"{base} with an adapter ({method}) merged into its weights, trained on {task}.",
        MODEL: f"{base} with every weight fine-tuned on {task}.",
    }[made.kind]
    return f"{what} Made with lora-lab {__version__}."


# --- loading ------------------------------------------------------------------------------------


def loading_code(made: Export, name: str) -> str:
    """Python that loads an export with plain PEFT and transformers.

    Args:
        made: the export.
        name: its folder, as the reader calls it.
    """
    tokenizer = f"tokenizer = transformers.AutoTokenizer.from_pretrained({_text(name)})"
    if made.kind == ADAPTER and made.base_inside:
        return f"{_onto_base(made, name, f'{name}/base')}\n{tokenizer}"
    packages, auto = "transformers", "transformers.AutoModelForCausalLM"
    if made.kind == ADAPTER:
        packages, auto = "peft, transformers", "peft.AutoPeftModelForCausalLM"
    model = f"model = {auto}.from_pretrained({_text(name)}, {_options(made)})"
    return f"import {packages}\n{_bits(made)}{model}\n{tokenizer}"


def _onto_base(made: Export, name: str, base: str) -> str:
    """Python that puts an adapter on a base that is loaded from a folder."""
    model = f"transformers.AutoModelForCausalLM.from_pretrained({_text(base)}, {_options(made)})"
    return (
        f"import peft, transformers\n{_bits(made)}base = {model}\n"
        f"model = peft.PeftModel.from_pretrained(base, {_text(name)})"
    )


def _text(text: str) -> str:
    """A text as a literal of Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _bits(made: Export) -> str:
    if not made.quantization:
        return ""
    values = ", ".join(
        f"{name}={_text(value) if isinstance(value, str) else value}"
        for name, value in made.quantization.items()
    )
    return f"bits = transformers.BitsAndBytesConfig({values})\n"


def _options(made: Export) -> str:
    bits = ", quantization_config=bits" if made.quantization else ""
    return f'dtype="{made.dtype}"{bits}'


def asking_code(made: Export) -> str:
    """Python that asks a loaded model a question in the form in which it was trained."""
    inputs = 'inputs = tokenizer(f"{question}\\n", return_tensors="pt")'
    if made.has_template:
        inputs = (
            'messages = [{"role": "user", "content": question}]\n'
            "inputs = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)'
        )
    return (
        f'question = "..."\n{inputs}\n'
        'ids, mask = inputs["input_ids"], inputs["attention_mask"]\n'
        "answer = model.generate(\n"
        "    input_ids=ids, attention_mask=mask, max_new_tokens=64, do_sample=False,\n"
        "    eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,\n"
        ")\n"
        "print(tokenizer.decode(answer[0, ids.shape[1]:], skip_special_tokens=True).strip())"
    )


def _loading(run: Run, made: Export) -> str:
    packages = "transformers" if made.kind != ADAPTER else "peft transformers"
    if made.quantization:
        packages += " bitsandbytes"
    parts = [
        f"After `pip install {packages}`, beside this folder, {_code(made.folder.name)}:",
        f"```python\n{loading_code(made, made.folder.name)}\n```",
        "A question is asked in the form in which the training examples were:",
        f"```python\n{asking_code(made)}\n```",
    ]
    if made.kind == ADAPTER:
        parts.append(_whereabouts(run, made))
    if run.base_name in BUILT_IN and BUILT_IN[run.base_name].beside_hub:
        known = BUILT_IN[run.base_name]
        parts.append(
            f"**Its base beside the hub's {_code(known.hub)}.** {known.beside_hub} The "
            "scores below are those on the weights used here. On the hub's they were not measured. "
            "Take the tokenizer of this folder, not the hub's."
        )
    return "\n\n".join(parts)


def _whereabouts(run: Run, made: Export) -> str:
    """Where an adapter's base is found, and what to do where it is not."""
    own = f"```python\n{_onto_base(made, made.folder.name, 'FOLDER-OF-THE-BASE')}\n```"
    if made.base_inside:
        return (
            "The base is in the folder `base`, so nothing is fetched. The adapter's configuration "
            "names that folder by its path on the machine that wrote it."
        )
    if made.base == made.hub:
        return (
            f"The adapter's configuration names its base, {_code(made.base)}: transformers takes "
            f"it from its cache, or fetches it from the hub. From a folder of yours:\n\n{own}"
        )
    lack = (
        "" if made.hub else f"**No id on the hub is known for the base, {_code(run.base_name)}.** "
    )
    return (
        f"{lack}The adapter's configuration names the base's folder on the machine that wrote it. "
        "Elsewhere, bring the base along (`lora-lab export` has `--with-base` and `--merge`) and "
        f"load it:\n\n{own}"
    )


# --- the training -------------------------------------------------------------------------------


def _training(run: Run) -> str:
    recipe = run.recipe
    rows = [(_code(name), _code(str(value))) for name, value in chosen_fields(recipe).items()]
    if recipe.method != "full":
        rows.append(("scaling: the factor really applied", significant(recipe.scaling)))
    where = f" The machine: {_one_line(run.machine)}." if run.machine else ""
    when = f" Begun on {run.date[:10]}." if run.date else ""
    about = (
        f"{_of_data(run.about)}.{when}{where} Fields that are not listed have lora-lab's defaults."
    )
    return f"{markdown_table(('field', 'value'), rows)}\n\n{about}"


def chosen_fields(recipe: Recipe) -> dict[str, object]:
    """The fields that a reader looks for, and those that are not at their default."""
    shown = ALWAYS + (OF_LORA if recipe.method == "lora" else ())
    of_others = {
        name for method, names in ONLY.items() if method != recipe.method for name in names
    }
    return {
        field.name: getattr(recipe, field.name)
        for field in fields(Recipe)
        if field.name in shown
        or (field.name not in of_others and getattr(recipe, field.name) != field.default)
    }


# --- scores and data ----------------------------------------------------------------------------


def _scores(run: Run, task: Task | None, before: Scores | None) -> str:
    scores = run.scores
    if scores is None:
        return "It was not scored."
    intervals, method = kept_intervals(scores, task)
    count = len(scores.answers)
    rows = [
        (
            name,
            _mark(name, before and before.metrics.get(name)),
            _mark(name, value),
            *_spread(intervals.get(name), count),
        )
        for name, value in scores.metrics.items()
    ]
    loss = (f"{before.loss:.3f}" if before else "-", f"{scores.loss:.3f}")
    rows.append(("loss, nats per answer token", *loss, "-", "-"))
    asked = {"old_knowledge": task.old_knowledge, "strangers": task.strangers} if task else {}
    for name, words in FORGETTING.items():
        value = getattr(scores, name)
        if value is not None:
            spread = _spread(intervals.get(name), len(asked.get(name, ())))
            rows.append(
                (words, _mark("", before and getattr(before, name)), _mark("", value), *spread)
            )
    head = (f"{scores.split} split", "base", "fine-tuned", "95 % interval", "questions")
    table = markdown_table(head, rows)
    if not method:
        return table
    return f"{table}\n\n{method[0].upper()}{method[1:]}." + (
        f" {DEPENDENT}" if "Wilson" in method else ""
    )


def _mark(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return significant(value) if metric in LOWER_IS_BETTER else percent(value)


def _spread(interval: Ends | None, count: int) -> tuple[str, str]:
    """An interval and the count of questions, for a row of the table."""
    return percent_range(*interval) if interval else "-", f"{count:,}" if count else "-"


def _data(run: Run, task: Task | None) -> str:
    """What it was trained on, in counts: the examples themselves may be private."""
    if task is None:
        return f"{_code(_of_data(run.task_name))}. The data were not at hand when this was written."
    sizes = (
        f"{counted(len(task.train), 'example')} to train, {len(task.validation):,} to validate, "
        f"{len(task.test):,} to test"
    )
    changed = ""
    if run.scores and run.scores.answers and not are_of(run.scores, task):
        changed = " The data have changed since it was scored."
    if f"{len(task.train):,} to train" in task.about:  # a file's `about` has the counts
        return f"{_of_data(task.about)}{changed}"
    return f"{_of_data(task.about)}\n\n{sizes[0].upper()}{sizes[1:]}.{changed}"


def _limits(run: Run, made: Export) -> str:
    recipe, lines = run.recipe, []
    if run.status != FINISHED:
        lines.append(f"The training did not end well ({run.status}): {_one_line(run.message)}")
    lines.append(f"One training, with seed {recipe.seed}. Another seed gives other scores.")
    if made.rounding is not None:
        lines.append(
            f"The merged weights are rounded to {made.dtype}. The rounding is "
            f"{fine_percent(made.rounding)} of the change's size. The scores above are those from "
            "before merging."
        )
    if made.quantization and made.kind == ADAPTER:
        lines.append(
            "It was trained on a quantised base. On the whole weights it answers otherwise."
        )
    if run.scores is not None and run.scores.old_knowledge is None:
        lines.append("What the base could do before was not asked again.")
    lines += [
        f"Its examples had {recipe.max_length:,} tokens at most, and the form shown above.",
        "It was not tested on other kinds of questions, nor for safety or bias. A fine-tuned model "
        "can repeat its examples word for word: do not publish one that has seen private data.",
    ]
    return "\n".join(f"- {line}" for line in lines)
