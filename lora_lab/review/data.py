"""`check_data`: what is odd about a file of prompts and answers, before anything is trained."""

import gc
import os
import random
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lora_lab.review.data_groups import (
    FEW_GROUPS,
    columns_to_group_by,
    group_findings,
    grouping_hint,
    groups_by_split,
    groups_in_words,
    groups_of,
)
from lora_lab.review.data_lengths import Lengths, counter_here, lengths_of
from lora_lab.review.data_rows import GUESSED, NAMED, Material, quoted, row_findings
from lora_lab.review.data_twins import Twins, twins_of
from lora_lab.review.finding import Finding, Review
from lora_lab.tasks.examples import Example, Task, encode_fitting
from lora_lab.tasks.files import (
    FileRows,
    contested,
    group_by_template,
    is_by_template,
    metric_of,
    rows_read,
)
from lora_lab.tasks.personal_data import without_personal_data
from lora_lab.tasks.records import ANSWER, PROMPT
from lora_lab.tasks.splits import TEST, TRAIN, VALIDATION, UsedRow, splits_of
from lora_lab.tasks.tables import LEAST, read_table, rows_in_words
from lora_lab.tasks.templates import GAP
from lora_lab.wording import counted, percent

MAX_LENGTH = 256  # tokens: a recipe's default
SHOWN = 12  # columns and labels that a fact lists


def check_data(
    path: str | Path,
    *,
    prompt: str = PROMPT,
    answer: str = ANSWER,
    max_length: int = MAX_LENGTH,
    group_by: str | None = None,
) -> Review:
    """What is odd about a CSV, TSV, JSON or JSONL file of prompts and answers, chats included.

    It looks for rows that are left out, repeats, prompts with different answers, near-twins in the
    test, labels, lengths, garbled letters and hints of personal data. Rows are named by their
    numbers. Values of rows are not printed, except labels, templates and the names of large groups.

    Args:
        path: the file.
        prompt: its column with the prompts; without a column of this name, a pair is guessed.
        answer: its column with the answers.
        max_length: tokens that an example may have.
        group_by: a column, such as the person who wrote a row, or "template", as in `load_task`:
            no group is in two splits. The review then counts the groups, and what would leak.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: `path` isn't a path.
        ValueError: it is of another kind, empty, binary or broken (with the place), or has no such
            columns.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"{path!r} isn't a path; give the path of a CSV, TSV, JSON or JSONL file. Rows that "
            "are in memory have to be written into one first"
        )
    path = Path(path)
    if max_length < 1:
        raise ValueError(f"max_length={max_length} leaves no room; give 1 or more (256 is usual)")
    with _no_collecting():
        return _review(path, prompt, answer, max_length, group_by)


@contextmanager
def _no_collecting() -> Iterator[None]:
    """A block in which Python does not search for cycles of objects. There are none to be found.

    With 100,000 rows, this saves a sixth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _review(path: Path, prompt: str, answer: str, max_length: int, group_by: str | None) -> Review:
    table = read_table(path)
    by_template = is_by_template(group_by, table)
    column = {} if group_by is None or by_template else {"group_by": group_by}
    material = material_of(rows_read(table, path, prompt, answer, column, None))
    taken = (material.taken.prompt, material.taken.answer)
    together = {} if group_by else columns_to_group_by(table, taken)
    table.rows.clear()  # from here on, only the examples are needed
    used = material.used
    if by_template:
        group_by_template(used)
    facts = _facts(material, group_by)
    findings = [*row_findings(material), *grouping_hint(together, material.rows)]
    if len(used) >= LEAST:
        grouped = None if group_by is None else groups_of(used, group_by)
        if grouped is not None:
            facts["groups"] = groups_in_words(grouped)
        by_split = None
        try:
            splits = splits_of(
                used, {None: path}, {None: table}, material.metric, group_by, random.Random(0)
            )
        except ValueError as error:  # nearly all prompts have several answers, or too few groups
            facts["splits"] = f"none: {error}"
            if group_by is not None:
                findings.append(_no_splits(error))
        else:
            if grouped is not None:
                by_split = groups_by_split(splits)
            facts["splits"] = _splits_in_words(splits, by_split)
            twins = _twins(*([row.example for row in splits[split]] for split in (TRAIN, TEST)))
            facts["templates"] = f"{twins.templates:,} of {counted(twins.prompts, 'prompt')}"
            findings += _twin_findings(twins, used, group_by)
        if grouped is not None:
            findings += group_findings(grouped, by_split)
    if used:
        lengths = lengths_of(used, max_length, counter_here())
        facts["lengths"] = _lengths_in_words(lengths, max_length)
        findings += _length_findings(lengths, max_length, len(used))
    return Review(subject=path.name, kind="data", facts=facts, findings=tuple(findings))


