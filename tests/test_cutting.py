import dataclasses

import pytest
import torch
from peft import PeftModel

from lora_lab.lessons.cutting import cut, factors, mean_energy_kept, spectra
from lora_lab.models.learned import save_adapter
from lora_lab.training.fit import fit
from tiny import letters_task, recipe, tiny_base

R = 4


@pytest.fixture(scope="module")
def run():
    lora = recipe(r=R, lora_alpha=8, target_modules="all-linear", steps=6, learning_rate=1e-2)
    return fit(tiny_base(), letters_task(), lora, store=None, evaluate=False)


@pytest.fixture(scope="module")
def pefts_changes(run, tmp_path_factory):
    """ΔW of every adapted module, as PEFT gives it."""
    folder = save_adapter(run, tmp_path_factory.mktemp("adapter") / "new")
    model = PeftModel.from_pretrained(tiny_base().model, folder)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default")
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def test_the_spectra_are_those_of_pefts_changes(run, pefts_changes):
    found = spectra(run)
    assert {*found} == {*pefts_changes}
    for name, change in pefts_changes.items():
        values = torch.linalg.svdvals(change.detach().double())[:R]
        torch.testing.assert_close(found[name], values, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3, R])
def test_a_cut_adapter_is_the_base_plus_torchs_best_changes_of_that_rank(run, pefts_changes, k):
    model = tiny_base().model
    for name, change in pefts_changes.items():
        left, values, right = torch.linalg.svd(change.detach().double(), full_matrices=False)
        best = left[:, :k] * values[:k] @ right[:k]
        model.get_submodule(name).weight.data += best.float()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        wanted, found = model(ids).logits, cut(run, k).model(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_run_itself_stays_whole(run):
    before = {name: tensor.clone() for name, tensor in run.learned.tensors.items()}
    cut(run, 1)
    assert all(torch.equal(run.learned.tensors[name], tensor) for name, tensor in before.items())


def test_the_mean_energy_is_that_of_the_squared_values_by_hand():
    values = {"a": torch.tensor([2.0, 1.0]), "b": torch.tensor([1.0, 1.0])}
    assert mean_energy_kept(values) == pytest.approx([(4 / 5 + 1 / 2) / 2, 1.0])


def test_a_rank_that_is_not_there_is_refused(run):
    with pytest.raises(ValueError, match="k=5 isn't a rank to cut to"):
        cut(run, R + 1)


def test_a_full_fine_tune_has_no_factors(run):
    full = dataclasses.replace(run, recipe=recipe(method="full"))
    with pytest.raises(ValueError, match="method='full' trains no A and B; give a run of LoRA"):
        factors(full)
