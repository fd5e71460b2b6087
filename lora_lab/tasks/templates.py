"""Prompts by template: near-twins differ only in numbers, quoted words or names."""

import re
from collections.abc import Iterable, Sequence

GAP = "_"  # stands for what was masked; a sign of ASCII, since other text is slower to handle
CAPITAL = "A-ZÀ-ÖØ-ÞΑ-ΩА-Я"
# Both patterns begin with the set of characters that may begin a match. Only after such a character
# is the rest tried, which is four times as fast.
INSIDE = re.compile(rf"[{CAPITAL}](?<=[a-zß-öø-ÿα-ωа-я,;] .)\w+")  # capitalised in a sentence
PARTS = re.compile(
    rf"""["“„«‘`'\d{CAPITAL}](?:"""
    r"""(?<=")[^"\n]{1,200}"|(?<=“)[^”\n]{1,200}”|(?<=„)[^“”\n]{1,200}[“”]"""  # quoted
    r"""|(?<=«)[^»\n]{1,200}»|(?<=‘)[^’\n]{1,200}’|(?<=`)[^`\n]{1,200}`|(?<=')(?<!\w')[^'\n]{1,200}'(?!\w)"""
    r"""|(?<=\d)[\w.,:/%-]*"""  # numbers, dates, times
    rf"""|(?<=[{CAPITAL}])(?<!\w.)\w*(?:[ '’-](?:[{CAPITAL}]|\d)\w*)*)"""  # names, codes
)
ADDRESS = re.compile(r"(?<!\S)[^\s@]+@\S+")
GAPS = re.compile(rf"{GAP}(?: {GAP})+")
MARKS = str.maketrans(dict.fromkeys(".,;:?!()", " "))
FIRST = re.compile(r"\w+")
LETTER = re.compile(r"[^\W\d_]")


def templates_of(prompts: Sequence[str]) -> list[str]:
    """Each prompt in small letters, with gaps for its numbers, quoted words and names.

    Prompts of one template differ only in these. A capitalised word that begins a sentence is a
    name only if some prompt capitalises it within a sentence. A prompt in capitals has no names.
    A prompt without letters beside its gaps is its own template.
    """
    names = set().union(*map(_names_in, prompts))
    return [_template_of(prompt, names) for prompt in prompts]


def _names_in(prompt: str) -> Iterable[str]:
    """The words that are capitalised within a sentence."""
    return () if prompt.isupper() else INSIDE.findall(prompt)


def _template_of(text: str, names: set[str]) -> str:
    shouted = text.isupper()

    def masked(match: re.Match) -> str:
        found = match[0]
        if not found[0].isupper():
            return GAP
        first = FIRST.match(found)[0]
        if first == "I" or (shouted and first.isalpha()):
            return found
        start = match.start()
        before = text[:start].rstrip(" \"'“(")[-1:] if start else ""
        if first in names or (before and before not in ".?!:\n"):
            return GAP
        return first if first == found else f"{first} {GAP}"

    if "@" in text:
        text = ADDRESS.sub(GAP, text)
    words = PARTS.sub(masked, text).translate(MARKS).casefold().split()
    template = GAPS.sub(GAP, " ".join(words))
    return template if LETTER.search(template) else text
