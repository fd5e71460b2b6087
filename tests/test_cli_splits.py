"""A file's splits on the command line, and the scores as they are printed: intervals and errors."""

import csv
import json
import re

import pytest
from typer.testing import CliRunner

import lora_lab as lab
from lora_lab.cli import show
from lora_lab.cli.app import app
from lora_lab.maths.statistics import wilson
from lora_lab.records import Answer, Scores
from lora_lab.training.intervals import change_of, intervals_of
from lora_lab.training.store import list_runs
from tiny import letters_task, tiny_base

LETTERS = [f"{a}{b}" for a in "abcdefghijkl" for b in "abcd"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny base's folder; a file with a person and a fold of each row; a test, a validation."""
    folder, base = tmp_path_factory.mktemp("splits"), tiny_base()
    base.model.save_pretrained(folder / "tiny")
    base.tokenizer.save_pretrained(folder / "tiny")

    def write(name, prompts):
        with (folder / name).open("w", newline="") as out:
            rows = [
                (
                    prompt,
                    prompt[-1].upper(),
                    prompt[0],
                    ("train", "dev", "test", "train")[place % 4],
                )
                for place, prompt in enumerate(prompts)
            ]
            csv.writer(out).writerows([("prompt", "answer", "person", "fold"), *rows])

    write("letters.csv", LETTERS)
    write("test.csv", [f"{a}{b}" for a in "mnop" for b in "abcd"])
    write("validation.csv", [f"{a}{b}" for a in "rs" for b in "abc"])
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def printed(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


OPTIONS = [
    {"test": "test.csv"},
    {"test": "test.csv", "validation": "validation.csv"},
    {"split_column": "fold"},
    {"group_by": "person"},
    {"group_by": "person", "test": "test.csv"},
]


def in_words(options):
    return [
        part for name, value in options.items() for part in (f"--{name}".replace("_", "-"), value)
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_a_run_is_evaluated_on_the_very_splits_it_was_trained_with(
    files, options, monkeypatch, tmp_path
):
    monkeypatch.chdir(files)
    words = ["letters.csv", "--base", files / "tiny", *in_words(options)]
    facts = printed("train", *words, "--steps", "4")
    task = lab.load_task("letters.csv", **options)
    assert [answer["prompt"] for answer in facts["scores"]["answers"]] == [
        example.prompt for example in task.test
    ]
    monkeypatch.chdir(tmp_path)  # the files are found from anywhere
    again = printed("evaluate", facts["name"])
    assert again["scores"] == facts["scores"]
    assert again["intervals"] == facts["intervals"]
    validated = printed("evaluate", facts["name"], "--split", "validation")["scores"]["answers"]
    assert [answer["prompt"] for answer in validated] == [
        example.prompt for example in task.validation
    ]


def test_a_sweep_and_an_estimate_take_the_same_splits(files, monkeypatch):
    monkeypatch.chdir(files)
    words = ["--split-column", "fold", "--group-by", "person"]
    refused = run("sweep", "letters.csv", "--base", "tiny", "--vary", "r=1", *words)
    assert refused.exit_code == 2  # each person is in all three
    assert "letters.csv has 0 rows to use, and training and validation need one" in refused.stderr
    swept = printed(
        *("sweep", "letters.csv", "--base", "tiny", "--vary", "r=1", "--steps", "2"),
        *("--seeds", "0", "--validation", "validation.csv", "--group-by", "person"),
    )
    assert swept["chosen"]["groups"] == 2
    scored = printed("evaluate", swept["runs"][0]["name"], "--split", "validation")
    assert len(scored["scores"]["answers"]) == 6
    budget = printed("estimate", "tiny", "--task", "letters.csv", "--test", "test.csv")
    base = lab.load_base("tiny")
    task = lab.load_task("letters.csv", base, test="test.csv")
    assert budget["recipe"]["steps"] == task.recipe.steps


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["style", "--group-by", "x"],
            "--group-by x is about a file's rows, and 'style' isn't a file",
        ),
        (["style", "--split-column", "x"], "--split-column x is about a file's rows"),
        (["letters.csv", "--test", "no.csv"], "there is no file 'no.csv'"),
        (["letters.csv", "--group-by", "persn"], "did you mean 'person'"),
        (["letters.csv", "--test", "test.csv", "--split-column", "fold"], "give one of the two"),
    ],
)
def test_splits_that_can_not_be_made_are_one_line_and_leave_no_run(
    files, monkeypatch, words, complaint
):
    monkeypatch.chdir(files)
    for command in (["train"], ["sweep", "--vary", "r=1"], ["evaluate", "tiny", "--task"]):
        base = [] if command[0] == "evaluate" else ["--base", "tiny"]
        result = run(*command, *words, *base)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert complaint in line
    assert list_runs() == []


