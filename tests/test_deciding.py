"""The decision aid's rule: each branch, what would change it, and bad input."""

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import pytest

import lora_lab as lab
from lora_lab.findings.evidence import Evidence
from lora_lab.lessons import deciding
from lora_lab.lessons.deciding import GOALS, Situation, advise, break_even
from lora_lab.maths.statistics import wilson

MISSES = {"prompt_right": 30, "prompt_asked": 100}  # 22 to 40 %
REACHES = {"prompt_right": 99, "prompt_asked": 100}  # 95 to 100 %
TUNED_WORSE = {"lora_right": 20, "lora_asked": 100}
TUNED_BETTER = {"lora_right": 45, "lora_asked": 100}
TUNED_ENOUGH = {"lora_right": 99, "lora_asked": 100}
BUSY = {"answers_per_day": 10_000, "tokens_saved": 130, "price": 1, "setup_cost": 100}


@pytest.mark.parametrize(
    ("facts", "recommendation"),
    [
        ({"goal": "style"}, deciding.MEASURE),
        ({"goal": "style", "prompt_right": 9, "prompt_asked": 10}, deciding.MEASURE),
        ({"goal": "style", "examples": 300} | REACHES, deciding.PROMPT),
        ({"goal": "style", "examples": 300} | MISSES, deciding.LORA),
        ({"goal": "style", "examples": 99} | MISSES, deciding.COLLECT),
        ({"goal": "style", "examples": 300, "changes_per_year": 12} | MISSES, deciding.PROMPT),
        (
            {"goal": "style", "examples": 300, "changes_per_year": 12, "days_to_renew": 1} | MISSES,
            deciding.LORA,
        ),
        ({"goal": "general", "examples": 5000} | MISSES, deciding.STRONGER),
        ({"goal": "facts", "examples": 5000} | MISSES, deciding.RETRIEVAL),
        (
            {"goal": "facts", "retrieval_right": 99, "retrieval_asked": 100} | MISSES,
            deciding.RETRIEVAL,
        ),
        (
            {"goal": "facts", "examples": 300, "retrieval_right": 50, "retrieval_asked": 100}
            | MISSES,
            deciding.LORA,
        ),
        ({"goal": "format", "examples": 300} | REACHES | BUSY, deciding.LORA),
        ({"goal": "format", "examples": 300} | MISSES | TUNED_WORSE, deciding.PROMPT),
        ({"goal": "format", "examples": 300} | MISSES | TUNED_BETTER, deciding.LORA),
        ({"goal": "format", "examples": 300} | MISSES | TUNED_ENOUGH, deciding.LORA),
        ({"goal": "format", "examples": 300} | REACHES | BUSY | TUNED_WORSE, deciding.PROMPT),
        ({"goal": "format", "examples": 50} | MISSES | TUNED_WORSE, deciding.COLLECT),
        ({"goal": "format", "examples": 300, "changes_per_year": 12} | MISSES | TUNED_BETTER,
         deciding.LORA),  # 45 % of the answers, for 77 % of the year, are more than 30 %
        ({"goal": "format", "examples": 300, "changes_per_year": 24} | MISSES | TUNED_BETTER,
         deciding.PROMPT),
        ({"goal": "style", "changes_per_year": 12, "retrieval_right": 50, "retrieval_asked": 100}
         | MISSES, deciding.RETRIEVAL),
        ({"goal": "facts", "examples": 300} | REACHES | BUSY, deciding.PROMPT),
        ({"goal": "format", "examples": 50} | REACHES | BUSY, deciding.PROMPT),
        ({"goal": "format", "examples": 300, "changes_per_year": 5} | REACHES | BUSY,
         deciding.PROMPT),
    ],
)  # fmt: skip
def test_the_rule_recommends_what_its_words_say(facts, recommendation):
    assert advise(Situation(**facts)).recommendation == recommendation


@pytest.mark.parametrize("goal", GOALS)
def test_what_measured_worse_is_never_recommended(goal):
    ways = {deciding.PROMPT: "prompt", deciding.RETRIEVAL: "retrieval", deciding.LORA: "lora"}
    for counts in itertools.product((20, 60, 97), repeat=3):
        right = dict(zip(ways.values(), counts, strict=True))
        facts = {f"{way}_right": count for way, count in right.items()}
        facts |= {f"{way}_asked": 100 for way in right}
        for changes in (0, 12):
            situation = Situation(
                goal=goal, examples=300, changes_per_year=changes, **facts, **BUSY
            )
            chosen = advise(situation).recommendation
            others = [count for way, count in right.items() if way != "lora" or not changes]
            if chosen in ways:
                assert right[ways[chosen]] >= max(others)


@pytest.mark.parametrize("goal", GOALS)
def test_what_is_said_to_change_the_recommendation_does_and_the_value_before_it_does_not(goal):
    now = Situation(goal=goal, examples=240, changes_per_year=1, **MISSES, **BUSY)
    advice = advise(now)
    assert advice.changes
    for change in advice.changes:
        other = dataclasses.replace(now, **{change.field: change.value})
        assert advise(other).recommendation == change.recommendation != advice.recommendation
        start = getattr(now, change.field)
        between = [
            value
            for value in deciding._values_of(now, change.field)
            if min(start, change.value) < value < max(start, change.value)
        ]
        for value in between:
            nearer = dataclasses.replace(now, **{change.field: value})
            assert advise(nearer).recommendation == advice.recommendation


def test_the_lessons_nine_reasons_are_weighed_five_for_and_four_against():
    reasons = advise(Situation(goal="style", examples=999, **MISSES)).reasons
    assert [reason.speaks_for for reason in reasons] == [True] * 5 + [False] * 4
    applies = {reason.reason: reason.applies for reason in reasons}
    assert [reason for reason, yes in applies.items() if yes] == [
        "a consistent style or tone",
        "prompting does not reach what you need",
        "fewer than 1,000 good examples",
    ]


