"""The project's frame: what its files say about each other, and what they may not say."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import lora_lab
from test_reading_order import READING_ORDER

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {  # conda-forge's name: pip's name, where they differ
    "pytorch": "torch",
    "huggingface_hub": "huggingface-hub",
}
TORCH_CPU = "https://download.pytorch.org/whl/cpu"


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads(text_of("pyproject.toml"))["project"]


def test_environment_yml_asks_for_what_pyproject_asks_for(project):
    entries = yaml.safe_load(text_of("environment.yml"))["dependencies"]
    from_pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    from_conda = [entry for entry in entries if isinstance(entry, str) and entry != "pip"]
    renamed = {
        re.sub(r"^[\w-]+", lambda name: CONDA_NAMES.get(name[0], name[0]), entry)
        for entry in from_conda
    }
    wanted = {*project["dependencies"], f"python{project['requires-python']}"}
    assert renamed | set(from_pip) == wanted | {"-e ."}


def test_every_dependency_has_a_lower_bound_and_none_an_upper(project):
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    specs = [spec.partition(";")[0] for entries in lists for spec in entries]
    assert [spec for spec in specs if not re.fullmatch(r"[\w-]+>=[\d.]+", spec)] == []


def test_the_version_is_the_same_everywhere(project):
    assert project["version"] == lora_lab.__version__ == version("lora-lab")
    assert re.search(r"^## (\S+):", text_of("CHANGELOG.md"), re.MULTILINE)[1] == project["version"]


WHEELS_FILES = ("pyproject.toml", "README.md", "LICENSE", ".gitignore")
WHEELS_FOLDERS = ("lora_lab", "notebooks", "data")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel built from this checkout, with what an editor left lying about."""
    place = tmp_path_factory.mktemp("wheel")
    for name in WHEELS_FILES:
        shutil.copy(ROOT / name, place)
    for name in WHEELS_FOLDERS:
        shutil.copytree(ROOT / name, place / name)
    left = place / "notebooks" / ".ipynb_checkpoints" / "00_start_here-checkpoint.ipynb"
    left.parent.mkdir(exist_ok=True)
    left.write_text("{}")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    (path,) = (place / "dist").glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def test_the_wheel_carries_the_notebooks_and_the_data(wheel):
    tracked = [name for name in tracked_files() if name.startswith(("notebooks/", "data/"))]
    assert tracked
    assert {f"lora_lab/share/{name}" for name in tracked} - wheel == set()


def test_the_wheel_carries_the_package_and_nothing_else(wheel):
    tracked = {name for name in tracked_files() if name.startswith("lora_lab/")}
    assert tracked - wheel == set()
    folders = ("lora_lab/", "lora_lab-0.1.0.dist-info/")
    assert [name for name in wheel if not name.startswith(folders)] == []
    assert [name for name in wheel if "checkpoint" in name or "__pycache__" in name] == []


def targets_of(makefile):
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, flags=re.MULTILINE))


