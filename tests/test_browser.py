"""A learner in a real browser, in JupyterLab: notebook 00's first minutes; each notebook's lab.

With LORA_LAB_SHOTS=folder the screenshots are kept there, to be looked at.
"""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from browsing import CHROMIUM
from lora_lab.plots import RUN

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SETTINGS = {  # all cells in the page, no question about news
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}
PATIENCE = 300  # seconds for what trains, on a busy machine


def widget_cells(notebook):
    """The code of the cells that show a widget."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = [cell for cell in cells if "widget" in cell["metadata"].get("tags", ())]
    return ["".join(cell["source"]) for cell in shown]


WITH_A_LAB = [
    path
    for path in sorted(NOTEBOOKS.glob("*.ipynb"))
    if any("LiveLab(" in code for code in widget_cells(path))
]


@pytest.fixture
def notebook():
    """The one to open; a test may name another."""
    return NOTEBOOKS / "00_start_here.ipynb"


@pytest.fixture
def jupyter(tmp_path, notebook):
    """JupyterLab with settings of its own on a copy of the notebook; gives its address."""
    home = tmp_path / "lab"
    (home / "config/labconfig").mkdir(parents=True)
    (home / "config/labconfig/default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    (home / "work").mkdir()
    for path in (notebook, NOTEBOOKS / "finetune.py"):  # lesson 00 runs the script beside it
        shutil.copy(path, home / "work")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": home / "work",
        "ServerApp.allow_root": True,
        "ServerApp.open_browser": False,
        "IdentityProvider.token": "",
        "LabApp.expose_app_in_browser": True,
    }
    command = [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())]
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    address = f"http://127.0.0.1:{port}"
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log)
    try:
        _wait_for(f"{address}/api", server, home / "log")
        yield address
    finally:
        server.terminate()  # it ends its kernels first
        server.wait(60)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")


class Visit:
    """What the page did that a learner would not see: requests, messages, errors."""

    def __init__(self, page, notebook: Path) -> None:
        self.page, self.notebook = page, notebook
        self.hosts, self.complaints = set(), []
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.hosts.add(urlsplit(url).netloc)

    def _hear(self, message) -> None:
        if message.type == "error":
            self.complaints.append(message.text)


@pytest.fixture
def visit(jupyter, browser_path, tmp_path, notebook):
    """A fresh browser on the notebook, its kernel started."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=browser_path,
            headless=True,
            args=CHROMIUM,
            viewport={"width": 1400, "height": 900},
            device_scale_factor=2 if "LORA_LAB_SHOTS" in os.environ else 1,  # crisp, for README
        )
        visit = Visit(browser.pages[0], notebook)
        visit.page.set_default_timeout(PATIENCE * 1000)
        visit.page.goto(f"{jupyter}/lab/tree/{notebook.name}?reset")
        visit.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        )
        yield visit
        browser.close()


class Lab:
    """One LiveLab of the page, as a learner sees it."""

    def __init__(self, page, place: int) -> None:
        noise = page.get_by_role("button", name="Noise band")
        self.page, self.root = page, page.locator(".lora-lab", has=noise).nth(place)
        self.noise = self.root.get_by_role("button", name="Noise band")
        self.train = self.root.get_by_role("button", name="Train", exact=True)
        self.stop = self.root.get_by_role("button", name="Stop", exact=True)
        self.slider = self.root.get_by_role("slider", name="strength")
        self.chart = self.root.locator("img.lora-lab-loss")

    @property
    def state(self) -> str:
        return self.root.locator(".lora-lab-state").inner_text()

    def answers(self, name: str) -> list[str]:
        """What stands in the rows of this name: "base", "adapted", "at 0"."""
        rows = self.root.locator(".lora-lab-said tr", has=self.page.get_by_text(name, exact=True))
        return [row.locator("code").inner_text() for row in rows.all()]

    def wait_until(self, reached) -> None:
        end = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < end, (
                f"waited {PATIENCE} s in vain; the lab says: {self.state}"
            )
            self.page.wait_for_timeout(50)

    def points(self) -> int:
        """How many pixels of the loss chart have the colour of the run at hand."""
        picture = self.chart.evaluate(
            """async image => {
                const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
                return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
            }"""
        )
        colours = imread(io.BytesIO(base64.b64decode(picture)), format="png")[..., :3]
        return int((abs(colours - to_rgb(RUN)).max(axis=-1) < 0.2).sum())

    def watch_the_points_grow(self, times: int) -> list[int]:
        """Wait until the chart has had so many more points, and give their numbers."""
        seen = [self.points()]

        def has_grown() -> bool:
            now = self.points()
            if now > seen[-1]:
                seen.append(now)
            return len(seen) > times

        self.wait_until(has_grown)
        return seen


