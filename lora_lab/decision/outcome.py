"""The outcome of a decision: the tried ways, the recommendation, the test's result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from lora_lab.decision.asking import Asked, best_of, in_words, scores_of
from lora_lab.lessons.deciding import LORA, PROMPT, RETRIEVAL, Advice, Situation
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task
from lora_lab.training.intervals import Change, change_of
from lora_lab.training.store import Run
from lora_lab.wording import percent, percent_range

KINDS = {  # what `advise` recommends, and the ways that stand for it
    PROMPT: ("prompt", "instruction", "few-shot"),
    RETRIEVAL: ("retrieval",),
    LORA: ("LoRA",),
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Decision:
    """The ways that were tried on somebody's data, the recommendation, and the test's result."""

    task: Task
    base_name: str
    rows: int  # validation questions that each way was asked
    more_rows: int  # further questions for the best way of each kind, since there was time
    tried: tuple[Asked, ...]  # on validation, in the order in which they were tried
    left_out: Mapping[str, str]  # what was not tried, and why
    situation: Situation
    advice: Advice
    chosen: Asked  # the way that is asked the test, with its answers on validation
    test: Asked | None  # None: it has not been asked yet; `final_test` asks it
    bare_test: Asked | None  # the bare prompt on the same test rows; None: it is the chosen way
    change: Change | None  # from the bare prompt to the chosen way: paired, by group if there are
    run: Run | None  # the adapter's; None: none was trained
    before: Scores | None  # the base's old knowledge, if the task asks for it; then the run's
    after: Scores | None
    minutes: float  # given
    seconds: float  # taken

    def __repr__(self) -> str:
        tried = (f"  {asked}: {in_words(asked)}" for asked in self.tried)
        left = (f"  not tried: {name}: {why}" for name, why in self.left_out.items())
        test = "The test was not asked yet."
        if self.test is not None:
            test = f"The test, asked once: {self.test}: {in_words(self.test)}. {self.shortfall}"
        parts = [f"{self.advice.recommendation}: {self.advice.why}", *tried, *left, test.rstrip()]
        return "\n".join(parts)

    @property
    def shortfall(self) -> str:
        """A sentence on a test that misses the share needed, which validation had not ruled out.

        "" where the test reaches it, where it was not asked, and where validation missed it too:
        then the recommendation says so.
        """
        needed = self.situation.needed
        if self.test is None or self.chosen.interval[1] < needed:
            return ""
        low, high = self.test.interval
        if low >= needed:
            return ""
        reached = f"You need {percent(needed)}, and the test reaches {percent_range(low, high)}"
        if high < needed:
            return f"{reached}: too little. Believe the test, because validation chose this way."
        return f"{reached}: too few questions to be sure. Ask new rows before you rely on it."

    def table(self) -> pd.DataFrame:
        """A row for each way that was tried on validation: its right answers and its cost."""
        rows = {
            asked.name if asked.name == "instruction" else str(asked): {
                "right": f"{asked.right} of {asked.count}",
                "share": percent(asked.share),
                "95 % interval": percent_range(*asked.interval),
                "tokens a question": round(asked.prompt_tokens),
            }
            for asked in self.tried
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def shares(self) -> dict[str, tuple[float, float, float]]:
        """The share of right answers on validation and its interval, by way: for a picture."""
        return {
            asked.name if asked.name == "instruction" else str(asked): (
                asked.share,
                *asked.interval,
            )
            for asked in self.tried
        }

    def tested(self) -> pd.DataFrame:
        """The chosen way and the bare prompt: on validation, and on the test that was asked once.

        Raises:
            ValueError: if the test was not asked yet.
        """
        if self.test is None:
            raise ValueError("the test was not asked yet; ask it with lab.final_test(...)")
        pairs = {str(self.test): (self.chosen, self.test)}
        if self.bare_test is not None:
            pairs |= {str(self.bare_test): (self.tried[0], self.bare_test)}
        rows = {
            name: {
                "on validation": percent(before.share),
                "on the test": percent(after.share),
                "95 % interval": percent_range(*after.interval),
                "rows": after.count,
            }
            for name, (before, after) in pairs.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")


def with_measurements(situation: Situation, task: Task, tried: Sequence[Asked]) -> Situation:
    """The situation with the right answers of the best way of each kind, and the examples.

    Questions that come in groups count as the number of independent questions that they are worth.
    """
    counts: dict[str, int] = {"examples": len(task.train)}
    for kind, name in ((PROMPT, "prompt"), (RETRIEVAL, "retrieval"), (LORA, "lora")):
        ways = [asked for asked in tried if asked.name in KINDS[kind]]
        best = best_of(ways) if ways else None
        counts[f"{name}_asked"] = max(1, round(best.worth)) if best else 0
        counts[f"{name}_right"] = round(best.share * counts[f"{name}_asked"]) if best else 0
    return replace(situation, **counts)


def stands_for(recommendation: str, tried: Sequence[Asked]) -> Asked:
    """The best way of a recommended kind; if no way of it was tried, the best of all."""
    kind = [asked for asked in tried if asked.name in KINDS.get(recommendation, ())]
    return best_of(kind or tried)


def change_to(test: Asked | None, bare: Asked | None, task: Task) -> Change | None:
    """The change from the bare prompt to the chosen way on the test; None: one is missing."""
    if test is None or bare is None:
        return None
    return change_of(scores_of(bare, task), scores_of(test, task), task)
