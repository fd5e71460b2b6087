import dataclasses
import re

import pytest

from lora_lab.cost.budget import Matrix, adapter_parameters, trainable_parameters
from lora_lab.cost.estimates import estimate, find_shape
from lora_lab.cost.static_memory import quantized_bytes
from lora_lab.findings.papers import PaperNumber, PaperTable, paper, papers
from lora_lab.recipe import Recipe

LAYERS, WIDTH = 96, 12288  # GPT-3 175B: arXiv:2005.14165, table 2.1


def test_a_number_is_printed_with_its_source_ready_for_a_caption():
    assert str(paper("lora-gpt3-parameters")) == (
        "18 million parameters (arXiv:2106.09685, section 7.1)"
    )
    assert str(paper("peft-llama-3b-parameters")).startswith("9,175,040 parameters (github.com/")
    assert str(paper("qlora-double-quantization")).startswith("0.373 bit a parameter")


def test_a_table_gives_one_cell_with_its_source():
    cell = paper("lora-table-5").cell("q_proj + v_proj, r 4", "WikiSQL")
    assert cell.value == 73.7
    assert str(cell) == "73.7 % right (arXiv:2106.09685, table 5)"
    assert cell.what.endswith(": q_proj + v_proj, r 4, WikiSQL")


def test_a_tables_row_can_be_drawn_over_its_columns():
    table = paper("lora-table-6")
    assert table.columns == (1, 2, 4, 8, 64)
    assert table.rows["MNLI, q_proj + v_proj"] == (91.3, 91.4, 91.3, 91.6, 91.4)
    assert table.cell("WikiSQL, q_proj", 64).value == 70.0
    assert str(table) == "% right (arXiv:2106.09685, table 6)"


def test_every_number_says_what_it_is_and_where_it_stands():
    for id, found in papers().items():
        assert isinstance(found, PaperNumber | PaperTable)
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}|[a-z.]+/[\w/]+", found.source), id
        assert all((found.what, found.unit, found.where)), id


def test_every_row_of_a_table_has_a_number_for_each_column():
    tables = [found for found in papers().values() if isinstance(found, PaperTable)]
    assert tables
    for table in tables:
        assert {len(row) for row in table.rows.values()} == {len(table.columns)}


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: paper("lora-tabel-5"), "'lora-tabel-5' is no published number; did you mean 'lo"),
        (lambda: paper("lora-table-5").cell("q_proj, r 9", "MNLI"), "no row of table 5; did you"),
        (lambda: paper("lora-table-5").cell("q_proj, r 8", "MLNI"), "no column of .*mean 'MNLI'"),
        (lambda: paper("lora-table-6").cell("WikiSQL, q_proj", 16), "16 is no column of table 6"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()


def test_nobody_can_change_a_published_number():
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper("lora-gpt3-parameters").value = 19
    with pytest.raises(TypeError):
        paper("lora-table-5").rows["q_proj, r 8"] = (1.0, 2.0)


# --- where our own formulas reach the number ----------------------------------------------------


@pytest.mark.parametrize("row", paper("lora-table-5").rows)
def test_each_row_of_loras_table_5_has_the_18_million_parameters_of_our_formula(row):
    modules, _, r = row.partition(", r ")
    one = adapter_parameters(Matrix("one", WIDTH, WIDTH), Recipe(r=int(r)))
    parameters = LAYERS * len(modules.split(" + ")) * one
    assert parameters // 10**6 == paper("lora-gpt3-parameters").value  # 18.87, rounded down


def test_adaloras_count_for_lora_on_deberta_is_what_our_formula_gives():
    targets = r".*encoder\.layer.*(query_proj|key_proj|value_proj|dense)"
    recipe = Recipe(r=8, target_modules=targets)
    parameters = trainable_parameters(find_shape("deberta-v3-base"), recipe)
    assert round(parameters / 1e6, 2) == paper("adalora-glue-lora-parameters").value


def test_double_quantization_saves_what_our_ledger_says():
    matrix = find_shape("llama-7b").matrices[1]  # 4096 × 4096
    single, double = (
        quantized_bytes(matrix, Recipe(quantize="nf4", double_quant=wanted))
        for wanted in (False, True)
    )
    saved = 8 * (single - double) / matrix.weights
    assert round(saved, 3) == paper("qlora-double-quantization").value


def test_pefts_count_for_llama_3b_is_what_our_formula_gives():
    budget = estimate("llama-3.2-3b", Recipe(r=32, target_modules=("q_proj", "v_proj")))
    assert budget.trainable_parameters == paper("peft-llama-3b-parameters").value


def test_loras_flops_are_slightly_more_than_two_thirds_of_full_fine_tunings():
    lora, full = (
        estimate("llama-3.1-8b", Recipe(method=method)).flops_per_step
        for method in ("lora", "full")
    )
    published = paper("regret-flops").value
    assert published <= round(lora / full, 2) <= published + 0.03
