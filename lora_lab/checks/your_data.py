"""Checks for notebook 14, Your data: rows that are mended, and the settings that a time allows."""

import csv
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lora_lab.checks.compare import Case, Exercise, Function, WrongAnswer
from lora_lab.places import data_folder
from lora_lab.records import Verdict
from lora_lab.review.data import check_data
from lora_lab.wording import counted

Rows = list[tuple[str, str]]  # prompt, answer
LABELS = ("praise", "blame", "mixed")
PLACEHOLDERS = ("", "n/a", "todo")
WANTED = ("different answers", "placeholder", "spellings", "repeat", "blank")  # of findings

# --- mended rows ----------------------------------------------------------------------------


def _mend_rows(rows: Rows, placeholders: Collection[str]) -> Rows:
    """The rows that can be trained on, in their order.

    An answer that is a placeholder, in small or capital letters, goes with its row. A label in
    several spellings gets the spelling that most rows have. Then a row that repeats another stands
    there once, and a prompt that has different answers goes with all its rows.
    """
    kept = [row for row in rows if row[1].casefold() not in placeholders]
    usual = _usual(kept)
    kept = [(prompt, usual[answer.casefold()]) for prompt, answer in kept]
    answers = _answers(kept)
    return [row for row in dict.fromkeys(kept) if len(answers[row[0]]) == 1]


def _usual(rows: Rows) -> dict[str, str]:
    """Each label in small letters, with the spelling that most of its rows have."""
    usual: dict[str, str] = {}
    for answer, _ in Counter(answer for _, answer in rows).most_common():
        usual.setdefault(answer.casefold(), answer)
    return usual


def _answers(rows: Rows) -> dict[str, set[str]]:
    """Each prompt's answers."""
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for prompt, answer in rows:
        answers[prompt].add(answer)
    return answers


def rows_to_mend() -> Iterator[Case]:
    """Three lists of rows with all the flaws, in another order each."""
    for seed in range(3):
        rng = random.Random(seed)
        names = [label.title() for label in LABELS] if seed == 1 else [*LABELS]
        rows = [(f"Comment {number}.", rng.choice(names)) for number in range(12)]
        rows += rows[:3]  # repeated
        rows += [(rows[4][0], next(name for name in names if name != rows[4][1]))]
        rows += [("Comment 20.", names[0].swapcase()), ("Comment 5.", rows[5][1].swapcase())]
        rows += [("Comment 21.", ""), ("Comment 22.", "N/A"), (rows[7][0], "todo")]
        rng.shuffle(rows)
        yield {"rows": rows, "placeholders": PLACEHOLDERS}


def _as_rows(function: Function, case: Case) -> list[list[str]] | None:
    """The rows that a function returns, as lists: pairs may be tuples or lists."""
    answer = function(**case)
    if answer is None:
        return None
    try:
        return [[prompt, reply] for prompt, reply in answer]
    except (TypeError, ValueError):
        raise WrongAnswer("give a list of pairs: (prompt, answer).") from None


def _mending_trial(function: Function) -> Verdict:
    """Mend the course's file with the learner's function, and look through it again."""
    path = data_folder() / "your_data" / "comments.csv"
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = map(tuple, csv.reader(file))
    with TemporaryDirectory() as place:
        mended = Path(place) / "mended.csv"
        left = function(rows=[*rows], placeholders=PLACEHOLDERS)
        with mended.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("prompt", "answer"), *left])
        before = check_data(path, prompt="comment", answer="kind")
        after = check_data(mended)
    bad = [found.what for found in after if any(words in found.what for words in WANTED)]
    if bad:
        return Verdict(False, f"But of the mended comments.csv `check_data` still says: {bad[0]}")
    return Verdict(
        True,
        f"Of comments.csv it keeps {len(left)} of {counted(len(rows), 'row')}, and `check_data` "
        f"finds {len(after)} odd things in place of {len(before)}: what is left needs a split by "
        "template, or your judgement.",
    )


def _mended_by(
    *,
    without: Collection[str] | None = None,
    spell: Callable[[Rows], dict[str, str]] = _usual,
    repeats: bool = False,
    several: Callable[[Rows, dict[str, set[str]]], Rows] | None = None,
) -> Function:
    """A slip: the right steps, with those replaced that are given."""

    def slip(rows: Rows, placeholders: Collection[str]) -> Rows:
        kept = [row for row in rows if row[1].casefold() not in placeholders]
        if without is not None:
            kept = [row for row in rows if row[1] not in placeholders]
        usual = spell(kept)
        kept = [(prompt, usual[answer.casefold()]) for prompt, answer in kept]
        answers = _answers(kept)
        if not repeats:
            kept = [*dict.fromkeys(kept)]
        if several is not None:
            return several(kept, answers)
        return [row for row in kept if len(answers[row[0]]) == 1]

    return slip


def _contradictions_first(rows: Rows, placeholders: Collection[str]) -> Rows:
    """A slip: "Praise" and "praise" count as different answers."""
    kept = [row for row in rows if row[1].casefold() not in placeholders]
    answers, usual = _answers(kept), _usual(kept)
    kept = [row for row in kept if len(answers[row[0]]) == 1]
    return [*dict.fromkeys((prompt, usual[answer.casefold()]) for prompt, answer in kept)]


