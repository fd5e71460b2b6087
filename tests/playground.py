"""The playground's engine for tests: it runs in Chromium without a page, and is sent messages."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from browsing import CHROMIUM

EMPTY_PAGE = Path(__file__).parent / "fixtures" / "empty_page"
PATIENCE = 300_000  # milliseconds for a training on a busy machine
FIELDS = (  # fields of a Recipe that the engine knows by the same names
    "r lora_alpha use_rslora learning_rate lr_scheduler_type warmup_steps weight_decay "
    "max_grad_norm loraplus_lr_ratio batch_size steps seed target_modules"
).split()
OPEN = """async () => {
    globalThis.log = [];
    globalThis.heard = () => {};
    const worker = globalThis.worker = await makeWorker();
    worker.onmessage = ({ data }) => {
        log.push({ ...data, at: performance.now() });
        heard();
    };
    worker.onerror = event => { log.push({ type: "error", words: event.message }); heard(); };
    const assets = {};
    for (const name of playgroundAssets.names) assets[name] = await playgroundAssets(name);
    globalThis.send = (message, last) => new Promise(answer => {
        const from = log.length;
        globalThis.heard = () => {
            const found = log.slice(from).find(({ type }) => type === "error" || type === last);
            if (found) answer(found);
        };
        worker.postMessage(message);
    });
    return send({ type: "open", id: "open", assets }, "ready");
}"""


def recipe_of(recipe: object, **more: object) -> dict:
    """A Recipe in the engine's form, with the task or the examples."""
    fields = {name: getattr(recipe, name) for name in FIELDS}
    targets = recipe.target_modules
    return fields | {"target_modules": targets if isinstance(targets, str) else [*targets]} | more


class Engine:
    """An engine in a page, with its messages and the page's requests to a network."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.requests, self.complaints = page, [], []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(address)
        self.ready = self.page.evaluate(OPEN)
        assert self.ready["type"] == "ready", self.ready

    def ask(self, last: str, **message: object) -> dict:
        """Send a message, and wait for a message of type `last`, or "error"."""
        return self.page.evaluate("([m, last]) => send(m, last)", [message, last])

    def train(self, run: object, recipe: dict, **more: object) -> dict:
        """Train to the end; returns the message "done"."""
        done = self.ask("done", type="train", id=run, recipe=recipe, **more)
        assert done["type"] == "done", done
        return done

    def said(self, kind: str, run: object) -> list[dict]:
        """All messages of a kind about a run."""
        pick = "([kind, id]) => log.filter(one => one.type === kind && one.id === id)"
        return self.page.evaluate(pick, [kind, run])


@contextmanager
def chromium(browser_path: str, *flags: str) -> Iterator[object]:
    """A Chromium without a window, with more flags if some are given."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=[*CHROMIUM, *flags])
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
    }

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web host of this folder, on this machine alone."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
