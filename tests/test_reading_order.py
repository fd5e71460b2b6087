"""The package reads from top to bottom: rooms in order, and in each room its modules in order."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lora_lab"

ROOMS = {  # room: its modules, and the third-party packages that each may import
    "": {
        "choices": "",
        "recipe": "",
        "records": "",
        "places": "platformdirs msgspec",
        "wording": "",
    },
    "maths": {
        "lora": "torch",
        "bank": "torch",
        "adalora": "torch",
        "quant_types": "torch",
        "nf4": "torch",
        "spectra": "torch",
        "intruders": "torch",
        "change_norm": "",
        "statistics": "scipy",
        "grouped": "scipy",
        "measures": "",
        "looks": "",
        "comparison": "",
    },
    "machine": {"resources": "psutil", "devices": "torch", "lifelines": ""},
    "assets": {
        "utterances": "hassil",
        "unpacking": "gguf numpy",
        "downloads": "filelock",
        "javascript": "",
    },
    "models": {
        "architecture": "regex",
        "quiet": "transformers",
        "quantization": "torch transformers bitsandbytes",
        "smollm2": "torch transformers safetensors",
        "built_in": "",
        "chat_format": "jinja2",
        "bases": "torch transformers safetensors",
        "read_architecture": "torch transformers",
        "adapters": "torch peft transformers",
        "read_llama": "torch peft transformers",
        "lean": "torch",
        "greedy": "torch",
        "tensor_files": "torch safetensors numpy",
        "adapter_config": "msgspec",
        "adapter_files": "torch peft",
        "learned": "torch peft",
        "adapted": "torch peft",
        "merging": "torch",
    },
    "tasks": {
        "styles": "",
        "examples": "torch",
        "words": "",
        "world": "",
        "sentences": "",
        "skills": "",
        "pocket": "",
        "changing_facts": "",
        "replay": "",
        "texts": "",
        "tables": "",
        "chats": "",
        "records": "",
        "templates": "",
        "personal_data": "",
        "splits": "",
        "files": "",
        "planted": "torch",
        "hidden_rank": "",
        "loading": "",
        "losses": "torch",
        "hidden_modules": "torch",
        "retrieval": "bm25s",
        "prompting": "",
    },
    "cost": {
        "budget": "",
        "stacks": "",
        "static_memory": "",
        "tracing": "torch",
        "steps": "torch transformers",
        "memory": "",
        "gpus": "",
        "known_models": "",
        "estimates": "torch",
        "limits": "torch",
        "published_memory": "",
    },
    "training": {
        "arguments": "",
        "optimizers": "torch",
        "adalora": "torch",
        "evaluation": "torch",
        "early_stopping": "",
        "run_files": "msgspec",
        "store": "torch",
        "run_folder": "torch filelock",
        "graphs": "torch onnx onnxscript",
        "sessions": "torch onnxruntime",
        "traced": "torch transformers",
        "loop": "torch",
        "finder": "",
        "fit": "tqdm",
        "pack": "torch",
        "pack_scores": "torch",
        "packing": "torch",
        "script_template": "torch transformers peft bitsandbytes",
        "script": "",
        "pairing": "",
        "intervals": "",
        "model_card": "huggingface_hub",
        "exports": "torch",
        "packages": "torch cloudpickle",
        "processes": "torch loky msgspec filelock",
        "cluster": "torch",
        "errors": "",
        "confounds": "",
        "summary": "pandas",
        "sweep": "torch pandas tqdm",
        "surface": "",
    },
    "findings": {
        "papers": "",
        "defaults": "pandas",
        "recordings": "pandas",
        "plans": "msgspec",
        "evidence": "pandas msgspec",
        "evidence_runs": "filelock",
        "claim_runs": "",
        "claims": "tqdm",
        "claims_page": "",
    },
    "tools": {
        "brought_recipe": "",
        "files": "yaml",
        "vocabulary": "",
        "training_arguments": "",
        "axolotl": "",
        "trl": "",
        "llamafactory": "",
        "torchtune": "",
        "peft_config": "",
        "python_calls": "",
        "scripts": "",
        "trainer_state": "",
        "reading": "",
        "command": "",
        "peft_script": "",
        "writing": "yaml",
    },
    "review": {
        "finding": "",
        "brought": "",
        "adapter_weights": "numpy",
        "base_names": "",
        "adapter_base": "numpy",
        "adapter_config": "",
        "adapter_factor": "",
        "adapter_size": "",
        "adapter_token_rows": "",
        "adapter_tokenizer": "msgspec",
        "recipe_curves": "",
        "whole_model": "",
        "adapter": "",
        "named_base": "",
        "recipe_settings": "",
        "recipe_base": "",
        "recipe_data": "",
        "recipe": "",
        "data_lengths": "tokenizers jinja2",
        "data_rows": "",
        "data_twins": "",
        "data_groups": "",
        "data": "",
        "data_mending": "",
    },
    "lessons": {
        "predictions": "",
        "cases": "",
        "attempts": "",
        "sharing": "",
        "approaches": "pandas",
        "deciding": "",
        "cutting": "torch",
        "weight_change": "torch",
        "equal_loss": "",
        "scalings": "",
        "alpha": "torch pandas",
        "token_path": "torch pandas",
        "labels": "torch pandas",
        "reading_runs": "pandas",
        "by_hand": "torch pandas",
        "thin_change": "torch pandas",
        "pruning": "torch pandas peft",
        "qlora": "torch pandas",
        "batches": "torch pandas",
        "way_in": "torch",
        "full_or_lora": "torch pandas",
        "shipping": "torch pandas",
        "tampering": "pandas",
        "autopsy": "pandas",
        "your_data": "pandas",
    },
    "decision": {
        "asking": "",
        "outcome": "pandas",
        "timed_sweep": "pandas",
        "trial": "",
        "final_test": "",
        "report": "",
    },
    "checks": dict.fromkeys(
        ["compare", "start_here", "should_i_fine_tune", "one_token", "maths_of_lora"]
        + [
            "reading_a_run",
            "rank",
            "alpha",
            "target_modules",
            "adalora",
            "qlora",
            "training_parameters",
            "way_in",
            "full_or_lora",
            "shipping",
            "your_data",
            "progress",
            "exercises",
        ],
        "torch",
    ),
    "classroom": {
        "confinement": "",
        "answers": "torch",
        "code": "IPython",
        "worker": "",
        "runner": "cloudpickle psutil",
        "course": "",
        "release": "",
        "submissions": "",
        "grading": "",
        "grades": "jinja2",
    },
    "plots": dict.fromkeys(
        [
            "canvas",
            "losses",
            "meters",
            "tokens",
            "matrices",
            "predicted",
            "guesses",
            "noise",
            "by_rank",
        ]
        + ["pairs", "learning_rates", "alpha", "module_sets", "competing", "quantized"]
        + ["memory_bars", "batches", "lengths", "ways", "surface", "fields", "lora_parts"]
        + ["evidence", "full_or_lora", "fleet"],
        "matplotlib",
    )
    | {"canvas": "matplotlib PIL"},
    "widgets": dict.fromkeys(
        ["markup", "background", "memory_check", "boxes", "run_summary", "sweep_following"]
        + ["following", "working_box", "recipe_controls", "samples", "before_after"]
        + ["forgetting_film", "seeds", "lab_results", "lab_readings", "lab_face", "live_result"]
        + ["live_lab", "lora_picture", "explorer", "toggle", "token_path", "prediction"]
        + ["module_tree", "svd_slider", "rank_slider", "rank_map", "pruning_lab"]
        + ["nf4_lab", "memory_bars", "budget_curve", "pairs"]
        + ["pick_runs", "run_here", "five_minutes", "decision_aid", "cell_grid", "surface_lab"]
        + ["rank_lab", "hunt_lab", "seeds_button", "evidence_card", "gain_knob"]
        + ["batch_fan", "recipe_cost", "kept_runs"]
        + ["studio", "cases", "token_strips", "ways_lab", "fleet", "board"],
        "torch ipywidgets anywidget traitlets IPython pandas",
    ),
    "web": {"step": "torch", "export": "torch", "data": "", "build": ""},
    "cli": dict.fromkeys(
        ["show", "task_spec", "options", "resolve", "doctor", "setup", "lab", "check", "estimate"]
        + [
            "waiting",
            "train",
            "choice",
            "ties",
            "sweep",
            "ask",
            "export",
            "report",
            "classroom",
            "playground",
            "app",
        ],
        "typer rich torch markdown_it packaging jupyter_client",
    ),
}
FACES = (
    "checks",
    "plots",
    "widgets",
    "web",
    "cli",
)  # what people touch: nothing above imports them
APART = {"widgets": {"checks"}, "cli": {"checks", "widgets"}}  # no face leans on these faces

READING_ORDER = {  # the modules by their dotted names, in order
    f"{room}.{module}".strip("."): set(packages.split())
    for room, modules in ROOMS.items()
    for module, packages in modules.items()
}


def place(name: str) -> str | None:
    """The module that a name of ours stands in: `tasks.examples` for `tasks.examples.Example`."""
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
    room = module.partition(".")[0]
    above = {
        name
        for name in order[: order.index(module)]
        if name.partition(".")[0] not in APART.get(room, ())
    }
    packages = sys.stdlib_module_names | READING_ORDER[module]

    def allowed(name: str) -> bool:
        top, _, below = name.partition(".")
        if top != "lora_lab":
            return top in packages
        pictures = below == "plots" or below.startswith("plots.")
        face_of_pictures = pictures and room in ("widgets", "cli")  # plots hands its names on
        return below == "__version__" or face_of_pictures or place(below) in above

    return [name for name in imported(source) if not allowed(name)]


def modules() -> dict[str, Path]:
    """Each module of the package by its dotted name."""
    paths = (path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


@pytest.mark.parametrize(("module", "path"), sorted(modules().items()))
def test_a_module_imports_only_what_stands_above_it(module, path):
    assert module in READING_ORDER, f"{module} has no place yet: give it one in ROOMS"
    assert breaches(module, path.read_text(encoding="utf-8")) == []


def test_every_place_in_the_order_has_its_module():
    assert set(READING_ORDER) == set(modules())


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in ("", "plots")])
def test_the_init_file_of_a_room_is_one_sentence(room):
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1
    assert ast.get_docstring(tree).count(".\n") == 0


def test_the_init_file_of_plots_loads_nothing_before_it_is_asked():
    source = (PACKAGE / "plots" / "__init__.py").read_text(encoding="utf-8")
    assert list(imported(source)) == ["importlib.import_module"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("records", "from lora_lab.training.loop import train"),  # a room below
        ("training.loop", "from lora_lab.training import sweep"),  # below in its own room
        ("tasks.world", "def f():\n    from lora_lab.tasks import pocket"),  # in a function
        ("training.loop", "from lora_lab import train"),  # a public name, which hides its module
        ("tasks.texts", "from ..training.loop import train"),  # relative, so hard to see
        ("training.loop", "import peft.tuners"),  # a door that is not its own
        ("widgets.live_lab", "from lora_lab.checks.rank import EXERCISES"),  # face on face
    ],
)
def test_the_rule_catches_each_kind_of_breach(module, source):
    assert len(breaches(module, source)) == 1


def test_the_readme_maps_the_rooms_in_their_order():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## The rooms")[2].partition("\n## ")[0]
    rooms = re.findall(r"^\| `(\w+)/` \|", section, flags=re.MULTILINE)
    assert rooms == [room for room in ROOMS if room]
    assert all(f"`{module}.py`" in section for module in ROOMS[""])


def test_the_contributors_list_names_the_modules_in_their_order():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Reading order")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([\w/]+)\.py` \|", section, flags=re.MULTILINE)
    assert listed == [name.replace(".", "/") for name in READING_ORDER]
