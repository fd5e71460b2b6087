"""Headless: a surface is trained in the background, stopped, gone on with, and looked into."""

import dataclasses
import threading

import pytest

import lora_lab as lab
from lora_lab import plots
from lora_lab.tasks.examples import Example
from lora_lab.training.loop import Training
from lora_lab.widgets import sweep_following
from lora_lab.widgets.surface_lab import CURVES, SurfaceLab
from tiny import letters_task, recipe, tiny_base

LIMIT = 120  # seconds that `wait` may take on a busy machine
LETTERS = letters_task()
TASK = dataclasses.replace(  # scored in no time
    LETTERS,
    recipe=recipe(steps=4),
    validation=LETTERS.validation[:3],
    test=LETTERS.test[:3],
)
VALUES = {"xs": (1, 3), "ys": (3e-3, 3e-2), "seeds": 2}


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def surface_lab(base):
    """Four settings with two seeds of four steps each, one run after the other."""
    return SurfaceLab(base, TASK, engine="sequential", store=None, **VALUES)


@pytest.fixture
def at_step(monkeypatch):
    """A way to have something done when so many steps are trained, over all runs."""

    def arrange(step, do):
        loop, count = Training.__iter__, iter(range(1, 1000))

        def watched(training):
            for record in loop(training):
                if next(count) == step:
                    do()
                yield record

        monkeypatch.setattr(Training, "__iter__", watched)

    return arrange


def trained(lab_):
    lab_.train_button.click()
    lab_.wait(LIMIT)
    return lab_


def curves_of(runs):
    """The records without what differs in the way they were validated."""
    return [[record.loss for record in run.records] for run in runs]


def test_a_field_may_follow_the_columns_as_steps_follow_the_batch(base):
    tied = SurfaceLab(
        base, TASK, "batch_size", "learning_rate", xs=(2, 4), ys=(3e-3, 3e-2), seeds=1,
        engine="sequential", store=None, steps=lambda batch_size: 8 // batch_size,
    )  # fmt: skip
    tied.train()
    ran = {(run.recipe.batch_size, run.recipe.steps) for run in tied.sweep.runs}
    assert ran == {(2, 4), (4, 2)}
    assert {run.recipe.eval_steps for run in tied.sweep.runs} == {4, 2}
    tied.show_cell(4, 3e-3)
    assert "in 2 steps" in tied.curves.alt


def test_a_click_on_train_fits_every_setting_with_every_seed_as_a_sweep_does(surface_lab, base):
    trained(surface_lab)
    settings = [
        dataclasses.replace(TASK.recipe, r=r, learning_rate=rate, eval_steps=4)
        for rate in (3e-2, 3e-3)
        for r in (1, 3)
    ]
    fitted = lab.sweep(base, TASK, settings, seeds=(0, 1), engine="sequential", store=None)
    assert [run.recipe for run in surface_lab.sweep.runs] == [run.recipe for run in fitted.runs]
    assert [run.records for run in surface_lab.sweep.runs] == [run.records for run in fitted.runs]
    assert [run.scores for run in surface_lab.sweep.runs] == [run.scores for run in fitted.runs]
    validated = [run.records[-1].validation_loss for run in fitted.runs[:2]]
    assert [*surface_lab.surface.cells[1, 3e-2].scores.values()] == validated
    assert surface_lab.state.value.startswith("finished: 8 runs in ")
    assert (surface_lab.progress.value, surface_lab.progress.max) == (32, 32)
    assert (surface_lab.train_button.disabled, surface_lab.stop_button.disabled) == (False, True)


def test_the_first_seed_of_all_settings_is_trained_first_and_the_state_line_counts(surface_lab):
    begun, train = [], Training.__init__
    said = []
    surface_lab.state.observe(lambda change: said.append(change["new"]), names="value")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Training,
            "__init__",
            lambda self, *given: (begun.append(given[2]), train(self, *given))[1],
        )
        trained(surface_lab)
    assert [run.seed for run in begun[1:]] == [0] * 4 + [1] * 4  # the first is only looked at
    lines = [line for line in said if line.startswith("run ")]
    assert lines[0].startswith("run 1 of 8 · step 1 of 4 · ")
    assert lines[0].endswith(" left")
    assert any(line.startswith("run 8 of 8 · ") for line in lines)


def test_what_is_shown_is_the_surface_and_the_curves_of_the_chosen_cell(surface_lab):
    trained(surface_lab)
    shown = plots.picture(plots.draw_surface, surface_lab.surface, size=surface_lab._size)
    assert surface_lab.grid.view.value == shown.png == surface_lab.picture.png
    assert surface_lab.grid.view.tooltip == shown.alt
    surface_lab.grid.cells[3, 3e-3].click()
    seeds = [run.records for run in surface_lab.sweep.runs if run.recipe.r == 3][2:]
    drawn = plots.picture(plots.draw_loss, seeds[-1], (), 4, seeds, size=CURVES)
    assert surface_lab.loss_picture.value == drawn.png
    assert surface_lab.cell_label.value.startswith("r 3, learning_rate 0.003: ")
    surface_lab.show_cell(1, 3e-3)
    assert surface_lab.grid.chosen == (1, 3e-3)
    assert surface_lab.cell_label.value.startswith("r 1, learning_rate 0.003: ")
    with pytest.raises(ValueError, match="no cell r 2, learning_rate 0.003; r is one of 1, 3"):
        surface_lab.show_cell(2, 3e-3)


