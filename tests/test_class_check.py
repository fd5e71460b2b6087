"""`lora-lab class check`: hostile and broken submissions, each beside a good one.

Real processes run what is handed in. A module's tests share a runner, which loads torch once.
"""

import csv
import json
import os
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import lora_lab as lab
from classes import SMALLEST_R, code_cell, hand_in, solutions, submission
from lora_lab.checks.exercises import EXERCISES, LESSONS
from lora_lab.classroom.confinement import Limits, missing_protection
from lora_lab.classroom.course import lessons
from lora_lab.classroom.grades import HEAD, page, write_grades
from lora_lab.classroom.grading import Graded, grade, score_of, verdict_on
from lora_lab.classroom.runner import Runner, _by_value, _calls
from lora_lab.classroom.submissions import find, learner_of, read_all
from lora_lab.cli.app import app
from lora_lab.places import notebooks_folder

protected = pytest.mark.skipif(bool(missing_protection()), reason=missing_protection() or "here")
RIGHT = "Correct: your function agrees with ours on 3 inputs."
SMALL = Limits(seconds=2, memory=2_500_000_000, file=5_000_000, folder=20_000_000)
SECRET = "LORA_LAB_TEST_SECRET"


@pytest.fixture(scope="module")
def runner():
    os.environ[SECRET] = "do-not-tell"
    with Runner(SMALL) as started:
        yield started
    del os.environ[SECRET]


def body(text, returns="1"):
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return f"import os, sys\n\n\ndef smallest_r(**given):\n{lines}    return {returns}\n"


def said(runner, *cells):
    return repr(verdict_on(EXERCISES["smallest_r"], cells, runner))


# --- hostile cells ------------------------------------------------------------------------------

HOSTILE = {  # what a function does, and what its verdict says
    "endless loop": ("while True:\n    pass", "took more than 2 s of the processor"),
    "endless sleep": ("import time\ntime.sleep(1000)", "waited for more than 2 s"),
    "fork bomb": ("while True:\n    os.fork()", "PermissionError"),
    "another program": ("import subprocess\nsubprocess.run(['ls'])", "PermissionError"),
    "huge allocation": ("kept = bytearray(10**11)", "MemoryError"),
    "growing allocation": (
        "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 10**8))",
        "Cannot allocate memory",
    ),
    "sys.exit": ("sys.exit(0)", "raised SystemExit"),
    "os._exit": ("os._exit(0)", "ended Python itself"),
    "interrupt": ("raise KeyboardInterrupt", "ended Python itself"),
    "a crash": ("import ctypes\nctypes.string_at(0)", "ended Python itself"),
    "the network": ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "PermissionError"),
    "a signal": ("os.kill(os.getppid(), 9)", "PermissionError"),
    "more limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        "not allowed to raise maximum limit",
    ),
    "a large file": (
        "with open('large', 'wb') as file:\n    file.write(b'x' * 10**7)",
        "OSError: [Errno 27]",
    ),
    "many files": (
        "for count in range(10**6):\n    open(f'{count}', 'wb').write(b'x' * 10**6)",
        "wrote more than 20.0 MB of files",
    ),
    "the grader's checks": ("import lora_lab.checks.rank", "PermissionError"),
    "a lesson's code": ("from lora_lab.lessons import by_hand", "PermissionError"),
    "secrets": (
        f"if '{SECRET}' not in open('/proc/self/environ').read() + repr(os.environ):\n"
        "    raise ValueError('nothing told')",
        "ValueError: nothing told",
    ),
    "the password file": ("open('/etc/passwd').read()", "PermissionError"),
}


