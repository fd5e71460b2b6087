"""The docs site: built without a warning, its links arrive, its search works from disk, for all."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from browsing import CHROMIUM
from lab_pictures import NO_PICTURE, PICTURE, pictureless

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[1]
KINDS = (  # one page of each kind
    "docs/index.html",
    "notebooks/05_rank.html",
    "notebooks/evidence/03_the_maths_of_lora.html",
    "docs/api.html",
    "docs/guide.html",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The command of `make docs` with folders of its own: what it said, and the site."""
    pytest.importorskip("myst_nb", reason="the docs' packages are missing: `make docs` installs")
    pytest.importorskip("pydata_sphinx_theme")
    place = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-c", "docs"]
    command += ["-d", place / "trees", ".", place / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done, place / "site"


@pytest.fixture(scope="module")
def site(built):
    return built[1]


def test_the_site_is_built_without_a_warning(built):
    done, _ = built
    assert done.stderr == ""
    assert done.returncode == 0


class Links(HTMLParser):
    """What a page leads to, what it loads, and the ids on it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.leads_to, self.loads, self.ids = [], [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        if tag == "a" and "href" in values:
            self.leads_to.append(values["href"])
        if tag == "link" and values.get("rel") != "canonical":
            self.loads.append(values.get("href", ""))
        if tag in ("script", "img", "iframe", "source"):
            self.loads.append(values.get("src", ""))


@pytest.fixture(scope="module")
def pages(site):
    """All pages; what the theme keeps in _static/ is for its own build."""
    found = (page for page in sorted(site.rglob("*.html")) if "_static" not in page.parts)
    return {page: Links(page) for page in found}


def missing(pages: dict[Path, Links]) -> list[str]:
    """The links and files that lead nowhere, each with its page."""
    found = []
    ids = {page: links.ids for page, links in pages.items()}
    for page, links in pages.items():
        for link in [*links.leads_to, *links.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            if "=" in anchor:  # settings of the playground, which tests/test_workshop.py opens
                anchor = ""
            if not target.exists() or (anchor and anchor not in ids.get(target, {anchor})):
                found.append(f"{page.name}: {link}")
    return found


def test_every_link_and_anchor_within_the_site_arrives(pages):
    assert len(pages) > 40
    assert missing(pages) == []


def test_a_link_to_nowhere_would_be_found(tmp_path):
    page = tmp_path / "one.html"
    page.write_text("<a href='#there'><a href='two.html'><a href='one.html#here' id='here'>")
    assert missing({page: Links(page)}) == ["one.html: #there", "one.html: two.html"]


def test_no_page_loads_anything_from_elsewhere(pages):
    elsewhere = {link for links in pages.values() for link in links.loads if "//" in link}
    assert elsewhere == set()


def test_lessons_stand_first_and_evidence_last(site):
    index = Links(site / "docs/index.html").leads_to
    notebooks = [link for link in index if "/notebooks/" in link]
    places = [place for place, link in enumerate(notebooks) if "/evidence/" in link]
    assert "00_start_here" in notebooks[0]
    assert notebooks.index("../notebooks/99_break_it.html") < min(places)


def test_each_lab_is_a_picture_with_its_text_or_says_that_it_has_none(site):
    for path in sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb")):
        text = (site / path.relative_to(ROOT)).with_suffix(".html").read_text(encoding="utf-8")
        labs = [output for _, output in pictureless(json.loads(path.read_text(encoding="utf-8")))]
        assert text.count(PICTURE) + text.count(NO_PICTURE) == len(labs), path.name
        assert text.count("<pre>") >= text.count(NO_PICTURE)
        assert re.findall(r'<img [^>]*alt=""', text) == [], path.name


def test_the_playgrounds_page_opens_it_or_says_that_it_was_not_built(site):
    text = (site / "docs/playground.html").read_text(encoding="utf-8")
    assert ('href="../playground.html"' in text) == (site / "playground.html").exists()
    assert ("had not been run" in text) != (site / "playground.html").exists()


def test_formulas_are_mathml_and_no_tex_is_left(site):
    text = (site / "notebooks/evidence/03_the_maths_of_lora.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 3
    assert "<mfrac>" in text
    assert "\\frac" not in text


def test_assertions_are_folded_as_in_jupyter(site):
    text = (site / "notebooks/05_rank.html").read_text(encoding="utf-8")
    assert "the sweep finds the hidden rank" in text
    folds = re.findall(r"<details class=.hide above-input.*?</details>", text, re.DOTALL)
    assert folds or "tag_hide-cell" in text


@pytest.fixture(scope="module")
def visit(site, browser_path, tmp_path_factory):
    """A function that opens a page from disk, with the network denied, at a width in a colour."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browsers = {}

        def open_page(name: str, width: int = 1280, scheme: str = "light"):
            if scheme not in browsers:
                browsers[scheme] = playwright.chromium.launch_persistent_context(
                    tmp_path_factory.mktemp("profile"),
                    executable_path=browser_path,
                    headless=True,
                    args=CHROMIUM,
                    color_scheme=scheme,
                    offline=True,
                )
            page = browsers[scheme].pages[0]
            page.set_viewport_size({"width": width, "height": 900})
            page.goto((site / name).as_uri())
            return page

        yield open_page
        for browser in browsers.values():
            browser.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("double_quant", "notebooks/09_qlora"),
        ("sweep_within", "docs/api"),
        ("misspelt", "notebooks/07_target_modules"),
    ],
)
def test_the_search_finds_a_term_from_disk_without_a_network(visit, words, page):
    tab = visit("docs/index.html")
    tab.get_by_role("button", name="Search").first.click()
    field = tab.get_by_role("searchbox").first
    field.fill(words)
    field.press("Enter")
    tab.wait_for_url("**/search.html?*")
    tab.locator("#search-results li a").first.wait_for()
    found = tab.locator("#search-results li a").evaluate_all("all => all.map(one => one.href)")
    assert any(page in address for address in found), found


@pytest.mark.browser
def test_the_first_page_leads_on_to_the_lessons(visit):
    tab = visit("index.html")
    tab.wait_for_url("**/docs/index.html")
    tab.get_by_role("link", name="5. Rank").first.click()
    assert tab.get_by_role("heading", level=1).inner_text().startswith("5. Rank")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_nothing_serious(visit, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-core is not installed")
    tab = visit(name, scheme=scheme)
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme
    tab.evaluate(axe.AXE_FILE_PATH.read_text(encoding="utf-8"))
    found = tab.evaluate(
        """async () => (await axe.run()).violations
        .filter(one => ["serious", "critical"].includes(one.impact))
        .map(one => [one.id, one.nodes.length, one.nodes[0].html.slice(0, 200),
                     one.nodes[0].failureSummary])"""
    )
    assert found == []


@pytest.mark.browser
def test_no_page_scrolls_sideways_on_a_telephone(visit, site, pages):
    wide = {}
    for page in set(pages) - {site / "index.html"}:  # that one leads on at once
        tab = visit(str(page.relative_to(site)), width=360)
        width = tab.evaluate("document.documentElement.scrollWidth")
        if width > 360:
            wide[page.name] = width
    assert wide == {}


@pytest.mark.browser
def test_a_picture_of_a_lab_keeps_its_shape(visit):
    tab = visit("notebooks/02_one_token_through_the_model.html", width=700)
    shapes = tab.locator("div.cell_output img").evaluate_all(
        "all => all.map(one => [one.clientWidth / one.clientHeight,"
        " one.naturalWidth / one.naturalHeight])"
    )
    assert shapes
    for shown, natural in shapes:
        assert shown == pytest.approx(natural, rel=0.03)
