"""Records as prompts and answers: columns by name or by guess, chats, and Alpaca's instructions.

What cannot be read is left out with a reason, and the table notes the row.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_lab.recipe import nearest
from lora_lab.tasks.chats import (
    Turn,
    Unread,
    is_turn_list,
    last_answer,
    prompt_of,
    text_of,
    turns_in,
)
from lora_lab.tasks.tables import Row, Table, rows_in_words

PROMPT, ANSWER = "prompt", "answer"  # the columns that are taken where none is named
CHOSEN = "chosen"  # the better answer of a preference
SHOWN = 12  # column names that an error lists
ROLES = {"group_by": "column to group by", "split_column": "split column"}  # in words
BLANKS = (None, "", [])
PAIRS = (  # columns that go together, in the order in which they are tried
    (PROMPT, ANSWER),
    (PROMPT, "completion"),
    (PROMPT, "response"),
    (PROMPT, "output"),
    (PROMPT, CHOSEN),
    ("question", ANSWER),
    ("question", "response"),
    ("question", "label"),
    ("query", ANSWER),
    ("query", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", ANSWER),
    ("instruction", CHOSEN),
    ("input", "output"),
    ("input", "target"),
    ("input", "label"),
    ("source", "target"),
    ("document", "summary"),
    ("article", "summary"),
    ("text", "label"),
    ("text", "intent"),
    ("text", "category"),
    ("text", "summary"),
    ("text", "sentiment"),
    ("message", "label"),
    ("message", "category"),
    ("message", "intent"),
    ("sentence", "label"),
    ("utterance", "intent"),
    ("review", "sentiment"),
)
CONTEXTS = ("input", "context")  # the column beside an instruction: Alpaca's, Dolly's
CHATS = ("messages", "conversations")  # columns with a list of turns
CHOSEN_CHATS = (CHOSEN, "chosen_messages")  # the same in preferences without a prompt of their own
MARKS = ("kto_tag", "label")  # columns in which false says that the answer is unwanted
UNWANTED = "an unwanted answer"


@dataclass(frozen=True, slots=True)
class Taken:
    """Where the prompts and the answers of a table come from."""

    prompt: str  # the column with the prompts, after chats were written out
    answer: str
    how: str  # in words: "'question' to 'label'"
    others: Mapping[str, list[int]] = field(default_factory=dict)  # in words: rows that it fits
    several: tuple[int, ...] = ()  # rows with several rounds: only the last answer is learnt
    trailing: tuple[int, ...] = ()  # rows with turns after the last answer, which are left out


@dataclass(frozen=True, slots=True)
class _Form:
    """A way to read records: what it needs, and the function that gives a record's turns."""

    how: str
    needs: tuple[str, ...]  # columns
    turns_of: Callable[[Mapping[str, object]], list[Turn]] | None = None  # None: a plain pair

    def rows(self, table: Table) -> list[int]:
        """The numbers of the rows that have what it needs."""
        return [
            row.number
            for row in table.rows
            if all(row.values.get(name) not in BLANKS for name in self.needs)
        ]


# --- columns ------------------------------------------------------------------------------------


