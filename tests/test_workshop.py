"""The playground as a workshop: each exercise's link opens, and hides what it does not need."""

import re
from pathlib import Path

import pytest

import workshop
from lora_lab.web.build import build_file
from playground import chromium
from playground_page import Playground

ROOT = Path(__file__).parents[1]
SETTINGS = (ROOT / "lora_lab/web/page/settings.mjs").read_text(encoding="utf-8")
SEEN = """() => [...document.querySelectorAll("[data-part]")]
    .filter(one => !one.classList.contains("away")).map(one => one.dataset.part)"""


def test_the_parts_are_those_that_the_page_can_hide():
    (listed,) = re.findall(r"export const PARTS = \{\n(.*?)\};", SETTINGS, re.DOTALL)
    assert tuple(re.findall(r"^  (\w+):", listed, re.MULTILINE)) == workshop.PARTS


def test_each_exercise_goes_on_in_a_lesson_that_exists():
    for exercise in workshop.EXERCISES:
        assert (ROOT / "notebooks" / f"{exercise.lesson}.ipynb").is_file()
        assert set(exercise.shown) <= set(workshop.PARTS)


@pytest.mark.browser
def test_each_link_opens_the_page_without_a_complaint_and_hides_the_other_parts(
    browser_path, tmp_path
):
    file = tmp_path / "playground.html"
    build_file(file)
    with chromium(browser_path) as browser:
        page = Playground(browser, file, workshop.EXERCISES[0].link)
        for exercise in workshop.EXERCISES:
            page.go(exercise.link)
            assert page.text("notices") == "", exercise.question
            seen = set(page.page.evaluate(SEEN)) & set(workshop.PARTS)  # other parts stand in these
            assert seen == set(exercise.shown), exercise.question
        page.go(f"{workshop.EXERCISES[0].link},everything")
        assert "everything" in page.text("notices")  # a broken link would be seen
        assert page.unseen() == ({file.as_uri()}, [])
