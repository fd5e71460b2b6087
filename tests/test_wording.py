import math

import pytest

from lora_lab import wording


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.005, "0 %"), (0.58, "58 %"), (1, "100 %")]
)
def test_a_percentage_is_whole(share, text):
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0091, "0.91 %"), (0.0699, "7.0 %"), (0.0996, "10 %"), (0.54, "54 %"), (1, "100 %")],
)
def test_a_small_percentage_keeps_two_digits(share, text):
    assert wording.fine_percent(share) == text


def test_a_range_names_the_unit_once():
    assert wording.percent_range(0.5, 0.651) == "50 to 65 %"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (8.6512, "8.65"),
        (131.4, "131"),
        (1520.4, "1,520"),
        (4_194_304, "4,194,304"),
        (0.06218, "0.0622"),
        (0.5, "0.5"),
        (100, "100"),
        (-0.0, "0"),
        (-2.345, "-2.35"),
        (math.nan, "nan"),
    ],
)
def test_a_number_has_three_significant_digits_or_its_whole_part(number, text):
    assert wording.significant(number) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 steps"), (1, "1 step"), (50, "50 steps"), (1000, "1,000 steps")]
)
def test_a_count_agrees_with_its_noun(count, text):
    assert wording.counted(count, "step") == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(980, "980"), (62_400, "62.4 K"), (135_000_000, "135 M"), (1_240_000_000, "1.2 G")],
)
def test_a_large_count_is_said_in_short(count, text):
    assert wording.in_short(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (24.4 * 2**20, "24 MiB"),
        (2**30 - 1, "1,024 MiB"),
        (1.26 * 2**30, "1.3 GiB"),
        (1200 * 2**30, "1,200.0 GiB"),
        (0, "0 MiB"),
    ],
)
def test_memory_is_counted_in_powers_of_two(count, text):
    assert wording.memory_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (0.42, "0.4 s"),
        (9.6, "10 s"),
        (99, "99 s"),
        (700, "12 min"),
        (11200, "3.1 h"),
    ],
)
def test_a_time_is_said_in_its_largest_unit(seconds, text):
    assert wording.duration(seconds) == text
