"""Full fine-tuning's change against NumPy's own SVD, and the scores of its cuts."""

import dataclasses

import numpy as np
import pytest

from lora_lab import plots
from lora_lab.lessons import thin_change
from lora_lab.lessons.thin_change import ThinLab
from lora_lab.training.evaluation import evaluate
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def thin():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thin_change, "RECIPE", recipe(steps=6))
        full = recipe(method="full", learning_rate=1e-2, steps=30)
        lab = ThinLab(tiny_base(), TASK, ranks=(1, 3), seeds=SEEDS, full=full)
        assert len(lab.thin.runs) == 4
        return lab


def change(thin, seed, name):
    run = thin.full.runs[seed]
    after, before = (model.get_parameter(name) for model in (run.model, thin.base.model))
    return (after - before).detach().double().numpy()


def test_the_changes_are_those_of_every_matrix_inside_the_layers(thin):
    for seed in SEEDS:
        assert len(thin.changes[seed]) == 14  # two layers of seven
        for name, found in thin.changes[seed].items():
            np.testing.assert_allclose(found, change(thin, seed, name), atol=1e-7)


def test_energies_and_effective_ranks_are_those_of_numpys_singular_values(thin):
    name = [*thin.changes[1]][3]
    values = np.linalg.svd(change(thin, 1, name), compute_uv=False)
    energy = (values**2).cumsum() / (values**2).sum()
    np.testing.assert_allclose(thin.energy[1, 3], energy, rtol=1e-5)
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert thin.effective_ranks[14 + 3] == pytest.approx(expected, rel=1e-5)


def test_a_cut_keeps_the_strongest_directions_of_each_change(thin):
    model = thin._cut(thin.changes[0], 2).model
    for name in thin.changes[0]:
        left, values, right = np.linalg.svd(change(thin, 0, name), full_matrices=False)
        nearest = (left[:, :2] * values[:2]) @ right[:2]
        found = model.get_parameter(name) - thin.base.model.get_parameter(name)
        np.testing.assert_allclose(found.detach(), nearest, atol=1e-5)
    embeddings = "model.embed_tokens.weight"
    assert model.get_parameter(embeddings).equal(thin.base.model.get_parameter(embeddings))


def test_cut_to_its_whole_rank_a_change_scores_as_the_full_model_with_the_bases_embeddings(thin):
    expected = []
    for seed in SEEDS:
        model = thin.full.runs[seed].model
        with_old = dataclasses.replace(thin.base, model=thin._cut(thin.changes[seed], 32).model)
        for name in thin.changes[seed]:
            found = with_old.model.get_parameter(name)
            np.testing.assert_allclose(
                found.detach(), model.get_parameter(name).detach(), atol=1e-5
            )
        expected.append(evaluate(with_old, TASK).value)
    assert thin.cut(32) == expected


def test_the_tables_and_pictures_have_each_rank_with_its_range(thin):
    table = thin.table()
    assert [*table.index] == ["1", "3", "32"]
    scores = thin.trained(3)
    low, high = 100 * min(scores), 100 * max(scores)
    assert table.loc["3", "LoRA trained at it"].endswith(f"({low:.0f} to {high:.0f})")
    assert table.loc["32", "of ΔW's energy"] == "100 %"
    assert table.loc["32", "LoRA trained at it"] == "–"
    assert [*thin.old_table().index] == ["LoRA, r = 1", "LoRA, r = 3", "full"]
    energies = plots.picture(plots.draw_energy_kept, *thin.energies)
    assert "of 14 matrices: rank 1" in energies.alt
    scores = plots.picture(plots.draw_thin, *thin.scores)
    assert "as a mean of 2 seeds: cut to rank k" in scores.alt
