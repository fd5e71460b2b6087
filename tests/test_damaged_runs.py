"""One damaged run is named, and stands in nobody's way."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lora_lab.cli.app import app
from lora_lab.cli.resolve import find_model
from lora_lab.training import fit as fitting
from lora_lab.training.fit import fit
from lora_lab.training.run_files import DamagedRun
from lora_lab.training.store import list_runs, open_run, read_run, read_store
from test_store import stop_after
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
GOOD, BAD = recipe(seed=0), recipe(seed=1)  # the recipes of the run that stays, and of the other
DIRECTORY = object()
CONTENTS = {
    "empty": b"",
    "binary": bytes(range(256)),
    "a list": b"[]",
    "null": b"null",
    "a text": b'"x"',
    "a number": b"3",
    "deep": b"[" * 100_000,
    "long digits": b"1" * 5_000,
    "a half": None,
    "a directory": DIRECTORY,
}
FILES = ["run.json", "records.jsonl", "scores.json", "checkpoint.safetensors"]


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A store with two finished runs; and one whose second run was killed after step 5."""
    finished, running = (tmp_path_factory.mktemp("stores") / name for name in ("two", "half"))
    fit(base, TASK, GOOD, store=finished)
    shutil.copytree(finished, running)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "CHECKPOINT_SECONDS", 0)
        patch.setattr(fitting, "CHECKPOINT_SHARE", float("inf"))
        stop_after(patch, 5)
        with pytest.raises(MemoryError):
            fit(base, TASK, BAD, store=running)
    fit(base, TASK, BAD, store=finished)
    return {"finished": finished, "running": running}


def copied(whole, name, place):
    """A copy of the store in which the file is, and the path of the second run in it."""
    store = Path(shutil.copytree(whole["running" if "checkpoint" in name else "finished"], place))
    (path,) = [run.path for run in list_runs(store) if run.recipe == BAD]
    return store, path


def damage(file, content):
    whole = file.read_bytes()
    if content is DIRECTORY:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(whole[: len(whole) // 2] if content is None else content)


def changed(file, change):
    words = json.loads(file.read_text())
    change(words)
    file.write_text(json.dumps(words))


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_other_runs_go_on(whole, name, content, tmp_path):
    store, path = copied(whole, name, tmp_path / "store")
    damage(path / name, CONTENTS[content])
    runs, (damaged,) = read_store(store)
    assert [run.recipe for run in runs] == [GOOD]
    assert (damaged.path, damaged.name) == (path, name)
    with pytest.warns(UserWarning, match=f"left out of the list: the run in .*{path.name}"):
        assert [run.recipe for run in list_runs(store)] == [GOOD]
    with pytest.raises(DamagedRun, match=f"its {name} .*train it again"):
        open_run(path.name, store)
    assert open_run(runs[0].path.name, store).records == runs[0].records


@pytest.mark.parametrize("content", ["binary", "a list", "a half", "a directory"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_run_is_made_anew_and_what_was_there_is_kept(
    base, whole, name, content, tmp_path
):
    store, path = copied(whole, name, tmp_path / "store")
    expected = fit(base, TASK, BAD, store=None)
    damage(path / name, CONTENTS[content])
    there = None if content == "a directory" else (path / name).read_bytes()
    with pytest.warns(UserWarning, match=f"is damaged: its {name} .*{name}.damaged is kept"):
        again = fit(base, TASK, BAD, store=store)
    assert again.records == expected.records
    assert again.scores == expected.scores
    assert again.replayed == (name == "scores.json")  # it is only scored again
    if there is not None:
        assert (path / f"{name}.damaged").read_bytes() == there
    assert read_store(store)[1] == []
    assert fit(base, TASK, BAD, store=store).replayed


@pytest.mark.parametrize("name", FILES[:3])
def test_a_file_that_may_not_be_read_is_damage(whole, name, tmp_path, monkeypatch):
    store, path = copied(whole, name, tmp_path / "store")
    real = Path.read_text

    def forbidden(self, *arguments, **options):
        if self == path / name:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", forbidden)
    runs, (damaged,) = read_store(store)
    assert [run.recipe for run in runs] == [GOOD]
    assert damaged.reason == "can't be read (Permission denied)"


def without(name):
    return lambda words: words.pop(name)


def saying(**changes):
    return lambda words: words.update(changes)


def of_recipe(**changes):
    return lambda words: words["recipe"].update(changes)


FIELDS = ["status", "message", "recipe", "base_name", "base_path", "task_name", "about", "date"]
ODD = [
    *[without(name) for name in FIELDS],
    *[saying(**{name: 3}) for name in FIELDS],
    saying(status="paused"),
    saying(date="yesterday"),
    saying(date="0001-01-01T00:00:00"),
    saying(budget=[]),
    saying(budget={"memory": 3}),
    of_recipe(r="8"),
    of_recipe(steps=None),
    of_recipe(method="vera"),
    of_recipe(target_modules={"a": 1}),
    lambda words: words["recipe"].update({"": 1}),
]


@pytest.mark.parametrize("place", range(len(ODD)))
def test_a_note_with_odd_words_is_damage(whole, place, tmp_path):
    store, path = copied(whole, "run.json", tmp_path / "store")
    changed(path / "run.json", ODD[place])
    runs, damaged = read_store(store)
    assert [run.recipe for run in runs] == [GOOD]
    assert [error.path for error in damaged] == [path]


def test_a_recipe_with_a_field_of_a_later_version_says_which_version_made_it(whole, tmp_path):
    store, path = copied(whole, "run.json", tmp_path / "store")
    changed(path / "run.json", of_recipe(router="top-2"))
    changed(path / "run.json", saying(version="9.1"))
    with pytest.raises(DamagedRun, match=r"'router' \(lora-lab 9.1 made it\)"):
        read_run(path)


def test_what_a_later_version_adds_beside_the_recipe_does_no_harm(whole, tmp_path):
    store, path = copied(whole, "run.json", tmp_path / "store")
    before = read_run(path)
    changed(path / "run.json", saying(colour="red"))
    changed(path / "scores.json", saying(speed=3.5))
    lines = (path / "records.jsonl").read_text().splitlines()
    lines = [json.dumps(json.loads(line) | {"entropy": 1.5}) for line in lines]
    (path / "records.jsonl").write_text("\n".join(lines))
    after = read_run(path)
    assert (after.records, after.scores) == (before.records, before.scores)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[1:],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:3], lines[3].replace('"loss": ', '"loss": "x", "more": ')],
        lambda lines: [line.replace('"tokens"', '"words"') for line in lines],
    ],
    ids=["one less", "the first gone", "one twice", "a text", "a missing field"],
)
def test_records_that_are_not_those_of_a_whole_run_are_damage(whole, change, tmp_path):
    store, path = copied(whole, "records.jsonl", tmp_path / "store")
    file = path / "records.jsonl"
    file.write_text("\n".join(change(file.read_text().splitlines())))
    with pytest.raises(DamagedRun, match="its records.jsonl"):
        read_run(path)