def take(table: Table, path: Path, prompt: str = PROMPT, answer: str = ANSWER) -> Taken:
    """The columns with the prompts and answers. Chats and Alpaca's records are written out first.

    Columns that the caller names are taken. Else the form that fits most rows is taken: `prompt`
    and `answer`, a chat, Alpaca's columns, or other PAIRS of names.

    Raises:
        ValueError: if a column is missing (with the nearest name) or blank, if both are the same
            column, or if no chat can be read.
    """
    forms = _forms(table, prompt, answer)
    fitting = {form.how: form.rows(table) for form in forms}
    best = max(forms, key=lambda form: len(fitting[form.how]), default=None)  # of equals the first
    if best is None and (prompt, answer) == (PROMPT, ANSWER):
        _check_names(table, path)
        if PROMPT not in table.columns and ANSWER not in table.columns:
            raise ValueError(
                f"{path.name} has no columns {PROMPT!r} and {ANSWER!r}, nor another pair that is "
                f"known, such as 'question' and 'label'; it has {_listed(table)}: say which is "
                "asked (prompt=..., or --prompt) and which is the answer (answer=..., or --answer)"
            )
    if best is None:
        taken = Taken(prompt, answer, f"{prompt!r} to {answer!r}")
    elif best.turns_of is None:
        taken = Taken(*best.needs, best.how)
    else:
        taken = _written_out(table, path, best)
    columns = {PROMPT: taken.prompt, ANSWER: taken.answer}
    for role in sorted(columns, key=lambda role: columns[role] == role):  # the named ones first
        check_column(table, role, columns[role], path)
    if taken.prompt == taken.answer:
        raise ValueError(
            f"prompt={prompt!r} and answer={answer!r} are one column; give two: "
            f"{path.name} has {', '.join(table.columns[:SHOWN])}"
        )
    for mark in MARKS:
        if mark not in (taken.prompt, taken.answer) and mark in table.columns:
            already = {number for numbers in table.dropped.values() for number in numbers}
            for row in table.rows:
                if row.values.get(mark) is False and row.number not in already:
                    table.drop(f"{UNWANTED} ({mark} is false)", row.number)
    if best is not None and len(forms) > 1:
        covered = set(fitting[best.how])
        others = {how: [row for row in rows if row not in covered] for how, rows in fitting.items()}
        taken = replace(taken, others={how: rows for how, rows in others.items() if rows})
    return taken


def _forms(table: Table, prompt: str, answer: str) -> list[_Form]:
    """The forms whose columns are all there, in the order in which they are preferred."""
    names = {name.lower(): name for name in reversed(table.columns)}
    forms = []
    if prompt in table.columns and answer in table.columns:
        forms.append(_pair_form(table, prompt, answer))
    if (prompt, answer) != (PROMPT, ANSWER):
        if forms:
            return forms
    else:
        forms += [_chat_form(table, names[chat]) for chat in CHATS if chat in names]
        forms += _alpaca_forms(names)
    forms += [
        _pair_form(table, names[first], names[second])
        for first, second in PAIRS
        if first in names
        and second in names
        and prompt in (PROMPT, names[first])
        and answer in (ANSWER, names[second])
    ]
    if (prompt, answer) == (PROMPT, ANSWER):
        forms += [_chat_form(table, names[chat]) for chat in CHOSEN_CHATS if chat in names]
    return list({form.how: form for form in forms}.values())  # each once


def _chat_form(table: Table, chat: str) -> _Form:
    """A column with turns; ShareGPT's preferences have the last turn in `chosen`."""
    apart = chat != CHOSEN and any(isinstance(row.values.get(CHOSEN), dict) for row in table.rows)
    with_chosen = f" with {CHOSEN!r}" if apart else ""
    return _Form(f"the turns in {chat!r}{with_chosen}", (chat,), _chat_turns(chat, apart))


def _pair_form(table: Table, prompt: str, answer: str) -> _Form:
    """Two columns; where they hold lists of turns (TRL's prompt and completion), a chat."""
    is_chat = any(
        is_turn_list(row.values.get(name)) for row in table.rows for name in (prompt, answer)
    )
    return _Form(
        f"{prompt!r} to {answer!r}",
        (prompt, answer),
        _split_chat_turns(prompt, answer) if is_chat else None,
    )


def check_column(table: Table, role: str, column: str, path: Path) -> None:
    """Refuse a column that is not in the table, or blank in every row."""
    names = _check_names(table, path)
    if column not in names:
        raise ValueError(
            f"{path.name} has no column {column!r}; {nearest(column, tuple(names[:1000]))}"
            f"name one of {_listed(table)} as its {ROLES.get(role, role)} "
            f"({role}=..., or --{role.replace('_', '-')})"
        )
    if not any(text_of(row.values.get(column)) for row in table.rows):
        raise ValueError(
            f"column {column!r} of {path.name} is blank in every row; give another of: "
            f"{_listed(table)}"
        )


def _check_names(table: Table, path: Path) -> list[str]:
    """The columns that have a name; a table without one is refused."""
    names = [name for name in table.columns if name]
    if not names:
        raise ValueError(
            f"{path.name} names no column in its first line; begin it with prompt,answer"
            if path.suffix.lower() in (".csv", ".tsv")
            else f'{path.name} holds empty objects; give {{"prompt": "…", "answer": "…"}}'
        )
    return names


