"""Facts that change after training: an adapter still holds the old facts, a note has the new."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.skills import state, with_notes
from lora_lab.tasks.world import ATTRIBUTES, ask, read_world


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFacts:
    """`new-facts` after some of its facts have changed: the same questions, in the same order."""

    task: Task  # in every split, a changed fact has its new answer
    noted: Task  # as `task`; before each question stands a note with the fact as it is now
    notes: Mapping[str, str]  # question about a changed fact: the note with the new fact


def changed_facts(task: Task, count: int, *, seed: int = 0) -> ChangedFacts:
    """The right answers after `count` of the facts of `task` have changed.

    An adapter trained on `task` now gives old answers. An adapter trained on the result's `task` is
    up to date. The base can read the answers to `noted` in its prompts: there each question stands
    after the note that it needs, as if a search never failed.

    Args:
        task: `new-facts`, of any n and seed.
        count: how many of its n facts change, 1 to n.
        seed: draws the facts that change, and their new answers.

    Raises:
        ValueError: for another task, or for a count that does not fit.
    """
    facts = _facts_by_question()
    if not all(example.prompt in facts for example in task.train):
        raise ValueError(
            f"task {task.name!r} asks for no facts that could change; "
            "give load_task('new-facts'), with any n and seed"
        )
    known = {facts[example.prompt]: example.answer for example in task.train}
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(known):
        raise ValueError(
            f"count={count!r} does not fit a task of {len(known)} facts; "
            f"give a whole number from 1 to {len(known)}"
        )
    rng = random.Random(f"changed facts {seed}")
    changed = {
        (name, attribute): rng.choice([value for value in ATTRIBUTES[attribute] if value != old])
        for (name, attribute), old in rng.sample(sorted(known.items()), count)
    }
    answers = known | changed  # as they are now
    statements = {fact: state(*fact, value, rng.randrange(2)) for fact, value in answers.items()}
    splits = {name: getattr(task, name) for name in ("train", "validation", "test")}
    plain, noted = {}, {}
    for name, examples in splits.items():
        questions = [(example.prompt, facts[example.prompt]) for example in examples]
        plain[name] = [Example(prompt, answers[fact]) for prompt, fact in questions]
        noted[name] = [
            Example(with_notes(prompt, [statements[fact]]), answers[fact])
            for prompt, fact in questions
        ]
    after = f"{task.about} After training, {count} of the facts have changed."
    return ChangedFacts(
        task=replace(task, name="changed-facts", about=after, **plain),
        noted=replace(
            task, name="changed-facts-noted", about=f"{after} Each question has its note.", **noted
        ),
        notes=MappingProxyType(
            {
                example.prompt: statements[facts[example.prompt]]
                for examples in splits.values()
                for example in examples
                if facts[example.prompt] in changed
            }
        ),
    )


@cache
def _facts_by_question() -> dict[str, tuple[str, str]]:
    """Every question that `new-facts` can ask, with its fact: (name, attribute)."""
    return {
        ask(person, attribute, wording): (person.name, attribute)
        for person in read_world().reserve
        for attribute in ATTRIBUTES
        for wording in range(5)
    }
