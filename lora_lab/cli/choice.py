"""The setting of a sweep that validation chose: it is shown, and scored once on the test."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from lora_lab.cli.show import busy, mark, say
from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    from lora_lab.models.bases import Base
    from lora_lab.tasks.examples import Task
    from lora_lab.training.store import Default, Run
    from lora_lab.training.sweep import Sweep


def written(value: object) -> str:
    """A value as the command line writes it after --vary."""
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def tested_runs(
    done: "Sweep", base: "Base", task: "Task", store: "Path | Default"
) -> "tuple[Run, ...] | None":
    """The chosen setting's runs, scored on the test; None: nothing could be chosen."""
    from lora_lab.training.fit import fit

    try:
        chosen = done.best()
    except ValueError:  # every setting diverged
        return None
    with busy("Scoring the chosen setting on the test …"):
        return tuple(fit(base, task, run.recipe, store=store) for run in chosen)


def _seen_before(done: "Sweep") -> int:
    """How many runs of the other settings have been scored on the test."""
    from lora_lab.training.run_files import SCORES

    chosen = {run.path for run in done.best()}
    return sum((run.path / SCORES).is_file() for run in done.runs if run.path not in chosen)


def choice_facts(done: "Sweep", task: "Task", tested: "Sequence[Run] | None") -> dict:
    """The entries in `--json` beside the runs: a row for each setting, the choice, its test."""
    from lora_lab.training.summary import summary_of, varying_fields

    facts: dict = {"split": "validation", "settings": [], "chosen": None, "test": None}
    with suppress(ValueError):  # no run has a score
        facts["settings"] = summary_of(done.runs, "value", varying_fields(done.runs))
        chosen = done.best()
        facts["chosen"] = _score_of_setting(chosen, task) | {
            "runs": [run.path.name for run in chosen]
        }
        if tested:
            seen = {"other_runs_tested_before": _seen_before(done)}
            facts["test"] = _score_of_setting(tested, task) | seen
    return facts


def _score_of_setting(runs: "Sequence[Run]", task: "Task") -> dict:
    """The mean score of a setting's seeds, and its intervals over seeds and over questions."""
    from lora_lab.training.intervals import groups_in, method_text, pooled_interval
    from lora_lab.training.summary import interval_of_scores

    scores = [run.scores for run in runs]
    values = [score.value for score in scores]
    share = scores[0].metric_name not in LOWER_IS_BETTER
    return {
        "split": scores[0].split,
        "metric": scores[0].metric_name,
        "mean": sum(values) / len(values),
        "over_seeds": interval_of_scores(values, share=share) if len(values) > 1 else None,
        "over_questions": pooled_interval(scores, task),
        "groups": groups_in(scores[0], task),
        "interval_method": method_text(scores[0], task),
    }


def show_choice(
    done: "Sweep", names: Sequence[str], task: "Task", tested: "Sequence[Run] | None"
) -> None:
    """Print the setting that validation chose, and its score on the test if that was asked for."""
    from lora_lab.training.summary import TIE, summary_of

    try:
        chosen = done.best()
    except ValueError as error:
        say("", f"Nothing is chosen: {error}")
        return
    setting = ", ".join(f"{name}={written(getattr(chosen[0].recipe, name))}" for name in names)
    facts = _score_of_setting(chosen, task)
    equals = sum(
        abs(row["mean"] - facts["mean"]) < TIE for row in summary_of(done.runs, "value", [])
    )
    tie = f" (the first of {equals} with this mean)" if equals > 1 else ""
    say("", f"Chosen by the best mean on validation: {setting}{tie}")
    say(f"  validation  {_setting_text(facts)}")
    say(*_runs_text(chosen))
    if tested is None:
        say("  --then-test scores it once on the test split.")
        return
    facts = _score_of_setting(tested, task)
    say(f"  test        {_setting_text(facts)}")
    if seen := _seen_before(done):
        say(
            f"note: {counted(seen, 'other run')} of this sweep had been scored on the test before. "
            "If that took part in any choice, this score flatters."
        )
    else:
        say("The test was looked at once, for this setting alone, after it was chosen.")
    if task.groups is not None:
        say(f"With other groups: {facts['interval_method']}.")


def _runs_text(runs: "Sequence[Run]") -> list[str]:
    """The setting's runs by seed with their scores, and the command that exports the best."""
    from lora_lab.cli.resolve import next_commands, short_names
    from lora_lab.training.store import run_folders

    names = short_names(run_folders(runs[0].path.parent))
    scored = [
        f"{names[run.path]} (seed {run.recipe.seed}: "
        f"{mark(run.scores.metric_name, run.scores.value)})"
        for run in runs
    ]
    lower = runs[0].scores.metric_name in LOWER_IS_BETTER
    best = min(runs, key=lambda run: run.scores.value * (1 if lower else -1))
    about = "  its runs    " if len(runs) > 1 else "  its run     "
    return [about + ", ".join(scored), next_commands(best)[1]]


def _setting_text(facts: dict) -> str:
    """`58 %; 45 to 70 with other questions, 50 to 65 with other seeds`: a setting's score."""
    ranges = []
    for key, words in (("over_questions", "questions"), ("over_seeds", "seeds")):
        if facts[key]:
            low, high = (mark(facts["metric"], end).removesuffix(" %") for end in facts[key])
            others = "groups" if key == "over_questions" and facts["groups"] else words
            ranges.append(f"{low} to {high} with other {others}")
    return "; ".join(
        [mark(facts["metric"], facts["mean"]), *([", ".join(ranges)] if ranges else [])]
    )
