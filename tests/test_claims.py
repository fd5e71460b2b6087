import dataclasses
import importlib
import json
import math
import re
import sys
import tomllib

import pytest
from scipy.stats import t, ttest_1samp

import lora_lab.findings.claim_runs
import lora_lab.findings.claims
from lora_lab.cost.estimates import estimate
from lora_lab.cost.gpus import GIB, cards
from lora_lab.findings.claim_runs import WAYS
from lora_lab.findings.claims import (
    UNITS,
    Case,
    Claim,
    Finding,
    Setting,
    Trial,
    claim,
    claims,
    record,
    with_record,
)
from lora_lab.findings.evidence import Evidence
from lora_lab.findings.papers import paper
from lora_lab.findings.plans import evidence_ids
from lora_lab.places import data_folder
from lora_lab.training.fit import fit
from tiny import letters_task, recipe, tiny_base

LESSON = (  # every rule of thumb that the lesson makes
    "needs-1000 stale full-70b-memory count-4096 memory-10-100x faster consumer-gpu switch "
    "peft-95-99 rank-64-cost llama-7b-r8 llama-7b-r32 effective-lr alpha-2r alpha-forgets remedies "
    "lr-range batch-range length-range decay-range full-copy days-or-weeks millions-or-thousands "
    "sense-style sense-behaviour sense-private sense-accuracy domain-language general-overkill "
    "prompt-overkill rank-style rank-most-tasks rank-reasoning parameters-per-layer alpha-names "
    "alpha-over-r lr-low-end batch-128 length-real"
).split()
RECORDED = sorted((data_folder() / "recorded" / "claims").glob("*.json"))

LOW, HIGH = (Setting(base="tiny", task="letters", recipe=recipe(r=r)) for r in (1, 2))
CASE = Case(when="it is so", what="value", of="high", minus="low", unit="points", at_least=5)


def weighed(*differences, cases=(CASE,), **changes):
    """A claim whose setting "high" scores so many points more than "low", seed by seed."""
    seeds = range(len(differences))
    trials = [Trial("low", seed, {"value": 0.25 + seed / 16}) for seed in seeds]
    trials += [
        Trial("high", seed, {"value": 0.25 + seed / 16 + points / 100})
        for seed, points in zip(seeds, differences, strict=True)
    ]
    words = {"statement": "High beats low.", "source": "lesson", "convention": "None."}
    parts = {"settings": {"low": LOW, "high": HIGH}, "seeds": tuple(seeds), "trials": tuple(trials)}
    return Claim(id="made-up", cases=tuple(cases), **words | parts | changes)


# --- the ledger -----------------------------------------------------------------------------


def test_every_rule_of_the_lesson_has_its_claim():
    assert set(LESSON) - set(claims()) == set()


@pytest.mark.parametrize("one", claims().values(), ids=lambda one: one.id)
def test_a_claim_is_whole(one):
    assert all((one.statement, one.source))
    for id in (*one.papers, *{one.source} - {"lesson"}):
        assert paper(id)
    assert bool(one.untested) != bool(one.cases)
    assert bool(one.untested) != bool(one.convention)
    assert re.match(r"because |but in notebook|$", one.untested)
    named = {name for case in one.cases for name in (case.of, case.minus, case.over) if name}
    assert named == set(one.settings)  # none is run for nothing
    for case in one.cases:
        assert {case.at_least, case.at_most} != {None}
        assert not (case.minus and case.over)
        others = {case.of, case.minus or case.over or case.of}
        assert len({one.settings[name].task is None for name in others}) == 1
    for setting in one.settings.values():
        assert setting.way in ("fit", *WAYS)
        assert (setting.changed is None) == (setting.way in ("fit", "half strength"))
    assert len(one.seeds) >= 5 if one.to_run else one.seeds == ()


def test_an_unknown_claim_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no claim 'alpha-forget'; did you mean 'alpha-forgets"):
        claim("alpha-forget")


