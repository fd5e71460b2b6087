import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
import torch

from lora_lab import plots
from lora_lab.lessons.predictions import Log, Prediction, Question, keep, read_log
from lora_lab.places import predictions_file
from lora_lab.widgets.prediction import CHOICE_SIZE, Predict

RANK = Question("05 rank", "Which rank is the first?", (1, 2, 4, 8, 16))
SHARE = Question("03 share", "What share of W?", unit="%")
OLD = Question("06 old", "How many old facts are right?", unit="%", within=10)
LIMIT = 60  # seconds


def predicted(guess=8, measured=(4, 4, 8), confidence=0.7, question=RANK, reason=""):
    return Prediction(question, guess, measured, confidence, reason)


# --- the score ------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.2, 0.55, 0.7, 1.0])
@pytest.mark.parametrize("measured", [(8,), (4,), (4, 4, 8), (1, 2, 16)])
def test_the_score_is_briers_mean_squared_distance_to_what_happened(confidence, measured):
    given = [confidence if option == 8 else (1 - confidence) / 4 for option in RANK.options]
    happened = torch.tensor(
        [[float(option == seed) for option in RANK.options] for seed in measured]
    )
    wanted = (happened - torch.tensor(given)).square().sum(1).mean()
    assert predicted(8, measured, confidence).score == pytest.approx(wanted.item())


def test_the_score_of_a_number_is_that_of_two_outcomes():
    assert predicted(4, (0.39,), 0.8, SHARE).score == pytest.approx(2 * 0.8**2)  # wrong
    assert predicted(0.3, (0.39,), 0.8, SHARE).score == pytest.approx(2 * 0.2**2)  # right
    assert predicted(60, (66, 71), 0.5, OLD).score == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("question", "worth"), [(RANK, "0.80"), (SHARE, "0.50"), (Question("x", "?", "ab"), "0.50")]
)
def test_how_it_is_scored_is_told_with_what_a_blind_guess_is_worth(question, worth):
    assert question.scoring.endswith(f"2 for certain and wrong, {worth} for a blind guess.")


def test_an_honest_confidence_has_the_best_score():
    """A proper score: where 7 of 10 seeds go as guessed, no other confidence does better."""
    measured = (8,) * 7 + (1, 2, 4)
    scores = {sure: predicted(8, measured, sure).score for sure in (0.5, 0.6, 0.7, 0.8, 1.0)}
    assert min(scores, key=scores.get) == 0.7


@pytest.mark.parametrize(
    ("question", "guess", "measured", "right"),
    [
        (RANK, 8, 8, True),
        (RANK, 8, 4, False),
        (SHARE, 2, 4, True),
        (SHARE, 2, 4.1, False),
        (SHARE, 2, 1, True),
        (SHARE, 2, 0.9, False),
        (OLD, 60, 70, True),
        (OLD, 60, 49, False),
        (OLD, -3, 4, True),
    ],
)
def test_a_guess_is_right_if_it_is_measured_or_near_enough(question, guess, measured, right):
    assert question.right(guess, measured) is right


# --- in words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        (predicted(), "you said 8, 70 % sure; it was 4 (3 seeds: 4, 4, 8) · score 0.95"),
        (predicted(measured=(8, 4)), "70 % sure; it was 8 or 4 (2 seeds: 8, 4)"),
        (predicted(measured=(8,)), "it was 8 (1 seed) · score 0.11"),
        (
            predicted(4, (0.390625,), 0.8, SHARE),
            "you said 4 %, 80 % sure; it was 0.391 %, 10.2 times less (1 seed) · score 1.28",
        ),
        (predicted(0.2, (0.390625,), 0.8, SHARE), "it was 0.391 %, 1.95 times more"),
        (predicted(0.39, (0.390625,), 0.8, SHARE), "it was 0.391 % (1 seed)"),
        (predicted(60, (71, 66, 75.5), 0.5, OLD), "it was 71 % (3 seeds: 71 %, 66 %, 75.5 %)"),
        (predicted(1e6, (4_194_304,), 0.5, SHARE), "you said 1,000,000 %, 50 % sure; it was 4,194"),
    ],
)
def test_a_prediction_is_told_beside_the_measurement_with_its_spread(prediction, said):
    assert said in str(prediction)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: predicted(3), r"3 is none of the options; give one of 1, 2, 4, 8, 16"),
        (lambda: predicted(measured=(4, 3)), "3 is none of the options"),
        (lambda: predicted(measured=()), "measured is empty; give what each seed gave"),
        (lambda: predicted(confidence=70), "confidence=70 isn't a probability; give 0 to 1"),
        (lambda: predicted("many", (1,), 0.5, SHARE), "'many' is not a number; give one, such as"),
        (lambda: predicted(True, (1,), 0.5, SHARE), "True is not a number"),
        (lambda: predicted(0, (1,), 0.5, SHARE), "0 cannot be; give a finite number above 0"),
        (lambda: predicted(1, (float("nan"),), 0.5, OLD), "nan cannot be; give a finite number"),
        (lambda: Question("x", "?", (1,)), "leave no choice, or repeat; give two or more"),
        (lambda: Question("x", "?", (1, 2, 1)), "leave no choice, or repeat"),
        (lambda: Question("x", "?", within=0), "within=0 does not fit; give a number above 0"),
        (lambda: Question("x", "?", (1, 2), within=3), "within=3 does not fit"),
    ],
)
def test_what_does_not_fit_the_question_is_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# --- the log --------------------------------------------------------------------------------


