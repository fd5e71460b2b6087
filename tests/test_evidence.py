"""Evidence: plans that were fixed first, rows that belong to them, and what they say."""

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

import lora_lab as lab
from lora_lab.findings import evidence_runs, plans
from lora_lab.findings.evidence import FINAL, TUNING, Evidence, Row, read_rows, write_rows
from lora_lab.findings.evidence_runs import (
    Wanted,
    best_choice,
    make_missing,
    missing_runs,
    repeat_some,
)
from lora_lab.findings.plans import evidence_ids, plan
from lora_lab.maths.looks import holm_levels
from lora_lab.training.pairing import compare
from lora_lab.training.run_files import DIVERGED, FINISHED

ROOT = Path(__file__).parents[1]
PLAN = """
question = "Is rank 2 better than rank 1?"
base = "pocket"
task = "new-facts"
n = 20
learning_rates = [1e-3, 1e-2, 1e-1]
tuning_seeds = [100, 101]
seeds = [0, 1, 2, 3, 4]
against = "r 1"
main = "r 2"
common = { steps = 2, batch_size = 4, max_length = 96 }

[settings]
"r 1" = { r = 1 }
"r 2" = { r = 2, target_modules = ["q_proj", "v_proj"] }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data/evidence/, but for one plan."""
    monkeypatch.setattr(plans, "data_folder", lambda: tmp_path)
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "rank.toml").write_text(PLAN)
    plans._read.cache_clear()
    yield tmp_path / "evidence"
    plans._read.cache_clear()


def row(chosen, stage, setting, rate, seed, **changes):
    values = {"status": FINISHED, "validation_loss": 1.0, "date": "2026-11-28", "device": "a CPU"}
    if stage == FINAL:
        values |= {"metric": "exact match", "value": 0.5, "loss": 1.0, "old_knowledge": 0.9}
    return Row(
        plan=chosen.fingerprint,
        stage=stage,
        setting=setting,
        learning_rate=rate,
        seed=seed,
        **values | changes,
    )


def tuned(chosen, losses):
    """Tuning rows with a mean validation loss for each setting and rate."""
    return [
        row(chosen, TUNING, setting, rate, seed, validation_loss=loss)
        for setting, by_rate in losses.items()
        for rate, loss in by_rate.items()
        for seed in chosen.tuning_seeds
    ]


def finals(chosen, values, rate=1e-2):
    """Final rows with a value for each setting and seed."""
    return [
        row(chosen, FINAL, setting, rate, seed, value=value)
        for setting, by_seed in values.items()
        for seed, value in enumerate(by_seed)
    ]


GOOD = {"r 1": {1e-3: 2.0, 1e-2: 1.0, 1e-1: 3.0}, "r 2": {1e-3: 2.0, 1e-2: 1.5, 1e-1: 3.0}}


# --- the course's own -----------------------------------------------------------------------


@pytest.mark.parametrize("id", evidence_ids())
def test_each_row_of_the_course_belongs_to_its_plan_as_it_is_now(id):
    found = lab.evidence(id)
    assert all(row.plan == found.plan.fingerprint for row in found.rows)
    assert found.verdict
    assert found.question.endswith("?")


@pytest.mark.parametrize("id", evidence_ids())
def test_each_plan_was_committed_before_its_results(id):
    def first(suffix):
        path = f"data/evidence/{id}.{suffix}"
        log = ["git", "log", "--diff-filter=A", "--format=%ct", "--", path]
        out = subprocess.run(log, cwd=ROOT, capture_output=True, text=True, check=False).stdout
        return [int(time) for time in out.split()]

    planned, measured = first("toml"), first("csv")
    if not measured or planned == measured:
        pytest.skip("no results yet, or no git history here (the rows' fingerprints hold anyway)")
    assert min(planned) < min(measured)


# --- plans ----------------------------------------------------------------------------------