def material_of(read: FileRows) -> Material:
    """The material for a review: the rows that can be used, their labels and metric."""
    used = read.used
    answers = [row.example.answer for row in used]
    metric = metric_of(answers) if used else ""
    return Material(
        rows=read.count,
        columns=read.columns,
        dropped=read.dropped,
        encoding=read.encoding,
        taken=read.taken,
        used=used,
        contested=contested(used),
        metric=metric,
        labels=Counter(answers if metric == "accuracy" else ()),
    )


def summary(
    path: str | Path,
    task: Task,
    *,
    tokenizer: object | None = None,
    max_length: int = MAX_LENGTH,
    options: Sequence[str] = (),
) -> list[str]:
    """Three lines about the file of a task, for the commands that train or score on it.

    They sum up its rows, its prompts and splits, and its answers; with a tokenizer, the lengths of
    the training examples too. The splits are the task's. The file is not read again, since the task
    has kept what was read. `options` make `lora-lab check` show the same.
    """
    path = Path(path)
    material = material_of(task.read)
    several = material.contested
    rows = [number for numbers in several.values() for number in numbers]
    different = (
        f"{counted(len(several), 'prompt')} with different answers ({rows_in_words(rows)})"
        if several
        else "no prompt with different answers"
    )
    twins = _twins(task.train, task.test)
    labels = material.labels
    if labels:
        (_, most), *_ = labels.most_common(1)
        kinds = f"{counted(len(labels), 'label')}, the largest {percent(most / labels.total())}"
    else:
        kinds = "answers are JSON objects" if material.metric == "field F1" else "answers are texts"
    count = sum(found.severity != "note" for found in row_findings(material))
    odd = f"{counted(count, 'warning')} about rows" if count else "no warning about rows"
    if tokenizer is not None:
        fitting = encode_fitting(task.train, tokenizer, max_length, "answer")
        longest = max((len(row.input_ids) for row in fitting.encoded), default=0)
        beyond = f", {fitting.left_out:,} beyond {max_length}" if fitting.left_out else ""
        kinds += f"; up to {counted(longest, 'token')} to train on{beyond}"
    guessed = f" as {material.encoding}, a guess" if material.encoding in GUESSED else ""
    splits = (len(task.train), len(task.validation), len(task.test))
    trained, validated, tested = (f"{count:,}" for count in splits)
    return [
        f"{path.name}: {counted(material.rows, 'row')} read{guessed}; {trained} to train, "
        f"{validated} to validate, {tested} to test{_groups_in_words(task)}; {material.taken.how}"
        + _reasons(material),
        f"  {different}; {len(twins.twins):,} of {twins.held_out:,} test prompts have a near-twin "
        "in training",
        f"  {kinds}; {odd}; more: {shlex.join(['lora-lab', 'check', str(path), *options])}",
    ]


def _groups_in_words(task: Task) -> str:
    """How many groups each split has, with a warning if they are too few for a score."""
    if task.groups is None:
        return ""
    counts = [
        len({task.groups[example.prompt] for example in split})
        for split in (task.validation, task.test)
    ]
    few = (
        ", so few that their scores say next to nothing; a column of your own with train, "
        "validation and test can give them more (--split-column)"
    )
    few = "" if min(counts) >= FEW_GROUPS else few
    return f" (validation has {counted(counts[0], 'group')}, the test {counts[1]}{few})"


def _twins(training: Sequence[Example], test: Sequence[Example]) -> Twins:
    return twins_of((example.prompt for example in training), (example.prompt for example in test))


# --- facts --------------------------------------------------------------------------------------


def _rows_in_words(material: Material) -> str:
    left_out = f", {material.left_out:,} left out" if material.left_out else ""
    return f"{counted(material.rows, 'row')} read, {len(material.used):,} used{left_out}"


