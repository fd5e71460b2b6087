"""`mend_data`: each flaw that needs no judgement is gone, and the rows are named."""

import csv

import pytest

import lora_lab as lab
from lora_lab.places import data_folder
from lora_lab.review import data_mending as mending

GIVEN = data_folder() / "your_data" / "comments.csv"


@pytest.fixture(scope="module")
def tokenizer():
    return lab.load_base("pocket", device="cpu", dtype="float32").tokenizer


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


@pytest.fixture
def flawed(tmp_path):
    rows = [
        ("text", "kind", "who"),  # row 1
        ("It was warm.", "praise", "Ann"),  # 2
        ("It was cold.", "blame", "Bo"),  # 3
        ("It was cold.", "blame", "Cy"),  # 4: a repeat
        ("It was late.", "blame", "Di"),  # 5, 6: two answers
        ("It was late.", "praise", "Ed"),
        ("It was fun.", "Praise", "Flo"),  # 7: a rare spelling
        ("It was fine.", "n/a", "Gus"),  # 8
        ("", "praise", "Hal"),  # 9: blank
        ("The cafÃ© was dull.", "blame", "Ida"),  # 10: garbled
        ("Write to ann@post.test about it.", "blame", "Jo"),  # 11
        ("long " * 300, "blame", "Kim"),  # 12
    ]
    return write(tmp_path / "flawed.csv", rows)


def test_what_needs_no_judgement_is_mended_and_each_row_is_named(flawed, tmp_path, tokenizer):
    mended = lab.mend_data(flawed, tmp_path / "new", tokenizer, prompt="text", answer="kind")
    assert mended.done == {
        "left out: blank 'text'": [9],
        "left out: the same as an earlier row": [4],
        mending.SEVERAL: [5, 6],
        mending.PLACEHOLDER: [8],
        mending.LENGTH: [12],
        mending.SPELLING: [7],
        mending.LETTERS: [10],
        mending.PERSONAL: [11],
    }
    assert read(mended.path) == [
        ("prompt", "answer", "who"),
        ("It was warm.", "praise", "Ann"),
        ("It was cold.", "blame", "Bo"),
        ("It was fun.", "praise", "Flo"),
        ("The café was dull.", "blame", "Ida"),
        ("Write to [e-mail] about it.", "blame", "Jo"),
    ]
    assert (mended.before, mended.after) == (11, 5)
    assert str(mended).startswith("11 rows read, 5 kept\n")


def test_one_label_in_two_spellings_is_no_second_answer(tmp_path, tokenizer):
    rows = [("text", "kind"), ("It hums.", "Praise"), ("It hums.", "praise")]
    rows += [(f"It is {word}.", "Praise") for word in "red wet old new hot dry".split()]
    rows += [(f"It was {word}.", "Blame") for word in "red wet old new hot dry".split()]
    path = write(tmp_path / "two.csv", rows)
    mended = lab.mend_data(path, tmp_path / "new", tokenizer, prompt="text", answer="kind")
    assert mended.done == {mending.SPELLING: [3]}
    assert read(mended.path)[1:3] == [("It hums.", "Praise"), ("It is red.", "Praise")]


def test_the_file_itself_stays_and_is_never_written_over(flawed, tmp_path, tokenizer):
    before = flawed.read_bytes()
    lab.mend_data(flawed, tmp_path / "new", tokenizer, prompt="text", answer="kind")
    with pytest.raises(ValueError, match="is the file itself, which stays"):
        lab.mend_data(flawed, tmp_path, tokenizer, prompt="text", answer="kind")
    assert flawed.read_bytes() == before


def test_a_file_of_which_nothing_is_left_is_refused(tmp_path, tokenizer):
    path = write(tmp_path / "none.csv", [("prompt", "answer"), ("A?", "b"), ("A?", "c")])
    with pytest.raises(ValueError, match=r"no row of none.csv is left: left out: a prompt with"):
        lab.mend_data(path, tmp_path / "new", tokenizer)


def test_the_mended_file_is_a_task_and_its_columns_can_group(flawed, tmp_path, tokenizer):
    mended = lab.mend_data(flawed, tmp_path / "new", tokenizer, prompt="text", answer="kind")
    task = lab.load_task(mended.path, group_by="who")
    assert len(set(task.groups.values())) == 5


def test_the_given_file_has_each_flaw_and_mended_only_what_needs_a_split_is_left(
    tmp_path, tokenizer
):
    found = [finding.what for finding in lab.check_data(GIVEN, prompt="comment", answer="kind")]
    for words in (
        "prompts have different answers", "garbled", "placeholder", "several spellings",
        "e-mail addresses", "telephone numbers", "near-twin", "left out. blank", "repeat",
        "fewer than 5 rows", "more than max_length",
    ):  # fmt: skip
        assert any(words in what for what in found), words
    mended = lab.mend_data(GIVEN, tmp_path, tokenizer, prompt="comment", answer="kind")
    left = [finding.what for finding in lab.check_data(mended.path)]
    assert len(left) == 1
    assert "near-twin" in left[0]


def test_the_script_beside_the_given_file_makes_it(tmp_path, monkeypatch):
    import importlib.util

    path = GIVEN.with_name("make_comments.py")
    spec = importlib.util.spec_from_file_location("make_comments", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "FILE", tmp_path / "again.csv")
    script.main()
    assert script.FILE.read_bytes() == GIVEN.read_bytes()
