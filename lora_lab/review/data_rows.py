"""Findings about a file's rows: left out, repeated, contradicting, oddly written, unbalanced."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_lab.review.finding import Finding
from lora_lab.tasks.chats import MORE, TOOL
from lora_lab.tasks.files import REPEATED
from lora_lab.tasks.personal_data import kinds_of_personal_data, without_personal_data
from lora_lab.tasks.records import Taken
from lora_lab.tasks.splits import UsedRow
from lora_lab.tasks.tables import LEAST, rows_in_words
from lora_lab.wording import counted, percent

NAMED = 60  # rows that a finding names, at most
LABEL = 40  # letters of a label that are printed
MEDIA = ("image", "video", "audio")
ROUNDS = 20  # chats that a note names, at most
FEW = 30  # with fewer test rows, a score says little: one row is 3 points
RARE = 5  # a label with fewer rows is hardly learnt
GUESSED = ("cp1252", "latin-1")
PLACEHOLDERS = {"nan", "null", "n/a", "#n/a", "todo", "tbd"}  # never a label
NOTHING = PLACEHOLDERS | {"na", "none", "unknown", "empty", "undefined"}
DASHES = re.compile(r"[!-/:-@\[-`{-~\s]+")  # punctuation alone
# é, ü, ’ and € as UTF-8 that was read as Latin-1, and the sign for a letter that was lost
GARBLED = re.compile(
    "Ã[\x80-\xbfŠšŽžŒœŸ€‚ƒ„…†‡ˆ‰‹‘’“”•–—˜™›]|â€[\x80-\xbf™œžš“”¦¢]|Â[\xa0-\xbf]|\ufffd"
)


@dataclass(frozen=True, slots=True)
class Material:
    """What was read from a file: its rows, and the prompts and answers taken from them."""

    rows: int
    columns: Sequence[str]
    dropped: Mapping[str, Sequence[int]]  # reason: row numbers
    encoding: str
    taken: Taken
    used: Sequence[UsedRow]
    contested: Mapping[str, Sequence[int]]  # prompts with several answers: the rows of each
    metric: str  # that fits the answers
    labels: Counter[str]  # with their rows; none where answers aren't labels

    @property
    def left_out(self) -> int:
        """Rows that are not used."""
        return sum(map(len, self.dropped.values()))


def row_findings(material: Material) -> Iterator[Finding]:
    """All findings that need no split and no tokenizer."""
    yield from _few(material)
    yield from _dropped(material)
    yield from _repeated(material)
    yield from _contested(material)
    yield from _other_forms(material)
    yield from _rounds(material)
    yield from _beside(material)
    yield from _letters(material)
    yield from _empty_answers(material)
    yield from _labels(material)
    yield from _personal(material)


def _few(material: Material) -> Iterator[Finding]:
    used = len(material.used)
    if used < LEAST:
        yield Finding(
            severity="grave",
            what=f"{counted(used, 'row')} of {material.rows:,} can be used",
            why="Training, validation and test need one row each.",
            do=f"Give {LEAST} rows or more; 100 are a start.",
            lesson="01",
        )
    elif used < 10 * FEW:
        test = max(1, round(used / 10))
        yield Finding(
            severity="note",
            what=f"a tenth for the test is {counted(test, 'row')} of {used:,}",
            why=f"One right answer more or less moves the score by {percent(1 / test)}.",
            do="Read the score's interval, not the score; or hold out a larger test file.",
            lesson="04",
        )


def _dropped(material: Material) -> Iterator[Finding]:
    foreign = {why: rows for why, rows in material.dropped.items() if why.startswith((TOOL, MORE))}
    if foreign:
        yield Finding(
            severity="warning",
            what=f"{_count(foreign):,} of {counted(material.rows, 'row')} are left out, since they "
            f"call tools or hold more than text. {_listed(foreign)}",
            why="lora_lab learns answers in text. Tools with such a chat template learn them too.",
            do="Train on these rows with such a tool, or write the answers out as text.",
        )
    dropped = {
        why: rows
        for why, rows in material.dropped.items()
        if why != REPEATED and why not in foreign
    }
    if not dropped:
        return
    share = _count(dropped) / material.rows
    yield Finding(
        severity="grave" if share > 0.5 else "warning" if share > 0.02 else "note",
        what=f"{_count(dropped):,} of {counted(material.rows, 'row')} are left out. "
        f"{_listed(dropped)}",
        why="Nothing is learnt from them. Other tools stop at such rows, or train on empty text.",
        do="Mend these rows or delete them.",
    )


def _count(dropped: Mapping[str, Sequence[int]]) -> int:
    return sum(map(len, dropped.values()))


def _listed(dropped: Mapping[str, Sequence[int]]) -> str:
    return "; ".join(f"{why}: {rows_in_words(rows, NAMED)}" for why, rows in dropped.items())


def _beside(material: Material) -> Iterator[Finding]:
    """Columns beside the prompts and answers that other trainings would need."""
    media = [name for name in material.columns if name.rstrip("s") in MEDIA]
    if media:
        yield Finding(
            severity="warning",
            what=f"{' and '.join(map(repr, media))} are not used: text alone is read",
            why="A prompt about a picture or a sound is learnt without it, so answers are guesses.",
            do="Leave such rows out, or take a tool and a base that read them.",
        )
    rejected = [name for name in material.columns if name.startswith("rejected")]
    if rejected:
        yield Finding(
            severity="warning",
            what=f"{rejected[0]!r} holds the worse answers of preferences, which are not used",
            why="Training here learns the given answers alone, and no preference as DPO does.",
            do="Train on the better answers, or take a trainer of preferences (TRL's DPOTrainer).",
        )


def _repeated(material: Material) -> Iterator[Finding]:
    rows = material.dropped.get(REPEATED, ())
    if rows:
        yield Finding(
            severity="warning" if len(rows) > material.rows / 10 else "note",
            what=f"{len(rows):,} of {counted(material.rows, 'row')} repeat an earlier row: "
            f"{rows_in_words(rows, NAMED)}",
            why="Here each is used once. A tool that keeps them all may train on a row and test on "
            "its copy.",
            do="Keep one of each before another tool splits the file.",
            lesson="01",
        )


def _contested(material: Material) -> Iterator[Finding]:
    contested = material.contested
    if not contested:
        return
    labels: dict[int, str] = {}
    if material.labels:
        labels = {
            row.number: spelled(row.example.answer) for row in material.used if row.contradicted
        }
    alike, different = [], []
    for rows in contested.values():
        one_label = labels and len({labels[row] for row in rows}) == 1
        (alike if one_label else different).append(rows)
    if alike:
        verb = "has" if len(alike) == 1 else "have"
        yield Finding(
            severity="warning",
            what=f"{counted(len(alike), 'prompt')} {verb} one label in several spellings: "
            f"{_rows_of_each(alike)}",
            why="They count as different answers, so these rows stay in training, and out of "
            "validation and test.",
            do="Write each label in one way. `mend_data` does so.",
            lesson="14",
        )
    if not different:
        return
    many = len(different) > len(material.used) / 10
    verb = "has" if len(different) == 1 else "have"
    yield Finding(
        severity="grave" if many else "warning",
        what=f"{counted(len(different), 'prompt')} {verb} different answers: "
        f"{_rows_of_each(different)}",
        why="A model can give one of them, and each score calls the others wrong. So these rows "
        "stay in training, and out of validation and test.",
        do="Decide which answer is right, or write into the prompt what makes the difference.",
        lesson="01",
    )


def _rows_of_each(prompts: Sequence[Sequence[int]]) -> str:
    """`rows 77, 189; rows 440, 527; and 3 more`: the rows of each prompt."""
    shown, named = [], 0
    for rows in prompts:
        if named + len(rows) > NAMED:
            break
        shown.append(rows_in_words(rows, NAMED))
        named += len(rows)
    more = [f"and {len(prompts) - len(shown):,} more"] if len(prompts) > len(shown) else []
    return "; ".join([*shown, *more])


def _other_forms(material: Material) -> Iterator[Finding]:
    for how, rows in material.taken.others.items():
        yield Finding(
            severity="warning",
            what=f"{counted(len(rows), 'row')} would fit {how}, while {material.taken.how} was "
            f"taken: {rows_in_words(rows, NAMED)}",
            why="Rows of two forms are mixed in the file, and one form is read.",
            do="Rename the columns of these rows, or make two files.",
        )


def _rounds(material: Material) -> Iterator[Finding]:
    several, trailing = material.taken.several, material.taken.trailing
    if several:
        yield Finding(
            severity="note",
            what=f"several rounds in {counted(len(several), 'chat')}: "
            f"{rows_in_words(several, ROUNDS)}",
            why="Here the last answer is learnt, and the turns before it are its prompt, as text. "
            "Other tools learn every answer of a chat.",
            do="Write a row for each answer if all are to be learnt.",
            lesson="02",
        )
    if trailing:
        yield Finding(
            severity="note",
            what=f"turns after the last answer in {counted(len(trailing), 'chat')}: "
            f"{rows_in_words(trailing, ROUNDS)}",
            why="What comes after it has no answer, so it is left out.",
            do="End each chat with the assistant's turn.",
            lesson="02",
        )


def _letters(material: Material) -> Iterator[Finding]:
    used = material.used
    texts = ((row.number, row.example.prompt, row.example.answer) for row in used)
    if material.encoding in GUESSED:
        rows = [
            number
            for number, prompt, answer in texts
            if not (prompt.isascii() and answer.isascii())
        ]
        yield Finding(
            severity="warning",
            what=f"the file isn't UTF-8, and was read as {material.encoding}; letters beyond ASCII "
            f"are in {rows_in_words(rows)}",
            why="The encoding is a guess. If it is wrong, wrong letters are learnt.",
            do="Look at these rows, and save the file as UTF-8.",
        )
        return
    rows = [
        number
        for number, prompt, answer in texts
        if not (prompt.isascii() and answer.isascii())
        and (GARBLED.search(prompt) or GARBLED.search(answer))
    ]
    if rows:
        yield Finding(
            severity="warning",
            what=f"letters look garbled, such as Ã¼ for ü, in {counted(len(rows), 'row')}: "
            f"{rows_in_words(rows, NAMED)}",
            why="The text was read in a wrong encoding before it was saved, and the model learns "
            "to write so.",
            do="Export the data anew as UTF-8, or mend these rows.",
        )


def _empty_answers(material: Material) -> Iterator[Finding]:
    labels = bool(material.labels)
    rows = [
        row.number for row in material.used if is_placeholder(row.example.answer, labels=labels)
    ]
    if rows:
        yield Finding(
            severity="warning",
            what=f"nothing but a placeholder, such as - or n/a, in {counted(len(rows), 'answer')}: "
            f"{rows_in_words(rows, NAMED)}",
            why="The model learns to answer so, also where it could answer well.",
            do="Write the answers, or delete the rows. Keep them if nothing is the right answer.",
        )


def is_placeholder(answer: str, *, labels: bool) -> bool:
    """Whether an answer is nothing but a placeholder: `n/a`, and where answers are texts also `-`.

    Args:
        answer: a row's answer.
        labels: whether the file's answers are labels, one of which may be "none" or "+".
    """
    if len(answer) >= 10:
        return False
    if labels:
        return answer.casefold() in PLACEHOLDERS
    return answer.casefold() in NOTHING or DASHES.fullmatch(answer) is not None


def _labels(material: Material) -> Iterator[Finding]:
    labels = material.labels
    if not labels:
        return
    (largest, count), *_ = labels.most_common(1)
    share = count / labels.total()
    if len(labels) == 1:
        yield Finding(
            severity="grave",
            what=f"every answer is {quoted(largest)}",
            why="There is nothing to distinguish, so nothing about the prompts is learnt.",
            do="Add rows with other answers, or take another column as the answer.",
            lesson="01",
        )
    elif share >= 0.8:
        yield Finding(
            severity="warning",
            what=f"{quoted(largest)} is the answer of {percent(share)} of the rows",
            why=f"A model that always says it scores {percent(share)}, and has learnt nothing.",
            do=f"Compare scores with {percent(share)}, look at the errors by label, and collect "
            "more rows of the others.",
            lesson="01",
        )
    rare = [label for label, rows in labels.items() if rows < RARE]
    if rare and len(labels) > 1:
        shown = ", ".join(f"{quoted(label)} ({labels[label]})" for label in rare[:12])
        more = f" and {len(rare) - 12} more" if len(rare) > 12 else ""
        yield Finding(
            severity="note",
            what=f"{counted(len(rare), 'label')} of {len(labels)} with fewer than {RARE} rows: "
            f"{shown}{more}",
            why="So few rows are hardly learnt, and the test holds one of them or none.",
            do="Collect more, or join them into one label.",
            lesson="01",
        )
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        spellings[spelled(label)].append(label)
    twice = [names for names in spellings.values() if len(names) > 1]
    if twice:
        shown = "; ".join(" and ".join(map(quoted, names)) for names in twice[:8])
        yield Finding(
            severity="warning",
            what=f"{counted(len(twice), 'label')} in several spellings: {shown}",
            why="They are learnt as different answers. lora-lab marks labels without regard to "
            "capitals; other programs, and whoever reads the answers, may not.",
            do="Write each label in one way.",
        )


def spelled(label: str) -> str:
    """A label without what makes a spelling: capitals, spaces, a full stop."""
    return " ".join(label.casefold().split()).strip(".")


def quoted(label: str) -> str:
    """A label to print, shortened, and without personal data."""
    label, _ = without_personal_data(label)  # before the cut: half an address would not be found
    return repr(label if len(label) <= LABEL else f"{label[: LABEL - 1]}…")


def _personal(material: Material) -> Iterator[Finding]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row in material.used:
        for kind in kinds_of_personal_data(f"{row.example.prompt}\n{row.example.answer}"):
            rows[kind].append(row.number)
    for kind, numbers in rows.items():
        yield Finding(
            severity="warning",
            what=f"hints of {kind} in {counted(len(numbers), 'row')}: "
            f"{rows_in_words(numbers, NAMED)}",
            why="A fine-tuned model may repeat them word by word to whoever asks, and an adapter "
            "cannot be made to forget a row.",
            do="Replace them with made-up ones, or ask whether you may train on them.",
        )
