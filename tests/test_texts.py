import dataclasses
import json

import pytest

from lora_lab.assets import downloads
from lora_lab.places import NotPrepared
from lora_lab.tasks import texts
from lora_lab.tasks.styles import style_between
from lora_lab.tasks.texts import text_task


@pytest.fixture(params=texts.NAMES)
def name(request):
    needs_text(request.param)
    return request.param


def needs_text(name):
    try:
        if texts.TASKS[name].asset:
            downloads.prepared(texts.TASKS[name].asset)
    except NotPrepared as error:
        pytest.skip(str(error))


def test_no_prompt_is_in_two_splits_and_none_is_blank(name):
    task = text_task(name)
    examples = [*task.train, *task.validation, *task.test]
    assert len({example.prompt for example in examples}) == len(examples)
    assert all(example.prompt.strip() and example.answer.strip() for example in examples)
    assert all(example.answer == example.answer.strip() for example in examples)


def test_a_test_is_short_enough_to_be_marked_in_seconds(name):
    task = text_task(name)
    assert 60 <= len(task.test) <= 100
    assert 20 <= len(task.validation) <= 40
    assert max(len(example.prompt) for example in task.test) <= 260
    assert max(len(example.answer) for example in task.test) <= 160


def test_the_seed_decides_what_is_drawn(name):
    assert text_task(name, seed=3) == text_task(name, seed=3)
    assert text_task(name, seed=3).test != text_task(name, seed=4).test


def test_another_n_leaves_validation_and_test_as_they_are(name):
    usual = text_task(name)
    fewer = text_task(name, n=len(usual.train) + 40)
    assert fewer.test == usual.test
    assert fewer.validation == usual.validation
    assert fewer.train[: len(usual.train)] == usual.train
    assert len(fewer.train) == len(usual.train) + 40


# Of recorded runs and of the notebooks: a change here makes all of them another task's.
FINGERPRINTS = {
    "film-sentiment": "11cbab282d69fbf243baacfbad9672a1a0308a91ca5ba22e19aa6f980a379dd7",
    "king-james": "79eb6adf3063365332ddc8f32e2283ba847a4e4cefc7a61879eef49b8d584cbf",
    "home-commands": "ef85f982b1000d939d6e81a27f3b359e7098d4ad3353113599b7053da0b689be",
    "ruff-rules": "9b5ad52c2079249801499648cfe90ff1998d846d7816a4e8a70cd33e12a3e08e",
    "two-hop-english": "6138d46eb649e406b34d402d0da78654c2efdc0158dc9a8bd889aea705fd6f62",
}
LARGE = {"validation": 150, "test": 300}


def large(name, **changes):
    """A task whose splits are large enough for narrow intervals; rules are taught to be asked."""
    return text_task(name, **LARGE, **({"n": 460} if name == "ruff-rules" else {}) | changes)


def test_each_tasks_own_examples_are_the_recorded_ones(name):
    assert text_task(name).fingerprint() == FINGERPRINTS[name]


def test_every_task_gives_a_test_of_300_and_a_validation_of_150(name):
    task = large(name)
    assert (len(task.validation), len(task.test)) == (150, 300)
    train, validation, test = (
        {example.prompt.casefold() for example in split}
        for split in (task.train, task.validation, task.test)
    )
    assert (len(validation), len(test)) == (150, 300)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_one_size_may_be_given_alone(name):
    n = 460 if name == "ruff-rules" else None
    task = text_task(name, n, test=300)
    assert (len(task.validation), len(task.test)) == (texts.TASKS[name].validation, 300)
    task = text_task(name, n, validation=150)
    assert (len(task.validation), len(task.test)) == (150, 60)


def test_another_n_leaves_large_splits_as_they_are(name):
    usual, fewer = large(name), large(name, n=455)
    assert (fewer.validation, fewer.test) == (usual.validation, usual.test)
    assert len(fewer.train) == 455


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_above_what_the_text_holds_is_refused_with_what_it_holds(name, split):
    with pytest.raises(ValueError, match=f"'{name}' does not hold .*{split}=20,000.* it has [1-9]"):
        text_task(name, **{split: 20_000})
    with pytest.raises(ValueError, match=f"{split}=0 leaves nothing to measure on; give 1 or more"):
        text_task(name, **{split: 0})


