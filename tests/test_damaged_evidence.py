# ruff: noqa: F811 - fixtures of another file
"""Plans and rows that somebody has spoilt, commands that stop, and two commands at once."""

import dataclasses
import math
import re
import runpy
import sys
from pathlib import Path

import pytest

import lora_lab as lab
from lora_lab.findings.evidence import Row, read_rows, write_rows
from lora_lab.findings.evidence_runs import best_choice, make_missing, missing_runs
from lora_lab.findings.plans import evidence_ids, plan
from lora_lab.training.run_files import DIVERGED
from test_evidence import (  # noqa: F401 - fixtures
    GOOD,
    PLAN,
    finals,
    folder,
    sequential,
    tuned,
)

SETTINGS = PLAN[PLAN.index("[settings]") :]
ONE_RATE = PLAN.replace("[1e-3, 1e-2, 1e-1]", "[3e-3]")
MAKE = str(Path(__file__).parents[1] / "data" / "evidence" / "make.py")


# --- plans ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (SETTINGS, "settings = [1]", "Expected `object`, got `array` - at `$.settings`"),
        (SETTINGS, "[settings]", "against='r 1' is none of its settings"),
        ("{ r = 1 }", "1", "Expected `object`, got `int` - at `$.settings[...]`"),
        ("n = 20", 'n = "20"', "got `str` - at `$.n`"),
        ("n = 20", "n = 0", "Expected `int` >= 1 - at `$.n`"),
        ("n = 20", "n = 20\nmargin = 2.0", "at `$.margin`"),
        ("n = 20", 'n = 20\nmeasure = "los"', "measure='los' isn't a score; did you mean 'loss'?"),
        ("n = 20", "n = 20\nasked_as_taught = true\ntest = 9", "leave out test and validation"),
        ("[1e-3, 1e-2, 1e-1]", "[]", "length >= 1 - at `$.learning_rates`"),
        ("[1e-3, 1e-2, 1e-1]", "[1e-3, 1e-3]", "learning_rates holds a value twice"),
        ("[1e-3, 1e-2, 1e-1]", "[0.0]", "'r 1': learning_rate=0"),
        ("[1e-3, 1e-2, 1e-1]", "[1.2345678e-3]", "0.0012345678 has more than 7 digits"),
        ("[0, 1, 2, 3, 4]", "[0, 1, 1]", "seeds holds a value twice"),
        ("[0, 1, 2, 3, 4]", "[0]", "length >= 2 - at `$.seeds`"),
        ("[100, 101]", "[]", "length >= 1 - at `$.tuning_seeds`"),
        ("[100, 101]", "[4, 101]", "seeds [4] choose the learning rates and test them"),
        ('main = "r 2"', 'main = "r 1"', "main and against are both 'r 1'"),
        ("{ r = 1 }", "{ rr = 1 }", "'r 1' gives 'rr', which no recipe has; did you mean 'r'"),
        ("{ r = 1 }", "{ r = 1, n = 0 }", "'r 1': n=0 isn't a number of examples"),
        ("{ r = 1 }", "{ r = 1, seed = 3 }", "'r 1' gives 'seed', which the plan itself chooses"),
        ("{ steps = 2,", "{ steps = 2, n = 9,", "'common' gives 'n', which no recipe has"),
        (SETTINGS, f'{SETTINGS}"r 3" = {{ r = 1 }}', "'r 3' trains what 'r 1' trains"),
        ("question = ", "question ", "can't be read: Expected '='"),
    ],
)
def test_a_spoilt_plan_is_refused_when_it_is_read(folder, old, new, said):
    assert PLAN.count(old) == 1
    (folder / "rank.toml").write_text(PLAN.replace(old, new))
    with pytest.raises(ValueError, match=f"^rank.toml.*{re.escape(said)}"):
        plan("rank")


def test_a_plan_may_begin_with_the_mark_of_windows_editors(folder):
    before = plan("rank")
    (folder / "marked.toml").write_text(PLAN, encoding="utf-8-sig")
    assert dataclasses.replace(plan("marked"), id="rank") == before


# --- rows -----------------------------------------------------------------------------------


def test_rows_that_a_spreadsheet_has_saved_are_read_all_the_same(folder):
    chosen = plan("rank")
    write_rows(chosen, tuned(chosen, GOOD))
    kept, path = read_rows(chosen), folder / "rank.csv"
    cells = [line.split(",") for line in path.read_text().splitlines()]
    turned = "".join(",".join([first, *reversed(rest)]) + "\r\n" for first, *rest in cells)
    path.write_text(turned, encoding="utf-8-sig", newline="")
    assert read_rows(chosen) == kept