def test_a_plans_words_may_change_and_nothing_else(folder):
    before = plan("rank").fingerprint
    for old, new, same in (
        ("Is rank 2 better", "Is rank 2 really better", True),
        ("n = 20", "n = 21", False),
        ("r = 1 }", "r = 3 }", False),
        ("[1e-3, 1e-2, 1e-1]", "[1e-3, 1e-2]", False),
    ):
        (folder / "rank.toml").write_text(PLAN.replace(old, new))
        plans._read.cache_clear()
        assert (plan("rank").fingerprint == before) is same, new


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("question", "qestion", "says 'qestion', which no plan has; did you mean 'question'"),
        ('main = "r 2"', 'main = "r 3"', "main='r 3' is none of its settings"),
        ('against = "r 1"\n', "", "does not say its against"),
        ("{ r = 1 }", "{ rank = 1 }", "rank"),
        ("{ r = 1 }", "{ r = 0 }", "r=0"),
    ],
)
def test_a_plan_that_can_not_be_carried_out_is_refused_when_it_is_read(folder, old, new, said):
    (folder / "rank.toml").write_text(PLAN.replace(old, new))
    with pytest.raises((ValueError, TypeError), match=re.escape(said)):
        plan("rank")


def test_a_misspelt_id_is_refused_with_the_nearest(folder):
    with pytest.raises(ValueError, match="no evidence 'rnak'; did you mean 'rank'"):
        lab.evidence("rnak")


def test_each_seed_draws_its_own_facts_and_taught_facts_are_asked_apart_from_validation(folder):
    base = lab.load_base("pocket", device="cpu")
    chosen = dataclasses.replace(plan("rank"), n=300, asked_as_taught=True)
    one, two = (chosen.make_task(base, 300, seed) for seed in (0, 1))
    assert one.test != two.test
    assert set(one.test) | set(one.validation) <= set(one.train)
    assert len(one.test) == 200
    assert not set(one.test) & set(one.validation)


def test_a_setting_may_have_its_own_number_of_examples(folder):
    (folder / "rank.toml").write_text(PLAN.replace("{ r = 1 }", "{ r = 1, n = 7 }"))
    chosen, base = plan("rank"), lab.load_base("pocket", device="cpu")
    assert (chosen.examples("r 1"), chosen.examples("r 2")) == (7, 20)
    assert len(chosen.make_task(base, 7, 0).train) == 7
    assert chosen.recipe("r 1", 1e-3, 0).r == 1


def test_a_field_that_plans_get_later_leaves_the_fingerprint_of_older_ones(folder):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(plans.Plan):
        another: str = "its default"

    older = {part.name: getattr(plan("rank"), part.name) for part in dataclasses.fields(plans.Plan)}
    assert Later(**older).fingerprint == plan("rank").fingerprint
    assert Later(**older, another="said").fingerprint != plan("rank").fingerprint


# --- rows -----------------------------------------------------------------------------------


def test_rows_are_read_as_they_were_written(folder):
    chosen = plan("rank")
    rows = [*tuned(chosen, GOOD), *finals(chosen, {"r 1": [0.25, 1 / 3], "r 2": [0.5, None]})]
    write_rows(chosen, rows)
    again = read_rows(chosen)
    assert [*again] == [
        dataclasses.replace(each, value=each.value and float(f"{each.value:.7g}")) for each in rows
    ]
    assert "q_proj+v_proj" in (folder / "rank.csv").read_text()


def test_a_row_of_another_version_of_the_plan_is_refused(folder):
    write_rows(plan("rank"), tuned(plan("rank"), GOOD))
    (folder / "rank.toml").write_text(PLAN.replace("n = 20", "n = 30"))
    plans._read.cache_clear()
    with pytest.raises(ValueError, match="line 2 was made by another version of rank.toml"):
        lab.evidence("rank")