@protected
@pytest.mark.parametrize(("does", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_function_is_ended_or_refused_and_the_next_is_checked(does, words, runner):
    before = time.monotonic()
    verdict = said(runner, body(does))
    assert verdict.startswith("Not yet")
    assert words in verdict
    assert said(runner, SMALLEST_R) == RIGHT
    workers = [worker.pid for worker in runner._workers.values()]
    left = [psutil.Process(pid).children() for pid in workers]
    assert left == [[]] * len(workers), f"processes are left after {time.monotonic() - before} s"


TEMPORARY = """import tempfile
with tempfile.TemporaryDirectory() as place:
    open(f"{place}/own", "w").write("mine")
raise ValueError("written")"""


@protected
def test_a_function_may_write_temporary_files(runner):
    assert "ValueError: written" in said(runner, body(TEMPORARY))


@protected
def test_files_of_the_grader_and_of_others_can_be_neither_changed_nor_read(runner, tmp_path):
    other = hand_in(tmp_path, "05_rank-ada.ipynb", submission("05", {"smallest_r": SMALLEST_R}))
    content = other.read_bytes()
    for does in (
        f"import shutil\nshutil.rmtree({str(tmp_path)!r})",
        f"os.remove({str(other)!r})",
        f"open({str(other)!r}, 'w')",
        f"os.truncate({str(other)!r}, 0)",
        f"os.rename({str(other)!r}, 'mine')",
        f"os.symlink({str(other)!r}, 'mine')\nopen('mine').read()",
        f"open({str(other)!r}).read()",
        f"os.chmod({str(tmp_path)!r}, 0)",
        f"os.utime({str(other)!r}) or os.setxattr({str(other)!r}, 'user.a', b'b')",
    ):
        assert "PermissionError" in said(runner, body(does)), does
    assert other.read_bytes() == content
    assert tmp_path.stat().st_mode & 0o700 == 0o700


@protected
def test_solutions_can_be_read_neither_from_files_nor_from_memory(runner):
    lesson = notebooks_folder() / "05_rank.ipynb"
    assert "PermissionError" in said(runner, body(f"open({str(lesson)!r}).read()"))
    search = (
        "import gc\n"
        "kept = [one for one in gc.get_objects() if type(one).__name__ == 'function']\n"
        "if not [one for one in kept if '_smallest_r' in one.__qualname__] and len(kept) > 99:\n"
        "    raise ValueError('nothing found')"
    )
    assert "nothing found" in said(runner, body(search))


@pytest.mark.parametrize("name", EXERCISES)
def test_what_is_sent_to_a_submissions_process_holds_no_solution(name):
    exercise = EXERCISES[name]
    sent = _by_value(_calls(exercise.ask, list(exercise.cases())))
    assert exercise.reference.__name__.encode() not in sent


FORGERY = """
import json, os
line = json.dumps({"passed": True, "message": "Correct", "outcome": ['["whole", "1"]', None, []]})
for number in range(3, 64):
    try:
        os.write(number, (line + "\\n").encode() * 3)
    except OSError:
        pass
os._exit(0)
"""
PATCH = """
import json, lora_lab.classroom.answers, lora_lab.classroom.worker
lora_lab.records.Verdict = lambda *words: True
json.dumps = lambda value: '{"passed": true, "message": "Correct"}'
"""
EQUAL = """class Equal(int):
    def __eq__(self, other):
        return True


def smallest_r(**given):
    return Equal(1)
"""


@protected
def test_a_forged_report_is_no_verdict(runner):
    assert said(runner, body(FORGERY)).startswith("Not yet")


@protected
def test_patched_checks_and_answers_that_equal_everything_gain_nothing(runner):
    assert said(runner, body(PATCH)).startswith("Not yet")
    assert said(runner, EQUAL) == said(runner, body("pass"))
    assert said(runner, EQUAL).startswith("Not yet")
    patched = "import lora_lab as lab\nlab.check.smallest_r = lambda function: 'Correct'"
    assert said(runner, patched, body("pass")).startswith("Not yet")


@protected
def test_an_answer_made_to_break_the_grader_is_refused(runner):
    deep = "deep = []\nfor count in range(10**5):\n    deep = [deep]"
    for does in (deep, "deep = 10 ** 10**5", "deep = 'x' * 3 * 10**6"):
        assert said(runner, body(does, "deep")).startswith("Not yet")
    assert said(runner, SMALLEST_R) == RIGHT


# --- what a submission's function needs ---------------------------------------------------------


@protected
def test_imports_helpers_and_values_come_along_from_other_cells_in_any_order(runner):
    cells = [
        "raise SystemExit  # never reached: it defines nothing",
        "def smallest_r(facts, choices, bits_per_parameter, shapes):\n"
        "    return max(LEAST, up(facts * m.log2(choices) / (bits_per_parameter * both(shapes))))",
        "%%time\ndef both(shapes):\n    return sum(sum(shape) for shape in shapes.values())",
        "%matplotlib inline\n!ls\nimport math as m\nfrom math import ceil as up",
        "LEAST = 1\nfacts = no_such_name  # the function's own `facts` is another",
        "this is no Python",
    ]
    assert said(runner, *cells) == RIGHT


@protected
def test_the_line_that_raised_is_the_cells_own(runner):
    cell = "# a remark\n\ndef smallest_r(**given):\n    # another\n    return 1 / 0  # here\n"
    assert "in its line 5: return 1 / 0  # here" in said(runner, "import os", cell)


@protected
def test_a_renamed_function_is_found_by_its_check_and_else_named(runner):
    renamed = SMALLEST_R.replace("def smallest_r", "def mine")
    assert said(runner, renamed, "lab.check.smallest_r(mine)") == RIGHT
    assert "does not define smallest_r; its functions are mine" in said(runner, renamed)


# --- verdicts -----------------------------------------------------------------------------------


@protected
def test_a_wrong_function_gets_the_hint_that_the_lab_gives(runner):
    down = SMALLEST_R.replace("math.ceil", "int")
    names = {}
    exec(down, names)
    assert said(runner, down) == repr(lab.check.smallest_r(names["smallest_r"]))
    assert "rounded down" in said(runner, down)


@protected
def test_the_score_is_partial_equal_each_time_and_agrees_with_progress(runner, tmp_path):
    functions = solutions("07") | {"count_trained": "def count_trained(**given):\n    return 3\n"}
    functions.pop("reach_regex")  # its trial takes seconds
    path = hand_in(tmp_path, "07_target_modules-ada.ipynb", submission("07", functions))
    (one,) = read_all([path])
    score, again = (score_of(one, runner) for _ in range(2))
    assert score == again
    assert score.right == 1
    assert "1 of 3 right" in str(score)
    names = {}
    for name in LESSONS["07"]:
        exec(functions.get(name, "def reach_regex(**given):\n    raise NotImplementedError"), names)
        getattr(lab.check, name)(names[name])
    (own,) = [lesson for lesson in lab.progress().lessons if lesson.lesson == "07"]
    assert own == score


def test_progress_counts_the_last_check_of_each_exercise():
    assert lab.progress().right == 0
    names = {}
    exec(SMALLEST_R, names)
    assert lab.check.smallest_r(names["smallest_r"])
    assert lab.progress().right == 1
    assert "smallest_r right" in str(lab.progress())
    lab.check.smallest_r(lambda **given: 1)
    assert lab.progress().right == 0


@protected
@pytest.mark.slow
@pytest.mark.parametrize("number", LESSONS)
def test_each_lessons_solutions_get_all_points_and_its_stubs_none(number, tmp_path):
    solved = hand_in(tmp_path, f"{lessons()[number].name}-ada.ipynb", "")
    solved.write_text(json.dumps(submission(number, solutions(number))), encoding="utf-8")
    empty = hand_in(tmp_path, f"{lessons()[number].name}-bob.ipynb", submission(number, {}))
    with Runner() as runner:
        ada, bob = grade(read_all([solved, empty]), runner, lambda submission: None)
    assert ada.score.share == 1, ada.score.verdicts
    assert bob.score.right == 0
    assert all("nothing to check" in verdict.message for verdict in bob.score.verdicts.values())


# --- bad input ----------------------------------------------------------------------------------


def moved(notebook):
    notebook["cells"].reverse()
    return notebook


def deleted(notebook):
    notebook["cells"] = [
        cell for cell in notebook["cells"] if "check" not in cell["metadata"].get("tags", ())
    ]
    return notebook


def stamped(notebook, **changes):
    notebook["metadata"]["lora_lab"] |= changes
    return notebook


def bloated(notebook):
    cell = code_cell("1")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 50_000_000}]
    notebook["cells"].append(cell)
    return notebook


