import dataclasses
import math
import re

import pytest

from lora_lab.cost.budget import Matrix, adapter_parameters, trainable_parameters
from lora_lab.cost.estimates import estimate, find_shape
from lora_lab.cost.static_memory import quantized_bytes
from lora_lab.findings.papers import PaperNumber, PaperTable, paper, papers
from lora_lab.recipe import Recipe

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

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
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}|[a-z.]+/[\w/-]+", found.source), id
        assert all((found.what, found.unit or found.columns, found.where)), id
        if found.source.startswith("github.com/") and "at " not in found.where:
            assert id in ("peft-llama-3b-parameters", "qlora-guanaco")  # the others name a commit


def test_a_table_of_several_units_names_them_in_its_columns():
    table = paper("peft-metamath")
    cell = table.cell("LoRA, r 32, q_proj + v_proj", "% right on GSM8K")
    assert str(cell).startswith("47.8 % right on GSM8K (github.com/huggingface/peft, method_")
    assert str(table).startswith("million parameters; % right on GSM8K; nats forgotten; GiB ")


def test_a_run_that_diverged_is_no_number_and_says_so():
    table = paper("tinker-llama-1b")
    cell = table.cell("r 16", 3e-3)
    assert math.isnan(cell.value)
    assert str(cell).startswith("diverged (github.com/thinking-machines-lab/tinker-cookbook, ")
    assert str(table.cell("r 16", 1e-3)).startswith("0.7948 nats of test loss (")


def test_every_row_of_a_table_has_a_number_for_each_column():
    tables = [found for found in papers().values() if isinstance(found, PaperTable)]
    assert tables
    for table in tables:
        assert {len(row) for row in table.rows.values()} == {len(table.columns)}


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: paper("lora-tabel-5"), "'lora-tabel-5' isn't a published number; did you mean '"),
        (lambda: paper("lora-table-5").cell("q_proj, r 9", "MNLI"), "isn't a row of table 5; did"),
        (lambda: paper("lora-table-5").cell("q_proj, r 8", "MLNI"), "isn't a column.*mean 'MNLI'"),
        (lambda: paper("lora-table-6").cell("WikiSQL, q_proj", 16), "16 isn't a column of table 6"),
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


def test_the_smallest_rank_at_its_best_rate_beats_the_largest_at_a_usual_one():
    table = paper("tinker-llama-1b")
    small, large = (dict(zip(table.columns, table.rows[r], strict=True)) for r in ("r 4", "r 128"))
    assert small[1e-3] < large[1e-4]
    for row in table.rows.values():  # nan, where it diverged, is never the least
        assert min(row, key=lambda loss: (math.isnan(loss), loss)) == row[3]
        assert max(row[:4]) == row[0]  # the lowest rate is the worst: claim "lr-low-end"


def test_the_error_beside_pefts_table_is_that_of_a_share_of_1319_questions():
    table = paper("peft-metamath")
    for name in table.rows:
        share = table.cell(name, "% right on GSM8K").value / 100
        right = round(1319 * share)
        assert round(100 * right / 1319, 1) == round(100 * share, 1)  # a whole number of answers
        error = 100 * math.sqrt(share * (1 - share) / 1319)
        assert error == pytest.approx(paper("peft-metamath-error").value, abs=0.07)


@pytest.mark.parametrize(
    ("row", "choices"),
    [
        ("rsLoRA, r 64, q_proj + v_proj", {"r": 64, "lora_alpha": 64, "use_rslora": True}),
        ("LoRA, r 10, MLP", {"r": 10, "target_modules": MLP}),
        ("LoRA, r 32, q_proj + v_proj", {"r": 32}),
        ("LoRA, r 64, q_proj + v_proj", {"r": 64}),
        ("full fine-tuning", {"method": "full"}),
        ("DoRA, r 32, q_proj + v_proj", {"r": 32, "use_dora": True}),
        (
            "AdaLoRA, r 64 to 32, q_proj + v_proj",
            {"method": "adalora", "init_r": 64, "target_r": 32},
        ),
    ],
)
def test_each_row_of_pefts_table_has_the_parameters_of_our_formula(row, choices):
    recipe = Recipe(**{"target_modules": ("q_proj", "v_proj")} | choices)
    parameters = trainable_parameters(find_shape("llama-3.2-3b"), recipe)
    assert paper("peft-metamath").cell(row, "million parameters").value == parameters / 1e6


def test_equal_parameters_of_attention_and_mlp_are_counted_with_an_adapter_on_the_head():
    shape = find_shape("llama-3.1-8b")
    table = paper("regret-targets")
    for row, r, targets in (("attention, r 256", 256, ATTENTION), ("MLP, r 128", 128, MLP)):
        recipe = Recipe(r=r, target_modules=targets)
        parameters = trainable_parameters(shape, recipe)
        parameters += adapter_parameters(Matrix("lm_head", 4096, 128256), recipe)
        assert round(parameters / 1e9, 2) == table.cell(row, "parameters").value


def test_the_printed_mean_of_qloras_table_4_is_that_of_its_row_but_for_nf4():
    rows = paper("qlora-table-4").rows
    means = {name: round(sum(row[:-1]) / 8, 2) for name, row in rows.items()}
    assert means == {"BF16": 53.04, "FP4": 52.19, "NF4 + double quantization": 52.99}
    printed = {name: row[-1] for name, row in rows.items()}
    assert printed == {"BF16": 53.0, "FP4": 52.2, "NF4 + double quantization": 53.1}


@pytest.mark.parametrize("id", ["axolotl-examples", "torchtune-configs"])
def test_no_count_of_files_is_larger_than_their_number(id):
    table = paper(id)
    files = int(re.search(r"of (\d+) files", table.unit)[1])
    assert all(0 < count <= files for (count,) in table.rows.values())


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
