"""The playground's page in a real browser, as a person uses it."""

import re
import statistics
import zipfile

import pytest
from peft import PeftModel

import inputs
import lora_lab as lab
from lora_lab.models.bases import load_base
from lora_lab.web.build import build_file
from playground import chromium
from playground_page import SHORT, Playground

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

ROWS = "prompt,answer\n" + "".join(
    f"What is the code of door {number}?,{'blue' if number % 2 else 'green'}\n"
    for number in range(20)
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    built = tmp_path_factory.mktemp("playground") / "playground.html"
    build_file(built)
    return built


@pytest.fixture(scope="module")
def browser(browser_path):
    with chromium(browser_path) as opened:
        yield opened


@pytest.fixture
def visit(browser, file):
    """`visit(link)` opens the page; nothing may leave it, and nothing may complain."""
    opened = []

    def go(link="", **context):
        opened.append(Playground(browser, file, link, **context))
        return opened[-1]

    yield go
    for playground in opened:
        playground.context.close()
        assert playground.unseen() == ({file.as_uri()}, [])


@pytest.fixture(scope="module")
def trained(browser, file):
    """A page with a run of six steps, which is kept. Each test leaves its settings as they were."""
    playground = Playground(browser, file, SHORT)
    playground.state, playground.said = playground.train(), playground.text("live")
    playground.click("Keep")
    yield playground
    assert playground.unseen() == ({file.as_uri()}, [])
    playground.context.close()


# --- a run ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_opens_with_sixty_new_facts_and_a_guess(visit):
    page = visit()
    assert page.text("state") == "ready · press Train"
    assert (page.link()["task"], page.link()["n"], page.link()["r"]) == ("new-facts", "60", "8")
    assert "of 32 old facts" in page.text("guess")
    assert page.page.get_by_role("heading", level=1).inner_text().startswith("Teach a tiny mind 60")


def test_a_run_is_followed_from_its_first_step_to_its_scores(trained):
    assert re.match(r"trained: 6 steps · loss [\d.]+ · [\d.]+ s", trained.state)
    film = trained.text("film-title")
    assert re.match(r"It answers \d+ of 20 new facts(,| and) has forgotten", film)
    said = trained.said
    assert "Training is over. The loss fell from" in said
    assert "On all test questions:" in said
    assert film in said
    counts = re.findall(r"([\d,]+) of (\d+)", trained.text("meters"))
    assert [n for _, n in counts] == ["20", "20", "300", "300", "100", "100"]
    assert counts[3] == ("300", "300")  # the base knows all old facts


def test_the_losses_are_those_of_lab_train(trained, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")
    base = load_base("pocket", device="cpu")
    task = lab.load_task("new-facts", base, n=20)
    code = trained.page.evaluate(
        """() => { document.querySelector("input[name=code][value=lab]").click();
                   return document.getElementById("code").textContent; }"""
    )
    given = {}
    exec(code.partition("for record")[0], given)  # noqa: S102 - the page's own code
    theirs = [record.loss for record in lab.train(base, task, given["recipe"])]
    assert trained.losses() == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_a_link_replays_the_run(trained, visit):
    again = visit(trained.page.evaluate("() => location.hash.slice(1)"))
    assert "Press Train to replay it" in again.text("notices")
    again.train()
    assert again.losses() == trained.losses()
    assert again.text("meters") == trained.text("meters")


@pytest.mark.slow
def test_stop_ends_a_run_and_its_adapter_can_be_asked(visit):
    page = visit(f"{SHORT}&steps=200".replace("steps=6&", ""))
    page.click("Train")
    page.click("Train")
    page.wait("() => /^step [3-9]/.test(document.getElementById('state').textContent)")
    page.click("Stop")
    assert re.match(r"stopped after \d+ of 200 steps", page.ended("stopped after"))
    page.page.fill("#own-prompt", "Milin Fenby has which job?")
    page.click("Ask")
    page.wait("() => document.querySelectorAll('#own-answer dd').length === 2")
    assert page.page.is_enabled("#save")


@pytest.mark.slow
def test_the_page_answers_at_once_while_it_trains(visit, browser, tmp_path):
    page = visit("task=new-facts&n=60&steps=10&r=64&lora_alpha=64&hide=guess")
    browser.start_tracing(page=page.page, path=tmp_path / "trace.json", categories=["toplevel"])
    page.page.evaluate(inputs.PROBE)
    page.click("Train")
    inputs.give_inputs(page.page, until="trained")
    waits = page.page.evaluate("() => waits")
    browser.stop_tracing()
    tasks = sorted(inputs.cpu_of_tasks(tmp_path / "trace.json"))
    assert len(tasks) > 1000
    # An input waits for one task: of CPU, which other programs hardly lengthen, none takes 100 ms,
    # and only what is drawn for the first time takes more than a quarter of that.
    assert tasks[-1] < 100, tasks[-8:]
    assert tasks[-6] < 25, tasks[-8:]
    assert len(waits) > 20
    assert statistics.median(waits) < 100, waits  # on the clock, on a machine that may be busy


@pytest.mark.slow
def test_a_guess_is_asked_for_once_and_measured(visit):
    page = visit(SHORT)
    page.click("Train")
    assert "First a guess" in page.text("state")
    page.page.get_by_label("all 32").check(force=True)
    page.train()
    assert re.search(r"You guessed all 32. It still knows \d+ of 32", page.text("guess"))


# --- runs side by side ----------------------------------------------------------------------------


@pytest.mark.slow
def test_kept_runs_stand_in_the_table_with_what_else_differs(visit):
    page = visit(SHORT)
    page.train()
    page.click("Keep")
    page.set("r", 2)
    page.set("learning_rate", 0.02)
    page.train()
    page.click("Keep")
    rows = page.page.locator("#kept tbody tr")
    assert [row.locator("th").inner_text() for row in rows.all()] == [
        "1. r 8, rate 0.005",
        "2. r 2, rate 0.02",
    ]
    assert "they differ in rank and learning rate" in page.text("confounds")
    assert "r 8, rate 0.005" in page.page.get_attribute("#plane svg", "aria-label")
    assert page.page.is_disabled("#keep")
    page.page.get_by_role("button", name="use the settings of run 1").click()
    assert (page.link()["r"], page.link()["learning_rate"]) == ("8", "0.005")
    page.page.get_by_role("button", name="remove run 1").click()
    assert rows.count() == 1


@pytest.mark.slow
def test_three_seeds_give_ranges(visit):
    page = visit(SHORT)
    page.click("3 seeds")
    page.ended("3 seeds trained")
    page.click("Keep")
    row = page.page.locator("#kept tbody tr").inner_text()
    assert "3 seeds" in row
    assert len(re.findall(r"\d\.\d+", row.split("\t")[-2])) == 3  # three final losses
    assert "highest of 3 seeds" in page.text("loss-legend")
    assert page.link()["seed"] == "0"


# --- asking, strength, taking away ----------------------------------------------------------------


def test_strength_zero_answers_as_the_base(trained):
    trained.page.evaluate(
        """() => { const slider = document.getElementById("strength");
                   slider.value = 0; slider.dispatchEvent(new Event("input")); }"""
    )
    trained.wait("() => document.getElementById('strength-scores').textContent.startsWith('At')")
    assert "300 of 300 old facts kept" in trained.text("strength-scores")
    for card in trained.page.locator("#prompts li").all():
        before, _, now = card.locator("dd code").all_inner_texts()
        assert now == before


def test_the_saved_adapter_gives_the_pages_answers_in_peft(trained, tmp_path):
    prompts = [
        trained.page.locator("#prompts .asked").nth(place).evaluate("one => one.firstChild.data")
        for place in range(3)
    ]
    said = trained.page.locator("#prompts dl dd:nth-of-type(2) code").all_inner_texts()
    with trained.page.expect_download() as download:
        trained.click("Save the adapter")
    with zipfile.ZipFile(download.value.path()) as packed:
        assert packed.testzip() is None
        packed.extractall(tmp_path)
    base = load_base("pocket", device="cpu")
    model = PeftModel.from_pretrained(base.model, tmp_path / "pocket-lora")
    base.model = model
    given = [text.strip() or "(says nothing)" for text in lab.generate(base, prompts)]
    assert given == said


def test_a_long_prompt_is_refused_in_words_and_nothing_is_lost(trained):
    trained.page.fill("#own-prompt", "Where is it? " * 800)
    trained.click("Ask")
    trained.wait("() => document.getElementById('own-answer').textContent.includes('tokens')")
    assert "shorten it" in trained.text("own-answer")
    assert trained.page.is_enabled("#save")


# --- one's own examples ---------------------------------------------------------------------------


@pytest.mark.slow
def test_examples_of_ones_own_are_trained_and_scored(visit):
    page = visit(SHORT)
    page.page.fill("#csv", ROWS + "no answer,\n")
    page.click("Use these examples")
    page.wait("() => document.getElementById('csv-said').textContent.includes('left out')")
    assert "20 examples can be used" in page.text("csv-said")
    assert "row 22: it has no answer" in page.text("csv-said")
    page.set("steps", 5)
    page.train()
    assert re.match(r"It answers \d of 4 of your test examples", page.text("film-title"))
    assert "not your examples" in page.text("link-note")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no row; give a prompt"),
        ("one column\nonly\nhere\n", "column|answer"),
        ("prompt,answer\na,b\n", "1 example can be used, and it takes 4"),
    ],
)
def test_a_csv_of_another_shape_is_refused_in_words(trained, text, words):
    trained.page.evaluate("() => document.getElementById('csv-said').replaceChildren()")
    trained.page.fill("#csv", text)
    trained.click("Use these examples")
    trained.wait("() => document.querySelector('#csv-said .error')")
    assert re.search(words, trained.text("csv-said"))