def test_the_log_gives_back_what_was_kept_and_lies_beside_the_store(empty_store):
    kept = [
        predicted(reason="ünïcode, \ud800 and\nlines"),
        predicted("b", ("a",), 0.5, Question("02 moves", "Which?", ("a", "b"))),
        predicted(60, (71.5,), 0.9, OLD),
    ]
    for one in kept:
        keep(one)
    assert read_log() == Log(tuple(kept))
    assert predictions_file().parent == empty_store.parent
    assert predictions_file().name == "store-predictions.jsonl"
    assert datetime.fromisoformat(kept[0].made).tzinfo


def test_a_log_that_is_not_there_is_empty_and_reading_makes_none():
    assert str(read_log()) == "no predictions so far (0 is best, 2 worst)"
    assert not predictions_file().exists()


def test_a_broken_line_is_left_out_and_told_of_and_the_next_one_begins_a_new_line():
    keep(predicted())
    with predictions_file().open("ab") as file:
        file.write(b'{"question": {"id": \n[1]\n{"guess": 8}\n\xff\n{"half a li')
    keep(predicted(question=OLD, guess=60, measured=(71,)))
    log = read_log()
    assert [prediction.question.id for prediction in log.predictions] == ["05 rank", "06 old"]
    assert log.unreadable == (2, 3, 4, 5, 6)
    assert "left out, since it can't be read: line 2, 3, 4, 5, 6 of the log" in str(log)


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": 7},
        {"confidence": "x"},
        {"guess": 3},
        {"measured": 4},
        {"extra": 1},
        {"question": None},
        {"question": {"id": "a"}},
        {"made": ...},
    ],
)
def test_a_line_whose_values_do_not_fit_is_broken_too(change):
    keep(predicted())
    path = predictions_file()
    values = json.loads(path.read_text())
    for name, value in change.items():
        values.pop(name) if value is ... else values.update({name: value})
    path.write_text(json.dumps(values))
    assert read_log().unreadable == ((1,) if ... not in change.values() else ())


def test_many_writers_at_once_lose_no_line():
    reasons = [f"{number} " * 400 for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda reason: keep(predicted(reason=reason)), reasons))
    log = read_log()
    assert log.unreadable == ()
    assert sorted(prediction.reason for prediction in log.predictions) == sorted(reasons)


def test_a_line_that_another_writer_adds_in_between_stays(monkeypatch):
    keep(predicted(reason="before"))
    write = os.write

    def late(file, line):
        monkeypatch.setattr(os, "write", write)
        keep(predicted(reason="in between"))
        return write(file, line)

    monkeypatch.setattr(os, "write", late)
    keep(predicted(reason="after"))
    assert [prediction.reason for prediction in read_log().predictions] == [
        "before",
        "in between",
        "after",
    ]


def test_an_empty_line_is_no_prediction_and_no_fault():
    keep(predicted())
    with predictions_file().open("ab") as file:
        file.write(b"\n")
    keep(predicted())
    assert (len(read_log().predictions), read_log().unreadable) == (2, ())


def test_only_the_first_answer_to_a_question_counts():
    first, again = predicted(), predicted(4, confidence=1.0)
    other = predicted(60, (61,), 0.9, OLD)
    for one in (first, again, other):
        keep(one)
    log = read_log()
    assert log.counted == (first, other)
    assert log.find(RANK) == first
    assert log.find(SHARE) is None
    # 70 and 90 % sure; a third and a whole right; scores 0.946 and 0.02
    assert log.summary == (
        "2 predictions so far: 80 % sure on average, 67 % right; mean score 0.48"
    )
    assert f"05 rank: {first}" in repr(log)


# --- the widget -----------------------------------------------------------------------------


@pytest.fixture
def asked():
    """A question with its measurement, and how often that was made."""
    calls = []

    def measure():
        calls.append(threading.current_thread())
        return [4, 4, 8]

    widget = Predict(RANK, measure)
    widget.calls = calls
    return widget


