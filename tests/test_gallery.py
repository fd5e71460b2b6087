"""The form of the gallery of failures, counted: cards that stand alone, each with its five parts.

Each test of the form is a rule; below, a small made gallery keeps them all, and each rule finds
its breach. The slow tests run the cards: from the last to the first, each in a copy of the
set-up's names alone. `lora-lab check` must then find what each failure has left in a file.
"""

import ast
import builtins
import contextlib
import copy
import io
import json
import linecache
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers.utils import logging
from typer.testing import CliRunner

from lora_lab.cli.app import app
from test_lessons import BOOLEAN, FOLD, _code, _markdown, _said, change, source, tags

FOLDER = Path(__file__).parents[1] / "notebooks"
GALLERY = FOLDER / "99_break_it.ipynb"
PARTS = ("Symptom", "You'd suspect", "The look", "The mend", "The guard")
CARDS, CELLS, WORDS, LINES = 16, 6, 130, 15  # cards at least; of each card at most

TRACES = {  # a card: the file that it leaves, what `lora-lab check` finds, and its options
    "The loss falls too slowly": ("half", "matches no layer of pocket"),
    "The loss stays high and the answers come late": ("every_token.py", "those of the prompt too"),
    "The loss does not move at all": ("never", "lora_B is all zero in all 28"),
    "The loss hardly moves": ("rate_of_full_fine_tuning.py", "learning_rate 2e-5 with LoRA"),
    "The loss becomes NaN after a few steps": ("nan", "NaN or infinite numbers"),
    "The loss is NaN from the first step": (
        *("facts.csv", "24 of 24 rows have more than max_length=6"),
        *("--max-length", "6"),
    ),
    "Continued training stops with an error about grad": ("train_on.py", "has no is_trainable"),
    "It never stops talking": ("never_stops.py", "the padding token is the end token"),
    "The loss is low and every answer is wrong": ("shifted_twice.py", "labels are shifted here"),
    "It learned but the layers did not": ("head", "lora_B is all zero in 8 of 9 matrices"),
    "It never writes the new tokens": ("tokens", "2 tokens are new beside the base's"),
    "AdaLoRA prunes nothing": ("adalora", "AdaLoRA without rank_pattern"),
    "Good in the notebook and bad on the server": ("template", "another than the base's"),
    "The loaded adapter changes nothing": ("empty", "lora_B is all zero"),
    "The merged model has forgotten everything else": ("both", "an adapter and a whole model"),
    "Merging undoes the fine-tune": ("rounded", "the weights are in 4 bits"),
}
NO_TRACE = {  # a card: why no file shows its failure
    "The loss changes with the size of the micro-batch": "a sum in the loop; weights look as ever",
    "The adapter loads and its answers are wrong": "the file is sound; the model under it is not",
}


@dataclass(frozen=True)
class Card:
    """A failure: its title, and the cells from its heading to the next."""

    title: str
    cells: list

    @property
    def words(self):
        """The prose, the title with it."""
        return "\n".join(source(cell) for cell in self.cells if cell["cell_type"] == "markdown")

    @property
    def code(self):
        """What stands in its cells of code, folded or not."""
        return [source(cell) for cell in self.cells if cell["cell_type"] == "code"]


def heading(cell):
    found = re.match(r"## (.+)", source(cell)) if cell["cell_type"] == "markdown" else None
    return found and found[1]


def cards(gallery):
    """The cards: from a heading whose cell describes a symptom to the next heading."""
    cells = gallery["cells"]
    places = [place for place, cell in enumerate(cells) if heading(cell)] + [len(cells)]
    return [
        Card(heading(cells[start]), cells[start:end])
        for start, end in zip(places, places[1:], strict=False)
        if "**Symptom.**" in source(cells[start])
    ]


def setup(gallery):
    """The code before the first card."""
    first = cards(gallery)[0].cells[0]
    before = gallery["cells"][: gallery["cells"].index(first)]
    return [source(cell) for cell in before if cell["cell_type"] == "code"]


def contents(gallery):
    """The places that the text before the set-up links to."""
    first = cards(gallery)[0].cells[0]
    before = gallery["cells"][: gallery["cells"].index(first)]
    return re.findall(r"\]\(#([^)]+)\)", "\n".join(map(source, before)))


