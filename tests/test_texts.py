import json

import pytest

from lora_lab.assets import downloads
from lora_lab.places import NotPrepared
from lora_lab.tasks import texts
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


def test_an_n_above_what_there_is_is_refused_with_the_most(name):
    with pytest.raises(ValueError, match=rf"n=100000 .* from '{name}'; give 1 to [\d,]+ \(") as got:
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


@pytest.mark.parametrize("seed", range(3))
def test_no_home_command_of_the_test_is_worded_after_a_template_of_training(seed):
    needs_text("home-commands")
    task = text_task("home-commands", n=5000, seed=seed)
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


def test_no_verse_is_the_answer_to_two():
    needs_text("king-james")
    task = text_task("king-james", n=10_000)
    answers = [example.answer for example in [*task.train, *task.validation, *task.test]]
    assert len({answer.casefold() for answer in answers}) == len(answers)


@pytest.mark.parametrize("n", [4, 40, 200])
def test_a_rules_test_asks_for_facts_that_were_taught_in_other_words(n):
    needs_text("ruff-rules")
    task = text_task("ruff-rules", n=n)
    taught = {example.answer for example in task.train}
    tested = [example.answer for example in [*task.validation, *task.test]]
    assert set(tested) <= taught
    assert len(set(tested)) == len(tested) == min(n, 80)
    assert not {e.prompt for e in task.train} & {e.prompt for e in [*task.validation, *task.test]}


def test_a_story_answers_its_question_by_joining_two_facts():
    for example in text_task("two-hop-english").test:
        *facts, question = example.prompt.replace("? ", "?. ").split(". ")
        lives = dict(fact.split(" lives in ") for fact in facts if " lives in " in fact)
        lies = dict(fact.split(" is in ") for fact in facts if " is in " in fact)
        person = question.removeprefix("In which country does ").removesuffix(" live?")
        assert len(lives) == len(lies) == len(set(lies.values())) == 3
        assert lies[lives[person]] == example.answer


def test_no_name_of_a_test_story_is_met_in_training():
    task = text_task("two-hop-english", n=2000)

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
