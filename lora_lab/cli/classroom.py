"""`class`: student copies of the lessons, and the checking of what is handed in."""

from pathlib import Path
from typing import Annotated

import typer

from lora_lab.cli.show import as_json, busy, note, say, table
from lora_lab.wording import counted

classroom = typer.Typer(
    help="Student copies of the lessons, and the checking of what is handed in.",
    rich_markup_mode=None,
)


@classroom.callback(invoke_without_command=True)
def _start(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@classroom.command()
def release(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    lesson: Annotated[
        list[str] | None,
        typer.Option(metavar="LESSON", help="A lesson, as 5 or 05_rank; again for more."),
    ] = None,
) -> None:
    """Write student copies: lessons without solutions.

    Outputs are left out too, hints stay.
    Each copy says in its metadata which version, lesson and exercises it holds. A README tells
    learners how to work and how to hand in. Without --lesson the whole course is copied.

    \b
    Examples:
      lora-lab class release for-my-class
      lora-lab class release week-1 --lesson 0 --lesson 3 --lesson 5
    """
    from lora_lab.classroom.course import find_lesson
    from lora_lab.classroom.release import release as write_copies

    copied = write_copies(folder.expanduser(), [find_lesson(word) for word in lesson or ()])
    say(f"In {folder}: {', '.join(copied)}.")
    say("Hand the folder out; learners begin with its README.md.")


@classroom.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Notebooks, or folders of them.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table of grades.")] = Path(
        "grades.csv"
    ),
    pages: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the learners' pages go; else beside the table."),
    ] = None,
    lesson: Annotated[
        str | None,
        typer.Option(metavar="LESSON", help="The lesson that was asked for, as 5 or 05_rank."),
    ] = None,
    seconds: Annotated[
        int, typer.Option(metavar="COUNT", min=1, help="Processor time for each exercise.")
    ] = 120,
    memory: Annotated[
        int, typer.Option(metavar="MB", min=1500, help="Memory addresses; torch takes 1,100 MB.")
    ] = 4000,
    unprotected: Annotated[
        bool,
        typer.Option(
            "--unprotected", help="Run where files and network can't be refused, as on macOS."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the grades as JSON alone.")] = False,
) -> None:
    """Check submitted notebooks; write grades and pages.

    Each exercise's function runs in a process of its own, without network, without other
    processes, with limits on time, memory and files; it can read neither solutions nor other
    submissions. The package's own checks decide, never the cells of a submission. A file that
    can't be checked has a line that says why; all other files are checked.

    A file belongs to the learner in its name: 05_rank-ada.ipynb, or ada/05_rank.ipynb. Of two files
    for the same lesson, the better file counts.

    \b
    Examples:
      lora-lab class check submissions/
      lora-lab class check *.ipynb --lesson 5 --out week-1.csv
    """
    from lora_lab.classroom.confinement import Limits, missing_protection
    from lora_lab.classroom.course import find_lesson
    from lora_lab.classroom.grades import notes_of, write_grades
    from lora_lab.classroom.grading import grade
    from lora_lab.classroom.runner import Runner
    from lora_lab.classroom.submissions import find, read_all

    lacking = missing_protection()
    if lacking and not unprotected:
        raise OSError(
            f"a submission could read, change and send your files here: {lacking}. Check on Linux, "
            "or in a container, or give --unprotected if you trust every submission"
        )
    if unprotected:
        note("Unprotected: submissions can read and change your files, and use the network.")
    handed_in = read_all(find(files), find_lesson(lesson) if lesson else None)
    if not handed_in:
        raise FileNotFoundError(f"no notebook is in {', '.join(map(str, files))}")
    limits = Limits(seconds=seconds, memory=memory * 1_000_000)
    with Runner(limits, protect=not unprotected) as runner, busy("Submissions are checked …"):
        graded = grade(handed_in, runner, lambda submission: note(f"checking {submission.path}"))
    folder = pages or out.with_name(f"{out.stem}-pages")
    written = write_grades(graded, out, folder)
    rows = [
        (
            result.submission.learner,
            result.submission.lesson.name if result.submission.lesson else "",
            f"{result.score.right} of {len(result.score.verdicts)}" if result.score else "",
            " ".join(notes_of(result)),
        )
        for result in graded
    ]
    if json:
        as_json(
            [dict(zip(("learner", "lesson", "right", "notes"), row, strict=True)) for row in rows]
        )
        return
    table(("learner", "lesson", "right", "notes"), rows, right="right")
    say(f"The grades are in {out}, and {counted(len(written), 'page')} in {folder}.")
