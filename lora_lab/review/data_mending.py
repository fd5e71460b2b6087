"""`mend_data`: a copy of a file without those flaws that can be mended without judgement."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_lab.places import write_atomically
from lora_lab.review.data import material_of
from lora_lab.review.data_rows import GARBLED, Material, is_placeholder, spelled
from lora_lab.tasks.chats import text_of
from lora_lab.tasks.examples import Example, TooLong, encode
from lora_lab.tasks.files import FileRows, rows_read
from lora_lab.tasks.personal_data import without_personal_data
from lora_lab.tasks.records import ANSWER, PROMPT
from lora_lab.tasks.splits import UsedRow
from lora_lab.tasks.tables import read_table, rows_in_words
from lora_lab.wording import counted

SEVERAL = "left out: a prompt with different answers"
PLACEHOLDER = "left out: nothing but a placeholder as the answer"
LENGTH = "left out: longer than max_length"
LETTERS = "garbled letters read again"
SPELLING = "a label in its usual spelling"
PERSONAL = "hints of personal data hidden"


@dataclass(frozen=True, slots=True, repr=False)
class Mended:
    """A mended file, and the changes, with the numbers of the original rows."""

    path: Path  # CSV: the columns prompt and answer, then the file's others
    before: int  # rows
    after: int
    done: Mapping[str, Sequence[int]] = field(default_factory=dict)  # what: row numbers

    def __str__(self) -> str:
        """The numbers of rows, then a line for each kind of change, with its rows."""
        lines = [f"{counted(self.before, 'row')} read, {self.after:,} kept"]
        lines += [f"  {what}: {rows_in_words(rows)}" for what, rows in self.done.items()]
        return "\n".join(lines)

    __repr__ = __str__


def mend_data(
    path: str | Path,
    folder: str | Path,
    tokenizer: object,
    *,
    prompt: str = PROMPT,
    answer: str = ANSWER,
    max_length: int = 256,
) -> Mended:
    """A copy of a file of prompts and answers, without its flaws that need no judgement.

    Left out: blank rows, repeats, all rows of a prompt with different answers, placeholders as
    answers, examples beyond `max_length`. Mended: garbled letters, labels in a rare spelling, hints
    of personal data. Other columns, such as a customer to group by, are kept as they are, so look
    through them yourself. The file itself stays as it is. Near-twins stay: a split by template
    keeps them together. Wrong labels, names and streets are not found.

    Args:
        path: CSV, TSV, JSON or JSONL.
        folder: where the copy is written, under the file's name, as CSV.
        tokenizer: of the base that is to be trained; it counts the tokens.
        prompt: a column; without a column of this name, a pair is guessed, as in `load_task`.
        answer: a column.
        max_length: tokens that an example may have, the chat format included.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be read, or no row is left.
    """
    path = Path(path)
    table = read_table(path)
    read = rows_read(table, path, prompt, answer, {}, None)
    material = material_of(read)
    done: dict[str, list[int]] = {
        f"left out: {why}": [*rows] for why, rows in material.dropped.items()
    }
    spelling = _usual_spelling(material.labels)
    examples = [_mended(row, spelling, done) for row in material.used]
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for example in examples:
        answers[example.prompt].add(example.answer)
    kept: dict[Example, int] = {}
    for row, example in zip(material.used, examples, strict=True):
        several = len(answers[example.prompt]) > 1  # in the spelling that all have now
        why = SEVERAL if several else _flaw(row, example, material, tokenizer, max_length)
        if why:
            done.setdefault(why, []).append(row.number)
        else:
            kept.setdefault(example, row.number)  # two rows may have become one
    if not kept:
        raise ValueError(f"no row of {path.name} is left: {'; '.join(done)}; mend it by hand")
    new = Path(folder) / f"{path.stem}.csv"
    if new.resolve() == path.resolve():
        raise ValueError(f"{str(new)!r} is the file itself, which stays; give another folder")
    new.parent.mkdir(parents=True, exist_ok=True)
    others = [name for name in read.columns if name and name not in _taken(read)]
    values = {row.number: row.values for row in table.rows}
    rows = (
        (example.prompt, example.answer, *(text_of(values[number].get(name)) for name in others))
        for example, number in kept.items()
    )
    with write_atomically(new) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([(PROMPT, ANSWER, *others), *rows])
    return Mended(new, read.count, len(kept), {what: sorted(rows) for what, rows in done.items()})


def _flaw(
    row: UsedRow, example: Example, material: Material, tokenizer: object, max_length: int
) -> str:
    """Why a row is left out; "" if it is not."""
    if is_placeholder(row.example.answer, labels=bool(material.labels)):
        return PLACEHOLDER
    try:
        encode(tokenizer, example, max_length)
    except TooLong:
        return LENGTH
    return ""


def _mended(row: UsedRow, spelling: Mapping[str, str], done: dict[str, list[int]]) -> Example:
    """The example in readable letters, its usual label, and without personal data."""
    example, texts = row.example, []
    for text in (example.prompt, example.answer):
        readable = _read_again(text)
        hidden, found = without_personal_data(readable)
        texts.append(hidden)
        if readable != text:
            _note(done, LETTERS, row.number)
        if found:
            _note(done, PERSONAL, row.number)
    usual = spelling.get(spelled(example.answer), texts[1])
    if usual != texts[1]:
        _note(done, SPELLING, row.number)
    return replace(example, prompt=texts[0], answer=usual)


def _note(done: dict[str, list[int]], what: str, number: int) -> None:
    rows = done.setdefault(what, [])
    if number not in rows[-1:]:
        rows.append(number)


def _read_again(text: str) -> str:
    """A text that was decoded wrongly from UTF-8, decoded again; other texts stay as they are."""
    if not GARBLED.search(text):
        return text
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return text


def _usual_spelling(labels: Counter[str]) -> dict[str, str]:
    """For each label the spelling that most of its rows have."""
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for label, _ in labels.most_common():
        spellings[spelled(label)].append(label)
    return {key: names[0] for key, names in spellings.items() if len(names) > 1}


def _taken(read: FileRows) -> tuple[str, ...]:
    """The columns that are not copied, since the copy has their texts or their names already."""
    return read.taken.prompt, read.taken.answer, PROMPT, ANSWER