def test_nobody_can_change_a_claim():
    with pytest.raises(dataclasses.FrozenInstanceError):
        claim("stale").statement = "Never mind."
    with pytest.raises(TypeError):
        claim("faster").settings["r = 8"] = LOW


# --- the verdict ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "holds"),
    [
        ((6, 7, 6, 7, 8), True),
        ((5, 5, 5, 5, 5), True),  # the range's own end is in it
        ((4.9, 6.9, 7, 7.1, 7), True),  # a single seed outside; the mean is 5.4 to 7.7
        ((4.9, 4, 3, 1, 2), False),
        ((5, 6, 7, 4, 6), None),  # 4.2 to 7.0
        ((5, 7, 9, 8, 9.2), None),
        ((10, 11, 10, 11, 12), False),
        ((6, 7, 7), None),  # fewer than five seeds
        ((6, math.nan, 7, 6, 7), None),
        ((6,), True),  # arithmetic
        ((4,), False),
    ],
)
def test_a_case_holds_or_fails_where_the_whole_interval_is_inside_or_outside(numbers, holds):
    case = dataclasses.replace(CASE, at_least=5, at_most=9)
    found = Finding(case, numbers)
    assert found.holds is holds
    if len(numbers) >= 5 and len({*numbers}) > 1 and not any(map(math.isnan, numbers)):
        interval = ttest_1samp(numbers, 0).confidence_interval()
        assert found.interval == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("at_least", "at_most", "holds"),
    [(None, 5, False), (None, 9, True), (9, None, False), (5, None, True)],
)
def test_a_range_may_be_open(at_least, at_most, holds):
    case = dataclasses.replace(CASE, at_least=at_least, at_most=at_most)
    assert Finding(case, (6, 7, 8, 7, 7)).holds is holds


def test_an_open_case_says_how_many_more_seeds_would_settle_it():
    found = Finding(CASE, (5, 6, 7, 4, 8))  # the mean is 6, a point from the range's end
    assert found.holds is None
    n = 5 + found.seeds_to_settle
    half = [t.isf(0.025, size - 1) * math.sqrt(2.5 / size) for size in (n, n - 1)]
    assert half[0] <= 1 < half[1]
    assert str(found).endswith(f"promised at least 5; about {n - 5} more seeds would settle it")
    few = Finding(CASE, (9, 9.1, 9.2))
    assert str(few).endswith("; about 2 more seeds would settle it")
    assert Finding(CASE, (4, 5, 6, 5, 5)).seeds_to_settle is None  # the mean is the end itself


def test_several_cases_are_corrected_by_holm():
    weak = (5.3, 7.9, 6.1, 5.9, 6.0)  # p = 0.047 beside 5
    (alone,) = weighed(*weak).findings
    assert alone.holds
    assert alone.p_value == pytest.approx(ttest_1samp(weak, 5).pvalue)
    other = dataclasses.replace(CASE, when="other", at_least=6.5)
    both = weighed(*weak, cases=(CASE, other))
    assert [finding.holds for finding in both.findings] == [None, None]
    assert both.findings[0].level == 0.025


def test_the_verdict_is_computed_from_the_cases():
    twice = dataclasses.replace(CASE, when="twice is wanted", at_least=10)
    thrice = dataclasses.replace(CASE, when="thrice is wanted", at_least=15)
    alike = 12, 13, 12.5, 13.5, 12
    assert weighed(*alike).verdict == "holds"
    assert weighed(1, 2, 3, 2, 1).verdict == "does not hold here"
    assert weighed(1, 12, 13, 5, 4).verdict == "not settled"
    assert weighed(12, 13, 14).verdict == "not settled"  # three seeds
    only = weighed(*alike, cases=(CASE, twice, thrice))
    assert only.verdict == "holds here only when it is so; when twice is wanted"
    assert weighed(12, 13, 16, 17, 12, cases=(CASE, thrice)).verdict == "not settled"


