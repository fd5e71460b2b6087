"""A class's board: guesses go to a shared folder before the reveal, attempts make a ranking."""

import json
import os

import pytest

import lora_lab as lab
from lora_lab import plots
from lora_lab.lessons.attempts import Attempt
from lora_lab.lessons.predictions import Prediction, Question, keep
from lora_lab.lessons.sharing import Guess, read_class, seat, share_attempt, share_guess
from lora_lab.places import class_file
from lora_lab.widgets.prediction import Predict

RANK = Question("05 rank", "Which rank is enough?", (1, 4, 16))
KEPT = Question("00 kept", "How many old facts are kept?", unit="%", within=5)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "class").mkdir()
    return tmp_path / "class"


def attempt(new, old=1.0, seconds=9.0, game="five"):
    return Attempt(game=game, choices={"r": 8}, new=new, old=old, seconds=seconds)


def sent_by(folder, name, *guesses, question=RANK):
    lab.share(folder, name)
    for guess in guesses:
        assert share_guess(question, guess, 0.5) == ""


def lines(folder):
    return [json.loads(line) for path in folder.iterdir() for line in path.open()]


# --- a learner's side ---


def test_nothing_is_sent_before_one_shares_and_after_one_has_ended_it(folder):
    assert share_guess(RANK, 4, 0.5) == ""
    lab.share(folder, "Ada")
    assert seat().name == "Ada"
    lab.share(None)
    assert seat() is None
    share_guess(RANK, 4, 0.5)
    share_attempt(attempt(0.5))
    assert [*folder.iterdir()] == []


def test_a_guess_is_sent_before_the_measurement_and_its_reason_is_not(folder):
    seen = []

    def measure():
        seen.extend(lines(folder))
        return [4]

    lab.share(folder, "Ada")
    asked = Predict(RANK, measure)
    asked.guess.value, asked.reason.value = 16, "a secret"
    asked.run()
    asked.wait(60)
    (line,) = seen  # while it was measured
    assert {name for name in line} == {"kind", "name", "question", "guess", "confidence"}
    assert (line["name"], line["guess"]) == ("Ada", 16)
    assert lines(folder) == seen


def test_an_answer_to_a_question_that_was_measured_before_is_not_sent(folder):
    keep(Prediction(RANK, 4, (4,), 0.5))
    lab.share(folder, "Ada")
    asked = Predict(RANK, lambda: [4])
    asked.guess.value = 4
    asked.run()
    asked.wait(60)
    assert lines(folder) == []


def test_a_lesson_goes_on_where_the_folder_is_gone_and_says_so(folder):
    lab.share(folder, "Ada")
    folder.rmdir()
    asked = Predict(RANK, lambda: [4])
    asked.guess.value = 4
    asked.run()
    asked.wait(60)
    assert asked.prediction.guess == 4
    assert "could not be sent to the class: there is no folder" in asked.summary.value


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [("", ValueError, "give 1 to 60 letters"), ("x" * 61, ValueError, "give 1 to 60 letters")],
)
def test_a_name_that_does_not_fit_is_refused(name, error, words, folder):
    with pytest.raises(error, match=words):
        lab.share(folder, name)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NotADirectoryError, match="give the one that your class shares"):
        lab.share(tmp_path / "nowhere", "Ada")
    with pytest.raises(NotADirectoryError, match="give the one that your class shares"):
        lab.board(tmp_path / "nowhere")


def test_a_damaged_note_of_the_class_sends_nothing(folder):
    lab.share(folder, "Ada")
    class_file().write_text("{")
    assert seat() is None
    assert share_guess(RANK, 4, 0.5) == ""


# --- the board ---


def test_the_first_guess_of_each_learner_counts(folder):
    sent_by(folder, "Ada", 4, 16)
    sent_by(folder, "Bo", 16)
    assert read_class(folder).guesses_at("05 rank") == [
        Guess("Ada", RANK, 4, 0.5),
        Guess("Bo", RANK, 16, 0.5),
    ]


