import dataclasses
import math

import pytest

from lora_lab.records import Budget
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from lora_lab.training.store import Run, read_run
from lora_lab.training.sweep import Sweep, sweep
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


@pytest.mark.parametrize("engine", ["sequential", "processes", "packed"])
def test_a_sweep_scored_on_validation_leaves_the_test_alone(base, tmp_path, engine):
    made = sweep(base, TASK, TWO, engine=engine, store=tmp_path, evaluate="validation")
    for run in made.runs:
        expected = evaluate(run, TASK, split="validation")
        assert (run.scores.split, run.scores.value) == ("validation", expected.value)
        assert run.scores.loss == pytest.approx(expected.loss)
        assert not (run.path / "scores.json").exists()
        assert read_run(run.path).scores == run.scores


def test_both_scores_of_a_run_are_kept_and_neither_is_made_twice(base, tmp_path, monkeypatch):
    validated = sweep(base, TASK, TWO, store=tmp_path, evaluate="validation").runs
    tested = fit(base, TASK, TWO[0], store=tmp_path)
    assert tested.scores == evaluate(tested, TASK)
    assert (tested.path, tested.replayed) == (validated[0].path, True)
    monkeypatch.setattr("lora_lab.training.fit.score", None)  # nothing is left to score
    again = sweep(base, TASK, TWO, store=tmp_path, evaluate="validation").runs
    assert [run.scores for run in again] == [run.scores for run in validated]
    assert fit(base, TASK, TWO[0], store=tmp_path).scores == tested.scores
    assert [read_run(run.path).scores.split for run in again] == ["test", "validation"]


def test_a_run_trained_afresh_keeps_no_score_of_the_old_one(base, tmp_path):
    run = fit(base, TASK, TWO[0], store=tmp_path, evaluate="validation")
    (run.path / "run.json").unlink()  # as if it were damaged, and put aside
    again = fit(base, TASK, TWO[0], store=tmp_path, evaluate=False)
    assert again.path == run.path
    assert again.scores is None


def test_without_a_store_a_run_is_scored_on_validation_too(base):
    run = fit(base, TASK, TWO[0], store=None, evaluate="validation")
    assert run.scores == evaluate(run, TASK, split="validation")


@pytest.mark.parametrize("split", ["train", "valid", "", 1])
def test_another_split_is_no_split_to_score(base, split):
    with pytest.raises(ValueError, match=f"evaluate={split!r} names no split to score; give True"):
        sweep(base, TASK, TWO, store=None, evaluate=split)


