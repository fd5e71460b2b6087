import dataclasses
import math

import pytest

from lora_lab.fitting import fit
from lora_lab.sweeps import sweep
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
TWO = [recipe(r=1), recipe(r=2)]


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def test_a_sweep_is_each_recipe_with_each_seed_as_fit_gives_it(base):
    runs = sweep(base, TASK, TWO, seeds=(0, 5), store=None).runs
    assert [(run.recipe.r, run.recipe.seed) for run in runs] == [(1, 0), (1, 5), (2, 0), (2, 5)]
    alone = fit(base, TASK, recipe(r=2, seed=5), store=None)
    assert runs[3].records == alone.records
    assert runs[3].scores == alone.scores


def test_the_table_has_a_row_a_run_with_what_varies_and_the_scores(base):
    made = sweep(base, TASK, TWO, seeds=(0, 5), store=None)
    table = made.table()
    assert list(table.columns[:2]) == ["r", "seed"]
    assert table["r"].tolist() == [1, 1, 2, 2]
    assert table["value"].tolist() == [run.scores.value for run in made.runs]
    assert table["last_loss"].tolist() == [run.records[-1].loss for run in made.runs]
    assert table["old_knowledge"].isna().all()


def test_a_diverged_run_keeps_its_row(base):
    wild = [recipe(learning_rate=1e30), recipe()]
    table = sweep(base, TASK, wild, store=None).table()
    assert table["status"].tolist() == ["diverged", "finished"]
    assert math.isnan(table["value"][0])


def test_a_stopped_sweep_goes_on_with_the_runs_it_lacks(base, tmp_path):
    sweep(base, TASK, TWO[:1], store=tmp_path)
    made = sweep(base, TASK, TWO, store=tmp_path)
    assert [run.replayed for run in made.runs] == [True, False]
    again = sweep(base, TASK, TWO, store=tmp_path, fresh=True)
    assert [run.replayed for run in again.runs] == [False, False]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"engine": "proceses"}, ValueError, "did you mean 'processes'"),
        ({"engine": "ray"}, NotImplementedError, "does not exist yet; give 'auto'"),
        ({"seeds": ()}, ValueError, "2 recipes × 0 seeds are no run"),
        ({"recipes": []}, ValueError, "0 recipes × 1 seeds"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused(base, changes, error, words):
    with pytest.raises(error, match=words):
        sweep(base, TASK, **{"recipes": TWO, "store": None} | changes)


def test_recipes_are_left_as_they_were(base):
    before = dataclasses.replace(TWO[0])
    sweep(base, TASK, TWO[:1], seeds=(3,), store=None, evaluate=False)
    assert TWO[0] == before
