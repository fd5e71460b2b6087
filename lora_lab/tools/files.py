"""Files of recipes as plain values: YAML, JSON, TOML and the options of a shell script.

YAML is read by PyYAML's safe loader, which makes no objects. Aliases that stand for too many values
are refused.
"""

import json
import shlex
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

import yaml

LARGEST = 5_000_000  # bytes: a recipe has a few thousand; a log of a long training some millions
MOST_VALUES = 200_000  # in a file, aliases written out: a malicious file stands for billions
DEEPEST = 100  # levels of lists and mappings
KINDS = (".yaml", ".yml", ".json", ".toml", ".py", ".ipynb", ".sh")


def read_text(path: Path) -> str:
    """The text of a file that may be a recipe.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a regular file, of another kind, larger than 5 MB, binary or empty.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no file {str(path)!r}; give a recipe: {', '.join(KINDS)}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{str(path)!r} isn't a file; give one recipe: {', '.join(KINDS)}")
    if path.suffix.lower() not in KINDS:
        raise ValueError(
            f"{path.name!r} is of a kind that is not read as a recipe; give {', '.join(KINDS)}"
        )
    if status.st_size > LARGEST:
        raise ValueError(
            f"{path.name} has {status.st_size / 1e6:,.1f} MB, and no recipe is longer than "
            f"{LARGEST / 1e6:.0f} MB; give the recipe alone, or a notebook without its outputs"
        )
    content = path.read_bytes()
    if b"\0" in content:
        raise ValueError(f"{path.name} holds binary data, not text; give a recipe as text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    if not text.strip():
        raise ValueError(f"{path.name} is empty; give a recipe with its settings")
    return text


def mapping_of(text: str, name: str) -> dict[str, object]:
    """The settings in a text of YAML, JSON, TOML, or a shell script with options.

    Args:
        text: the file's text.
        name: the file's name; its ending says how to read it.

    Raises:
        ValueError: if it is broken, with the place; or holds no settings by name.
    """
    kind = Path(name).suffix.lower()
    try:
        if kind == ".json":
            values = _json(text, name)
        elif kind == ".toml":
            values = tomllib.loads(text)
        elif kind == ".sh":
            values = _options_of(text, name)
        else:
            values = _yaml(text, name)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name} is broken at line {error.lineno}, column {error.colno}: {error.msg}; "
            "mend it there"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is broken: {error}; mend it there") from error
    except RecursionError as error:
        raise ValueError(f"{name} nests deeper than any recipe does; give flat settings") from error
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{name} holds {_in_words(values)}, not settings by name; give for example "
            "learning_rate: 2e-4 in a line of its own"
        )
    _check_size(values, name)
    return {str(key): value for key, value in values.items()}


def _json(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # a whole number with thousands of digits
        raise ValueError(f"{name} is broken: {error}; write that value between quotes") from error


def _yaml(text: str, name: str) -> object:
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # no values are built yet
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"{name} nests deeper than any recipe does; give flat settings")
        try:
            documents = [value for value in yaml.safe_load_all(text) if value is not None]
        except (ValueError, OverflowError) as error:  # a date or number that there can't be
            raise ValueError(
                f"{name} is broken: {error}; write that value between quotes"
            ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it isn't YAML"
        raise ValueError(f"{name} is broken{place}: {problem}; mend it there") from error
    if len(documents) > 1:
        raise ValueError(f"{name} holds {len(documents)} YAML documents; give one recipe a file")
    return documents[0] if documents else None


def _check_size(values: object, name: str) -> None:
    """Refuse values that aliases multiply: a few lines of YAML can stand for billions."""
    waiting, seen = [(values, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEEPEST:
            raise ValueError(
                f"{name} stands for more than {MOST_VALUES:,} values or {DEEPEST} levels, once its "
                "aliases (&, *) are written out; no recipe does: write the settings out plainly"
            )
        if isinstance(value, Mapping):
            waiting += [(entry, depth + 1) for entry in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(entry, depth + 1) for entry in value]


def _options_of(text: str, name: str) -> dict[str, object]:
    """The options of a shell script: `--learning_rate 2e-4 --bf16` and `lr=2e-4`."""
    lines = text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines()
    found: dict[str, object] = {}
    for number, line in enumerate(lines, start=1):
        if "--" not in line:
            continue
        try:
            words = shlex.split(line.rstrip("\\ "), comments=True)
        except ValueError as error:
            raise ValueError(
                f"{name} is broken in line {number}: {error}; mend it there"
            ) from error
        for place, word in enumerate(words):
            if not word.startswith("--") or len(word) < 3:
                continue
            key, equals, value = word[2:].partition("=")
            if not equals:
                after = []
                for following in words[place + 1 :]:
                    if following.startswith("--"):
                        break
                    after.append(following)
                value = after[0] if len(after) == 1 else after or True
            found[key.replace("-", "_")] = _plain(value)
    if not found:
        raise ValueError(f"{name} has no options such as --learning_rate 2e-4; give a recipe")
    return found


def _plain(value: object) -> object:
    """An option's value: yes or no as a bool. Any other value stays text, as readers expect."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value


def _in_words(value: object) -> str:
    kinds = {list: "a list", str: "a text", bool: "a yes or no"}
    return kinds.get(type(value), "nothing" if value is None else "a number")
