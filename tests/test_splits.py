"""Splits of a file: given by files or a column, or drawn by groups; and what can't be split."""

import csv
from dataclasses import replace

import pytest

from lora_lab.tasks.loading import load_task
from lora_lab.tasks.templates import templates_of

PEOPLE = [f"p{number}" for number in range(12)]


@pytest.fixture
def write(tmp_path):
    """Writes a CSV of prompt, answer and more columns, and gives its path."""

    def write(name, rows, columns=("prompt", "answer")):
        with (tmp_path / name).open("w", newline="") as out:
            csv.writer(out).writerows([columns, *rows])
        return tmp_path / name

    return write


def rows_of(names, count=4):
    """So many rows of each person, in turn: prompt, answer, person."""
    return [
        (f"{name} asks {number}", f"answer {number}", name)
        for number in range(count)
        for name in names
    ]


@pytest.fixture
def people(write):
    """48 rows of 12 people."""
    return write("people.csv", rows_of(PEOPLE), ("prompt", "answer", "person"))


def prompts(split):
    return {example.prompt for example in split}


def persons(split):
    return {example.prompt.split()[0] for example in split}


def sizes(task):
    return len(task.train), len(task.validation), len(task.test)


# --- files ------------------------------------------------------------------------------------


def test_a_test_file_is_the_test_and_validation_is_drawn_from_the_rest(write):
    main = write("a.csv", [(f"q{i}", f"a{i}") for i in range(40)])
    test = write("t.csv", [(f"t{i}", f"b{i}") for i in range(7)])
    task = load_task(main, test=test)
    assert [example.prompt for example in task.test] == [f"t{i}" for i in range(7)]
    assert sizes(task) == (36, 4, 7)
    assert prompts([*task.train, *task.validation]) == {f"q{i}" for i in range(40)}
    assert "40 rows read, 40 used (36 to train, 4 to validate); test from t.csv: 7 rows" in (
        task.about
    )
    assert "validation drawn from the rows to train on" in task.about


def test_with_both_files_every_row_of_the_first_is_trained_on(write):
    main = write("a.csv", [(f"q{i}", f"a{i}") for i in range(40)])
    test = write("t.csv", [("t", "b")])
    validation = write("v.csv", [("v", "c"), ("w", "d")])
    task = load_task(main, test=str(test), validation=validation)
    assert sizes(task) == (40, 2, 1)
    assert prompts(task.validation) == {"v", "w"}
    assert "validation from v.csv: 2 rows read, 2 used" in task.about


def test_a_prompt_of_the_test_file_is_left_out_of_training_and_named(write):
    main = write("a.csv", [(f"q{i}", "a") for i in range(30)] + [("v", "a")])
    test = write("t.csv", [("q3", "a"), ("q8", "another"), ("t", "b")])
    validation = write("v.csv", [("v", "a"), ("t", "b"), ("w", "b")])
    task = load_task(main, test=test, validation=validation)
    assert prompts(task.test) == {"q3", "q8", "t"}
    assert prompts(task.validation) == {"v", "w"}
    assert prompts(task.train) == {f"q{i}" for i in range(30)} - {"q3", "q8"}
    assert "its prompt is in the test: rows 5, 10; its prompt is in the validation: row 32" in (
        task.about
    )
    assert "validation from v.csv: 3 rows read, 2 used; 1 left out (its prompt is in the test" in (
        task.about
    )


def test_a_prompt_with_several_answers_leaves_the_test(write):
    main = write("a.csv", [(f"q{i}", "a") for i in range(9)])
    test = write("t.csv", [("t", "b"), ("u", "a"), ("u", "b"), ("w", "b")])
    task = load_task(main, test=test)
    assert prompts(task.test) == {"t", "w"}
    assert "2 left out (no test for a prompt with several answers: rows 3, 4)" in task.about


@pytest.mark.parametrize("seed", range(6))
def test_a_prompt_with_several_answers_is_trained_on_where_splits_are_drawn(write, seed):
    rows = [(f"q{i}", f"a{i}") for i in range(8)]
    rows += [(f"q{i}", "other") for i in range(4)]
    task = load_task(write("a.csv", rows), seed=seed)
    assert prompts(task.train) >= {"q0", "q1", "q2", "q3"}
    assert {example.answer for example in task.train if example.prompt == "q0"} == {"a0", "other"}
    assert sizes(task) == (10, 1, 1)


# --- a column ---------------------------------------------------------------------------------


def test_a_column_says_the_split_in_the_usual_spellings(write):
    words = ["train", "Training", "validation", "VAL", "valid", "dev", "eval", "development"]
    words += ["test", "Testing ", "holdout"]
    rows = [(f"q{place}", "a", word) for place, word in enumerate(words)]
    task = load_task(write("a.csv", rows, ("prompt", "answer", "fold")), split_column="fold")
    assert prompts(task.train) == {"q0", "q1"}
    assert prompts(task.validation) == {f"q{place}" for place in range(2, 8)}
    assert prompts(task.test) == {"q8", "q9", "q10"}


