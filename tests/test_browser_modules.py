"""The film and the LoRA picture on a plain web page, without Jupyter: speed, stillness, words."""

from pathlib import Path

import pytest

from browsing import CHROMIUM

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

WIDGETS = Path(__file__).parents[1] / "lora_lab/widgets"
FILM = """() => {
    const questions = Array.from({length: 60}, (_, place) => [`question ${place}`, "answer"]);
    const answers = [questions.map(() => "answer")];
    const look = (step, marks) => ({step, answers, marks: [marks]});
    window.data = {
        groups: [{name: "old facts", kind: "old", questions}],
        looks: [look(0, "+".repeat(questions.length))], steps: 2,
    };
    window.film = forgettingFilm(document.body, window.data);
    window.darken = () => {
        window.data = {...window.data, looks: [...window.data.looks, look(1, "-".repeat(60))]};
        window.film.update(window.data);
    };
}"""
PICTURE = """() => {
    const numbers = length => Float32Array.from({length}, (_, place) => Math.sin(place));
    window.data = {
        module: "up_proj", shape: [8, 6], r: 1, largest: 4, every: 1,
        weight: numbers(48), start: numbers(24), looks: [],
    };
    window.picture = loraPicture(document.body, window.data);
}"""
FRAMES = "() => Number(document.querySelector('canvas').dataset.frames ?? 0)"
INK = """() => {
    const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
    const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    let painted = 0;
    for (let place = 3; place < data.length; place += 4) painted += data[place] > 40;
    return painted;
}"""


@pytest.fixture
def opened(browser_path):
    """Opens a module's file in a page of its own; `reduced`: the system asks for no motion."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=CHROMIUM)

        def open_page(module, begin, reduced=False):
            motion = "reduce" if reduced else "no-preference"
            page = browser.new_page(reduced_motion=motion)
            name = begin.partition("(document")[0].rpartition(" ")[2]  # of the exported function
            source = (WIDGETS / module).read_text(encoding="utf-8")
            page.set_content("<!doctype html><title>plain</title>")
            page.add_script_tag(content=f"{source}\nwindow.{name} = {name};", type="module")
            page.wait_for_function(f"() => window.{name}")
            page.evaluate(begin)
            page.wait_for_function(f"() => ({FRAMES})() > 0")
            page.wait_for_timeout(600)  # the first change has faded in
            return page

        yield open_page
        browser.close()


def frames_of_a_change(page):
    """The number of pictures that a change of all dots takes."""
    before = page.evaluate(FRAMES)
    page.evaluate("() => window.darken()")
    page.wait_for_timeout(1000)  # a change takes 400 ms
    return page.evaluate(FRAMES) - before


def test_a_change_of_the_film_is_drawn_in_several_pictures_and_at_most_30_a_second(opened):
    page = opened("forgetting_film.js", FILM)
    lit = page.evaluate(INK)
    assert 3 <= frames_of_a_change(page) <= 0.4 * 30 + 3
    assert page.evaluate(INK) < lit / 2, "old facts go dark"
    assert "old facts 0 of 60 right" in page.locator("input").get_attribute("aria-valuetext")


def test_where_the_system_asks_for_no_motion_a_change_of_the_film_is_one_picture(opened):
    page = opened("forgetting_film.js", FILM, reduced=True)
    lit = page.evaluate(INK)
    assert frames_of_a_change(page) == 1
    assert page.evaluate(INK) < lit / 2


def test_the_picture_moves_only_when_something_changes_and_then_in_one_picture(opened):
    page = opened("lora_picture.js", PICTURE)
    before = page.evaluate(FRAMES)
    page.wait_for_timeout(500)
    assert page.evaluate(FRAMES) == before, "it rests"
    page.locator("input").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert page.evaluate(FRAMES) == before + 1
    assert page.locator("output").first.text_content() == "r = 2"
