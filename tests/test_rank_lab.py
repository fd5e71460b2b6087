"""Headless: several ranks are trained in one batch, stopped, and trained again."""

import dataclasses

import pytest

import lora_lab as lab
from lora_lab import plots
from lora_lab.tasks.planted import planted_task
from lora_lab.widgets.rank_lab import RankLab
from tiny import letters_task, recipe, tiny_base

LIMIT = 120  # seconds that `wait` may take on a busy machine
LETTERS = letters_task()
TASK = dataclasses.replace(LETTERS, recipe=recipe(steps=4), test=LETTERS.test[:3])


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def rank_lab(base):
    return RankLab(base, TASK, (1, 4), seeds=2)


@pytest.fixture(scope="module")
def planted(base):
    """A result whose metric is an error: two ranks, one seed."""
    task = planted_task(base, r=2, target_modules="q_proj", n=8)
    return RankLab(base, task, (1, 2), steps=2, batch_size=2).train()


def test_its_runs_are_those_of_a_sweep_one_after_the_other(base, rank_lab):
    result = rank_lab.train()
    recipes = [dataclasses.replace(TASK.recipe, r=r) for r in (1, 4)]
    alone = lab.sweep(base, TASK, recipes, seeds=(0, 1), engine="sequential", store=None)
    assert [run.recipe for run in result.sweep.runs] == [run.recipe for run in alone.runs]
    for ours, theirs in zip(result.sweep.runs, alone.runs, strict=True):
        losses = [record.loss for record in theirs.records]
        assert [record.loss for record in ours.records] == pytest.approx(losses, rel=1e-4)
    assert result.scores == {
        r: [run.scores.value for run in alone.runs if run.recipe.r == r] for r in (1, 4)
    }


def test_the_table_has_a_column_for_each_rank_with_its_numbers_and_the_seeds_range(rank_lab):
    table = rank_lab.train().table()
    assert [*table.columns] == [1, 4]
    trained = [lab.estimate(rank_lab.base, recipe(r=r)).trainable_parameters for r in (1, 4)]
    assert [*table.loc["numbers trained"]] == [f"{count:,}" for count in trained]
    assert all(share.endswith(" %") for share in table.iloc[1])
    assert all(" to " in spread for spread in table.loc["2 seeds"])


def test_what_has_just_been_trained_is_not_trained_again_by_code_but_by_a_click(rank_lab):
    first = rank_lab.train()
    assert rank_lab.train().sweep.runs[0] is first.sweep.runs[0]
    rank_lab.train_button.click()
    rank_lab.wait(LIMIT)
    assert rank_lab.result.sweep.runs[0] is not first.sweep.runs[0]


def test_the_curves_and_the_state_line_end_where_the_training_does(rank_lab):
    assert rank_lab.picture.alt.endswith("no step yet.")
    result = rank_lab.train()
    last = [run.records[-1].loss for run in result.runs[4]]
    assert f"rank 4 {sum(last) / 2:.2g}" in rank_lab.picture.alt
    assert rank_lab.loss_picture.value == rank_lab.picture.png
    assert rank_lab.state.value.startswith("finished: 4 runs in ")
    assert rank_lab.progress.value == rank_lab.progress.max == 4 * 4
    assert not rank_lab.train_button.disabled
    early = [run.records[1].loss for run in result.runs[4]]
    assert f"rank 4 {sum(early) / 2:.2g}" in result.early(2).alt


def test_a_stopped_training_has_no_result_and_says_what_to_do(base, monkeypatch):
    stopped = RankLab(base, TASK, (1, 4), steps=1000)
    show, shown = stopped._show, []

    def stop_once():
        if not shown:
            stopped.stop()
        shown.append(1)
        show()

    monkeypatch.setattr(stopped, "_show", stop_once)
    with pytest.raises(RuntimeError, match="not all ranks are trained; press Train all"):
        stopped.train()
    assert stopped.state.value.startswith("stopped: 0 of 2 runs finished")


def test_alpha_may_be_one_number_for_all_or_a_function_of_the_rank(base):
    for alpha, found in ((3, [3, 3]), (lambda r: 2 * r, [2, 8]), (None, [4, 4])):
        task = dataclasses.replace(TASK, recipe=recipe(steps=1, lora_alpha=4))
        result = RankLab(base, task, (1, 4), lora_alpha=alpha, score=False).train()
        assert [run.recipe.lora_alpha for run in result.sweep.runs] == found
        assert result.sweep.runs[0].scores is None


@pytest.mark.parametrize("ranks", [(), (4,), (1, 4, 4)])
def test_ranks_that_make_no_comparison_are_refused(base, ranks):
    with pytest.raises(ValueError, match="can't be compared; give two or more, each once"):
        RankLab(base, TASK, ranks)


def test_the_steepest_fall_is_from_the_base_or_a_rank_to_the_next(planted):
    left = [planted.start, *(values[0] for values in planted.scores.values())]
    falls = {1: left[0] / left[1], 2: left[1] / left[2]}
    r, factor = planted.steepest
    assert falls[r] == max(falls.values()) == factor
    made = dataclasses.replace(planted, start=100 * left[1])
    assert made.steepest == (1, pytest.approx(100))


def test_the_cliff_draws_each_ranks_error_and_the_base(planted):
    drawn = plots.picture(plots.draw_cliff, planted.scores, planted.start)
    assert planted.cliff().alt == drawn.alt
    assert "KL" in planted.table().index


def test_a_notebook_keeps_the_same_words_at_each_run(rank_lab):
    words = rank_lab._repr_mimebundle_()["text/plain"]
    assert words == "RankLab: tiny · letters · r 1, 4"