def test_a_click_on_run_it_measures_once_draws_scores_and_keeps(asked):
    asked.guess.value, asked.confidence.value, asked.reason.value = 8, 0.7, "facts need room"
    asked.run_button.click()
    asked.wait(LIMIT)
    assert asked.prediction.score == predicted().score
    assert read_log().predictions == (asked.prediction,)
    assert (asked.prediction.reason, len(asked.calls)) == ("facts need room", 1)
    assert asked.calls[0] is not threading.main_thread()
    assert asked.state.value == "you said 8, 70 % sure; it was 4 (3 seeds: 4, 4, 8) · score 0.95"
    wanted = plots.picture(plots.draw_prediction, asked.prediction, size=CHOICE_SIZE)
    assert (asked.picture.value, asked.picture.tooltip) == (wanted.png, wanted.alt)
    assert asked.summary.value.count("1 prediction so far: 70 % sure on average, 33 % right") == 1


def test_without_an_answer_nothing_is_measured(asked):
    asked.run_button.click()
    asked.wait(LIMIT)
    assert asked.state.value == "there is no answer yet; give one, then run it."
    assert (asked.calls, asked.prediction) == ([], None)
    assert asked.picture.layout.display == "none"
    assert not asked.run_button.disabled


def test_once_run_the_answer_stands(asked):
    asked.guess.value = 8
    asked.run()
    asked.wait(LIMIT)
    assert all(one.disabled for one in (asked.guess, asked.confidence, asked.run_button))
    asked.run()
    asked.wait(LIMIT)
    assert len(asked.calls) == 1


def test_a_later_session_is_told_what_was_answered_first(asked):
    asked.guess.value = 8
    asked.run()
    asked.wait(LIMIT)
    again = Predict(RANK, asked.measure)
    assert again.state.value.startswith("You answered this before: you said 8, 20 % sure; it was 4")


@pytest.mark.parametrize(
    ("given", "guess"), [("0.4", 0.4), (" 4,194,304 ", 4194304), ("12 %", 12), ("1e6", 1e6)]
)
def test_a_number_may_be_written_as_people_do(given, guess):
    widget = Predict(SHARE, lambda: [0.39])
    widget.guess.value = given
    widget.run()
    widget.wait(LIMIT)
    assert widget.prediction.guess == guess


@pytest.mark.parametrize(
    ("given", "said"), [("much", "&#x27;much&#x27; is not a number"), ("-4", "-4.0 cannot be")]
)
def test_what_is_no_number_is_told_of_and_nothing_is_measured(given, said):
    widget = Predict(SHARE, lambda: pytest.fail("measured"))
    widget.guess.value = given
    widget.run()
    widget.wait(LIMIT)
    assert said in widget.state.value


def test_an_error_while_measuring_is_shown_escaped_and_raised_by_wait_and_one_may_try_again():
    def fails():
        raise RuntimeError("<b>no</b> model")

    widget = Predict(RANK, fails)
    widget.guess.value = 8
    widget.run()
    with pytest.raises(RuntimeError, match="<b>no</b> model"):
        widget.wait(LIMIT)
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt; model" in widget.state.value
    assert not widget.run_button.disabled
    assert read_log() == Log(())


def test_what_is_asked_and_answered_is_escaped():
    question = Question("x", "Is <b> bold?", ("<i>", "no"), unit="<u>")
    widget = Predict(question, lambda: ["no"])
    widget.guess.value = "<i>"
    widget.run()
    widget.wait(LIMIT)
    shown = widget.state.value + widget.children[0].value.partition("</style>")[2]
    assert "&lt;i&gt; &lt;u&gt;" in shown
    assert "Is &lt;b&gt; bold?" in shown
    assert not any(tag in shown for tag in ("<i>", "<b>", "<u>"))


def test_the_slider_begins_at_a_blind_guess_and_a_choice_can_be_no_less_sure():
    assert (Predict(RANK, list).confidence.value, Predict(RANK, list).confidence.min) == (0.2, 0.2)
    assert (Predict(OLD, list).confidence.value, Predict(OLD, list).confidence.min) == (0.5, 0)


def test_a_long_question_stands_whole_where_no_widget_can_be_shown():
    question = Question("long", "Why " * 60, ("a", "b"))
    assert Predict(question, list)._repr_mimebundle_()["text/plain"].count("Why") == 60


def test_in_a_notebook_its_words_are_always_the_same(asked, capsys):
    asked.guess.value = 8
    before = asked._repr_mimebundle_()["text/plain"]
    asked.run()
    asked.wait(LIMIT)
    assert before == asked._repr_mimebundle_()["text/plain"] == "Predict: Which rank is the first?"
    assert capsys.readouterr() == ("", "")
