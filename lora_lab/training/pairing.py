"""`compare`: the runs of two settings paired by seed, or two models paired by question."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lora_lab.maths.comparison import SEEDS, Comparison, comparison_of
from lora_lab.maths.looks import LOOK_LEVEL, LOOKS, next_look
from lora_lab.maths.measures import RIGHT, checked_margin
from lora_lab.maths.statistics import LEVEL, PairedAnswers
from lora_lab.records import Scores
from lora_lab.training.run_files import DIVERGED
from lora_lab.training.store import Run
from lora_lab.wording import counted


def compare(
    a: "Sequence[Run] | Run | Scores",
    b: "Sequence[Run] | Run | Scores",
    *,
    margin: float | None = None,
) -> Comparison:
    """Setting b compared with setting a: better, worse, no difference, or not settled yet.

    Runs of two settings are paired by seed; runs with the same seed share the order of the data
    and the questions. The interval is that of the paired t-test. Two single runs, or their scores,
    are paired by question (McNemar): that compares two models, and says nothing of other seeds.

    Args:
        a: the runs of one setting, each with a seed of its own; or a single run; or its scores.
        b: the same for another setting, with the same seeds or questions.
        margin: the smallest difference that matters, in the metric's unit: 0.02 is 2 points of a
            share, and the default there. Without one, a loss is never called equal.

    Raises:
        ValueError: if the two can't be paired: their seeds, tasks, bases, splits or questions
            differ; a run is not scored or has diverged; there are fewer than two seeds; a score is
            NaN.
    """
    singles = [_scores_of_one(side) for side in (a, b)]
    if all(singles):
        return _by_question(*singles, margin)
    if any(singles):
        raise TypeError(
            "one side is a single run, the other several; give two single runs, or the runs of "
            "both settings with the same seeds"
        )
    return compare_measure(a, b, margin=margin)


def compare_at_look(
    a: Sequence[Run], b: Sequence[Run], *, margin: float | None = None
) -> Comparison:
    """The comparison of `compare` by seed, at a look of the plan: after 5, 10 or 20 seeds.

    If you may train more seeds after an unsettled verdict, use this from the first look on. Its
    interval is wider (98.05 %), so that three looks together err as often as a single `compare`.

    Raises:
        ValueError: as in `compare`, and with a number of seeds at which the plan has no look.
    """
    found = compare_measure(a, b, margin=margin, level=LOOK_LEVEL)
    if found.pairs not in LOOKS:
        more = next_look(found.pairs)
        fitting = f"train {more - found.pairs} more" if more else f"give the first {LOOKS[-1]}"
        raise ValueError(
            f"the plan has no look at {found.pairs} seeds, only at "
            f"{', '.join(map(str, LOOKS))}; {fitting}"
        )
    return replace(found, look=LOOKS.index(found.pairs) + 1)


def compare_measure(
    a: Sequence[Run],
    b: Sequence[Run],
    *,
    measure: str = "value",
    margin: float | None = None,
    level: float = LEVEL,
) -> Comparison:
    """The comparison of `compare` by seed, for any score and level.

    Args:
        a: as in `compare`.
        b: as in `compare`.
        measure: "value" (the task's metric), "loss", "old_knowledge" or "strangers".
        margin: as in `compare`.
        level: how often the interval misses the true difference, 0 to 1.
    """
    numbers_a, numbers_b = (_by_seed(runs, name, measure) for runs, name in ((a, "a"), (b, "b")))
    _check_alike([*a, *b])
    if numbers_a.keys() != numbers_b.keys():
        only = {
            name: sorted(own.keys() - other.keys())
            for name, own, other in (("a", numbers_a, numbers_b), ("b", numbers_b, numbers_a))
        }
        raise ValueError(
            f"seeds {only['a']} are in a alone, {only['b']} in b alone; runs are paired by seed: "
            "train both settings with the same seeds"
        )
    if len(numbers_a) < 2:
        raise ValueError(
            f"{counted(len(numbers_a), 'seed')} a setting shows no spread; give 2 or more, better "
            f"{SEEDS}; or compare the two runs question by question: compare(a[0], b[0])"
        )
    name = a[0].scores.metric_name if measure == "value" else measure
    differences = [numbers_b[seed] - numbers_a[seed] for seed in sorted(numbers_a)]
    return comparison_of(differences, measure=name, margin=margin, level=level)


# --- runs read for a comparison -------------------------------------------------------------


def _scores_of_one(side: object) -> Scores | None:
    """The scores of a single run; None for the runs of a setting."""
    if isinstance(side, Scores):
        return side
    if isinstance(side, Run):
        return _scored(side, "the run")
    if isinstance(side, Sequence) and not isinstance(side, str):
        others = [run for run in side if not isinstance(run, Run)]
        if not others and side:
            return None
        side = others[0] if others else side
    raise TypeError(
        f"{side!r:.80} isn't a run to compare; give the runs of a setting, a single run, or the "
        "scores of evaluate"
    )


def _scored(run: Run, name: str) -> Scores:
    if run.scores is None and run.status == DIVERGED:
        raise ValueError(
            f"{name} diverged and has no score; without it the comparison would flatter its "
            "setting: lower the learning rate of both settings, or say how often it diverges"
        )
    if run.scores is None:
        raise ValueError(f"{name} was not scored; train it with evaluate=True")
    return run.scores


def _by_seed(runs: Sequence[Run], side: str, measure: str) -> dict[int, float]:
    """A score of each run, by its seed."""
    numbers = {}
    settings = {replace(run.recipe, seed=0) for run in runs}
    if len(settings) > 1:
        raise ValueError(
            f"{side} holds runs of {len(settings)} recipes; give runs of one recipe, with its seeds"
        )
    for run in runs:
        seed = run.recipe.seed
        if seed in numbers:
            raise ValueError(f"seed {seed} stands twice in {side}; give one run a seed")
        number = getattr(_scored(run, f"seed {seed} of {side}"), measure)
        if number is None or not math.isfinite(number):
            found = "was not measured" if number is None else f"is {number}"
            raise ValueError(f"{measure} of seed {seed} of {side} {found}; nothing can be compared")
        numbers[seed] = number
    return numbers


def _check_alike(runs: Sequence[Run]) -> None:
    """Refuse runs that were not tested alike."""
    features = {
        "bases": {run.base_name for run in runs},
        "tasks": {run.task_name for run in runs},
        "splits": {run.scores.split for run in runs},
        "metrics": {run.scores.metric_name for run in runs},
    }
    for name, values in features.items():
        if len(values) > 1:
            raise ValueError(
                f"the runs are of different {name} ({', '.join(sorted(values))}): their scores "
                f"are not of the same test; give runs that share their {name}"
            )


def _by_question(a: Scores, b: Scores, margin: float | None) -> Comparison:
    questions = [
        [(answer.prompt, answer.expected) for answer in scores.answers] for scores in (a, b)
    ]
    if len(questions[0]) < 2 or questions[0] != questions[1]:
        raise ValueError(
            f"a holds {len(a.answers)} answers, b {len(b.answers)}, and they are not two or more "
            "to the same questions in the same order; give the scores of evaluate on one split of "
            "one task (recorded runs hold no answers)"
        )
    right = [[answer.right for answer in scores.answers] for scores in (a, b)]
    return comparison_of_answers(*right, margin=margin)


def comparison_of_answers(
    right_a: Sequence[bool], right_b: Sequence[bool], *, margin: float | None = None
) -> Comparison:
    """The comparison of two models by the questions that each of them got right."""
    pairs = list(zip(right_a, right_b, strict=True))
    answers = PairedAnswers(
        items=len(pairs),
        both=pairs.count((True, True)),
        only_a=pairs.count((True, False)),
        only_b=pairs.count((False, True)),
    )
    low, high = answers.interval
    return Comparison(
        measure=RIGHT,
        difference=answers.difference,
        low=low,
        high=high,
        pairs=len(pairs),
        p_value=answers.p_value,
        margin=checked_margin(RIGHT, margin),
        answers=answers,
    )
