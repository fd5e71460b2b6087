"""The film's data against `evaluate`'s scores, and how often it asks."""

import dataclasses
import json

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Circle

import lora_lab as lab
from lora_lab import plots
from lora_lab.plots.canvas import axes_for
from lora_lab.tasks.examples import Example
from lora_lab.training.evaluation import evaluate, generate
from lora_lab.widgets import forgetting_film
from lora_lab.widgets.forgetting_film import ForgettingFilm
from lora_lab.widgets.live_lab import LiveLab
from lora_lab.widgets.samples import spread
from tiny import letters_task, recipe, tiny_base

LIMIT = 120  # seconds that `wait` may take on a busy machine
# The tiny model learns letters; "old facts" are letters that it is taught too, "strangers" are not.
TASK = dataclasses.replace(
    letters_task(),
    old_knowledge=[Example(f"{a}c", "C") for a in "abcd"],
    strangers=[Example(f"?{a}", "not known") for a in "abcde"],
    recipe=recipe(steps=30, learning_rate=3e-2),
)


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def filmed(base, task=TASK, questions=16, steps=30):
    """A film of a training, and the scores of `evaluate` at each of its looks."""
    training = lab.train(base, task, dataclasses.replace(task.recipe, steps=steps))
    film, scores = ForgettingFilm(base, task, questions), {}
    film.look(training)
    for record in training:
        looks = len(film.looks)
        film.look(training)
        if len(film.looks) > looks:
            scores[record.step] = evaluate(training, task)
    return film, scores


def test_the_marks_at_each_look_are_those_of_evaluate_at_the_same_step(base, monkeypatch):
    monkeypatch.setattr(forgetting_film, "SHARE", 1.0)
    film, scores = filmed(base)
    assert [*scores] == [look["step"] for look in film.looks[1:]]
    assert len(scores) > 2
    assert len({score.value for score in scores.values()}) > 1  # something was learnt in between
    for place, (_, score) in enumerate(scores.items(), 1):
        assert film.shares(place) == {
            "new: letters": score.value,
            "old facts": score.old_knowledge,
            "strangers": score.strangers,
        }
        given = zip(film.looks[place]["answers"][0], score.answers, strict=True)
        assert all(text.startswith(answer.given) for text, answer in given)  # cut a little later


def test_before_are_the_bases_own_answers(base):
    film, _ = filmed(base, steps=2)
    prompts = [prompt for prompt, _ in film.groups[1]["questions"]]
    assert prompts == [example.prompt for example in TASK.old_knowledge]
    room = 1 + 4  # as `evaluate` cuts them: the longest answer here, and a few tokens
    longest = len(base.tokenizer("not known", add_special_tokens=False)["input_ids"])
    assert film.looks[0]["answers"][1] == generate(base, prompts, max_new_tokens=longest - 1 + room)
    assert film.looks[0]["step"] == 0


def test_a_task_by_accuracy_is_marked_by_its_rule_and_old_facts_exactly(base, monkeypatch):
    answers = iter(["positive.", "Positive", "not known", "B.", "B", "not known", "B"])
    monkeypatch.setattr(forgetting_film, "ask", lambda *_: [next(answers) for _ in range(7)])
    task = dataclasses.replace(
        TASK,
        metric="accuracy",
        test=[Example(letter, "positive") for letter in "abc"],
        old_knowledge=[Example("a", "B"), Example("b", "B")],
        strangers=[Example("c", "not known"), Example("d", "not known")],
    )
    film = ForgettingFilm(base, task)
    film.look(lab.train(base, TASK, TASK.recipe))
    assert film.looks[0]["marks"] == ["++?", "-+", "+-"]


def test_the_sample_is_even_over_the_whole_and_the_same_at_each_look(base):
    film, _ = filmed(base, questions=4, steps=2)
    expected = [[e.prompt, e.answer] for e in spread(TASK.test, 4)]
    assert film.groups[0]["questions"] == expected
    assert [len(group["questions"]) for group in film.groups] == [4, 4, 4]
    assert {len(marks) for look in film.looks for marks in look["marks"]} == {4}