def test_what_nobody_measured_is_no_reason_either_way():
    reasons = advise(Situation(goal="style")).reasons
    assert [reason.reason for reason in reasons if reason.applies is None] == [
        "prompting does not reach what you need",
        "a prompt or retrieval does it",
    ]


def test_the_interval_of_ones_own_test_is_told():
    low, high = wilson(30, 100)
    assert f"{100 * low:.0f} to {100 * high:.0f} %" in advise(Situation(goal="style", **MISSES)).why


def test_costs_are_paid_back_by_hand():
    """130 tokens at 1 a million, 10,000 times a day, are 1.3 a day: 100 take 76.9 days."""
    assert break_even(100, 130 / 1e6) == pytest.approx(100 / 0.00013)
    assert Situation(goal="style", **BUSY).pays_back_after == pytest.approx(100 / 1.3)
    assert break_even(100, 0) == break_even(100, -1) == math.inf
    assert Situation(goal="style").pays_back_after == math.inf


def test_the_share_of_a_stale_year_by_hand():
    assert Situation(goal="style", changes_per_year=12, days_to_renew=7).stale == 12 * 7 / 365
    assert Situation(goal="style", changes_per_year=365, days_to_renew=7).stale == 1


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"goal": "fromat"}, "goal='fromat' is not known; did you mean 'format'"),
        ({"needed": 90}, "needed=90 is not a share of answers; give one above 0 and up to 1"),
        ({"needed": 0}, "needed=0 is not a share of answers"),
        ({"examples": -1}, "examples=-1 cannot be; give 0 or more"),
        ({"examples": "lots"}, "examples='lots' is not a whole number; give one"),
        ({"examples": 1.5}, "examples=1.5 is not a whole number"),
        ({"price": True}, "price=True is not a number"),
        ({"price": math.nan}, "price=nan cannot be"),
        ({"price": math.inf}, "price=inf cannot be"),
        ({"prompt_right": 3}, "prompt_right=3 of prompt_asked=0 cannot be; count again"),
        ({"retrieval_right": 3, "retrieval_asked": 2}, "retrieval_right=3 of retrieval_asked=2"),
    ],
)
def test_what_cannot_be_is_refused_in_words(facts, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Situation(**{"goal": "style"} | facts)


# --- what the course measured, and the rules in the lesson ----------------------------------


def test_counts_of_evidence_are_its_shares_of_all_its_questions():
    found = deciding.measured("ways-sentiment", retrieval="retrieval", lora="LoRA")
    runs = lab.evidence("ways-sentiment").runs
    assert found["lora_asked"] == found["retrieval_asked"] == 10 * 200
    assert found["lora_right"] == round(sum(200 * run.scores.value for run in runs["LoRA"]))
    assert Situation(goal="format", **found).lora_right > found["retrieval_right"]


def test_evidence_that_is_not_measured_has_no_counts(monkeypatch):
    empty = dataclasses.replace(lab.evidence("ways-json"), rows=())
    monkeypatch.setattr(Evidence, "read", lambda id: empty)
    assert deciding.measured("ways-json", lora="LoRA") == {"lora_right": 0, "lora_asked": 0}


STALE_SOON = {"changes_per_year": 12}
TRIED = {"retrieval_right": 20, "retrieval_asked": 100}
BY_ROW = [  # of the lesson's table: situations that stop there
    [{"goal": "style"}],
    [
        {"goal": "style"} | REACHES,
        {"goal": "style", "retrieval_right": 99, "retrieval_asked": 100} | MISSES,
        {"goal": "style"} | MISSES | TUNED_ENOUGH,
    ],
    [{"goal": "format", "examples": 300} | REACHES | BUSY],
    [{"goal": "style", "prompt_right": 9, "prompt_asked": 10}],
    [{"goal": "general"} | MISSES],
    [{"goal": "facts", "examples": 300} | STALE_SOON | MISSES],
    [
        {"goal": "style", "examples": 99} | STALE_SOON | MISSES,
        {"goal": "style", "retrieval_right": 50, "retrieval_asked": 100} | STALE_SOON | MISSES,
    ],
    [{"goal": "style", "examples": 99} | MISSES | TUNED_BETTER],
    [{"goal": "style", "examples": 300, "lora_asked": 100, "prompt_asked": 100}],
    [{"goal": "style", "examples": 300} | MISSES | TUNED_WORSE],
    [
        {"goal": "style", "examples": 300} | MISSES,
        {"goal": "facts", "examples": 300} | TRIED | MISSES,
    ],
]


def test_the_table_of_the_lesson_says_what_the_rule_recommends_row_by_row():
    path = Path(__file__).parents[1] / "notebooks" / "01_should_i_fine_tune.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tables = ("".join(cell["source"]) for cell in cells if "| it says |" in "".join(cell["source"]))
    page = "\n".join(tables)
    row = re.compile(r"^\| [^|]*\|([^|]+)\|([^|]+)\|$", re.MULTILINE)
    rows = [found for found in row.findall(page) if found[1].strip() not in ("it says", "---")]
    assert len(rows) == len(BY_ROW)
    for (applies, says), situations in zip(rows, BY_ROW, strict=True):
        named = set(re.findall(r"\*\*(.+?)\*\*", says))
        recommended = {advise(Situation(**facts)).recommendation for facts in situations}
        assert recommended == named or (not named and "best of all" in says), applies
    assert f"over {100 * deciding.STALE:.0f} % of the year" in page
    assert f"fewer than {deciding.FEW} examples" in page
    assert f"from {deciding.FEW} examples" in page
