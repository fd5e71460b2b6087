"""`check_data`: what is odd about a file of prompts and answers, before anything is trained."""

import random
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lora_lab.review.data_lengths import Lengths, counter_here, lengths_of
from lora_lab.review.data_personal import without_personal_data
from lora_lab.review.data_rows import GUESSED, NAMED, Material, quoted, row_findings
from lora_lab.review.data_twins import Twins, twins_of
from lora_lab.review.finding import Finding, Review
from lora_lab.tasks.examples import Example, Task, encode_fitting
from lora_lab.tasks.files import FileRows, contested, metric_of, rows_read
from lora_lab.tasks.records import ANSWER, PROMPT
from lora_lab.tasks.splits import TEST, TRAIN, VALIDATION, UsedRow, splits_of
from lora_lab.tasks.tables import LEAST, read_table, rows_in_words
from lora_lab.tasks.templates import GAP
from lora_lab.wording import counted, percent

MAX_LENGTH = 256  # tokens: a recipe's default
FEW_GROUPS = 5  # of a split: below, its score says next to nothing of other groups
SHOWN = 12  # columns and labels that a fact lists


def check_data(
    path: str | Path,
    *,
    prompt: str = PROMPT,
    answer: str = ANSWER,
    max_length: int = MAX_LENGTH,
) -> Review:
    """What is odd about a CSV, TSV, JSON or JSONL file of prompts and answers, chats included.

    Rows that are left out, repeats, one prompt with different answers, near-twins in the test,
    labels, lengths, garbled letters, hints of personal data. Rows are named by their numbers.
    No value of a row is printed, but for labels and templates.

    Args:
        path: the file.
        prompt: its column with the prompts; without one of this name a fitting pair is guessed.
        answer: its column with the answers.
        max_length: tokens that an example may have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind, empty, binary or broken (with the place), or has no such
            columns.
    """
    path = Path(path)
    if max_length < 1:
        raise ValueError(f"max_length={max_length} leaves no room; give 1 or more (256 is usual)")
    table = read_table(path)
    material = material_of(rows_read(table, path, prompt, answer, {}, None))
    table.rows.clear()  # the examples hold all that is needed from here on
    used = material.used
    facts = _facts(material)
    findings = [*row_findings(material)]
    if len(used) >= LEAST:
        try:
            splits = splits_of(
                used, {None: path}, {None: table}, material.metric, None, random.Random(0)
            )
        except ValueError as error:  # nearly all prompts have several answers
            facts["splits"] = f"none: {error}"
        else:
            sizes = [f"{len(splits[TRAIN]):,} to train", f"{len(splits[VALIDATION]):,} to validate"]
            facts["splits"] = f"{', '.join(sizes)}, {len(splits[TEST]):,} to test, at random"
            twins = _twins(*([row.example for row in splits[split]] for split in (TRAIN, TEST)))
            facts["templates"] = f"{twins.templates:,} of {counted(twins.prompts, 'prompt')}"
            findings += _twin_findings(twins, used)
    if used:
        lengths = lengths_of(used, max_length, counter_here())
        facts["lengths"] = _lengths_in_words(lengths, max_length)
        findings += _length_findings(lengths, max_length, len(used))
    return Review(subject=path.name, kind="data", facts=facts, findings=tuple(findings))


def material_of(read: FileRows) -> Material:
    """What a file holds for training."""
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
) -> list[str]:
    """Three lines about the file of a task, for the commands that train or score on it.

    Its rows, what is odd about its prompts and splits, its answers; with a tokenizer, the lengths
    of the training examples too. The splits are the task's. The file is not read again: the task
    has kept what was read of it.
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
        f"  {kinds}; {odd}; more: lora-lab check {shlex.quote(str(path))}",
    ]


def _groups_in_words(task: Task) -> str:
    """How many groups each split has; a warning where they are too few to tell anything."""
    if task.groups is None:
        return ""
    counts = [
        len({task.groups[one.prompt] for one in split}) for split in (task.validation, task.test)
    ]
    few = (
        ", so few that their scores tell next to nothing; a column of your own with train, "
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


def _facts(material: Material) -> dict[str, str]:
    facts = {"rows": _rows_in_words(material), "taken": material.taken.how}
    unused = [name for name in material.columns if name and repr(name) not in material.taken.how]
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


def _twin_findings(twins: Twins, used: Sequence[UsedRow]) -> Iterator[Finding]:
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
        why="A test at random then asks what training has answered in nearly these words. Prompts "
        "in other words may score far lower.",
        do="Split by template, with --group-by template: none is then in two splits.",
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