def test_a_task_without_validation_is_refused_before_it_is_trained(base):
    without = dataclasses.replace(TASK, validation=[])
    for call in (fit, lambda *args, **more: sweep(args[0], args[1], [args[2]], **more)):
        with pytest.raises(ValueError, match="has no validation examples"):
            call(base, without, recipe(steps=10**6), store=None, evaluate="validation")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"engine": "proceses"}, ValueError, "did you mean 'processes'"),
        ({"seeds": ()}, ValueError, "2 recipes × 0 seeds make no run"),
        ({"recipes": []}, ValueError, "0 recipes × 1 seeds"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused(base, changes, error, words):
    with pytest.raises(error, match=words):
        sweep(base, TASK, **{"recipes": TWO, "store": None} | changes)


def test_a_packed_sweep_trains_apart_what_cannot_be_packed_and_says_why(base, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")
    mixed = [recipe(r=1), recipe(r=2, use_dora=True), recipe(r=4)]
    with pytest.warns(UserWarning, match=r"1 of 3 runs can't be in a pack.*use_dora=True"):
        packed = sweep(base, TASK, mixed, engine="packed", store=None)
    alone = sweep(base, TASK, mixed, engine="sequential", store=None)
    for ours, theirs in zip(packed.runs, alone.runs, strict=True):
        assert ours.recipe == theirs.recipe
        losses = [[record.loss for record in run.records] for run in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert ours.scores.loss == pytest.approx(theirs.scores.loss, rel=1e-5)


def test_recipes_are_left_as_they_were(base):
    before = dataclasses.replace(TWO[0])
    sweep(base, TASK, TWO[:1], seeds=(3,), store=None, evaluate=False)
    assert TWO[0] == before


# --- what else differs ---


def made(*recipes, seeds=(0, 1, 2), task="letters", parameters=None):
    """A sweep's runs without their training: what else differs is known before it."""
    budget = parameters and (lambda recipe: Budget(parameters(recipe), 10**6, None, None))
    return Sweep(
        tuple(
            Run(
                recipe=dataclasses.replace(recipe, seed=seed),
                records=(),
                scores=None,
                base_name="tiny",
                task_name=task,
                path=None,
                budget=budget and budget(recipe),
            )
            for recipe in recipes
            for seed in seeds
        )
    )


def each(field, *values, rates=(1e-3, 3e-3), **changes):
    """One recipe for each value of a field and each learning rate."""
    return [
        recipe(**changes | {field: value, "learning_rate": rate})
        for value in values
        for rate in rates
    ]


def test_the_scaling_that_moves_with_the_rank_is_told_with_its_values():
    (said,) = made(*each("r", 1, 8, lora_alpha=16)).confounds()
    assert said.startswith("The scaling moves along (r=1: 16; r=8: 2)")


def test_alpha_that_moves_with_the_rank_is_told_since_neither_changes_alone():
    pairs = [run for r in (1, 8) for run in each("r", r, lora_alpha=2 * r)]
    (said,) = made(*pairs).confounds()
    assert said.startswith("r and lora_alpha never change alone (r=1, lora_alpha=2; r=8, lora")


def test_a_whole_grid_has_no_confound_and_one_field_at_a_time_has_none():
    grid = [run for r in (1, 8) for alpha in (8, 16) for run in each("r", r, lora_alpha=alpha)]
    assert made(*grid).confounds() == ()
    one_at_a_time = [run for run in grid if (run.r, run.lora_alpha) != (8, 16)]
    assert made(*one_at_a_time).confounds() == ()


def test_a_field_that_never_changes_alone_is_told_beside_one_that_does():
    half = [recipe(r=1, lora_alpha=8), recipe(r=8, lora_alpha=16), recipe(r=8, lora_alpha=32)]
    assert made(*half).confounds()[0].startswith("r never changes alone (r=1, lora_alpha=8; ")


def test_one_learning_rate_and_one_seed_are_told():
    only = made(recipe(r=1), recipe(r=8), seeds=(4,)).confounds()
    assert any(line.startswith("Only one learning rate was tried (0.003)") for line in only)
    assert any(line.startswith("Only one seed was tried (4)") for line in only)


def test_a_learning_rate_of_its_own_for_each_setting_is_told():
    full = recipe(method="full", learning_rate=4e-4)
    (said,) = made(recipe(), full).confounds()
    assert said.startswith(
        "Not all settings were tried with the same learning rates "
        "(method=lora: 0.003; method=full: 0.0004): a difference"
    )


def test_runs_picked_by_seed_are_told():
    picked = made(*each("r", 4, lora_alpha=8), seeds=(2,)).runs
    other = made(*each("r", 4, lora_alpha=8, warmup_steps=3), seeds=(0,)).runs
    (said,) = Sweep((*picked, *other)).confounds()
    assert "the same seeds (warmup_steps=0, 0.001: 2; " in said
    assert said.endswith("if they were picked by their scores, luck was picked.")


def test_in_a_sweep_of_the_learning_rate_alone_each_rate_is_a_setting():
    assert made(*each("r", 8)).confounds() == ()
    (said,) = made(*each("r", 8), seeds=(0,)).confounds()
    assert said.startswith("Only one seed")


def test_one_setting_is_compared_with_nothing():
    assert made(recipe(), seeds=(0,)).confounds() == ()


def test_more_examples_in_as_many_steps_are_told_and_more_steps_are_not():
    batches = each("batch_size", 4, 8, gradient_accumulation_steps=2)
    (said,) = made(*batches).confounds()
    assert said.startswith("The number of examples seen moves along (batch_size=4: 96; ")
    assert made(*each("steps", 12, 24)).confounds() == ()


def test_places_with_more_parameters_are_told():
    places = each("target_modules", ("q_proj", "v_proj"), "all-linear")
    assert made(*places).confounds() == ()  # no budget: not known
    (said,) = made(*places, parameters=lambda recipe: 1000 * len(recipe.target_modules)).confounds()
    assert "trained parameters moves along (target_modules=q_proj+v_proj: 2,000; " in said


def test_fields_without_a_say_are_no_difference():
    full = each("method", "full", r=64, lora_alpha=1)
    lora = [run for r in (1, 8) for run in each("use_rslora", False, r=r, lora_alpha=r)]
    said = made(*full, *lora).confounds()
    assert len(said) == 1  # r and lora_alpha, which method "full" has not
    assert said[0].startswith("r and lora_alpha never change alone")


def test_how_often_a_run_is_validated_is_no_difference():
    longer = [recipe(steps=steps, eval_steps=steps // 2, learning_rate=2e-3) for steps in (12, 24)]
    (said,) = made(*longer).confounds()
    assert said.startswith("Only one learning rate")
    watched = [recipe(eval_steps=None), recipe(eval_steps=4, gradient_checkpointing=True)]
    assert made(*watched, seeds=(0,)).confounds() == ()


def test_runs_of_two_tasks_are_told():
    (said,) = Sweep((*made(recipe()).runs, *made(recipe(), task="digits").runs)).confounds()
    assert said.startswith("Base or task differ")


def test_a_long_list_of_settings_is_cut_short():
    said = made(*each("r", 1, 2, 3, 4, 5)).confounds()[0]
    assert "r=4: 1.75; …)" in said
    assert "r=5" not in said


def test_the_scores_are_not_needed_to_know_and_a_real_sweep_tells_the_same(base):
    real = sweep(base, TASK, TWO, store=None, evaluate=False)
    assert real.confounds() == made(*TWO, seeds=(0,)).confounds()
