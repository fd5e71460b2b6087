"""The scores of submissions: each exercise by the package's own check, named by the lesson."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_lab.checks.compare import Exercise, verdict_of_both
from lora_lab.checks.exercises import LESSONS
from lora_lab.checks.progress import LessonScore
from lora_lab.classroom.runner import Runner, Stopped
from lora_lab.classroom.submissions import Submission
from lora_lab.records import Verdict


@dataclass(frozen=True, slots=True)
class Graded:
    """A submission with its score; None if it could not be checked."""

    submission: Submission
    score: LessonScore | None
    counts: bool  # whether it is the learner's best for its lesson


def grade(
    submissions: Iterable[Submission], runner: Runner, tell: Callable[[Submission], None]
) -> list[Graded]:
    """The scores of submissions, in their order.

    Args:
        submissions: as `read_all` gives them.
        runner: runs their functions.
        tell: called with each submission before it is checked.
    """
    scored = []
    for submission in submissions:
        tell(submission)
        scored.append((submission, None if submission.problem else score_of(submission, runner)))
    best = _best(scored)
    return [
        Graded(submission, score, counts=submission.path in best) for submission, score in scored
    ]


def score_of(submission: Submission, runner: Runner) -> LessonScore:
    """The score of a submission: a point for each exercise that is right."""
    number = submission.lesson.number
    verdicts = {
        name: verdict_on(exercise, submission.cells, runner)
        for name, exercise in LESSONS[number].items()
    }
    return LessonScore(number, verdicts)


def verdict_on(exercise: Exercise, cells: Sequence[str], runner: Runner) -> Verdict:
    """The verdict on the function that a submission's cells define for an exercise.

    The submission's process only gives answers. They are compared here, with references that the
    process never saw. A function that is right then has the exercise's trial.
    """
    try:
        outcomes = runner.outcomes(exercise, cells)
        verdict = exercise.judge([*exercise.cases()], outcomes)
        if verdict and exercise.trial is not None:
            verdict = verdict_of_both(verdict, runner.trial(exercise, cells))
    except Stopped as stopped:
        return Verdict(False, str(stopped))
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:  # of an odd answer
        return Verdict(False, f"your function's answer can't be compared ({type(error).__name__})")
    return verdict


def _best(scored: Sequence[tuple[Submission, LessonScore | None]]) -> set[Path]:
    """For each learner and lesson, the first of the files with the most right exercises."""
    best: dict[tuple[str, str], tuple[Path, int]] = {}
    for submission, score in scored:
        if score is None:
            continue
        key = submission.learner, score.lesson
        if key not in best or score.right > best[key][1]:
            best[key] = submission.path, score.right
    return {path for path, _ in best.values()}
