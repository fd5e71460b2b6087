"""Wording of numbers: percentages, digits, counts, sizes, times; tables in Markdown.

The command line, the widgets, the plots and the messages write their numbers with these functions.
"""

import math
from collections.abc import Iterable, Sequence


def percent(share: float) -> str:
    """A share of 1 in whole percent: `58 %`."""
    return f"{100 * share:.0f} %"


def fine_percent(share: float) -> str:
    """A share of 1 in percent, with two digits where it is small: `0.91 %`, `7.0 %`, `54 %`."""
    decimals = 0 if share >= 0.0995 else 1 if share >= 0.00995 else 2
    return f"{100 * share:.{decimals}f} %"


def percent_range(low: float, high: float) -> str:
    """Two shares of 1 as a range in whole percent: `50 to 65 %`."""
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def significant(number: float) -> str:
    """A number with three significant digits, and never an exponent: `8.65`, `1,420`, `0.0622`.

    The whole part of a large number is written in full: 1520.4 is `1,520`.
    """
    if number == 0 or not math.isfinite(number):
        return f"{abs(number) if number == 0 else number:g}"  # no "-0"
    decimals = max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def counted(count: float, noun: str) -> str:
    """A count with its noun: `1 step`, `50 steps`, `1,000 steps`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def in_short(count: float) -> str:
    """A count as people say it: `980`, `62.4 K`, `135 M`."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if count >= size:
            return f"{count / size:.{1 if count < 100 * size else 0}f}{unit}"
    return f"{count:.0f}"


def three_digits(number: float) -> str:
    """Three digits, zeros too, and at most four decimals: `4.19`, `80.0`, `1,520`, `0.0622`."""
    number = round(number, 4)
    if number == 0 or math.isnan(number):
        return f"{abs(number):g}"  # no "-0"
    decimals = 2 - math.floor(math.log10(abs(number)))
    return f"{number:,.{min(max(0, decimals), 4)}f}"


def file_size(count: float) -> str:
    """Bytes as file managers say them, in thousands: `40 bytes`, `1.3 KB`, `26.9 MB`, `1.3 GB`."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"


def memory_unit(count: float) -> tuple[str, int]:
    """The unit for so many bytes of memory, and its bytes: GiB, or MiB below 1 GiB."""
    return ("GiB", 2**30) if count >= 2**30 else ("MiB", 2**20)


def memory_size(count: float) -> str:
    """Bytes of memory, in powers of two as programs count it: `24 MiB`, `1.3 GiB`."""
    unit, size = memory_unit(count)
    return f"{count / size:,.{1 if unit == 'GiB' else 0}f} {unit}"


def duration(seconds: float) -> str:
    """A time: `0.4 s`, `40 s`, `12 min`, `3.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, from cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
