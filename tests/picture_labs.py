"""Take the pictures of labs that the docs show: `make pictures`, or this file with paths.

Each notebook with a lab that left no picture is run in JupyterLab, as a learner sees it. Then the
lab is photographed. This file is in tests/ since it needs isolation.py's surroundings.
"""

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, Playwright, sync_playwright

from browsing import CHROMIUM
from isolation import isolate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import lab_pictures  # noqa: E402

SETTINGS = {  # all cells in the page, no question about news
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
}
PATIENCE = 1200  # seconds for a notebook on a busy machine
SCALE = 1.5  # pixels of the picture for each pixel of the page
COLOURS = 64  # so few that a lab's picture takes about 80 KB
WIDE = "async () => { await jupyterapp.commands.execute('application:toggle-left-area'); }"
RUN = """async place => {
    const notebook = jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = place;
    await jupyterapp.commands.execute("notebook:run-cell");
    return notebook.widgets[place].model.outputs.toJSON()
        .filter(one => one.output_type === "error").map(one => one.evalue);
}"""
CHARTS = "lab => [...lab.querySelectorAll('img')].map(one => one.alt)"


def start_jupyter(home: Path) -> tuple[subprocess.Popen, str]:
    """JupyterLab on `home`/notebooks, and its address."""
    (home / "config/labconfig").mkdir(parents=True)
    (home / "config/labconfig/default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.root_dir": home / "notebooks",
        "ServerApp.allow_root": True,
        "ServerApp.open_browser": False,
        "IdentityProvider.token": "",
        "LabApp.expose_app_in_browser": True,
    }
    environment = dict(os.environ)
    isolate(environment, home)
    environment |= {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log)
    end = time.monotonic() + 400
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return server, f"http://127.0.0.1:{port}"
    server.kill()
    raise RuntimeError(f"JupyterLab did not start:\n{(home / 'log').read_text()}")


def run(page: Page, path: Path, quick: bool) -> None:
    """Run the notebook that `page` shows; `quick` leaves out cells that train and what follows.

    Raises:
        RuntimeError: a cell failed, with its error.
    """
    page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
    )
    if page.evaluate("() => !jupyterapp.shell.leftCollapsed"):
        page.evaluate(WIDE)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    labs = [place for place, _ in lab_pictures.pictureless(notebook)]
    for place, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code" or (quick and place > labs[-1]):
            continue
        if quick and set(cell["metadata"].get("tags", ())) & {"nbval-ignore-output", "assert"}:
            continue
        errors = page.evaluate(RUN, place)
        if errors and (place in labs or not quick):
            raise RuntimeError(f"{path.name}, cell {place}: {errors[0]}")


def photograph(page: Page, path: Path) -> dict[str, dict]:
    """Write the pictures of the labs in the notebook that was run; returns their index."""
    page.wait_for_timeout(2000)  # the last pictures are on their way
    notebook = json.loads(path.read_text(encoding="utf-8"))
    folder = lab_pictures.FOLDER / lab_pictures.key_of(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = {}
    for place, output in lab_pictures.pictureless(notebook):
        cell = page.locator(".jp-Notebook .jp-Cell").nth(place)
        lab = cell.locator(".lora-lab").first
        lab.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        box = lab.bounding_box()
        image = Image.open(io.BytesIO(lab.screenshot())).convert("RGB").quantize(COLOURS)
        id = notebook["cells"][place]["id"]
        image.save(folder / f"{id}.png", optimize=True)
        index[id] = {
            "lab": lab_pictures.name_of(output),
            "alt": " ".join([*lab.inner_text().split(), *lab.evaluate(CHARTS)]),
            "width": round(box["width"]),
            "height": round(box["height"]),
        }
    return index


def needy() -> list[Path]:
    """The notebooks with a lab that left no picture."""
    folder = ROOT / "notebooks"
    paths = [*sorted(folder.glob("*.ipynb")), *sorted((folder / "evidence").glob("*.ipynb"))]
    texts = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    return [path for path in paths if any(lab_pictures.pictureless(texts[path]))]


def visit(playwright: Playwright, address: str, home: Path, path: Path, quick: bool) -> None:
    """Run a notebook in a fresh browser, and write its labs' pictures into docs/labs/."""
    key = lab_pictures.key_of(path)
    browser = playwright.chromium.launch_persistent_context(
        home / f"profile-{key.replace('/', '-')}",
        executable_path=next(filter(None, map(shutil.which, ("chromium", "google-chrome")))),
        headless=True,
        args=CHROMIUM,
        viewport={"width": 900, "height": 1400},
        device_scale_factor=SCALE,
    )
    try:
        page = browser.pages[0]
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"{address}/lab/tree/{path.resolve().relative_to(ROOT / 'notebooks')}?reset")
        run(page, path, quick)
        index = lab_pictures.known() | {key: photograph(page, path)}
    finally:
        browser.pages[0].evaluate("jupyterapp.shell.currentWidget?.sessionContext.shutdown()")
        browser.close()
    text = json.dumps(dict(sorted(index.items())), indent=1, ensure_ascii=False)
    lab_pictures.INDEX.write_text(text + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Photograph the labs of the named notebooks; the exit code is 1 if any cell failed."""
    parser = argparse.ArgumentParser(description="Take the pictures of labs for the docs.")
    parser.add_argument("paths", nargs="*", type=Path, help="default: all that need pictures")
    parser.add_argument("--quick", action="store_true", help="labs as they open: nothing trains")
    options = parser.parse_args(arguments)
    failed = False
    with tempfile.TemporaryDirectory(prefix="lora-lab-pictures-") as place, sync_playwright() as p:
        home = Path(place)
        shutil.copytree(ROOT / "notebooks", home / "notebooks")
        server, address = start_jupyter(home)
        try:
            for path in options.paths or needy():
                begun = time.monotonic()
                try:
                    visit(p, address, home, path, options.quick)
                except RuntimeError as error:
                    failed = True
                    print(error, file=sys.stderr, flush=True)
                else:
                    print(f"{path}: {time.monotonic() - begun:.0f} s", flush=True)
        finally:
            server.terminate()  # it ends its kernels first
            server.wait(60)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
