"""A table from a file: CSV, TSV, JSON (a list of objects) or JSONL (an object a line).

Rows are counted as people see them: in CSV and TSV as in a spreadsheet (the header is row 1), in
JSON from 1, in JSONL by line. Python's own csv and json read the files. pandas would lose count
after an empty line, and accept stray quotes and repeated names. It would turn 5 into 5.0 beside a
null, and takes most of a second to import.
"""

import codecs
import csv
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_lab.recipe import nearest

KINDS = (".csv", ".tsv", ".json", ".jsonl")
LEAST = 3  # rows: at least one for each split
LARGEST = 2**28  # bytes of a file; Python's objects take many times as much memory
BOMS = {  # the longer ones first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BROKEN = "broken JSON"  # why a line of JSONL is left out
CUT_OFF = "broken JSON, as an interrupted write leaves it"  # of the last line
BLANK = "\ufeff \t\r\n\f\v"
STRANGE = "".join(sign for sign in map(chr, range(32)) if sign not in "\t\n\r\f\v")  # not in text
LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")  # with its end, as it stands


@dataclass(frozen=True, slots=True)
class Row:
    """A record of the file, with the row number or line number at which people find it."""

    number: int
    values: dict[str, object]


@dataclass(slots=True)
class Table:
    """The rows and columns of a file, with notes on how it was read and which rows are dropped."""

    rows: list[Row]
    columns: list[str]
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)  # reason: row numbers
    encoding: str = "utf-8"

    def drop(self, reason: str, number: int) -> None:
        """Note that a row is left out, and why."""
        self.dropped.setdefault(reason, []).append(number)


def rows_in_words(numbers: Sequence[int], most: int = 8) -> str:
    """Row numbers in words: `row 3`, `rows 3, 9`, `rows 2 to 90, 98 and 1,400 more`.

    Of three or more consecutive numbers, only the first and the last are named. At most `most` such
    parts are named.
    """
    parts: list[str] = []
    place = 0
    while place < len(numbers) and len(parts) < most:
        end = place + 1
        while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            end += 1
        if end - place < 3:
            end = place + 1
        several = f" to {numbers[end - 1]}" if end - place > 1 else ""
        parts.append(f"{numbers[place]}{several}")
        place = end
    more = f" and {len(numbers) - place:,} more" if place < len(numbers) else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {', '.join(parts)}{more}"


def read_table(path: Path) -> Table:
    """The file's rows and columns.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: the file may not be read.
        ValueError: the file is of another kind, too large, empty, binary, or broken (with the
            place).
    """
    _check_file(path)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(
            f"{path.name!r} is of a kind that is not read; {nearest(kind, KINDS)}"
            f"give one of {', '.join(KINDS)} (a spreadsheet can be saved as CSV)"
        )
    text, encoding = _read_text(path)
    reader = {".json": _read_json, ".jsonl": _read_jsonl}.get(kind)
    table = reader(text, path) if reader else _read_csv(text, path, "\t" if kind == ".tsv" else "")
    if not table.rows:
        raise ValueError(f"{path.name} has no rows of data; give a file with {LEAST} or more")
    if encoding not in ("utf-8", "utf-8-sig"):
        table.notes.append(f"read as {encoding}")
    table.encoding = encoding
    return table


def _read_text(path: Path) -> tuple[str, str]:
    """The file's text and its encoding."""
    try:
        content = path.read_bytes()
    except PermissionError as error:
        raise PermissionError(
            f"{str(path)!r} may not be read by you; change its permissions, or give a copy of it"
        ) from error
    return _decode(content, path)


def _check_file(path: Path) -> None:
    """Refuse a missing file, a folder, a pipe or device, and a file too large for memory."""
    try:
        status = path.stat()
    except PermissionError:
        raise
    except (OSError, ValueError) as error:  # also for a name that no system allows
        beside = path.parent.glob("*") if os.path.isdir(path.parent) else ()
        names = tuple(
            file.name for file in beside if file.suffix.lower() in KINDS and file.is_file()
        )
        raise FileNotFoundError(
            f"there is no file {str(path)!r}; {nearest(path.name, names)}"
            "give the path of a CSV, TSV, JSON or JSONL file"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{str(path)!r} is a folder; give one file: {', '.join(KINDS)}")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{str(path)!r} is a pipe or a device, which may never end; save what it gives as a "
            f"file, and give that: {', '.join(KINDS)}"
        )
    if status.st_size > LARGEST:
        raise ValueError(
            f"{path.name} has {status.st_size / 1e6:,.0f} MB, and it would be held in memory "
            f"whole; give a part of it, up to {LARGEST / 1e6:.0f} MB"
        )


