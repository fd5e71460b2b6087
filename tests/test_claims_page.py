"""CLAIMS.md: as the ledger has it, every rule with its verdict and its numbers."""

from pathlib import Path

import pytest

from lora_lab.findings.claims import claims
from lora_lab.findings.claims_page import KINDS, claims_page

PAGE = Path(__file__).parents[1] / "CLAIMS.md"


def test_the_page_is_that_of_todays_ledger():
    assert PAGE.read_text(encoding="utf-8") == claims_page(), "run `make claims`"


@pytest.mark.parametrize("claim", claims().values(), ids=lambda claim: claim.id)
def test_each_rule_stands_once_below_its_verdict_with_every_number(claim):
    (section,) = [part for part in claims_page().split("### ") if f"\n`{claim.id}`" in part]
    assert section.startswith(claim.statement)
    before = claims_page().partition(f"### {claim.statement}\n")[0]
    title = before.rpartition("\n## ")[2].splitlines()[0]
    kind = next(kind for kind, (words, _) in KINDS.items() if words == title)
    assert claim.verdict.startswith(kind)
    for finding in claim.findings:
        row = next(line for line in section.splitlines() if f"| {finding.case.when} |" in line)
        word = {True: "| yes |", False: "| no |", None: "| not settled |"}[finding.holds]
        assert row.startswith(word)
        assert f"| {finding.effect} | {finding.promised} |" in row
    assert claim.convention in section
