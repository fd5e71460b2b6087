"""The studio in a real browser: choices and what they take, kept runs, another base, saving."""

import json
import re
import time
from urllib.parse import urlsplit

import pytest

from test_browser import (  # noqa: F401
    PATIENCE,
    jupyter,
    keep_pictures,
    nameless,
    out_of_reach,
    run_all,
    visit,
    wait_for_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

CODE = """\
import lora_lab as lab
studio = lab.studio("pocket", "new-facts", steps=20); studio"""


@pytest.fixture
def notebook(tmp_path):
    """A notebook with the studio."""
    cell = {
        "cell_type": "code",
        "id": "studio",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": CODE,
    }
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    page = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "studio.ipynb"
    path.write_text(json.dumps(page))
    return path


def wait_for(root, words):
    """Wait until the widget says something."""
    end = time.monotonic() + PATIENCE
    while not re.search(words, root.inner_text()):
        assert time.monotonic() < end, f"waited {PATIENCE} s for {words}: {root.inner_text()}"
        root.page.wait_for_timeout(50)


def fill(root, name, value):
    field = root.get_by_role("spinbutton", name=name, exact=True)
    field.fill(value)
    field.press("Enter")


def press(root, name):
    root.get_by_role("button", name=name, exact=True).click()


def test_the_studio_costs_trains_keeps_compares_and_saves(visit, tmp_path):  # noqa: F811
    page = visit.page
    run_all(page)
    root = page.locator(".lora-lab")
    assert root.count() == 1

    # what the choices take follows them
    wait_for(root, r"trains 81\.9 K of 1\.2 M parameters")
    keep_pictures(root, "studio-open")
    fill(root, "r", "4")
    wait_for(root, r"trains 41\.0 K of .*\nscaling: α/r = 16/4 = 4")
    assert root.get_by_role("img", name=re.compile("^A step's memory .*: as chosen ")).count() == 1
    fill(root, "batch_size", "1024")
    wait_for(root, r"memory about \d+ MiB")

    # impossible choices are reported, and mended
    root.get_by_role("button", name="All other choices").click()
    fill(root, "warmup_steps", "50")
    wait_for(root, r"warmup_steps=50 leaves none of steps=20")
    fill(root, "warmup_steps", "0")
    fill(root, "batch_size", "16")
    wait_for(root, r"trains 41\.0 K of")
    keep_pictures(root, "studio-choices")
    assert nameless(root) == {}
    assert out_of_reach(root) == []
    root.get_by_role("button", name="All other choices").click()

    # two settings, one kept with five seeds, one with a single
    assert root.get_by_role("button", name="Keep", exact=True).is_disabled()
    press(root, "Train")
    wait_for_state(root, "finished: 20 steps in ")
    press(root, "4 more seeds")
    wait_for(root, "noise band: 5 seeds")
    press(root, "Keep")
    wait_for(root, "run 1 has 5 seeds")
    fill(root, "r", "8")
    press(root, "Train")
    wait_for(root, r"scaling: α/r = 16/8 = 2")
    wait_for_state(root, "finished: 20 steps in ")
    page.wait_for_function(
        "() => [...document.querySelectorAll('button')].some("
        "one => one.innerText === 'Keep' && !one.disabled)"
    )
    press(root, "Keep")
    wait_for(root, r"1 seed in common; a verdict takes 5 ⚑")
    assert root.get_by_role("combobox", name="run", exact=True).input_value() == "1"
    root.get_by_text("that may explain a difference").click()
    wait_for(root, r"run 2: The scaling moves along")
    press(root, "4 more seeds")
    wait_for(root, "noise band: 5 seeds")
    press(root, "Keep")
    wait_for(root, r"run 2 has 5 seeds[^⚑]*\(?.* points .*5 seeds.* ⚑")

    # saving and exporting, and a folder that is taken
    root.get_by_role("button", name="Save and export").click()
    folder = root.get_by_role("textbox", name="folder", exact=True)
    folder.fill(str(tmp_path / "adapter"))
    press(root, "Save the adapter")
    wait_for(root, "the adapter of step 20 is in ")
    assert (tmp_path / "adapter/adapter_config.json").exists()
    press(root, "Save the adapter")
    wait_for(root, "is not an empty folder; give a new one")
    folder.fill(str(tmp_path / "exported"))
    press(root, "Export PNG and CSV")
    wait_for(root, r"loss\.png, kept-runs\.csv, runs\.csv are in ")
    keep_pictures(root, "studio-kept")

    # one's own file, and its columns
    file = tmp_path / "colours.csv"
    rows = [f"colour of {number},{'red' if number % 2 else 'blue'}" for number in range(40)]
    file.write_text("\n".join(["object,answer", *rows]))
    root.get_by_role("button", name="Your own file").click()
    root.get_by_role("textbox", name="file", exact=True).fill(str(file))
    press(root, "Use this file")
    wait_for(root, "has no column 'prompt'; .*object")
    root.get_by_role("textbox", name="prompts in", exact=True).fill("object")
    press(root, "Use this file")
    wait_for(root, r"colours\.csv is read")
    wait_for(root, r"40 rows? read")

    # another base, with its own tasks; a missing base is reported
    base = root.get_by_role("combobox", name="base", exact=True)
    base.fill("smollm")
    press(root, "Load")
    wait_for(root, "did you mean 'smollm2'")
    keep_pictures(root, "studio-error")
    base.fill("smollm2")
    press(root, "Load")
    wait_for(root, r"smollm2: 134\.5 M parameters on ")
    wait_for(root, r"trains 1\.2 M of 136 M parameters")
    root.get_by_role("combobox", name="task", exact=True).select_option("home-commands")
    wait_for(root, r"pocket · new-facts")  # what was kept stays
    keep_pictures(root, "studio-smollm2")

    assert nameless(root) == {}
    assert visit.complaints == []
    assert visit.hosts == {urlsplit(page.url).netloc}