def _spellings_left(rows: Rows, placeholders: Collection[str]) -> Rows:
    """A slip: no spelling is mended, and a prompt in two spellings of a label goes."""
    kept = [row for row in rows if row[1].casefold() not in placeholders]
    answers = _answers(kept)
    return [row for row in dict.fromkeys(kept) if len(answers[row[0]]) == 1]


mend_rows = Exercise(
    _mend_rows,
    rows_to_mend,
    slips={
        "a placeholder may be written in capital letters: compare answer.casefold()": (
            _mended_by(without=PLACEHOLDERS)
        ),
        "rows that repeat another are still there twice": _mended_by(repeats=True),
        "a prompt with different answers has kept its first: nobody knows which one is right": (
            _mended_by(
                several=lambda rows, answers: [*{row[0]: row for row in rows[::-1]}.values()][::-1]
            )
        ),
        "a prompt with different answers has kept its last: nobody knows which one is right": (
            _mended_by(several=lambda rows, answers: [*{row[0]: row for row in rows}.values()])
        ),
        "prompts with different answers are still there, with all of them": (
            _mended_by(several=lambda rows, answers: rows)
        ),
        "all labels are in small letters now; take the spelling that most of the rows have": (
            _mended_by(
                spell=lambda rows: {answer.casefold(): answer.casefold() for _, answer in rows}
            )
        ),
        "the spellings of a label stay as they were; take the one that most of the rows have": (
            _spellings_left
        ),
        "two spellings of a label count as different answers: mend the spelling first": (
            _contradictions_first
        ),
        "the order of the rows is lost; dict.fromkeys keeps it, a set does not": (
            lambda rows, placeholders: sorted(_mend_rows(rows, placeholders))
        ),
    },
    ask=_as_rows,
    trial=_mending_trial,
)

# --- a sweep in a given time ----------------------------------------------------------------


def _settings_within(
    seconds: float, steps: Sequence[int], step_seconds: float, scoring_seconds: float, seeds: int
) -> int:
    """How many settings, from the first on, can be trained and scored in the time.

    `steps`: of a run of each setting. Each setting has `seeds` runs, one after the other, and each
    run is scored once. The first setting that does not fit ends the plan.
    """
    count, spent = 0, 0.0
    for number in steps:
        spent += seeds * (number * step_seconds + scoring_seconds)
        if spent > seconds:
            break
        count += 1
    return count


def plans() -> Iterator[Case]:
    """Times that allow some, all and none of the settings."""
    for seconds, steps, step, scoring, seeds in (
        (60, [40, 40, 120, 20, 20, 20], 0.1, 2.0, 3),
        (37, [40, 40, 120, 20, 20, 20], 0.1, 2.0, 3),
        (100, [50, 50, 50], 0.2, 1.0, 1),
        (30, [100, 10], 0.2, 0.5, 2),
        (90, [30, 60, 90, 120], 0.1, 4.0, 2),
        (17, [10, 10, 10, 10, 10], 0.1, 1.0, 2),
    ):
        yield {
            "seconds": seconds,
            "steps": steps,
            "step_seconds": step,
            "scoring_seconds": scoring,
            "seeds": seeds,
        }


def _planned(
    each: Callable[[int, float, float, int], float],
    *,
    skip: bool = False,
    over: bool = False,
    runs: bool = False,
) -> Function:
    """A slip: `each` gives a setting's seconds from (steps, step, scoring, seeds)."""

    def slip(
        seconds: float,
        steps: Sequence[int],
        step_seconds: float,
        scoring_seconds: float,
        seeds: int,
    ) -> int:
        count, spent = 0, 0.0
        for number in steps:
            more = each(number, step_seconds, scoring_seconds, seeds)
            if spent + more > seconds:
                if skip:
                    continue
                count += over
                break
            spent += more
            count += 1
        return count * seeds if runs else count

    return slip


def _right_seconds(steps: int, step: float, scoring: float, seeds: int) -> float:
    return seeds * (steps * step + scoring)


settings_within = Exercise(
    _settings_within,
    plans,
    slips={
        "the seeds are left out: each setting is trained once for each seed": (
            _planned(lambda steps, step, scoring, seeds: steps * step + scoring)
        ),
        "the seeds and the scoring are left out: each seed is a run, and each run is scored": (
            _planned(lambda steps, step, scoring, seeds: steps * step)
        ),
        "the scoring is left out: each run is scored as well": (
            _planned(lambda steps, step, scoring, seeds: seeds * steps * step)
        ),
        "each run is scored, so the scoring counts once a seed": (
            _planned(lambda steps, step, scoring, seeds: seeds * steps * step + scoring)
        ),
        "a setting that does not fit ends the plan; later ones are less promising": (
            _planned(_right_seconds, skip=True)
        ),
        "the last setting would end after the time": _planned(_right_seconds, over=True),
        "these are runs; a setting has a run for each seed": _planned(_right_seconds, runs=True),
    },
)