def test_each_seed_is_compared_with_itself():
    (found,) = weighed(6, 8, 7).findings
    assert found.numbers == pytest.approx((6, 8, 7))  # though "low" rises by 6 points a seed
    (over,) = weighed(
        25, cases=[dataclasses.replace(CASE, minus=None, over="low", unit="%")]
    ).findings
    assert over.numbers == pytest.approx((200,))  # .5 over .25
    (alone,) = weighed(25, cases=[dataclasses.replace(CASE, minus=None)]).findings
    assert alone.numbers == pytest.approx((50,))


def test_a_run_without_a_score_leaves_the_claim_open():
    found = weighed(6, 8, 7, 7, 7)
    trials = [dataclasses.replace(found.trials[0], scores={"value": None}), *found.trials[1:]]
    assert dataclasses.replace(found, trials=tuple(trials)).verdict == "not settled"


def test_a_ratio_over_nothing_leaves_the_claim_open():
    case = dataclasses.replace(CASE, of="low", minus=None, over="high", unit="times", at_least=0)
    found = weighed(-25, -12, 7, cases=(case,))  # "high" scores 0 with the first seed
    assert math.isnan(found.findings[0].numbers[0])
    assert found.verdict == "not settled"


def test_before_it_is_measured_a_claim_says_what_to_call():
    found = weighed(6, 8, 7, trials=())
    assert found.findings == ()
    assert found.verdict == "not measured yet: lab.claim('made-up').measure() takes 6 runs"


def test_a_claim_is_shown_with_its_rounded_numbers():
    found = weighed(
        6.04, 8.06, 7, 7, 7, papers=("lora-gpt3-speedup",), about="1970-01-01, a machine"
    )
    assert repr(found).splitlines() == [
        "High beats low. (lesson)",
        "Verdict: holds",
        '  yes  when it is so: value of "high" less "low": 7.02 (6.13 to 7.91) points; '
        "promised at least 5",
        "Convention: None.",
        "Published: how much faster GPT-3 175B trains with LoRA than in full: "
        "25 % (arXiv:2106.09685, section 4.2)",
        "Recorded: 1970-01-01, a machine",
    ]
    assert "promised 64.88 to 66.19" in repr(claim("count-4096"))
    assert "total memory of" in repr(claim("full-70b-memory"))
    assert re.search(r"no   when the rank falls from 8 to 1: .*: 0.996 times; promised at most 0.9",
                     repr(claim("faster")))  # fmt: skip


def test_a_claim_that_is_not_tested_says_why_and_what_others_published():
    found = claim("rank-reasoning")
    assert repr(found).splitlines() == [
        "Complex reasoning needs rank 32 to 64. (lesson)",
        "Verdict: not tested here, because models of 1 and 135 million parameters do not reason in "
        "many steps, whatever the rank.",
        "Published: Llama-2-7B after instruction fine-tuning on mathematics (r 64 and in full: "
        "epoch 4, r 256: epoch 8): of GSM8K right (arXiv:2405.09673, section 4.1, table S7); "
        "its rows: lab.paper('learns-less-math').rows",
        "Published: the lowest rank at which LoRA learns as much from rewards as full fine-tuning "
        "(MATH, GSM8K): 1 as the rank (thinkingmachines.ai/blog/lora, reinforcement learning)",
    ]
    assert (found.to_run, found.findings) == (0, ())


@pytest.mark.parametrize(
    ("number", "words"),
    [(1519.58, "1,520"), (85.84, "85.8"), (4.194304, "4.19"), (0.06224, "0.0622")]
    + [(0.0004, "0.0004"), (-3e-6, "0"), (0, "0"), (-11.04, "-11.0"), (math.nan, "nan")],
)
def test_numbers_are_rounded_for_print(number, words):
    finding = str(Finding(CASE, (number,)))
    assert f": {words} points; promised at least 5" in finding


# --- arithmetic -----------------------------------------------------------------------------


def numbers_of(id):
    return {found.case.when: found.numbers[0] for found in claim(id).findings}


