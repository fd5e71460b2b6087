"""A task from the user's file: CSV, TSV, JSON (a list of objects) or JSONL (an object a line).

No row is dropped silently: the task's `about` names the rows that were left out, and why.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_lab.recipe import Recipe
from lora_lab.tasks.chats import text_of
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.records import Taken, check_column, take
from lora_lab.tasks.splits import (
    SPLITS,
    TEMPLATE,
    TEST,
    TRAIN,
    VALIDATION,
    UsedRow,
    kept_apart,
    left_out,
    split_named,
    splits_of,
    without_contradicted,
)
from lora_lab.tasks.tables import Table, read_table, rows_in_words
from lora_lab.tasks.templates import templates_of
from lora_lab.wording import counted

LABELS = 100  # different answers, at most, that count as labels
CONTESTED = 8  # prompts with several answers that `about` names
REPEATED = "the same as an earlier row"


@dataclass(frozen=True, slots=True)
class FileRows:
    """What was read from a file: its rows, and the prompts and answers taken from them."""

    count: int  # rows
    columns: Sequence[str]  # as they stand in the file
    dropped: Mapping[str, Sequence[int]]  # reason: row numbers
    encoding: str
    taken: Taken
    used: Sequence[UsedRow]


def rows_read(
    table: Table, path: Path, prompt: str, answer: str, more: Mapping[str, str], split: str | None
) -> FileRows:
    """The rows of a table that can be used, and why the others are not.

    Args:
        table: the file's. Its rows' values may be let go afterwards.
        path: the file.
        prompt: a column.
        answer: a column.
        more: other columns by their roles: group_by, split_column.
        split: the split of all rows; None: the split column says it, or it is to be drawn.
    """
    columns = tuple(table.columns)
    taken = take(table, path, prompt, answer)
    for role, column in more.items():
        check_column(table, role, column, path)
    roles = {"prompt": taken.prompt, "answer": taken.answer, **more}
    for role, column in more.items():
        for other in roles:
            if other != role and column == roles[other]:
                raise ValueError(
                    f"{role}={column!r} is the column of {other} too; give another column"
                )
    used = used_rows(table, roles, split, path.name)
    dropped = {why: [*numbers] for why, numbers in table.dropped.items()}
    return FileRows(len(table.rows), columns, dropped, table.encoding, taken, used)


def file_task(
    path: str | Path,
    prompt: str = "prompt",
    answer: str = "answer",
    n: int | None = None,
    seed: int = 0,
    *,
    test: str | Path | None = None,
    validation: str | Path | None = None,
    split_column: str | None = None,
    group_by: str | None = None,
) -> Task:
    """A task with the file's `prompt` column as prompts and its `answer` column as right answers.

    Without these columns, the form that fits most rows is taken: a chat, Alpaca's instruction,
    input and output, or another pair of names, such as question and answer. `about` says which.

    Rows with a blank value are left out, and exact repeats are taken once. A prompt with several
    answers is in training only, with all of them. No prompt is in two splits: a prompt of the test
    is left out of training.

    Without `test`, `validation` and `split_column`, `seed` draws the splits: 80 % for training,
    10 % for validation, 10 % for the test. A split that they don't give is drawn from the rows to
    train on. `n` takes that many of the training examples.

    The metric is "field F1" if every answer is a JSON object. It is "accuracy" if the answers are
    labels: at most 100 different ones, and two rows in three share theirs with another row. Else it
    is "exact match". A label that occurs once stays in training if splits are drawn by row.

    Args:
        path: CSV, TSV, JSON or JSONL.
        prompt: a column.
        answer: a column.
        n: the number of training examples; None: all of them.
        seed: draws the splits and the training examples.
        test: a file with the test's rows, in the same columns.
        validation: a file with the validation's rows.
        split_column: a column that says train, validation or test of each row.
        group_by: a column, such as the person who wrote a row: no group is in two splits. Without
            a column of that name, "template" groups prompts that differ in numbers, quoted strings
            and capitalised names alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, empty, binary or broken (with the place); a column
            is not there (with the nearest name) or blank; there are fewer than three rows or groups
            to use, or fewer training examples than `n`; two arguments contradict each other.
    """
    path = Path(path)
    given = {TEST: test, VALIDATION: validation}
    files = {None: path} | {split: Path(file) for split, file in given.items() if file is not None}
    _check_together(files, split_column)
    tables = {split: read_table(file) for split, file in files.items()}
    by_template = is_by_template(group_by, tables[None])
    groups = {"group_by": group_by} if group_by is not None and not by_template else {}
    more = ({"split_column": split_column} if split_column is not None else {}) | groups
    read = {
        split: rows_read(table, files[split], prompt, answer, more, split)
        for split, table in tables.items()
    }
    rows = [row for own in read.values() for row in own.used]
    several = contested(rows)
    rows = without_contradicted(rows)
    if split_column is not None:
        _check_several(rows, split_column, path)
    if by_template:
        group_by_template(rows)
    rows = kept_apart(rows)
    metric = metric_of([row.example.answer for row in rows])
    splits = splits_of(rows, files, tables, metric, group_by, random.Random(seed))
    if n is not None and not 1 <= n <= len(splits[TRAIN]):
        raise ValueError(
            f"{path.name} doesn't have n={n} training examples; give 1 to "
            f"{len(splits[TRAIN])} (validation and test have theirs besides)"
        )
    splits[TRAIN] = splits[TRAIN][:n]
    examples = {split: [row.example for row in own] for split, own in splits.items()}
    if group_by is not None:
        tables[None].notes.append(_groups_text(splits, group_by, by_template))
    about = f"{path.name}, {read[None].taken.how}: {_rows_text(splits, files, tables)}"
    for table in tables.values():
        table.rows.clear()  # the task keeps the rows that are used, and these hold their table
    return Task(
        name=path.name,
        train=examples[TRAIN],
        validation=examples[VALIDATION],
        test=examples[TEST],
        metric=metric,
        about=f"{about}{_several_text(several)}.",
        recipe=_first_recipe(len(splits[TRAIN])),
        groups=group_by and {row.example.prompt: row.group for row in rows},
        read=read[None],
    )


def _first_recipe(count: int) -> Recipe:
    """A recipe to start with: three passes through the examples, and 20 to 120 steps."""
    steps = min(max(-(-3 * count // 8), 20), 120)
    return Recipe(steps=steps, batch_size=8, learning_rate=1e-3)


# --- what contradicts itself ------------------------------------------------------------------


def _check_together(files: dict[str | None, Path], split_column: str | None) -> None:
    """Refuse arguments that contradict each other."""
    for split in (TEST, VALIDATION):
        if split in files and split_column is not None:
            raise ValueError(
                f"{split}={str(files[split])!r} and split_column={split_column!r} both say which "
                f"rows are the {split}; give one of the two"
            )
    seen: dict[str, str | None] = {}
    for split, file in files.items():
        place = os.path.abspath(file)
        if place in seen:
            other = seen[place]
            raise ValueError(
                f"{split}={str(file)!r} is the file of the {other or 'training rows'} too, and no "
                "row can be in two splits; give another file, or split_column='…' for one file"
            )
        seen[place] = split


def _check_several(rows: Sequence[UsedRow], column: str, path: Path) -> None:
    """Refuse a split column with no row to train on, or with nothing else."""
    splits = {row.split for row in rows}
    if splits and (TRAIN not in splits or len(splits) == 1):
        said = " and ".join(split for split in SPLITS if split in splits)
        raise ValueError(
            f"column {column!r} of {path.name} says {said} in every row that can be used; it has "
            "to say train, and validation or test or both. Or leave it out: then splits are drawn"
        )


# --- from rows to examples --------------------------------------------------------------------


def used_rows(
    table: Table, columns: Mapping[str, str], split: str | None, name: str
) -> list[UsedRow]:
    """The rows that can be used; of exact repeats, one for each split. The table notes the others.

    If a prompt has several answers, all are used: none of them is known to be the right one.

    Args:
        table: whose rows.
        columns: by their roles: prompt, answer, and perhaps group_by and split_column.
        split: the split of all rows; None: the split column says it, or it is to be drawn.
        name: the file's name.
    """
    used: list[UsedRow] = []
    first: dict[tuple[str | None, str], UsedRow] = {}
    answers: dict[tuple[str | None, str], set[str]] = {}  # of prompts with several
    already = {number for numbers in table.dropped.values() for number in numbers}
    for row in table.rows:
        if row.number in already:
            continue
        texts = {role: text_of(row.values.get(column)) for role, column in columns.items()}
        question, reply = texts["prompt"], texts["answer"]
        if not question or not reply or texts.get("group_by") == "":
            blank = [
                repr(columns[role]) for role in texts if not texts[role] and role != "split_column"
            ]
            table.drop(f"blank {' and '.join(blank)}", row.number)
            continue
        if not _is_writable(question + reply):
            table.drop("half a letter (a surrogate alone), which no model can read", row.number)
            continue
        own = split
        if "split_column" in columns:
            own = split_named(texts["split_column"], columns["split_column"], row.number, name)
        new = UsedRow(Example(question, reply), row.number, table, own, texts.get("group_by"))
        earlier = first.setdefault((own, question), new)
        if earlier is not new:
            said = answers.setdefault((own, question), {earlier.example.answer})
            if reply in said:
                table.drop(REPEATED, row.number)
                continue
            said.add(reply)
            earlier.contradicted = new.contradicted = True
        used.append(new)
    return used


def is_by_template(group_by: str | None, table: Table) -> bool:
    """Whether rows are grouped by their prompts' templates, and not by a column of that name."""
    return group_by == TEMPLATE and TEMPLATE not in table.columns


