"""Pictures of the labs whose notebooks keep none: which cells need one, and what is in docs/labs/.

A browser makes them (tests/picture_labs.py), since a lab's controls exist only in a browser.
"""

import json
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "labs"
INDEX = FOLDER / "labs.json"
PICTURE = "A picture of the lab above. In the notebook it is live."
NO_PICTURE = "This is a live lab. Its picture has not been taken yet."
WIDGET = "application/vnd.jupyter.widget-view+json"


def pictureless(notebook: dict) -> Iterator[tuple[int, dict]]:
    """The place and the output of each cell whose widget was saved only as a name."""
    for place, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if WIDGET in data and not {"image/png", "text/html"} & set(data):
                yield place, output


def name_of(output: dict) -> str:
    """The words that a lab left in its notebook: `RankLab: pocket · hidden · r 1, 2, 3`."""
    return "".join(output["data"]["text/plain"])


def known() -> dict[str, dict[str, dict]]:
    """The pictures in docs/labs/: by notebook (`evidence/05_rank`), then by the id of a cell.

    Each has `lab`, the words that it stands for; `alt`, its text; `width` and `height` in CSS
    pixels.
    """
    return json.loads(INDEX.read_text(encoding="utf-8")) if INDEX.exists() else {}


def key_of(notebook: Path) -> str:
    """A notebook's name in the index: `05_rank`, `evidence/05_rank`."""
    parent = f"{notebook.parent.name}/" if notebook.parent.name == "evidence" else ""
    return parent + notebook.stem
