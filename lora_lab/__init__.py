"""A laboratory for fine-tuning decisions: `import lora_lab as lab`.

The public names are loaded when first used, so that the import itself takes milliseconds.
"""

import logging
from importlib import import_module

# PEFT imports bitsandbytes, which on some processors warns as it is imported or first used.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__version__ = "0.1.0"

_HOME = {  # public name: the module it lives in
    "Recipe": "recipe",
    "load_base": "models.bases",
    "to_peft": "models.adapters",
    "save_adapter": "models.learned",
    "load_adapter": "models.adapted",
    "load_task": "tasks.loading",
    "planted_task": "tasks.planted",
    "evaluate": "training.evaluation",
    "generate": "training.evaluation",
    "estimate": "cost.estimates",
    "train": "training.loop",
    "fit": "training.fit",
    "to_code": "training.script",
    "export": "training.exports",
    "compare": "training.pairing",
    "sweep": "training.sweep",
    "decide": "decision.trial",
    "sweep_within": "decision.timed_sweep",
    "final_test": "decision.final_test",
    "write_report": "cli.report",
    "doctor": "cli.doctor",
    "paper": "findings.papers",
    "claim": "findings.claims",
    "evidence": "widgets.evidence_card",
    "studio": "widgets.studio",
    "picture_of_lora": "widgets.lora_picture",
    "check": "checks.exercises",
    "progress": "checks.exercises",
    "check_recipe": "review.recipe",
    "check_data": "review.data",
    "mend_data": "review.data_mending",
    "share": "lessons.sharing",
    "board": "widgets.board",
    "questions": "widgets.cases",
    "decisions": "widgets.cases",
}

__all__ = [*_HOME]  # noqa: PLE0604 - the table is the list


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lora_lab has no {name!r}; it has {', '.join(_HOME)}")
    value = getattr(import_module(f"lora_lab.{_HOME[name]}"), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
