"""All exercises by name: `lab.check.add_lora(add_lora)`."""

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
from lora_lab.recipe import nearest

EXERCISES = {
    name: exercise
    for module in (
        start_here,
        should_i_fine_tune,
        one_token,
        maths_of_lora,
        reading_a_run,
        rank,
        alpha,
        target_modules,
        adalora,
        qlora,
        training_parameters,
        way_in,
        full_or_lora,
        shipping,
        your_data,
    )
    for name, exercise in vars(module).items()
    if isinstance(exercise, Exercise)
}


class Check:
    """The exercises' checks: `lab.check.<exercise>(function)` gives a `Verdict`."""

    def __getattr__(self, name: str) -> Exercise:
        if name not in EXERCISES:
            raise AttributeError(
                f"there is no exercise {name!r}; {nearest(name, tuple(EXERCISES))}"
                f"There are: {', '.join(EXERCISES)}"
            )
        return EXERCISES[name]

    def __dir__(self) -> list[str]:
        return sorted(EXERCISES)

    def __repr__(self) -> str:
        return f"lab.check.<exercise>(function), for: {', '.join(EXERCISES)}"


check = Check()