def made_names(code):
    """The names that a piece of code makes at its top level, a loop's and an import's included."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name | ast.ExceptHandler) and not isinstance(
            getattr(node, "ctx", None), ast.Load
        ):
            names.add(node.id if isinstance(node, ast.Name) else node.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names


def used_names(code):
    loaded = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name))
    return {node.id for node in loaded if isinstance(node.ctx, ast.Load)}


@pytest.fixture(scope="module")
def gallery():
    return json.loads(GALLERY.read_text(encoding="utf-8"))


# --- the rules ----------------------------------------------------------------------------------


def test_a_gallery_has_at_least_16_cards(gallery):
    assert len(cards(gallery)) >= CARDS


def test_a_card_has_at_most_6_cells_its_fold_included(gallery):
    assert [card.title for card in cards(gallery) if len(card.cells) > CELLS] == []


def test_a_card_has_at_most_130_words(gallery):
    assert [card.title for card in cards(gallery) if len(card.words.split()) > WORDS] == []


def test_a_card_has_no_cell_of_more_than_15_lines(gallery):
    long = [card.title for card in cards(gallery) if any(map(_is_long, card.code))]
    assert long == []


def _is_long(code):
    return len(code.splitlines()) > LINES


def test_a_card_has_its_five_parts_in_order(gallery):
    for card in cards(gallery):
        assert re.findall(r"^\*\*([^*]+)\.\*\*", card.words, re.MULTILINE) == [*PARTS], card.title


def test_a_card_links_the_thread_in_which_somebody_asked(gallery):
    for card in cards(gallery):
        assert re.search(r"\]\(https://github\.com/.+/(?:issues|pull)/\d+\)", card.words), (
            card.title
        )


def test_a_card_provokes_then_looks_then_mends_and_a_fold_holds_it(gallery):
    for card in cards(gallery):
        kinds = [cell["cell_type"][0] + "a" * ("assert" in tags(cell)) for cell in card.cells]
        assert kinds == ["m", "c", "c", "m", "c", "ca"], card.title
        assert card.code[1].startswith("# the look:"), card.title
        assert "mended" in card.code[2], card.title


def test_a_fold_says_in_one_line_what_it_checked(gallery):
    for card in cards(gallery):
        cell = card.cells[-1]
        assert cell["metadata"].get("jupyter") == FOLD, card.title
        assert "assert " in source(cell), card.title
        said = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert re.fullmatch(r"checked: .+\n", said), f"{card.title}: {said!r}"


def test_a_cards_results_are_numbers_and_not_booleans(gallery):
    for card in cards(gallery):
        for cell in card.cells[1:-1]:
            for output in cell.get("outputs", ()):
                text = output.get("text") or output.get("data", {}).get("text/plain", "")
                assert BOOLEAN.findall("".join(text)) == [], card.title


def test_at_most_a_quarter_of_the_code_is_left_uncompared(gallery):
    """What comes out the same on every processor is compared; half-way results are not."""
    code = [cell for cell in gallery["cells"] if cell["cell_type"] == "code"]
    ignored = [cell for cell in code if "nbval-ignore-output" in tags(cell)]
    assert len(ignored) <= len(code) / 4


def test_the_contents_link_each_card_once_and_nothing_else(gallery):
    anchors = [card.title.replace(" ", "-") for card in cards(gallery)]
    assert sorted(contents(gallery)) == sorted(anchors)
    assert all(re.fullmatch(r"[\w-]+", anchor) for anchor in anchors)  # the same everywhere


def test_a_card_uses_no_name_that_another_card_made(gallery):
    common = set().union({*dir(builtins)}, *map(made_names, setup(gallery)))
    for card in cards(gallery):
        own = set().union(*map(made_names, card.code))
        foreign = set().union(*map(used_names, card.code)) - own - common
        assert foreign == set(), card.title


# --- each rule finds its breach -----------------------------------------------------------------


def made_card(number):
    first = f"## Card {number}\n\n**Symptom.** S ([x#1](https://github.com/x/x/issues/1))\n\n"
    first += "**You'd suspect.** A."
    cause = "**The look.** B.\n\n**The mend.** C.\n\n**The guard.** D."
    return [
        _markdown(first),
        _code(f"broken{number} = base"),
        _code(f"# the look: what?\nprint(broken{number})", outputs=[_said("3\n")]),
        _markdown(cause),
        _code(f"mended{number} = base"),
        _code(f"assert mended{number}", "assert", outputs=[_said("checked: it\n")], jupyter=FOLD),
    ]


def made_gallery():
    links = "".join(f"- [{number}](#Card-{number})\n" for number in range(16))
    cells = [_markdown(f"# 99. A title\n{links}"), _code("import os\nbase = 1")]
    for number in range(16):
        cells += made_card(number)
    return {"cells": [*cells, _markdown("## The end")]}


def put(place, *cells):
    def breach(gallery):
        gallery["cells"][place:place] = cells

    return breach


BREACHES = [  # a rule, and what breaks it; the first card's cells are 2 to 7
    (test_a_gallery_has_at_least_16_cards, change(2, source=["## Card 0"])),
    (test_a_card_has_at_most_6_cells_its_fold_included, put(7, _code())),
    (test_a_card_has_at_most_130_words, put(7, _markdown("word " * 120))),
    (test_a_card_has_no_cell_of_more_than_15_lines, change(3, source=["x = 1\n" * 16])),
    (test_a_card_has_its_five_parts_in_order, change(5, source=["**The look.** B."])),
    (
        test_a_card_links_the_thread_in_which_somebody_asked,
        change(2, source=["## Card 0\n\n**Symptom.** S ([x](https://github.com/x/x))"]),
    ),
    (test_a_card_provokes_then_looks_then_mends_and_a_fold_holds_it, change(4, source=["x"])),
    (test_a_card_provokes_then_looks_then_mends_and_a_fold_holds_it, change(6, source=["x"])),
    (test_a_card_provokes_then_looks_then_mends_and_a_fold_holds_it, put(7, _code())),
    (test_a_fold_says_in_one_line_what_it_checked, change(7, outputs=[_said("checked\n")])),
    (test_a_fold_says_in_one_line_what_it_checked, change(7, metadata={"tags": ["assert"]})),
    (test_a_cards_results_are_numbers_and_not_booleans, change(4, outputs=[_said("it: True\n")])),
    (
        test_at_most_a_quarter_of_the_code_is_left_uncompared,
        put(7, *[_code("x", "nbval-ignore-output")] * 40),
    ),
    (test_the_contents_link_each_card_once_and_nothing_else, change(0, source=["# 99."])),
    (
        test_the_contents_link_each_card_once_and_nothing_else,
        put(1, _markdown("- [once more](#Card-3)")),
    ),
    (test_a_card_uses_no_name_that_another_card_made, change(3, source=["x = broken1"])),
]
RULES = [rule for name, rule in sorted(globals().items()) if name.startswith("test_")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_small_made_gallery_keeps_every_rule(rule):
    rule(made_gallery())


@pytest.mark.parametrize(("rule", "breach"), BREACHES, ids=lambda part: part.__name__)
def test_a_rule_finds_its_breach(rule, breach):
    broken = copy.deepcopy(made_gallery())
    breach(broken)
    with pytest.raises(AssertionError):
        rule(broken)


def test_every_rule_has_a_breach():
    assert {rule for rule, _ in BREACHES} == set(RULES)


# --- the cards run ------------------------------------------------------------------------------


def test_of_each_card_it_is_known_whether_it_leaves_a_trace_in_a_file(gallery):
    assert {card.title for card in cards(gallery)} == {*TRACES} | {*NO_TRACE}
    assert not {*TRACES} & {*NO_TRACE}


def run(code, names, name):
    """Run a cell; a function in it keeps its source, as in a notebook."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    exec(compile(code, name, "exec"), names)


