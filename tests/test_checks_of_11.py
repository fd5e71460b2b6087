"""Notebook 11's exercises: against pocket read alone, against NumPy, and by training."""

import numpy
import pytest
import torch

import lora_lab as lab
from lora_lab.checks.way_in import max_length_for, packed_mask


def test_with_the_mask_a_packed_example_is_read_as_if_it_stood_alone():
    model = lab.load_base("pocket", device="cpu", dtype="float32").model
    rows = [torch.tensor([[5, 9, 17, 4]]), torch.tensor([[30, 8, 77, 12, 3]])]
    lengths = [row.shape[1] for row in rows]
    packed = torch.cat(rows, dim=1)
    places = torch.cat([torch.arange(long) for long in lengths])[None]
    mask = packed_mask.reference(lengths)[None, None]
    with torch.no_grad():
        alone = [model(row).logits[0] for row in rows]
        together = model(packed, attention_mask=mask, position_ids=places).logits[0]
        leaked = model(packed).logits[0]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert (leaked[lengths[0] :] - alone[1]).abs().max() > 0.1


def test_the_mask_of_two_examples_by_hand():
    expected = [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert packed_mask.reference([1, 2]).int().tolist() == expected


def test_the_trial_trains_with_the_right_mask_as_padded_rows_do_and_refuses_one_that_leaks_later():
    right = packed_mask.trial(packed_mask.reference)
    assert right.passed
    assert "each step has the loss of padded rows" in right.message
    leaks = packed_mask.trial(lambda lengths: torch.ones(sum(lengths), sum(lengths)).tril().bool())
    assert not leaks.passed
    assert "nats away from padded rows" in leaks.message


@pytest.mark.parametrize("case", list(max_length_for.cases()))
def test_the_max_length_is_numpys_quantile_from_above_and_no_shorter_one_will_do(case):
    found, lengths = max_length_for.reference(**case), numpy.array(case["lengths"])
    assert found == numpy.quantile(lengths, case["share"], method="inverted_cdf")
    assert (lengths <= found).mean() >= case["share"] > (lengths < found).mean()
