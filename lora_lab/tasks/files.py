"""A task from the user's file: CSV, TSV, JSON (a list of objects) or JSONL (an object a line).

No row is dropped in silence: the task's `about` names the rows that were left out, and why.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.records import Pairs, pairs_of, take
from lora_lab.tasks.tables import LEAST, Table, read_table, rows_in_words
from lora_lab.wording import counted

LABELS = 100  # different answers, at most, that count as labels
CONTESTED = 8  # prompts with different answers that `about` names


def file_task(
    path: str | Path,
    prompt: str = "prompt",
    answer: str = "answer",
    n: int | None = None,
    seed: int = 0,
) -> Task:
    """A task with the file's `prompt` column as prompts and its `answer` column as right answers.

    Without these columns a form that fits most rows is taken: a chat, Alpaca's instruction, input
    and output, or another pair of names, such as question and answer. `about` says which.

    Rows with a blank are left out, and exact repeats are taken once. A prompt with different
    answers is in training only, with all of them. So no prompt is in two splits. `seed` draws the
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
    taken = take(table, path, prompt, answer)
    pairs = pairs_of(table, taken)
    examples = [pair.example for pair in pairs.used]
    if len(examples) < LEAST:
        raise ValueError(
            f"{path.name} has {counted(len(examples), 'row')} to use, and training, validation and "
            f"test need one each; give {LEAST} or more (100 is a start){_left_out(table)}"
        )
    metric = metric_of(examples)
    train, validation, test = split(pairs, metric, random.Random(seed), table)
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
            f"{path.name}, {taken.how}: {counted(len(table.rows), 'row')} read, "
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


# --- splits ---------------------------------------------------------------------------------------


def metric_of(examples: Sequence[Example]) -> str:
    """The metric that fits the answers: see `file_task`."""
    answers = [example.answer for example in examples]
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


def split(
    pairs: Pairs, metric: str, generator: random.Random, table: Table
) -> tuple[list[Example], list[Example], list[Example]]:
    """(training, validation, test): 80, 10 and 10 %, at least one example each.

    Contested prompts, and labels that occur once, stay in training.
    """
    examples = [pair.example for pair in pairs.used]
    counts = Counter(example.answer for example in examples)
    lone = {label for label, count in counts.items() if count == 1 and metric == "accuracy"}
    if pairs.contested:
        rows = [rows_in_words(rows) for rows in pairs.contested.values()]
        more = f" and {len(rows) - CONTESTED:,} more prompts" if len(rows) > CONTESTED else ""
        table.notes.append(
            "only in training, because one prompt has different answers: "
            f"{'; '.join(rows[:CONTESTED])}{more}"
        )
    if lone:
        shown = ", ".join(repr(label) for label in sorted(lone)[:5])
        more = f" and {len(lone) - 5} more" if len(lone) > 5 else ""
        table.notes.append(f"only in training, because it occurs once: {shown}{more}")
    if len(counts) == 1:
        table.notes.append(f"every answer is {next(iter(counts))[:40]!r}: there is little to learn")
    kept, drawn = [], []
    for example in examples:
        stays = example.answer in lone or example.prompt in pairs.contested
        (kept if stays else drawn).append(example)
    generator.shuffle(drawn)
    free = len(drawn) - (not kept)  # training needs an example too
    tenth = max(1, min(round(len(examples) / 10), free // 2))
    if 2 * tenth > free:
        rows = "; ".join(map(rows_in_words, [*pairs.contested.values()][:CONTESTED]))
        raise ValueError(
            f"only {counted(len(drawn), 'prompt')} of {counted(len(examples), 'row')} have a "
            f"single answer, and validation and test need one each; settle the others: {rows}"
        )
    train = kept + drawn[2 * tenth :]
    generator.shuffle(train)
    return train, drawn[tenth : 2 * tenth], drawn[:tenth]


def _left_out(table: Table) -> str:
    """The rows that were left out, by reason, in words."""
    if not table.dropped:
        return ""
    total = sum(map(len, table.dropped.values()))
    reasons = [f"{why}: {rows_in_words(numbers)}" for why, numbers in table.dropped.items()]
    return f"; {total:,} left out ({'; '.join(reasons)})"
