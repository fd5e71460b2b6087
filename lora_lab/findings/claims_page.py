"""CLAIMS.md: every rule of thumb with its verdict, its numbers, its convention and its source."""

import sys
from collections.abc import Iterator

from lora_lab.findings.claims import Claim, Finding, claims
from lora_lab.findings.evidence import Evidence
from lora_lab.findings.papers import paper_in_words
from lora_lab.wording import counted, markdown_table

KINDS = {  # how a verdict begins: the section's title, and what stands below it
    "holds here only when": ("Holds here only when", "Each row that says yes is such a case."),
    "does not hold here": ("Does not hold here", "No case of it was found."),
    "not settled": ("Not settled", "An interval reaches over the end of what is promised."),
    "holds": ("Holds here", "In every case that was tried."),
    "not measured yet": ("Not measured yet", "The test is committed, its runs are not made."),
    "not tested here": ("Not tested here", "With the reason, and with what others published."),
}
LESSON = "lesson"  # the source of a rule that courses repeat, without one paper behind it
BEGINNING = """# Rules of thumb, put to the test

*Written by `make claims` from data/claims.toml and data/recorded/claims/. Do not edit it by hand.*

Courses on LoRA repeat rules. Here each has a test: settings, seeds, and the range of numbers that
the rule promises, all committed before there were results. The verdict is computed from the runs.
A case holds where the whole 95 % interval of the mean over its seeds lies inside the promised
range. Several cases of one rule are corrected by Holm. Most runs are of `pocket`, with 1.1 million
parameters: a rule that fails there may hold for your model, and the table shows what to measure.
`lab.claim("ID")` shows one in a notebook.
"""


def claims_page() -> str:
    """The whole page, in Markdown."""
    by_kind: dict[str, list[Claim]] = {kind: [] for kind in KINDS}
    for claim in claims().values():
        by_kind[_kind(claim)].append(claim)
    summary = [
        (f"[{title}](#{_anchor(title)})", str(len(by_kind[kind])))
        for kind, (title, _) in KINDS.items()
        if by_kind[kind]
    ]
    parts = [BEGINNING, markdown_table(("verdict", "rules"), summary)]
    for kind, (title, words) in KINDS.items():
        if by_kind[kind]:
            parts += [f"## {title}", words, *map(_section, by_kind[kind])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _kind(claim: Claim) -> str:
    """The kind of a claim's verdict."""
    return next(kind for kind in KINDS if claim.verdict.startswith(kind))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _section(claim: Claim) -> str:
    """A claim with everything that is known about it."""
    return "\n\n".join([f"### {claim.statement}", *_parts(claim)])


def _parts(claim: Claim) -> Iterator[str]:
    """A claim's paragraphs and its table."""
    if claim.untested:
        yield f"{claim.verdict[0].upper()}{claim.verdict[1:]}"
    elif not claim.findings:
        yield f"Not measured yet: {counted(claim.to_run, 'run')}."
    else:
        rows = [(_word(finding), *_cells(finding)) for finding in claim.findings]
        head = ("", "when", "measured", "effect (95 % interval)", "promised", "n")
        yield markdown_table(head, rows)
    if claim.convention:
        yield f"Convention: {claim.convention}"
    if claim.papers:
        yield "Published: " + "; ".join(map(paper_in_words, claim.papers)) + "."
    for id in claim.evidence:
        yield f"Evidence `{id}`: {Evidence.read(id).verdict}."
    source = "" if claim.source == LESSON else f" · from {paper_in_words(claim.source)}"
    recorded = f" · recorded {claim.about}" if claim.about else ""
    yield f"`{claim.id}`{source}{recorded}"


def _word(finding: Finding) -> str:
    return {True: "yes", False: "no", None: "not settled"}[finding.holds]


def _cells(finding: Finding) -> tuple[str, ...]:
    """A finding's cells after its verdict."""
    seeds = len(finding.numbers)
    more = finding.seeds_to_settle
    count = "arithmetic" if seeds == 1 else counted(seeds, "seed")
    count += f"; about {more} more would settle it" if more else ""
    return finding.case.when, finding.subject, finding.effect, finding.promised, count


if __name__ == "__main__":
    sys.stdout.write(claims_page())
