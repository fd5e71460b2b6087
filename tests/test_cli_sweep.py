"""`lora-lab sweep` as somebody uses it, on a base that trains in a second."""

import json
import re
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import lora_lab as lab
from lora_lab.cli import show
from lora_lab.cli.app import app
from lora_lab.cli.resolve import next_commands
from lora_lab.cli.sweep import _settings, _show_sweep, _varied
from lora_lab.maths.statistics import wilson
from lora_lab.records import Scores
from lora_lab.training.intervals import pooled_interval
from lora_lab.training.store import list_runs
from lora_lab.training.summary import interval_of_scores
from tiny import letters_task, save_tiny_base, tiny_base, write_letters


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tiny base's folder and a file of one's own, as `sweep` takes them."""
    folder = save_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")
    file = write_letters(tmp_path_factory.mktemp("files") / "letters.csv")
    return ["sweep", str(file), "--base", str(folder), "--steps", "4", "--seeds", "0,1"]


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def refused(*arguments):
    """The one line that a command complains with."""
    result = run(*arguments)
    assert result.exit_code == 2
    *about_data, line = result.stderr.splitlines()
    assert about_data == [] or (len(about_data) == 3 and " rows read; " in about_data[0])
    return line.removeprefix("lora-lab: ")


def test_all_pairs_are_trained_with_all_seeds_and_score_as_in_the_library(words):
    more = ["--vary", "r=1,4", "--vary", "learning-rate=1e-3,3e-2", "--engine", "sequential"]
    result = run(*words, *more, "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    base = lab.load_base(words[3])
    task = lab.load_task(words[1], base)
    changes = [{"r": r, "learning_rate": rate} for r in (1, 4) for rate in (1e-3, 3e-2)]
    recipes = [lab.Recipe(**{**_fields(task.recipe), "steps": 4, **change}) for change in changes]
    done = lab.sweep(base, task, recipes, seeds=(0, 1), store=None, evaluate="validation")
    assert len(printed["runs"]) == 8
    for mine, run_ in zip(printed["runs"], done.runs, strict=True):
        assert mine["recipe"]["seed"] == run_.recipe.seed
        assert mine["recipe"]["r"] == run_.recipe.r
        assert mine["scores"]["loss"] == pytest.approx(run_.scores.loss)
        assert mine["scores"]["split"] == "validation"
    assert printed["confounds"] == list(done.confounds())
    means = [row["mean"] for row in printed["settings"]]
    assert means == list(done.summary()["mean"])
    assert printed["chosen"]["mean"] == max(means)
    assert printed["chosen"]["runs"] == [
        run["name"] for run in printed["runs"][2 * means.index(max(means)) :][:2]
    ]
    assert (printed["split"], printed["test"]) == ("validation", None)


def _fields(recipe):
    return {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}


def test_a_row_a_setting_and_below_what_else_may_explain_it(words):
    shown = run(*words, "--vary", "target_modules=[q_proj,v_proj],all-linear").stdout
    about, head, two, every = shown.splitlines()[1:5]
    assert about == "validation: mean (95 % interval over seeds)"
    assert head.split() == ["target_modules", "accuracy", "loss", "runs"]  # no old facts here
    assert two.split()[0] == "[q_proj,v_proj]"
    assert every.split()[0] == "all-linear"
    assert re.fullmatch(
        r" +\d+ % \(\d+–\d+\) +\d\.\d{3} +2", two.removeprefix("[q_proj,v_proj]").rstrip()
    )
    assert "note: Only one learning rate was tried" in shown
    assert "target_modules=all-linear beside target_modules=[q_proj,v_proj]: not settled" in shown


def test_more_than_one_choice_at_once_gets_no_verdict(words):
    shown = run(*words, "--vary", "r=1,4", "--vary", "lora_alpha=8,16").stdout
    assert "beside" not in shown


def test_the_runs_are_kept_and_a_longer_list_trains_only_what_is_new(words):
    run(*words, "--vary", "r=1")
    before = {run_.path: run_.date for run_ in list_runs()}
    printed = json.loads(run(*words, "--vary", "r=1,2", "--json").stdout)
    assert [run_["replayed"] for run_ in printed["runs"]] == [True, True, False, False]
    assert {run_.path: run_.date for run_ in list_runs()}.items() >= before.items()


def test_a_run_of_a_sweep_can_be_evaluated_by_its_name(words):
    printed = json.loads(run(*words, "--vary", "r=1", "--json").stdout)
    result = run("evaluate", printed["runs"][0]["name"], "--split", "validation", "--json")
    assert json.loads(result.stdout)["scores"]["loss"] == printed["runs"][0]["scores"]["loss"]


GOOD = ["--vary", "learning-rate=1e-3,3e-2", "--steps", "20", "--engine", "sequential"]


def test_the_test_is_left_alone_unless_it_is_asked_for(words):
    shown = run(*words, *GOOD).stdout
    assert "Chosen by the best mean on validation: learning_rate=0.03" in shown
    assert "--then-test scores it once on the test split." in shown
    chosen = [run_ for run_ in list_runs() if run_.recipe.learning_rate == 3e-2]
    listed = re.search(r"its runs +(.+)", shown)[1].split(", ")
    for seed, (named, text) in enumerate(line.split(" ", 1) for line in listed):
        (found,) = [run_ for run_ in chosen if named in run_.path.name]
        assert found.recipe.seed == seed
        assert text == f"(seed {seed}: {show.mark('accuracy', found.scores.value)})"
    best = re.search(r"lora-lab export (\w+) my-adapter\n", shown)[1]
    (exported,) = [run_ for run_ in chosen if best in run_.path.name]
    assert exported.scores.value == max(run_.scores.value for run_ in chosen)
    assert all(not (run_.path / "scores.json").exists() for run_ in list_runs())


def test_then_test_scores_the_chosen_setting_alone_and_says_so(words):
    printed = json.loads(run(*words, *GOOD, "--then-test", "--json").stdout)
    chosen = [run_ for run_ in list_runs() if (run_.path / "scores.json").exists()]
    assert {run_.recipe.learning_rate for run_ in chosen} == {3e-2}
    assert sorted(run_.path.name for run_ in chosen) == sorted(printed["chosen"]["runs"])
    task = lab.load_task(words[1])
    tested = [lab.evaluate(run_, task) for run_ in chosen]
    facts = printed["test"]
    assert facts["mean"] == pytest.approx(sum(scores.value for scores in tested) / 2)
    assert facts["over_questions"] == pytest.approx(pooled_interval(tested, task))
    assert facts["over_seeds"] == pytest.approx(
        interval_of_scores([scores.value for scores in tested], share=True)
    )
    assert facts["other_runs_tested_before"] == 0
    shown = run(*words, *GOOD, "--then-test").stdout
    assert "The test was looked at once, for this setting alone, after it was chosen." in shown
    assert re.search(r"test +\d+ %; \d+ to \d+ with other questions, \d+ to \d+ with", shown)


def test_a_test_that_other_runs_have_seen_is_said_to_be(words):
    printed = json.loads(run(*words, *GOOD, "--json").stdout)
    other = next(run for run in printed["runs"] if run["name"] not in printed["chosen"]["runs"])
    rate, seed = (str(other["recipe"][name]) for name in ("learning_rate", "seed"))
    run("train", *words[1:4], "--steps", "20", "--learning-rate", rate, "--seed", seed)
    shown = run(*words, *GOOD, "--then-test").stdout
    assert "note: 1 other run of this sweep had been scored on the test before." in shown
    assert "looked at once" not in shown


def test_of_settings_with_one_mean_the_first_is_chosen_and_that_is_said(words):
    shown = run(*words, "--vary", "r=1,2,4", "--learning-rate", "1e-9").stdout
    assert "validation: r=1 (the first of 3 with this mean)" in shown


def test_where_every_setting_diverges_nothing_is_chosen(words):
    wild = ["--vary", "r=1,2", "--learning-rate", "1e30", "--then-test"]
    shown = run(*words, *wild).stdout
    assert "Nothing is chosen: every setting diverged with some seed" in shown
    assert json.loads(run(*words, *wild, "--json").stdout)["test"] is None


def test_a_single_seed_has_the_interval_of_its_questions(words):
    shown = run(*words[:-1], "0", "--vary", "r=1").stdout
    assert "validation: mean (95 % interval)" in shown
    low, high = wilson(0, 8)
    assert f"0 % ({100 * low:.0f}–{100 * high:.0f})" in shown


def test_runs_that_validation_scored_are_listed_as_such(words):
    run(*words, "--vary", "r=1")
    shown = run("runs").stdout
    assert shown.count(" % val ") == 2
    assert "val: scored on validation, by a sweep; `lora-lab evaluate` scores the test" in shown


HUNDRED = ",".join(map(str, range(1, 101)))
EIGHT = "r lora_alpha warmup_steps batch_size init_r target_r deltaT eval_steps".split()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["r=1,1"], "--vary r=1,1 names 1 twice; write each value once"),
        (["lora_alpha=8,8.0"], "names 8 twice"),
        (["quantize=none,none"], "names none twice"),
        (["target_modules=[q_proj,v_proj"], r"lacks a bracket at '\[q_proj'; write a list as in"),
        (["r=1e9"], "r=1000000000.0 is not a whole number"),
        (["r=1,1000000000"], "r=1000000000 is above 1,000,000, wider than any layer"),
        ([f"r={HUNDRED}", f"lora_alpha={HUNDRED}"], "100 × 100 × 2, are 20,000 runs, and a sweep"),
        ([f"{name}={HUNDRED}" for name in EIGHT], "are 20,000,000,000,000,000 runs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_that_make_no_sweep_are_refused_before_anything_is_made(words, given, complaint):
    assert re.search(complaint, refused(*words, *(f"--vary={value}" for value in given)))


@pytest.mark.parametrize(
    ("seeds", "complaint"),
    [
        ("0,1,0", "--seeds 0,1,0 names 0 twice; give each seed once"),
        (",".join(map(str, range(2000))), "1 × 2000, are 2,000 runs"),
        (str(10**30), "is above 4,294,967,295, the greatest that NumPy takes"),
    ],
)
def test_seeds_that_make_no_sweep_are_refused(words, seeds, complaint):
    assert complaint in refused(*words[:-1], seeds, "--vary", "r=1")


def test_the_table_of_a_task_with_old_facts_fits_a_terminal_of_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    made = Scores("exact match", 0.547, {}, 0.5, 0.981, 1.2341, (), "validation")
    runs = [
        SimpleNamespace(recipe=lab.Recipe(r=r, learning_rate=3e-3), scores=scores, status=status)
        for r, scores, status in ((16, made, "finished"), (16, None, "diverged"))
    ]
    for run_ in runs:
        run_.task_name, run_.about = "new-facts", "pocket"
    done = SimpleNamespace(runs=runs, confounds=tuple)
    _show_sweep(done, ["r", "learning_rate"], 2, letters_task())
    head, row = capsys.readouterr().out.splitlines()[2:4]
    assert head.split() == "r learning_rate exact match old facts strangers loss runs".split()
    assert row.split() == "16 0.003 55 % 50 % 98 % 1.234 1, diverged".split()
    assert max(len(head), len(row)) <= 80


@pytest.mark.parametrize(
    ("given", "name", "values"),
    [
        ("r=1,4", "r", [1, 4]),
        (
            "target-modules=[q_proj,v_proj],all-linear",
            "target_modules",
            [("q_proj", "v_proj"), "all-linear"],
        ),
        ("layers_to_transform=[0,1],none", "layers_to_transform", [(0, 1), None]),
        ("use_dora=true,false", "use_dora", [True, False]),
        ("learning_rate=1e-3, 3e-3", "learning_rate", [1e-3, 3e-3]),
    ],
)
def test_values_stand_between_commas_and_lists_in_brackets(given, name, values):
    assert _varied(given) == (name, values)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--vary", "rr=1"], "no choice of a recipe is called 'rr'; did you mean 'r'?"),
        (["--vary", "r="], "--vary r= lacks a value; write them as in --vary r=1,4,16"),
        (["--vary", "r"], "--vary r lacks a value"),
        (["--vary", "r=1,,4"], "--vary r=1,,4 lacks a value"),
        (["--vary", "r=1,x"], "r='x' is not a whole number"),
        (["--vary", "seed=1"], "seeds are given with --seeds 0,1,2"),
        (["--vary", "r=1", "--seed", "1"], "--seed 1 does not fit a sweep; give --seeds 0,1,2"),
        (["--vary", "r=1", "--seeds", "a"], "--seeds a isn't a list of whole numbers"),
        (["--vary", "r=1", "--r", "2"], "r is given by --vary and by --r too"),
        (["--vary", "r=1", "--vary", "r=2"], "r is given by --vary and by --vary too"),
        (["--vary", "r=1", "--engine", "fast"], "engine='fast' is not known"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run(more, complaint, words):
    assert complaint in refused(*words, *more)
    assert list_runs() == []


# --- fields that are tied to another --------------------------------------------------------------


@pytest.mark.parametrize(
    ("tie", "alphas"),
    [
        ("alpha=2r", (8, 32)),
        ("lora_alpha=2r", (8, 32)),
        ("lora-alpha = 2 * r", (8, 32)),
        ("lora_alpha=r", (4, 16)),
        ("lora_alpha=0.5r", (2, 8)),
        ("lora_alpha=.1*r", (0.4, 1.6)),
        ("lora_alpha=1e1r", (40, 160)),
        ("lora_alpha=4*sqrt(r)", (8, 16)),
        ("lora_alpha=sqrt( r )", (2, 4)),
    ],
)
def test_a_choice_is_tied_to_another_by_a_multiple_or_its_root(tie, alphas):
    settings = _settings(f"r=4,16 {tie}")
    expected = [{"r": 4, "lora_alpha": alphas[0]}, {"r": 16, "lora_alpha": alphas[1]}]
    assert settings == [pytest.approx(setting) for setting in expected]
    kinds = [type(row["lora_alpha"]) for row in settings]  # 8 and 8.0 would be two stored runs
    assert kinds == [int if number == int(number) else float for number in alphas]


def test_several_choices_are_tied_to_one_and_every_pair_with_another_is_trained(words):
    ties = "--vary=r=1,4 lora_alpha=2r learning_rate=1e-3*sqrt(r)"
    result = run(*words, ties, "--vary", "weight_decay=0,0.1", "--json")
    assert result.exit_code == 0, result.stderr
    recipes = [run["recipe"] for run in json.loads(result.stdout)["runs"]]
    found = {
        (recipe["r"], recipe["lora_alpha"], recipe["learning_rate"], recipe["weight_decay"])
        for recipe in recipes
    }
    assert found == {
        (r, alpha, rate, decay)
        for r, alpha, rate in ((1, 2, 1e-3), (4, 8, 2e-3))
        for decay in (0, 0.1)
    }


def test_tied_choices_have_columns_and_the_varied_one_a_verdict(words):
    shown = run(*words, "--vary", "r=1,4 alpha=2r").stdout
    assert shown.splitlines()[2].split()[:2] == ["r", "lora_alpha"]
    assert [line.split()[:2] for line in shown.splitlines()[3:5]] == [["1", "2"], ["4", "8"]]
    assert "r=4 beside r=1: " in shown
    assert "never change alone" in shown


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("r=4,16 alpha=2", "alpha=2: '2' isn't a multiple of r; write lora_alpha=2r, lora_alpha=r"),
        ("r=4,16 alpha=8,32", "'8,32' isn't a multiple of r; "),
        ("r=4,16 alpha=", "'nothing' isn't a multiple of r"),
        ("r=4,16 alpha=r**2", r"'r**2' isn't a multiple of r"),
        ("r=4,16 alpha=2*steps", "'2*steps' isn't a multiple of r"),
        ("r=4,16 alpha=__import__('os').system('true')", "isn't a multiple of r"),
        ("r=4,16 alhpa=2r", "'alhpa' isn't a number of a recipe; did you mean 'alpha'?"),
        ("r=4,16 use_dora=r", "'use_dora' isn't a number of a recipe"),
        ("use_dora=true,false alpha=2r", "use_dora has no numbers, so that nothing can be tied"),
        ("r=4,16 r=2r", "r can't be tied to r"),
        ("r=4,16 seed=r", "seed can't be tied to r"),
        ("r=4,16 warmup_steps=0.3r", "warmup_steps=1.2 is not a whole number"),
        ("r=4,16 alpha=0r", "lora_alpha=0 is not a finite number"),
        ("r=4,16 alpha=1e999r", "lora_alpha=inf is not a finite number"),
        ("r=4,16 alpha=2r alpha=3r", "lora_alpha is given by --vary and by --vary too"),
        ("quantize=none,nf4 alpha=2r", "quantize has no numbers"),
    ],
)
def test_what_is_no_tie_is_refused_in_words_and_leaves_no_run(given, complaint, words):
    assert complaint in refused(*words, "--vary", given)
    assert list_runs() == []


def test_the_next_commands_name_a_store_that_is_not_the_usual_one(tmp_path):
    here = lab.fit(tiny_base(), letters_task(), lab.Recipe(r=2, steps=1))
    there = lab.fit(tiny_base(), letters_task(), lab.Recipe(r=2, steps=1), store=tmp_path / "a b")
    assert all(line.split()[-1] != "b'" for line in next_commands(here))
    assert all(line.endswith(f" --store '{tmp_path / 'a b'}'") for line in next_commands(there))
