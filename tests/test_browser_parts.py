"""The film and the LoRA picture in a real browser: they change while a model is trained."""

import json
import re
import time
from urllib.parse import urlsplit

import pytest

from test_browser import PATIENCE, jupyter, keep_pictures, nameless, run_all, visit  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

CODE = """\
import lora_lab as lab
from lora_lab.widgets.live_lab import LiveLab
base = lab.load_base("pocket")
picture = lab.picture_of_lora(base, "model.layers.2.mlp.up_proj"); picture
---
live = LiveLab(base, "new-facts", steps=60, learning_rate=5e-3, questions=20)
live.watch(picture); live"""
PIXELS = """canvas => {
    const pen = canvas.getContext("2d"), data = pen.getImageData(0, 0, canvas.width, canvas.height);
    return data.data.reduce((sum, value, place) => (sum * 31 + value * (place % 997)) % 1e9, 7);
}"""


@pytest.fixture
def notebook(tmp_path):
    """A notebook with the LoRA picture, then a lab with the film."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell{place}",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for place, source in enumerate(CODE.split("\n---\n"))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    page = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "parts.ipynb"
    path.write_text(json.dumps(page))
    return path


def wait_until(page, reached, what):
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, f"waited {PATIENCE} s in vain: {what()}"
        page.wait_for_timeout(50)


def step_of(slider):
    """`step 34 of 60` in a slider's text for screen readers, as 34; -1 before the first look."""
    found = re.search(r"step (\d+) of", slider.get_attribute("aria-valuetext") or "")
    return int(found[1]) if found else -1


def test_the_film_and_the_picture_move_while_it_trains_and_go_back_with_the_keyboard(visit):  # noqa: F811
    page = visit.page
    run_all(page)
    film, picture = page.locator(".forgetting-film"), page.locator(".lora-picture")
    field, slider = film.locator("canvas"), film.get_by_role("slider", name="step of the training")
    said = film.locator(".said")
    train = page.get_by_role("button", name="Train", exact=True)
    parts = picture.get_by_role("img")
    rank, step = (picture.get_by_role("slider", name=name) for name in ("rank r", "step of the"))

    # r, by keyboard, before anything is trained: A widens, and the sizes are said
    before = parts.evaluate(PIXELS)
    assert "A and B hold 4,096 (8.3 %)" in parts.get_attribute("aria-label")
    rank.focus()
    page.keyboard.press("ArrowRight")
    assert "A and B hold 4,608 (9.4 %)" in parts.get_attribute("aria-label")
    wait_until(page, lambda: parts.evaluate(PIXELS) != before, lambda: "the same picture")
    keep_pictures(picture, "lora-before")

    # dots change, and B fills, while it trains
    train.click()
    seen = {}  # step: the field's pixels

    def has_moved():
        seen.setdefault(step_of(slider), field.evaluate(PIXELS))
        return len(seen) > 1 and page.get_by_text("step ").count()

    wait_until(page, has_moved, lambda: f"looks at {[*seen]}")
    wait_until(page, lambda: step_of(slider) == 60, lambda: f"looks at {[*seen]}")
    assert len(set(seen.values())) > 1
    assert "at r = 8" not in picture.inner_text()
    assert "Step 60 of 60: the size of ΔW = 2 · B · A is" in picture.inner_text()
    wait_until(page, train.is_enabled, lambda: "still at work")
    words = slider.get_attribute("aria-valuetext")
    assert re.fullmatch(
        r"step 60 of 60: new facts \d+ of 32 right, old facts \d+ of 32 right, "
        r"strangers \d+ of 32 “not known”",
        words,
    )
    keep_pictures(film, "film")
    keep_pictures(page.locator(".lora-lab"), "lab-with-film")
    keep_pictures(picture, "lora-after")

    # back through the steps, to the base, which knows no new fact and every stranger for unknown
    slider.focus()
    page.keyboard.press("Home")
    assert "step 0 of 60: new facts 0 of 32 right" in slider.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")
    assert 0 < step_of(slider) < 60
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == words
    step.focus()
    page.keyboard.press("Home")
    assert "Step 0 of 60: the size of ΔW = 2 · B · A is 0" in picture.inner_text()

    # over the dots: the question, and both answers; the notebook stays at its cell
    field.focus()
    first = said.inner_text()
    assert re.match(r".+\nbefore: .+\nstep 60: .+", first)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert said.inner_text() != first
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    old = said.inner_text()
    assert re.search(r"\nbefore: .+ ✓\nstep 60: ", old)
    film.get_by_role("button", name="Replay").click()
    wait_until(page, lambda: step_of(slider) == 0, lambda: "it does not go back")
    wait_until(page, lambda: step_of(slider) == 60, lambda: "it does not end")

    for root in film, picture:
        assert nameless(root) == {}
    assert visit.complaints == []
    assert visit.hosts == {urlsplit(page.url).netloc}