@pytest.mark.parametrize("cut", [5, 60])
def test_a_half_written_file_is_refused_with_the_line(folder, cut):
    write_rows(plan("rank"), tuned(plan("rank"), GOOD))
    text = (folder / "rank.csv").read_text()
    (folder / "rank.csv").write_text(text[:-cut])
    with pytest.raises(ValueError, match="rank.csv, line 13: .*delete that line"):
        lab.evidence("rank")


# --- what is run next -----------------------------------------------------------------------


def test_all_rates_are_tried_before_any_setting_is_tested(folder):
    chosen = plan("rank")
    wanted = missing_runs(chosen, [])
    assert {run.stage for run in wanted} == {TUNING}
    assert len(wanted) == 2 * 3 * 2
    done = tuned(chosen, GOOD)
    assert missing_runs(chosen, done[:-1]) == [Wanted(TUNING, "r 2", 1e-1, 101)]
    wanted = missing_runs(chosen, done)
    assert wanted == [
        Wanted(FINAL, setting, 1e-2, seed) for setting in ("r 1", "r 2") for seed in range(5)
    ]
    assert missing_runs(chosen, done + finals(chosen, {"r 1": [0] * 5, "r 2": [0] * 5})) == []


@pytest.mark.parametrize(
    ("losses", "beyond"),
    [
        ({1e-3: 1.0, 1e-2: 2.0, 1e-1: 3.0}, 3.2e-4),
        ({1e-3: 3.0, 1e-2: 2.0, 1e-1: 1.0}, 0.32),
        ({1e-3: 1.0, 1e-2: 1.0, 1e-1: 1.0}, 3.2e-4),  # equal: the lower one counts as the best
    ],
)
def test_where_the_best_rate_is_at_an_end_the_next_one_is_tried(folder, losses, beyond):
    chosen = plan("rank")
    rows = tuned(chosen, GOOD | {"r 2": losses})
    assert {(run.setting, run.choice) for run in missing_runs(chosen, rows)} == {("r 2", beyond)}


def test_a_rate_at_which_a_seed_diverged_is_not_chosen(folder):
    chosen = plan("rank")
    rows = tuned(chosen, GOOD)
    broken = [
        dataclasses.replace(each, status=DIVERGED, validation_loss=0.1)
        if (each.setting, each.learning_rate, each.seed) == ("r 1", 1e-2, 100)
        else each
        for each in rows
    ]
    assert (best_choice(chosen, rows, "r 1"), best_choice(chosen, broken, "r 1")) == (1e-2, 1e-3)


def test_a_plan_with_one_rate_tunes_nothing(folder):
    chosen = dataclasses.replace(plan("rank"), learning_rates=(3e-3,))
    assert {(run.stage, run.choice) for run in missing_runs(chosen, [])} == {(FINAL, 3e-3)}


# --- runs -----------------------------------------------------------------------------------


@pytest.fixture
def sequential(monkeypatch):
    """The runs of a sweep one after the other, in this process."""
    follow = evidence_runs.follow_sweep
    monkeypatch.setattr(
        evidence_runs,
        "follow_sweep",
        lambda *args, **options: follow(*args, **options, engine="sequential"),
    )


