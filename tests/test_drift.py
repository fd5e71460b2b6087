"""Each name of another package that we use is there, and takes what we give it.

An upgrade that renames or drops something then breaks the test that is named after its package,
before it breaks sixteen notebooks.
"""

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lora_lab

PACKAGE = Path(lora_lab.__file__).parent
UNSAID = {"transformers.AutoModel.from_config"}  # takes more than its signature says
METHODS = {  # what we call of objects that others make, with the arguments that we give
    "transformers.LlamaForCausalLM": {
        "save_pretrained": {},
        "generate": {},
        "get_input_embeddings": {},
        "get_output_embeddings": {},
        "gradient_checkpointing_enable": {"gradient_checkpointing_kwargs": {}},
        "enable_input_require_grads": {},
    },
    "transformers.PreTrainedTokenizerBase": {
        "apply_chat_template": {"add_generation_prompt": True, "tokenize": False},
        "save_pretrained": {},
        "decode": {"skip_special_tokens": True},
    },
    "peft.PeftModel": {
        "add_adapter": {},
        "set_adapter": {},
        "delete_adapter": {},
        "save_pretrained": {},
    },
    "peft.LoraModel": {"merge_and_unload": {}},
    "torch.optim.AdamW": {"step": {}, "zero_grad": {"set_to_none": True}},
}


@functools.cache
def packages() -> list[str]:
    """The packages of others that ours imports."""
    ours = {*sys.stdlib_module_names, PACKAGE.name}
    names = {
        name.partition(".")[0]
        for path in PACKAGE.rglob("*.py")
        for name in names_of(tree_of(path)).values()
    }
    return sorted(names - ours)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_of(tree: ast.Module) -> dict[str, str]:
    """What each imported name means, as a dotted name: `F` is `torch.nn.functional`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """`torch.nn.Linear` for `nn.Linear`, where `nn` was imported; None for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *reversed(parts)])


@functools.cache
def used() -> list[tuple[str, str, ast.Call | None]]:
    """Each use of another package: the place, the dotted name, and the call, where it is one."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = tree_of(path)
        names = names_of(tree)
        place = path.relative_to(PACKAGE)
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute | ast.Name):
                name = dotted(node, names)
                if name and name.partition(".")[0] in packages():
                    found.append((f"{place}:{node.lineno}", name, calls.get(id(node))))
    return found


def resolve(name: str) -> object:
    """What a dotted name means; its modules are imported where that is needed.

    Raises:
        AttributeError: if a part of it is not there.
    """
    first, *rest = name.split(".")
    found, path = importlib.import_module(first), first
    for part in rest:
        path = f"{path}.{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(path)
            except ImportError:
                raise AttributeError(f"{name}: there is no {part!r}") from None
    return found


def bound_as_called(function: object, call: ast.Call) -> None:
    """Bind a call's arguments to a function's signature.

    Raises:
        TypeError: if it does not take them.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, without one
        return
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
    partly = starred or any(keyword.arg is None for keyword in call.keywords)
    given = [None for argument in call.args if not isinstance(argument, ast.Starred)]
    bind = signature.bind_partial if partly else signature.bind
    bind(*([] if starred else given), **keywords)


def misfits(package: str) -> Iterator[str]:
    for place, name, call in used():
        if name.partition(".")[0] != package:
            continue
        try:
            found = resolve(name)
            if call is not None and name not in UNSAID:
                bound_as_called(found, call)
        except (AttributeError, TypeError) as error:
            yield f"{place}: {name}: {error}"


@pytest.mark.parametrize("package", packages())
def test_each_name_that_we_use_is_there_and_takes_what_we_give_it(package):
    pytest.importorskip(package)
    assert list(misfits(package)) == []


def test_the_packages_of_the_trade_are_among_them():
    assert {"torch", "transformers", "peft", "bitsandbytes", "ipywidgets", "matplotlib"} <= {
        *packages()
    }
    assert len(used()) > 1500


@pytest.mark.parametrize("owner", METHODS)
def test_methods_take_what_we_give_them(owner):
    for name, arguments in METHODS[owner].items():
        signature = inspect.signature(getattr(resolve(owner), name))
        signature.bind_partial(None, **arguments)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import torch\ntorch.no_such_function(1)", "no_such_function"),
        ("from peft import LoraConfig\nLoraConfig(rank=8)", "'rank'"),
        ("from torch.nn import functional as F\nF.softmax()", "missing"),
    ],
)
def test_what_does_not_fit_is_found(source, words, monkeypatch, tmp_path):
    (tmp_path / "module.py").write_text(source)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    used.cache_clear()
    package = source.split()[1].partition(".")[0]
    (line,) = misfits(package)
    used.cache_clear()
    assert words in line
    assert "module.py:2" in line