def _decode(content: bytes, path: Path) -> tuple[str, str]:
    """The text and its encoding: by a byte order mark, else UTF-8, else Windows' Latin-1."""
    marked = [encoding for bom, encoding in BOMS.items() if content.startswith(bom)]
    if not marked and b"\0" in content:
        raise _binary_error(path)
    for encoding in marked[:1] or ("utf-8", "cp1252", "latin-1"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            is_cut_off = error.end == len(content) and "end of data" in error.reason
            if path.suffix.lower() != ".jsonl" or not is_cut_off:
                continue
            text = content[: error.start].decode(encoding)  # its last line is left out by number
        if sum(map(text.count, STRANGE)) > len(text) / 200:
            break
        if not text[:1000].strip(BLANK) and not text.strip(BLANK):
            raise ValueError(f"{path.name} is empty; give a file with {LEAST} rows or more")
        if encoding in ("cp1252", "latin-1"):
            _check_not_mixed(content, path)
        return text, encoding
    raise _binary_error(path)


def _check_not_mixed(content: bytes, path: Path) -> None:
    """Refuse a file with UTF-8 in some lines and another encoding in others: letters would change.

    Text in another encoding is hardly ever valid UTF-8. So a line that is valid UTF-8, and not
    plain ASCII, really is UTF-8.
    """
    broken, in_utf_8 = 0, False  # the number of the first line that is not UTF-8
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            broken = broken or number
        else:
            in_utf_8 = in_utf_8 or not line.isascii()
    if in_utf_8:
        raise ValueError(
            f"{path.name} mixes encodings: some of its lines are UTF-8, and line {broken} is not; "
            "write that line anew in an editor, and save the file as UTF-8"
        )


def _binary_error(path: Path) -> ValueError:
    return ValueError(
        f"{path.name} holds binary data, not text, whatever its name says; "
        "open it in the program that made it, and save it as CSV (UTF-8)"
    )


def _read_csv(text: str, path: Path, delimiter: str) -> Table:
    """A header and rows. Without a delimiter, it is the header's most frequent of , ; tab |."""
    if not delimiter:
        header = re.search(r"\S[^\n]*", text)[0]
        delimiter = max(",;\t|", key=header.count)  # the first of equals
    lines = (line[0] for line in LINE.finditer(text))  # one by one, not all once more in memory
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    table: Table | None = None
    number = 0  # of the row that was read last
    try:
        for number, cells in enumerate(reader, start=1):
            if not cells:  # an empty line, which may stand above the header too
                continue
            if table is None:
                table = Table([], _column_names(cells, path))
                continue
            table.rows.append(Row(number, dict(zip(table.columns, cells, strict=False))))
            if len(cells) > len(table.columns):
                table.drop(f"more values than the header's {len(table.columns)}", number)
    except csv.Error as error:
        if "field larger" in str(error):
            raise ValueError(
                f"{path.name} has a value of more than {csv.field_size_limit():,} letters near "
                f"line {reader.line_num}, in row {number + 1}; shorten it, or close the "
                'quotation mark " that it begins with'
            ) from error
        raise ValueError(
            f"{path.name} is broken near line {reader.line_num}, in row {number + 1}: {error}; "
            'put values with quotes or line breaks between "…", and write " inside them as ""'
        ) from error
    return table or Table([], [])


def _column_names(cells: Sequence[str], path: Path) -> list[str]:
    columns = [name.strip() for name in cells]
    repeated = [name for name, count in Counter(columns).items() if count > 1 and name]
    if repeated:
        raise ValueError(f"{path.name} has two columns called {repeated[0]!r}; rename one")
    return columns


def _read_json(text: str, path: Path) -> Table:
    try:
        records = _parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path.name} is broken at line {error.lineno}, column {error.colno}: {error.msg}; "
            "give a list of objects, or call it .jsonl if there is one object a line"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path.name} {error}") from error
    if not isinstance(records, list):
        raise ValueError(
            f"{path.name} holds {_kind_in_words(records)}, not a list of objects; "
            'give [{"prompt": "…", "answer": "…"}, …]'
        )
    return _table_of_records(enumerate(records, start=1), "entry", path)


def _read_jsonl(text: str, path: Path) -> Table:
    """An object in each line. Broken lines are left out, unless more than half are broken."""
    broken: dict[int, json.JSONDecodeError] = {}  # by the line's number

    def records() -> Iterable[tuple[int, object]]:
        for number, line in enumerate(_lines(text), start=1):
            if line.strip():
                try:
                    yield number, _parse_json(line)
                except json.JSONDecodeError as error:
                    broken[number] = error
                    yield number, {}
                except ValueError as error:
                    raise ValueError(f"{path.name}, line {number}, {error}") from error

    table = _table_of_records(records(), "line", path)
    if 2 * len(broken) > len(table.rows):
        number, error = next(iter(broken.items()))
        raise ValueError(
            f"{path.name} is broken in {len(broken):,} of {len(table.rows):,} lines, first in line "
            f"{number}, column {error.colno}: {error.msg}; give one object a line: "
            '{"prompt": "…", "answer": "…"}'
        )
    for number in broken:
        table.drop(CUT_OFF if number == table.rows[-1].number else BROKEN, number)
    return table


def _lines(text: str) -> Iterator[str]:
    """The lines, one by one. Not `splitlines`: JSON may hold other separators inside strings."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _parse_json(text: str) -> object:
    """The value of a JSON text; a ValueError in words if it is too deep, too long or ambiguous."""
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError(
            "nests lists or objects deeper than can be read; give flat objects: "
            '{"prompt": "…", "answer": "…"}'
        ) from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "digits" not in str(error):
            raise
        raise ValueError(
            "holds a whole number with thousands of digits, which is not read; "
            'write it as text, between "…"'
        ) from None


def _object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object's values by name; a ValueError if a name stands twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"has an object that says {repeated!r} twice; keep one of the two")
    return values


DECODER = json.JSONDecoder(object_pairs_hook=_object_of)


def _table_of_records(records: Iterable[tuple[int, object]], place: str, path: Path) -> Table:
    """The table of numbered JSON objects; `place` says what the numbers count."""
    table = Table([], [])
    for number, record in records:
        if not isinstance(record, dict):
            raise ValueError(
                f"{path.name}, {place} {number}, is {_kind_in_words(record)}, not an object; "
                'give {"prompt": "…", "answer": "…"}'
            )
        table.rows.append(Row(number, record))
    table.columns = list(dict.fromkeys(name for row in table.rows for name in row.values))
    return table


def _kind_in_words(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a yes or no"}
    return kinds.get(type(value), "nothing" if value is None else "a number")
