"""The table of what the evidence settles: its verdicts are those that the runs give."""

import re
from pathlib import Path

import lora_lab as lab
from lora_lab.findings.plans import evidence_ids

PAGE = Path(__file__).parents[1] / "notebooks" / "evidence" / "README.md"
QUOTED = re.compile(r"`([a-z0-9-]+)`: (?:\*(.+?)\*|not measured yet)")


def test_each_verdict_in_the_table_is_the_computed_one():
    quoted = QUOTED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(quoted) > 15
    for id, said in quoted:
        verdict = lab.evidence(id).verdict
        unmeasured = verdict.startswith("not measured") or "lacks" in verdict
        assert said == ("" if unmeasured else verdict), id


def test_each_finished_body_of_evidence_is_in_the_table():
    page = PAGE.read_text(encoding="utf-8")
    measured = [id for id in evidence_ids() if lab.evidence(id).rows]
    assert [id for id in measured if f"`{id}`" not in page] == []
