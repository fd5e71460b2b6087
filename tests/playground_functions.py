"""Functions of the page's modules, called from tests, and pocket's modules and tasks for them."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser

from lora_lab.web.build import PACKAGE
from playground import served

KINDS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
PLACE = {kind: "self_attn" if kind[0] in "qkvo" else "mlp" for kind in KINDS}
MODULES = [
    {"name": f"model.layers.{layer}.{PLACE[kind]}.{kind}", "layer": layer, "kind": kind}
    | {"in": 384 if kind == "down_proj" else 128, "out": 384 if kind[0] in "gu" else 128}
    for layer, kind in itertools.product(range(4), KINDS)
]
BASE = {"parameters": 1_082_496, "layers": 4, "modules": MODULES}
NAMES = [module["name"] for module in MODULES]
TASKS = [
    {"name": "new-facts", "n": 60, "sizes": [20, 60], "recipe": {"steps": 150, "batch_size": 32}},
    {"name": "json", "n": 300, "sizes": [300], "recipe": {"steps": 40, "learning_rate": 0.003}},
]


@contextmanager
def page_functions(browser: Browser) -> Iterator[Callable]:
    """`call("settings", "numberFrom", …)` calls a function that the page's module exports."""
    with served(PACKAGE) as address:
        page = browser.new_page()
        page.goto(address)  # any page of this host: its modules can be imported there

        def of_module(module, function, *given):
            return page.evaluate(
                """async ([module, name, given]) => {
                    const { [name]: found } = await import(`/web/page/${module}.mjs`);
                    try {
                        return found(...given);
                    } catch (error) {
                        return { error: error.message };
                    }
                }""",
                [module, function, given],
            )

        of_module.page = page
        yield of_module


def of(*words: str) -> list[str]:
    """The modules that have one of these words in their names."""
    return [name for name in NAMES if any(f".{word}." in f".{name}." for word in words)]


def usual(call: Callable, **changes: object) -> dict:
    """The usual settings of the first task, with changes."""
    return call("settings", "usualSettings", TASKS[0], BASE) | changes
