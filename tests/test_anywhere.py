"""Colab, Kaggle, Binder, Codespaces: links from one address, and a set-up cell that works."""

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import anywhere

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/someone/lora-course"
LESSON = "notebooks/02_one_token_through_the_model.ipynb"


def pyproject(urls: str = "") -> str:
    return f'[project]\nname = "x"\n{urls}'


def test_the_address_is_read_from_pyproject_and_may_be_missing():
    urls = f'[project.urls]\nRepository = "{REPOSITORY}"\n'
    assert anywhere.address(pyproject(urls)) == REPOSITORY
    assert anywhere.address(pyproject()) is None


def test_an_address_elsewhere_is_refused_in_words():
    urls = '[project.urls]\nRepository = "https://example.org/course"\n'
    with pytest.raises(ValueError, match=r"example\.org/course'.*give https://github\.com/OWNER"):
        anywhere.address(pyproject(urls))


def test_each_service_opens_the_lesson():
    copy = "someone/lora-course/blob/gh-pages/anywhere/" + LESSON
    assert anywhere.links(REPOSITORY, LESSON) == {
        "Colab": f"https://colab.research.google.com/github/{copy}",
        "Kaggle": f"https://kaggle.com/kernels/welcome?src=https://github.com/{copy}",
        "Binder": f"https://mybinder.org/v2/gh/someone/lora-course/main?urlpath=lab/tree/{LESSON}",
        "Codespaces": "https://codespaces.new/someone/lora-course",
    }


def test_the_readme_has_the_links_of_the_address_that_pyproject_names():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    repository = anywhere.address((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert anywhere.readme_with_links(readme, repository) == readme


def test_a_new_address_replaces_the_readmes_links():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    changed = anywhere.readme_with_links(readme, REPOSITORY)
    assert anywhere.badges(REPOSITORY, "notebooks/00_start_here.ipynb") in changed
    assert "no public address" not in changed
    assert anywhere.readme_with_links(changed, None) == readme


def test_the_set_up_cell_does_nothing_where_the_course_is_installed():
    code = TransformerManager().transform_cell(anywhere.setup_cell("lora-lab"))
    asked = []
    exec(code, {"get_ipython": lambda: asked.append("a command was run")})
    assert asked == []


def test_a_copy_has_the_set_up_before_all_code_and_is_a_valid_notebook():
    notebook = nbformat.read(ROOT / LESSON, as_version=4)
    changed = anywhere.with_setup(notebook, f"lora-lab @ git+{REPOSITORY}")
    nbformat.validate(changed)
    codes = [cell.source for cell in changed.cells if cell.cell_type == "code"]
    assert f'"lora-lab @ git+{REPOSITORY}"' in codes[0]
    assert changed.cells[0] == notebook.cells[0]
    assert changed.cells[2:] == notebook.cells[1:]


def test_copies_of_all_notebooks_are_written_and_the_notebooks_stay(tmp_path):
    before = (ROOT / LESSON).read_bytes()
    anywhere.write_copies(tmp_path, REPOSITORY)
    written = {path.relative_to(tmp_path / "anywhere") for path in tmp_path.rglob("*.ipynb")}
    assert Path(LESSON) in written
    assert Path("notebooks/evidence/05_rank.ipynb") in written
    assert (ROOT / LESSON).read_bytes() == before


def test_binder_and_codespaces_ask_for_what_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = (ROOT / ".binder/requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in wanted if line.startswith("torch")} <= set(project["dependencies"])
    assert "-e ." in wanted
    python = (ROOT / ".binder/runtime.txt").read_text(encoding="utf-8").strip()
    assert re.fullmatch(r"python-3\.1[1-9]", python)
    assert os.access(ROOT / ".binder/postBuild", os.X_OK)
    made = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    (target,) = re.findall(r"^make (\w+)$", made["onCreateCommand"])
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture
def bare(tmp_path):
    """A virtual environment as Colab's: Python, a kernel and the libraries, but no lora_lab.

    The libraries are links to this environment's, since the tests have no network.
    """
    place = tmp_path / "bare"
    venv.create(place, with_pip=True, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = place / "lib" / version / "site-packages"
    for path in Path(nbformat.__file__).parents[1].iterdir():
        ours = re.match(r"_?_?(lora_lab|editable_impl_lora|_virtualenv|pip)", path.name)
        if not ours and not (target / path.name).exists():
            (target / path.name).symlink_to(path)
    return place


RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, kernel_name="python3", timeout=900).execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform == "win32", reason="the libraries are symbolic links")
def test_a_lesson_runs_on_a_bare_python_after_its_set_up_cell(bare, tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    lesson = anywhere.with_setup(nbformat.read(ROOT / LESSON, as_version=4), str(wheel))
    nbformat.write(lesson, tmp_path / "lesson.ipynb")
    inside = {
        **os.environ,
        "PATH": f"{bare / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",  # all that it needs is there, or the test fails
        "PYTHONPATH": os.environ["PYTHONPATH"].split(os.pathsep)[0],  # the denied network alone
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    seen = "import importlib.util as u; print(u.find_spec('lora_lab'))"
    python = str(bare / "bin" / "python")
    assert subprocess.check_output([python, "-c", seen], env=inside, cwd=tmp_path) == b"None\n"
    subprocess.run(
        [python, "-c", RUN, "lesson.ipynb"], env=inside, cwd=tmp_path, check=True, timeout=1700
    )
    found = subprocess.check_output([python, "-c", seen], env=inside, cwd=tmp_path).decode()
    assert str(bare) in found
    done = nbformat.read(tmp_path / "lesson.ipynb", as_version=4)
    assert any("checked:" in str(cell.get("outputs")) for cell in done.cells)