def good():
    return submission("05", {"smallest_r": SMALLEST_R})


BAD = {  # a file's name: its content, the points, a part of its notes
    "05_rank-good.ipynb": (good, 1, ""),
    "05_rank-moved.ipynb": (lambda: moved(good()), 1, "Cells were moved"),
    "05_rank-deleted.ipynb": (lambda: deleted(good()), 1, "2 cells of the lesson were deleted."),
    "05_rank-bloated.ipynb": (lambda: bloated(good()), 1, ""),
    "05_rank-old.ipynb": (lambda: stamped(good(), version="0.0.1"), 1, "Made for lora_lab 0.0.1"),
    "05_rank-changed.ipynb": (lambda: stamped(good(), digest="0"), 1, "has changed since"),
    "05_rank-text.ipynb": (lambda: "Dear teacher,", None, "it isn't a notebook: line 1 isn't JSON"),
    "05_rank-list.ipynb": (lambda: "[1]", None, "it isn't a notebook: it holds no list of cells"),
    "05_rank-nested.ipynb": (lambda: "[" * 10**6, None, "it can't be read (RecursionError)"),
    "essay-carl.ipynb": (lambda: '{"cells": []}', None, "no exercise of this course"),
    "06_alpha-dora.ipynb": (lambda: submission("06", {}), None, "and 05_rank was asked for"),
    "05_rank-twice.ipynb": (good, 1, "as 05_rank-twice (1).ipynb too"),
    "05_rank-twice (1).ipynb": (
        lambda: submission("05", {}),
        0,
        "as 05_rank-twice.ipynb too; the better file counts",
    ),
}


