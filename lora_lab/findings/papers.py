"""Published numbers of data/papers.toml, each with its paper and the place in it."""

import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lora_lab.places import data_folder
from lora_lab.recipe import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperNumber:
    """A published number. Prose and plots quote `value`; no notebook retypes it."""

    what: str
    value: float  # nan: the run diverged
    unit: str
    source: str  # "arXiv:2106.09685", or a page's address
    where: str  # "table 5"

    def __str__(self) -> str:
        """The number with its source, ready for a caption."""
        number = f"{self.value:,.10g} {self.unit}"
        return f"{'diverged' if math.isnan(self.value) else number} ({self.source}, {self.where})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """Published numbers in rows and columns, as the paper has them. nan: the run diverged.

    `ax.plot(table.columns, table.rows["MNLI, q_proj + v_proj"])` draws a row; nan leaves a gap.
    """

    what: str
    source: str
    where: str
    columns: tuple[str | float, ...]
    rows: Mapping[str, tuple[float, ...]]  # a row's name: a number for each column
    unit: str = ""  # empty: each column's name is its unit

    def cell(self, row: str, column: str | float) -> PaperNumber:
        """A number of the table, with its source.

        Raises:
            ValueError: for a row or a column that the table does not have, with the nearest name.
        """
        _check_known(row, tuple(self.rows), f"row of {self.where}")
        _check_known(column, self.columns, f"column of {self.where}")
        return PaperNumber(
            what=f"{self.what}: {row}, {column}",
            value=self.rows[row][self.columns.index(column)],
            unit=self.unit or str(column),
            source=self.source,
            where=self.where,
        )

    def __str__(self) -> str:
        """The unit, or the columns that name their units, and the source: ready for a caption."""
        unit = self.unit or "; ".join(map(str, self.columns))
        return f"{unit} ({self.source}, {self.where})"


@functools.cache
def papers() -> Mapping[str, PaperNumber | PaperTable]:
    """Everything in data/papers.toml, by its id."""
    with (data_folder() / "papers.toml").open("rb") as file:
        return MappingProxyType({id: _published(facts) for id, facts in tomllib.load(file).items()})


def _published(facts: dict) -> PaperNumber | PaperTable:
    if "rows" not in facts:
        return PaperNumber(**facts)
    rows = {name: tuple(values) for name, values in facts.pop("rows").items()}
    columns = tuple(facts.pop("columns"))
    return PaperTable(**facts, columns=columns, rows=MappingProxyType(rows))


def paper(id: str) -> PaperNumber | PaperTable:
    """A published number, or a table of numbers, with its source.

    Raises:
        ValueError: for an unknown id, with the nearest.
    """
    _check_known(id, tuple(papers()), "published number")
    return papers()[id]


def paper_in_words(id: str) -> str:
    """A published number in words, with its source."""
    found = paper(id)
    return f"{found.what}: {found}"


def _check_known(name: str | float, names: tuple[str | float, ...], what: str) -> None:
    if name not in names:
        raise ValueError(
            f"{name!r} isn't a {what}; {nearest(name, names)}"
            f"There are: {', '.join(map(str, names))}"
        )
