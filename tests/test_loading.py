import pytest

from lora_lab.models.bases import load_base
from lora_lab.tasks import pocket, texts
from lora_lab.tasks.loading import NAMES, list_tasks, load_task


def test_every_name_of_the_design_is_there():
    assert NAMES == {"pocket": pocket.NAMES, "smollm2": texts.NAMES}
    assert set(pocket.NAMES) == {
        "sentiment",
        "style",
        "new-facts",
        "json",
        "two-hop",
        "two-hop-chain",
    }
    assert set(texts.NAMES) == {
        "film-sentiment",
        "king-james",
        "home-commands",
        "ruff-rules",
        "two-hop-english",
    }


@pytest.mark.parametrize("listed", list_tasks(), ids=lambda listed: listed.name)
def test_the_list_tells_of_each_task_what_it_has_once_it_is_made(listed):
    if not listed.prepared:
        pytest.skip(f"the text of {listed.name} is not prepared: run `lora-lab prepare`")
    task = load_task(listed.name)
    row = (listed.name, listed.metric, listed.train, listed.validation, listed.test, listed.about)
    splits = (len(task.train), len(task.validation), len(task.test))
    assert row == (task.name, task.metric, *splits, task.about)
    assert listed.name in NAMES[listed.base]
    assert listed.licence in task.about


def test_a_task_whose_text_is_not_here_is_listed_so(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    here = {listed.name for listed in list_tasks() if listed.prepared}
    assert here == {*pocket.NAMES, "two-hop-english"}  # the rest is real text


@pytest.mark.parametrize("name", pocket.NAMES)
def test_n_counts_the_training_examples_and_the_seed_draws_them(name):
    task = load_task(name, n=20, seed=1)
    assert (task.name, len(task.train)) == (name, 20)
    assert task.fingerprint() == load_task(name, n=20, seed=1).fingerprint()
    assert task.train != load_task(name, n=20, seed=2).train


def test_a_file_is_read_by_its_columns(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("question,reply\n" + "".join(f"q{i},a{i}\n" for i in range(20)))
    task = load_task(file, prompt="question", answer="reply")
    assert {example.answer for example in task.train} <= {f"a{i}" for i in range(20)}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"name_or_file": "sentimnet"}, ValueError, "did you mean 'sentiment'"),
        ({"name_or_file": "mine.csv"}, FileNotFoundError, "mine.csv"),
        ({"name_or_file": "style", "n": 0}, ValueError, "n=0 leaves nothing"),
        ({"name_or_file": "style", "n": 2.5}, TypeError, "n=2.5 is not a number of examples"),
        ({"name_or_file": "new-facts", "n": 10**6}, ValueError, "1,?000,?000"),
    ],
)
def test_what_cannot_be_loaded_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        load_task(**given)


def test_pockets_tasks_are_refused_for_a_base_that_has_not_seen_its_world():
    base = load_base("pocket")
    assert load_task("style", base).name == "style"
    base.name = "smollm2"
    with pytest.raises(ValueError, match="pocket's invented world.*give one of film-sentiment"):
        load_task("style", base)