def keep_pictures(root, name: str) -> None:
    """A widget at two widths, light and dark, if a folder for them was named."""
    if "LORA_LAB_SHOTS" not in os.environ:
        return
    for theme in ("Dark", "Light"):
        change = "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})"
        root.page.evaluate(change, f"JupyterLab {theme}")
        for width in (1000, 1400):
            root.page.set_viewport_size({"width": width, "height": 900})
            root.page.wait_for_timeout(1000)
            root.scroll_into_view_if_needed()
            file = Path(os.environ["LORA_LAB_SHOTS"]) / f"{name}-{width}-{theme.lower()}"
            root.screenshot(path=f"{file}.png")
            root.page.screenshot(path=f"{file}-page.png")


CELLS = """() => jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === "code")
    .map(cell => [cell.model.executionCount, cell.model.outputs.toJSON()])"""
ASK_THE_KERNEL = """async () => {
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const begun = performance.now();
    await kernel.requestExecute({code: "1 + 1"}).done;
    return (performance.now() - begun) / 1000;
}"""

RUN_CODE = """code => {
    window.ended = "";
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    kernel.requestExecute({code}).done.then(reply => { window.ended = reply.content.status; });
}"""


ROLES = "button", "checkbox", "combobox", "radio", "slider", "spinbutton", "textbox", "img"
CAN_BE_USED = """root => [...root.querySelectorAll(
    "button, input, select, textarea, summary, [role=slider]")]
    .filter(one => one.offsetParent && !one.disabled && !one.closest("[disabled]"))"""


def run_all(page):
    """Run the notebook; no cell fails, none is left out."""
    page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
    cells = page.evaluate(CELLS)
    assert [
        output for _, made in cells for output in made if output["output_type"] == "error"
    ] == []
    assert [count for count, _ in cells] == list(range(1, len(cells) + 1))


def nameless(root) -> dict[str, int]:
    """How many things of a role a screen reader could not name, of a widget."""
    named = {role: root.get_by_role(role, name=re.compile(r"\S")).count() for role in ROLES}
    return {
        role: root.get_by_role(role).count() - named[role]
        for role in ROLES
        if root.get_by_role(role).count() > named[role]
    }


def out_of_reach(root) -> list[str]:
    """What of a widget can be used with a mouse but not be reached with Tab."""
    page = root.page
    root.evaluate(f"root => {{ window.usable = ({CAN_BE_USED})(root); usable[0]?.focus(); }}")
    count = page.evaluate("usable.length")
    reached = set()
    for _ in range(count + 5):
        reached.add(page.evaluate("usable.indexOf(document.activeElement)"))
        page.keyboard.press("Tab")
    return page.evaluate(  # of radio buttons that belong together one is enough: arrows do the rest
        """reached => usable.filter((one, place) => !reached.includes(place)
            && !(one.type === "radio" && reached.some(other => usable[other]?.name === one.name)))
            .map(one => one.outerHTML)""",
        sorted(reached),
    )


def state_of(root) -> str:
    return root.locator(".lora-lab-state").inner_text()


def wait_for_state(root, start: str) -> None:
    end = time.monotonic() + PATIENCE
    while not state_of(root).startswith(start):
        assert time.monotonic() < end, f"waited {PATIENCE} s in vain; it says: {state_of(root)}"
        root.page.wait_for_timeout(50)


def turn_the_knob(page) -> None:
    """An arrow key takes alpha from 16 to 64, and a button shows the first step."""
    root = page.locator(".lora-lab", has=page.get_by_role("button", name="after 1 step"))
    root.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    root.get_by_role("img", name=re.compile("alpha 64, step 30")).wait_for()
    root.get_by_role("button", name="after 1 step").click()
    root.get_by_role("img", name=re.compile("alpha 64, step 1")).wait_for()


