"""All exercises by name: `lab.check.add_lora(add_lora)`; `lab.progress()` is their score."""

from dataclasses import replace

from lora_lab.checks import (
    adalora,
    alpha,
    full_or_lora,
    maths_of_lora,
    one_token,
    qlora,
    rank,
    reading_a_run,
    shipping,
    should_i_fine_tune,
    start_here,
    target_modules,
    training_parameters,
    way_in,
    your_data,
)
from lora_lab.checks.compare import Exercise
from lora_lab.checks.progress import LessonScore, Progress, keep_verdict, kept_verdicts
from lora_lab.recipe import nearest

MODULES = {  # each lesson's number, and the module of its exercises
    "00": start_here,
    "01": should_i_fine_tune,
    "02": one_token,
    "03": maths_of_lora,
    "04": reading_a_run,
    "05": rank,
    "06": alpha,
    "07": target_modules,
    "08": adalora,
    "09": qlora,
    "10": training_parameters,
    "11": way_in,
    "12": full_or_lora,
    "13": shipping,
    "14": your_data,
}
LESSONS = {  # each lesson's exercises by name
    number: {name: value for name, value in vars(module).items() if isinstance(value, Exercise)}
    for number, module in MODULES.items()
}
EXERCISES = {
    name: exercise for exercises in LESSONS.values() for name, exercise in exercises.items()
}


def progress() -> Progress:
    """Your own score: which exercises are right, by the last check of each.

    The same functions get the same score when a class's submissions are checked.
    """
    kept = kept_verdicts()
    return Progress(
        tuple(
            LessonScore(number, {name: kept.get(name) for name in exercises})
            for number, exercises in LESSONS.items()
        )
    )


class Check:
    """The exercises' checks: `lab.check.<exercise>(function)` gives a `Verdict`."""

    def __getattr__(self, name: str) -> Exercise:
        if name not in EXERCISES:
            raise AttributeError(
                f"there is no exercise {name!r}; {nearest(name, tuple(EXERCISES))}"
                f"There are: {', '.join(EXERCISES)}"
            )
        return replace(EXERCISES[name], keep=keep_verdict)

    def __dir__(self) -> list[str]:
        return sorted(EXERCISES)

    def __repr__(self) -> str:
        return f"lab.check.<exercise>(function), for: {', '.join(EXERCISES)}"


check = Check()
