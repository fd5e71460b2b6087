"""The calls in a Python script or notebook, with the values that can be read without running it.

The code is parsed and never run. Literals can be read, and names that were given a literal. So can
defaults of functions, dataclasses and argparse, and arithmetic with all of these.
"""

import ast
import json
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

DEEPEST = 200  # nested expressions
LARGEST = 10**15  # result of arithmetic
OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
TYPES = ("torch", "jnp", "np", "numpy", "TaskType", "transformers")  # torch.bfloat16 → "bfloat16"


class Unread:
    """The value of an expression that only a run would give."""

    def __repr__(self) -> str:
        return "a value that only a run gives"


UNREAD = Unread()


@dataclass(frozen=True, slots=True)
class Call:
    """A call: the function's last name, its owner, and the values of its arguments."""

    name: str  # "LoraConfig" of peft.LoraConfig(...)
    owner: str  # "FastLanguageModel" of FastLanguageModel.get_peft_model(...); "" for none
    arguments: Mapping[str, object]  # by name; by position "0", "1" …; UNREAD where unknown
    line: int

    def known(self) -> dict[str, object]:
        """The arguments whose values are known, by name."""
        return {
            name: value
            for name, value in self.arguments.items()
            if not isinstance(value, Unread) and not name.isdecimal()
        }


@dataclass(slots=True)
class Code:
    """The calls and names in a script or notebook, which is not run."""

    calls: list[Call] = field(default_factory=list)
    names: dict[str, object] = field(default_factory=dict)  # the last value of each plain name
    mentioned: set[str] = field(default_factory=set)  # every name and attribute
    eos_uses: int = 0  # mentions of eos_token beside the pad token's assignment
    pad_is_eos: bool = False
    shifts_labels: bool = False  # input_ids[:, :-1] beside labels[:, 1:]
    notes: list[str] = field(default_factory=list)

    def all(self, *names: str) -> list[Call]:
        """The calls of functions with these names, in order."""
        return [call for call in self.calls if call.name in names]


def read_code(text: str, name: str) -> Code:
    """The calls in a script or in a notebook's cells of code.

    Raises:
        ValueError: if the script is not Python, or the notebook not JSON with cells.
    """
    code, attributes = Code(), {}
    with warnings.catch_warnings(action="ignore"):  # about the code: its authors see them anyway
        trees = _trees(text, name, code)
    try:
        for tree in trees:
            _collect_defaults(tree, code.names, attributes)
        for tree in trees:
            _Reader(code, attributes).visit(tree)
    except RecursionError as error:
        raise ValueError(f"{name} nests deeper than can be read; give a simpler script") from error
    return code


def _trees(text: str, name: str, code: Code) -> list[ast.AST]:
    """The parsed script, or each parsed cell; a cell that is not Python is noted and left out."""
    trees: list[ast.AST] = []
    if name.lower().endswith(".ipynb"):
        for number, source in _cells(text, name):
            try:
                trees.append(ast.parse(source))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                code.notes.append(f"cell {number} isn't plain Python, and was left out")
    else:
        try:
            trees.append(ast.parse(text))
        except SyntaxError as error:
            raise ValueError(
                f"{name} isn't Python: line {error.lineno}: {error.msg}; mend it there"
            ) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{name} can't be parsed: {error}; give a shorter script") from error
    return trees


