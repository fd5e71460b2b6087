"""Notebook 07's exercise that trains: PEFT reads the learner's regex, and pocket is trained."""

import re

from lora_lab.checks.target_modules import reach_regex


def test_the_trial_counts_what_peft_adapted_and_trains_it():
    right = reach_regex.trial(reach_regex.reference)
    assert right.passed
    assert "6 matrices of pocket" in right.message
    assert "24,576 numbers" in right.message  # r 8 on 2 × (128 + 384) and 1 × (384 + 128), 2 layers
    mlp, attention = map(int, re.findall(r"learned (\d+) %", right.message))
    assert mlp > attention + 20


def test_the_trial_refuses_a_regex_that_reaches_another_number_of_layers():
    wrong = reach_regex.trial(lambda modules, layers: reach_regex.reference(modules, layers[:1]))
    assert not wrong.passed
    assert "it reaches 3 matrices where 6 are wanted" in wrong.message
