"""Statistics of a test: how exact a share of right answers is, and whether two models differ."""

import math
from dataclasses import dataclass

from lora_lab.records import Scores

NORMAL_95 = 1.96  # standard errors to each side that hold 95 % of a normal distribution


def standard_error(share: float, items: int) -> float:
    """The standard error of a share of right answers: how much it varies between test sets.

    Each test set has `items` independent questions, each answered right or wrong. The standard
    deviation of their mean is √(p (1 - p) / n): 0 to 0.5.
    """
    return math.sqrt(share * (1 - share) / items)


def wilson(right: int, count: int) -> tuple[float, float]:
    """The lower and the upper end of the 95 % interval of the true share, after a test.

    With p = right / n and z = 1.96, the ends are

        (p + z² / 2n ± z √(p (1 - p) / n + z² / 4n²)) / (1 + z² / n)

    Unlike p ± 1.96 standard errors, the interval never leaves 0 to 1. It also has a width where no
    answer is right, or every answer is.

    Args:
        right: how many of `count` independent questions were answered right.
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
    """The answers of models a and b to the same questions, counted. Shares lie between -1 and 1."""

    items: int  # questions
    both: int  # questions that both models got right
    only_a: int  # questions that a alone got right
    only_b: int

    @property
    def difference(self) -> float:
        """The share that b got right minus the share that a got right."""
        return (self.only_b - self.only_a) / self.items

    @property
    def margin(self) -> float:
        """Half of the paired 95 % interval: 1.96 standard errors of the mean of b - a.

        On each item b - a is 1, 0 or -1. So their squares add up to the number of items on which
        the models differ, and the sum of squares about the mean d is that number - n d².
        """
        squares = self.only_a + self.only_b - self.items * self.difference**2
        return NORMAL_95 * math.sqrt(squares / (self.items - 1) / self.items)

    @property
    def unpaired_margin(self) -> float:
        """The margin if each model had answered a test set of its own, with as many questions."""
        shares = [(self.both + alone) / self.items for alone in (self.only_a, self.only_b)]
        return NORMAL_95 * math.hypot(*(standard_error(share, self.items) for share in shares))

    @property
    def p_value(self) -> float:
        """How often two equally good models differ by chance as much as these two, or more.

        Questions that both models get right, or both get wrong, cannot separate them. Only the
        questions where they differ can. For equal models each of these is the toss of a fair coin.
        With m tosses, of which the worse model wins k, p is twice the chance of k wins or fewer:

            p = 2 Σ C(m, i) / 2^m over i = 0 ... k, and 1 at most

        Source:
            McNemar, 1947; this exact form is the sign test.
        """
        tosses, fewer = self.only_a + self.only_b, min(self.only_a, self.only_b)
        tail = sum(math.comb(tosses, heads) for heads in range(fewer + 1)) / 2**tosses
        return min(1.0, 2 * tail)

    @property
    def verdict(self) -> str:
        """Whether the models differ on such questions: "real" if p < 0.05, else "cannot tell"."""
        return "real" if self.p_value < 0.05 else "cannot tell"


def compare(a: Scores, b: Scores) -> Comparison:
    """The comparison of two models' answers, paired question by question.

    Raises:
        ValueError: if there are no answers, or they are not to the same questions.
    """
    questions = [
        [(answer.prompt, answer.expected) for answer in scores.answers] for scores in (a, b)
    ]
    if len(questions[0]) < 2 or questions[0] != questions[1]:
        raise ValueError(
            f"a holds {len(a.answers)} answers, b {len(b.answers)}, and they are not two or more "
            "to the same questions in the same order; give the scores of evaluate on one split of "
            "one task (recorded runs hold no answers)"
        )
    answer_pairs = zip(a.answers, b.answers, strict=True)
    pairs = [(answer_a.right, answer_b.right) for answer_a, answer_b in answer_pairs]
    return Comparison(
        items=len(pairs),
        both=pairs.count((True, True)),
        only_a=pairs.count((True, False)),
        only_b=pairs.count((False, True)),
    )