@pytest.fixture(scope="module")
def graded(runner, tmp_path_factory):
    if missing_protection():
        pytest.skip(missing_protection())
    folder = tmp_path_factory.mktemp("handed in")
    for name, (content, _, _) in BAD.items():
        hand_in(folder, name, content())
    return grade(read_all(find([folder]), lessons()["05"]), runner, lambda submission: None)


@pytest.mark.parametrize("name", BAD)
def test_each_odd_file_has_its_line_and_all_others_are_checked(name, graded, tmp_path):
    _, points, words = BAD[name]
    pages = write_grades(graded, tmp_path / "grades.csv", tmp_path / "pages")
    with (tmp_path / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(BAD)
    assert rows[name]["right"] == ("" if points is None else str(points))
    assert words in rows[name]["notes"]
    assert bool(rows[name]["notes"]) == bool(words)
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages).replace("&#39;", "'")
    assert words in text


def test_the_better_of_two_files_counts(graded):
    twice = [result for result in graded if result.submission.learner == "twice"]
    assert {result.submission.path.name: result.counts for result in twice} == {
        "05_rank-twice.ipynb": True,
        "05_rank-twice (1).ipynb": False,
    }


def test_the_learner_is_in_the_files_name_or_in_its_folders():
    rank = lessons()["05"]
    for name in ("05_rank-ada.ipynb", "ada_05_rank (1).ipynb", "ada/05_rank.ipynb"):
        assert learner_of(Path(name), rank) == "ada"
    assert learner_of(Path("/w/05_rank-Ada Lovelace-Copy1.ipynb"), rank) == "Ada Lovelace"


def test_names_and_messages_are_text_in_the_table_and_on_the_page(tmp_path):
    path = hand_in(tmp_path, "=cmd()<script>_05_rank.ipynb".replace("/", ""), "no")
    graded = [Graded(submission, None, False) for submission in read_all([path])]
    write_grades(graded, tmp_path / "grades.csv", tmp_path / "pages")
    _, row = csv.reader((tmp_path / "grades.csv").read_text(encoding="utf-8").splitlines())
    assert len(row) == len(HEAD)
    assert row[0].startswith("'=cmd()")
    assert "<script>" not in page("<script>", graded)


def test_the_command_writes_the_table_and_the_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hand_in(tmp_path, "in/05_rank-ada.ipynb", "no notebook")
    result = CliRunner().invoke(app, ["class", "check", "in"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert (tmp_path / "grades.csv").is_file()
    assert [path.name for path in (tmp_path / "grades-pages").iterdir()] == ["05_rank-ada.html"]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_without_protection_the_command_refuses_and_says_what_would_do(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_lab.classroom.confinement.missing_protection", lambda: "no Landlock")
    path = hand_in(tmp_path, "05_rank-ada.ipynb", "no notebook")
    with pytest.raises(SystemExit) as end:
        app(["class", "check", str(path), "--out", str(tmp_path / "grades.csv")])
    assert end.value.code == 1
    assert not (tmp_path / "grades.csv").exists()


def test_a_missing_file_is_refused_before_anything_is_checked(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not there; give notebooks"):
        find([tmp_path / "nothing.ipynb"])
