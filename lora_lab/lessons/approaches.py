"""A test asked in several ways: bare, with worked examples, with notes, or of an adapter.

The result of an approach is a `Tried`: which answers were right, and the cost of an answer.
`FactWays` asks for facts, and `ways_table` sets the ways of several plans of evidence side by side.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import pandas as pd

from lora_lab.findings.evidence import FINAL, Evidence
from lora_lab.maths.statistics import wilson
from lora_lab.models.bases import Base
from lora_lab.tasks.changing_facts import ChangedFacts
from lora_lab.tasks.examples import Example, Task, prompt_ids
from lora_lab.tasks.retrieval import Retriever
from lora_lab.tasks.skills import state, with_notes
from lora_lab.tasks.world import WORDINGS
from lora_lab.training.evaluation import Model, answers_to
from lora_lab.wording import percent

NAME = re.compile(r"[A-Z]\w+ [A-Z]\w+")  # a person's name in the pocket's world


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """The result of an approach on a test."""

    approach: str
    right: tuple[bool, ...]  # question by question, in the test's order
    prompt_tokens: float  # the mean of a question, chat format included
    answer_tokens: float  # the mean of an answer
    seconds: float  # of the processor, for one answer
    setup_seconds: float = 0.0  # of the processor, once: training, or building an index

    @property
    def share(self) -> float:
        """The share of questions with a right answer, 0 to 1."""
        return mean(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `share`, by Wilson."""
        return wilson(sum(self.right), len(self.right))

    def __str__(self) -> str:
        """`retrieval  58 % (51 % to 65 %) of 180; 402 tokens in, 9 out`."""
        low, high = self.interval
        return (
            f"{self.approach:22} {percent(self.share)} ({percent(low)} to {percent(high)}) of "
            f"{len(self.right)}; {self.prompt_tokens:.0f} tokens in, {self.answer_tokens:.0f} out"
        )


def try_approach(
    approach: str,
    model: Model,
    task: Task,
    prompts: Sequence[str] | None = None,
    *,
    setup_seconds: float = 0.0,
    examples: Sequence[Example] | None = None,
) -> Tried:
    """Ask a model the questions of a task in an approach; mark the answers, measure their cost.

    Args:
        approach: its name.
        model: a Base, Training, Run or Adapted.
        task: its metric marks the answers (field F1: all fields right).
        prompts: a prompt for each question; None: the questions themselves.
        setup_seconds: work done once, before the first question.
        examples: the questions; None: the task's test.

    Raises:
        ValueError: if there are not as many prompts as questions.
    """
    questions = list(task.test if examples is None else examples)
    prompts = [question.prompt for question in questions] if prompts is None else list(prompts)
    if len(prompts) != len(questions):
        count = len(questions)
        raise ValueError(f"{len(prompts)} prompts for {count} questions; give one for each")
    prompted = [
        dataclasses.replace(question, prompt=prompt)
        for question, prompt in zip(questions, prompts, strict=True)
    ]
    clock = time.process_time if model.model.device.type == "cpu" else time.perf_counter
    start = clock()
    answers = answers_to(model, task, prompted)
    seconds = (clock() - start) / len(prompted)
    tokenizer = model.tokenizer
    return Tried(
        approach=approach,
        right=tuple(answer.right for answer in answers),
        prompt_tokens=mean(len(prompt_ids(tokenizer, prompt)) for prompt in prompts),
        answer_tokens=mean(
            len(tokenizer(answer.given, add_special_tokens=False)["input_ids"])
            for answer in answers
        ),
        seconds=seconds,
        setup_seconds=setup_seconds,
    )


# --- notes in a prompt ----------------------------------------------------------------------


def notes_of(task: Task) -> list[str]:
    """The facts that `new-facts` or `changed-facts` teaches, as notes of a sentence each.

    Raises:
        ValueError: if the task teaches something else.
    """
    notes = []
    for example in task.train:
        prompt = example.prompt
        facts = [
            (match[1], attribute)
            for attribute, wordings in WORDINGS.items()
            for wording in wordings
            if (match := re.fullmatch(re.escape(wording).replace(r"\{name\}", "(.+)"), prompt))
        ]
        if not facts:
            raise ValueError(
                f"{prompt!r} of task {task.name!r} asks for no fact about a person; give "
                "new-facts or changed-facts"
            )
        notes.append(state(*facts[0], example.answer))
    return notes


def noted(notes: Sequence[str], k: int, *, same_name: bool = False) -> Callable[[str], str]:
    """A function that puts the k most similar notes before a question, the best note last.

    A question without any similar note stays as it is.

    Args:
        notes: the texts to search.
        k: the most notes.
        same_name: leave out notes without the name that the question asks about.
    """
    index = Retriever(notes)

    def with_similar_notes(question: str) -> str:
        near = [notes[place] for place in index.nearest(question, k)]
        if same_name:
            name = NAME.search(question)
            near = [note for note in near if name and name[0] in note]
        return with_notes(question, near[::-1]) if near else question

    return with_similar_notes