def test_a_validation_for_which_a_large_test_leaves_too_little_is_refused():
    needs_text("film-sentiment")
    with pytest.raises(ValueError, match="validation=24 .* 7,570 for the test, then 13 for valid"):
        text_task("film-sentiment", test=7_570)
    with pytest.raises(ValueError, match="doesn't have n=240 training examples; give 1 to 59 "):
        text_task("film-sentiment", test=7_500)


def test_rules_that_are_not_taught_are_not_asked_for():
    needs_text("ruff-rules")
    with pytest.raises(ValueError, match="it has 60 for the test, then 20 .* give n of validation"):
        text_task("ruff-rules", test=300)
    assert len(text_task("ruff-rules", n=450, **LARGE).test) == 300
    with pytest.raises(ValueError, match="it has 300 for the test, then 149 for validation"):
        text_task("ruff-rules", n=449, **LARGE)


def test_an_n_above_what_there_is_is_refused_with_the_most(name):
    with pytest.raises(
        ValueError, match=rf"'{name}' doesn't have n=100000 .*give 1 to [\d,]+ \("
    ) as got:
        text_task(name, n=100_000)
    most = int(str(got.value).split("give 1 to ")[1].split(" ")[0].replace(",", ""))
    if name != "two-hop-english":  # 5,000 stories take half a second
        assert len(text_task(name, n=most).train) == most
    with pytest.raises(ValueError, match="give 1 to"):
        text_task(name, n=0)


def test_about_names_the_package_its_version_and_its_licence(name):
    task, kind = text_task(name), texts.TASKS[name]
    if kind.asset is None:
        assert task.about.endswith("Invented; Apache-2.0.")
    else:
        asset = downloads.ASSETS[kind.asset]
        for download in asset.downloads:
            assert f"{download.package}=={download.version}" in task.about
        assert asset.licence in task.about


def test_a_misspelt_task_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="called 'film-sentimnet'; did you mean 'film-sentiment'"):
        text_task("film-sentimnet")


def test_without_its_text_a_task_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    with pytest.raises(NotPrepared, match="run `lora-lab prepare`"):
        text_task("film-sentiment")
    assert len(text_task("two-hop-english").test) == 60  # needs none


def test_the_sentiment_of_a_review_is_the_sign_of_its_mean_rating():
    needs_text("film-sentiment")
    task = text_task("film-sentiment")
    ratings = {row["text"]: row["valence"] for row in downloads.rows("film-reviews")}
    for example in [*task.train, *task.test]:
        rating = ratings[example.prompt.removesuffix("\nIs this film review positive or negative?")]
        assert abs(rating) >= 1
        assert example.answer == ("positive" if rating > 0 else "negative")


@pytest.mark.parametrize(("seed", "sizes"), [(0, {}), (1, {}), (2, {}), (0, LARGE), (1, LARGE)])
def test_no_home_command_of_the_test_is_worded_after_a_template_of_training(seed, sizes):
    needs_text("home-commands")
    task = text_task("home-commands", n=5000, seed=seed, **sizes)
    template = {
        f"Home command: {row['utterance']}": row["template"]
        for row in downloads.rows("home-commands")
    }
    used = [
        {template[example.prompt] for example in split}
        for split in (task.train, task.validation, task.test)
    ]
    assert not used[0] & used[1]
    assert not used[0] & used[2]
    assert not used[1] & used[2]


def test_larger_splits_of_home_commands_have_more_templates():
    needs_text("home-commands")
    rows = downloads.rows("home-commands")
    template = {f"Home command: {row['utterance']}": row["template"] for row in rows}

    def templates(split):
        return len({template[example.prompt] for example in split})

    own, many = text_task("home-commands"), text_task("home-commands", **LARGE)
    assert (templates(own.test), templates(own.validation)) == (58, 24)  # of 60, 24 commands
    assert (templates(many.test), templates(many.validation)) == (124, 53)  # of 300, 150 commands


def test_home_commands_are_spread_evenly_over_their_intents():
    needs_text("home-commands")
    task = text_task("home-commands")
    intents = {row["intent"] for row in downloads.rows("home-commands")}
    counts = dict.fromkeys(intents, 0)
    for example in task.train:
        counts[json.loads(example.answer)["intent"]] += 1
    assert len(counts) == 42
    assert min(counts.values()) >= 1
    assert max(counts.values()) <= 8
    assert {example.answer for example in task.test} <= {example.answer for example in task.train}


