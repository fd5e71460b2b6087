"""One test, asked in several ways: bare, with worked examples, with notes; or of an adapter.

What came of a way is a `Tried`: which answers were right, and what an answer costs.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from lora_lab.findings.recordings import recorded_names, recording
from lora_lab.lessons.retrieval import Retriever
from lora_lab.maths.statistics import wilson
from lora_lab.tasks.examples import Example, Task, prompt_ids
from lora_lab.tasks.skills import state, with_notes
from lora_lab.tasks.world import WORDINGS
from lora_lab.training.evaluation import Model, answers_to

NAME = re.compile(r"[A-Z]\w+ [A-Z]\w+")  # of a person in the pocket's world


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What one way of asking came to on a test."""

    approach: str
    right: tuple[bool, ...]  # question by question, in the test's order
    prompt_tokens: float  # the mean of a question, chat format included
    answer_tokens: float  # the mean of an answer
    seconds: float  # of the processor, for one answer
    setup_seconds: float = 0.0  # of the processor, once: training, or building an index

    @property
    def share(self) -> float:
        """Of the questions that were answered right, 0 to 1."""
        return mean(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `share`, by Wilson."""
        return wilson(sum(self.right), len(self.right))

    def __str__(self) -> str:
        """`retrieval  58 % (51 to 65 %) of 180; 402 tokens in, 9 out`."""
        low, high = self.interval
        return (
            f"{self.approach:22} {_percent(self.share)} ({_percent(low)} to {_percent(high)}) of "
            f"{len(self.right)}; {self.prompt_tokens:.0f} tokens in, {self.answer_tokens:.0f} out"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def try_approach(
    approach: str,
    model: Model,
    task: Task,
    prompts: Sequence[str] | None = None,
    *,
    setup_seconds: float = 0.0,
    examples: Sequence[Example] | None = None,
) -> Tried:
    """Ask a model a task's test in one way, mark the answers, and measure what they cost.

    Args:
        approach: its name.
        model: a Base, Training, Run or Adapted.
        task: marks the answers as its metric does (field F1: all fields right).
        prompts: how each question is put; None: as it stands.
        setup_seconds: what had to be done once, before the first question.
        examples: the questions; None: the task's test.

    Raises:
        ValueError: if there are not as many prompts as questions.
    """
    asked = list(task.test if examples is None else examples)
    prompts = [one.prompt for one in asked] if prompts is None else list(prompts)
    if len(prompts) != len(asked):
        raise ValueError(f"{len(prompts)} prompts for {len(asked)} questions; give one for each")
    put = [
        dataclasses.replace(one, prompt=prompt) for one, prompt in zip(asked, prompts, strict=True)
    ]
    clock = time.process_time if model.model.device.type == "cpu" else time.perf_counter
    begun = clock()
    answers = answers_to(model, task, put)
    seconds = (clock() - begun) / len(put)
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


# --- worked examples in a prompt ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """How a worked example stands in a prompt, in a form that the base has read before."""

    question: str  # "{}" takes the prompt
    answer: str  # "{}" takes the answer
    drop: str = ""  # words of the bare prompt that the form does without

    def write(self, examples: Sequence[Example], prompt: str) -> str:
        """The examples and the question, in one line."""

        def question(text: str) -> str:
            return self.question.format(text.removeprefix(self.drop))

        worked = [question(one.prompt) + self.answer.format(one.answer) for one in examples]
        return " ".join([*worked, question(prompt)])


LAYOUTS = {  # pocket has read worked examples of these two in one line, and in no other form
    "json": Layout("Text: {} JSON:", " {}", drop="Invoice as JSON: "),
    "sentiment": Layout("Review: {} Label:", " {}.", drop="How does it sound? "),
}


def with_examples(tokenizer: object, task: Task, examples: Sequence[Example], prompt: str) -> str:
    """A prompt with worked examples before it, as this base knows them.

    For most tasks they are turns of a chat, as if the model had just answered them: the text that
    is given back holds the chat format's own marks, so that the whole is that chat.
    """
    if task.name in LAYOUTS:
        return LAYOUTS[task.name].write(examples, prompt)
    turns = [
        {"role": role, "content": text}
        for one in examples
        for role, text in (("user", one.prompt), ("assistant", one.answer))
    ]
    asked = {"role": "user", "content": prompt}
    alone, whole = (
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        for chat in ([asked], [*turns, asked])
    )
    before, after = alone.split(prompt)  # what the chat format puts around a single question
    return whole.removeprefix(before).removesuffix(after)


def few_shot(tokenizer: object, task: Task, k: int) -> Callable[[str], str]:
    """Puts the first k training examples before each prompt."""
    return lambda prompt: with_examples(tokenizer, task, task.train[:k], prompt)


def retrieved(tokenizer: object, task: Task, k: int) -> Callable[[str], str]:
    """Puts the k training examples most like it before each prompt, the best one last."""
    index = Retriever([one.prompt for one in task.train])

    def put(prompt: str) -> str:
        near = [task.train[place] for place in index.nearest(prompt, k)]
        return with_examples(tokenizer, task, near[::-1], prompt)

    return put


# --- notes in a prompt ----------------------------------------------------------------------


def notes_of(task: Task) -> list[str]:
    """The facts that `new-facts` teaches, or `changed-facts`, as notes: one sentence each.

    Raises:
        ValueError: if the task teaches something else.
    """
    notes = []
    for one in task.train:
        found = [
            (match[1], attribute)
            for attribute, wordings in WORDINGS.items()
            for wording in wordings
            if (match := re.fullmatch(re.escape(wording).replace(r"\{name\}", "(.+)"), one.prompt))
        ]
        if not found:
            raise ValueError(
                f"{one.prompt!r} of task {task.name!r} asks for no fact about a person; give "
                "new-facts or changed-facts"
            )
        notes.append(state(*found[0], one.answer))
    return notes


def noted(notes: Sequence[str], k: int, *, same_name: bool = False) -> Callable[[str], str]:
    """Puts the k notes most like it before each question, the best one last; none: left as it is.

    Args:
        notes: what is searched.
        k: how many at most.
        same_name: leave out notes that do not hold the name that the question asks about.
    """
    index = Retriever(notes)

    def put(question: str) -> str:
        near = [notes[place] for place in index.nearest(question, k)]
        if same_name:
            name = NAME.search(question)
            near = [note for note in near if name and name[0] in note]
        return with_notes(question, near[::-1]) if near else question

    return put


# --- recorded -------------------------------------------------------------------------------


def recorded_approaches(name: str) -> dict[str, tuple[Tried, ...]]:
    """What was recorded of a table of approaches.toml: each approach's results, one per seed.

    Raises:
        ValueError: if nothing was, with the nearest name.
    """
    tried: dict[str, list[Tried]] = {}
    for row in _recorded(name):
        facts = {field.name: row[field.name] for field in dataclasses.fields(Tried)}
        facts["right"] = tuple(map(bool, facts["right"]))
        tried.setdefault(row["approach"], []).append(Tried(**facts))
    return {approach: tuple(results) for approach, results in tried.items()}


def recorded_curves() -> dict[str, dict[int, tuple[float, ...]]]:
    """Scores on pocket's tests: task -> number of training examples -> one share a seed.

    Raises:
        ValueError: if nothing was recorded.
    """
    curves: dict[str, dict[int, tuple[float, ...]]] = {}
    for row in _recorded("curves"):
        scores = curves.setdefault(row["task"], {})
        scores[row["n"]] = (*scores.get(row["n"], ()), row["value"])
    return curves


def _recorded(table: str) -> Iterator[Mapping]:
    """The rows of data/recorded/approaches/<table>-<seed>.json, seed by seed."""
    name = re.compile(re.escape(f"approaches/{table}") + r"-\d+")
    for one in [*filter(name.fullmatch, recorded_names())] or [f"approaches/{table}-0"]:
        yield from recording(one).rows