def fill_a_smaller_map(page) -> None:
    """Fewer values and one more seed: Train trains what is missing; a click on a cell: curves."""
    root = page.locator(".lora-lab", has=page.get_by_role("spinbutton", name="seeds", exact=True))
    for name, values in (
        ("lora_alpha", "4, 16"),
        ("learning_rate", "0.001, 0.003"),
        ("seeds", "2"),
    ):
        field = root.get_by_label(name, exact=True)
        field.fill(values)
        field.press("Enter")
    wait_for_state(root, "ready: press Train")
    root.get_by_role("button", name="Train", exact=True).click()
    wait_for_state(root, "finished: 8 runs in ")
    root.get_by_role("button", name="lora_alpha 16, learning_rate 0.003: ").click()
    curves = root.get_by_role("img", name=re.compile("2 seeds end between"))
    curves.wait_for()
    assert root.locator("button.lora-lab-shown").count() == 1


def read_a_verdict_after_more_seeds(page) -> None:
    """The plan has been looked at; where it is settled, there is nothing left to click."""
    root = page.locator(".lora-lab", has=page.locator(".lora-lab-verdict"))
    assert re.search(r"\d+ seeds, look [123] of 3", root.locator(".lora-lab-verdict").inner_text())
    assert state_of(root) == "settled"
    assert root.get_by_role("button", name="No more seeds").is_disabled()


ALSO = {  # what else is done in a notebook, beside its lab
    "04_reading_a_run": read_a_verdict_after_more_seeds,
}


def test_a_learners_first_minutes(visit):
    page, labs = visit.page, [Lab(visit.page, 0), Lab(visit.page, 1)]
    run_all(page)

    smollm2, pocket = labs
    assert smollm2.state.startswith("finished: 50 steps in ")
    keep_pictures(smollm2.root, "smollm2")
    keep_pictures(pocket.root, "pocket")

    # all has a name for those who do not see it, and the slider stands above what grows
    assert smollm2.root.get_by_role("img", name=re.compile("^The training loss goes from")).count()
    assert nameless(smollm2.root) == {}
    assert out_of_reach(smollm2.root) == []
    assert smollm2.slider.bounding_box()["y"] < smollm2.chart.bounding_box()["y"]

    # the strength, by keyboard: four steps of 0.25 down to nothing
    adapted = smollm2.answers("adapted")
    assert len(adapted) == 3
    smollm2.slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    smollm2.wait_until(lambda: smollm2.answers("at 0") != [])
    assert smollm2.answers("at 0") == smollm2.answers("base") != adapted

    # Train: the chart grows, the kernel goes on answering; Stop: it stops, and answers
    smollm2.train.click()
    smollm2.wait_until(lambda: smollm2.state.startswith("step "))
    smollm2.watch_the_points_grow(2)
    answered = page.evaluate(ASK_THE_KERNEL)
    assert smollm2.state.startswith("step "), f"the kernel answered after {answered:.1f} s only"
    keep_pictures(smollm2.root, "training")
    smollm2.stop.click()
    smollm2.wait_until(lambda: smollm2.state.startswith("stopped after step "))
    assert int(smollm2.state.split()[3]) < 60
    smollm2.wait_until(smollm2.train.is_enabled)
    assert len(smollm2.answers("adapted")) == 3

    # the little one, to its end
    pocket.train.click()
    pocket.wait_until(lambda: pocket.state.startswith("step "))
    pocket.watch_the_points_grow(2)
    pocket.wait_until(lambda: pocket.state.startswith("finished: ") and pocket.train.is_enabled())
    assert len(pocket.answers("adapted")) == 3

    # Stop is heard while a cell waits for the training
    page.evaluate(
        RUN_CODE, "small.controls.controls['steps'].value = 500; small.start(); small.wait()"
    )
    pocket.wait_until(lambda: pocket.state.startswith("step 1"))
    pocket.stop.click()
    pocket.wait_until(lambda: page.evaluate("ended") == "ok" and pocket.train.is_enabled())
    assert pocket.state.startswith("stopped after step ")

    assert visit.complaints == []
    assert visit.hosts == {urlsplit(page.url).netloc}


def test_there_are_labs_to_visit():
    assert "03_the_maths_of_lora" in [path.stem for path in WITH_A_LAB]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("notebook", WITH_A_LAB, ids=lambda path: path.stem)