def test_the_count_is_that_of_a_4096_matrix():
    a, whole = numbers_of("count-4096").values()
    assert (a, whole) == (2 * 4096 * 8 / 1e3, 4096**2 / 1e6)
    assert claim("count-4096").verdict == "holds"


def test_llamas_share_is_of_the_parameters_that_it_has():
    number, share, every = numbers_of("llama-7b-r8").values()
    assert (number, share) == (4.194304, pytest.approx(100 * 4_194_304 / 6_738_415_616))
    assert every == pytest.approx(32 * 624_640 / 1e6)


def test_a_consumer_card_is_as_large_as_the_makers_say():
    usable = {card.name.removeprefix("RTX "): card.usable / GIB for card in cards()}
    for case in claim("consumer-gpu").cases:
        assert case.at_most == pytest.approx(usable[case.when.split()[-1]], abs=0.005)


def test_what_the_conventions_count_is_so():
    one = claim("full-70b-memory").settings["full fine-tuning"]
    budget = estimate(one.base, one.recipe)
    parameters = budget.total_parameters
    assert round(16 * parameters / 1e9) == 1104
    usual, ours = (
        tuple(getattr(memory, part) / parameters for part in ("weights", "gradients", "optimizer"))
        for memory in (budget.usual_memory, budget.memory)
    )
    assert usual == (2, 2, 12)
    assert sum(ours) == 18


def test_no_claim_hangs_on_the_copies_that_this_labs_loop_makes_in_full():
    for rule in claims().values():
        for case in rule.cases:
            sides = (rule.settings[name] for name in (case.of, case.over, case.minus) if name)
            if case.what.startswith("memory") and any(s.recipe.method == "full" for s in sides):
                raise AssertionError(f"{rule.id}: {case}")


def test_what_the_conventions_count_of_pocket_is_so():
    one = claim("peft-95-99").settings["LoRA on facts"]
    budget = estimate("pocket", one.recipe)
    share = budget.trainable_parameters / (budget.total_parameters - budget.trainable_parameters)
    assert round(100 * share, 2) == 0.76


def test_a_claim_is_shown_with_the_verdict_of_its_evidence():
    shown = repr(claim("decay-range"))
    verdict = Evidence.read("decay-finer").verdict
    assert f"Evidence: decay-finer: {verdict}\n" in shown + "\n"


def test_every_evidence_that_a_claim_names_is_planned():
    assert {id for claim in claims().values() for id in claim.evidence} <= {*evidence_ids()}


def test_what_is_not_tested_has_nothing_to_measure_and_says_why():
    with pytest.raises(ValueError, match="'batch-128' has nothing to run: not tested here, becaus"):
        claim("batch-128").measure()


def test_a_whole_copy_is_every_parameter_of_the_base():
    assert numbers_of("full-copy").popitem()[1] == pytest.approx(6738.415616)
    assert claim("full-copy").verdict == "holds"


def test_full_fine_tuning_trains_billions_and_lora_millions_or_thousands():
    full, lora, one = numbers_of("millions-or-thousands").values()
    assert (full, lora, one) == (pytest.approx(6738.415616), 4.194304, 8.192)
    assert claim("millions-or-thousands").verdict == "holds"


def test_arithmetic_has_nothing_to_measure():
    with pytest.raises(ValueError, match="'faster' has nothing to run: arithmetic decides it"):
        claim("faster").measure()


# --- measuring ------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """The base "tiny" and the task "letters", which every seed draws afresh."""
    base = tiny_base()
    tasks = {seed: letters_task(n=24 + seed) for seed in range(3)}
    monkeypatch.setattr(lora_lab.findings.claims, "load_base", lambda name: base)
    monkeypatch.setattr(
        lora_lab.findings.claims, "load_task", lambda name, base, n, seed: tasks[seed]
    )
    return base, tasks