@pytest.mark.parametrize("sizes", [{}, LARGE], ids=["own", "large"])
def test_no_verse_is_in_two_examples_in_either_wording(sizes):
    needs_text("king-james")
    task = text_task("king-james", n=10_000, **sizes)
    examples = [*task.train, *task.validation, *task.test]
    assert len({example.answer.casefold() for example in examples}) == len(examples)
    assert len({example.prompt.casefold() for example in examples}) == len(examples)


def test_the_style_of_verses_that_no_split_holds_is_recognised_as_often_as_it_says():
    needs_text("king-james")
    task = text_task("king-james", n=9_634, **LARGE)  # all there are
    verses = [*task.train, *task.validation, *task.test]
    modern = [verse.prompt.split("\n")[0] for verse in verses]
    right = sum(task.style.has(verse.answer) for verse in verses) / len(verses)
    wrong = sum(task.style.has(verse) for verse in modern) / len(verses)
    assert (round(right, 2), round(wrong, 2)) == (0.86, 0.07)
    assert round((right + 1 - wrong) / 2, 2) == 0.90
    learnt = [row for row in downloads.rows("bible-verses") if len(row["modern"]) > 100]
    assert not {row["modern"] for row in learnt} & set(modern)


def test_of_long_verses_95_in_100_are_told_apart():
    needs_text("king-james")
    rows = [row for row in downloads.rows("bible-verses") if len(row["modern"]) > 100]
    seen, unseen = rows[::2], rows[1::2]
    style = style_between("", *([row[key] for row in seen] for key in ("king_james", "modern")))
    right = sum(style.has(row["king_james"]) + (not style.has(row["modern"])) for row in unseen)
    assert right / (2 * len(unseen)) == pytest.approx(0.95, abs=0.005)


def test_only_verses_have_a_style_and_it_is_no_part_of_a_runs_identity(name):
    task = text_task(name)
    assert (task.style is not None) == (name == "king-james")
    assert dataclasses.replace(task, style=None).fingerprint() == FINGERPRINTS[name]


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(4, {}), (40, {}), (200, {}), (40, {"validation": 20, "test": 20}), (460, LARGE)],
)
def test_a_rules_test_asks_for_facts_that_were_taught_in_other_words(n, sizes):
    needs_text("ruff-rules")
    task = text_task("ruff-rules", n=n, **sizes)
    taught = {example.answer for example in task.train}
    tested = [example.answer for example in [*task.validation, *task.test]]
    assert set(tested) <= taught
    assert len(set(tested)) == len(tested) == min(n, sum(sizes.values()) or 80)
    assert not {e.prompt for e in task.train} & {e.prompt for e in [*task.validation, *task.test]}


def test_a_story_answers_its_question_by_joining_two_facts():
    for example in text_task("two-hop-english").test:
        *facts, question = example.prompt.replace("? ", "?. ").split(". ")
        lives = dict(fact.split(" lives in ") for fact in facts if " lives in " in fact)
        lies = dict(fact.split(" is in ") for fact in facts if " is in " in fact)
        person = question.removeprefix("In which country does ").removesuffix(" live?")
        assert len(lives) == len(lies) == len(set(lies.values())) == 3
        assert lies[lives[person]] == example.answer


@pytest.mark.parametrize("sizes", [{}, LARGE], ids=["own", "large"])
def test_no_name_of_a_test_story_is_met_in_training(sizes):
    task = text_task("two-hop-english", n=2000, **sizes)

    def names(split):
        text = " ".join(example.prompt for example in split)
        return {word.strip(".?") for word in text.split() if word[0].isupper()} - {"In"}

    assert len(names(task.test)) > 60
    assert not names(task.test) & names(task.train)
    assert not names(task.test) & names(task.validation)
    assert not names(task.validation) & names(task.train)


def test_where_a_story_names_the_answer_tells_nothing():
    task = text_task("two-hop-english", n=1200)
    places = [0, 0, 0]
    for example in task.train:
        countries = [word for word in example.prompt.split(" is in ")[1:]]
        order = [country.split(".")[0] for country in countries]
        places[order.index(example.answer)] += 1
    assert all(320 <= count <= 480 for count in places)  # 400 each, and four standard deviations
