"""Headless: the slider of the fan draws the batches of its size."""

import torch

from lora_lab.lessons.batches import Gradients
from lora_lab.widgets.batch_fan import BatchFan


def test_the_slider_chooses_the_batches_that_are_drawn():
    sums = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) + 0.1
    gradients = Gradients(sums, torch.ones(20, dtype=torch.int64))
    fan = BatchFan(gradients, (1, 4, 16))
    assert fan.picture.title.startswith("A batch of 16 examples points")
    fan.size.value = 4
    mean = sum(gradients.angles(4)) / 40
    assert fan.picture.title == f"A batch of 4 examples points {mean:.0f}° off"
    assert repr(fan) == "BatchFan: 20 examples · batch_size 1, 4, 16"
