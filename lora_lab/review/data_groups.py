"""Groups of rows, such as customers: how many, how large, and what a split at random leaks."""

import random
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lora_lab.review.data_rows import quoted
from lora_lab.review.finding import Finding
from lora_lab.tasks.chats import text_of
from lora_lab.tasks.splits import (
    SPLITS,
    TEMPLATE,
    TEST,
    TRAIN,
    VALIDATION,
    UsedRow,
    draw_rows,
    large_groups,
)
from lora_lab.tasks.tables import LEAST, Table
from lora_lab.wording import counted, percent

FEW_GROUPS = 5  # with fewer groups, a split's score says next to nothing about other groups
ALONE = 0.9  # with this many groups for each row, grouping changes next to nothing
TOGETHER = frozenset(  # words in a column's name that say: rows of one value belong together
    "account author client company conversation customer dialog dialogue doctor document group "
    "patient person session source speaker student supplier template thread user visitor "
    "writer".split()
)


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a file's rows, and what a split at random would do to them."""

    by: str  # a column, or "template"
    sizes: Counter[str]  # rows of each
    large: Sequence[str]  # so large that they stay in training
    leaking: int  # test rows of a random split whose group is in training too
    drawn: int  # all test rows of that split


def groups_of(used: Sequence[UsedRow], by: str) -> Groups:
    """The groups of rows, and how many of them a random split would tear apart."""
    several = {row.example.prompt for row in used if row.contradicted}
    drawn = draw_rows(used, (TEST, VALIDATION), random.Random(0), several)
    trained = {row.group for row in drawn[TRAIN]}
    leaking = sum(row.group in trained for row in drawn[TEST])
    sizes = Counter(row.group for row in used)
    return Groups(by, sizes, large_groups(used), leaking, len(drawn[TEST]))


def groups_in_words(groups: Groups) -> str:
    """`17 by 'customer', half of them with up to 4 rows, the largest with 12 of 120`."""
    sizes = groups.sizes
    by = TEMPLATE if groups.by == TEMPLATE else repr(groups.by)
    return (
        f"{len(sizes):,} by {by}, half of them with up to "
        f"{counted(int(median(sizes.values())), 'row')}, the largest with "
        f"{max(sizes.values()):,} of {sizes.total():,}"
    )


def groups_by_split(splits: Mapping[str, Sequence[UsedRow]]) -> dict[str, int]:
    """How many groups each split has."""
    return {split: len({row.group for row in splits[split]}) for split in SPLITS}


def group_findings(groups: Groups, by_split: Mapping[str, int] | None) -> Iterator[Finding]:
    """Findings about groups. `by_split`: the groups of each split; None: no split was drawn."""
    sizes = groups.sizes
    if len(sizes) >= ALONE * sizes.total():
        yield Finding(
            severity="note" if groups.by == TEMPLATE else "warning",
            what=f"{counted(len(sizes), 'group')} in {counted(sizes.total(), 'row')}: nearly every "
            f"row is a group of its own by {groups.by!r}",
            why="Grouping then keeps nothing together, and splits are as good as at random.",
            do="Group by what rows have in common: a person, a document, a template.",
            lesson="01",
        )
    elif groups.leaking and by_split is not None:
        share = groups.leaking / groups.drawn
        yield Finding(
            severity="note",
            what=f"at random, {groups.leaking:,} of {counted(groups.drawn, 'test row')} "
            f"({percent(share)}) would be of a group that is in training too",
            why="The score would then show how well known groups are answered, and say nothing "
            "about new groups.",
            do=f"Keep --group-by {shlex.quote(groups.by)} in train, sweep and decide: no group is "
            "in two splits then.",
            lesson="01",
        )
    if by_split is not None and min(by_split[TEST], by_split[VALIDATION]) < FEW_GROUPS:
        yield Finding(
            severity="warning",
            what=f"few groups: {by_split[TEST]:,} in the test and {by_split[VALIDATION]:,} in "
            f"validation, of {len(sizes):,}",
            why="Rows of one group are alike. A score over so few groups says next to nothing "
            "about other groups, and its interval is wide.",
            do="Collect rows of more groups. Or give the test more of them, by a column of your "
            "own with train, validation and test (--split-column).",
            lesson="04",
        )
    if groups.large and by_split is not None:
        named = [
            f"{quoted(group)} ({percent(sizes[group] / sizes.total())})" for group in groups.large
        ]
        yield Finding(
            severity="note",
            what=f"more than a fifth of the rows are of one group: {', '.join(named)}",
            why="So large a group stays in training, as long as there are others. The test says "
            "nothing of it.",
            do="Look at its rows. If later questions come from it too, hold some out in a file of "
            "their own (--test).",
        )


def columns_to_group_by(table: Table, taken: Sequence[str]) -> dict[str, int]:
    """Columns that may say which rows belong together, each with its number of groups.

    A column counts if its name has one of the words of `TOGETHER`, and its values repeat.

    Args:
        table: the file's.
        taken: columns that are not looked at: the prompts and the answers.
    """
    found: dict[str, int] = {}
    for name in table.columns:
        words = {word.removesuffix("s") for word in re.findall("[a-z]+", name.casefold())}
        if name in taken or not words & TOGETHER:
            continue
        values = Counter(text_of(row.values.get(name)) for row in table.rows)
        values.pop("", None)
        if len(values) >= LEAST and len(values) < ALONE * values.total():
            found[name] = len(values)
    return found


def grouping_hint(columns: Mapping[str, int], rows: int) -> Iterator[Finding]:
    """That a file seems to have groups, where nobody asked to keep them apart."""
    if not columns:
        return
    named = " and ".join(f"{name!r} ({count:,} values)" for name, count in columns.items())
    first = shlex.quote(next(iter(columns)))
    yield Finding(
        severity="note",
        what=f"rows may belong together by {named}, in {counted(rows, 'row')}",
        why="A split at random then asks about groups that are in training too, and the score says "
        "nothing of new ones.",
        do=f"If later questions come from new groups, give --group-by {first} to check, train and "
        "decide.",
        lesson="01",
    )
