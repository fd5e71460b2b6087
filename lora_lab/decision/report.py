"""The report of a decision or of a run, in Markdown, for a colleague who wants to check it.

Where a picture belongs, the text has `![what it shows](picture:NAME)`; the command line draws it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from lora_lab.decision.asking import in_words
from lora_lab.decision.outcome import Decision
from lora_lab.records import Answer, Scores
from lora_lab.tasks.examples import Task
from lora_lab.tasks.personal_data import PLACEHOLDERS, without_personal_data
from lora_lab.training.intervals import kept_intervals
from lora_lab.training.model_card import chosen_fields
from lora_lab.training.store import Run
from lora_lab.wording import counted, in_short, markdown_table, percent, percent_range, significant

SHOWN = 10  # answers of the test, the wrong ones first
LONGEST = 200  # letters of a text in a table
OWN_ROWS = "This page shows rows of the data as they are: look through them before you share it."
HIDDEN_ROWS = (
    "This page shows rows of the data. E-mail addresses, telephone, account and card numbers are "
    "looked for and hidden; names and streets are not. Look through the rows before you share it."
)
LEAST_ROWS, LEAST_GROUPS = 100, 20  # of a test: below, its interval is wide


def report_of_decision(
    decision: Decision,
    data_lines: Sequence[str] = (),
    command: str = "",
    *,
    show_personal: bool = False,
) -> str:
    """The report of a decision.

    Args:
        decision: the decision with its test.
        data_lines: what is odd about the data's file, in lines.
        command: the command line that made it; "" if there was none.
        show_personal: whether texts are shown with the e-mail addresses and numbers in them.

    Raises:
        ValueError: if the test was not asked yet.
    """
    test = decision.test
    if test is None:
        raise ValueError(
            "the decision has no test yet, so there is nothing to report; ask it with "
            "lab.final_test(base, decision)"
        )
    in_groups = decision.task.groups is not None
    hints = Hints(show_personal)
    name = hints.hidden_in(decision.task.name)
    about = hints.hidden_in(decision.task.about)
    data_lines = [*map(hints.hidden_in, data_lines)]
    choices = {asked.choice: hints.hidden_in(asked.choice) for asked in (*decision.tried, test)}
    left_out = {hints.hidden_in(way): why for way, why in decision.left_out.items()}
    command = hints.hidden_in(command)
    subject = f"{_plain(name)} on {_plain(decision.base_name)}"
    parts = [
        f"# Prompt, retrieval or LoRA? {subject}",
        f"Recommended: **{decision.advice.recommendation}**. "
        f"{_sentence(_plain(decision.advice.why))}",
        f"The test, asked once: {test.name}{_in_brackets(choices[test.choice])} has "
        f"{in_words(test)}." + _beside_the_bare_prompt(decision),
        decision.shortfall and f"**{decision.shortfall}**",
        "![Right answers of each way, with 95 % intervals](picture:ways)",
        "## The data",
        _plain(about),
        _list("", map(_plain, data_lines)),
        "## What was tried",
        f"Each way was asked the same {counted(decision.rows, 'validation row')}"
        f"{_groups(decision)}{_more_rows(decision)}. Among several choices of a way the best was "
        "kept, which flatters it a little; the test was not used.",
        markdown_table(
            ("way", "choice", "right", "95 % interval", "tokens a question", "seconds an answer"),
            [
                (
                    asked.name,
                    choices[asked.choice] and _code(choices[asked.choice]),
                    f"{asked.right} of {asked.count} ({percent(asked.share)})",
                    percent_range(*asked.interval),
                    f"{asked.prompt_tokens:.0f}",
                    significant(asked.seconds),
                )
                for asked in decision.tried
            ],
        ),
        _list("Not tried:", (f"{_plain(k)}: {_plain(v)}" for k, v in left_out.items())),
        _list(
            "It would be another recommendation at"
            + (" (right answers among so many independent questions):" if in_groups else ":"),
            map(str, decision.advice.changes),
        ),
        _list("What the course measured of such a case:", map(_plain, decision.advice.evidence)),
    ]
    if decision.run is not None:
        parts += _training(decision.run)
    parts += [
        "## Old skills",
        _old_skills(decision.before, decision.after),
        "## Answers of the test, the wrong ones first",
        answers_table(test.answers, show_personal),
        "## Limits",
        _list("", [_about_rows(hints), *_limits(decision)]),
        "## Cost",
        _list("", _costs(decision)),
    ]
    if command:
        parts.append(f"Made by {_code(command, len(command))}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def report_of_run(
    run: Run,
    task: Task | None,
    about: str,
    before: Scores | None,
    data_lines: Sequence[str] = (),
    *,
    show_personal: bool = False,
) -> str:
    """The report of a single run, which was scored.

    Args:
        run: the run with its scores.
        task: the task that it was trained on; None: it can't be read again.
        about: where its examples come from.
        before: the base's scores on the same test; None: not asked.
        data_lines: what is odd about the data's file, in lines.
        show_personal: whether texts are shown with the e-mail addresses and numbers in them.
    """
    hints = Hints(show_personal)
    name, about = hints.hidden_in(run.task_name), hints.hidden_in(about)
    data_lines = [*map(hints.hidden_in, data_lines)]
    scores = run.scores
    right = sum(answer.right for answer in scores.answers)
    asked = len(scores.answers)
    value = f"{percent(scores.value)} {scores.metric_name}"
    intervals, method = kept_intervals(scores, task)
    own = intervals.get(scores.metric_name)
    parts = [
        f"# {_plain(name)} on {_plain(run.base_name)}",
        f"On the {scores.split} rows: **{value}**"
        + (f", 95 % interval {percent_range(*own)}" if own else "")
        + (f" (of the base: {percent(before.value)})" if before else "")
        + (f"; {right} of {asked} answers are right." if asked else ".")
        + (f" {_sentence(method)}." if method else ""),
        "## The data",
        _plain(about),
        _list("", map(_plain, data_lines)),
        *_training(run),
        "## Old skills",
        _old_skills(before, scores),
        f"## Answers of the {scores.split} rows, the wrong ones first" if asked else "",
        answers_table(scores.answers, show_personal) if asked else "",
        "## Limits",
        _list("", [_about_rows(hints), *_limits_of_test(scores.answers, task)]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


class Hints:
    """Hints of personal data in texts on their way into a page: hidden, and counted."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown  # nothing is hidden
        self.found: Counter[str] = Counter()

    def hidden_in(self, text: str) -> str:
        """A text without hints of personal data, unless they are to be shown."""
        if self.shown:
            return text
        text, found = without_personal_data(text)
        self.found += found
        return text

    def __str__(self) -> str:
        counts = self.found.items()
        return ", ".join(f"{count} × {_plain(PLACEHOLDERS[kind])}" for kind, count in counts)


