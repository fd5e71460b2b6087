"""Headless: one triplet of one matrix is followed, against the threshold of all."""

import math

import torch

from lora_lab import plots
from lora_lab.widgets.importance_inspector import SIZE, ImportanceInspector

STEPS = [  # sensitivity, uncertainty, importance of two triplets
    {"a": torch.tensor([[1.0, 2], [3, 4], [5, 6]]), "b": torch.tensor([[1.0, 1], [1, 1], [7, 8]])},
    {"a": torch.tensor([[2.0, 1], [4, 3], [9, 1]]), "b": torch.tensor([[1.0, 1], [1, 1], [2, 3]])},
    {},  # from the last allocation on
]


def test_the_threshold_is_the_importance_of_the_best_that_must_go():
    inspector = ImportanceInspector(STEPS, [4, 2, 2])
    first, second = inspector.thresholds
    assert math.isnan(first)  # all four may stay
    assert second == 2.0  # 9 and 3 are kept


def test_what_is_drawn_are_the_rows_of_the_chosen_triplet():
    inspector = ImportanceInspector(STEPS, [3, 2, 2])
    inspector.matrix.value, inspector.triplet.value = "a", 1
    numbers = [2.0, 1.0], [4.0, 3.0], [6.0, 1.0], [5.0, 2.0]
    drawn = plots.picture(plots.draw_importance, *numbers, size=SIZE)
    assert inspector.view.value == inspector.picture.png == drawn.png
    assert inspector.view.tooltip == drawn.alt
    assert repr(inspector) == "ImportanceInspector: 4 triplets over 2 steps"
