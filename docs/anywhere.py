"""Where the course runs without an installation: links to Colab, Kaggle, Binder and Codespaces.

`python docs/anywhere.py --hub https://hub.example.org` prints the link with which a learner gets
the notebooks on a JupyterHub; `--repository URL` names another git repository than the course's.

All of them fetch the course from its public address. That address stands in one place, as
`Repository` under `[project.urls]` in pyproject.toml; while it is missing, there are no links.
After it was written or changed, `python docs/anywhere.py` puts the links into the README.
"""

import argparse
import copy
import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlencode

import nbformat

ROOT = Path(__file__).parents[1]
BRANCH = "main"  # what Binder builds
SITE_BRANCH = "gh-pages"  # holds the built site, and in it the notebooks with the set-up cell
FIRST = "notebooks/00_start_here.ipynb"
COPIES = "anywhere"  # their folder in the site
BLOCK = re.compile(r"(<!-- links: .*? -->\n).*?(<!-- end of links -->)", re.DOTALL)
NO_ADDRESS = "*The course has no public address yet, so there are no links here.*\n"
CELL = """\
# On Colab or Kaggle this installs the course. Where it is installed, it does nothing.
import importlib.util

if importlib.util.find_spec("lora_lab") is None:
    %pip install --quiet "{source}"
    !lora-lab prepare
"""


def address(pyproject: str) -> str | None:
    """The course's public address, such as `https://github.com/OWNER/NAME`, or None.

    Raises:
        ValueError: if the address is not on GitHub, which all four services read.
    """
    found = tomllib.loads(pyproject)["project"].get("urls", {}).get("Repository")
    if found is not None and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", found):
        raise ValueError(
            f"pyproject.toml names the repository {found!r}. Colab, Kaggle, Binder and Codespaces "
            f"are linked for GitHub alone: give https://github.com/OWNER/NAME"
        )
    return found


def links(repository: str, notebook: str) -> dict[str, str]:
    """By service: the address that opens `notebook`, such as `notebooks/05_rank.ipynb`."""
    name = repository.removeprefix("https://github.com/")
    copy_of_it = f"{name}/blob/{SITE_BRANCH}/{COPIES}/{notebook}"
    return {
        "Colab": f"https://colab.research.google.com/github/{copy_of_it}",
        "Kaggle": f"https://kaggle.com/kernels/welcome?src=https://github.com/{copy_of_it}",
        "Binder": f"https://mybinder.org/v2/gh/{name}/{BRANCH}?urlpath=lab/tree/{notebook}",
        "Codespaces": f"https://codespaces.new/{name}",
    }


def hub_link(hub: str, repository: str, notebook: str, branch: str = BRANCH) -> str:
    """The address at which nbgitpuller copies a repository for a learner, and opens a notebook.

    Who opens it again gets what has changed since; a file that the learner changed is kept.

    Args:
        hub: the hub's address, such as `https://hub.example.org`.
        repository: a git repository that the hub can reach.
        notebook: the notebook to open, as the repository names it.
        branch: the repository's branch.
    """
    folder = repository.rstrip("/").rpartition("/")[2].removesuffix(".git")
    asked = {"repo": repository, "branch": branch, "targetPath": folder}
    asked["urlpath"] = f"lab/tree/{folder}/{notebook}"
    return f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{urlencode(asked)}"


def badges(repository: str, notebook: str) -> str:
    """The links in one line of Markdown: text, so that no page loads a picture from elsewhere."""
    found = links(repository, notebook).items()
    return "Open in " + " · ".join(f"[{service}]({url})" for service, url in found)


def setup_cell(source: str) -> str:
    """The cell that installs the course from `source`, as pip takes it, where it is missing."""
    return CELL.format(source=source)


def with_setup(notebook: nbformat.NotebookNode, source: str) -> nbformat.NotebookNode:
    """A copy of a notebook whose first cell of code is the set-up; its outputs are kept."""
    changed = copy.deepcopy(notebook)
    changed.cells.insert(1, nbformat.v4.new_code_cell(setup_cell(source), id="set-up"))
    return changed


def write_copies(site: Path, repository: str) -> None:
    """Write each notebook with its set-up cell into the built site."""
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        notebook = nbformat.read(path, as_version=4)
        target = site / COPIES / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(with_setup(notebook, f"lora-lab @ git+{repository}"), target)


def readme_with_links(readme: str, repository: str | None) -> str:
    """The README with the links of this address between its two comments."""
    line = NO_ADDRESS if repository is None else badges(repository, FIRST) + "\n"
    return BLOCK.sub(lambda found: found[1] + line + found[2], readme)


def main(words: list[str]) -> int:
    """Write the README's links; with --hub, print a link to a hub instead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", help="print the link to a JupyterHub at this address")
    parser.add_argument("--repository", help="the git repository it copies; else the course's")
    parser.add_argument("--notebook", default=FIRST, help=f"what it opens; {FIRST}")
    options = parser.parse_args(words)
    repository = address((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if options.hub:
        chosen = options.repository or repository
        if chosen is None:
            parser.error("pyproject.toml names no repository; give --repository URL")
        sys.stdout.write(hub_link(options.hub, chosen, options.notebook) + "\n")
        return 0
    readme = ROOT / "README.md"
    text = readme_with_links(readme.read_text(encoding="utf-8"), repository)
    readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
