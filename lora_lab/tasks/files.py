"""A task from the user's file: CSV, TSV, JSON (a list of objects) or JSONL (an object a line).

No row is dropped in silence: the task's `about` names the rows that were left out, and why.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.tables import LEAST, Table, read_table
from lora_lab.wording import counted

LABELS = 100  # different answers, at most, that count as labels
SHOWN = 12  # column names that an error lists


def file_task(
    path: str | Path,
    prompt: str = "prompt",
    answer: str = "answer",
    n: int | None = None,
    seed: int = 0,
) -> Task:
    """A task with the file's `prompt` column as prompts and its `answer` column as right answers.

    Rows with a blank are left out, and exact repeats are taken once. Of rows with the same prompt
    and different answers, the first is taken. So no prompt is in two splits. `seed` draws the
    splits: 80 % train, 10 % validate, 10 % test. `n` takes that many of the training examples.

    The metric is "field F1" if every answer is a JSON object. It is "accuracy" if the answers are
    labels: at most 100 different ones, and two rows in three share theirs with another row. Else it
    is "exact match". A label that occurs once stays in training.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, empty, binary or broken (with the place); a column
            is not there (with the nearest name) or blank; there are fewer than three rows to use,
            or fewer training examples than `n`.
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
    examples = _examples_of(table, prompt, answer)
    if len(examples) < LEAST:
        raise ValueError(
            f"{path.name} has {counted(len(examples), 'row')} to use, and training, validation and "
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
            f"{path.name}, {prompt!r} to {answer!r}: {counted(len(table.rows), 'row')} read, "
            f"{len(examples):,} used ({len(train):,} to train, {len(validation):,} to validate, "
            f"{len(test):,} to test){_left_out(table)}"
            + "".join(f"; {note}" for note in table.notes)
            + "."
        ),
        recipe=_first_recipe(len(train)),
    )


def _first_recipe(count: int) -> Recipe:
    """A recipe to start with: three passes through the examples, and 20 to 120 steps."""
    steps = min(max(-(-3 * count // 8), 20), 120)
    return Recipe(steps=steps, batch_size=8, learning_rate=1e-3)


# --- from rows to examples --------------------------------------------------------------------


def _check_column(table: Table, role: str, column: str, path: Path) -> None:
    """Refuse a column that is not in the table, or blank in every row."""
    names = [name for name in table.columns if name]
    if not names:
        raise ValueError(
            f"{path.name} names no column in its first line; begin it with prompt,answer"
            if path.suffix.lower() in (".csv", ".tsv")
            else f'{path.name} holds empty objects; give {{"prompt": "…", "answer": "…"}}'
        )
    more = f" … ({len(names)} columns)" if len(names) > SHOWN else ""
    listed = f"{', '.join(names[:SHOWN])}{more}"
    if column not in names:
        raise ValueError(
            f"{path.name} has no column {column!r}; {nearest(column, tuple(names[:1000]))}"
            f"name one of {listed} as its {role} ({role}=..., or --{role})"
        )
    if not any(_text(row.values.get(column)) for row in table.rows):
        raise ValueError(
            f"column {column!r} of {path.name} is blank in every row; give another of: {listed}"
        )


def _text(value: object) -> str:
    """A value as text, without white space around it. JSON writes what is not text."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).strip()


def _examples_of(table: Table, prompt: str, answer: str) -> list[Example]:
    """The rows that can be used, each prompt once. The table notes why the others are dropped."""
    first: dict[str, tuple[str, int]] = {}  # prompt: its first answer, and that row's number
    already = {number for numbers in table.dropped.values() for number in numbers}
    for row in table.rows:
        if row.number in already:
            continue
        texts = {column: _text(row.values.get(column)) for column in (prompt, answer)}
        question, reply = texts.values()
        blank = [repr(column) for column, text in texts.items() if not text]
        if blank:
            table.drop(f"blank {' and '.join(blank)}", row.number)
        elif not _is_writable(question + reply):
            table.drop("half a letter (a surrogate alone), which no model can read", row.number)
        elif question not in first:
            first[question] = (reply, row.number)
        elif first[question][0] == reply:
            table.drop("the same as an earlier row", row.number)
        else:
            table.drop(f"the prompt of row {first[question][1]} with another answer", row.number)
    return [Example(question, reply) for question, (reply, _) in first.items()]


def _is_writable(text: str) -> bool:
    """Whether a text can be written as UTF-8. JSON's escapes may hold halves of letters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _metric(answers: Sequence[str]) -> str:
    """The metric that fits the answers: see `file_task`."""
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
    """(training, validation, test): 80, 10 and 10 %, at least one example each."""
    counts = Counter(example.answer for example in examples)
    lone = {label for label, count in counts.items() if count == 1 and metric == "accuracy"}
    if lone:
        shown = ", ".join(repr(label) for label in sorted(lone)[:5])
        more = f" and {len(lone) - 5} more" if len(lone) > 5 else ""
        table.notes.append(f"only in training, because it occurs once: {shown}{more}")
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
    """The rows that were left out, by reason, in words."""
    if not table.dropped:
        return ""
    total = sum(map(len, table.dropped.values()))
    reasons = []
    for why, numbers in table.dropped.items():
        shown = ", ".join(map(str, numbers[:8]))
        more = f" and {len(numbers) - 8:,} more" if len(numbers) > 8 else ""
        reasons.append(f"{why}: {'row' if len(numbers) == 1 else 'rows'} {shown}{more}")
    return f"; {total:,} left out ({'; '.join(reasons)})"
