"""The rows of a file that a recipe names, compared with its maximum length and its steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_lab.recipe import Recipe
from lora_lab.review.finding import Finding
from lora_lab.tasks.tables import KINDS, read_table
from lora_lab.tools.brought_recipe import BroughtRecipe
from lora_lab.wording import counted, percent

LARGEST = 20_000_000  # bytes: a larger file takes long to read
# English text has about four letters a token with the vocabularies of Llama 3, Qwen and GPT.
LETTERS = 4
MANY = 0.05  # a share of rows


@dataclass(frozen=True, slots=True)
class RowsOfFile:
    """How many rows a file has, and how many letters each."""

    name: str
    letters: tuple[int, ...]

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.letters)

    @property
    def words(self) -> str:
        """The count in words."""
        return counted(self.count, "row")


def rows_of(data: tuple[str, ...], folder: Path) -> RowsOfFile | None:
    """The rows of the only file that a recipe names; None: it is not here, or can't be read."""
    if len(data) != 1 or not data[0].lower().endswith(KINDS):
        return None
    path = folder / data[0]
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        table = read_table(path)
    except (OSError, ValueError):
        return None  # `lora-lab check` of the file itself says what is wrong
    return RowsOfFile(path.name, tuple(_letters(row.values) for row in table.rows))


def _letters(value: object) -> int:
    """The letters of all texts in a row, in lists and objects too."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_letters, value.values()))
    return sum(map(_letters, value)) if isinstance(value, list) else 0


def length_findings(brought: BroughtRecipe, recipe: Recipe, rows: RowsOfFile) -> Iterator[Finding]:
    """Rows that are longer than the recipe's maximum length."""
    if "max_length" not in brought.fields:
        return
    longest = recipe.max_length * LETTERS
    long = sum(letters > longest for letters in rows.letters)
    if long > MANY * rows.count:
        most = max(rows.letters) // LETTERS
        yield Finding(
            severity="warning",
            what=f"{long:,} of {rows.words} in {rows.name} ({percent(long / rows.count)}) are "
            f"longer than max_length {recipe.max_length}, at about {LETTERS} letters a token",
            why="What is beyond it is cut off or left out; of a long prompt the answer is lost.",
            do=f"Give about {most:,} (the longest row), or shorten the prompts; "
            f"lora-lab check {rows.name} counts tokens.",
            lesson="11",
        )