def _reasons(material: Material) -> str:
    reasons = [f"{why}: {rows_in_words(rows)}" for why, rows in material.dropped.items()]
    return f" ({'; '.join(reasons)})" if reasons else ""


def _splits_in_words(
    splits: Mapping[str, Sequence[UsedRow]], by_split: Mapping[str, int] | None
) -> str:
    """How many rows, and how many groups if there are any, each split has."""
    verbs = {TRAIN: "train", VALIDATION: "validate", TEST: "test"}
    sizes = [
        f"{len(splits[split]):,} to {verb}"
        + ("" if by_split is None else f" ({counted(by_split[split], 'group')})")
        for split, verb in verbs.items()
    ]
    how = "at random" if by_split is None else "no group in two"
    return f"{', '.join(sizes)}, {how}"


def _facts(material: Material, group_by: str | None) -> dict[str, str]:
    facts = {"rows": _rows_in_words(material), "taken": material.taken.how}
    unused = [
        name
        for name in material.columns
        if name and name != group_by and repr(name) not in material.taken.how
    ]
    if unused:
        more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
        facts["not used"] = f"{', '.join(map(repr, unused[:SHOWN]))}{more}"
    marked = {"utf-8-sig": "UTF-8 with a byte order mark", "utf-8": "UTF-8"}
    facts["encoding"] = marked.get(material.encoding, material.encoding)
    labels = material.labels
    if labels:
        shown = ", ".join(
            f"{quoted(label)} {percent(count / labels.total())}"
            for label, count in labels.most_common(SHOWN)
        )
        more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
        facts["answers"] = f"{counted(len(labels), 'label')}: {shown}{more}"
    elif material.used:
        facts["answers"] = "JSON objects" if material.metric == "field F1" else "texts"
    return facts


def _lengths_in_words(lengths: Lengths, max_length: int) -> str:
    of = f"half up to {lengths.middle:,}, the longest of {lengths.counted:,} {lengths.most:,}"
    if lengths.unit == "words":
        return (
            f"{of} words; no base is here to count tokens with (`lora-lab prepare` fetches one), "
            "and a word has one token or more"
        )
    return f"{of}, of {max_length:,} allowed, in {lengths.unit}"


# --- findings -----------------------------------------------------------------------------------


def _no_splits(error: ValueError) -> Finding:
    return Finding(
        severity="grave",
        what=f"no splits can be drawn: {error}",
        why="Training stops at it, before the first step.",
        do="Group by another column, or collect rows of more groups.",
        lesson="01",
    )


def _twin_findings(
    twins: Twins, used: Sequence[UsedRow], group_by: str | None
) -> Iterator[Finding]:
    share = len(twins.twins) / max(1, twins.held_out)
    if share < 0.1:
        return
    (template, size), *_ = twins.shared
    known = set(twins.twins)
    rows = sorted(row.number for row in used if row.example.prompt in known)
    yield Finding(
        severity="warning" if share >= 0.5 else "note",
        what=f"{len(twins.twins):,} of {counted(twins.held_out, 'test prompt')} have a near-twin "
        "in training, the same but for numbers, quoted words or names: "
        f"{rows_in_words(rows, NAMED)}. The largest template has {size:,} prompts: "
        f"{without_personal_data(template)[0][:80].replace(GAP, '…')!r}",
        why="The test then asks what training has answered in nearly these words. Prompts in other "
        "words may score far lower.",
        do="Split by template, with --group-by template: none is then in two splits."
        if group_by is None
        else "Several groups ask in these words. If later questions will too, the score holds for "
        "them. Else split by template instead: --group-by template.",
        lesson="01",
    )


def _length_findings(lengths: Lengths, max_length: int, used: int) -> Iterator[Finding]:
    too_long = len(lengths.too_long)
    if not too_long:
        return
    share = too_long / used
    yield Finding(
        severity="grave" if share > 0.5 else "warning" if share > 0.01 else "note",
        what=f"{too_long:,} of {counted(used, 'row')} have more than max_length={max_length:,} "
        f"{lengths.unit}: {rows_in_words(lengths.too_long, NAMED)}",
        why="lora_lab leaves them out of training. Most tools cut them, and the answer's end goes "
        "first.",
        do=f"Set max_length to {lengths.most:,} or more if memory allows, or shorten these rows.",
        lesson="11",
    )
