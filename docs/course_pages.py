"""Sphinx's extension for this course: folds and pictures of notebooks, formulas, links.

Formulas become MathML by docutils' own converter: a browser draws it without JavaScript, and a
screen reader reads it.
"""

import base64
import html
import json
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

import anywhere
import lab_pictures
import workshop
from lora_lab.checks.exercises import EXERCISES

ROOT = Path(__file__).parents[1]
ANCHOR = re.compile(r"\]\(#[\w-]+\)")
PLAYGROUND = "playground.html"  # what `make playground` writes
OPEN_IT = f'<p><a href="../{PLAYGROUND}">Open the playground</a></p>'
NOT_BUILT = "*It is not part of this build of the site: `make playground` had not been run.*"
SAVED = "*The results on this page were saved. [Run it yourself]({up}docs/anywhere.md).*"
FOLDED = {"assert": "hide-cell"}  # a cell's tag that Jupyter folds: MyST-NB's tag for the same


def fold(notebook: dict) -> None:
    """Give MyST-NB's tags to the cells that Jupyter shows folded."""
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        tags += [FOLDED[tag] for tag in tags if tag in FOLDED]


def mend_anchors(notebook: dict) -> None:
    """Links within the page: Jupyter keeps a title's capitals in its anchor, this site does not."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            cell["source"] = ANCHOR.sub(lambda found: found[0].lower(), text)


def show_labs(notebook: dict, pictures: dict[str, dict], folder: Path) -> None:
    """Put the pictures of labs into the notebook, with a line below each that says what it is."""
    for place, output in reversed([*lab_pictures.pictureless(notebook)]):
        cell = notebook["cells"][place]
        picture = pictures.get(cell["id"])
        fits = picture is not None and picture["lab"] == lab_pictures.name_of(output)
        if fits:
            content = (folder / f"{cell['id']}.png").read_bytes()
            output["data"]["image/png"] = base64.b64encode(content).decode()
            size = {key: picture[key] for key in ("alt", "width", "height")}
            output["metadata"]["image/png"] = size
        line = lab_pictures.PICTURE if fits else lab_pictures.NO_PICTURE
        notebook["cells"].insert(place + 1, markdown(f"*{line}*", f"about-{cell['id']}"))


def markdown(text: str, id: str) -> dict:
    """A cell of a notebook with this text."""
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": text}


def read_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change a notebook's text as Sphinx reads it; the file stays as it is."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    fold(notebook)
    mend_anchors(notebook)
    key = lab_pictures.key_of(path)
    pictures = lab_pictures.known().get(key, {})
    show_labs(notebook, pictures, lab_pictures.FOLDER / key)
    app.env.note_dependency(str(lab_pictures.INDEX))
    add_links(notebook, path)
    source[0] = json.dumps(notebook)


def visit_math(translator: object, node: nodes.math) -> None:
    """A formula within a sentence."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_display(translator: object, node: nodes.math_block) -> None:
    """A formula on a line of its own."""
    translator.body.append(f"<div class='math'>{tex2mathml(node.astext(), as_block=True)}</div>")
    raise nodes.SkipNode


class Slips(SphinxDirective):
    """The slips that each exercise knows, folded, with its lesson: a list for instructors."""

    def run(self) -> list[nodes.Node]:
        """A fold for each exercise, in the course's order."""
        made = []
        for exercise in EXERCISES.values():
            lines = "".join(f"<li>{html.escape(slip)}</li>" for slip in exercise.slips)
            # a module of checks begins with "Checks for notebook 05, Rank: ..."
            about = sys.modules[exercise.reference.__module__].__doc__
            lesson = re.search(r"(?:notebook|lesson) (\d\d)", about)[1]
            title = f"{lesson} · <code>{exercise.name}</code>"
            fold = f"<details><summary>{title}</summary><ul>{lines}</ul>"
            made.append(nodes.raw("", fold + "</details>", format="html"))
        return made


class Workshop(SphinxDirective):
    """The playground's exercises, each with its link: controls that it does not need are hidden."""

    def run(self) -> list[nodes.Node]:
        """A list; where the playground is not built, each link's text in place of the link."""
        built = (ROOT / PLAYGROUND).exists()
        items = []
        for exercise in workshop.EXERCISES:
            link = html.escape(f"{PLAYGROUND}#{exercise.link}")
            question = f"<strong>{html.escape(exercise.question)}</strong>"
            opened = f'<a href="../{link}">{question}</a>' if built else question
            address = "" if built else f'<br><code style="overflow-wrap: anywhere">{link}</code>'
            lesson = (
                f'<a href="../notebooks/{exercise.lesson}.html">Lesson {exercise.lesson[:2]}</a>'
            )
            items.append(f"<li><p>{opened} {html.escape(exercise.do)} {lesson}{address}</p></li>")
        return [nodes.raw("", f"<ol>{''.join(items)}</ol>", format="html")]


def public_address() -> str | None:
    """The course's address, as pyproject.toml names it now."""
    return anywhere.address((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def fill_in(app: Sphinx, config: Config) -> None:
    """Fill in the texts about this build: whether the playground is there, and the links."""
    repository = public_address()
    built = (ROOT / PLAYGROUND).exists()
    if built:
        config.html_extra_path = [*config.html_extra_path, f"../{PLAYGROUND}"]
    first = "notebooks/00_start_here.ipynb"
    cell = anywhere.setup_cell(f"lora-lab @ git+{repository or 'https://github.com/OWNER/NAME'}")
    config.myst_substitutions = {
        "playground": OPEN_IT if built else NOT_BUILT,
        "links": anywhere.badges(repository, first) if repository else anywhere.NO_ADDRESS,
        "setup_cell": f"```ipython\n{cell}```",
    }


def add_links(notebook: dict, path: Path) -> None:
    """Add a line below a notebook's title: its results were saved, and where to run it."""
    repository = public_address()
    within = path.relative_to(ROOT).as_posix()
    up = "../" * within.count("/")
    line = SAVED.format(up=up)
    if repository:
        line += " " + anywhere.badges(repository, within) + "."
    notebook["cells"].insert(1, markdown(line, "run-it"))


def write_copies(app: Sphinx, error: Exception | None) -> None:
    """Add the notebooks with a set-up cell to the site, if the course has an address."""
    repository = public_address()
    if repository and error is None:
        anywhere.write_copies(Path(app.outdir), repository)


SUMMARIES = {}  # docstrings of properties, which napoleon would split at their first colon


def keep_summary(app: Sphinx, what: str, name: str, *rest: object) -> None:
    """Run before napoleon, which takes `The base in a sentence: ...` for a type and a text."""
    if what in ("property", "attribute", "data"):
        SUMMARIES[name] = [*rest[-1]]


def put_back_summary(app: Sphinx, what: str, name: str, *rest: object) -> None:
    """After napoleon."""
    if name in SUMMARIES:
        rest[-1][:] = SUMMARIES.pop(name)


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_display, None))
    app.add_directive("slips", Slips)
    app.add_directive("workshop", Workshop)
    app.connect("config-inited", fill_in, priority=400)  # before MyST reads its settings
    app.connect("source-read", read_notebook)
    app.connect("build-finished", write_copies)
    app.connect("autodoc-process-docstring", keep_summary, priority=400)
    app.connect("autodoc-process-docstring", put_back_summary, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
