"""Ways to ask a base without training it, each tried on the same questions."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from statistics import fmean

from lora_lab.maths.grouped import independent_questions
from lora_lab.maths.statistics import wilson
from lora_lab.models.architecture import context_of
from lora_lab.models.bases import Base
from lora_lab.records import Answer, Scores
from lora_lab.tasks.examples import Example, Task, encode_prompts, prompt_ids
from lora_lab.tasks.prompting import few_shot, instructed, retrieved
from lora_lab.training.evaluation import Model, answer_room, answers_to
from lora_lab.training.fit import fit
from lora_lab.training.intervals import clusters_of
from lora_lab.training.store import Run
from lora_lab.wording import counted, percent, percent_range

SHOTS = (4, 8, 16)  # worked examples in a prompt, the same for every question
SIMILAR = (2, 4, 8)  # worked examples that are looked up for each question
LABELS_NAMED = 30  # different labels, at most, that an instruction lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to ask: its name, its choice, and how it rewrites a prompt."""

    name: str  # "prompt", "instruction", "few-shot", "retrieval", "LoRA"
    choice: str = ""  # "8 examples"; "" if there is nothing to choose
    rewrite: Callable[[str], str] = str

    def __str__(self) -> str:
        return f"{self.name}, {self.choice}" if self.choice else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The answers of a model that was asked in one way, and what an answer costs."""

    name: str
    choice: str
    answers: tuple[Answer, ...]  # in the order of the questions; with their own prompts
    worth: float  # how many independent questions they are worth: fewer if they come in groups
    prompt_tokens: float  # the mean of a question, chat format included
    seconds: float  # for one answer
    unasked: int = 0  # questions that did not fit into the context: they count as wrong

    @property
    def right(self) -> int:
        """How many answers are right."""
        return sum(answer.right for answer in self.answers)

    @property
    def count(self) -> int:
        """How many questions were asked."""
        return len(self.answers)

    @property
    def share(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share, by Wilson; wider if the questions come in groups."""
        return wilson(self.share * self.worth, self.worth)

    def __str__(self) -> str:
        return f"{self.name}, {self.choice}" if self.choice else self.name


def ways_to_ask(base: Base, task: Task, instruction: str | None = None) -> list[Way]:
    """The ways without training that fit a task; the bare prompt comes first.

    Args:
        base: its chat format is used for the worked examples.
        task: its training examples are shown.
        instruction: words before each prompt; None: written from the labels, or from the fields of
            JSON, if the answers have them.
    """
    words = instruction or _instruction_for(task)
    ways = [Way(name="prompt")]
    if words:
        ways.append(Way(name="instruction", choice=words, rewrite=instructed(words)))
    for name, counts, make in (("few-shot", SHOTS, few_shot), ("retrieval", SIMILAR, retrieved)):
        ways += [
            Way(
                name=name,
                choice=f"{count} examples",
                rewrite=make(base.tokenizer, task, count),
            )
            for count in counts
            if count <= len(task.train)
        ]
    return ways


def _instruction_for(task: Task) -> str:
    """An instruction that names the labels or the fields of JSON; "" if there are none."""
    answers = [example.answer for example in task.train]
    if task.metric == "accuracy":
        labels = [label for label, _ in Counter(answers).most_common()]
        if len(labels) <= LABELS_NAMED:
            return f"Answer with one of these, and nothing else: {', '.join(labels)}."
    if task.metric == "field F1":
        fields = Counter(name for answer in answers for name in json.loads(answer))
        named = ", ".join(name for name, _ in fields.most_common(LABELS_NAMED))
        return f"Answer with one line of JSON, and nothing else. Its fields: {named}."
    return ""