def _cells(text: str, name: str) -> Iterator[tuple[int, str]]:
    """The number and source of each cell of code, without the lines that aren't Python."""
    try:
        cells = json.loads(text)["cells"]
        sources = [
            (number, "".join(cell["source"]))
            for number, cell in enumerate(cells, start=1)
            if cell["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{name} isn't a notebook: it holds no list of cells; save it again in Jupyter"
        ) from error
    for number, source in sources:
        lines = source.splitlines()
        first = next((line for line in lines if line.strip()), "")
        if re.match(r"\s*%%(?!capture|time)", first):  # a cell of another language
            continue
        yield (
            number,
            "\n".join(
                f"{re.match(r'[ ]*', line)[0]}pass" if re.match(r"\s*[!%]", line) else line
                for line in lines
            ),
        )


def _collect_defaults(tree: ast.AST, names: dict, attributes: dict) -> None:
    """Defaults of functions' parameters, of dataclasses' fields, and of argparse's options."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args.posonlyargs + node.args.args
            pairs = [
                *zip(reversed(given), reversed(node.args.defaults), strict=False),
                *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
            ]
            for argument, default in pairs:
                if default is not None:
                    value = _value(default, {}, {})
                    if not isinstance(value, Unread) and value is not None:
                        names.setdefault(argument.arg, value)
        elif isinstance(node, ast.ClassDef):
            for entry in node.body:
                if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
                    default = entry.value
                    if isinstance(default, ast.Call) and _last(default.func) == "field":
                        default = _keyword(default, "default")
                    if default is not None:
                        attributes[entry.target.id] = _value(default, {}, {})
        elif isinstance(node, ast.Call) and _last(node.func) == "add_argument":
            option = next(
                (
                    word.value.lstrip("-").replace("-", "_")
                    for word in node.args
                    if isinstance(word, ast.Constant) and str(word.value).startswith("--")
                ),
                None,
            )
            default = _keyword(node, "default")
            if option and default is not None:
                attributes[option] = _value(default, {}, {})
            elif option and (action := _keyword(node, "action")) is not None:
                switch = _value(action, {}, {})  # store_true: off, unless it is given
                known = {"store_true": False, "store_false": True}
                attributes[option] = (
                    known.get(switch, UNREAD) if isinstance(switch, str) else UNREAD
                )


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((entry.value for entry in call.keywords if entry.arg == name), None)


def _last(function: ast.expr) -> str:
    """The last part of a called name: "LoraConfig" of peft.LoraConfig."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


class _Reader(ast.NodeVisitor):
    """Goes through the code in order; each plain assignment gives a name its value."""

    def __init__(self, code: Code, attributes: dict[str, object]) -> None:
        self.code, self.attributes = code, attributes

    def visit_If(self, node: ast.If) -> None:
        test = _value(node.test, self.code.names, self.attributes)
        if isinstance(test, bool):  # `if False:`, or a switch whose default is off
            for entry in node.body if test else node.orelse:
                self.visit(entry)
            return
        before = dict(self.code.names)
        for entry in node.body:
            self.visit(entry)
        first = {k: v for k, v in self.code.names.items() if before.get(k, UNREAD) is not v}
        for entry in node.orelse:
            self.visit(entry)
        self.code.names.update(first)  # it is not known which branch runs: the first counts

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        value = _value(node.value, self.code.names, self.attributes)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.code.names[target.id] = value
            elif isinstance(target, ast.Attribute) and target.attr in ("pad_token", "pad_token_id"):
                if isinstance(node.value, ast.Attribute) and node.value.attr.startswith(
                    "eos_token"
                ):
                    self.code.pad_is_eos = True
                    self.code.eos_uses -= 1
            else:
                self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and isinstance(node.target, ast.Name):
            self.code.names[node.target.id] = _value(node.value, self.code.names, self.attributes)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.code.mentioned.add(node.id)
        self.code.eos_uses += node.id.lower() == "eos_token" and isinstance(node.ctx, ast.Load)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.code.mentioned.add(node.attr)
        self.code.eos_uses += node.attr in ("eos_token", "eos_token_id")
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        arguments: dict[str, object] = {}
        for place, argument in enumerate(node.args):
            arguments[str(place)] = _value(argument, self.code.names, self.attributes)
        for entry in node.keywords:
            value = _value(entry.value, self.code.names, self.attributes)
            if entry.arg is not None:
                arguments[entry.arg] = value
            elif isinstance(value, dict):  # **settings
                arguments |= {str(key): member for key, member in value.items()}
        owner = _last(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        self.code.shifts_labels |= _shifts({entry.arg: entry.value for entry in node.keywords})
        self.generic_visit(node)  # calls within it come first
        self.code.calls.append(Call(_last(node.func), owner, arguments, node.lineno))

    def visit_Dict(self, node: ast.Dict) -> None:
        pairs = zip(node.keys, node.values, strict=True)
        named = {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}
        self.code.shifts_labels |= _shifts(named)
        self.generic_visit(node)


def _shifts(named: Mapping[object, ast.expr]) -> bool:
    """Whether inputs without their last token stand beside labels without their first."""
    ends = [_slice(named.get(name)) for name in ("input_ids", "labels")]
    return ends == [(None, "-1"), ("1", None)]


def _slice(node: ast.expr | None) -> tuple[str | None, str | None] | None:
    """The bounds of the last slice in `ids[:, :-1].clone()`, as they are written."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    if not isinstance(node, ast.Subscript):
        return None
    last = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
    if not isinstance(last, ast.Slice):
        return None
    lower, upper = (part and ast.unparse(part) for part in (last.lower, last.upper))
    return lower, upper


def _value(node: ast.expr, names: dict, attributes: dict, depth: int = 0) -> object:
    """The value of an expression, or UNREAD."""
    if depth > DEEPEST:
        return UNREAD

    def inner(part: ast.expr) -> object:
        return _value(part, names, attributes, depth + 1)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id, attributes.get(node.id, UNREAD))
        case ast.Attribute(value=ast.Name(id=owner)) if owner in TYPES:
            return node.attr
        case ast.Attribute():
            return attributes.get(node.attr, UNREAD)
        case ast.List() | ast.Tuple() | ast.Set():
            members = [inner(part) for part in node.elts]
            return UNREAD if any(isinstance(part, Unread) for part in members) else members
        case ast.Dict():
            return {
                key.value: inner(value)
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
            }
        case ast.IfExp():
            test = inner(node.test)
            if isinstance(test, Unread):
                return UNREAD
            return inner(node.body if test else node.orelse)
        case ast.UnaryOp(op=ast.USub()):
            value = inner(node.operand)
            return -value if _is_number(value) else UNREAD
        case ast.BinOp():
            return _arithmetic(type(node.op), inner(node.left), inner(node.right))
        case ast.Call(func=ast.Name(id="dict")):
            return {entry.arg: inner(entry.value) for entry in node.keywords if entry.arg}
        case ast.Call(func=ast.Name(id="float" | "int"), args=[only]):
            value = inner(only)
            return value if _is_number(value) or isinstance(value, str) else UNREAD
    return UNREAD


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _arithmetic(kind: type, left: object, right: object) -> object:
    if kind in OPERATIONS and _is_number(left) and _is_number(right):
        try:
            value = OPERATIONS[kind](left, right)
        except (ArithmeticError, ValueError):
            return UNREAD
        return value if abs(value) <= LARGEST else UNREAD
    if kind is ast.Add and isinstance(left, str) and isinstance(right, str):
        return left + right if len(left) + len(right) < 10_000 else UNREAD
    return UNREAD
