"""The package reads from top to bottom: each module uses only what stands above it."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lora_lab"

READING_ORDER = {  # module: the third-party packages it may import
    "recipe": set(),
    "records": set(),
    "places": {"platformdirs"},
    "tensor_files": {"torch", "safetensors"},
    "run_files": {"msgspec"},
    "papers": set(),
    "predictions": set(),
    "attempts": set(),
    "targets": {"regex"},
    "budget": set(),
    "held": set(),
    "activations": set(),
    "memory": set(),
    "cards": set(),
    "scalings": set(),
    "maths": {"torch"},
    "machine": set(),
    "lifelines": set(),
    "utterances": {"hassil"},
    "unpacking": {"gguf", "numpy"},
    "assets": {"filelock"},
    "devices": {"torch"},
    "quantization": {"torch", "transformers", "bitsandbytes"},
    "quiet": {"transformers"},
    "smollm2": {"torch", "transformers", "safetensors"},
    "built_in": set(),
    "bases": {"torch", "transformers", "safetensors"},
    "shapes": {"torch", "transformers"},
    "adapters": {"torch", "peft", "transformers"},
    "ranks": {"torch"},
    "adapter_files": {"torch", "peft", "msgspec"},
    "learnt": {"torch", "peft"},
    "changes": {"torch"},
    "tasks.examples": {"torch"},
    "tasks.words": set(),
    "tasks.world": set(),
    "tasks.sentences": set(),
    "tasks.skills": set(),
    "tasks.pocket": set(),
    "tasks.changed": set(),
    "tasks.texts": set(),
    "tasks.tables": set(),
    "tasks.files": set(),
    "tasks.planted": {"torch"},
    "tasks.hiding": set(),
    "tasks.loading": set(),
    "estimates": {"torch"},
    "limits": {"torch"},
    "optimizers": {"torch"},
    "runs": {"torch"},
    "run_folder": {"torch", "filelock"},
    "cutting": {"torch"},
    "evaluation": {"torch"},
    "comparing": set(),
    "equal_loss": set(),
    "recorded": {"pandas"},
    "retrieval": {"bm25s"},
    "approaches": set(),
    "training": {"torch"},
    "fitting": {"tqdm"},
    "processes": {"torch", "loky", "cloudpickle", "safetensors"},
    "sweeps": {"torch", "pandas", "tqdm"},
    "trials": set(),
    "recorded_sweeps": set(),
    "claims": {"tqdm"},
    "deciding": set(),
    "script_template": {"torch", "transformers", "peft", "bitsandbytes"},
    "scripts": set(),
    "plots": {"matplotlib"},
    "checks": {"torch"},
    "widgets": {"torch", "ipywidgets", "IPython", "pandas"},
    "health": {"torch"},
    "cli": {"typer", "rich"},
}
FACES = {"checks", "widgets", "health", "cli"}  # only cli leans on them


def place(name: str) -> str | None:
    """Where a name of ours stands: `tasks.examples.Example` at `tasks.examples`. None: nowhere."""
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in READING_ORDER), None)


def imported(source: str) -> Iterator[str]:
    """Every dotted name that `source` imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = "." * node.level + (node.module or "")
            yield from (f"{parent}.{alias.name}" for alias in node.names)


def breaches(module: str, source: str) -> list[str]:
    """The names that `source` imports and that the reading order forbids to `module`."""
    order = list(READING_ORDER)
    ours = {module} | set(order[: order.index(module)]) - (set() if module == "cli" else FACES)
    packages = sys.stdlib_module_names | READING_ORDER[module]

    def allowed(name: str) -> bool:
        top, _, below = name.partition(".")
        if top == "lora_lab":
            return below == "__version__" or place(below) in ours
        return top in packages

    return [name for name in imported(source) if not allowed(name)]


def modules() -> dict[str, Path]:
    """Each module of the package by its dotted name."""
    paths = (path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


@pytest.mark.parametrize(("module", "path"), sorted(modules().items()))
def test_a_module_imports_only_what_stands_above_it(module, path):
    assert place(module), f"{module} has no place yet: give it one in READING_ORDER"
    assert breaches(place(module), path.read_text(encoding="utf-8")) == []


def test_the_init_files_of_folders_but_plots_import_nothing():
    files = [path for path in PACKAGE.glob("*/**/__init__.py") if path.parent.name != "plots"]
    sources = [path.read_text(encoding="utf-8") for path in files]
    assert sources
    assert [name for source in sources for name in imported(source)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("records", "from lora_lab.training import train"),  # upwards
        (
            "tasks.world",
            "def f():\n    from lora_lab.tasks import pocket",
        ),  # upwards, in a function
        ("training", "from lora_lab import train"),  # a public name, which hides its module
        ("tasks.texts", "from ..training import train"),  # relative, so hard to see
        ("training", "import peft.tuners"),  # a door that is not its own
        ("health", "from lora_lab.widgets.live import LiveTrainer"),  # face on face
    ],
)
def test_the_rule_catches_each_kind_of_breach(module, source):
    assert len(breaches(module, source)) == 1


def test_the_command_line_may_lean_on_the_other_faces():
    assert breaches("cli", "from lora_lab.health import doctor") == []


def test_every_place_in_the_order_has_its_module():
    assert set(READING_ORDER) == {place(module) for module in modules()}


def test_the_readme_gives_the_same_reading_order():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Reading order")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `([\w/]+?)(?:\.py|/)` \|", section, flags=re.MULTILINE)
    assert told == [name.replace(".", "/") for name in READING_ORDER]
