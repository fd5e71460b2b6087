"""Samples of a task's examples, to be shown or to be evaluated."""

import dataclasses
import os
from collections.abc import Sequence

from lora_lab.tasks.examples import Example, Task


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` of the examples, evenly over the whole."""
    if len(examples) <= count:
        return list(examples)
    return [examples[place * len(examples) // count] for place in range(count)]


def smaller_task(task: Task, questions: int) -> Task:
    """The task with fewer questions: at most `questions` of each kind, for validation 2 in 5."""
    return dataclasses.replace(
        task,
        validation=spread(task.validation, 2 * questions // 5),
        test=spread(task.test, questions),
        old_knowledge=spread(task.old_knowledge, questions),
        strangers=spread(task.strangers, questions),
    )


def shared_opening(examples: Sequence[Example]) -> str:
    """The words that begin all prompts, up to a colon: "Home command: "; "" for most tasks."""
    opening = os.path.commonprefix([example.prompt for example in examples])
    return opening[: opening.rfind(": ") + 2] if ": " in opening else ""


def with_different_answers(examples: Sequence[Example], count: int) -> list[Example]:
    """The first examples whose answers differ; filled up with others if there are too few."""
    firsts = list({example.answer: example for example in reversed(examples)}.values())
    firsts.sort(key=examples.index)
    return (firsts + [example for example in examples if example not in firsts])[:count]