def test_makes_help_lists_every_target():
    makefile = text_of("Makefile")
    help_text = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = set(re.findall(r"^  make ([\w-]+) ", help_text, flags=re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)", makefile, flags=re.MULTILINE)[1].split())
    assert listed == targets_of(makefile) == phony
    assert {"setup", "lab", "test", "test-all", "test-gpu", "refresh", "clean"} <= listed


def test_ci_runs_the_readmes_test_command():
    assert text_of(".ci/run").rstrip().splitlines()[-1] == "make test"
    assert "\nmake test " in text_of("README.md")


def tracked_files():
    result = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        pytest.skip("not a git checkout, so there is no list of its files")
    return [name for name in result.stdout.splitlines() if (ROOT / name).is_file()]


HOSTS = [  # package registries; in two parts, so that this file does not name them
    ("py", "pi.org"),
    ("python", "hosted.org"),
    ("ana", "conda.org"),
    ("npm", "js.org"),
    ("deb.de", "bian.org"),
    ("crates", ".io"),
]
FORBIDDEN = re.compile(
    "|".join(re.escape(a + b) for a, b in HOSTS)
    + r"|(?<![\w.~])/(?:home|root|Users|work|tmp/[\w-]+|opt/wheels)/(?!me/)[\w.]"  # a machine's
    + r"|\b[A-Z]:\\+Users\\+\w"
)


def told_too_much(name, text):
    """The lines that name a registry's host or a path on someone's machine."""
    return [f"{name}: {line[:120]}" for line in text.splitlines() if FORBIDDEN.search(line)]


def test_no_file_names_a_registry_or_a_path_on_someones_machine():
    found = []
    for name in tracked_files():
        content = (ROOT / name).read_bytes()
        of_others = name.endswith(".min.mjs")  # Emscripten's users live in a home of its own
        if b"\0" not in content and not of_others:
            found += told_too_much(name, content.decode("utf-8"))
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "see https://" + "py" + "pi.org/simple",
        "File " + "/ho" + "me/someone/lora_lab/cli.py",
        "folder = '/ro" + "ot/.cache/lora-lab'",
        r"C:\Us" + r"ers\someone",
    ],
)
def test_such_a_line_would_be_found(line):
    assert told_too_much("a file", f"before\n{line}\nafter") == [f"a file: {line}"]


def test_only_what_installs_the_course_names_pytorchs_index():
    names = [name for name in tracked_files() if name != "tests/test_project.py"]
    texts = {name: (ROOT / name).read_bytes() for name in names}
    assert {name for name, text in texts.items() if TORCH_CPU.encode() in text} == {
        "README.md",
        "Makefile",
        "deploy/README.md",
        ".binder/requirements.txt",
    }


HEAVY = {"torch", "transformers", "peft", "numpy", "pandas", "matplotlib", "ipywidgets", "typer"}


def import_in_a_fresh_python(statement):
    """What `statement` takes (seconds), which heavy packages it loads, and what it prints."""
    code = (
        f"import time; begun = time.perf_counter(); {statement}; end = time.perf_counter()\n"
        f"import json, sys; heavy = sorted({HEAVY} & set(sys.modules))\n"
        "print('\\n' + json.dumps([end - begun, heavy]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    printed, _, last = result.stdout.rstrip().rpartition("\n")
    return *json.loads(last), printed + result.stderr


def test_importing_the_package_is_fast_silent_and_loads_nothing_heavy():
    tries = [import_in_a_fresh_python("import lora_lab") for _ in range(3)]
    assert [(heavy, printed) for _, heavy, printed in tries] == [([], "")] * 3
    assert min(seconds for seconds, _, _ in tries) <= 0.3  # the others may have met a busy machine


def test_the_test_of_the_import_can_fail():
    seconds, heavy, printed = import_in_a_fresh_python("import torch; print('hello')")
    assert "torch" in heavy
    assert "hello" in printed
    assert seconds > 0.3


def test_every_package_that_the_code_may_import_is_asked_for(project):
    specs = project["dependencies"] + project["optional-dependencies"]["web"]
    imported_as = {
        "markdown-it-py": "markdown_it",
        "huggingface-hub": "huggingface_hub",
        "pyyaml": "yaml",
    }
    names = (re.match(r"[\w-]+", spec)[0] for spec in specs)
    asked = {imported_as.get(name, name) for name in names}
    brought = {"IPython", "traitlets", "jupyter_client", "PIL"}  # by ipywidgets,
    # jupyterlab and matplotlib
    assert set().union(*READING_ORDER.values()) - asked == brought


def test_the_oldest_versions_are_constraints_that_pip_takes():
    printed = subprocess.run(
        [sys.executable, ROOT / "tests" / "lowest.py"], capture_output=True, text=True, check=True
    ).stdout
    pinned = dict(line.split("==") for line in printed.splitlines())
    assert {"torch", "peft", "pytest"} <= pinned.keys()
    assert all(Version(version) for version in pinned.values())
