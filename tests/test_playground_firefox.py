"""The playground's page in Firefox, once through, from disk. It takes Firefox, node and puppeteer.

`npm install --no-save --no-package-lock puppeteer-core@24` brings puppeteer into this folder;
node 22 and newer take version 25, too.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import lora_lab as lab
from lora_lab.models.bases import load_base
from lora_lab.web.build import build_file

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1200)]

WALK = Path(__file__).with_name("firefox.mjs")
FIREFOX = ("firefox-esr", "firefox", "/Applications/Firefox.app/Contents/MacOS/firefox")
FIND = "import.meta.resolve('puppeteer-core')"  # fails where it isn't installed


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a walk through the page saw."""
    candidates = [os.environ.get("LORA_LAB_FIREFOX", ""), *FIREFOX]
    firefox = next(filter(None, map(shutil.which, candidates)), None)
    node = shutil.which("node")
    if firefox is None or node is None:
        pytest.skip(
            "no Firefox was found" if firefox is None else "node, which asks it, is not here"
        )
    command = [node, "--input-type=module", "-e", FIND]
    if subprocess.run(command, cwd=WALK.parent, capture_output=True).returncode:
        pytest.skip("puppeteer-core is not here: npm install --no-save puppeteer-core@24")
    place = tmp_path_factory.mktemp("firefox")
    file = place / "playground.html"
    build_file(file)
    command = [node, str(WALK), firefox, file.as_uri()]
    own = os.environ | {"HOME": str(place), "TMPDIR": str(place)}  # nobody's own Firefox profile
    walk = subprocess.run(command, capture_output=True, text=True, env=own, timeout=1100)
    assert walk.returncode == 0, walk.stderr
    return json.loads(walk.stdout) | {"file": file.as_uri()}


def test_the_losses_of_firefox_are_those_of_lab_train(seen, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")
    given = {}
    exec(seen["code"].partition("for record")[0], given)  # noqa: S102 - the page's own code
    theirs = [record.loss for record in lab.train(given["base"], given["task"], given["recipe"])]
    assert len(theirs) == 20
    assert seen["losses"] == pytest.approx(theirs, rel=1e-4)


def test_the_page_is_walked_through_in_firefox(seen):
    assert seen["ready"] == "ready · press Train"
    assert seen["asked"].startswith("First a guess")
    assert re.match(r"trained: 20 steps · loss [\d.]+ · [\d.]+ s", seen["state"])
    assert re.search(r"You guessed all 32\. It still knows \d+ of 32", seen["guess"])
    assert re.match(r"It answers \d+ of 20 new facts", seen["film"])
    assert seen["kept"][0].startswith("1. r 8, α 16, rate 0.002")
    assert re.match(r"stopped after \d+ of 200 steps", seen["stopped"])
    base = load_base("pocket", device="cpu")
    assert seen["answers"][0] == lab.generate(base, [seen["prompt"]])[0]


def test_a_link_replays_the_run_in_firefox(seen):
    assert "Press Train to replay it" in seen["notice"]
    assert seen["replayed"] == seen["losses"]
    assert seen["metersAgain"] == seen["meters"]


def test_nothing_leaves_the_page_in_firefox_and_nothing_complains(seen):
    beyond = {url.partition("#")[0] for url in seen["requests"]}
    assert {url for url in beyond if not url.startswith(("data:", "blob:"))} <= {seen["file"]}
    assert seen["complaints"] == []
