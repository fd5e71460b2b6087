import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_lab import places
from lora_lab.places import (
    attempts_file,
    cache_folder,
    cached_value,
    check_writable,
    data_folder,
    folder_name,
    make_folder_atomically,
    notebooks_folder,
    predictions_file,
    sha256_of,
    store_folder,
    write_atomically,
)


def test_a_checkouts_own_data_and_notebooks_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[1]
    assert data_folder() == root / "data"
    assert notebooks_folder() == root / "notebooks"


def test_cache_and_store_go_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_LAB_STORE", str(tmp_path / "store"))
    assert (cache_folder(), store_folder()) == (tmp_path / "cache", tmp_path / "store")
    monkeypatch.delenv("LORA_LAB_STORE")
    assert store_folder().parts[-2:] == ("lora-lab", "runs")


@pytest.mark.parametrize(
    ("folder", "variable"), [(cache_folder, "LORA_LAB_CACHE"), (store_folder, "LORA_LAB_STORE")]
)
def test_without_a_home_the_variable_to_set_is_named(folder, variable, monkeypatch):
    def homeless(*_):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    monkeypatch.setattr(platformdirs, "user_data_path", homeless)
    with pytest.raises(FileNotFoundError, match=f"no home folder.*set {variable} to a folder"):
        folder()


def test_a_folder_that_can_not_be_written_is_refused_before_it_is_made(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "deep", "--out FOLDER")
    assert not (tmp_path / "new").exists()

    def refused(dir):
        assert dir == tmp_path
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(PermissionError, match="nothing can be written in .*deep.*: --out FOLDER"):
        check_writable(tmp_path / "new" / "deep", "--out FOLDER")


@pytest.mark.parametrize("place", [".", "runs/.", "runs"])
def test_predictions_and_attempts_lie_beside_any_store(place, tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.chdir(folder if place == "." else tmp_path)
    monkeypatch.setenv("LORA_LAB_STORE", place)
    assert predictions_file() == tmp_path / "runs-predictions.jsonl"
    assert attempts_file() == tmp_path / "runs-attempts.jsonl"


ORDINARY = [
    "new-facts",
    "planted-r4",
    "my.csv",
    "two_hop",
    "Fragen (2).tsv",
    "données",
    "問題",
    "v1.2",
]


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_name_is_its_folders_name(name):
    assert folder_name(name) == name


ODD = ["../../escaped", "Q/A set", "a\\b", "", " ", ".", "..", "...", ".hidden", "~root", "--help"]
ODD += ["CON", "con.txt", "NUL .x", "COM1", "LPT³.csv", "CONOUT$", "name.", "name ", "C:", "a:b"]
ODD += ["x\0y", "line\nbreak", "\ud800", "\u202egnp", "é" * 300, "long" * 100, "*", "a|b<c>?"]


@given(st.sampled_from(ODD) | st.text())
def test_any_name_gives_a_folder_on_every_system(name):
    folder = folder_name(name)
    assert folder
    assert len(folder.encode()) <= 201
    assert folder.isprintable()
    assert folder[0] not in ".-~ "
    assert folder[-1] not in ". "
    assert not set(folder) & set('<>:"/\\|?*')
    assert Path(folder).parts == (folder,)
    assert PureWindowsPath(folder).parts == (folder,)
    assert not PureWindowsPath(folder).is_reserved()
    assert folder_name(folder) == folder


def test_a_file_with_the_longest_name_is_written_atomically(tmp_path):
    path = tmp_path / ("n" * 255)
    with write_atomically(path) as new:
        new.write_text("one")
    with make_folder_atomically(tmp_path / ("f" * 255)) as new:
        (new / "file").write_text("one")
    assert sorted(len(entry.name) for entry in tmp_path.iterdir()) == [255, 255]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    with write_atomically(path) as new:
        new.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError), write_atomically(path) as new:
        raise RuntimeError(new.write_text("tw"))
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_file_written_so_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "usual").touch()
    with write_atomically(tmp_path / "ours"):
        pass
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "ours")}
    assert len(modes) == 1


def test_a_folder_appears_whole_replaces_the_old_one_and_survives_a_failure(tmp_path):
    path = tmp_path / "folder"
    for text in ("one", "two"):
        with make_folder_atomically(path) as new:
            (new / text).write_text(text)
    with pytest.raises(RuntimeError), make_folder_atomically(path) as new:
        raise RuntimeError
    assert [entry.name for entry in path.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_the_checksum_is_the_one_that_everybody_reckons(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")


@dataclass(frozen=True)
class Reading:
    name: str
    sizes: tuple[int, ...]
    error: float


class Maker:
    """A function that makes a value, and counts its calls."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    return tmp_path


def test_a_cached_value_is_made_once_and_read_as_the_same_record(cache):
    make = Maker(Reading("é", (1, 2), 0.1))
    values = [cached_value("readings", ("a", "b"), Reading, make) for _ in range(3)]
    assert values == [make.value] * 3
    assert make.calls == 1
    cached_value("readings", ("a", "c"), Reading, make)
    assert make.calls == 2


def test_a_damaged_cached_value_is_made_again(cache):
    make = Maker(Reading("x", (), 1.0))
    cached_value("readings", ("a",), Reading, make)
    (file,) = (cache / "readings").iterdir()
    for damaged in (b"", b"{}", b"\xff", b'{"name": 1, "sizes": [], "error": 1}'):
        file.write_bytes(damaged)
        assert cached_value("readings", ("a",), Reading, make) == make.value
    assert make.calls == 5


def test_a_cache_that_can_not_be_written_still_gives_the_value(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path / "file"))
    assert cached_value("readings", ("a",), float, lambda: 0.5) == 0.5


def test_the_cached_values_used_least_recently_are_dropped(cache, monkeypatch):
    monkeypatch.setattr(places, "MOST_CACHED", 10)
    for number in range(10):
        cached_value("numbers", (str(number),), float, lambda number=number: float(number))
        (newest,) = {*(cache / "numbers").iterdir()} - {
            path for path in (cache / "numbers").iterdir() if path.stat().st_mtime < 1000
        }
        os.utime(newest, (number, number))
    cached_value("numbers", ("0",), float, Maker(9.9))  # used again: the newest now
    cached_value("numbers", ("10",), float, lambda: 10.0)
    left = sorted(float(path.read_text()) for path in (cache / "numbers").iterdir())
    assert left == [0.0, *(float(number) for number in range(3, 11))]