def test_in_each_notebook_a_moved_control_trains_anew_and_other_seeds_are_a_click_away(visit):
    run_all(visit.page)
    lab = Lab(visit.page, -1)
    steps = lab.root.get_by_role("spinbutton", name="steps", exact=True)
    if not steps.is_visible():
        lab.root.get_by_role("button", name="More choices").click()
    steps.fill("6")
    steps.press("Enter")
    lab.train.click()
    lab.wait_until(lambda: lab.state.startswith("finished: 6 steps in ") and lab.train.is_enabled())
    assert lab.root.get_by_role("img", name=re.compile("^The training loss .* in 6 steps")).count()
    assert "steps=6" in lab.root.locator(".lora-lab-code").text_content()
    assert re.search(r"base \S+.* · adapted \S+", lab.root.inner_text())

    lab.noise.click()
    lab.wait_until(lambda: "noise band: 4 seeds" in lab.state and lab.train.is_enabled())
    assert lab.root.get_by_role("img", name=re.compile("4 seeds end between")).count()
    assert re.search(r"adapted .*\(.* to .*, 4 seeds\)", lab.root.inner_text())

    if also := ALSO.get(visit.notebook.stem):
        also(visit.page)
    look_at_each_widget(visit)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", [NOTEBOOKS / "06_alpha.ipynb"], ids=["06_alpha"])
def test_in_the_lesson_on_alpha_the_knob_turns_and_the_map_fills(visit):
    run_all(visit.page)
    turn_the_knob(visit.page)
    fill_a_smaller_map(visit.page)
    look_at_each_widget(visit)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", [NOTEBOOKS / "08_adalora.ipynb"], ids=["08_adalora"])
def test_in_the_lesson_on_adalora_the_film_moves_while_ranks_are_pruned(visit):
    run_all(visit.page)
    lab = Lab(visit.page, -1)
    both = visit.page.locator(".lora-lab", has=lab.train.locator("visible=true")).first
    ranks = both.get_by_role("img", name=re.compile("triplets in 28 matrices"))
    seen = [ranks.get_attribute("title")]
    lab.train.click()

    def is_trained() -> bool:
        now = ranks.get_attribute("title")
        if now != seen[-1]:
            seen.append(now)
        return lab.state.startswith("finished: 120 steps in ") and lab.train.is_enabled()

    lab.wait_until(is_trained)
    assert len(seen) > 3, seen
    assert seen[-1].startswith("28 triplets in 28 matrices: ")
    both.get_by_role("slider", name="step", exact=True).focus()
    visit.page.keyboard.press("Home")
    both.get_by_role("img", name=re.compile("^168 triplets in 28 matrices: ")).wait_for()
    look_at_each_widget(visit)


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook", [NOTEBOOKS / "10_batch_steps_rate.ipynb"], ids=["10_batch_steps_rate"]
)
def test_in_the_lesson_on_batches_the_fan_follows_its_slider_and_steps_follow_the_batch(visit):
    run_all(visit.page)
    fan = visit.page.locator(".lora-lab", has_text="Where does a batch point?")
    fan.get_by_role("slider").focus()
    visit.page.keyboard.press("ArrowRight")
    fan.get_by_role("img", name=re.compile("^40 batches of 32 examples")).wait_for()
    seeds = visit.page.get_by_role("spinbutton", name="seeds", exact=True)
    surface = visit.page.locator(".lora-lab", has=seeds)
    for name, values in (("batch_size", "32, 128"), ("learning_rate", "0.01, 0.03")):
        surface.get_by_label(name, exact=True).fill(values)
        surface.get_by_label(name, exact=True).press("Enter")
    surface.get_by_role("button", name="batch_size 128, learning_rate 0.03: ").click()
    surface.get_by_role("img", name=re.compile("in 8 steps")).wait_for()
    look_at_each_widget(visit)


def look_at_each_widget(visit) -> None:
    """Each has names for a screen reader, can be used by keyboard, and asks no other host."""
    widgets = visit.page.locator(".lora-lab").all()
    assert len(widgets) >= len(widget_cells(visit.notebook))
    for place, root in enumerate(widgets):
        keep_pictures(root, f"{visit.notebook.stem}-{place}")
        assert nameless(root) == {}
        assert out_of_reach(root) == []
    assert visit.complaints == []
    assert visit.hosts == {urlsplit(visit.page.url).netloc}