# --- intervals, wrong answers and errors ------------------------------------------------------


def test_scores_are_printed_with_the_intervals_of_the_library(files, monkeypatch):
    monkeypatch.chdir(files)
    facts = printed(
        "train", "letters.csv", "--base", "tiny", "--steps", "12", "--learning-rate", "3e-2"
    )
    (trained,) = list_runs()
    task = lab.load_task("letters.csv")
    scores = lab.evaluate(trained, task)
    ends = intervals_of(scores, task)
    assert facts["intervals"] == {name: pytest.approx(own) for name, own in ends.items()}
    assert facts["interval_method"] == "95 % intervals (Wilson)"
    right = sum(answer.right for answer in scores.answers)
    low, high = wilson(right, 5)
    assert ends["accuracy"] == (low, high)
    shown = run("evaluate", facts["name"]).stdout
    cell = f"{100 * scores.value:.0f} % ({100 * low:.0f}–{100 * high:.0f})"
    assert re.search(rf"accuracy +{re.escape(cell)}", shown)
    assert "In brackets: 95 % intervals (Wilson)." in shown
    change = change_of(lab.evaluate(lab.load_base("tiny"), task), scores, task)
    assert facts["change"]["words"] == change.words
    words = ["--base", "tiny", "--steps", "12", "--learning-rate", "3e-2"]
    assert f"right answers: {change.words}" in run("train", "letters.csv", *words).stdout


def test_with_groups_the_text_counts_groups(files, monkeypatch):
    monkeypatch.chdir(files)
    words = ["letters.csv", "--base", "tiny", "--steps", "2", "--group-by", "person"]
    shown = run("train", *words).stdout
    assert "test, 8 questions of 2 groups" in shown
    assert "8 questions of 2 groups are worth fewer than 8 independent ones." in shown


def made_scores(metric, pairs):
    answers = tuple(Answer(f"q{n}", *pair, pair[0] == pair[1]) for n, pair in enumerate(pairs))
    return Scores(metric, 0.5, {metric: 0.5}, None, None, 0.1, answers, "test")


def test_errors_by_class_are_a_table_with_the_biggest_confusions_first(capsys):
    pairs = [("pos", "pos")] * 3 + [("neg", "pos")] * 2 + [("neg", "maybe"), ("so", "so")]
    show.show_errors(made_scores("accuracy", pairs))
    head, row = capsys.readouterr().out.splitlines()[1:]
    assert head.split("  ")[0] == "class"
    assert row.split() == ["neg", "0", "of", "3", "pos", "2,", "maybe", "1"]


def test_many_classes_with_errors_are_cut_and_counted(capsys):
    show.show_errors(made_scores("accuracy", [(f"class {n}", "x") for n in range(11)]))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 1 + 8 + 1
    assert lines[-1] == "3 more have errors; `--json` has them all"


def test_errors_by_field_are_a_table(capsys):
    pairs = [('{"a": 1, "b": 2}', '{"a": 1, "b": 3}'), ('{"a": 2, "b": 1}', "no")]
    show.show_errors(made_scores("field F1", pairs))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows[1] == ["b", "0", "of", "2", "1", "1", "0"]
    assert rows[2] == ["a", "1", "of", "2", "0", "1", "0"]


def test_no_errors_show_nothing(capsys):
    show.show_errors(made_scores("accuracy", [("a", "a")]))
    show.show_errors(made_scores("exact match", [("a", "b")]))
    assert capsys.readouterr().out == ""


def test_json_holds_the_errors_too(files, monkeypatch):
    monkeypatch.chdir(files)
    facts = printed("evaluate", "tiny", "--task", "letters.csv")
    assert sum(row["asked"] - row["right"] for row in facts["errors"]) == sum(
        not answer["right"] for answer in facts["scores"]["answers"]
    )
    assert {row["label"] for row in facts["errors"]} <= set("ABCD")


def test_a_score_without_questions_has_no_interval(capsys):
    made = Scores("KL", 0.007, {"KL": 0.007}, None, None, 0.1, (), "test")
    show.show_scores(made, letters_task(), made)
    shown = capsys.readouterr().out
    assert "0.007" in shown
    assert "(" not in shown