def test_an_empty_file_and_one_that_has_a_header_only_hold_no_run(folder):
    chosen = plan("rank")
    write_rows(chosen, [])
    assert (folder / "rank.csv").read_text().startswith("plan,stage,setting,")
    assert lab.evidence("rank").rows == ()
    (folder / "rank.csv").write_text("")
    assert lab.evidence("rank").verdict.startswith("not measured yet")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("plan,stage,", "plan;stage;", "line 1 has no column 'plan'"),
        ("tuning,r 1,0.001,101", "tunning,r 1,0.001,101", "line 3: Invalid enum value 'tunning'"),
        ("r 1,0.001,101,finished", "r 1,0.001,101,done", "line 3: Invalid enum value 'done'"),
        ("r 1,0.001,101", "r 1,0.001,100", "line 3 is the same run as line 2"),
        ("r 1,0.001,101", "r 3,0.001,101", "line 3: the plan has no setting 'r 3'"),
        ("r 1,0.001,101", "r 1,,101", "line 3: 'r 1' needs a learning rate"),
        ("r 1,0.001,101", "r 1,0.001", "line 3: the row has too many or too few cells"),
    ],
)
def test_a_spoilt_row_is_refused_with_its_line(folder, old, new, said):
    chosen = plan("rank")
    write_rows(chosen, tuned(chosen, GOOD))
    text = (folder / "rank.csv").read_text()
    assert text.count(old) == 1
    (folder / "rank.csv").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"^rank.csv, {re.escape(said)}"):
        lab.evidence("rank")


def test_rows_in_another_encoding_are_refused(folder):
    (folder / "rank.csv").write_bytes("plan,stage,größe\n".encode("latin-1"))
    with pytest.raises(ValueError, match="rank.csv isn't UTF-8 text"):
        lab.evidence("rank")


def test_a_write_that_is_cut_short_leaves_the_rows_that_were_there(folder, monkeypatch):
    chosen, rows = plan("rank"), tuned(plan("rank"), GOOD)
    write_rows(chosen, rows)

    def write_a_part(path, text, **options):
        path.write_bytes(text[:50].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", write_a_part)
    with pytest.raises(KeyboardInterrupt):
        write_rows(chosen, rows[:3])
    assert len(read_rows(chosen)) == len(rows)
    (folder / ".new-0123").write_bytes(b"what a killed process leaves")
    assert evidence_ids() == ("rank",)


# --- what is run next -----------------------------------------------------------------------


def test_a_rate_whose_validation_loss_is_no_number_is_not_chosen(folder):
    chosen = plan("rank")
    broken = tuned(chosen, GOOD | {"r 1": {1e-3: math.nan, 1e-2: 2.0, 1e-1: 1.0}})
    assert best_choice(chosen, broken, "r 1") == 1e-1


def test_where_every_seed_diverged_lower_rates_are_tried(folder):
    chosen = plan("rank")
    rows = [dataclasses.replace(each, status=DIVERGED) for each in tuned(chosen, GOOD)]
    assert {run.choice for run in missing_runs(chosen, rows)} == {3.2e-4}


def test_tests_at_another_rate_than_the_chosen_one_are_refused(folder):
    chosen = plan("rank")
    rows = tuned(chosen, GOOD) + finals(chosen, {"r 1": [0.5], "r 2": []}, rate=1e-3)
    with pytest.raises(ValueError, match="tests 'r 1' at 0.001, and its tuning chooses 0.01"):
        missing_runs(chosen, rows)


def test_two_commands_do_not_make_the_same_runs_at_once(folder, sequential):
    (folder / "rank.toml").write_text(ONE_RATE)
    chosen = plan("rank")
    first = make_missing(chosen)
    next(first)
    with pytest.raises(TimeoutError, match="another process is making these runs"):
        next(make_missing(chosen))
    first.close()
    assert next(make_missing(chosen))


# --- the command ----------------------------------------------------------------------------


@pytest.fixture
def command(folder, monkeypatch):
    """`python data/evidence/make.py …`, in this process: its exit code, or its last words."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", [MAKE, *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(MAKE, run_name="__main__")
        return ended.value.code

    return run


def test_an_unknown_id_or_base_is_refused_in_words(command):
    assert "no evidence 'rnak'; did you mean 'rank'" in command("rnak")
    assert "no plan is for the base 'smollm'" in command("--base", "smollm")


def test_a_plan_that_can_not_be_carried_out_does_not_keep_the_others(
    command,
    folder,
    sequential,
    monkeypatch,
    tmp_path,
    capsys,
):
    few = ONE_RATE.replace("[0, 1, 2, 3, 4]", "[0, 1]")
    (folder / "a-text.toml").write_text(few.replace('"pocket"', '"smollm2"'))
    (folder / "rank.toml").write_text(few)
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path / "cache"))  # nothing is prepared
    assert command() == 1
    said = capsys.readouterr()
    assert "a-text: 'smollm2' is not prepared yet; run `lora-lab prepare`" in said.err
    assert "rank: 4 runs," in said.out
    assert command("rank", "--list") == 0
    assert "rank: 4 runs, 0 wanted next" in capsys.readouterr().out


def test_a_stopped_command_keeps_what_is_finished_and_says_so(
    command,
    folder,
    sequential,
    monkeypatch,
):
    (folder / "rank.toml").write_text(ONE_RATE)
    every = make_missing

    def stopped(chosen):
        for left, news in every(chosen):
            yield left, news
            if isinstance(news, Row):
                raise KeyboardInterrupt

    monkeypatch.setattr("lora_lab.findings.evidence_runs.make_missing", stopped)
    assert command("rank").startswith("stopped; what is finished is kept")
    assert len(read_rows(plan("rank"))) == 1


def test_a_check_of_what_was_not_tested_yet_says_so(command, capsys):
    assert command("rank", "--check") == 0
    assert "nothing was tested yet" in capsys.readouterr().out