def _listed(table: Table) -> str:
    """The first columns, and how many there are if not all are named."""
    names = [name for name in table.columns if name]
    more = f" … ({len(names)} columns)" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


# --- chats and Alpaca's records -----------------------------------------------------------------


def _written_out(table: Table, path: Path, form: _Form) -> Taken:
    """Give each row a prompt and an answer as text, in place of the columns with its turns."""
    several, trailing = [], []
    read = 0
    already = {number for numbers in table.dropped.values() for number in numbers}
    for place, row in enumerate(table.rows):
        values = {name: value for name, value in row.values.items() if name not in form.needs}
        if row.number not in already:
            try:
                turns = form.turns_of(row.values)
                end = last_answer(turns)
                values |= {PROMPT: prompt_of(turns[:end]), ANSWER: turns[end].text}
            except Unread as reason:
                table.drop(str(reason), row.number)
            else:
                read += 1
                if sum(turn.role == "assistant" for turn in turns[: end + 1]) > 1:
                    several.append(row.number)
                if len(turns) > end + 1:
                    trailing.append(row.number)
        table.rows[place] = Row(row.number, values)  # in place: two tables would not fit memory
    if not read:
        reasons = "; ".join(f"{why}: {rows_in_words(of)}" for why, of in table.dropped.items())
        raise ValueError(
            f"{path.name} has no row that {form.how} can be read from ({reasons}); give turns with "
            "role and content, or two columns of texts (prompt=..., answer=...)"
        )
    kept = [name for name in table.columns if name not in (*form.needs, PROMPT, ANSWER)]
    table.columns[:] = [PROMPT, ANSWER, *kept]
    return Taken(PROMPT, ANSWER, form.how, several=tuple(several), trailing=tuple(trailing))


def _chat_turns(column: str, apart: bool) -> Callable[[Mapping[str, object]], list[Turn]]:
    def turns_of(values: Mapping[str, object]) -> list[Turn]:
        system = text_of(values.get("system")) if column != "system" else ""
        start = [Turn("system", system)] if system else []
        end = turns_in([values.get(CHOSEN)], CHOSEN) if apart else []
        return [*start, *turns_in(values.get(column), column), *end]

    return turns_of


def _split_chat_turns(prompt: str, answer: str) -> Callable[[Mapping[str, object]], list[Turn]]:
    def turns_of(values: Mapping[str, object]) -> list[Turn]:
        turns = []
        for column, role in ((prompt, "user"), (answer, "assistant")):
            value = values.get(column)
            if is_turn_list(value):
                turns += turns_in(value, column)
            else:
                turns.append(Turn(role, text_of(value)))
        return turns

    return turns_of


def _alpaca_forms(names: Mapping[str, str]) -> Iterator[_Form]:
    """Alpaca's record, where there is more than an instruction and an output."""
    context = next((names[name] for name in CONTEXTS if name in names), None)
    for output in ("output", "response", CHOSEN):
        if "instruction" in names and output in names and (context or "history" in names):
            needs = (names["instruction"], names[output])
            beside = f" with {context!r}" if context else ""
            how = f"{needs[0]!r}{beside} to {needs[1]!r}"
            yield _Form(how, needs, _alpaca_turns(*needs, context))


def _alpaca_turns(
    instruction: str, output: str, context: str | None
) -> Callable[[Mapping[str, object]], list[Turn]]:
    """Alpaca's record as LLaMA-Factory reads it: system, earlier rounds, instruction, input."""

    def turns_of(values: Mapping[str, object]) -> list[Turn]:
        turns = []
        if system := text_of(values.get("system")):
            turns.append(Turn("system", system))
        for earlier in values.get("history") or ():
            if not isinstance(earlier, list) or len(earlier) != 2:
                raise Unread("a 'history' that isn't a list of pairs")
            asked, given = map(text_of, earlier)
            turns += [Turn("user", asked), Turn("assistant", given)]
        parts = [text_of(values.get(instruction)), text_of(values.get(context)) if context else ""]
        turns.append(Turn("user", "\n".join(parts).strip()))
        turns.append(Turn("assistant", text_of(values.get(output))))
        return turns

    return turns_of
