"""Kept runs over a reload of the playground: what is written down, read again, and refused."""

import json

import numpy as np
import pytest

from lora_lab.web.build import build_file
from playground import chromium
from playground_functions import BASE, TASKS, of, page_functions, usual
from playground_page import SHORT, Playground

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def browser(browser_path):
    with chromium(browser_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def call(browser):
    with page_functions(browser) as opened:
        yield opened


SCORES = {"test": {"right": 3, "n": 4}, "old": {"right": 0, "n": 9}}
SCORES["strangers"] = {"right": 5, "n": 5}
LOSSES = [float(np.float32(loss)) for loss in (9.994828, 1 / 3, 0.004182)]
STORE = """class Store {
    constructor(text, full) { this.text = text; this.full = full; }
    getItem() { return this.text; }
    setItem(_, text) {
        if (this.full) throw new DOMException("no room", "QuotaExceededError");
        this.text = text;
    }
    removeItem() { this.text = null; }
}"""


@pytest.fixture
def stored(call):
    """`stored(kept)` writes entries and reads them again; `stored(text=…)` reads a text."""

    def through(kept=None, text=None, full=False):
        return call.page.evaluate(
            """async ([kept, text, full, tasks, base]) => {
                const { readKept, writeKept } = await import("/web/page/kept_store.mjs");
                STORE
                const store = new Store(text, full);
                const said = kept && writeKept(store, kept, base);
                return { said, ...readKept(store, tasks, base), text: store.text };
            }""".replace("STORE", STORE),
            [kept, text, full, TASKS, BASE],
        )

    return through


def entry(call, *seeds, **changes):
    settings = usual(call, **changes)
    runs = [
        {"settings": settings | {"seed": seed}, "losses": LOSSES, "scores": SCORES}
        for seed in seeds
    ]
    return {"settings": settings, "runs": runs}


def test_kept_runs_are_read_as_they_were_written(call, stored):
    kept = [entry(call, 3, seed=3), entry(call, 0, 1, 2, r=2, modules=of("q_proj"))]
    kept[0]["runs"][0]["scores"] = None  # it was stopped before its scores
    again = stored(kept)
    assert [each["settings"] for each in again["kept"]] == [each["settings"] for each in kept]
    for before, after in zip(kept, again["kept"], strict=True):
        for one, other in zip(before["runs"], after["runs"], strict=True):
            final = call("smoothing", "smoothed", one["losses"], 1)[-1]
            assert other == one | {"id": None, "finalLoss": final}
    assert again["said"] == again["words"]
    assert "Their adapters do not stay" in again["words"]


def test_a_list_without_runs_is_kept_too(call, stored):
    assert stored([])["text"] is None
    again = stored([], text="[1]")  # the last kept run was removed
    assert (again["text"], again["kept"], again["words"]) == ("[]", [], "")


def test_runs_on_ones_own_examples_are_written_nowhere(call, stored):
    own = entry(call, 0) | {"settings": usual(call, task="own", n=9)}
    again = stored([own, entry(call, 0)])
    assert [each["settings"]["task"] for each in again["kept"]] == ["new-facts"]
    assert "the examples are written nowhere" in again["said"]
    assert "own" not in again["text"]


def test_where_there_is_no_room_or_no_store_it_is_said(call, stored):
    again = stored([entry(call, 0)], text="[1]", full=True)
    assert "no room" in again["said"]
    assert again["text"] is None  # nothing older comes back
    said = call("kept_store", "writeKept", None, [entry(call, 0)], BASE)
    assert "stores nothing for this page: a reload loses the kept runs" in said
    assert call("kept_store", "readKept", None, TASKS, BASE) == {"kept": [], "words": ""}


RUN = {"seed": 0, "losses": [1.0], "scores": SCORES}
LINK = "task=new-facts&n=60&r=8"
DAMAGED = {
    "not JSON": "{",
    "no list": '{"link": "task=new-facts"}',
    "null": "null",
    "a number": "7",
} | {
    name: json.dumps([each])
    for name, each in {
        "nothing": None,
        "no link": {"runs": [RUN]},
        "a link of another version": {"link": f"{LINK}&colour=red", "runs": [RUN]},
        "a task that is not there": {"link": "task=cooking", "runs": [RUN]},
        "no run": {"link": LINK, "runs": []},
        "a hundred runs": {"link": LINK, "runs": [RUN] * 100},
        "a run that is null": {"link": LINK, "runs": [None]},
        "no losses": {"link": LINK, "runs": [RUN | {"losses": []}]},
        "losses in words": {"link": LINK, "runs": [RUN | {"losses": ["<b>"]}]},
        "an endless loss": {"link": LINK, "runs": [RUN | {"losses": [1e300]}]},
        "too many losses": {"link": LINK, "runs": [RUN | {"losses": [1] * 2001}]},
        "a seed in words": {"link": LINK, "runs": [RUN | {"seed": "x"}]},
        "half of the scores": {"link": LINK, "runs": [RUN | {"scores": {"test": None}}]},
        "more right than asked": {
            "link": LINK,
            "runs": [RUN | {"scores": SCORES | {"old": {"right": 9, "n": 1}}}],
        },
    }.items()
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=list(DAMAGED))
def test_damaged_kept_runs_are_left_out_and_it_is_said(stored, text):
    read = stored(text=text)
    assert read["kept"] == []
    assert "before the reload could not be read" in read["words"]


def test_a_damaged_kept_run_takes_no_other_with_it(stored):
    read = stored(text=json.dumps([{"link": LINK, "runs": [RUN]}, {"link": LINK}]))
    assert len(read["kept"]) == 1
    assert read["words"].startswith("1 kept run of before the reload could not be read.")


# --- in the page ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visit(browser, tmp_path_factory):
    """`visit(link, script)` opens the page; nothing may leave it, and nothing may complain."""
    file = tmp_path_factory.mktemp("playground") / "playground.html"
    build_file(file)
    opened = []

    def go(*given):
        opened.append(Playground(browser, file, *given))
        return opened[-1]

    yield go
    for playground in opened:
        assert playground.unseen() == ({file.as_uri()}, [])


def rows(page):
    return page.page.locator("#kept tbody tr").all_inner_texts()


@pytest.mark.slow
def test_kept_runs_stay_over_a_reload(visit):
    page = visit(SHORT)
    page.train()
    page.click("Keep")
    kept = rows(page)
    assert len(kept) == 1
    page.set("r", 2)
    page.page.reload()
    page.opened()
    assert rows(page) == kept
    assert page.text("kept-note").startswith("Kept runs stay over a reload")
    page.page.get_by_role("button", name="use the settings of run 1").click()
    assert page.link()["r"] == "8"
    page.train()
    page.click("Keep")
    assert [row.split(None, 1)[1] for row in rows(page)] == [kept[0].split(None, 1)[1]] * 2
    for _ in rows(page):
        page.page.get_by_role("button", name="remove run 1").click()
    page.page.reload()
    page.opened()
    assert rows(page) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sessionStorage.setItem('lora_lab playground: kept runs', '[{')", "could not be read"),
        (
            "Object.defineProperty(window, 'sessionStorage', "
            "{ get() { throw new DOMException('denied', 'SecurityError'); } })",
            "",
        ),
    ],
    ids=["damaged", "denied"],
)
def test_the_page_opens_where_kept_runs_are_damaged_or_denied(visit, script, words):
    page = visit(SHORT, script)
    assert words in page.text("kept-note")
    page.train()
    page.click("Keep")
    assert len(rows(page)) == 1
    said = page.text("kept-note")
    assert said.startswith(
        "Kept runs stay over a reload" if words else "This browser stores nothing"
    )
