"""Lesson 09: the cards, the ways to ship, what arrives in 4 bits; the oracle is bitsandbytes."""

import dataclasses

import bitsandbytes.functional as bnb
import pytest
import torch
from matplotlib.figure import Figure

import lora_lab as lab
from lora_lab.cost.gpus import FITS, NOT, cards, verdict_on
from lora_lab.lessons import qlora
from lora_lab.maths.nf4 import dequantize, quantize
from lora_lab.models.adapted import Adapted
from lora_lab.models.bases import quantized_base
from lora_lab.models.quantization import Quantization, is_quantized, weight_of
from lora_lab.plots import draw_arrival, draw_block
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
LARGE, SMALL = recipe(steps=6, learning_rate=1e-2), recipe(steps=2, learning_rate=1e-5)


@pytest.fixture(scope="module")
def base():
    return tiny_base(hidden=64)


@pytest.fixture(scope="module")
def shipped(base):
    return qlora.ship(base, TASK, {"large": LARGE, "small": SMALL}, seeds=(0, 1))


# --- memory ---------------------------------------------------------------------------------


def test_a_card_gets_the_most_bits_that_fit_and_the_edge_is_named():
    step = {"r": 16, "batch_size": 1, "max_length": 2048, "gradient_checkpointing": True}
    models = ("llama-7b", "llama-3.1-8b", "llama-2-70b")
    table = qlora.bits_by_card(models, **step)
    known = {card.name: card.usable for card in cards()}
    for model in models:
        for name, said in table.loc[model].items():
            whole, four = (
                verdict_on(
                    known[name],
                    lab.estimate(model, lab.Recipe(quantize=kind, **step)).trainer_memory,
                )
                for kind in (None, "nf4")
            )
            if said == "–":
                assert (whole, four) == (NOT, NOT)
            elif said.endswith("at the edge"):
                assert FITS not in (whole, four)
            elif said == "4 bits":
                assert whole != FITS
                assert four == FITS
            else:
                assert whole == FITS
    assert table.loc["llama-3.1-8b", "T4"] == "4 bits, at the edge"
    assert table.loc["llama-2-70b"].tolist() == ["–", "–", "–", "4 bits"]


def test_mistrals_three_published_steps_differ_in_the_base_alone():
    for batch_size, measured in ((4, [26.7, 20.7, 16.4]), (8, [38.7, 37.0, 28.4])):
        runs = qlora.mistral_runs(batch_size)
        assert [*runs] == [
            "bfloat16",
            "NF4, norms cast to float32",
            "NF4, norms left in 16 bits",
        ]
        assert [round(run.measured / 1e9, 1) for run in runs.values()] == measured
        assert len({(run["r"], run["tokens"], run["gpu"]) for run in runs.values()}) == 1


# --- shipping -------------------------------------------------------------------------------


def test_the_first_way_is_the_training_and_restored_weights_keep_its_loss(base, shipped):
    run = fit(base, TASK, dataclasses.replace(LARGE, quantize="nf4", seed=0), store=None)
    ways = {way: made[0].loss for way, made in shipped.scores["large"].items()}
    assert ways["adapter beside the 4-bit base"] == pytest.approx(run.scores.loss, rel=1e-5)
    assert ways["merged into the restored weights"] == pytest.approx(run.scores.loss, rel=1e-2)
    assert ways["adapter beside the 16-bit base"] == pytest.approx(
        ways["merged into the 16-bit base"], rel=1e-2
    )
    assert ways["merged into the 4-bit base"] != pytest.approx(run.scores.loss, rel=1e-3)


def test_a_change_too_small_for_the_levels_leaves_the_4_bit_base_as_it_was(base, shipped):
    four = quantized_base(base, Quantization("nf4"))
    untouched = evaluate(four, TASK).loss
    for one in shipped.scores["small"]["merged into the 4-bit base"]:
        assert one.loss == pytest.approx(untouched, abs=1e-3)  # absmax is rounded again
    assert shipped.moved["small"] == 0
    assert shipped.moved["large"] > 0.05
    assert shipped.size["small"] < 1e-3 < shipped.size["large"]