def test_a_split_that_the_column_does_not_have_is_drawn_from_training(write):
    rows = [(f"q{i}", f"a{i}", "train" if i % 3 else "test") for i in range(30)]
    task = load_task(write("a.csv", rows, ("prompt", "answer", "fold")), split_column="fold")
    assert prompts(task.test) == {f"q{i}" for i in range(0, 30, 3)}
    assert sizes(task) == (18, 2, 10)


def test_a_prompt_that_the_column_puts_into_two_splits_stays_in_the_test(write):
    rows = [(f"q{i}", "a", "train") for i in range(8)] + [("q1", "a", "test"), ("v", "a", "dev")]
    task = load_task(write("a.csv", rows, ("prompt", "answer", "fold")), split_column="fold")
    assert prompts(task.test) == {"q1"}
    assert "q1" not in prompts(task.train)
    assert "its prompt is in the test: row 3" in task.about


# --- groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_two_splits_and_whole_groups_are_drawn(people, seed):
    task = load_task(people, group_by="person", seed=seed)
    own = [persons(split) for split in (task.train, task.validation, task.test)]
    assert [len(names) for names in own] == [8, 2, 2]
    assert set.union(*own) == set(PEOPLE)
    assert sizes(task) == (32, 8, 8)
    assert "12 groups (8 to train, 2 to validate, 2 to test), none of them in two splits" in (
        task.about
    )
    assert task.groups == {
        prompt: prompt.split()[0] for _, split in _splits(task) for prompt in split
    }


def _splits(task):
    return [(name, prompts(getattr(task, name))) for name in ("train", "validation", "test")]


def test_the_seed_draws_the_groups(people):
    tests = {
        frozenset(persons(load_task(people, group_by="person", seed=s).test)) for s in range(8)
    }
    assert len(tests) > 4
    same = [load_task(people, group_by="person", seed=3) for _ in range(2)]
    assert same[0] == same[1]


def test_groups_are_in_no_fingerprint_since_they_change_no_run(people):
    task = load_task(people, group_by="person")
    assert replace(task, groups=None).fingerprint() == task.fingerprint()


def test_a_group_with_most_of_the_rows_stays_in_training_and_is_named(write):
    rows = [*rows_of(["big"], 60), *rows_of(PEOPLE, 2)]
    file = write("a.csv", rows, ("prompt", "answer", "person"))
    for seed in range(8):
        task = load_task(file, group_by="person", seed=seed)
        assert "big" in persons(task.train)
        assert "large groups stay in training: 'big'" in task.about


def test_a_group_of_the_test_file_is_left_out_of_training(write, people):
    test = write("t.csv", [("p3 asks more", "x", "p3")], ("prompt", "answer", "person"))
    task = load_task(people, test=test, group_by="person")
    assert persons(task.test) == {"p3"}
    assert "p3" not in persons([*task.train, *task.validation])
    assert "4 left out (its group is in the test: rows 5, 17, 29, 41)" in task.about


def test_a_row_without_a_group_is_left_out_and_named(write):
    file = write("a.csv", [*rows_of(PEOPLE), ("lost", "x", "")], ("prompt", "answer", "person"))
    assert "blank 'person': row 50" in load_task(file, group_by="person").about


def test_few_groups_give_one_group_to_each_split(write):
    file = write("a.csv", rows_of(["a", "b", "c"]), ("prompt", "answer", "person"))
    task = load_task(file, group_by="person")
    assert sizes(task) == (4, 4, 4)


def test_answers_that_training_never_shows_are_named(write):
    rows = [(f"{name} {i}", name, name) for name in "abcdef" for i in range(5)]
    task = load_task(write("a.csv", rows, ("prompt", "answer", "person")), group_by="person")
    (unseen,) = {example.answer for example in task.test}
    assert "answers that training never shows: " in task.about
    assert repr(unseen) in task.about.partition("never shows: ")[2]


# --- templates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alike",
    [
        ["Where does Ada live?", "Where does Bob Fell live?", "Where does Zoë live?"],
        ["Set it to 20 degrees", "Set it to 3.5 degrees", "set it to 1,200  degrees"],
        ["Play “Heroes” now", 'play "Yellow Submarine" now', "Play 'Let it be' now"],
        ["At 7:30 call Ann", "At 18:00 call Mary-Jane Watson"],
        ["Ada wants tea with Bob", "Bob wants tea with Ada"],
    ],
)
def test_prompts_that_differ_in_numbers_quotes_and_names_are_of_one_template(alike):
    assert len({*templates_of(alike)}) == 1


@pytest.mark.parametrize(
    "unlike",
    [
        ["Where does Ada live?", "When does Ada live?"],
        ["Turn on the light", "Turn off the light"],
        ["it's not Ann's", "it's Ann's"],
        ["TURN ON 3", "TURN OFF 3"],
        ["Was sagt er?", "Wer sagt er?"],
    ],
)
def test_prompts_that_differ_in_other_words_are_not(unlike):
    assert len({*templates_of(unlike)}) == 2


def test_a_name_at_the_beginning_is_known_by_another_prompt():
    texts = ["Ada sings", "Turn sings", "call Ada"]
    assert templates_of(texts) == ["_ sings", "turn sings", "call _"]