def test_a_file_that_is_not_text_is_refused_in_words(trained):
    trained.page.set_input_files(
        "#csv-file", {"name": "x.csv", "mimeType": "text/csv", "buffer": b"a,b\n\xff\xfe,\xe9\n"}
    )
    trained.wait("() => document.getElementById('csv-said').textContent.includes('UTF-8')")


# --- what can't work, and what is hidden ----------------------------------------------------------


@pytest.fixture
def elsewhere(trained):
    """The trained page at other links; afterwards it is at its own again."""
    yield trained
    trained.go(SHORT)
    assert trained.link()["learning_rate"] == "0.005"


def test_a_broken_link_is_said_and_the_page_works(elsewhere):
    elsewhere.go("task=cooking&learning_rate=NaN&r=4&steps=6")
    assert "“cooking” is not known" in elsewhere.text("notices")
    assert "“NaN” is not a number" in elsewhere.text("notices")
    assert (elsewhere.link()["task"], elsewhere.link()["r"]) == ("new-facts", "4")
    assert elsewhere.page.is_enabled("#train")


def test_a_rate_that_is_no_number_is_said_beside_its_box(elsewhere):
    elsewhere.set("learning_rate", "NaN")
    assert "“NaN” is not a number" in elsewhere.text("setting-learning_rate-error")
    assert elsewhere.page.get_attribute("#setting-learning_rate", "aria-invalid") == "true"
    assert elsewhere.link()["learning_rate"] == "0.005"
    elsewhere.set("learning_rate", "0.01")
    assert elsewhere.page.is_hidden("#setting-learning_rate-error")
    assert elsewhere.link()["learning_rate"] == "0.01"


