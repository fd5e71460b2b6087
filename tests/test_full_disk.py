"""A disk that is full or can't be written, and a store that is no folder: one error in words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lora_lab.cli.app import app
from lora_lab.models.learned import save_adapter
from lora_lab.places import NoRoom, append_line
from lora_lab.training import fit as fitting
from lora_lab.training.fit import fit
from lora_lab.training.store import list_runs, open_run, read_store
from lora_lab.training.sweep import sweep
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
WAYS = {"lora": {}, "full": {"method": "full"}, "dora": {"use_dora": True}}


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def mounted(folder, options):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"only root may mount a small disk: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, with 400 kB."""
    folder = tmp_path / "disk"
    mounted(folder, "size=400k")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk, leave):
    """Fill a disk but for some bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filling").write_bytes(bytes(free - leave))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(fitting, "CHECKPOINT_SHARE", float("inf"))


@pytest.mark.parametrize("leave", [0, 4096, 20_000])
@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_told_in_words_and_earlier_runs_stay(base, way, leave, disk):
    store = disk / "store"
    earlier = fit(base, TASK, recipe(r=1, steps=2), store=store)
    before = names(store)
    assert len(before) > 5
    fill(disk, leave)
    with pytest.raises(NoRoom, match="no room in .*No space left.* MB are free.*store=") as error:
        fit(base, TASK, recipe(**WAYS[way]), store=store)
    assert str(store) in str(error.value)
    assert ".new-" not in " ".join([str(error.value), *names(store)])
    assert names(store) == before
    kept = open_run(earlier.path.name, store)
    assert (kept.records, kept.scores) == (earlier.records, earlier.scores)
    assert read_store(store)[1] == []  # nothing is half
    (disk / "filling").unlink()
    if (way, leave) == ("lora", 0):
        whole = fit(base, TASK, recipe(), store=None)
        assert fit(base, TASK, recipe(), store=store).records == whole.records


def test_a_run_goes_on_from_the_step_that_a_full_disk_let_it_keep(base, disk, often, monkeypatch):
    store, write = disk / "store", fitting.RunFolder.write_checkpoint

    def filling(self, checkpoint):
        if len(checkpoint.records) == 6:
            fill(disk, 8192)
        write(self, checkpoint)

    monkeypatch.setattr(fitting.RunFolder, "write_checkpoint", filling)
    words = r"0\.\d+ MB are to be written.*kept up to step 5: the same call goes on from there"
    with pytest.raises(NoRoom, match=words):
        fit(base, TASK, recipe(), store=store)
    (half,) = list_runs(store)
    assert (half.status, len(half.records)) == ("running", 5)
    (disk / "filling").unlink()
    monkeypatch.setattr(fitting.RunFolder, "write_checkpoint", write)
    again = fit(base, TASK, recipe(), store=store)
    assert again.records == fit(base, TASK, recipe(), store=None).records
    assert [r.seconds for r in again.records[:5]] == [r.seconds for r in half.records]


def test_a_run_that_only_its_scores_have_no_room_for_is_kept(base, disk, monkeypatch):
    store, write = disk / "store", fitting.RunFolder.write_scores

    def filling(self, scores):
        fill(disk, 0)
        write(self, scores)

    monkeypatch.setattr(fitting.RunFolder, "write_scores", filling)
    with pytest.raises(NoRoom, match="The run is kept, without its scores"):
        fit(base, TASK, recipe(), store=store)
    (run,) = list_runs(store)
    assert (run.status, run.scores) == ("finished", None)


@pytest.mark.parametrize("engine", ["sequential", "processes"])
def test_a_sweep_on_a_full_disk_keeps_what_it_had(base, engine, disk):
    store = disk / "store"
    earlier = sweep(base, TASK, [recipe(steps=2)], store=store).runs
    fill(disk, 8192)
    with pytest.raises(NoRoom, match="no room in"):
        sweep(base, TASK, [recipe(r=8), recipe(r=16)], store=store, engine=engine)
    kept = [run.records for run in list_runs(store) if run.status == "finished"]
    assert kept == [run.records for run in earlier]
    assert all(not run.records for run in list_runs(store) if run.status == "running")  # killed


@pytest.mark.parametrize("leave", [0, 4096])
def test_a_line_for_which_there_is_no_room_is_told(disk, leave):
    append_line(disk / "lines", "one")
    fill(disk, leave)
    for _ in range(2):
        with pytest.raises(NoRoom, match=f"no room in {disk}"):
            append_line(disk / "lines", "two" * 4096)
    (disk / "filling").unlink()
    append_line(disk / "lines", "three")
    lines = (disk / "lines").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("one", "three")


def test_an_adapter_for_which_there_is_no_room_leaves_nothing(base, disk):
    run = fit(base, TASK, recipe(r=8, steps=2), store=None, evaluate=False)
    fill(disk, 8192)
    with pytest.raises(NoRoom, match=f"no room in {disk} .* are to be written"):
        save_adapter(run, disk / "adapter")
    assert names(disk) == ["filling"]


def test_the_command_line_ends_with_2_and_one_line(base, disk, tmp_path):
    folder = tmp_path / "base"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    letters = tmp_path / "letters.csv"
    rows = [f"{a}{b},{b.upper()}" for a in "abcdefgh" for b in "abcdefgh"]
    letters.write_text("\n".join(["prompt,answer", *rows]))
    fill(disk, 4096)
    for command in (["train"], ["sweep", "--vary", "r=1,2", "--engine", "sequential"]):
        words = [command[0], letters, "--base", folder, "--steps", 4, *command[1:]]
        done = CliRunner().invoke(app, [*map(str, words), "--store", str(disk / "store")])
        assert done.exit_code == 2
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"lora-lab: there is no room in {disk}")
        assert "Traceback" not in done.stderr


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from lora_lab.training import fit as fitting
from lora_lab.places import NoRoom
from lora_lab.training.sweep import sweep
from tiny import letters_task, recipe, tiny_base
fitting.CHECKPOINT_SECONDS = {seconds}
base, task = tiny_base(), letters_task()
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
for go in (
    lambda: fitting.fit(base, task, recipe({way}), store={store!r}),
    lambda: sweep(base, task, [recipe({way})], store={store!r}),
):
    try:
        go()
    except NoRoom as error:
        print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
@pytest.mark.parametrize(("way", "seconds"), [("", 0), ("method='full'", 1000)])
def test_a_file_that_is_too_large_for_the_disk_is_told_in_words(way, seconds, tmp_path):
    values = {"tests": os.path.dirname(__file__), "store": str(tmp_path / "store")}
    script = LIMITED.format(way=way, seconds=seconds, **values)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"there is no room in {tmp_path / 'store'}")
        assert "(File too large)" in line
        assert line.endswith("Nothing of this run is kept")
    assert not [name for name in names(tmp_path) if ".new-" in name]
    assert names(tmp_path / "store") == []


# --- stores that can't be written, or are none ------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("below", [False, True], ids=["a file", "inside a file"])
def test_a_store_that_is_a_file_is_refused_by_everything(base, below, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("precious")
    store = file / "store" if below else file
    for go in (
        lambda: fit(base, TASK, recipe(), store=store),
        lambda: sweep(base, TASK, [recipe()], store=store),
        lambda: list_runs(store),
        lambda: open_run("x", store),
    ):
        with pytest.raises(NotADirectoryError, match=f"the store {store} .*{file} is a file"):
            go()
    monkeypatch.setenv("LORA_LAB_STORE", str(store))
    for words in (["runs"], ["runs", "--json"], ["chat", "x", "hello"], ["export", "x", "y"]):
        for more in ([], ["--store", store]):
            done = run(*words, *more)
            assert (done.exit_code, done.stdout) == (2, "")
            assert done.stderr.startswith(f"lora-lab: the store {store} can't be a folder")
    assert file.read_text() == "precious"


def test_a_store_that_can_only_be_read_replays_and_says_why_it_does_no_more(base, tmp_path):
    disk = tmp_path / "disk"
    mounted(disk, "size=4m")
    try:
        store = disk / "store"
        first = fit(base, TASK, recipe(), store=store)
        again = ["mount", "-o", "remount,ro", str(disk)]
        subprocess.run(again, check=True)
        replayed = fit(base, TASK, recipe(), store=store)
        assert replayed.replayed
        assert replayed.records == first.records
        assert [run.records for run in list_runs(store)] == [first.records]
        assert json.loads(run("runs", "--store", store, "--json").stdout)[0]["steps"] == 12
        for go in (
            lambda: fit(base, TASK, recipe(seed=1), store=store),
            lambda: fit(base, TASK, recipe(), store=store, fresh=True),
            lambda: fit(base, TASK, recipe(), store=disk / "another"),
        ):
            with pytest.raises(PermissionError, match=f"nothing can be written in {disk}.*own"):
                go()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
