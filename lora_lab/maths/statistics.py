"""Statistics: how exact a share of right answers is, and whether two models or settings differ."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtri, stdtr, stdtrit  # quantile; Student's t: share below, quantile

NORMAL_95 = 1.96  # standard errors to each side that hold 95 % of a normal distribution
LEVEL = 0.05  # how often equal settings may be called different


def standard_error(share: float, items: int) -> float:
    """The standard error of a share of right answers: how much it varies between test sets.

    Each test set has `items` independent questions, each answered right or wrong. The standard
    deviation of their mean is √(p (1 - p) / n): 0 to 0.5.
    """
    return math.sqrt(share * (1 - share) / items)


def wilson(right: float, count: float) -> tuple[float, float]:
    """The lower and the upper end of the 95 % interval of the true share, after a test.

    With p = right / n and z = 1.96, the ends are

        (p + z² / 2n ± z √(p (1 - p) / n + z² / 4n²)) / (1 + z² / n)

    Unlike p ± 1.96 standard errors, the interval never leaves 0 to 1. It also has a width where no
    answer is right, or every answer is.

    Args:
        right: how many of `count` independent questions were answered right.
        count: above 0. Both may be fractions, as `grouped` needs for questions in groups.

    Raises:
        ValueError: if right is not between 0 and count, or there was no question.

    Source:
        Wilson, 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if count <= 0 or not 0 <= right <= count:
        raise ValueError(
            f"{right} right of {count} cannot be; give 1 question or more, and 0 to that many right"
        )
    share, z2 = right / count, NORMAL_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(share * (1 - share) * z2 / count + (z2 / (2 * count)) ** 2) / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class PairedAnswers:
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
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the true difference: what a score test does not reject.

        Where the exact test (`p_value`) does not reject 0, it is widened to hold 0.

        Source:
            Tango, 1998, "Equivalence test and confidence interval for the difference in
            proportions for the paired-sample design".
        """
        low, high = self._end(-1.0), self._end(1.0)
        return (low, high) if self.p_value < LEVEL else (min(low, 0.0), max(high, 0.0))

    def _end(self, outside: float) -> float:
        """The end of the score interval towards `outside`, by bisection."""
        inside = self.difference
        for _ in range(50):
            middle = (inside + outside) / 2
            if abs(self.difference - middle) > NORMAL_95 * self._standard_error(middle):
                outside = middle
            else:
                inside = middle
        return inside

    def _standard_error(self, true: float) -> float:
        """The standard error of the difference, if `true` were the true difference."""
        half = ((self.only_a + self.only_b) / self.items - (2 - self.difference) * true) / 4
        # the likeliest share of questions that a alone gets right
        share = half + math.sqrt(half**2 + self.only_a / self.items * true * (1 - true) / 2)
        return math.sqrt(max(0.0, 2 * share + true * (1 - true)) / self.items)

    @property
    def unpaired_margin(self) -> float:
        """Half of the 95 % interval if each model had answered as many questions of its own."""
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


def mean_interval(numbers: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The interval of the true mean, by Student's t: mean ± t · s / √n.

    s is the standard deviation with n - 1, and t the quantile of n - 1 degrees of freedom. Of
    paired differences, this is the interval of the paired t-test. Numbers that are all equal have
    an interval of width 0: no spread was seen, which is not to say that there is none.

    Args:
        numbers: two or more, one for each seed; normally distributed, as t supposes.
        level: how often the interval misses the true mean, 0 to 1.

    Source:
        Student, 1908, "The probable error of a mean".
    """
    n, mean = len(numbers), statistics.fmean(numbers)
    half = stdtrit(n - 1, 1 - level / 2) * statistics.stdev(numbers) / math.sqrt(n)
    return float(mean - half), float(mean + half)


def separate_interval(
    a: Sequence[float], b: Sequence[float], level: float = LEVEL
) -> tuple[float, float]:
    """The interval of the true mean(b) - mean(a), by Student's t for two separate groups.

    The numbers of a and b are not paired, and both groups are taken as equally spread.

    Args:
        a: two numbers or more.
        b: two numbers or more.
        level: how often the interval misses the true difference, 0 to 1.
    """
    n, mean = len(a), statistics.fmean(b) - statistics.fmean(a)
    error = math.sqrt((statistics.variance(a) + statistics.variance(b)) / n)
    half = stdtrit(2 * n - 2, 1 - level / 2) * error
    return float(mean - half), float(mean + half)


def mean_p_value(numbers: Sequence[float]) -> float:
    """How often a mean as far from 0 as this one comes by chance, if the true mean is 0.

    It is below a level exactly where `mean_interval` at that level does not contain 0.
    """
    mean, deviation = statistics.fmean(numbers), statistics.stdev(numbers)
    if deviation == 0:
        return 0.0 if mean else 1.0
    return float(2 * stdtr(len(numbers) - 1, -abs(mean) * math.sqrt(len(numbers)) / deviation))


def numbers_needed(deviation: float, width: float, level: float = LEVEL) -> int:
    """How many numbers make `mean_interval` no wider than `width`, if the spread stays.

    An interval no wider than the margin can't contain both 0 and a difference above the margin, so
    it settles the result.

    Args:
        deviation: the standard deviation of the numbers so far.
        width: above 0, in the same unit.
        level: as in `mean_interval`.

    Source:
        Kelley and Rausch, 2006, "Sample size planning for the standardized mean difference".
    """
    normal = 2 * ndtri(1 - level / 2) * deviation / width
    n = max(2, math.floor(normal**2))  # t needs a few more
    while 2 * stdtrit(n - 1, 1 - level / 2) * deviation / math.sqrt(n) > width:
        n += 1
    return n