def test_a_teachers_link_hides_what_students_should_not_see(elsewhere):
    elsewhere.go(f"{SHORT}&hide=guess,r,seed,modules,inside,own")
    for name in ("#guess", "#setting-r", "#setting-seed", ".modules", "#h-inside", "#h-own"):
        assert elsewhere.page.is_hidden(name)
    for name in ("#setting-lora_alpha", "#setting-task", "#h-film", "#h-loss"):
        assert elsewhere.page.is_visible(name)
    elsewhere.set("lora_alpha", 4)
    assert elsewhere.link()["hide"] == "guess,r,seed,modules,inside,own"


def test_no_module_is_said_and_cannot_be_trained(elsewhere):
    for kind in ("q", "k", "v", "o", "gate", "up", "down"):
        elsewhere.click(f"{kind}_proj, all layers")
    assert "No module is chosen" in elsewhere.text("notices")
    assert elsewhere.page.is_disabled("#train")
    elsewhere.click("layer 1, v_proj")
    assert elsewhere.page.is_enabled("#train")
    assert elsewhere.link()["modules"] == "1.v_proj"


def test_the_grid_is_walked_with_arrow_keys(elsewhere):
    page = elsewhere.page
    page.focus(".modules .cell")
    for key in ("Space", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    at = page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    assert at == "layer 1, k_proj"
    assert "0.q_proj" not in elsewhere.link()["modules"].split(",")


@pytest.mark.slow
def test_a_rate_that_kills_the_model_is_blamed(visit):
    page = visit("task=new-facts&n=20&steps=8&batch_size=8&learning_rate=1000")
    assert page.train().startswith("trained")
    assert len({*page.losses()[-3:]}) == 1  # the model no longer learns
    assert "the gradient is 0" in page.text("notices")
    assert "Try a tenth of the learning rate (100)" in page.text("notices")


# --- everybody ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_begun_and_stopped_by_keyboard_alone(visit):
    page = visit(f"{SHORT}&hide=guess")
    page.page.focus("#train")
    page.page.keyboard.press("Enter")
    assert page.page.evaluate("() => document.activeElement.id") == "stop"
    page.page.keyboard.press("Enter")
    page.wait("() => document.getElementById('stop').disabled")
    assert page.page.evaluate("() => document.activeElement.id") == "train"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_checker_of_accessibility_finds_nothing(trained, scheme):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-core is not installed")
    trained.page.emulate_media(color_scheme=scheme)
    trained.page.evaluate(
        "() => document.querySelectorAll('details').forEach(one => { one.open = true; })"
    )
    trained.page.evaluate(axe.AXE_FILE_PATH.read_text(encoding="utf-8"))
    found = trained.page.evaluate("async () => (await axe.run()).violations.map(one => one.id)")
    trained.page.emulate_media(color_scheme=None)
    assert found == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_cut_off_on_a_telephone_or_a_screen(trained, width):
    trained.page.set_viewport_size({"width": width, "height": 740})
    trained.page.wait_for_timeout(300)
    assert trained.page.evaluate("() => document.documentElement.scrollWidth") == width
    beyond = trained.page.evaluate(
        """width => [...document.querySelectorAll("main *")]
            .filter(one => !one.closest(".scrolls, pre, .unseen, svg") && one.checkVisibility())
            .filter(one => one.getBoundingClientRect().right > width + 1)
            .map(one => one.outerHTML.slice(0, 80))""",
        width,
    )
    assert beyond == []


def test_a_browser_without_simd_is_told_which_ones_have_it(browser, file):
    context = browser.new_context()
    context.add_init_script("WebAssembly.validate = () => false;")
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_function(
        "() => document.getElementById('state').textContent.includes('could not')", polling=100
    )
    assert "Chrome and Edge 91, Firefox 89, Safari 16.4" in page.inner_text("#notices")
    context.close()


NO_ENGINE = """Object.defineProperty(globalThis, "makeWorker", {
    set() {},
    get: () => async () => {
        const worker = new Worker(URL.createObjectURL(new Blob([""])));
        const data = { type: "error", words: "The engine could not be started: so." };
        setTimeout(() => worker.onmessage({ data })); // long before the page asks for anything
        return worker;
    },
})"""


def test_an_engine_that_fails_before_it_is_asked_is_said(browser, file):
    context = browser.new_context()
    context.add_init_script(NO_ENGINE)
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_function(
        "() => document.getElementById('state').textContent.includes('could not')", polling=100
    )
    assert "could not be started: so." in page.inner_text("#notices")
    context.close()


def test_the_licences_of_others_are_shown(trained):
    trained.page.evaluate("() => { document.getElementById('others').open = true; }")
    trained.wait("() => document.querySelector('#others pre').textContent.includes('XNNPACK')")
    shown = trained.page.inner_text("#others pre")
    assert all(name in shown for name in ("=== uplot ===", "=== fflate ===", "Apache License"))


@pytest.mark.slow
def test_text_of_examples_stays_text(visit):
    page = visit(SHORT)
    row = '"<img src=x onerror=document.title={}>","<b>{}</b>"\n'
    page.page.fill("#csv", "prompt,answer\n" + "".join(row.format(k, k) for k in range(8)))
    page.click("Use these examples")
    page.wait("() => document.getElementById('csv-said').textContent.includes('can be used')")
    page.set("steps", 2)
    page.train()
    assert "<img src=x onerror=document.title=" in page.text("prompts")
    assert page.page.locator("main img").count() == 0
    assert page.page.title().startswith("LoRA playground")
