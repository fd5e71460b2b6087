"""Names, prompts and labels with HTML, scripts and terminal codes are shown as text everywhere."""

import dataclasses
import json
import shutil

import ipywidgets
import pytest
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

import lora_lab as lab
from browsing import CHROMIUM
from lora_lab.cli.app import app
from lora_lab.cli.report import page
from lora_lab.decision.report import report_of_run
from lora_lab.review.adapter import check_adapter
from lora_lab.widgets.live_lab import LiveLab
from tiny import recipe, save_tiny_base, tiny_base

HTML = "<img src=x onerror=hit()><script>hit()</script><svg onload=hit()>&lt;"
ANSI = "\x1b[2J\x1b]0;title\x07\x1b[31mred\u202e"
NAME = "<img src=x onerror=hit()>\x1b[31m.jsonl"
PROMPTS = [HTML, ANSI, "${hit()}", "{{ hit() }}", "]] > [x](javascript:hit())", "../../x", "`|`"]
PARTS = "script, svg, [onclick], [onerror], a[href^=javascript]"  # none of them is ours
COLUMNS = ("<b onclick=hit()>asked", "</td><script>hit()</script>")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / NAME
    lines = []
    for number in range(60):
        texts = (f"{PROMPTS[number % len(PROMPTS)]} {number}", (HTML, ANSI, "b")[number % 3])
        lines.append(json.dumps(dict(zip(COLUMNS, texts, strict=True))))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def options():
    return {"prompt": COLUMNS[0], "answer": COLUMNS[1]}


@pytest.fixture(scope="module")
def run(file):
    task = lab.load_task(file, **options())
    made = recipe(steps=2, max_length=256)
    return task, lab.fit(tiny_base(), task, made, store=None)


def texts_of(widget):
    """The HTML of a widget and of all widgets inside it."""
    if isinstance(widget, ipywidgets.HTML):
        yield widget.value
    for child in getattr(widget, "children", ()):
        yield from texts_of(child)


def pages(file, run, folder):
    """By place: the HTML that a person sees of these rows."""
    task, trained = run
    adapter = lab.save_adapter(trained, folder / "<img src=x onerror=hit()>")
    asked = [example for example in task.train if HTML in example.prompt][:3]
    live = LiveLab(tiny_base(), dataclasses.replace(task, test=asked), steps=2)
    live.train_button.click()
    live.wait()
    yield "check_data", lab.check_data(file, **options())._repr_html_()
    yield "check_adapter", check_adapter(adapter)._repr_html_()
    yield "report", page(report_of_run(trained, task, task.about, None, [file.name]), {})
    yield "live lab", "".join(texts_of(live))
    yield "live result", live.result._repr_html_()


def test_in_a_browser_nothing_of_it_runs_or_becomes_a_part_of_the_page(
    file, run, browser_path, tmp_path
):
    shown = dict(pages(file, run, tmp_path))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=CHROMIUM)
        for place, html in shown.items():
            tab = browser.new_page()
            tab.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1; };")
            (tmp_path / "page.html").write_text(f"<meta charset=utf-8>{html}", encoding="utf-8")
            tab.goto((tmp_path / "page.html").as_uri())
            assert tab.evaluate("hits") == 0, place
            assert tab.locator(PARTS).count() == 0, place
            assert "onerror=hit()" in tab.locator("body").inner_text(), place
            tab.close()
        browser.close()


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


def said(*arguments):
    """Everything that a command writes."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.stdout + result.stderr


def commands(file, base, folder):
    store, run_of = folder / "store", None
    columns = ("--prompt", COLUMNS[0], "--answer", COLUMNS[1])
    given = ("--base", base, "--store", store, "--steps", 2, "--max-length", 256)
    yield "check", said("check", file, *columns)
    yield "check a wrong column", said("check", file, "--prompt", ANSI)
    yield "train", said("train", file, *columns, *given)
    yield "runs", said("runs", "--store", store)
    (run_of,) = [path.name for path in store.iterdir() if path.is_dir()]
    yield "show", said("show", run_of, "--store", store)
    yield "evaluate", said("evaluate", run_of, "--store", store)
    yield "report", said("report", run_of, "--store", store, "--out", folder / "report")
    yield "chat", said("chat", run_of, ANSI, "--store", store)
    yield "an unknown base", said("train", file, *columns, "--base", ANSI)
    yield "an unknown task", said("train", ANSI)
    adapter = shutil.copytree(folder / "store" / run_of, folder / f"a{ANSI[:4]}")
    yield "check an adapter", said("check", adapter)


def test_no_command_writes_a_terminals_codes(file, base_folder, tmp_path):
    for place, words in commands(file, base_folder, tmp_path):
        odd = {sign for sign in words if not sign.isprintable()} - set("\n\r\t")
        assert not odd, (place, odd, words[:400])
        assert len(words) > 20, place