def test_a_checkpoint_without_metadata_is_damage(whole, base, tmp_path):
    from safetensors.torch import load_file, save_file

    store, path = copied(whole, "checkpoint.safetensors", tmp_path / "store")
    file = path / "checkpoint.safetensors"
    save_file(load_file(file), file)
    assert [error.name for error in read_store(store)[1]] == [file.name]
    with pytest.warns(UserWarning, match="checkpoint.safetensors.damaged is kept"):
        again = fit(base, TASK, BAD, store=store)
    assert again.records == fit(base, TASK, BAD, store=None).records


def test_a_checkpoint_with_other_tensors_than_the_training_has_is_begun_again(
    whole, base, tmp_path
):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    store, path = copied(whole, "checkpoint.safetensors", tmp_path / "store")
    file = path / "checkpoint.safetensors"
    with safe_open(file, "pt") as opened:
        words = opened.metadata()
    tensors = load_file(file)
    name = next(name for name in tensors if name.startswith("weight."))
    for less in ({}, {name: tensors[name][:2]}):
        save_file(
            {key: tensor for key, tensor in tensors.items() if key != name} | less, file, words
        )
        with pytest.warns(UserWarning, match="can't be gone on from"):
            again = fit(base, TASK, BAD, store=store)
        assert again.records == fit(base, TASK, BAD, store=None).records
        (path / "run.json").unlink()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("content", ["empty", "a list", "a half", None])
def test_a_run_whose_adapter_is_damaged_or_gone_is_trained_again(
    base, whole, name, content, tmp_path
):
    store, path = copied(whole, "learnt", tmp_path / "store")
    if content is None:
        (path / "learnt" / name).unlink()
    else:
        damage(path / "learnt" / name, CONTENTS[content])
    with pytest.raises(DamagedRun, match="its learnt"):
        _ = read_run(path).learned
    with pytest.warns(UserWarning, match="its learnt can't be read"):
        again = fit(base, TASK, BAD, store=store)
    assert not again.replayed
    assert again.learned.tensors.keys() == read_run(path).learned.tensors.keys()