def test_the_size_is_that_of_the_change_over_all_matrices_together(base, shipped):
    runs = [
        fit(base, TASK, dataclasses.replace(LARGE, quantize="nf4", seed=seed), store=None)
        for seed in (0, 1)
    ]
    found = []
    for run in runs:
        adapted = Adapted(quantized_base(base, Quantization("nf4")), run.learned).model
        change = whole = 0.0
        for layer in adapted.modules():
            if hasattr(layer, "lora_A"):
                change += layer.get_delta_weight("adapter").square().sum().item()
                whole += weight_of(layer.base_layer).square().sum().item()
        found.append((change / whole) ** 0.5)
    assert shipped.size["large"] == pytest.approx(sum(found) / 2, rel=1e-3)


def test_the_share_that_moves_is_counted_over_both_codes_of_each_byte(base, shipped):
    four, found = quantized_base(base, Quantization("nf4")), []
    for seed in (0, 1):
        run = fit(base, TASK, dataclasses.replace(LARGE, quantize="nf4", seed=seed), store=None)
        before, after = (
            [
                code
                for layer in model.modules()
                if is_quantized(layer)
                for byte in layer.weight.data.flatten().tolist()
                for code in divmod(byte, 16)
            ]
            for model in (four.model, qlora.merged(four, run))
        )
        pairs = zip(before, after, strict=True)
        found.append(sum(one != other for one, other in pairs) / len(before))
    assert shipped.moved["large"] == pytest.approx(sum(found) / 2)


def test_the_table_has_a_row_a_way_and_says_how_large_each_change_is(shipped):
    table = shipped.table()
    assert [*table.index] == [*qlora.WAYS]
    assert table.columns[0] == "it rounds"
    assert table.columns[1].startswith("large: ΔW is ")
    assert shipped.sizes().loc["small", "codes that move"] == "0 %"


def test_a_change_arrives_whole_in_the_original_weights_and_a_small_one_not_on_the_levels():
    weight = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    arrived = qlora.arrival(weight, sizes=(0.01, 0.5))
    levels, original = arrived.values()
    assert levels[0.01] < 0.05
    assert levels[0.5] == pytest.approx(1, abs=0.05)
    assert original[0.01] == pytest.approx(1, abs=0.1)
    assert original[0.5] == pytest.approx(1, abs=0.05)


# --- a base rounded by a function -----------------------------------------------------------


def test_a_base_that_our_own_rounding_made_has_the_weights_that_bitsandbytes_restores(base):
    def by_package(block, levels):
        made = quantize(block)
        assert torch.equal(dequantize(made), levels[made.codes.int()] * made.absmax)
        return made.codes.int(), made.absmax[0]

    rounded = qlora.rounded_base(base, by_package)
    four = quantized_base(base, Quantization("nf4", double_quant=False)).model
    checked = 0
    for name, layer in four.named_modules():
        if is_quantized(layer):
            theirs = bnb.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            assert torch.equal(rounded.model.get_submodule(name).weight.data, theirs)
            checked += 1
    assert checked == 14
    output = rounded.model.get_output_embeddings().weight
    assert torch.equal(output, base.model.get_output_embeddings().weight)


# --- pictures -------------------------------------------------------------------------------


def test_each_weight_falls_to_the_level_of_its_code():
    levels = [-1.0, 0.0, 0.5, 1.0]
    ax = draw_block(Figure().subplots(), [0.2, -0.05, 0.09], [3, 1, 2], levels)
    falling = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    assert [(way[0], way[1]) for way in falling] == [
        (1.0, 1.0),
        (-0.25, 0.0),
        (pytest.approx(0.45), 0.5),
    ]
    assert ax.get_title(loc="left") == "3 weights use 3 of 4 levels"
    assert "largest size, 0.200" in ax.get_label()
    assert "Relative error 23 %" in ax.get_label()


def test_what_arrives_is_drawn_in_percent_with_a_line_at_each_training():
    shares = {"into restored weights": {0.02: 0.01, 0.2: 0.98}, "into the original": {0.02: 1.0}}
    ax = draw_arrival(Figure().subplots(), shares, {"rate 0.001": 0.056})
    first, second, dotted = ax.lines
    assert first.get_xydata().tolist() == [[2, 1], [20, 98]]
    assert second.get_xydata().tolist() == [[2, 100]]
    assert [*dotted.get_xdata()] == pytest.approx([5.6, 5.6])
    assert "into restored weights 1 % of 2 %, 98 % of 20 %" in ax.get_label()
    assert "rate 0.001 6 %" in ax.get_label()