def test_the_ranking_has_the_best_attempt_of_each_learner(folder):
    lab.share(folder, "Ada")
    for new in (0.2, 0.9, 0.5):
        share_attempt(attempt(new))
    lab.share(folder, "Bo")
    share_attempt(attempt(0.9, seconds=5.0))
    ranked = read_class(folder).attempts
    assert [(entry.name, entry.attempt.new) for entry in ranked] == [("Bo", 0.9), ("Ada", 0.9)]


def test_broken_lines_and_odd_files_are_counted_and_harm_nothing(folder, tmp_path):
    sent_by(folder, "Ada", 4)
    good = (folder / "Ada.jsonl").read_text()
    broken = ["{", "[]", good.replace("0.5", "7"), good.replace('"guess": 4', '"guess": 5')]
    (folder / "Bo.jsonl").write_text("\n".join(broken))
    (folder / "notes.txt").write_text("nothing of ours")
    (tmp_path / "other.jsonl").write_text(good.replace("Ada", "Eve"))
    os.symlink(tmp_path / "other.jsonl", folder / "Eve.jsonl")
    read = read_class(folder)
    assert [guess.name for guess in read.guesses] == ["Ada"]
    assert read.unreadable == 4


def test_each_of_thirty_learners_is_read(folder):
    for number in range(30):
        sent_by(folder, f"learner {number}", 4)
    assert len(read_class(folder).guesses) == 30


def test_the_board_shows_guesses_and_only_at_the_reveal_what_was_measured(folder):
    sent_by(folder, "Ada", 4)
    sent_by(folder, "Bo", 16)
    keep(Prediction(RANK, 4, (4, 4, 16), 0.5))  # on the instructor's machine
    board = lab.board(folder)
    assert board.picture.tooltip == "Which rank is enough? 2 answers: 1 0, 4 1, 16 1."
    board.reveal.value = True
    assert board.picture.tooltip.endswith("Measured: 4, 4, 16.")
    sent_by(folder, "Cy", 4)
    board.look_button.click()
    assert "3 answers: 1 0, 4 2, 16 1." in board.picture.tooltip
    assert board.state.value == "3 learners so far, 3 answers to this question."


def test_another_question_is_shown_without_its_answer(folder):
    sent_by(folder, "Ada", 4)
    sent_by(folder, "Ada", 12.5, question=KEPT)
    keep(Prediction(RANK, 4, (4,), 0.5))
    keep(Prediction(KEPT, 10, (11.0,), 0.5))
    board = lab.board(folder)
    board.question.value = RANK.id
    board.reveal.value = True
    board.question.value = KEPT.id
    assert board.reveal.value is False
    assert "Measured" not in board.picture.tooltip
    assert "How many old facts are kept? 1 answer: from 12.5 %" in board.picture.tooltip


def test_what_was_not_measured_here_is_said(folder):
    sent_by(folder, "Ada", 4)
    board = lab.board(folder)
    board.reveal.value = True
    assert "not measured on this machine yet" in board.state.value


def test_a_board_begins_empty_and_names_are_shown_as_text(folder):
    board = lab.board(folder)
    assert board.state.value == "0 learners so far."
    assert board.picture.layout.display == "none"
    lab.share(folder, "<img src=x onerror=hit()>/../Eve")
    share_attempt(attempt(0.5, game="<b>five"))
    board.look_button.click()
    assert "<img" not in board.ranking.value
    assert "&lt;img src=x" in board.ranking.value
    assert "&lt;b&gt;five" in board.ranking.value
    assert [path.parent for path in folder.glob("**/*.jsonl")] == [folder]
    assert repr(board) == "Board: class"


@pytest.mark.parametrize("measured", [(), (30.0, 40.0)])
def test_numbers_are_drawn_as_a_histogram(measured):
    free = Question("q", "How many?", unit="%")
    for question in (KEPT, free):
        drawn = plots.picture(plots.draw_guesses, question, [5.0, 20.0, 20.0], measured)
        assert "from 5 % to 20 %, the median 20 %." in drawn.alt
        assert ("Measured: 30 %, 40 %." in drawn.alt) == bool(measured)
