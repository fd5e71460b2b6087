"""Two models' answers to the same questions: how large is the difference, and is it chance?"""

import math
from dataclasses import dataclass

from lora_lab.records import Scores

NORMAL_95 = 1.96  # standard errors to each side that hold 95 % of a normal distribution


def standard_error(share: float, items: int) -> float:
    """How far a share of right answers strays, from one test set of `items` to another.

    The standard deviation of a mean of independent yes-or-no answers: √(p (1 - p) / n), 0 to 0.5.
    """
    return math.sqrt(share * (1 - share) / items)


def wilson(right: int, count: int) -> tuple[float, float]:
    """From where to where the true share may lie, with 95 % confidence, after a test.

    Unlike share ± 1.96 standard errors it never leaves 0 to 1, and it has a width at 0 of 20 too.

    Args:
        right: of `count` independent questions.
        count: 1 or more.

    Raises:
        ValueError: if right is not between 0 and count, or there was no question.

    Source:
        Wilson, 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if count < 1 or not 0 <= right <= count:
        raise ValueError(
            f"{right} right of {count} cannot be; give 1 question or more, and 0 to that many right"
        )
    share, z2 = right / count, NORMAL_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(share * (1 - share) * z2 / count + (z2 / (2 * count)) ** 2) / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models a and b, asked the same questions. Shares lie between -1 and 1."""

    items: int
    both: int  # questions that both got right
    only_a: int
    only_b: int

    @property
    def difference(self) -> float:
        """The share that b got right, less a's."""
        return (self.only_b - self.only_a) / self.items

    @property
    def margin(self) -> float:
        """Half of the paired 95 % interval: 1.96 standard errors of b - a, item by item.

        b - a is 1, 0 or -1, so the squares sum up to the number of items that differ.
        """
        squares = self.only_a + self.only_b - self.items * self.difference**2
        return NORMAL_95 * math.sqrt(squares / (self.items - 1) / self.items)

    @property
    def unpaired_margin(self) -> float:
        """What the margin would be if each model had been asked questions of its own."""
        shares = [(self.both + alone) / self.items for alone in (self.only_a, self.only_b)]
        return NORMAL_95 * math.hypot(*(standard_error(one, self.items) for one in shares))

    @property
    def p_value(self) -> float:
        """How often chance alone, equal models, gives a difference as large as this or larger.

        Only items that one of the two got right can tell: for equal models, each is a coin's toss.

        Source:
            McNemar, 1947; in its exact form, the sign test.
        """
        tosses, fewer = self.only_a + self.only_b, min(self.only_a, self.only_b)
        tail = sum(math.comb(tosses, heads) for heads in range(fewer + 1)) / 2**tosses
        return min(1.0, 2 * tail)

    @property
    def verdict(self) -> str:
        """Of these two models on such questions: "real", if p is below 0.05, else "cannot tell"."""
        return "real" if self.p_value < 0.05 else "cannot tell"


def compare(a: Scores, b: Scores) -> Comparison:
    """Pair two models' answers, question by question.

    Raises:
        ValueError: if there are no answers, or they are not to the same questions.
    """
    asked = [[(one.prompt, one.expected) for one in scores.answers] for scores in (a, b)]
    if len(asked[0]) < 2 or asked[0] != asked[1]:
        raise ValueError(
            f"a holds {len(asked[0])} answers, b {len(asked[1])}, and they are not two or more to "
            "the same questions in the same order; give the scores of evaluate on one split of one "
            "task (recorded runs hold no answers)"
        )
    pairs = [(one.right, other.right) for one, other in zip(a.answers, b.answers, strict=True)]
    return Comparison(
        items=len(pairs),
        both=pairs.count((True, True)),
        only_a=pairs.count((True, False)),
        only_b=pairs.count((False, True)),
    )
