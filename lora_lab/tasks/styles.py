"""Styles: a classifier that separates the texts of one style from the texts of another."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_tokens = re.compile(r"\w+(?:'\w+)?|[^\w\s]").findall  # words and marks, as they are written


@dataclass(frozen=True, slots=True)
class Style:
    """A naive Bayes classifier of words and punctuation marks.

    Source:
        McCallum and Nigam, 1998, "A comparison of event models for naive Bayes text
        classification", the multinomial model.
    """

    name: str  # of the metric: the share of answers in this style
    weights: Mapping[str, float]  # of a word or mark: ln(its share in this style / in the other)

    def has(self, text: str) -> bool:
        """Whether a text is more likely in this style than in the other.

        A text without a known word is in neither style.
        """
        return sum(self.weights.get(token, 0.0) for token in _tokens(text)) > 0


def style_between(name: str, texts: Iterable[str], others: Iterable[str]) -> Style:
    """The style of `texts`, as distinct from the style of `others`.

    Both are equally likely beforehand. One is added to each count, so that a word of a single style
    has a finite weight.
    """
    counts, other_counts = (
        Counter(token for text in side for token in _tokens(text)) for side in (texts, others)
    )
    vocabulary = {**counts, **other_counts}
    total, other_total = (side.total() + len(vocabulary) for side in (counts, other_counts))
    return Style(
        name,
        {
            token: math.log((counts[token] + 1) / total)
            - math.log((other_counts[token] + 1) / other_total)
            for token in vocabulary
        },
    )