# --- facts, from notes or from an adapter ------------------------------------------------------

MOST = 100  # questions of a kind, so that a table takes seconds


class FactWays:
    """Ways to answer for new facts: the base alone, from notes in the prompt, from an adapter.

    Args:
        base: knows none of the new facts.
        facts: `new-facts`; each of its facts becomes a note.
        notes: the most notes before a question.
        same_name: only notes about the person that the question asks about.
    """

    def __init__(self, base: Base, facts: Task, *, notes: int = 5, same_name: bool = True) -> None:
        self.base, self.facts = base, facts
        self.notes, self.same_name = notes, same_name
        self.put = self._with_notes_of(facts)
        kind = "by name" if same_name else "by likeness"
        self.name = f"notes found {kind}"

    def table(self, models: Mapping[str, Model] | None = None) -> pd.DataFrame:
        """The new facts, old facts and strangers that each way answers rightly.

        Args:
            models: adapters to ask as well, by the name of their row.
        """
        asked = {
            "new facts": self.facts.test[:MOST],
            "old facts": self.facts.old_knowledge[:MOST],
            "strangers “not known”": self.facts.strangers[:MOST],
        }
        return self._table(models or {}, self.put, asked)

    @property
    def strangers(self) -> float:
        """The share of strangers, 0 to 1, that are still “not known” with the notes."""
        return self._try(self.name, self.base, self.put, self.facts.strangers[:MOST]).share

    def after(self, now: ChangedFacts, models: Mapping[str, Model]) -> pd.DataFrame:
        """The same ways after some facts have changed, and their notes with them.

        Args:
            now: the facts as they are now.
            models: adapters, by the name of their row.
        """
        changed = [example for example in now.task.test if example.prompt in now.notes]
        kept = [example for example in now.task.test if example.prompt not in now.notes]
        asked = {f"the {len(changed)} that changed": changed, f"the other {len(kept)}": kept}
        return self._table(models, self._with_notes_of(now.task), asked)

    def _with_notes_of(self, facts: Task) -> Callable[[str], str]:
        return noted(notes_of(facts), self.notes, same_name=self.same_name)

    def _try(
        self, name: str, model: Model, ask: Callable[[str], str], questions: Sequence[Example]
    ) -> Tried:
        prompts = [ask(question.prompt) for question in questions]
        return try_approach(name, model, self.facts, prompts, examples=questions)

    def _table(
        self,
        models: Mapping[str, Model],
        put: Callable[[str], str],
        asked: Mapping[str, Sequence[Example]],
    ) -> pd.DataFrame:
        ways = {"the base alone": (self.base, str), self.name: (self.base, put)}
        ways |= {name: (model, str) for name, model in models.items()}
        rows = {}
        for name, (model, ask) in ways.items():
            tried = {
                what: self._try(name, model, ask, questions) for what, questions in asked.items()
            }
            rows[name] = {what: percent(result.share) for what, result in tried.items()}
            rows[name]["tokens read"] = f"{next(iter(tried.values())).prompt_tokens:.0f}"
        return pd.DataFrame(rows).T


# --- evidence -------------------------------------------------------------------------------


def ways_table(*ids: str) -> pd.DataFrame:
    """The ways of several plans of evidence in one table: right answers, cost, what is kept.

    Args:
        ids: the ids of plans that have ways to ask among their settings.
    """
    return pd.concat([_rows_of_ways(Evidence.read(id)) for id in ids]).fillna("")


def _rows_of_ways(evidence: Evidence) -> pd.DataFrame:
    plan, table = evidence.plan, evidence.table().set_index("setting")
    task, rows = f"{plan.base}, {plan.task}", {}
    if not any(evidence.runs.values()):
        return pd.DataFrame({(task, "not measured yet"): {"seeds": 0}}).T
    for name, measured in table.iterrows():
        finals = [row for row in evidence.rows if (row.stage, row.setting) == (FINAL, name)]
        score = next(column for column in table if column.endswith(", %"))
        tokens = f"{mean(row.prompt_tokens for row in finals):.0f}" if finals else ""
        rows[task, name] = {
            "metric": score.removesuffix(", %"),
            "score, %": measured[score],
            "95 % interval": measured.get("95 % interval", "not measured yet"),
            "chosen": measured["chosen"],
            "tokens read": tokens,
            "old facts kept, %": measured.get("old facts kept, %", ""),
            "seeds": measured["seeds"],
        }
    return pd.DataFrame(rows).T


def learning_curves(*ids: str) -> dict[str, dict[int, list[float]]]:
    """The test's scores by the number of training examples, for each plan's task: a share per seed.

    Args:
        ids: the ids of plans whose settings are numbers of examples, "50" or "1,000".
    """
    found = map(Evidence.read, ids)
    return {
        evidence.plan.task: {
            int(setting.replace(",", "")): [run.scores.value for run in runs]
            for setting, runs in evidence.runs.items()
        }
        for evidence in found
    }
