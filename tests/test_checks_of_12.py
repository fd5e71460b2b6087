"""Notebook 12's exercise that trains: LoRA whose steps are those of full fine-tuning."""

import torch

from lora_lab.checks.full_or_lora import lora_as_full


def test_the_other_side_may_be_the_identity_as_well():
    def on_the_left(weight):
        outs, ins = weight.shape
        return torch.zeros(outs, ins), torch.eye(outs), outs, ("lora_A",)

    for case in lora_as_full.cases():
        assert lora_as_full.outcome(on_the_left, case).like(
            lora_as_full.outcome(lora_as_full.reference, case)
        )


def test_the_trial_trains_pocket_in_full_and_tells_both_ends():
    verdict = lora_as_full.trial(lora_as_full.reference)
    assert verdict.passed
    yours, full, usual = (
        float(word.strip(",."))
        for word in verdict.message.split()
        if word[0].isdecimal() and "." in word
    )
    assert abs(yours - full) <= 0.01 * full + 0.001
    assert abs(usual - full) > 0.05 * full, "a usual LoRA of as high a rank is another training"


def test_the_trial_refuses_what_trains_otherwise():
    def turned(weight):
        outs, ins = weight.shape
        generator = torch.Generator().manual_seed(0)
        A = torch.linalg.qr(torch.randn(ins, ins, generator=generator)).Q
        return A, torch.zeros(outs, ins), ins, "lora_B"

    verdict = lora_as_full.trial(turned)
    assert not verdict.passed
    assert "away from full fine-tuning's" in verdict.message


def test_an_answer_of_another_form_is_refused_in_words():
    cases = [
        (lambda weight: torch.eye(3), "give four things"),
        (lambda weight: (weight, weight, 1, "lora_C"), "give 'lora_A', 'lora_B', or both"),
        (lambda weight: (weight.T, weight, 1, "lora_B"), "with one r"),
        (lambda weight: (1, weight, 1, "lora_B"), "lora_A isn't a matrix"),
        (lambda weight: None, "nothing to check"),
    ]
    for function, words in cases:
        verdict = lora_as_full(function)
        assert not verdict.passed
        assert words in verdict.message
