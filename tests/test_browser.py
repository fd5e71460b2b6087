"""A learner's first minutes in a real browser: JupyterLab, notebook 00, Train, the slider, Stop.

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

from lora_lab.plots import RUN

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

NOTEBOOK = Path(__file__).parents[1] / "notebooks/00_start_here.ipynb"
SETTINGS = {  # all cells in the page, no question about news
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 300  # seconds for what trains, on a busy machine


@pytest.fixture
def jupyter(tmp_path):
    """JupyterLab with settings of its own on a copy of the notebook; gives its address."""
    home = tmp_path / "lab"
    (home / "config/labconfig").mkdir(parents=True)
    (home / "config/labconfig/default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    (home / "work").mkdir()
    shutil.copy(NOTEBOOK, home / "work")
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

    def __init__(self, page) -> None:
        self.page, self.hosts, self.complaints = page, set(), []
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
def visit(jupyter, browser_path, tmp_path):
    """A fresh browser on the notebook, its kernel started."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=browser_path,
            headless=True,
            args=CHROMIUM,
            viewport={"width": 1400, "height": 900},
        )
        visit = Visit(browser.pages[0])
        visit.page.set_default_timeout(PATIENCE * 1000)
        visit.page.goto(f"{jupyter}/lab/tree/{NOTEBOOK.name}?reset")
        visit.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        )
        yield visit
        browser.close()


class Lab:
    """One LiveLab of the page, as a learner sees it."""

    def __init__(self, page, place: int) -> None:
        self.page, self.root = page, page.locator(".lora-lab").nth(place)
        self.train = self.root.get_by_role("button", name="Train", exact=True)
        self.stop = self.root.get_by_role("button", name="Stop", exact=True)
        self.slider = self.root.get_by_role("slider")
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


def keep_pictures(lab: Lab, name: str) -> None:
    """The lab at two widths, light and dark, if a folder for them was named."""
    if "LORA_LAB_SHOTS" not in os.environ:
        return
    for theme in ("Dark", "Light"):
        change = "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})"
        lab.page.evaluate(change, f"JupyterLab {theme}")
        for width in (1000, 1400):
            lab.page.set_viewport_size({"width": width, "height": 900})
            lab.page.wait_for_timeout(1000)
            lab.root.scroll_into_view_if_needed()
            file = Path(os.environ["LORA_LAB_SHOTS"]) / f"{name}-{width}-{theme.lower()}"
            lab.root.screenshot(path=f"{file}.png")
            lab.page.screenshot(path=f"{file}-page.png")


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


def test_a_learners_first_minutes(visit):
    page, labs = visit.page, [Lab(visit.page, 0), Lab(visit.page, 1)]
    page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
    cells = page.evaluate(CELLS)
    assert [one for _, made in cells for one in made if one["output_type"] == "error"] == []
    assert [count for count, _ in cells] == list(range(1, len(cells) + 1))

    smollm2, pocket = labs
    assert smollm2.state.startswith("finished: 50 steps in ")
    keep_pictures(smollm2, "smollm2")
    keep_pictures(pocket, "pocket")

    # the picture has a name for those who do not see it, and the slider stands above what grows
    assert smollm2.root.get_by_role("img", name=re.compile("^The training loss goes from")).count()
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
    keep_pictures(smollm2, "training")
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
