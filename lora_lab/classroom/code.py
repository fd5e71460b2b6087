"""The code of a notebook that a function needs: its own cell, and what that cell uses from others.

The rest of the notebook is not run: its trainings take minutes, and the verdict does not depend on
them. Order and number of the cells do not matter. A bare call between definitions, such as
`sys.exit()` or `model.train()`, defines no name that a function could use, and is left out.
"""

import ast
import builtins
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType

Expression = ast.expr
CELL_MAGIC = ("%%time", "%%timeit", "%%capture")  # these only measure or hide the cell's own code


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement at the top of a cell: the names that it defines, and those that it uses."""

    node: ast.stmt
    cell: int  # its cell's place among the code cells
    defines: frozenset[str]
    uses: frozenset[str]

    def __str__(self) -> str:
        return ast.unparse(self.node)

    @property
    def file(self) -> str:
        """The name of its cell in a traceback."""
        return f"<cell {self.cell + 1}>"

    def compiled(self) -> CodeType:
        """The statement, ready to run; its lines are those of its cell."""
        return compile(ast.Module([self.node], []), self.file, "exec")


def statements(cells: Sequence[str]) -> Iterator[Statement]:
    """The statements of all cells, in order; a cell that is not Python is left out."""
    for place, cell in enumerate(cells):
        tree = parsed(cell)
        for node in tree.body if tree is not None else ():
            yield Statement(node, place, frozenset(_defined(node)), frozenset(_used(node)))


def parsed(cell: str) -> ast.Module | None:
    """A cell's syntax tree; None if it is not Python. IPython's magics and `!` lines are fine."""
    if cell.startswith(CELL_MAGIC):
        cell = "\n" + cell.partition("\n")[2]
    try:
        return ast.parse(cell)
    except (SyntaxError, ValueError):
        pass
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        return ast.parse(TransformerManager().transform_cell(cell))
    except (SyntaxError, ValueError):
        return None


def checked_expression(name: str, cells: Sequence[str]) -> ast.expr:
    """The argument of the notebook's last call of `lab.check.<name>(…)`; else the name itself."""
    for cell in reversed(cells):
        tree = parsed(cell)
        for node in ast.walk(tree) if tree is not None else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == name
                and isinstance(node.func.value, ast.Attribute | ast.Name)
                and getattr(node.func.value, "attr", getattr(node.func.value, "id", "")) == "check"
                and len(node.args) == 1
            ):
                return node.args[0]
    return ast.Name(name, ast.Load())


def needed(expression: ast.expr, known: Sequence[Statement]) -> list[Statement]:
    """The statements that an expression needs, directly or through others, in their order."""
    wanted, chosen = {*_used(expression)}, set()
    while True:
        more = {
            place
            for place, statement in enumerate(known)
            if place not in chosen and statement.defines & (wanted | {"*"})
        }
        if not more:
            return [known[place] for place in sorted(chosen)]
        chosen |= more
        for place in more:
            wanted |= known[place].uses


def undefined(expression: ast.expr, known: Sequence[Statement]) -> set[str]:
    """The names of an expression that no statement defines, nor Python itself."""
    defined = {name for statement in known for name in statement.defines}
    if "*" in defined:  # from math import *
        return set()
    return {*_used(expression)} - defined - {*dir(builtins)}


def functions(known: Sequence[Statement]) -> list[str]:
    """The names of the functions that the statements define, in order."""
    named = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [statement.node.name for statement in known if isinstance(statement.node, named)]


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield (alias.asname or alias.name).partition(".")[0]
    elif not isinstance(node, ast.Expr):
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store | ast.Del):
                yield part.id
            elif isinstance(part, ast.Subscript | ast.Attribute) and isinstance(
                part.ctx, ast.Store | ast.Del
            ):
                yield from (name.id for name in ast.walk(part.value) if isinstance(name, ast.Name))
            elif isinstance(part, ast.FunctionDef | ast.ClassDef):
                yield part.name
            elif isinstance(part, ast.Import | ast.ImportFrom):
                yield from _defined(part)


def _used(node: ast.AST) -> Iterator[str]:
    """The names that a piece of code takes from outside, without its functions' own names."""
    tables = [symtable.symtable(ast.unparse(node), "cell", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            outside = table.get_type() == "module" or symbol.is_global()
            if outside and symbol.is_referenced():
                yield symbol.get_name()


def text_of(tree: ast.AST) -> str:
    """A tree as Python's text."""
    return ast.unparse(tree)
