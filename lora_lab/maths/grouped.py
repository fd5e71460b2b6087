"""Intervals where questions come in groups: 58 questions of 17 templates are not 58 questions."""

import math
from collections.abc import Sequence

from scipy.special import stdtrit  # the quantile of Student's t

from lora_lab.maths.statistics import LEVEL, NORMAL_95, PairedAnswers, wilson


def ratio_error(hits: Sequence[float], totals: Sequence[float]) -> float:
    """The standard error of the share Σ hits / Σ totals, if groups are drawn by chance.

    A group that is easier than others has all of its questions right together. So the groups vary
    by chance, not the questions. With n groups and the share p, the error is

        √(n / (n - 1) · Σ (hits - p · totals)²) / Σ totals

    With groups of equal size, this is the standard error of the mean of the groups' shares.

    Args:
        hits: of each group: its right answers, say; two groups or more.
        totals: of each group: its questions.

    Source:
        Cochran, 1977, "Sampling Techniques", chapter 6 (ratio estimators).
    """
    n, total = len(hits), sum(totals)
    if n < 2:
        raise ValueError("one group shows no spread between groups; give two or more")
    share = sum(hits) / total
    squares = sum((own - share * size) ** 2 for own, size in zip(hits, totals, strict=True))
    return math.sqrt(n / (n - 1) * squares) / total


def grouped_interval(hits: Sequence[float], totals: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a share of right answers whose questions come in groups.

    It is Wilson's interval for as many independent questions as would have the same error:
    p (1 - p) / error². That number is at most Σ totals, and less by (z / t)² for few groups, with
    t of n - 1 degrees of freedom. Where every answer is right, or none, nothing shows how alike a
    group's questions are: then each group counts as one question.

    Args:
        hits: as in `ratio_error`.
        totals: as in `ratio_error`.

    Source:
        Dean and Pagano, 2015, "Evaluating confidence interval methods for binomial proportions in
        clustered surveys": the modified Wilson interval. Kish, 1965: the effective sample size.
    """
    share, worth = sum(hits) / sum(totals), independent_questions(hits, totals)
    return wilson(share * worth, worth)


def independent_questions(hits: Sequence[float], totals: Sequence[float]) -> float:
    """How many independent questions would be as exact as these groups: see `grouped_interval`.

    Args:
        hits: as in `ratio_error`.
        totals: as in `ratio_error`.
    """
    error, share = ratio_error(hits, totals), sum(hits) / sum(totals)
    if share in (0, 1):
        return len(hits)
    worth = min(share * (1 - share) / error**2, sum(totals)) if error else sum(totals)
    return worth * (NORMAL_95 / stdtrit(len(hits) - 1, 1 - LEVEL / 2)) ** 2


def grouped_difference(
    a: Sequence[float], b: Sequence[float], totals: Sequence[float]
) -> tuple[float, float]:
    """The 95 % interval of the share of b minus that of a, on the same questions in groups.

    It is difference ± t · error, with `ratio_error` of each group's b - a. Where all groups gain
    alike, that has no width: then each group counts as one question, in `PairedAnswers`.

    Args:
        a: the right answers of a in each group; two groups or more.
        b: those of b in the same groups.
        totals: of each group: its questions.
    """
    gains = [right - left for left, right in zip(a, b, strict=True)]
    error, difference, n = ratio_error(gains, totals), sum(gains) / sum(totals), len(gains)
    if error == 0:
        won, lost = (round(n * max(0.0, share)) for share in (difference, -difference))
        return PairedAnswers(items=n, both=0, only_a=lost, only_b=won).interval
    half = stdtrit(n - 1, 1 - LEVEL / 2) * error
    return float(max(-1.0, difference - half)), float(min(1.0, difference + half))