def test_the_curves_of_the_chosen_cell_grow_while_it_trains(surface_lab, at_step):
    seen = []
    at_step(3, lambda: seen.append(surface_lab.curves.alt))
    trained(surface_lab)
    assert "nats per token in 2 steps" in seen[0]
    assert "2 seeds end between" in surface_lab.curves.alt


def test_stop_ends_after_the_step_keeps_what_is_finished_and_train_goes_on(
    surface_lab, at_step, base
):
    at_step(10, surface_lab.stop_button.click)
    trained(surface_lab)
    assert surface_lab.state.value == "stopped: 2 of 8 runs finished; Train goes on"
    kept = surface_lab.sweep.runs
    assert [run.recipe.r for run in kept] == [1, 3]
    assert surface_lab.surface.cells[1, 3e-3].done == pytest.approx(0.25)  # 2 of 8 steps
    assert not surface_lab.surface.is_whole
    trained(surface_lab)
    assert surface_lab.surface.is_whole
    assert {*kept} <= {*surface_lab.sweep.runs}  # the same objects: not trained again
    whole = SurfaceLab(base, TASK, engine="sequential", store=None, **VALUES)
    assert curves_of(trained(whole).sweep.runs) == curves_of(surface_lab.sweep.runs)


def test_stored_runs_are_replayed_and_said_to_be_from_before(base):
    trained(SurfaceLab(base, TASK, engine="sequential", **VALUES))
    again = trained(SurfaceLab(base, TASK, engine="sequential", **VALUES))
    assert again.state.value.endswith(", 8 of them from before")
    assert all(run.replayed for run in again.sweep.runs)


def test_runs_side_by_side_are_followed_as_well(base):
    trained(lab_ := SurfaceLab(base, TASK, engine="processes", store=None, **VALUES))
    assert lab_.surface.is_whole
    assert lab_.state.value.startswith("finished: 8 runs in ")


def test_other_values_make_other_cells_and_finished_runs_are_kept(surface_lab):
    trained(surface_lab)
    finished = surface_lab.sweep.runs
    surface_lab.x_values.value = "3, 2; 1"
    assert [place for place in surface_lab.grid.cells][:3] == [(1, 0.03), (2, 0.03), (3, 0.03)]
    assert "6 settings × 2 seeds = 12 runs" in surface_lab.counts.value
    assert {*surface_lab.sweep.runs} == {*finished}
    assert surface_lab.surface.cells[2, 0.03].scores == {}
    surface_lab.seeds.value = 1
    assert surface_lab.surface.is_whole is False
    assert len(surface_lab.sweep.runs) == 4


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("1, x", "a list of whole numbers; give for example 1, 2, 4, 8"),
        ("1.5, 2", "a list of whole numbers"),
        ("4", "1 value make no axis; give 2 to 10"),
        ("0, 4", "r=0 leaves nothing to train"),
    ],
)
def test_values_that_cannot_be_are_told_and_the_last_cells_stay(surface_lab, typed, said):
    before = surface_lab.grid
    surface_lab.x_values.value = typed
    assert said in surface_lab.state.value
    assert surface_lab.train_button.disabled
    assert surface_lab.grid is before
    surface_lab.x_values.value = "1, 3"
    assert surface_lab.state.value == "ready: press Train"
    assert not surface_lab.train_button.disabled


def test_the_score_that_is_chosen_is_shown_and_has_its_own_ridge(surface_lab):
    trained(surface_lab)
    assert [name for name, _ in surface_lab.score.options] == [
        "validation loss", "exact match on the test", "loss on the test",
    ]  # fmt: skip
    surface_lab.score.value = "loss"
    runs = {(run.recipe.r, run.recipe.learning_rate): [] for run in surface_lab.sweep.runs}
    for run in surface_lab.sweep.runs:
        runs[run.recipe.r, run.recipe.learning_rate].append(run.scores.loss)
    best = min((3e-3, 3e-2), key=lambda rate: sum(runs[3, rate]))
    assert surface_lab.surface.ridge[3] == best
    assert surface_lab.grid.view.tooltip.startswith("loss on the test, nats per token")


def test_each_cell_has_a_name_that_says_how_it_stands(surface_lab):
    names = {place: cell.description for place, cell in surface_lab.grid.cells.items()}
    assert names[1, 3e-2] == "r 1, learning_rate 0.03: not trained yet"
    trained(surface_lab)
    words = plots.cell_in_words(surface_lab.surface, (1, 3e-2))
    assert surface_lab.grid.cells[1, 3e-2].description == words
    assert "(2 seeds)" in words


