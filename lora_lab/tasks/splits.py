"""Splits of a file's rows: named by a column, or drawn so that no group of rows is in two."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_lab.recipe import nearest
from lora_lab.tasks.examples import Example
from lora_lab.tasks.tables import Table, rows_in_words
from lora_lab.wording import counted

SPLITS = TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPELLINGS = {  # as data sets write them: the split that each means
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval"), VALIDATION),
    **dict.fromkeys(("test", "testing", "holdout"), TEST),
}
TEMPLATE = "template"  # as `group_by`: rows are grouped by their prompts' templates
MANY = 10  # with this many groups, a drawn split has two: a single one shows no spread
LARGE = 5  # a group with more than a fifth of the rows stays in training


@dataclass(slots=True)
class UsedRow:
    """A row of a table that becomes an example."""

    example: Example
    number: int
    table: Table
    split: str | None = None  # None: to be drawn
    group: str | None = None  # None: rows are not grouped
    contradicted: bool = False  # another row has its prompt with another answer


def split_named(value: str, column: str, number: int, name: str) -> str:
    """The split that a value of the split column means.

    Raises:
        ValueError: if the value names no split, with the row and what would fit.
    """
    split = SPELLINGS.get(value.casefold())
    if split is None:
        said = f"says {value[:40]!r}" if value else "is blank"
        raise ValueError(
            f"column {column!r} of {name} {said} in row {number}, and that names no split; "
            f"{nearest(value.casefold(), tuple(SPELLINGS)) if value else ''}give train, validation "
            f"or test (read as well: {', '.join(word for word in SPELLINGS if word not in SPLITS)})"
        )
    return split


# --- no prompt and no group in two splits -----------------------------------------------------


def kept_apart(rows: Sequence[UsedRow]) -> list[UsedRow]:
    """The rows without those whose prompt or group is in a split that is held back.

    The test keeps its rows, then the validation. The tables note which rows are left out.
    """
    kept: list[UsedRow] = []
    held: dict[str, str] = {}  # a prompt of the test or the validation: its split
    groups: dict[str | None, str] = {}
    for split in (TEST, VALIDATION, TRAIN, None):
        own = [row for row in rows if row.split == split]
        stay = []
        for row in own:
            if row.example.prompt in held:
                row.table.drop(f"its prompt is in the {held[row.example.prompt]}", row.number)
            elif row.group in groups:
                row.table.drop(f"its group is in the {groups[row.group]}", row.number)
            else:
                stay.append(row)
        if split in (TEST, VALIDATION):
            held |= {row.example.prompt: split for row in stay}
            groups |= {row.group: split for row in stay if row.group is not None}
        kept += stay
    return kept


def without_contradicted(rows: Iterable[UsedRow]) -> list[UsedRow]:
    """The rows, but for those of test and validation whose prompt has several answers."""
    kept = []
    for row in rows:
        if row.contradicted and row.split in (TEST, VALIDATION):
            row.table.drop(f"no {row.split} for a prompt with several answers", row.number)
        else:
            kept.append(row)
    return kept


# --- splits that are drawn --------------------------------------------------------------------


def draw_rows(
    rows: Sequence[UsedRow],
    wanted: Sequence[str],
    generator: random.Random,
    in_training: Iterable[str] = (),
) -> dict[str, list[UsedRow]]:
    """The rows of each split: each wanted split gets a tenth, at least one row; the rest trains.

    Args:
        rows: to be shared out.
        wanted: of "test" and "validation", in this order.
        generator: draws.
        in_training: prompts that are to be trained on.
    """
    prompts = {*in_training}
    kept = [row for row in rows if row.example.prompt in prompts]
    drawn = [row for row in rows if row.example.prompt not in prompts]
    generator.shuffle(drawn)
    free = len(drawn) - (not kept)  # training needs a row too
    tenth = max(1, min(round(len(rows) / 10), free // max(1, len(wanted))))
    splits = {
        split: drawn[place * tenth : (place + 1) * tenth] for place, split in enumerate(wanted)
    }
    train = kept + drawn[len(wanted) * tenth :]
    generator.shuffle(train)
    return splits | {TRAIN: train}


def draw_groups(
    rows: Sequence[UsedRow], wanted: Sequence[str], generator: random.Random
) -> dict[str, list[UsedRow]]:
    """The rows of each split, whole groups at a time.

    Each split that is wanted gets a tenth of the groups, as in scikit-learn's GroupShuffleSplit:
    at least one, and two where there are ten groups. A group with more than a fifth of the rows
    stays in training, as long as enough others are left.

    Args:
        rows: to be shared out; of more groups than there are splits wanted.
        wanted: of "test" and "validation", in this order.
        generator: draws.
    """
    sizes = Counter(row.group for row in rows)
    large = large_groups(rows)
    if len(sizes) - len(large) < len(wanted):
        large = [group for group, _ in sizes.most_common(len(sizes) - len(wanted))]
    drawn = sorted(sizes.keys() - {*large})
    generator.shuffle(drawn)
    share = max(2 if len(sizes) >= MANY else 1, round(len(sizes) / 10))
    share = min(share, len(drawn) // max(1, len(wanted)))
    split_of = {
        group: split
        for place, split in enumerate(wanted)
        for group in drawn[place * share : (place + 1) * share]
    }
    splits: dict[str, list[UsedRow]] = {split: [] for split in (*wanted, TRAIN)}
    for row in rows:
        splits[split_of.get(row.group, TRAIN)].append(row)
    generator.shuffle(splits[TRAIN])
    return splits


def large_groups(rows: Sequence[UsedRow]) -> list[str]:
    """The groups with more than a fifth of the rows."""
    sizes = Counter(row.group for row in rows)
    return [group for group, count in sizes.items() if LARGE * count > len(rows)]


# --- from examples to splits ------------------------------------------------------------------


def splits_of(
    rows: Sequence[UsedRow],
    files: dict[str | None, Path],
    tables: dict[str | None, Table],
    metric: str,
    group_by: str | None,
    generator: random.Random,
) -> dict[str, list[UsedRow]]:
    """The rows of each split: those that are given, and those that are drawn from the others."""
    splits = {split: [row for row in rows if row.split == split] for split in (TEST, VALIDATION)}
    free = [row for row in rows if row.split in (None, TRAIN)]
    for split in (TEST, VALIDATION):
        if split in files and not splits[split]:
            raise ValueError(
                f"{files[split].name} has no row to use as the {split}{left_out(tables[split])}"
            )
    wanted = [split for split, own in splits.items() if not own]
    notes = tables[None].notes
    if len(wanted) == 1:
        notes.append(f"{wanted[0]} drawn from the rows to train on")
    _check_enough(free, wanted, files[None].name, group_by, left_out(tables[None]))
    if group_by is not None:
        drawn = draw_groups(free, wanted, generator)
        large = {*large_groups(free)} & {row.group for row in drawn[TRAIN]}
        if wanted and large:
            notes.append(f"large groups stay in training: {_listed(large)}")
    else:
        lone = _lone_labels(free, metric) if wanted else set()
        if lone:
            notes.append(f"only in training, because it occurs once: {_listed(lone)}")
        stays = {row.example.prompt for row in free if row.example.answer in lone}
        stays |= {row.example.prompt for row in free if row.contradicted}
        drawn = draw_rows(free, wanted, generator, stays)
    for split in wanted:
        for row in drawn[split]:
            row.split = split
        splits[split] = without_contradicted(drawn[split])
    splits[TRAIN] = drawn[TRAIN]
    if empty := [split for split in SPLITS if not splits[split]]:
        raise ValueError(
            f"no row of {files[None].name} is left for {' and '.join(empty)}: prompts with several "
            f"answers can't be in it; give more rows{left_out(tables[None])}"
        )
    counts = Counter(row.example.answer for own in splits.values() for row in own)
    if len(counts) == 1:
        notes.append(f"every answer is {next(iter(counts))[:40]!r}: there is little to learn")
    elif metric == "accuracy":
        unseen = counts.keys() - {row.example.answer for row in splits[TRAIN]}
        if unseen:
            notes.append(f"answers that training never shows: {_listed(unseen)}")
    return splits


def _lone_labels(rows: Sequence[UsedRow], metric: str) -> set[str]:
    """The labels that occur once."""
    counts = Counter(row.example.answer for row in rows)
    return {label for label, count in counts.items() if count == 1 and metric == "accuracy"}


def _check_enough(
    free: Sequence[UsedRow], wanted: Sequence[str], name: str, group_by: str | None, without: str
) -> None:
    """Refuse rows or groups that are too few to fill every split."""
    need = ["training", *(split for split in (VALIDATION, TEST) if split in wanted)]
    needed = (
        f"{', '.join(need[:-1])} and {need[-1]} need one each" if need[1:] else "training needs one"
    )
    if len(free) < len(need):
        more = f"give {len(need)} or more (100 is a start)"
        have = counted(len(free), "row")
        raise ValueError(f"{name} has {have} to use, and {needed}; {more}{without}")
    groups = {row.group for row in free}
    if group_by is not None and len(groups) < len(need):
        found = f" ({', '.join(repr(group[:40]) for group in sorted(groups))})"
        raise ValueError(
            f"group_by={group_by!r} makes {counted(len(groups), 'group')} of the "
            f"{counted(len(free), 'row')} of {name}{found}, and {needed}; group by a column with "
            f"{len(need)} or more values, or leave it out{without}"
        )


# --- in words ---------------------------------------------------------------------------------


def left_out(table: Table) -> str:
    """The rows that were left out, by reason, in words."""
    if not table.dropped:
        return ""
    total = sum(map(len, table.dropped.values()))
    reasons = [f"{why}: {rows_in_words(sorted(rows))}" for why, rows in table.dropped.items()]
    return f"; {total:,} left out ({'; '.join(reasons)})"


def _listed(labels: Iterable[str]) -> str:
    """The first labels, and how many more there are."""
    labels = sorted(labels)
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"{', '.join(map(repr, labels[:5]))}{more}"