def ask_in(
    way: Way, model: Model, task: Task, questions: Sequence[Example], *, batch: int = 8
) -> Asked:
    """The answers of a model that is asked the questions in a way, a batch at a time.

    A question whose prompt is too long for the model's context in this way is not asked: its answer
    is empty, and wrong.
    """
    answers: list[Answer] = []
    lengths: list[int] = []
    unasked = 0
    start = time.perf_counter()
    for first in range(0, len(questions), batch):
        part = questions[first : first + batch]
        prompted = [replace(question, prompt=way.rewrite(question.prompt)) for question in part]
        fits = which_fit(model, prompted)
        given = iter(answers_to(model, task, [*compress(prompted, fits)]))
        for question, fitting in zip(part, fits, strict=True):
            answer = next(given) if fitting else Answer("", question.answer, "", False)
            answers.append(replace(answer, prompt=question.prompt))
        lengths += [len(prompt_ids(model.tokenizer, example.prompt)) for example in prompted]
        unasked += fits.count(False)
    return Asked(
        name=way.name,
        choice=way.choice,
        answers=tuple(answers),
        worth=worth_of(answers, task),
        prompt_tokens=fmean(lengths),
        seconds=(time.perf_counter() - start) / len(answers),
        unasked=unasked,
    )


def with_test(base: Base, learnt: Task, run: Run, asked: Asked) -> tuple[Run, Asked]:
    """A run with the scores of its test, and its answers to the test.

    Args:
        base: the base that was trained.
        learnt: the task as the run was trained on it.
        run: if it is kept, its scores are written into its folder.
        asked: the way that stands for the run, with its answers to other questions.
    """
    if run.path is None or not all(which_fit(run, learnt.test)):
        return run, ask_in(Way(name=asked.name, choice=asked.choice), run, learnt, learnt.test)
    start = time.perf_counter()
    run = fit(base, learnt, run.recipe, store=run.path.parent)
    answers = run.scores.answers
    seconds = (time.perf_counter() - start) / len(answers)
    worth = worth_of(answers, learnt)
    return run, replace(asked, answers=answers, worth=worth, seconds=seconds, unasked=0)


def which_fit(model: Model, examples: Sequence[Example]) -> list[bool]:
    """Whether each example's prompt, with room for the longest answer, fits into the context."""
    ids = encode_prompts([example.prompt for example in examples], model.tokenizer)
    context, room = context_of(model.model), answer_room(model, examples)
    return [context is None or len(prompt) + room <= context for prompt in ids]


def in_words(asked: Asked) -> str:
    """A share with its interval: `58 % of 60 right (45 to 70 %), 402 tokens a question`."""
    too_long = f"; {counted(asked.unasked, 'question')} too long to ask, so wrong"
    return (
        f"{percent(asked.share)} of {asked.count} right ({percent_range(*asked.interval)}), "
        f"{asked.prompt_tokens:.0f} tokens a question" + (too_long if asked.unasked else "")
    )


def best_of(tried: Sequence[Asked]) -> Asked:
    """The way with the most right answers; of equal ways, the way with the shortest prompts."""
    return max(tried, key=lambda asked: (asked.share, -asked.prompt_tokens))


def joined(first: Asked, more: Asked, task: Task) -> Asked:
    """The answers of a way to some questions and to more of them."""
    answers = (*first.answers, *more.answers)

    def mean(name: str) -> float:
        numbers = (getattr(part, name) * part.count for part in (first, more))
        return sum(numbers) / len(answers)

    return replace(
        first,
        answers=answers,
        worth=worth_of(answers, task),
        prompt_tokens=mean("prompt_tokens"),
        seconds=mean("seconds"),
        unasked=first.unasked + more.unasked,
    )


def worth_of(answers: Sequence[Answer], task: Task) -> float:
    """How many independent questions the answers are worth: all, if the task has no groups."""
    if task.groups is None:
        return len(answers)
    groups = clusters_of(answers, task).values()
    if len(groups) == 1:
        return 1
    hits = [sum(answer.right for answer in group) for group in groups]
    return independent_questions(hits, [*map(len, groups)])


def scores_of(asked: Asked, task: Task) -> Scores:
    """The answers to the test as its scores; no loss was measured."""
    return Scores(
        metric_name=task.metric,
        value=asked.share,
        metrics={},
        old_knowledge=None,
        strangers=None,
        loss=math.nan,
        answers=asked.answers,
        split="test",
    )