class Clock:
    """A clock that stands still, but for what is added to it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("look", "steps", "most"), [(0.2, 100, 6), (1.0, 20, 1), (0.01, 10, 10)])
def test_asking_takes_no_more_than_its_share_of_the_time_and_ends_with_the_last_step(
    base, monkeypatch, look, steps, most
):
    clock, asked = Clock(), []
    monkeypatch.setattr(forgetting_film.time, "perf_counter", clock)

    def ask(model, examples):
        clock.now += look
        asked.append(model)
        return [""] * len(examples)

    monkeypatch.setattr(forgetting_film, "ask", ask)
    training = lab.train(base, TASK, dataclasses.replace(TASK.recipe, steps=steps))
    film = ForgettingFilm(base, TASK)
    film.look(training)
    for _ in training:  # each step has taken 0.1 s
        training.records[-1] = dataclasses.replace(training.records[-1], seconds=0.1)
        film.look(training)
    looks = len(film.looks) - 1  # without the base's
    assert looks == most
    assert looks * look <= forgetting_film.SHARE * 0.1 * steps or looks == 1
    assert film.looks[-1]["step"] == steps
    assert asked == [base, *[training] * most]


def test_a_second_training_begins_anew_and_the_base_is_asked_once(base, monkeypatch):
    film, _ = filmed(base, steps=2)
    before = film.looks[0]
    monkeypatch.setattr(film, "_base", None)  # it would fail now
    training = lab.train(base, TASK, dataclasses.replace(TASK.recipe, steps=3))
    film.look(training)
    assert film.looks == [before]
    assert film.steps == 3
    film.reset()
    assert film.looks == []


def test_its_data_are_plain_and_its_words_hold_the_numbers(base):
    film, scores = filmed(base, steps=2)
    json.dumps([film.groups, film.looks])
    assert repr(ForgettingFilm(base, TASK)) == (
        "ForgettingFilm: 16 new: letters, 4 old facts, 5 strangers; not asked yet"
    )
    old = [round(4 * share) for share in (film.shares(0)["old facts"], scores[2].old_knowledge)]
    assert "step 2 of 2: of 16 new: letters 0 → " in repr(film)
    assert f"of 4 old facts {old[0]} → {old[1]} right" in repr(film)
    table = film.table()
    assert [*table.columns] == ["step", "new: letters", "old facts", "strangers"]
    assert table["step"].tolist() == [look["step"] for look in film.looks]
    assert table["old facts"].tolist()[-1] == old[1]


def test_what_has_not_been_asked_is_refused_in_words(base):
    film = ForgettingFilm(base, TASK)
    for ask in (film.shares, film.table, film.picture):
        with pytest.raises(ValueError, match="nothing has been asked yet; train first"):
            ask()
    planted = lab.planted_task(base, r=2, target_modules=("q_proj",), n=4)
    with pytest.raises(ValueError, match="is a planted one, .* give a task with questions"):
        ForgettingFilm(base, planted)


def test_where_no_widget_can_be_shown_there_are_the_last_field_and_its_numbers(base):
    film = ForgettingFilm(base, TASK)
    data, _ = film._repr_mimebundle_()
    assert data["text/plain"] == repr(film)
    assert "image/png" not in data
    film, _ = filmed(base, steps=2)
    data, metadata = film._repr_mimebundle_()
    assert data["text/plain"] == repr(film)
    assert data["image/png"]
    assert metadata["image/png"]["alt"] == film.picture().alt
    assert "application/vnd.jupyter.widget-view+json" in data


def test_the_field_has_a_dot_for_each_question_full_where_it_is_right():
    fields = [("new facts", "new", "-?-", "+-?"), ("strangers", "stranger", "++", "+-")]
    ax = plots.draw_field(axes_for(plots.draw_field, plots.field_size(fields)), fields, 3, 9)
    circles = [artist for artist in ax.get_children() if isinstance(artist, Circle)]
    rings = [circle for circle in circles if not circle.get_fill()]
    full = {
        to_hex(circle.get_facecolor()): circle.radius for circle in circles if circle.get_fill()
    }
    assert len(rings) == 5
    assert len(circles) == 5 + 3  # right, "not known" where that is wrong, right
    assert full.keys() == {plots.NEW.lower(), plots.EARLIER.lower()}
    assert ax.get_title(loc="left") == "What does it know at step 3 of 9?"
    assert ax.get_label() == (
        "A dot for each question at step 3 of 9. new facts: 1 of 3 right (was 0); "
        "strangers: 1 of 2 “not known” (was 2)."
    )


# --- in a live lab --------------------------------------------------------------------------


def test_a_live_lab_fills_its_film_and_shows_it_for_the_task_at_hand(base):
    bare = dataclasses.replace(TASK, name="bare", old_knowledge=[], strangers=[])
    live = LiveLab(base, [TASK, bare], questions=16, steps=4)
    assert live.face.film_place.children == (live.film,)
    assert live.film.looks == []
    live.train_button.click()
    live.wait(LIMIT)
    assert live.film.looks[-1]["step"] == 4
    assert live.film.shares()["old facts"] == live.scores.old_knowledge
    live.task_choice.value = "bare"
    assert live.film is None
    assert live.face.film_place.children == ()
    live.task_choice.value = "letters"
    assert live.film.looks == []  # the run is over, and so is its film


def test_a_film_that_is_not_wanted_or_not_cheap_is_not_there(base, monkeypatch):
    assert LiveLab(base, TASK, film=False).film is None
    monkeypatch.setattr("lora_lab.widgets.live_lab.LARGE", 10)
    assert LiveLab(base, TASK).film is None


def test_the_film_changes_nothing_of_the_training(base):
    records = [
        trained.records
        for film in (True, False)
        if (trained := LiveLab(base, TASK, film=film, steps=6)).start() is None
        and trained.wait(LIMIT) is None
    ]
    assert records[0] == records[1]
    assert len(records[0]) == 6
