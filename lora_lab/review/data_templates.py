"""Prompts by template: two that differ in numbers, quoted words or names alone are near-twins."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

GAP = "…"  # stands for what was masked
CAPITAL = "A-ZÀ-ÖØ-ÞΑ-ΩА-Я"
# Both begin with the set of signs that may begin a match: the rest is tried nowhere else, which
# is four times as fast
INSIDE = re.compile(rf"[{CAPITAL}](?<=[a-zß-öø-ÿα-ωа-я,;] .)\w+")  # capitalised in a sentence
PARTS = re.compile(
    rf"""["“«'\d{CAPITAL}](?:"""
    r"""(?<=")[^"\n]{1,200}"|(?<=“)[^”\n]{1,200}”|(?<=«)[^»\n]{1,200}»"""  # quoted
    r"""|(?<=')(?<!\w')[^'\n]{1,200}'(?!\w)"""
    r"""|(?<=\d)[\w.,:/%-]*"""  # numbers, dates, times
    rf"""|(?<=[{CAPITAL}])(?<!\w.)\w*(?:[ '’-](?:[{CAPITAL}]|\d)\w*)*)"""  # names, codes
)
ADDRESS = re.compile(r"(?<!\S)[^\s@]+@\S+")
GAPS = re.compile(rf"{GAP}(?: {GAP})+")
MARKS = str.maketrans(dict.fromkeys(".,;:?!()", " "))
FIRST = re.compile(r"\w+")
LEAST = 2  # words that a template needs, besides its gaps


def names_in(texts: Iterable[str]) -> set[str]:
    """The words that are capitalised within a sentence somewhere."""
    names: set[str] = set()
    for text in texts:
        names.update(INSIDE.findall(text))
    return names


def template_of(text: str, names: set[str]) -> str:
    """The text with gaps for numbers, quoted words and names, in small letters.

    A capitalised word that begins a sentence is a name only if it is in `names`. A text with hardly
    a word beside its gaps is its own template.
    """

    def masked(match: re.Match) -> str:
        found = match[0]
        if not found[0].isupper():
            return GAP
        first = FIRST.match(found)[0]
        start = match.start()
        before = text[:start].rstrip(" \"'“(")[-1:] if start else ""
        is_name = first in names or (before and before not in ".?!:\n")
        if is_name and first != "I":
            return GAP
        return first if first == found else f"{first} {GAP}"

    if "@" in text:
        text = ADDRESS.sub(GAP, text)
    words = PARTS.sub(masked, text).translate(MARKS).casefold().split()
    if len(words) - words.count(GAP) < LEAST:
        return text
    return GAPS.sub(GAP, " ".join(words))


@dataclass(frozen=True, slots=True)
class Twins:
    """Prompts that are held out, and those of them whose template is in training too."""

    held_out: int  # prompts
    twins: tuple[str, ...]  # of these, those with a near-twin in training
    templates: int  # of all prompts
    prompts: int
    shared: tuple[tuple[str, int], ...]  # templates of the twins, with their prompts, most first


def twins_of(training: Iterable[str], held_out: Iterable[str]) -> Twins:
    """The held-out prompts with a near-twin in training. No prompt is in both."""
    trained, held = set(training), set(held_out)
    names = names_in([*trained, *held])
    sizes: Counter[str] = Counter()
    known = set()
    for prompt in trained:
        template = template_of(prompt, names)
        sizes[template] += 1
        known.add(template)
    of_held = {prompt: template_of(prompt, names) for prompt in sorted(held)}
    sizes.update(of_held.values())
    twins = tuple(prompt for prompt, template in of_held.items() if template in known)
    shared = {of_held[prompt] for prompt in twins}
    largest = sorted(((template, sizes[template]) for template in shared), key=_most_first)
    return Twins(len(held), twins, len(sizes), len(trained) + len(held), tuple(largest))


def _most_first(sized: tuple[str, int]) -> tuple[int, str]:
    template, size = sized
    return -size, template
