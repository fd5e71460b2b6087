"""A task from one's own file: CSV, TSV, JSON (a list of objects) or JSONL (an object a line).

Nothing is dropped in silence: the task's `about` names the rows that were left out, and why. Rows
are counted as people see them: in CSV and TSV as a spreadsheet does (the header is row 1), in JSON
from 1, in JSONL by line.
"""

import codecs
import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.examples import Example, Task

KINDS = (".csv", ".tsv", ".json", ".jsonl")
LEAST = 3  # rows: one for each split
LABELS = 100  # at most so many different answers count as labels
BOMS = {  # the longer ones first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One record of the file, with the number that people know it by."""

    number: int
    values: dict[str, object]


@dataclass(slots=True)
class Table:
    """What was read: the rows, the columns in their order, and what to say about the reading."""

    rows: list[Row]
    columns: list[str]
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)  # why -> row numbers

    def drop(self, why: str, number: int) -> None:
        """Note that a row is left out."""
        self.dropped.setdefault(why, []).append(number)


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
    table = _read(path)
    for role, column in (("prompt", prompt), ("answer", answer)):
        _check_column(table, role, column, path)
    if prompt == answer:
        raise ValueError(
            f"prompt={prompt!r} and answer={answer!r} are one column; give two: "
            f"{path.name} has {', '.join(table.columns)}"
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


# --- reading ----------------------------------------------------------------------------------


def _read(path: Path) -> Table:
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; give one file: {', '.join(KINDS)}")
    if not path.is_file():
        beside = tuple(one.name for one in path.parent.glob("*") if one.suffix.lower() in KINDS)
        raise FileNotFoundError(
            f"there is no file {str(path)!r}; {nearest(path.name, beside)}"
            "give the path of a CSV, TSV, JSON or JSONL file"
        )
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(
            f"{path.name!r} is of a kind that is not read; {nearest(kind, KINDS)}"
            f"give one of {', '.join(KINDS)} (a spreadsheet can be saved as CSV)"
        )
    text, encoding = _decode(path.read_bytes(), path)
    reader = {".json": _read_json, ".jsonl": _read_jsonl}.get(kind)
    table = reader(text, path) if reader else _read_csv(text, path, "\t" if kind == ".tsv" else "")
    if not table.rows:
        raise ValueError(f"{path.name} has no rows of data; give a file with {LEAST} or more")
    if encoding not in ("utf-8", "utf-8-sig"):
        table.notes.append(f"read as {encoding}")
    return table


def _decode(content: bytes, path: Path) -> tuple[str, str]:
    """The text and its encoding: by its byte order mark, else UTF-8, else Windows' Latin-1."""
    if not content.strip():
        raise ValueError(f"{path.name} is empty; give a file with {LEAST} rows or more")
    marked = [encoding for bom, encoding in BOMS.items() if content.startswith(bom)]
    if not marked and b"\0" in content:
        raise _binary(path)
    for encoding in marked[:1] or ("utf-8", "cp1252", "latin-1"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        strange = sum(ord(letter) < 32 and letter not in "\t\n\r\f\v" for letter in text)
        if strange > len(text) / 200:
            break
        return text, encoding
    raise _binary(path)


def _binary(path: Path) -> ValueError:
    return ValueError(
        f"{path.name} holds binary data, not text, whatever its name says; "
        "open it in the program that made it, and save it as CSV (UTF-8)"
    )


def _read_csv(text: str, path: Path, delimiter: str) -> Table:
    """A header and rows. Without a given delimiter: the one of , ; tab | that splits the header."""
    if not delimiter:
        header = text.lstrip().split("\n", 1)[0]
        delimiter = max(",;\t|", key=header.count)  # the first of equals
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        rows.extend(reader)
    except csv.Error as error:
        raise ValueError(
            f"{path.name} is broken near line {reader.line_num}, in row {len(rows) + 1}: {error}; "
            'put values with quotes or line breaks between "…", and write " inside them as ""'
        ) from error
    columns = [name.strip() for name in rows[0]]
    doubled = [name for name, count in Counter(columns).items() if count > 1 and name]
    if doubled:
        raise ValueError(f"{path.name} has two columns called {doubled[0]!r}; rename one")
    table = Table([], columns)
    for number, cells in enumerate(rows[1:], start=2):
        if not cells:  # an empty line
            continue
        table.rows.append(Row(number, dict(zip(columns, cells, strict=False))))
        if len(cells) > len(columns):
            table.drop(f"more values than the header's {len(columns)}", number)
    return table


def _read_json(text: str, path: Path) -> Table:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path.name} is broken at line {error.lineno}, column {error.colno}: {error.msg}; "
            "give a list of objects, or call it .jsonl if there is one object a line"
        ) from error
    if not isinstance(records, list):
        raise ValueError(
            f"{path.name} holds {_said(records)}, not a list of objects; "
            'give [{"prompt": "…", "answer": "…"}, …]'
        )
    return _table(enumerate(records, start=1), "entry", path)


def _read_jsonl(text: str, path: Path) -> Table:
    def records() -> Iterable[tuple[int, object]]:
        # not splitlines(): JSON may hold other line separators inside its strings
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{path.name} is broken in line {number}, column {error.colno}: "
                        f'{error.msg}; give one object a line: {{"prompt": "…", "answer": "…"}}'
                    ) from error

    return _table(records(), "line", path)


def _table(records: Iterable[tuple[int, object]], where: str, path: Path) -> Table:
    table = Table([], [])
    for number, record in records:
        if not isinstance(record, dict):
            raise ValueError(
                f"{path.name}, {where} {number}, is {_said(record)}, not an object; "
                'give {"prompt": "…", "answer": "…"}'
            )
        table.rows.append(Row(number, record))
    table.columns = list(dict.fromkeys(name for row in table.rows for name in row.values))
    return table


def _said(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a yes or no"}
    return kinds.get(type(value), "nothing" if value is None else "a number")


# --- from rows to examples --------------------------------------------------------------------


def _check_column(table: Table, role: str, column: str, path: Path) -> None:
    if column not in table.columns:
        raise ValueError(
            f"{path.name} has no column {column!r}; {nearest(column, tuple(table.columns))}"
            f"name one of {', '.join(table.columns)} as its {role} ({role}=..., or --{role})"
        )
    if not any(_text(row.values.get(column)) for row in table.rows):
        raise ValueError(
            f"column {column!r} of {path.name} is blank in every row; "
            f"give another of: {', '.join(table.columns)}"
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
        elif asked not in first:
            first[asked] = (wanted, row.number)
        elif first[asked][0] == wanted:
            table.drop("the same as an earlier row", row.number)
        else:
            table.drop(f"the prompt of row {first[asked][1]} with another answer", row.number)
    return [Example(asked, wanted) for asked, (wanted, _) in first.items()]


def _metric(answers: Sequence[str]) -> str:
    if all(_is_object(answer) for answer in answers):
        return "field F1"
    counts = Counter(answers)
    shared = sum(count for count in counts.values() if count > 1)
    return "accuracy" if len(counts) <= LABELS and 3 * shared >= 2 * len(answers) else "exact match"


def _is_object(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), dict)
    except json.JSONDecodeError:
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