def test_the_buttons_lie_over_the_cells_of_the_picture(surface_lab):
    buttons = surface_lab.grid.children[1]
    (width, height), (left, _, bottom, top) = surface_lab._size, plots.draw_surface.margins
    assert buttons.layout.left == f"{100 * left / width:.3f}%"
    assert buttons.layout.height == f"{100 * (height - bottom - top) / height:.3f}%"
    assert buttons.layout.grid_template_columns == "repeat(2, 1fr)"
    assert [*surface_lab.grid.cells] == [(1, 3e-2), (3, 3e-2), (1, 3e-3), (3, 3e-3)]  # from the top


def test_an_error_is_shown_escaped_raised_by_wait_and_no_thread_is_left(surface_lab, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("<b>no</b> model")
        yield

    before = threading.active_count()
    monkeypatch.setattr(sweep_following, "follow_sweep", broken)
    surface_lab.start()
    with pytest.raises(RuntimeError, match="<b>no</b> model"):
        surface_lab.wait(LIMIT)
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt; model" in surface_lab.state.value
    assert (surface_lab.train_button.disabled, surface_lab.progress.bar_style) == (False, "danger")
    assert threading.active_count() == before
    monkeypatch.undo()
    assert trained(surface_lab).surface.is_whole


def test_a_diverged_run_keeps_its_place(base):
    diverging = {**VALUES, "ys": (3e-3, 1e30), "seeds": 1}
    lab_ = trained(SurfaceLab(base, TASK, engine="sequential", store=None, **diverging))
    assert lab_.surface.cells[1, 1e30].diverged == 1
    assert lab_.surface.is_whole
    assert "1 of 1 seed diverged" in lab_.grid.cells[1, 1e30].description


def test_closing_it_ends_the_training_after_its_step_and_leaves_no_thread(surface_lab, at_step):
    before = threading.active_count()
    at_step(2, surface_lab.close)
    surface_lab.start()
    surface_lab.wait(LIMIT)
    assert threading.active_count() == before
    assert surface_lab.surface.cells[1, 3e-2].done == pytest.approx(0.25)


def test_values_stay_as_they_are_while_it_trains(surface_lab, at_step):
    seen = []
    at_step(1, lambda: seen.append([c.disabled for c in (surface_lab.x_values, surface_lab.seeds)]))
    trained(surface_lab)
    assert seen == [[True, True]]
    assert not surface_lab.x_values.disabled


def test_a_warning_of_the_training_is_shown_in_the_widget(base, recwarn):
    long = dataclasses.replace(TASK, train=[*TASK.train, Example("x" * 400, "y")])
    lab_ = trained(SurfaceLab(base, long, engine="sequential", store=None, **VALUES))
    assert "1 of 25 training examples are left out" in lab_.panel.warnings.value
    assert not [warning for warning in recwarn if "left out" in str(warning.message)]


def test_without_a_finished_run_there_is_no_sweep(surface_lab):
    with pytest.raises(RuntimeError, match="no run is finished yet; press Train"):
        surface_lab.sweep  # noqa: B018


def test_in_a_notebook_its_words_are_always_the_same(surface_lab):
    words = "SurfaceLab: tiny · letters · r 1, 3 × learning_rate 0.003, 0.03"
    assert surface_lab._repr_mimebundle_()["text/plain"] == words
    assert trained(surface_lab)._repr_mimebundle_()["text/plain"] == words


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": "rank"}, "'rank' isn't a number of a recipe"),
        ({"x": "learning_rat"}, "did you mean 'learning_rate'"),
        ({"x": "learning_rate"}, "x and y are both 'learning_rate'"),
        ({"x": "seed"}, "'seed' isn't a number"),
        ({"score": "old_knowledge"}, "'old_knowledge' is not measured on this task; .*give 'val"),
        ({"xs": (4,)}, "r: 1 value make no axis"),
    ],
)
def test_what_makes_no_surface_is_refused(base, changes, said):
    with pytest.raises(ValueError, match=said):
        SurfaceLab(base, TASK, **VALUES | changes)


def test_train_waits_for_the_whole_surface_and_gives_it(surface_lab):
    surface = surface_lab.train()
    assert surface.is_whole
    assert surface.ridge == surface_lab.surface.ridge


def test_train_says_that_it_was_stopped(surface_lab, at_step):
    at_step(5, surface_lab.stop)
    with pytest.raises(RuntimeError, match="stopped before its end"):
        surface_lab.train()


def test_the_ridges_table_has_what_the_test_says_at_each_best_setting(surface_lab):
    surface = surface_lab.train()
    table = surface_lab.ridge_table()
    assert [*table.index] == ["1", "3"]
    assert [*table["best learning_rate"]] == [f"{surface.ridge[r]:g}" for r in (1, 3)]
    runs = [
        run
        for run in surface_lab.sweep.runs
        if (run.recipe.r, run.recipe.learning_rate) == (3, surface.ridge[3])
    ]
    mean = sum(run.scores.value for run in runs) / len(runs)
    assert table.loc["3", "new facts right"] == f"{100 * mean:.0f} %"
    assert "old facts kept" not in table  # this task asks none
