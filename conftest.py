"""What every test and every notebook runs in: isolation.py's surroundings, and an empty store.

It stands at the root because pytest reads it there for tests/ and for notebooks/ alike.
"""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from isolation import cut_the_network, isolate

_PLACE = tempfile.TemporaryDirectory(prefix="lora-lab-tests-")  # gone when this process ends
isolate(os.environ, Path(_PLACE.name))  # before anything imports torch, which counts its threads
cut_the_network()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job: tests
    signal.signal(signal.SIGINT, signal.default_int_handler)  # of Ctrl-C need to be heard

BROWSERS = [  # the first that is there is used; LORA_LAB_BROWSER names another
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Without --slow, the tests marked slow are skipped."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what cannot run here; give each notebook a store of its own."""
    if item.get_closest_marker("slow") and not item.config.getoption("--slow"):
        pytest.skip("slow: `make test-all` runs it")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU with CUDA, and this machine has none")
    if item.path.suffix == ".ipynb":  # its kernel starts with its first cell, right after this
        name = f"store-of-{item.path.parent.name}-{item.path.stem}"  # a lesson's, its evidence's
        os.environ["LORA_LAB_STORE"] = str(Path(_PLACE.name) / name)


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where this test's runs are kept: empty at its start."""
    folder = tmp_path / "store"
    monkeypatch.setenv("LORA_LAB_STORE", str(folder))
    return folder


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The Chromium, Chrome or Edge of this machine. Playwright drives it; it brings none itself."""
    candidates = [os.environ.get("LORA_LAB_BROWSER", ""), *BROWSERS]
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found is None:
        reason = "no Chromium, Chrome or Edge was found; set LORA_LAB_BROWSER to its program"
        if os.environ.get("CI"):
            pytest.fail(reason)  # there, a skip would look like a proof
        pytest.skip(reason)
    return found
