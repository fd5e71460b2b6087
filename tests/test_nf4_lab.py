"""Headless: the controls are moved; the numbers shown are those of maths/nf4."""

import html

import pytest
import torch
from matplotlib.figure import Figure

from lora_lab import plots
from lora_lab.maths.nf4 import BLOCKSIZES, double_quantize, levels, quantize, relative_error, scaled
from lora_lab.plots import draw_block_sizes, draw_rounding
from lora_lab.widgets.nf4_lab import EVERY, Nf4Lab


@pytest.fixture(scope="module")
def weights():
    return 0.02 * torch.randn(64, 128, generator=torch.Generator().manual_seed(0))


def test_each_control_rounds_the_weights_anew(weights):
    lab = Nf4Lab(weights)
    assert lab.error == relative_error(weights, quantize(weights))
    assert lab.bits == 4.5
    lab.quant_type.value = "int4"
    assert lab.error == relative_error(weights, quantize(weights, 64, "int4"))
    lab.blocksize.value = 256
    assert lab.error == relative_error(weights, quantize(weights, 256, "int4"))
    assert lab.bits == 4.125
    before = lab.error
    lab.double_quant.value = True
    assert lab.error == relative_error(weights, double_quantize(quantize(weights, 256, "int4")))
    assert lab.error != before
    assert lab.bits == 4 + 8 / 256 + 32 / 256**2
    lab.quant_type.value, lab.double_quant.value = "int8", False
    assert lab.bits == 8.125


def test_the_outlier_is_one_weight_of_4096_at_so_many_deviations_and_0_is_none(weights):
    lab = Nf4Lab(weights)
    assert torch.equal(lab.weights, weights.flatten())
    lab.outlier.value = 20
    changed = (lab.weights != weights.flatten()).nonzero().flatten().tolist()
    assert changed == [0, EVERY]
    assert lab.weights[changed].tolist() == pytest.approx([20 * weights.std().item()] * 2)
    assert lab.error == relative_error(lab.weights, quantize(lab.weights))


def test_the_picture_is_that_of_the_choice_and_is_read_out(weights):
    lab = Nf4Lab(weights)
    for kind in ("e2m1", "nf4"):
        lab.quant_type.value = kind
        whole = quantize(weights.flatten(), 64, kind)
        numbers = scaled(weights.flatten(), whole).tolist(), whole.codes.tolist()
        drawn = plots.picture(
            draw_rounding, *numbers, levels(kind).tolist(), 64, lab.error, lab.bits
        )
        assert lab.picture.png == lab.view.value == drawn.png
        assert lab.view.tooltip == drawn.alt
        assert html.escape(drawn.alt) in lab.said.value


def test_what_is_no_type_and_too_few_weights_are_refused(weights):
    with pytest.raises(ValueError, match="'nf5' is not known here; did you mean 'nf4'"):
        Nf4Lab(weights, "nf5")
    with pytest.raises(ValueError, match="12 weights are too few; give 4,096 or more"):
        Nf4Lab(torch.ones(12))


def test_a_notebook_keeps_the_same_words_at_each_run(weights):
    words = Nf4Lab(weights)._repr_mimebundle_()[0]["text/plain"]
    assert words == "Nf4Lab: 8,192 weights · nf4, fp4, e2m1, e3m0, int4, int8"


# --- the pictures ---------------------------------------------------------------------------


def test_stems_stand_at_the_levels_as_high_as_what_each_holds_and_a_block_falls_to_them():
    scaled_, codes, levels_ = [-1.0, -0.4, 0.1, 1.0], [0, 1, 1, 3], [-1.0, 0.0, 0.0, 1.0]
    ax = draw_rounding(Figure().subplots(), scaled_, codes, levels_, 2, 0.0921, 4.5)
    (stems,) = ax.collections
    found = [segment.tolist() for segment in stems.get_segments()]
    assert found == [[[-1, 0], [-1, 25]], [[0, 0], [0, 50]], [[1, 0], [1, 25]]]  # 0 has two codes
    falling = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 3]
    assert [(way[0], way[-1]) for way in falling[:2]] == [(-1.0, -1.0), (-0.4, 0.0)]
    assert sum(patch.get_height() for patch in ax.patches) == pytest.approx(100)
    assert "3 levels" in ax.get_label()
    assert "25.0 to 50.0 %" in ax.get_label()
    assert "error 9.2 %, 4.5 bits" in ax.get_title(loc="right")


def test_each_type_is_a_line_over_the_block_sizes():
    errors = {"nf4": {32: 0.087, 4096: 0.11}, "int4": {32: 0.097, 4096: 0.158}}
    ax = draw_block_sizes(Figure().subplots(), errors, {32: 5.0, 4096: 4.0078})
    (nf4,) = [line for line in ax.lines if line.get_label() == "nf4"]
    assert nf4.get_xydata().tolist() == [[32, pytest.approx(8.7)], [4096, pytest.approx(11)]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["32\n(5)", "4096\n(4.01)"]
    assert "int4 9.7 % to 16 %" in ax.get_label()


def test_the_block_sizes_are_those_that_bitsandbytes_takes(weights):
    assert tuple(Nf4Lab(weights).blocksize.options) == BLOCKSIZES