def test_measuring_runs_each_setting_with_each_seed_on_the_seeds_own_task(tiny):
    base, tasks = tiny
    found = weighed(0, 0, 0, trials=()).measure(store=None)
    assert {(trial.setting, trial.seed) for trial in found.trials} == {
        (name, seed) for name in ("low", "high") for seed in range(3)
    }
    for trial in found.trials:
        wanted = dataclasses.replace(found.settings[trial.setting].recipe, seed=trial.seed)
        run = fit(base, tasks[trial.seed], wanted, store=None)
        assert trial.scores["value"] == run.scores.value
        assert trial.scores["loss"] == run.scores.loss
        assert trial.scores["last_loss"] == run.records[-1].loss
        assert trial.scores["old_knowledge"] is None
        assert trial.scores["length"] == sum(record.tokens for record in run.records) / (12 * 4)
    assert len(found.findings[0].numbers) == 3


def test_measuring_again_replays_what_the_store_has(tiny, tmp_path, monkeypatch):
    found = weighed(0, 0, 0, trials=()).measure(store=tmp_path)
    monkeypatch.setattr("lora_lab.training.loop.train", None)  # nothing can be trained any more
    assert weighed(0, 0, 0, trials=()).measure(store=tmp_path).trials == found.trials


def test_a_run_that_diverged_has_no_scores(tiny):
    wild = dataclasses.replace(LOW, recipe=recipe(learning_rate=1e30))
    found = weighed(0, trials=(), settings={"low": wild, "high": HIGH}).measure(store=None)
    by_name = {trial.setting: trial.scores for trial in found.trials}
    assert set(by_name["low"].values()) == {None}
    assert found.verdict == "not settled"


def test_a_record_keeps_what_was_measured_and_what_was_committed(tiny, tmp_path):
    bare = weighed(0, 0, 0, trials=())
    path = record(bare, tmp_path)
    assert path == tmp_path / "made-up.json"
    read = with_record(bare, path)
    assert read.trials == bare.measure(store=None).trials
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d, tiny: 0.0 M parameters on the CPU in float32, torch .+", read.about
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"cases": (dataclasses.replace(CASE, at_least=4),)},
        {"cases": (dataclasses.replace(CASE, what="loss"),)},
        {"seeds": (0, 1)},
        {"settings": {"low": LOW, "high": dataclasses.replace(HIGH, recipe=recipe(r=3))}},
        {"settings": {"low": LOW, "high": dataclasses.replace(HIGH, way="noted", changed=3)}},
    ],
)
def test_a_margin_changed_after_the_results_makes_the_record_void(tiny, tmp_path, changes):
    bare = weighed(0, 0, 0, trials=())
    changed = dataclasses.replace(bare, **changes)
    assert with_record(changed, record(bare, tmp_path)) == changed


def test_mending_a_claims_words_leaves_its_record(tiny, tmp_path):
    bare = weighed(0, 0, 0, trials=())
    mended = (dataclasses.replace(CASE, when="it is clearer so"),)
    path = record(bare, tmp_path)
    assert with_record(dataclasses.replace(bare, cases=mended), path).trials


# --- make recorded --------------------------------------------------------------------------


@pytest.fixture
def make_recorded(tiny, tmp_path, monkeypatch):
    """The command, for two claims that share a run: "measured" has its record, "bare" has none.

    `.fitted` tells of every run that it asked for whether it was trained there and then.
    """
    folder = data_folder() / "recorded"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    script = importlib.import_module("make_recorded")
    bare = weighed(0, 0, 0, trials=())
    recorded = weighed(6, 7, 8, settings={"high": HIGH}, cases=())
    recorded = dataclasses.replace(recorded, id="measured")
    ledger = {"bare": bare, "measured": recorded, "faster": claim("faster")}
    monkeypatch.setattr(lora_lab.findings.claims, "claims", lambda: ledger)
    monkeypatch.setattr(script, "HERE", tmp_path / "recorded")
    monkeypatch.setattr(script, "STORE", tmp_path / "store")
    (tmp_path / "recorded" / "claims").mkdir(parents=True)
    (tmp_path / "recorded" / "recorded.toml").write_text("[letters]\nseeds = []\n")
    sweep, script.fitted = lora_lab.findings.claim_runs.sweep, []

    def watched(*arguments, **options):
        made = sweep(*arguments, **options)
        script.fitted += [not run.replayed for run in made.runs]
        return made

    monkeypatch.setattr(lora_lab.findings.claim_runs, "sweep", watched)
    return script