def group_by_template(rows: Sequence[UsedRow]) -> None:
    """Make the template of its prompt the group of each row."""
    templates = templates_of([row.example.prompt for row in rows])
    for row, template in zip(rows, templates, strict=True):
        row.group = template


def contested(rows: Iterable[UsedRow]) -> dict[str, list[int]]:
    """The prompts with several answers, each with the numbers of its rows."""
    numbers: dict[str, list[int]] = {}
    for row in rows:
        if row.contradicted:
            numbers.setdefault(row.example.prompt, []).append(row.number)
    return numbers


def _is_writable(text: str) -> bool:
    """Whether a text can be written as UTF-8. JSON's escapes may hold halves of letters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def metric_of(answers: Sequence[str]) -> str:
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


# --- in words ---------------------------------------------------------------------------------


def _rows_text(
    splits: dict[str, list[UsedRow]], files: dict[str | None, Path], tables: dict[str | None, Table]
) -> str:
    """How many rows of each file were read and used, and the splits they are in; then all notes."""
    parts = []
    for given, table in tables.items():
        counts = {split: sum(row.table is table for row in splits[split]) for split in SPLITS}
        of_table = sum(counts.values())
        words = f"{counted(len(table.rows), 'row')} read, {of_table:,} used"
        parts.append(
            f"{given} from {files[given].name}: {words}{left_out(table)}"
            if given
            else f"{words} ({_shared_out(counts)}){left_out(table)}"
        )
    return "; ".join([*parts, *(note for table in tables.values() for note in table.notes)])


def _several_text(several: Mapping[str, Sequence[int]]) -> str:
    """The rows of prompts with several answers, in words."""
    if not several:
        return ""
    rows = [rows_in_words(rows) for rows in several.values()]
    more = f" and {len(rows) - CONTESTED:,} more prompts" if len(rows) > CONTESTED else ""
    return f"; one prompt with several answers: {'; '.join(rows[:CONTESTED])}{more}"


def _shared_out(counts: dict[str, int]) -> str:
    """`16 to train, 2 to validate, 2 to test`: the splits that have any."""
    verbs = {TRAIN: "train", VALIDATION: "validate", TEST: "test"}
    return ", ".join(
        f"{counts[split]:,} to {verb}" for split, verb in verbs.items() if counts[split]
    )


def _groups_text(splits: dict[str, list[UsedRow]], group_by: str, by_template: bool) -> str:
    """How rows were grouped, and how many groups went where."""
    how = repr(group_by)
    if by_template:
        how = "template (numbers, quoted strings and names in the prompt masked)"
    elif group_by == TEMPLATE:
        how = "the file's own column 'template', not by the prompts' templates"
    groups = {split: len({row.group for row in own}) for split, own in splits.items()}
    count = counted(sum(groups.values()), "group")
    return f"grouped by {how}: {count} ({_shared_out(groups)}), none of them in two splits"