# --- the parts ----------------------------------------------------------------------------------


def _beside_the_bare_prompt(decision: Decision) -> str:
    if decision.bare_test is None:
        return ""
    words = f" The bare prompt has {in_words(decision.bare_test)}."
    if decision.change is None:
        return words
    low, high, difference = (
        100 * end for end in (decision.change.low, decision.change.high, decision.change.difference)
    )
    by = "group" if decision.task.groups is not None else "question"
    return f"{words} That is {difference:+.0f} points ({low:.0f} to {high:.0f}, paired by {by})."


def _groups(decision: Decision) -> str:
    """What the rows are worth, if they come in groups."""
    groups = decision.task.groups
    if groups is None:
        return ""
    first = decision.tried[0]
    count = len({groups[answer.prompt] for answer in first.answers})
    return (
        f" of {counted(count, 'group')}; for the bare prompt they tell as much as "
        f"{first.worth:.0f} independent ones, and the intervals are as wide as that"
    )


def _more_rows(decision: Decision) -> str:
    if not decision.more_rows:
        return ""
    return f"; the best of each kind then {counted(decision.more_rows, 'row')} more"


def _in_brackets(choice: str) -> str:
    return f" ({_code(choice)})" if choice else ""


def _training(run: Run) -> list[str]:
    """The recipe, the curve and the command of a run."""
    last = run.records[-1]
    validated = [
        record.validation_loss for record in run.records if record.validation_loss is not None
    ]
    lowest = f", the lowest validation loss {significant(min(validated))}" if validated else ""
    fields = [(name, _code(str(value))) for name, value in chosen_fields(run.recipe).items()]
    return [
        "## The adapter",
        f"{counted(last.step, 'step')} of training on {_plain(run.about)}; the loss fell from "
        f"{significant(run.records[0].loss)} to {significant(last.loss)} nats a token{lowest}.",
        "![The loss by step](picture:loss)",
        markdown_table(("field", "value"), fields),
    ]


