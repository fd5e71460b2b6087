"""Notebook 14's exercises: mended rows by pandas, a plan by hand, and answers of other forms."""

import pandas as pd
import pytest

from lora_lab.checks.your_data import mend_rows, plans, rows_to_mend, settings_within


@pytest.mark.parametrize("case", [*rows_to_mend()])
def test_the_mended_rows_are_those_that_pandas_keeps(case):
    table = pd.DataFrame(case["rows"], columns=["prompt", "answer"])
    table = table[~table["answer"].str.lower().isin(case["placeholders"])]
    spellings = table.groupby(table["answer"].str.lower())["answer"]
    table["answer"] = spellings.transform(lambda own: own.value_counts().index[0])
    single = table.groupby("prompt")["answer"].transform("nunique") == 1
    kept = table[single].drop_duplicates()
    assert mend_rows.reference(**case) == [*kept.itertuples(index=False, name=None)]


def test_each_case_has_every_flaw():
    for case in rows_to_mend():
        answers = [answer for _, answer in case["rows"]]
        assert len(set(case["rows"])) < len(case["rows"])
        assert {"", "N/A", "todo"} <= set(answers)
        lower = {answer.lower() for answer in answers}
        assert len(lower) < len(set(answers))
        assert len(mend_rows.reference(**case)) < len(case["rows"]) - 6


def test_the_trial_mends_the_given_file_and_names_what_is_still_odd():
    right = mend_rows.trial(mend_rows.reference)
    assert right.passed
    assert "634 of 647 rows" in right.message
    wrong = mend_rows.trial(lambda rows, placeholders: rows)
    assert not wrong.passed
    assert "still says: 2 prompts have different answers" in wrong.message


def test_pairs_may_be_lists_and_anything_else_is_refused_in_words():
    as_lists = mend_rows(
        lambda rows, placeholders: [[*row] for row in mend_rows.reference(rows, placeholders)]
    )
    assert as_lists.passed
    for function, words in (
        (lambda rows, placeholders: 3, "give a list of pairs"),
        (lambda rows, placeholders: ["abc"], "give a list of pairs"),
        (lambda rows, placeholders: None, "returned None"),
    ):
        verdict = mend_rows(function)
        assert not verdict.passed
        assert words in verdict.message


def test_a_plan_worked_out_by_hand():
    # 3 seeds: 3 × (40 × 0.1 + 2) = 18 s each, 3 × (120 × 0.1 + 2) = 42 s; 18 + 18 + 42 > 60
    assert [settings_within.reference(**case) for case in plans()][0] == 2
