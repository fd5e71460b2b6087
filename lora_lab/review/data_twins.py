"""Held-out prompts that have a near-twin in training."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lora_lab.tasks.templates import templates_of


@dataclass(frozen=True, slots=True)
class Twins:
    """The held-out prompts, and those of them whose template is in training too."""

    held_out: int  # prompts
    twins: tuple[str, ...]  # of these, those with a near-twin in training
    templates: int  # different templates of all prompts
    prompts: int
    shared: tuple[tuple[str, int], ...]  # templates of the twins, with their prompts, most first


def twins_of(training: Iterable[str], held_out: Iterable[str]) -> Twins:
    """The held-out prompts with a near-twin in training. No prompt is in both."""
    trained, held = set(training), set(held_out)
    ordered = sorted(held)
    templates = templates_of([*trained, *ordered])
    sizes = Counter(templates)
    known = {*templates[: len(trained)]}
    of_held = dict(zip(ordered, templates[len(trained) :], strict=True))
    twins = tuple(prompt for prompt, template in of_held.items() if template in known)
    shared = {of_held[prompt] for prompt in twins}
    largest = sorted(((template, sizes[template]) for template in shared), key=_most_first)
    return Twins(len(held), twins, len(sizes), len(trained) + len(held), tuple(largest))


def _most_first(sized: tuple[str, int]) -> tuple[int, str]:
    template, size = sized
    return -size, template