def test_what_is_missing_is_made_kept_at_once_and_gone_on_with(folder, sequential, monkeypatch):
    (folder / "rank.toml").write_text(PLAN.replace("[1e-3, 1e-2, 1e-1]", "[3e-3]"))
    chosen = plan("rank")
    for _, news in make_missing(chosen):
        if isinstance(news, Row) and news.seed == 1:
            break  # somebody stops it
    kept = read_rows(chosen)
    assert [(each.setting, each.seed) for each in kept] == [("r 1", 0), ("r 1", 1), ("r 2", 0)]
    made = [news for _, news in make_missing(chosen) if isinstance(news, Row)]
    assert len(made) == 10 - len(kept)
    assert missing_runs(chosen, read_rows(chosen)) == [*make_missing(chosen)] == []

    one = next(each for each in read_rows(chosen) if (each.setting, each.seed) == ("r 2", 3))
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    run = lab.fit(base, chosen.make_task(base, 20, 3), chosen.recipe("r 2", 3e-3, 3), store=None)
    assert one.value == pytest.approx(run.scores.value)
    assert one.old_knowledge == pytest.approx(run.scores.old_knowledge)
    assert one.validation_loss == pytest.approx(run.records[-1].validation_loss, rel=1e-5)

    again = [*repeat_some(chosen)]
    assert len(again) == 1
    assert again[0].agrees
    assert again[0].again.value == pytest.approx(again[0].kept.value)
    worse = dataclasses.replace(again[0], kept=dataclasses.replace(again[0].kept, value=9.0))
    assert not worse.agrees


def test_a_run_that_chooses_the_rate_is_validated_and_not_tested(folder, sequential):
    made = (news for _, news in make_missing(plan("rank")) if isinstance(news, Row))
    first = next(made)
    assert (first.stage, first.metric, first.value) == (TUNING, None, None)
    assert first.validation_loss > 0


# --- what they say --------------------------------------------------------------------------


def test_the_verdict_is_that_of_compare_by_seed(folder):
    chosen = plan("rank")
    values = {"r 1": [0.50, 0.52, 0.48, 0.51, 0.49], "r 2": [0.60, 0.63, 0.59, 0.60, 0.58]}
    found = Evidence(chosen, (*tuned(chosen, GOOD), *finals(chosen, values)))
    a, b = found.runs["r 1"], found.runs["r 2"]
    expected = compare(a, b)
    assert found.comparison("r 2").difference == expected.difference == pytest.approx(0.10)
    assert found.verdict == "r 2 beside r 1: " + expected.verdict.removeprefix("b is ")
    assert "better by 10" in found.verdict
    assert Evidence(chosen, found.rows[::-1]).verdict == found.verdict
    assert "5 seeds" in found.verdict
    table = found.table()
    assert table["setting"].tolist() == ["r 1", "r 2"]
    assert table["learning rate"].tolist() == ["0.01", "0.01"]
    assert table["beside r 1"][0] == "the others are compared with it"


def test_the_tables_verdicts_have_holms_correction(folder):
    more = '"r 3" = { r = 3 }\n"r 4" = { r = 4 }\n'
    (folder / "rank.toml").write_text(PLAN + more)
    values = {
        "r 1": [0.50, 0.52, 0.48, 0.51, 0.49],
        "r 2": [0.60, 0.63, 0.59, 0.60, 0.58],
        "r 3": [0.70, 0.75, 0.69, 0.72, 0.66],
        "r 4": [0.52, 0.55, 0.49, 0.50, 0.51],
    }
    found = Evidence(plan("rank"), tuple(finals(plan("rank"), values)))
    table = found.table().set_index("setting")["beside r 1"]
    names = ["r 2", "r 3", "r 4"]
    levels = holm_levels([found.comparison(name).p_value for name in names])
    assert sorted(levels) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    for name, level in zip(names, levels, strict=True):
        verdict = found.comparison(name, level=level).verdict
        assert table[name] == verdict.removeprefix(f"{name} is ")


def test_a_verdict_can_be_about_what_is_kept_of_old_facts(folder):
    chosen = dataclasses.replace(plan("rank"), measure="old_knowledge")
    rows = [
        dataclasses.replace(each, old_knowledge=0.9 - 0.3 * (each.setting == "r 2"))
        for each in finals(chosen, {"r 1": [0.5] * 5, "r 2": [0.5] * 5})
    ]
    verdict = Evidence(chosen, tuple(rows)).verdict
    assert verdict.startswith("r 2 beside r 1, old facts kept: worse by 30")