def _old_skills(before: Scores | None, after: Scores | None) -> str:
    """What was known before, and what of it is left."""
    if after is None or after.old_knowledge is None:
        return (
            "Not measured: the task brings no questions about what the base knew. A fine-tune can "
            "cost old skills, so ask the adapter some questions of another kind before you ship it."
        )
    base = f"The base had {percent(before.old_knowledge)} of them right. " if before else ""
    words = f"{base}With the adapter, {percent(after.old_knowledge)} of the old facts are right."
    if after.strangers is not None:
        words += f' Of questions about strangers, {percent(after.strangers)} are still "not known".'
    return words


def answers_table(answers: Sequence[Answer], show_personal: bool = False) -> str:
    """Some answers as a table, the wrong ones first, with hints of personal data hidden in it.

    Below it stands how many were hidden.
    """
    ordered = sorted(answers, key=lambda answer: answer.right)
    hints = Hints(show_personal)
    shown = []
    for answer in ordered[:SHOWN]:
        texts = map(hints.hidden_in, (answer.prompt, answer.expected, answer.given))
        shown.append((*map(_code, texts), "right" if answer.right else "**wrong**"))
    more = len(answers) - len(shown)
    parts = [
        markdown_table(("asked", "wanted", "given", ""), shown),
        f"Hidden in it, as hints of personal data: {hints}." if hints.found else "",
        f"And {counted(more, 'more answer')}." if more else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _about_rows(hints: "Hints") -> str:
    if hints.shown:
        return OWN_ROWS
    return f"{HIDDEN_ROWS} Hidden outside the answers: {hints}." if hints.found else HIDDEN_ROWS


def _limits(decision: Decision) -> Iterable[str]:
    yield from _limits_of_test(decision.test.answers, decision.task)
    if decision.run is not None:
        yield (
            "One seed was trained for each learning rate. Another seed may move the score by "
            "several points (lesson 4)."
        )
    if "LoRA" in decision.left_out:
        yield "LoRA was not tried, so nothing is known of it here."


def _limits_of_test(answers: Sequence[Answer], task: Task | None) -> Iterable[str]:
    asked = len(answers)
    groups = task and task.groups
    if groups and asked and all(answer.prompt in groups for answer in answers):
        count = len({groups[answer.prompt] for answer in answers})
        yield (
            f"The interval says how far {counted(asked, 'test row')} of {counted(count, 'group')} "
            "may stray, if later groups are like them. Others may go otherwise."
        )
        if count < LEAST_GROUPS:
            yield f"More groups in the test would narrow it: {LEAST_GROUPS} or more."
        return
    if asked:
        yield (
            f"The interval says how far {counted(asked, 'test row')} may stray, if your later "
            "questions are like them. Questions of another kind may go otherwise."
        )
    if asked < LEAST_ROWS:
        yield f"{LEAST_ROWS} test rows or more would give a narrower interval."


def _costs(decision: Decision) -> Iterable[str]:
    yield (f"{decision.seconds / 60:.1f} minutes on this machine, of {decision.minutes:g} given.")
    chosen, bare = decision.test, decision.bare_test
    if bare is not None:
        more = chosen.prompt_tokens - bare.prompt_tokens
        yield f"Each question takes {chosen.prompt_tokens:.0f} tokens, {more:+.0f} to the bare one."
    if decision.run is not None and decision.run.budget is not None:
        count = decision.run.budget.trainable_parameters
        yield f"The adapter has {in_short(count)} parameters."


# --- Markdown -----------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """A text whose marks mean nothing in Markdown."""
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def _code(text: str, longest: int = LONGEST) -> str:
    """A text as it is, in one line, for a cell of a table."""
    line = " ".join(text.split()) or "(nothing)"
    if len(line) > longest:
        line = f"{line[:longest]} …"
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"


def _list(lead: str, entries: Iterable[str]) -> str:
    entries = list(entries)
    if not entries:
        return ""
    return "\n".join([*([lead, ""] if lead else []), *(f"- {entry}" for entry in entries)])
