"""Comparison of two settings by their seeds, or of two models by their answers; its verdict."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lora_lab.maths.looks import LOOKS, next_look
from lora_lab.maths.measures import LOWER_IS_BETTER, checked_margin
from lora_lab.maths.statistics import (
    LEVEL,
    PairedAnswers,
    mean_interval,
    mean_p_value,
    numbers_needed,
)
from lora_lab.wording import counted

SEEDS = 5  # below, the spread between seeds is too uncertain for a verdict
MANY = 1000  # seeds: of a higher number, the verdict only says that it is higher
BETTER, WORSE, ALIKE, UNSETTLED = "better", "worse", "no difference", "not settled"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison:
    """Setting b compared with setting a. Its verdict says whether b is better, and by how much.

    Numbers are in the measure's own unit: shares lie between 0 and 1, losses are in nats.
    """

    measure: str  # the metric's name, "loss", "old_knowledge" or "strangers"
    difference: float  # b - a: the mean over the pairs
    low: float  # the interval of the true difference
    high: float
    pairs: int  # seeds, or questions
    p_value: float  # how often equal settings differ as much by chance, or more
    margin: float | None  # the smallest difference that matters; None: none is known
    level: float = LEVEL  # how often the interval misses the true difference
    look: int | None = None  # of the plan with several looks, from 1; None: one look only
    answers: PairedAnswers | None = None  # paired by question; None: paired by seed
    deviation: float = 0.0  # the standard deviation of the differences between seeds
    a: str = "a"  # names, for the words
    b: str = "b"

    @property
    def result(self) -> str:
        """ "better", "worse", "no difference" or "not settled": what is known of b beside a.

        better, worse: 0 lies outside the interval. no difference: the whole interval lies within
        the margin on both sides. not settled: the rest, and fewer than five seeds.
        """
        return UNSETTLED if self._few else self._by_interval

    @property
    def verdict(self) -> str:
        """The result in words: `b is better by 3.1 points (1.2 to 5.0; 10 seeds)`.

        Positive numbers say that b is better, of a loss as well.
        """
        low, high = self._gains
        if self.result == WORSE:
            low, high = -high, -low
        size, *ends = (self._number(value) for value in (abs(self.difference), low, high))
        count = counted(self.pairs, "question" if self.answers else "seed")
        count += f", look {self.look} of {len(LOOKS)}" if self.look else ""
        count += ", all alike" if low == high else ""
        if self.result == UNSETTLED:
            return f"not settled: {self.interval} after {count}{self._more_text()}"
        known = f"{self.b} is {self.result} by {size}{self._unit}"
        if self.result == ALIKE:
            known = f"no difference above {self._margin_text}"
        return f"{known} ({' to '.join(ends)}; {count})"

    @property
    def interval(self) -> str:
        """The interval in words, with positive numbers where b is better: `−3 to 8 points`."""
        return " to ".join(map(self._number, self._gains)) + self._unit

    @property
    def seeds_to_settle(self) -> int | None:
        """How many more seeds make the interval no wider than the margin, if the spread stays.

        With fewer than five seeds, the number brings them at least to five. None: the result is
        settled, the pairs are questions, or there is no margin.
        """
        if self.result != UNSETTLED or self.answers or self.margin is None:
            return None
        if self._by_interval != UNSETTLED:
            return SEEDS - self.pairs
        needed = numbers_needed(self.deviation, self.margin, self.level)
        return max(1, max(SEEDS, needed) - self.pairs)

    @property
    def method(self) -> str:
        """What was paired, the interval, the test, and how often they err."""
        share = f"{100 * (1 - self.level):.4g} %"
        if self.answers:
            return (
                f"Paired by question: two models are compared, not two settings. {share} interval "
                "by Tango's score test, and McNemar's exact test."
            )
        looks = (
            f" The plan looks after {', '.join(map(str, LOOKS))} seeds; all looks together call "
            f"equal settings different in {100 * LEVEL:g} % of cases."
        ) * bool(self.look)
        return f"Paired by seed; {share} interval of the mean difference by Student's t.{looks}"

    def __repr__(self) -> str:
        """`b against a, accuracy: b is better by …`, and the method."""
        return f"{self.b} against {self.a}, {self.measure}: {self.verdict}\n{self.method}"

    @property
    def _few(self) -> bool:
        return self.answers is None and self.pairs < SEEDS

    @property
    def _by_interval(self) -> str:
        """The result, however few the seeds are."""
        low, high = self._gains
        if low > 0 or high < 0:
            return BETTER if low > 0 else WORSE
        within = self.margin is not None and max(-low, high) <= self.margin
        return ALIKE if within else UNSETTLED

    @property
    def _gains(self) -> tuple[float, float]:
        """The interval, with positive numbers where b is better."""
        return (-self.high, -self.low) if self.measure in LOWER_IS_BETTER else (self.low, self.high)

    @property
    def _unit(self) -> str:
        return LOWER_IS_BETTER.get(self.measure, " points")

    @property
    def _scale(self) -> float:
        return 1 if self.measure in LOWER_IS_BETTER else 100

    @property
    def _margin_text(self) -> str:
        return f"{self._scale * self.margin:.4g}{self._unit}"

    def _number(self, value: float) -> str:
        """A number with the decimals that give the interval's width two digits: `−0.8`, `8`."""
        width = self._scale * (self.high - self.low)
        decimals = max(0, 1 - math.floor(math.log10(width))) if width else 1
        for more in (decimals + 1, decimals + 2):  # an end that is not 0 should not look like 0
            if any(
                0 < self._scale * abs(end) < 0.5 / 10**decimals for end in (self.low, self.high)
            ):
                decimals = more
        text = f"{self._scale * value:.{decimals}f}"
        return text.replace("-", "−") if float(text) else text.lstrip("-")

    def _more_text(self) -> str:
        """What would settle it: the plan's next look, or a number of seeds."""
        few = f"; a verdict takes {SEEDS} seeds" if self._few else ""
        if self.look and (seeds := next_look(self.pairs)):
            return f"{few}; the plan looks again after {seeds}"
        more = self.seeds_to_settle
        if more and self.pairs + more > SEEDS:
            about = f"about {more:,}" if more <= MANY else f"over {MANY:,}"
            few += f"; {about} more would settle a difference of {self._margin_text}"
        return few


def comparison_of(
    differences: Sequence[float], *, measure: str, margin: float | None = None, level: float = LEVEL
) -> Comparison:
    """The comparison of two settings by the differences b - a, one for each seed.

    Args:
        differences: two or more, in the measure's unit.
        measure: as in Comparison, and so is the level.
        margin: the smallest difference that matters; None: 2 points of a share, none of a loss.
        level: 0 to 1.
    """
    differences = [round(difference, 12) for difference in differences]  # 0.3 - 0.1 is 0.2
    low, high = mean_interval(differences, level)
    return Comparison(
        measure=measure,
        difference=statistics.fmean(differences),
        low=low,
        high=high,
        pairs=len(differences),
        p_value=mean_p_value(differences),
        margin=checked_margin(measure, margin),
        level=level,
        deviation=statistics.stdev(differences),
    )
