"""Every figure in a lesson's prose stands in an output, in evidence, in a paper's record or a rule.

A figure counts as found where a number of these rounds to it, also as a percentage or with its
sign turned round ("39 behind"). Whole numbers below 10 count things in sight, and are left out.
"""

import re
from pathlib import Path

import nbformat
import pytest
import torch

import lora_lab as lab
from lora_lab.findings.claims_page import claims_page
from lora_lab.findings.plans import evidence_ids

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NUMBER = re.compile(r"(?<![\w.,#])[-−]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?!\w)")
NOT_PROSE = re.compile(
    r"\[arXiv:[^\]]*\]\([^)]*\)|\]\([^)]*\)|```.*?```|`[^`]*`|^#+ [^\n]*$", re.DOTALL | re.MULTILINE
)
RECORDS = ("data/papers.toml", "data/defaults.toml", "data/cards.toml", "notebooks/recipe.md")
RECORDS += ("data/evidence/gpu-memory.csv",)
MISTRAL = (38_742_910_000, 37_002_650_000, 28_412_180_000)  # bytes, of gpu-memory.csv
FULL = lab.Recipe(method="full")
LARGE = lab.estimate("llama-3.1-8b", FULL).usual_memory


def parameters_of(base):
    return lab.estimate(base, FULL).trainable_parameters


DERIVED = {  # figures that follow from others
    "02": [parameters_of("smollm2") / parameters_of("pocket")],
    "03": [67.5 / 24.9],  # GiB of full fine-tuning over LoRA's, on Mistral-7B
    "09": [size / 2**30 for size in MISTRAL],
    "10": [lab.estimate("pocket", lab.Recipe(r=8)).trainable_parameters],
    "12": [(LARGE.gradients + LARGE.optimizer) / 2**30],  # GiB of both in full
    "13": [  # a model's bytes over its adapter's
        parameters_of("llama-3.1-8b")
        / lab.estimate("llama-3.1-8b", lab.Recipe(r=16)).trainable_parameters
    ],
}


def numbers_in(text):
    """Each figure as it is written, and its number."""
    found = [match.replace("−", "-").rstrip(",") for match in NUMBER.findall(text)]
    return [(figure, float(figure.replace(",", ""))) for figure in found]


def words_of_code(notebook):
    """The code of a notebook, and all that it shows."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        yield cell.source
        for output in cell.outputs:
            data = output.get("data", {})
            yield str(output.get("text", "")) + str(data.get("text/plain", ""))
            yield re.sub(r"<[^>]+>", " ", str(data.get("text/html", "")))


@pytest.fixture(scope="module")
def records():
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in RECORDS]
    return "\n".join([*texts, claims_page()])


def numbers_behind(path, records):
    """All numbers that a lesson may mention."""
    notebooks = [path, path.parent / "evidence" / path.name]
    text = "\n".join(
        words
        for notebook in notebooks
        if notebook.exists()
        for words in words_of_code(nbformat.read(notebook, 4))
    )
    for id in evidence_ids():
        if f'"{id}"' in text:
            body = lab.evidence(id)
            text += f"{body.verdict}\n{body.table().to_string()}\n{body.conventions}\n"
    behind = {number for _, number in numbers_in(f"{text}\n{records}")}
    return behind | {torch.finfo(torch.float16).max, *DERIVED.get(path.name[:2], ())}


def is_found(figure, number, behind):
    decimals = len(figure.partition(".")[2].partition("e")[0])
    half = 0.5 * 10**-decimals + 1e-9
    scales = (1, -1, 100, -100, 1e-6)  # shares in percent; parameters in millions
    return any(abs(scale * known - number) <= half for known in behind for scale in scales)


def unfounded(prose, behind):
    """The figures of a text for which no number stands anywhere."""
    return [
        figure
        for figure, number in numbers_in(NOT_PROSE.sub(" ", prose))
        if not (abs(number) < 10 and number.is_integer()) and not is_found(figure, number, behind)
    ]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_figure_of_a_lesson_stands_somewhere_as_a_number(path, records):
    behind = numbers_behind(path, records)
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown" and not {"hint", "solution"} & {
            *cell.metadata.get("tags", ())
        }:
            assert unfounded(cell.source, behind) == [], cell.source


def test_a_figure_that_stands_nowhere_is_found_out(records):
    behind = numbers_behind(LESSONS[5], records)
    prose = "LoRA reaches 68.31 % after 4,173 steps, 8 of them slow; see `98765` and arXiv."
    assert unfounded(prose, behind) == ["68.31", "4,173"]


@pytest.mark.parametrize(
    ("figure", "known", "found"),
    [("39", 38.6, True), ("39", -39.4, True), ("39", 0.392, True), ("39", 40.0, False),
     ("1.1", 1_082_496.0, True), ("0.26", 0.262, True), ("0.26", 0.27, False)],
)  # fmt: skip
def test_a_figure_may_be_rounded_turned_round_or_a_share(figure, known, found):
    assert is_found(figure, float(figure), {known}) is found