@pytest.fixture(scope="module")
def ran(gallery):
    """What each card printed, run from the last to the first; and the folder of their files.

    Each starts from the set-up's names alone.
    """
    level = logging.get_verbosity()
    names = {"__name__": "gallery"}
    said = {}
    with warnings.catch_warnings():
        for number, code in enumerate(setup(gallery)):
            run(code, names, f"<set-up {number}>")
        for card in reversed(cards(gallery)):
            own = dict(names)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                for number, code in enumerate(card.code):
                    run(code, own, f"<{card.title} {number}>")
            said[card.title] = out.getvalue()
    yield said, names["WORK"]
    logging.set_verbosity(level)
    logging.enable_progress_bar()
    names["room"].cleanup()


@pytest.mark.slow
def test_the_cards_run_from_the_last_to_the_first_each_from_the_set_up_alone(gallery, ran):
    said, _ = ran
    assert list(said) == [card.title for card in reversed(cards(gallery))]
    assert all(re.search(r"^checked: .+\n\Z", words, re.MULTILINE) for words in said.values())


@pytest.mark.slow
@pytest.mark.parametrize("title", TRACES)
def test_lora_lab_check_finds_the_failure_in_the_file_that_it_left(title, ran):
    _, folder = ran
    file, words, *options = TRACES[title]
    result = CliRunner().invoke(app, ["check", str(folder / file), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert words in " ".join(result.output.split()), result.output