def records(script):
    return sorted(path.stem for path in (script.HERE / "claims").iterdir())


def test_make_recorded_measures_the_claims_that_have_no_record(make_recorded):
    make_recorded.main(["measured"])
    assert records(make_recorded) == []
    make_recorded.main([])
    assert records(make_recorded) == ["made-up"]
    assert not make_recorded.STORE.exists()  # nothing is left behind


def test_made_fresh_every_claim_is_measured_and_a_shared_run_trained_once(make_recorded):
    make_recorded.main(["--fresh"])
    assert records(make_recorded) == ["made-up", "measured"]
    assert make_recorded.fitted == [True] * 6 + [False] * 3


def test_make_recorded_goes_on_where_it_was_stopped(make_recorded, tiny, monkeypatch):
    _, tasks = tiny
    last = tasks.pop(2)
    with pytest.raises(KeyError):
        make_recorded.main(["bare"])
    tasks[2] = last
    make_recorded.main(["bare"])
    assert make_recorded.fitted == [True] * 4 + [False] * 4 + [True] * 2


@pytest.mark.parametrize("name", ["mesured", "faster"])  # arithmetic has nothing to record
def test_make_recorded_refuses_what_it_cannot_make(make_recorded, name):
    with pytest.raises(SystemExit, match=f"{name!r}; .* letters; claims.toml measures bare, meas"):
        make_recorded.main([name])


def test_a_recorded_run_and_a_claim_never_share_a_name():
    made = (data_folder() / "recorded" / "recorded.toml").read_text(encoding="utf-8")
    assert not set(tomllib.loads(made)) & set(claims())


# --- what is recorded -----------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_verdict_follows_from_the_recorded_numbers(path):
    words = json.loads(path.read_text(encoding="utf-8"))
    found = claim(path.stem)
    assert found.about.startswith(words["date"])  # so it counts: nothing was changed since
    scores = {(trial["setting"], trial["seed"]): trial["scores"] for trial in words["trials"]}
    held = []
    for case, finding in zip(words["committed"]["cases"], found.findings, strict=True):
        numbers = []
        for seed in words["committed"]["seeds"]:
            number = scores[case["of"], seed][case["what"]]
            if case["minus"]:
                number -= scores[case["minus"], seed][case["what"]]
            elif case["over"]:
                number /= scores[case["over"], seed][case["what"]]
            numbers.append(number)
        low, high = (
            (numbers[0], numbers[0])
            if len({*numbers}) == 1
            else ttest_1samp(numbers, 0).confidence_interval(1 - finding.level)
        )
        low, high = low / UNITS[case["unit"]], high / UNITS[case["unit"]]
        least = -math.inf if case["at_least"] is None else case["at_least"]
        most = math.inf if case["at_most"] is None else case["at_most"]
        inside, outside = least <= low <= high <= most, high < least or low > most
        held.append("yes" if inside else "no" if outside else "?")
    assert [
        {True: "yes", False: "no", None: "?"}[finding.holds] for finding in found.findings
    ] == held
    assert found.verdict.startswith(
        "not settled" if "?" in held
        else "holds here only when" if len(set(held)) == 2
        else "holds" if held[0] == "yes"
        else "does not hold here"
    )  # fmt: skip


@pytest.mark.slow
def test_a_recorded_claim_measured_again_scores_alike():
    recorded = claim("alpha-forgets")
    again = dataclasses.replace(recorded, seeds=(0,)).measure(store=None)
    before = {trial.setting: trial.scores for trial in recorded.trials if trial.seed == 0}
    for trial in again.trials:
        for score in ("value", "old_knowledge"):  # other processors round otherwise
            assert trial.scores[score] == pytest.approx(before[trial.setting][score], abs=0.1)
