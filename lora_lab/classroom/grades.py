"""The grades of a class: one table for the instructor, and a page for each learner."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from lora_lab import __version__
from lora_lab.checks.progress import state
from lora_lab.classroom.grading import Graded
from lora_lab.places import folder_name, write_atomically

HEAD = (
    *("learner", "lesson", "file", "version", "right", "of", "percent"),
    *("counts", "exercises", "notes"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # the first characters of a spreadsheet's formula
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ learner }}: exercises</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
th { white-space: nowrap; font-weight: 600 }
td:last-child { white-space: pre-wrap }
.right { color: #1a6b35 } .not { color: #8a3b00 }
.note { background: #f4f4f4; padding: .5rem .8rem }
</style>
<h1>{{ learner }}</h1>
{% for one in graded %}
<h2>{{ one.submission.lesson.name if one.submission.lesson else one.submission.path.name }}</h2>
{% if one.score %}
<p>{{ one.score.right }} of {{ one.score.verdicts|length }} exercises are right
({{ (100 * one.score.share)|round|int }} %).
{% if not one.counts %}Another file of yours counts for this lesson.{% endif %}
File: {{ one.submission.path.name }}.</p>
{% endif %}
{% for line in notes(one) %}<p class="note">{{ line }}</p>
{% endfor %}
{% if one.score %}
<table>
<thead>
<tr><th scope="col">Exercise</th><th scope="col">Result</th><th scope="col">Why</th></tr>
</thead>
<tbody>
{% for name, verdict in one.score.verdicts.items() %}
<tr><th scope="row">{{ name }}</th>
<td class="{{ 'right' if verdict else 'not' }}">{{ state(verdict) }}</td>
<td>{{ verdict.message }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
{% endfor %}
<p>Checked with lora_lab {{ version }}.</p>
</html>
"""


def write_grades(graded: Sequence[Graded], table: Path, pages: Path) -> list[Path]:
    """Write the table, and a page for each learner into a folder; files there are replaced.

    Returns:
        The pages.
    """
    with write_atomically(table) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        writer.writerows([_cell(value) for value in _row(result)] for result in graded)
    written, taken = [], set()
    for learner, own in _by_learner(graded).items():
        path = pages / f"{_free_name(learner, taken)}.html"
        with write_atomically(path) as new:
            new.write_text(page(learner, own), encoding="utf-8")
        written.append(path)
    return written


def page(learner: str, graded: Sequence[Graded]) -> str:
    """A learner's page: each lesson's score, and why an exercise is not right yet."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(PAGE)
    return template.render(
        learner=learner, graded=graded, notes=notes_of, state=state, version=__version__
    )


def notes_of(graded: Graded) -> list[str]:
    """Lines that say why a submission could not be checked, or what is odd about it."""
    submission = graded.submission
    if submission.problem:
        return [f"{submission.path.name} could not be checked: {submission.problem}."]
    return [f"{note[0].upper()}{note[1:]}." for note in submission.notes]


def _row(graded: Graded) -> tuple[object, ...]:
    submission, score = graded.submission, graded.score
    lesson = submission.lesson.name if submission.lesson else ""
    notes = " ".join(notes_of(graded))
    start = (submission.learner, lesson, submission.path.name, submission.version)
    if score is None:
        return (*start, "", "", "", "no", "", notes)
    each = "; ".join(f"{name}: {state(verdict)}" for name, verdict in score.verdicts.items())
    points = (score.right, len(score.verdicts), round(100 * score.share))
    return (*start, *points, "yes" if graded.counts else "no", each, notes)


def _cell(value: object) -> object:
    """A value for a spreadsheet, in which a learner's words must not become a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _by_learner(graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    own: defaultdict[str, list[Graded]] = defaultdict(list)
    for result in graded:
        own[result.submission.learner].append(result)
    return dict(sorted(own.items()))


def _free_name(learner: str, taken: set[str]) -> str:
    """A file's name for a learner that no other learner has, on systems that ignore case too."""
    name = first = folder_name(learner)
    count = 1
    while name.casefold() in taken:
        count += 1
        name = f"{first}-{count}"
    taken.add(name.casefold())
    return name
