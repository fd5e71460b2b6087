"""Chats as a prompt and an answer: the turns of TRL, OpenAI and ShareGPT, in text.

A chat is a list of turns: `messages` with role and content, or ShareGPT's `conversations` with
from and value. Training learns the last answer; the turns before it are its prompt.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOOL = "a call of a tool, and text alone is learnt here"
MORE = "a turn that holds more than text"
NAMED = 20  # letters of an unknown role that a reason quotes
ROLES = {  # of a turn, in each dialect
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "model"),
    "system": ("system", "developer"),
    "tool": ("tool", "function", "observation", "function_call"),
}
TEXTS = ("text", "input_text", "output_text")  # types of a part that is text
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: str  # "user", "assistant" or "system"
    text: str
    learnt: bool = True  # False: OpenAI's weight, or LLaMA-Factory's loss_weight, is 0


class Unread(ValueError):
    """Raised for a chat that gives no prompt and answer; the message is the reason."""


def text_of(value: object) -> str:
    """A value as text, without white space around it. JSON writes what is not text."""
    if isinstance(value, str):
        return value.strip()
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return json.dumps(value, ensure_ascii=False).strip()


def is_turn_list(value: object) -> bool:
    """Whether a value is a list of turns, each with a speaker."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def turns_in(value: object, column: str) -> list[Turn]:
    """The turns that a list holds; a list written as JSON, as in a CSV file, is read too."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unread(f"{column!r} holds broken JSON") from None
    if not value:
        raise Unread(f"no turn in {column!r}")
    if not is_turn_list(value):
        raise Unread(f"{column!r} isn't a list of turns with role and content")
    return [_turn(turn) for turn in value]


def _turn(turn: Mapping[str, object]) -> Turn:
    """A turn in text. A call of a tool, an image and an unknown role have no text to learn."""
    name = turn.get("role", turn.get("from"))
    role = ROLE_OF.get(name) if isinstance(name, str) else None
    if role is None:
        raise Unread(f"the unknown role {str(name)[:NAMED]!r}")
    if role == "tool" or turn.get("tool_calls") or turn.get("function_call"):
        raise Unread(TOOL)
    text = turn.get("content", turn.get("value"))
    if not isinstance(text, str):
        text = "\n".join(map(_text_of_part, text if isinstance(text, list) else [text]))
    learnt = turn.get("weight") != 0 and turn.get("loss_weight") != 0
    return Turn(role, text.strip(), learnt)


def _text_of_part(part: object) -> str:
    """The text of a turn's content, or of a part of it: `{"type": "text", "text": "…"}`."""
    if isinstance(part, dict) and part.get("type") in (None, *TEXTS):
        text = part.get("text", part.get("value"))
        if isinstance(text, str):
            return text
    if part is None or isinstance(part, str):
        return part or ""
    kind = part.get("type") if isinstance(part, dict) else None
    named = f" ({str(kind)[:NAMED]})" if kind else ""
    raise Unread(f"{MORE}{named}")


def last_answer(turns: Sequence[Turn]) -> int:
    """The place of the last answer that is to be learnt."""
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if "assistant" not in spoken:
        raise Unread("no answer: the assistant has no turn")
    if spoken[0] == "assistant":
        raise Unread("the assistant speaks first, so there is no prompt")
    learnt = [place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.learnt]
    if not learnt:
        raise Unread("every answer has weight 0")
    if not turns[learnt[-1]].text:
        raise Unread("a blank answer")
    return learnt[-1]


def prompt_of(turns: Sequence[Turn]) -> str:
    """The turns before the answer as a text. With several rounds, each turn says who speaks."""
    several = sum(turn.role != "system" for turn in turns) > 1
    lines = [
        f"{turn.role.title()}: {turn.text}" if several and turn.role != "system" else turn.text
        for turn in turns
        if turn.text
    ]
    if not any(turn.text for turn in turns if turn.role == "user"):
        raise Unread("a blank prompt")
    return "\n\n".join(lines)