def test_what_is_not_measured_or_diverged_is_said_and_not_compared(folder):
    chosen = plan("rank")
    assert "not measured yet: `make evidence ONLY=rank`" in lab.evidence("rank").verdict
    rows = finals(chosen, {"r 1": [0.5] * 5, "r 2": [0.6] * 4})
    assert Evidence(chosen, tuple(rows)).verdict == "not settled: r 2 lacks 1 seed of 5"
    rows += [row(chosen, FINAL, "r 2", 1e-2, 4, status=DIVERGED, metric=None, value=None)]
    found = Evidence(chosen, tuple(rows))
    assert found.verdict == "not settled: r 2 diverged with 1 of 5 seeds"
    assert "diverged" in found.table()["beside r 1"][1]


def test_conventions_and_source_say_how_and_where(folder):
    chosen = plan("rank")
    values = {"r 1": [0.5] * 5, "r 2": [0.6] * 5}
    found = Evidence(chosen, (*tuned(chosen, GOOD), *finals(chosen, values)))
    assert "least mean validation loss of 2 seeds" in found.conventions
    assert "5 fresh seeds" in found.conventions
    assert (found.date, "a CPU" in found.source) == ("2026-11-28", True)


# --- settings with a rate of their own, and with replay ------------------------------------------

OWN_RATES = PLAN.replace("learning_rates = [1e-3, 1e-2, 1e-1]\n", "").replace(
    '"r 1" = { r = 1 }', '"r 1" = { r = 1, learning_rate = 3e-3, replay = 0.2 }'
)
BOTH_RATES = OWN_RATES.replace(
    '"q_proj", "v_proj"] }', '"q_proj", "v_proj"], learning_rate = 1e-2 }'
)


def plan_of(folder, text):
    (folder / "rank.toml").write_text(text)
    plans._read.cache_clear()
    return plan("rank")


def test_a_setting_with_a_rate_of_its_own_is_tested_at_it_and_not_tuned(folder):
    chosen = plan_of(folder, BOTH_RATES)
    wanted = missing_runs(chosen, ())
    assert {(run.stage, run.setting, run.choice) for run in wanted} == {
        (FINAL, "r 1", 3e-3),
        (FINAL, "r 2", 1e-2),
    }
    rows = [row(chosen, FINAL, run.setting, run.choice, run.seed) for run in wanted]
    write_rows(chosen, rows)
    found = Evidence.read("rank")
    assert [*found.table()["learning rate"]] == ["0.003", "0.01"]
    assert "were not tuned" in found.conventions
    assert missing_runs(chosen, rows) == []


def test_a_setting_with_replay_trains_on_old_facts_besides(folder):
    base = lab.load_base("pocket", dtype="float32")
    chosen = plan_of(folder, BOTH_RATES)
    assert chosen.replays("r 2") is None
    assert chosen.replays("r 1") == (0.2, 2 * 4)
    mixed = chosen.make_task(base, 20, 0, chosen.replays("r 1"))
    plain = chosen.make_task(base, 20, 0)
    assert mixed.train[:20] == plain.train
    assert len(mixed.train) == 25
    assert mixed.test == plain.test
    assert chosen.recipe("r 1", 3e-3, 0) == dataclasses.replace(
        chosen.recipe("r 2", 3e-3, 0), r=1, target_modules="all-linear"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OWN_RATES, "'r 2' has no learning rate; give learning_rates"),
        (BOTH_RATES.replace("0.2", "1.5"), "replay=1.5 isn't a share"),
        (BOTH_RATES.replace("0.2", "true"), "replay=True isn't a share"),
        (BOTH_RATES.replace("3e-3", "0.123456789"), "more than 7 digits"),
        (BOTH_RATES.replace("max_length", "learning_rate = 1e-3, max_length"), "leave it out"),
    ],
)
def test_a_rate_or_a_replay_that_does_not_fit_is_refused(folder, text, words):
    with pytest.raises(ValueError, match=words):
        plan_of(folder, text)
