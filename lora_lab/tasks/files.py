"""A task from one's own file: CSV, TSV, JSON (a list of objects) or JSONL (an object a line).

Nothing is dropped in silence: the task's `about` names the rows that were left out, and why.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.tables import LEAST, Table, read_table

LABELS = 100  # at most so many different answers count as labels
SHOWN = 12  # column names that an error lists


def file_task(
    path: str | Path,
    prompt: str = "prompt",
    answer: str = "answer",
    n: int | None = None,
    seed: int = 0,
) -> Task:
    """The file's `prompt` column as questions and its `answer` column as what to learn.

    Rows with a blank are left out, exact repeats are taken once, and of rows that ask the same and
    answer otherwise the first is kept: so no prompt is in two splits. 80 % train, 10 % validate,
    10 % test, drawn by `seed`; `n` takes that many of the training examples.

    The metric is "field F1" if every answer is a JSON object, "accuracy" if the answers are labels
    (at most 100, and two rows in three share theirs with another), else "exact match". A label that
    occurs once stays in training.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, an empty or binary one, one that is broken (with the
            place), a column that is not there (with the nearest) or blank, fewer than three rows
            that can be used, or an `n` above what there is.
    """
    path = Path(path)
    table = read_table(path)
    for role, column in (("prompt", prompt), ("answer", answer)):
        _check_column(table, role, column, path)
    if prompt == answer:
        raise ValueError(
            f"prompt={prompt!r} and answer={answer!r} are one column; give two: "
            f"{path.name} has {', '.join(table.columns[:SHOWN])}"
        )
    examples = _examples(table, prompt, answer, path)
    if len(examples) < LEAST:
        raise ValueError(
            f"{path.name} has {_count(len(examples), 'row')} to use, and training, validation and "
            f"test need one each; give {LEAST} or more (100 is a start){_left_out(table)}"
        )
    metric = _metric([example.answer for example in examples])
    train, validation, test = _split(examples, metric, random.Random(seed), table)
    if n is not None and not 1 <= n <= len(train):
        raise ValueError(
            f"n={n} training examples are not to be had from {path.name}; give 1 to {len(train)} "
            "(validation and test have theirs besides)"
        )
    train = train[:n]
    return Task(
        name=path.name,
        train=train,
        validation=validation,
        test=test,
        metric=metric,
        about=(
            f"{path.name}, {prompt!r} to {answer!r}: {_count(len(table.rows), 'row')} read, "
            f"{len(examples)} used ({len(train)} to train, {len(validation)} to validate, "
            f"{len(test)} to test){_left_out(table)}"
            + "".join(f"; {note}" for note in table.notes)
            + "."
        ),
        recipe=_recipe(len(train)),
    )


def _recipe(count: int) -> Recipe:
    """Where to start with a text that nobody has tried: three times through it, 20 to 120 steps."""
    steps = min(max(-(-3 * count // 8), 20), 120)
    return Recipe(steps=steps, batch_size=8, learning_rate=1e-3)


# --- from rows to examples --------------------------------------------------------------------


def _check_column(table: Table, role: str, column: str, path: Path) -> None:
    named = [name for name in table.columns if name]
    if not named:
        raise ValueError(
            f"{path.name} names no column in its first line; begin it with prompt,answer"
            if path.suffix.lower() in (".csv", ".tsv")
            else f'{path.name} holds empty objects; give {{"prompt": "…", "answer": "…"}}'
        )
    more = f" … ({len(named)} columns)" if len(named) > SHOWN else ""
    listed = f"{', '.join(named[:SHOWN])}{more}"
    if column not in named:
        raise ValueError(
            f"{path.name} has no column {column!r}; {nearest(column, tuple(named[:1000]))}"
            f"name one of {listed} as its {role} ({role}=..., or --{role})"
        )
    if not any(_text(row.values.get(column)) for row in table.rows):
        raise ValueError(
            f"column {column!r} of {path.name} is blank in every row; give another of: {listed}"
        )


def _text(value: object) -> str:
    """A value as text, without white space around it; what is not text, as JSON writes it."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).strip()


def _examples(table: Table, prompt: str, answer: str, path: Path) -> list[Example]:
    """The rows that can be used, each prompt once; the others are noted in the table."""
    first: dict[str, tuple[str, int]] = {}  # prompt -> its answer and row
    already = {number for numbers in table.dropped.values() for number in numbers}
    for row in table.rows:
        asked, wanted = _text(row.values.get(prompt)), _text(row.values.get(answer))
        if row.number in already:
            continue
        if not asked or not wanted:
            blank = " and ".join(repr(c) for c, v in ((prompt, asked), (answer, wanted)) if not v)
            table.drop(f"blank {blank}", row.number)
        elif not (_is_whole(asked) and _is_whole(wanted)):
            table.drop("half a letter (a surrogate alone), which no model can read", row.number)
        elif asked not in first:
            first[asked] = (wanted, row.number)
        elif first[asked][0] == wanted:
            table.drop("the same as an earlier row", row.number)
        else:
            table.drop(f"the prompt of row {first[asked][1]} with another answer", row.number)
    return [Example(asked, wanted) for asked, (wanted, _) in first.items()]


def _is_whole(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON's escapes may hold halves of letters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _metric(answers: Sequence[str]) -> str:
    if all(_is_object(answer) for answer in answers):
        return "field F1"
    counts = Counter(answers)
    shared = sum(count for count in counts.values() if count > 1)
    return "accuracy" if len(counts) <= LABELS and 3 * shared >= 2 * len(answers) else "exact match"


def _is_object(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), dict)
    except (ValueError, RecursionError):
        return False


def _split(
    examples: Sequence[Example], metric: str, generator: random.Random, table: Table
) -> tuple[list[Example], list[Example], list[Example]]:
    """(training, validation, test): 80, 10 and 10 %, at least one each."""
    counts = Counter(example.answer for example in examples)
    lone = {label for label, count in counts.items() if count == 1 and metric == "accuracy"}
    if lone:
        named = ", ".join(repr(label) for label in sorted(lone)[:5])
        more = f" and {len(lone) - 5} more" if len(lone) > 5 else ""
        table.notes.append(f"only in training, because it occurs once: {named}{more}")
    if len(counts) == 1:
        table.notes.append(f"every answer is {next(iter(counts))[:40]!r}: there is little to learn")
    kept = [example for example in examples if example.answer in lone]
    drawn = [example for example in examples if example.answer not in lone]
    generator.shuffle(drawn)
    tenth = max(1, round(len(examples) / 10))
    train = kept + drawn[2 * tenth :]
    generator.shuffle(train)
    return train, drawn[tenth : 2 * tenth], drawn[:tenth]


def _left_out(table: Table) -> str:
    """The rows that were left out, in words."""
    if not table.dropped:
        return ""
    total = sum(map(len, table.dropped.values()))
    reasons = []
    for why, numbers in table.dropped.items():
        shown = ", ".join(map(str, numbers[:8]))
        more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
        reasons.append(f"{why}: {'row' if len(numbers) == 1 else 'rows'} {shown}{more}")
    return f"; {total} left out ({'; '.join(reasons)})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