def test_by_template_no_template_is_in_two_splits(write):
    wording = [f"{verb} the {thing}" for verb in ("buy", "sell", "see") for thing in "xyzw"]
    rows = [(f"{words} of Mr {name}", words) for words in wording for name in ("Ek", "Ot", "Um")]
    task = load_task(write("a.csv", rows), group_by="template")
    own = [{words.partition(" of Mr")[0] for words in split} for _, split in _splits(task)]
    assert sum(map(len, own)) == len(set.union(*own)) == 12
    assert sizes(task) == (24, 6, 6)
    assert "grouped by template (numbers, quoted strings and names in the prompt masked)" in (
        task.about
    )


def test_a_column_called_template_wins_and_that_is_said(write):
    file = write("a.csv", rows_of(PEOPLE), ("prompt", "answer", "template"))
    task = load_task(file, group_by="template")
    assert {*task.groups.values()} == set(PEOPLE)
    assert "grouped by the file's own column 'template', not by the prompts' templates" in (
        task.about
    )


# --- what can't be split ----------------------------------------------------------------------


FOLD = ("prompt", "answer", "fold")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["train"] * 9,
            "column 'fold' of a.csv says train in every row .* it has to say train, and",
        ),
        (["test"] * 9, "says test in every row"),
        (["test", "dev"] * 5, "says validation and test in every row"),
        (
            ["train", "test", "unseen"],
            "says 'unseen' in row 4, and that names no split; give train,",
        ),
        (["train", "test", "tets"], "did you mean 'test'"),
        (["train", "", "test"], "column 'fold' of a.csv is blank in row 3"),
    ],
)
def test_a_column_that_names_no_splits_is_refused_with_what_would(write, words, complaint):
    file = write("a.csv", [(f"q{i}", "a", word) for i, word in enumerate(words)], FOLD)
    with pytest.raises(ValueError, match=complaint):
        load_task(file, split_column="fold")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"test": "t.csv", "split_column": "person"}, "t.csv' and split_column='person' both say"),
        ({"validation": "t.csv", "split_column": "person"}, "which rows are the validation; give"),
        ({"test": "people.csv"}, "people.csv' is the file of the training rows too"),
        ({"test": "t.csv", "validation": "t.csv"}, "t.csv' is the file of the test too"),
        (
            {"split_column": "fold"},
            "no column 'fold'; name one of .* as its split column .*--split-c",
        ),
        (
            {"group_by": "persn"},
            "did you mean 'person'.* as its column to group by .group_by=..., or --group-by",
        ),
        ({"group_by": "answer"}, "group_by='answer' is the column of answer too"),
        ({"split_column": "prompt"}, "split_column='prompt' is the column of prompt too"),
        ({"split_column": "person", "group_by": "person"}, "is the column of group_by too"),
        (
            {"test": "other.csv"},
            "other.csv has no columns 'prompt' and 'answer', .* question, reply",
        ),
        ({"test": "plain.csv", "group_by": "person"}, "plain.csv has no column 'person'"),
        ({"test": "twice.csv"}, "twice.csv has no row to use as the test; 2 left out"),
        ({"test": "all.csv"}, "people.csv has 0 rows to use, and training and validation need one"),
        (
            {"group_by": "one"},
            "group_by='one' makes 1 group of the 48 rows of people.csv .'x'., and",
        ),
        ({"group_by": "two"}, "makes 2 groups .* group by a column with 3 or more values"),
        ({"group_by": "template"}, "group_by='template' makes 1 group"),
        ({"test": "a.txt"}, "'a.txt' is of a kind that is not read"),
        ({"test": ""}, "'.' is a folder; give one file"),
        ({"split_column": ""}, "people.csv has no column ''"),
        ({"group_by": ""}, "people.csv has no column ''"),
    ],
)
def test_arguments_that_make_no_splits_are_refused_with_what_would(write, given, complaint):
    columns = ("prompt", "answer", "person", "one", "two")
    rows = [(f"and {i}?", "a", f"p{i % 12}", "x", "yz"[i % 2]) for i in range(48)]
    main = write("people.csv", rows, columns)
    write("all.csv", rows, columns)
    write("t.csv", [("new", "a", "p1")], ("prompt", "answer", "person"))
    write("other.csv", [("new", "a")], ("question", "reply"))
    write("plain.csv", [("new", "a")])
    write("twice.csv", [("new", "a"), ("new", "b")])
    write("a.txt", [])
    files = {name: main.with_name(file) for name, file in given.items() if "." in file}
    with pytest.raises(ValueError, match=complaint):
        load_task(main, **given | files)


def test_a_test_file_that_is_not_there_is_named_with_the_nearest(write, people):
    write("test.csv", [("new", "a")])
    with pytest.raises(FileNotFoundError, match="did you mean 'test.csv'"):
        load_task(people, test=people.with_name("tset.csv"))


@pytest.mark.parametrize("name", ["test", "validation", "split_column", "group_by"])
def test_a_task_that_is_no_file_has_its_splits(name):
    with pytest.raises(ValueError, match=f"{name}='x.csv' splits a file's rows, and 'style' isn't"):
        load_task("style", **{name: "x.csv"})