def test_fresh_replaces_a_damaged_run_without_a_word(base, whole, tmp_path, recwarn):
    store, path = copied(whole, "run.json", tmp_path / "store")
    damage(path / "run.json", b"[]")
    fit(base, TASK, BAD, store=store, fresh=True)
    assert not [warning for warning in recwarn if "damaged" in str(warning.message)]
    assert not list(path.glob("*.damaged"))


# --- the command line ------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("name", FILES)
def test_the_command_line_lists_a_damaged_run_and_works_on(base, whole, name, tmp_path):
    store, path = copied(whole, name, tmp_path / "store")
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    damage(path / name, b"\x00\xff")
    listed = run("runs", "--store", store)
    assert listed.exit_code == 0
    assert "damaged" in listed.stdout
    assert f"the run in {path} is damaged: its {name}" in listed.stderr
    rows = json.loads(run("runs", "--store", store, "--json").stdout)
    assert [row["status"] for row in rows] == ["finished", "damaged"]
    assert rows[1]["name"] == path.name
    assert rows[0].keys() == rows[1].keys()
    words = ("--store", store, "--base", tmp_path / "base")
    exported = run("export", rows[0]["name"], tmp_path / "adapter", *words)
    assert exported.exit_code == 0, exported.stderr
    refused = run("export", path.name, tmp_path / "other", "--store", store)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"lora-lab: the run in {path} is damaged: its {name}")


def test_a_training_beside_a_damaged_run_ends_well_and_so_does_a_question(base, whole, tmp_path):
    store, path = copied(whole, "run.json", tmp_path / "store")
    damage(path / "run.json", b"{")
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    letters = tmp_path / "letters.csv"
    rows = [f"{a}{b},{b.upper()}" for a in "abcdefgh" for b in "abcdefgh"]
    letters.write_text("\n".join(["prompt,answer", *rows]))
    words = ["--base", tmp_path / "base", "--steps", 2, "--store", store]
    trained = run("train", letters, *words)
    assert trained.exit_code == 0, trained.stderr
    assert "The run is kept" in trained.stdout
    asked = run("chat", "--store", store, "--max-new-tokens", 1)  # no question: through a pipe
    assert "question is empty" in asked.stderr
    found = find_model(None, store=store)
    assert found.run.task_name == "letters.csv"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_stands_in_a_file_the_list_is_printed(whole, data, tmp_path_factory):
    store = tmp_path_factory.mktemp("random") / "store"
    name = data.draw(st.sampled_from(["run.json", "records.jsonl", "scores.json"]))
    store, path = copied(whole, name, store)
    first, *others = (path / name).read_text().splitlines()
    words = json.loads((path / name).read_text()) if name != "records.jsonl" else json.loads(first)
    inside = words["recipe"] if name == "run.json" and data.draw(st.booleans()) else words
    inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(JSON)
    text = json.dumps(words)
    text = "\n".join([text, *others]) if name == "records.jsonl" else text
    (path / name).write_text(data.draw(st.sampled_from([text, text[:-1], f"[{text}"])))
    listed = run("runs", "--store", store)
    assert listed.exit_code == 0, listed.stderr
    assert len(listed.stdout.splitlines()) == 3
    as_json = run("runs", "--store", store, "--json")
    assert len(json.loads(as_json.stdout)) == 2


# --- other processes at the same time --------------------------------------------------------


def test_a_list_stands_while_its_runs_are_trained_anew_and_deleted(base, tmp_path):
    store, stop = tmp_path / "store", threading.Event()
    fit(base, TASK, GOOD, store=store, evaluate=False)

    def replace():
        while not stop.is_set():
            fit(base, TASK, recipe(seed=2, steps=2), store=store, evaluate=False, fresh=True)

    def delete():
        while not stop.is_set():
            copy = shutil.copytree(read_store(store)[0][-1].path, tmp_path / "copy")
            Path(copy).rename(store / "copy")
            shutil.rmtree(store / "copy", ignore_errors=True)

    threads = [threading.Thread(target=replace), threading.Thread(target=delete)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            runs, damaged = read_store(store)
            assert GOOD in [run.recipe for run in runs]
            assert {error.path.name for error in damaged} <= {"copy"}  # one file after the other
            for run in runs:
                assert len(run.records) in (0, run.recipe.steps)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_each_file_of_a_run_is_read_once(whole, tmp_path, monkeypatch):
    store, path = copied(whole, "run.json", tmp_path / "store")
    read, real = [], Path.read_text

    def counted(self, *arguments, **options):
        read.append(self)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", counted)
    list_runs(store)
    assert len(read) == len(set(read)) == 3 * 2
    read.clear()
    open_run(path.name[-6:], store)
    assert {file.parent for file in read} == {path}  # the others' names are enough
    assert len(read) == 3
