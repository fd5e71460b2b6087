"""Headless: the slider is moved, and the rebuilt matrix and its picture follow."""

import pytest
import torch

from lora_lab import plots
from lora_lab.widgets.svd_slider import SIZE, SvdSlider

HEIGHT, WIDTH = 7, 5


@pytest.fixture
def matrix():
    return torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_rebuilt_is_torchs_svd_cut_to_k_terms(matrix, turned):
    matrix = matrix.T if turned else matrix
    slider = SvdSlider(matrix, k=2)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    for k in (2, 3, WIDTH):
        slider.k.value = k
        torch.testing.assert_close(slider.rebuilt, left[:, :k] * values[:k] @ right[:k])


def test_a_moved_slider_draws_the_rebuilt_beside_the_whole(matrix):
    slider = SvdSlider(matrix, k=2)
    before = slider.view.value
    slider.k.value = 3
    assert slider.view.value != before
    energy = torch.linalg.svdvals(matrix.double()).square().cumsum(0) / matrix.double().norm() ** 2
    shown = {3: slider.rebuilt.numpy(), WIDTH: matrix.double().numpy()}
    drawn = plots.picture(plots.draw_terms, shown, energy.tolist(), size=SIZE)
    assert slider.picture.alt == drawn.alt
    assert slider.view.value == slider.picture.png == drawn.png
    assert slider.view.tooltip == drawn.alt


def test_a_k_that_the_matrix_does_not_have_is_refused(matrix):
    with pytest.raises(ValueError, match=r"k=6 isn't a number of terms of \(7, 5\).* from 1 to 5"):
        SvdSlider(matrix, k=6)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match="give a matrix with two sizes"):
        SvdSlider(torch.ones(4))


def test_a_notebook_keeps_the_same_words_at_each_run(matrix):
    words = SvdSlider(matrix)._repr_mimebundle_()[0]["text/plain"]
    assert words == "SvdSlider: a matrix of 7 × 5, rebuilt from k terms"
