"""Findings of a review, each with its reason, its remedy, and the lesson that shows it."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Severity = Literal["grave", "warning", "note"]
SEVERITIES: tuple[str, ...] = get_args(Severity)  # the gravest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A thing that is odd about data, an adapter or a recipe."""

    severity: Severity  # "grave": the result is wrong or lost; "warning": likely; "note": know it
    what: str  # what was found, with names, numbers and places
    why: str  # the harm that it does
    do: str  # the remedy
    lesson: str = ""  # the number of the notebook that shows it: "07"; "" if none does

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(
                f"severity={self.severity!r} is not known; give one of {', '.join(SEVERITIES)}"
            )

    def __str__(self) -> str:
        shown = f" (lesson {self.lesson})" if self.lesson else ""
        why, do = sentence(self.why), sentence(self.do)
        return f"{self.severity}: {self.what}\n  why: {why}\n  do: {do}{shown}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review(Sequence[Finding]):
    """All findings about one subject, the gravest first, with the facts that were read off it.

    It is a sequence of findings: `len(review)`, `review[0]`, `for finding in review`. Printed, it
    is a report in plain text; a notebook shows a table.
    """

    subject: str  # what was looked at: a file's or a folder's name
    kind: str  # what it is: "data", "adapter", "recipe for TRL", …
    facts: Mapping[str, str] = field(default_factory=dict)  # a name, and what was read: "rows": "…"
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        ordered = sorted(self.findings, key=lambda found: SEVERITIES.index(found.severity))
        object.__setattr__(self, "findings", tuple(ordered))

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, place: int) -> Finding:
        return self.findings[place]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def is_grave(self) -> bool:
        """Whether a finding is grave."""
        return any(found.severity == "grave" for found in self.findings)

    @property
    def verdict(self) -> str:
        """The counts in a sentence: `2 grave, 1 warning.`"""
        if not self.findings:
            return "Nothing odd was found."
        counts = {
            severity: sum(found.severity == severity for found in self.findings)
            for severity in SEVERITIES
        }
        plural = {"grave": "grave", "warning": "warnings", "note": "notes"}
        parts = [
            f"{count} {severity if count == 1 else plural[severity]}"
            for severity, count in counts.items()
            if count
        ]
        return f"{', '.join(parts)}."

    def __str__(self) -> str:
        width = max(map(len, self.facts), default=0)
        facts = [f"  {name:<{width}}  {value}" for name, value in self.facts.items()]
        return "\n".join(
            [f"{self.subject}: {self.kind}", *facts, *map(str, self.findings), self.verdict]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The facts and the findings as two tables. All text of files is escaped."""
        facts = "".join(_row((name, value)) for name, value in self.facts.items())
        rows = "".join(
            _row(
                (found.severity, found.what, sentence(found.why), sentence(found.do), found.lesson)
            )
            for found in self.findings
        )
        head = "".join(f"<th>{name}</th>" for name in ("", "found", "why", "do", "lesson"))
        return (
            f"<p><b>{html.escape(self.subject)}</b>: {html.escape(self.kind)}. {self.verdict}</p>"
            f"<table>{facts}</table>" + (f"<table><tr>{head}</tr>{rows}</table>" if rows else "")
        )


def sentence(text: str) -> str:
    """A text as a sentence: a capital first, unless it begins with a name of code; a full stop."""
    first = re.match(r"[a-z]+(?=[ ,;:]|$)", text)
    begun = text[0].upper() + text[1:] if first else text
    return begun if begun.endswith((".", "?", "!")) else f"{begun}."


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def named(names: Sequence[str], most: int = 3) -> str:
    """The first of several names, and how many more there are: `a, b, c and 9 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
