"""Headless: no browser, no sleeping; `wait` returns when the thread has done all it was asked."""

import _thread
import dataclasses
import threading

import pytest
import torch

import lora_lab as lab
from lora_lab import plots
from lora_lab.cost.estimates import more_memory
from lora_lab.machine import resources
from lora_lab.models.adapted import Adapted
from lora_lab.recipe import Recipe
from lora_lab.records import Answer, Scores
from lora_lab.tasks.examples import Example
from lora_lab.training.evaluation import answers_to, evaluate, generate
from lora_lab.training.loop import Diverged, Training, train
from lora_lab.widgets import following, markup, run_summary
from lora_lab.widgets.background import DROP_ALL, Background, Pace
from lora_lab.widgets.before_after import BeforeAfter, answers_table
from lora_lab.widgets.boxes import Folded
from lora_lab.widgets.following import TrainingPanel
from lora_lab.widgets.lab_results import KEPT
from lora_lab.widgets.live_lab import LiveLab
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.recipe_controls import FOLDED, RecipeControls, recipe_code
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
LIMIT = 120  # seconds that `wait` may take on a busy machine


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def live(base):
    """The lab on a task that takes 12 steps."""
    return LiveLab(base, TASK)


def fail(error):
    raise error


@pytest.fixture
def at_step(monkeypatch):
    """A way to have something done in the thread, when a step is over."""

    def arrange(step, do):
        class Watched(Training):
            def __iter__(self):
                for record in super().__iter__():
                    if record.step == step:
                        do()
                    yield record

        monkeypatch.setattr(following, "train", Watched)

    return arrange


def trained(live):
    live.train_button.click()
    live.wait(LIMIT)
    return live


# --- one run --------------------------------------------------------------------------------


def test_a_click_on_train_trains_as_lab_train_does(live, base):
    live.train_button.click()
    live.wait(LIMIT)
    assert live.records == list(train(base, TASK, live.recipe))
    assert live.recipe == dataclasses.replace(TASK.recipe, eval_steps=3)  # a quarter of the steps
    assert (live.progress.value, live.progress.max) == (12, 12)
    assert live.state.value.startswith("finished: 12 steps in ")
    title = f"{base.name} · {TASK.name}: {plots.loss_finding(live.records)}"
    drawn = plots.png(plots.draw_loss, live.records, (), 12, (), (), title)
    assert live.loss_picture.value == drawn  # it states what was found
    assert live.loss_picture.tooltip == live.picture.alt


def test_train_gives_the_result_as_tables_with_the_numbers_that_the_lab_shows(live, base):
    result = live.train()
    assert [record.loss for record in result.records] == [
        record.loss for record in train(base, TASK, result.recipe)
    ]
    assert list(result.answers().index) == live.prompts
    given = [row["after"].removesuffix(" ✓") for _, row in result.answers().iterrows()]
    right = [text.endswith(" ✓") for text in result.answers()["after"]]
    marked = answers_to(result.adapted, TASK, TASK.test[:3])
    assert given == live.after == [answer.given for answer in marked]
    assert right == [answer.right for answer in marked]
    assert result.scores == evaluate(result.adapted, live.part)
    table = result.table()
    name, (before, after) = table.index[0], table.values.tolist()[0]
    assert name == "new: exact match"
    assert before == f"{100 * result.base_scores.value:.0f} %"
    assert after == f"{100 * result.scores.value:.0f} %"
    assert name in repr(result)
    assert "<table" in result._repr_html_()


def test_train_sets_the_controls_that_it_is_given(base):
    live = LiveLab(base, TASK, in_sight=("loss_on",))
    result = live.train(loss_on="all", r=2)
    assert (result.recipe.loss_on, result.recipe.r) == ("all", 2)
    assert live.controls.controls["loss_on"].value == "all"
    with pytest.raises(ValueError, match="no control for 'warmup_steps' here, only for: loss_on, "):
        live.train(warmup_steps=3)


def test_a_result_stays_as_it_was_when_another_training_follows(live):
    first = live.train()
    live.controls.controls["r"].value = 2
    second = live.train()
    assert live.result.recipe == second.recipe != first.recipe
    assert first.scores == evaluate(first.adapted, live.part)


def test_a_result_answers_with_more_or_less_of_what_was_learned(live, base):
    result = live.train()
    table = result.at_strengths((0, 1, 2.5))
    stronger = live.training.adapted()
    stronger.strength = 2.5
    for name, model in (("strength 0", base), ("strength 2.5", stronger)):
        answers = answers_to(model, TASK, TASK.test[:3])
        assert [text.removesuffix(" ✓") for text in table[name][:3]] == [
            answer.given for answer in answers
        ]
        asked = answers_to(model, TASK, live.part.test)
        assert table[name].iloc[-1] == str(sum(answer.right for answer in asked))
    assert table.index[-1] == f"right, of {len(live.part.test)}"
    assert result.adapted.strength == 1


def test_the_same_prompts_are_answered_before_and_after(live, base):
    trained(live)
    assert live.prompts == [example.prompt for example in TASK.test[:3]]
    assert live.before == generate(base, live.prompts, max_new_tokens=5)
    assert live.after == generate(live.training, live.prompts, max_new_tokens=5)
    assert live.before != live.after
    assert all(given in live.answers.value for given in live.after)


def test_the_right_answers_are_counted_and_the_base_once_only(live, base):
    trained(live)
    assert live.scores == evaluate(live.training, TASK)
    assert live.base_scores == evaluate(base, TASK)
    right = sum(answer.right for answer in live.scores.answers)
    assert f"base 0 of 16 · adapted {right} of 16" in live.marks.value
    before = live.base_scores
    assert trained(live).base_scores is before


def test_the_cost_is_told_in_parameters_bytes_and_seconds(live):
    trained(live)
    # r 3 and all linears, (in, out): q (32, 32), k and v (32, 16), o (32, 32), two of the MLP
    # (32, 96), one (96, 32): 3 * (64 + 48 + 48 + 64 + 3 * 128) = 1,824 a layer, two layers
    assert "trained 3.6 K of 36.7 K parameters (9.9 %)" in live.cost.value
    assert "adapter 14.6 KB" in live.cost.value  # 3,648 numbers of 4 bytes
    assert "on this CPU" in live.cost.value


def test_the_parameters_of_a_4_bit_base_are_counted_as_if_none_were_packed():
    packed = lab.load_base("pocket", quantize="nf4")
    task = lab.load_task("new-facts", packed, n=10)
    training = train(packed, task, Recipe(r=8, batch_size=2, steps=1))
    assert "trained 81.9 K of 1.2 M parameters (7.0 %)" in run_summary.cost(training, 1.0)


def test_a_full_fine_tune_is_shown_like_any_other(base):
    live = trained(LiveLab(base, TASK, method="full", learning_rate=1e-3, steps=4))
    assert "(100 %) · model 132 KB" in live.cost.value  # 33,056 weights of 4 bytes
    live.strength.value = 0
    live.wait(LIMIT)
    assert live.after == live.before


def test_nothing_is_printed_and_the_base_stays_as_it_was(live, base, capsys):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    live.strength.value = trained(live).strength.value / 2
    live.wait(LIMIT)
    assert capsys.readouterr() == ("", "")
    torch.testing.assert_close(base.model.state_dict(), before, rtol=0, atol=0)


def test_what_is_shown_while_it_runs(live):
    states, pictures = [], []
    live.state.observe(lambda change: states.append(change["new"]), names="value")
    live.loss_picture.observe(lambda change: pictures.append(change["new"]), names="value")
    trained(live)
    shown = [line for line in states if line.startswith("step ")]
    assert shown[0] == "step 0 of 12"
    assert all(word in shown[1] for word in ("step 1 of 12", "loss ", " tokens/s", " s left"))
    assert len(pictures) >= 3  # empty, the first step, the end


def test_a_warning_of_the_training_is_shown_in_the_widget_not_printed(base, recwarn):
    long = dataclasses.replace(TASK, train=[*TASK.train, Example("x" * 400, "y")])
    live = trained(LiveLab(base, long))
    assert "1 of 25 training examples are left out" in live.about.value
    assert not [warning for warning in recwarn if "left out" in str(warning.message)]


def test_in_a_notebook_its_words_are_always_the_same(live):
    bundle = live._repr_mimebundle_()
    assert bundle["text/plain"] == "LiveLab: tiny · letters"
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_what_data_and_models_say_is_escaped(base):
    nasty = Example("<script>alert(1)</script>", "<b>")
    live = trained(LiveLab(base, dataclasses.replace(TASK, test=[nasty], about="<i>")))
    assert "<script" not in live.answers.value
    assert "&lt;script&gt;alert(1)" in live.answers.value
    assert "<code>&lt;b&gt;</code>" in live.answers.value  # the wanted answer
    assert "&lt;i&gt;" in live.about.value
    said = Answer(nasty.prompt, "", "<img onerror=alert(1)>", False)
    assert "<img" not in answers_table([(nasty.prompt, said, said)], strength=0.5)


# --- stopping, and what goes wrong ----------------------------------------------------------


def test_stop_ends_the_training_after_its_step_and_still_asks(live, at_step):
    at_step(3, live.stop_button.click)
    trained(live)
    assert live.training.step == 3
    assert live.state.value == "stopped after step 3 of 12"
    assert len(live.after) == 3
    assert live.scores is not None
    assert (live.train_button.disabled, live.stop_button.disabled) == (False, True)


def test_adalora_stopped_before_its_ranks_are_decided_answers_all_the_same(base, at_step):
    live = LiveLab(base, TASK, method="adalora")
    at_step(3, live.stop)
    trained(live)
    assert live.state.value == "stopped after step 3 of 12"
    assert len(live.after) == 3
    assert live.scores.loss == pytest.approx(evaluate(live.training, live.part).loss)


def test_what_was_trained_on_4_bits_answers_on_4_bits():
    live = LiveLab(tiny_base(hidden=64), TASK, quantize="nf4")
    trained(live)
    on_4_bits = evaluate(live.training, live.part).loss
    assert live.scores.loss == pytest.approx(on_4_bits, rel=1e-6)
    on_whole_weights = evaluate(Adapted(live.base, live.training.learned), live.part).loss
    assert on_4_bits != pytest.approx(on_whole_weights, rel=1e-4)


def test_stop_asked_twice_leaves_the_answers_out(live, at_step):
    at_step(3, lambda: (live.stop(), live.stop()))
    trained(live)
    assert (live.training.step, live.after, live.scores) == (3, [], None)


def test_after_a_stop_a_new_run_goes_to_its_end(live, at_step, monkeypatch):
    at_step(3, live.stop)
    trained(live)
    monkeypatch.setattr(following, "train", train)
    assert trained(live).training.step == 12


def test_an_interrupt_of_the_waiting_cell_ends_the_training_within_a_step(live, at_step):
    asked = threading.Event()
    live._work._end_jobs, end = lambda how: (end(how), asked.set()), live._work._end_jobs

    def interrupt():
        _thread.interrupt_main()
        assert asked.wait(LIMIT)  # this step lasts until the interrupt has come through

    at_step(3, interrupt)
    live.start()
    with pytest.raises(KeyboardInterrupt):
        live.wait(LIMIT)
    assert (live.training.step, live._work.stopped, live._work.busy) == (3, DROP_ALL, False)
    at_step(12, lambda: None)
    assert trained(live).training.step == 12  # it can be used as before


def test_an_error_in_the_thread_is_shown_escaped_and_raised_by_wait(live, monkeypatch):
    def broken(*_):
        raise RuntimeError("<b>no</b> model")

    monkeypatch.setattr(following, "train", broken)
    live.start()
    with pytest.raises(RuntimeError, match="<b>no</b> model"):
        live.wait(LIMIT)
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt; model" in live.state.value
    monkeypatch.setattr(following, "train", train)
    assert trained(live).training.step == 12


def test_a_loss_that_diverges_is_told_with_the_choice_to_blame(base):
    live = LiveLab(base, TASK, learning_rate=1e30)
    live.start()
    with pytest.raises(Diverged):
        live.wait(LIMIT)
    assert "failed after step" in live.state.value
    assert "learning_rate=1e+30" in live.state.value


def test_choices_that_cannot_work_are_told_and_leave_the_last_results(live):
    after = trained(live).after
    live.controls.controls["learning_rate"].value = 0
    assert "ValueError: learning_rate=0.0 is not a finite number above 0" in live.code_view.value
    live.start()
    with pytest.raises(ValueError, match="learning_rate=0.0"):
        live.wait(LIMIT)
    assert "failed after" not in live.state.value
    assert (live.training.step, live.after, live.strength.disabled) == (12, after, False)


def test_waiting_too_short_a_time_is_told(live, at_step):
    release = threading.Event()
    at_step(1, lambda: release.wait(LIMIT))
    live.start()
    with pytest.raises(TimeoutError, match="still at work after 0.1 s"):
        live.wait(0.1)
    release.set()
    live.wait(LIMIT)


def test_a_second_start_while_one_runs_leaves_the_run_alone(live, at_step):
    started = []
    at_step(1, lambda: (started.append(1), live.train_button.click(), live.start()))
    trained(live)
    assert started == [1]


def test_what_cannot_fit_is_refused_before_it_begins_with_what_would_fit(base, monkeypatch):
    needed = {size: more_memory(base, TASK, recipe(batch_size=size)) for size in (1, 64, 128)}
    monkeypatch.setattr(resources, "memory", lambda: (None, needed[128] - 1))
    live = LiveLab(base, TASK, batch_size=1024, steps=100_000)
    live.start()
    with pytest.raises(MemoryError, match=r"batch_size=1024 needs about .+ MiB .+=64 would fit"):
        live.wait(LIMIT)
    assert "MemoryError: a step with batch_size=1024" in live.state.value
    assert live.training is None
    monkeypatch.setattr(resources, "memory", lambda: (None, needed[1] - 1))
    with pytest.raises(MemoryError, match="no batch_size would fit"):
        check_room(base, TASK, recipe())
    monkeypatch.setattr(resources, "memory", lambda: (None, None))
    check_room(base, TASK, recipe(batch_size=1024))  # where nothing is known nothing is refused


def test_stop_says_at_once_what_it_does_and_what_a_second_click_does(live, at_step):
    said = []
    stop = live.stop_button.click
    at_step(
        3, lambda: (stop(), said.append(live.state.value), stop(), said.append(live.state.value))
    )
    trained(live)
    assert said[0] == "stopping after this step … (click again to leave the answers out)"
    assert said[1] == "stopping …"


def test_after_stop_nothing_more_is_told_of_the_step_under_way(base, monkeypatch):
    monkeypatch.setattr(following, "UPDATES", 1e9)  # a line after each step
    work, lines = Background(fail, lambda: None), []

    class StoppedInStep3(Training):
        def __iter__(self):
            for record in super().__iter__():
                if record.step == 3:
                    work.stopped = 1  # as a click on Stop does
                yield record

    training = StoppedInStep3(base, TASK, TASK.recipe)
    TrainingPanel("Train", work, lines.append).follow(training)
    assert [line[:6] for line in lines] == ["step 1", "step 2"]


def test_one_stop_after_the_training_leaves_out_what_is_still_to_come(live, monkeypatch):
    ask = BeforeAfter.ask
    monkeypatch.setattr(
        BeforeAfter, "ask", lambda self, *a: (self.adapted and live.stop(), ask(self, *a))[1]
    )
    trained(live)
    assert live.training.step == 12
    assert len(live.after) == 3
    assert live.scores is None


def test_a_choice_that_is_refused_is_not_blamed_on_the_run_before(base):
    live = LiveLab(base, TASK, learning_rate=1e30)
    live.start()
    with pytest.raises(Diverged):
        live.wait(LIMIT)
    assert "failed after step 1 of 12: " in live.state.value
    live.controls.controls["learning_rate"].value = -1
    live.start()
    with pytest.raises(ValueError, match="learning_rate=-1.0"):
        live.wait(LIMIT)
    assert "failed" not in live.state.value


def test_a_run_that_diverged_is_in_the_chart(base, at_step):
    live = LiveLab(base, TASK)
    at_step(5, lambda: fail(Diverged("too far")))
    live.start()
    with pytest.raises(Diverged):
        live.wait(LIMIT)
    assert len(live.records) == 5
    assert live.loss_picture.value == live.picture.png
    assert "in 5 steps" in live.loss_picture.tooltip


def test_start_leaves_alone_what_was_just_trained_and_train_does_it_again(live):
    first = trained(live).training
    live.start()
    live.wait(LIMIT)
    assert live.training is first
    assert "with these very choices; Train does it again" in live.state.value
    assert trained(live).training is not first
    live.controls.controls["r"].value = 2
    live.start()
    live.wait(LIMIT)
    assert live.training.recipe.r == 2


def test_who_asks_for_results_before_there_are_any_is_told_what_to_do(live, at_step):
    with pytest.raises(RuntimeError, match=r"no results yet \(the lab says: ready.*press Train"):
        live.wait_for_results(LIMIT)
    at_step(3, lambda: (live.stop(), live.stop()))
    live.start()
    with pytest.raises(RuntimeError, match="stopped after step 3 of 12"):
        live.wait_for_results(LIMIT)
    at_step(12, lambda: None)
    live.start()
    live.wait_for_results(LIMIT)
    assert len(live.prompts) == len(live.before) == len(live.after) == 3


# --- other seeds -----------------------------------------------------------------------------


def with_band(live):
    live.noise_button.click()
    live.wait(LIMIT)
    return live


def test_the_noise_band_is_what_lab_fit_gives_with_the_next_seeds(live, base):
    trained(live)
    expected = [
        lab.fit(base, TASK, dataclasses.replace(live.training.recipe, seed=seed), store=None)
        for seed in (0, 1, 2, 3)
    ]
    with_band(live)
    assert live.scores_by_seed == [run.scores for run in expected]
    runs = [run.records for run in expected]
    title = f"{base.name} · {TASK.name}: {plots.loss_finding(runs[0])}"
    drawn = plots.png(plots.draw_loss, runs[0], (), 12, runs, (), title)
    assert live.loss_picture.value == live.picture.png == drawn
    assert live.state.value.endswith(" · noise band: 4 seeds")
    right = [sum(answer.right for answer in run.scores.answers) for run in expected]
    assert f"adapted {right[0]} of 16 ({min(right)} to {max(right)}, 4 seeds)" in live.marks.value


def test_the_noise_band_says_how_far_it_is_and_leaves_what_was_trained(live):
    training, after, said = trained(live).training, live.after, []
    live.state.observe(lambda change: said.append(change["new"]), names="value")
    with_band(live)
    for seed in (1, 2, 3):
        assert any(line.startswith(f"seed {seed}: step 1 of 12 · loss ") for line in said)
        assert f"seed {seed}: counting right answers …" in said
    assert (live.training, live.after) == (training, after)
    assert len(live.picture.alt.split("4 seeds end between")) == 2


def test_what_was_trained_before_in_this_lab_is_replayed_and_marked_so(live, at_step):
    live.controls.controls["seed"].value = 2
    trained(live)
    live.controls.controls["seed"].value = 0
    started = []
    with_band(trained(live))
    assert live.state.value.endswith(" · noise band: 4 seeds, 1 of them replayed")
    at_step(1, lambda: started.append(1))
    before = live.scores_by_seed
    with_band(live)
    assert live.state.value.count("noise band") == 1
    assert live.state.value.endswith(" · noise band: 4 seeds, 3 of them replayed")
    assert (started, live.scores_by_seed) == ([], before)


def test_another_choice_is_not_mistaken_for_another_seed(live, at_step):
    with_band(trained(live))
    live.controls.controls["r"].value = 2
    trained(live)
    assert "seeds" not in live.state.value + live.marks.value + live.picture.alt  # no band yet
    started = []
    at_step(1, lambda: started.append(1))
    with_band(live)
    assert len(started) == 3


def test_stop_ends_the_noise_band_within_a_step_and_keeps_the_whole_seeds(live, monkeypatch):
    trained(live)
    seen, said, loop = [], [], Training.__iter__
    live.state.observe(lambda change: said.append(change["new"]), names="value")

    def stopped(training):
        for record in loop(training):
            seen.append((training.recipe.seed, record.step))
            if seen[-1] == (2, 3):
                live.stop_button.click()
            yield record

    monkeypatch.setattr(Training, "__iter__", stopped)
    with_band(live)
    assert seen[-1] == (2, 3)
    assert "seed 2: counting right answers …" not in said
    assert len(live.scores_by_seed) == 2
    assert live.state.value.endswith(" · noise band: 2 seeds")
    assert (live.train_button.disabled, live.noise_button.disabled) == (False, False)


def test_a_noise_band_needs_a_finished_training_and_says_so(live, at_step):
    assert live.noise_button.disabled
    live.noise_band()
    with pytest.raises(RuntimeError, match=r"no finished training .*ready.*press Train"):
        live.wait(LIMIT)
    assert "no finished training" in live.state.value
    at_step(3, live.stop)
    trained(live)
    assert live.noise_button.disabled
    at_step(12, lambda: None)
    live.start()
    live.noise_band()  # by code it may be asked for at once
    live.wait(LIMIT)
    assert len(live.scores_by_seed) == 4


def test_a_seed_that_fails_is_told_by_its_number_and_the_seeds_before_it_stay(live, monkeypatch):
    trained(live)
    loop = Training.__iter__

    def broken(training):
        for record in loop(training):
            if training.recipe.seed == 2 and record.step == 4:
                raise Diverged("too far")
            yield record

    monkeypatch.setattr(Training, "__iter__", broken)
    live.noise_button.click()
    with pytest.raises(Diverged):
        live.wait(LIMIT)
    assert "seed 2 failed after step 4 of 12: " in live.state.value
    assert len(live.scores_by_seed) == 2
    assert "2 seeds end between" in live.picture.alt


def test_the_meters_show_the_spread_of_the_seeds(base):
    whole = dataclasses.replace(TASK, old_knowledge=TASK.train[:4], strangers=TASK.train[4:8])
    live = with_band(trained(LiveLab(base, whole)))
    seeds = live.scores_by_seed
    drawn = plots.png(plots.draw_meters, live.base_scores, seeds[0], seeds, size=(500, 150))
    assert live.meters_picture.value == live.meters.png == drawn


def test_closing_the_lab_ends_what_runs_within_a_step_and_leaves_no_thread(live, at_step):
    before = threading.active_count()
    at_step(3, live.close)
    trained(live)
    assert live.training.step == 3
    assert (live.scores, threading.active_count()) == (None, before)


# --- the strength, prompts of one's own, the choices ----------------------------------------


def test_the_strength_answers_anew_and_0_gives_the_bases_answers(live, base):
    trained(live)
    after = live.after
    live.strength.value = 0
    live.wait(LIMIT)
    assert live.after == live.before
    live.strength.value = 1.5
    live.wait(LIMIT)
    stronger = Adapted(base, live.training.learned, strength=1.5)
    assert live.after == generate(stronger, live.prompts, max_new_tokens=5)
    assert "at 1.5" in live.answers.value
    live.strength.value = 1
    live.wait(LIMIT)
    assert live.after == after


def test_the_strength_rests_until_there_is_an_adapter(live, at_step):
    assert live.strength.disabled
    seen = []
    at_step(2, lambda: seen.append(live.strength.disabled))
    assert not trained(live).strength.disabled
    assert seen == [True]


def test_without_prompts_there_is_no_heading_over_them():
    assert answers_table([], strength=1.0) == ""
    assert "The same prompts" in answers_table([("Who?", None, None)], strength=1.0)


def test_a_prompt_of_ones_own_is_answered_before_and_after(live, base):
    live.own_prompt.value = "  hello "
    live.ask_button.click()
    live.wait(LIMIT)
    assert live.prompts[-1] == "hello"
    assert live.before[-1:] == generate(base, ["hello"])
    assert trained(live).after[-1:] == generate(live.training, ["hello"])


def test_an_own_prompt_asked_while_another_is_being_answered_comes_after_it(live, monkeypatch):
    trained(live)
    seen, ask = [], BeforeAfter.ask

    def watched(asked, own, *more):
        if own.prompt == "first":
            live.ask("second")
        ask(asked, own, *more)
        seen.append((live.prompts[-1], len(live.before), len(live.after)))

    monkeypatch.setattr(BeforeAfter, "ask", watched)
    live.ask("first")
    live.wait(LIMIT)
    assert seen == [("first", 4, 4), ("second", 4, 4)]
    assert live.state.value.startswith("finished: ")


def test_a_prompt_and_its_answer_stay_together_when_a_stop_drops_the_next(live, base, at_step):
    live.ask("kept")
    live.wait(LIMIT)
    at_step(3, lambda: (live.ask("dropped"), live.stop()))
    trained(live)
    assert live.prompts[-1] == "kept"
    assert live.before[-1:] == generate(base, ["kept"])
    assert live.after[-1:] == generate(live.training, ["kept"])
    assert "dropped" not in live.answers.value
    assert "asked after" not in live.ask_said.value


def test_an_own_prompt_waits_for_the_training_and_says_so(live, at_step):
    said = []
    at_step(3, lambda: (live.ask("mine"), said.append(live.ask_said.value)))
    assert trained(live).prompts[-1] == "mine"
    assert said == [markup.faint("asked after the training")]


def test_after_an_error_in_asking_the_next_answer_says_how_the_training_ended(live, monkeypatch):
    trained(live)
    with monkeypatch.context() as broken:
        broken.setattr(BeforeAfter, "ask", lambda *_: fail(RuntimeError("no answer")))
        live.ask("hello")
        with pytest.raises(RuntimeError, match="no answer"):
            live.wait(LIMIT)
    assert "no answer" in live.state.value
    live.wait_for_results(LIMIT)  # raised once
    live.ask("hello")
    live.wait(LIMIT)
    assert live.state.value.startswith("finished: ")
    assert len(live.prompts) == len(live.after) == 4


def test_stop_can_be_pressed_while_it_asks_and_keeps_what_was_shown(live, monkeypatch):
    trained(live)
    seen, answer = [], BeforeAfter._answer

    def stopped(asked, model, *more):
        seen.append(live.stop_button.disabled)
        live.stop_button.click()
        answer(asked, model, *more)

    monkeypatch.setattr(BeforeAfter, "_answer", stopped)
    live.ask("hello")
    live.wait(LIMIT)
    assert seen == [False]  # the base, and no more
    assert len(live.prompts) == len(live.before) == len(live.after) == 3
    assert live.stop_button.disabled


def test_a_very_long_own_prompt_is_refused_beside_its_box(live):
    live.ask("x" * 9000)
    live.wait(LIMIT)
    assert "9,000 characters long; give at most 1,000" in live.ask_said.value
    assert len(live.prompts) == 3


def test_enter_asks(live):
    live.own_prompt.value = "hello"
    live.own_prompt._handle_custom_msg({"event": "submit"}, [])
    live.wait(LIMIT)
    assert live.prompts[-1] == "hello"


def test_the_box_for_an_own_prompt_begins_as_all_prompts_do(base):
    commands = [Example(f"Home command: {word}", word) for word in ("dim", "pause", "play")]
    live = LiveLab(base, [TASK, dataclasses.replace(TASK, name="other", test=commands)])
    assert live.own_prompt.value == ""
    live.task_choice.value = "other"
    assert live.own_prompt.value == "Home command: "


def test_the_validation_ends_at_the_last_step_and_not_just_before_it(base):
    assert LiveLab(base, TASK, steps=50).recipe.eval_steps == 13  # 13, 26, 39, 50


def test_one_step_is_one_step(base):
    assert trained(LiveLab(base, TASK, steps=1)).state.value.startswith("finished: 1 step in ")


def test_earlier_runs_stay_in_the_chart_but_not_those_of_another_task(base):
    other = dataclasses.replace(TASK, name="other")
    live = LiveLab(base, [TASK, other], steps=2, questions=2)
    for _ in range(KEPT + 2):
        trained(live)
    assert f"In grey: {KEPT} earlier runs" in live.picture.alt
    live.task_choice.value = "other"
    assert "earlier" not in trained(live).picture.alt
    live.task_choice.value = "letters"
    assert live.records == []
    assert f"{KEPT} earlier runs" in live.picture.alt


def test_an_earlier_run_is_named_by_what_it_did_otherwise(base, monkeypatch):
    named, frame = [], plots.LossFilm.frame
    monkeypatch.setattr(
        plots.LossFilm, "frame", lambda film, run: named.append(film.named) or frame(film, run)
    )
    live = LiveLab(base, TASK, steps=2, questions=2, in_sight=("r",))
    for r in (2, 4, 4):
        live.controls.controls["r"].value = r
        live._begin(again=True)
        live.wait()
    assert "In grey: 2 earlier runs: r 2 ended at" in live.picture.alt  # the other did the same
    assert [*dict.fromkeys(named)] == [(), ("r 2",), ("r 2", "")]  # while they trained, too
    one = recipe(r=2, target_modules=("q_proj", "v_proj"), learning_rate=3e-3, eval_steps=None)
    changes = {"target_modules": ("q_proj", "up_proj"), "learning_rate": 2e-3, "eval_steps": 2}
    other = dataclasses.replace(one, **changes)
    assert run_summary.differences(one, other) == "q_proj + up_proj, learning_rate 0.002"
    assert run_summary.differences(one, one) == ""
    packed = dataclasses.replace(one, quantize="nf4")
    assert run_summary.differences(one, packed) == "quantize nf4"
    assert run_summary.differences(packed, one) == "quantize none"


def test_another_task_brings_its_own_prompts_and_choices(base):
    other = dataclasses.replace(TASK, name="other", test=TASK.test[5:], recipe=recipe(r=5))
    live = trained(LiveLab(base, [TASK, other]))
    live.task_choice.value = "other"
    assert live.prompts == [example.prompt for example in TASK.test[5:8]]
    assert live.controls.controls["r"].value == live.recipe.r == 5
    assert (live.training, live.adapted, live.after) == (None, None, [])


def test_prompts_with_unlike_answers_are_shown_first(base):
    same = [Example("one", "A"), Example("two", "A"), Example("three", "B"), Example("four", "C")]
    live = LiveLab(base, dataclasses.replace(TASK, test=same))
    assert live.prompts == ["one", "three", "four"]
    assert LiveLab(base, dataclasses.replace(TASK, test=same[:2])).prompts == ["one", "two"]


def test_old_knowledge_and_strangers_bring_the_meters(base):
    live = LiveLab(base, TASK)
    assert trained(live).meters_picture.layout.display == "none"
    whole = dataclasses.replace(TASK, old_knowledge=TASK.train[:4], strangers=TASK.train[4:8])
    live = trained(LiveLab(base, whole))
    assert live.meters_picture.layout.display == ""
    assert live.meters_picture.value == live.meters.png
    assert "old facts kept" in live.meters_picture.tooltip


def test_a_control_in_sight_is_not_folded_and_changes_the_recipe(base):
    live = LiveLab(base, TASK, in_sight=("r",), steps=2)
    row = live.children[1]
    assert live.controls.controls["r"] in [
        part for box in row.children[3:] for part in box.children
    ]
    live.controls.controls["r"].value = 6
    assert (live.recipe.r, live.recipe.steps) == (6, 2)
    assert "r=6" in live.code_view.value
    with pytest.raises(ValueError, match="there is no control for 'rank'; there are: r, "):
        LiveLab(base, TASK, in_sight=("rank",))


def test_what_is_folded_is_shown_at_a_click_on_its_name_and_hidden_at_the_next(base):
    folded = [child for child in LiveLab(base, TASK).children if isinstance(child, Folded)]
    names = ["More choices", "Ask a prompt of your own", "Show the code"]
    assert [box.switch.description for box in folded] == names
    for box in folded:
        shown = []
        for value in (False, True, False):
            box.switch.value = value
            shown.append((box.content.layout.display != "none", box.switch.icon))
        assert shown == [(False, "caret-right"), (True, "caret-down"), (False, "caret-right")]


def test_target_modules_can_be_chosen_from_the_usual_ones_and_from_the_recipes_own():
    controls = RecipeControls(Recipe(), ("target_modules",))
    (control,) = controls.controls.values()
    assert [words for words, _ in control.options][:2] == ["all-linear", "q_proj"]
    control.value = ("q_proj", "v_proj")
    assert controls.recipe == Recipe(target_modules=("q_proj", "v_proj"))
    other = Recipe(target_modules=("o_proj", "up_proj"), r=3)
    controls.reset(other)
    assert controls.recipe == other
    assert control.options[0] == ("o_proj, up_proj", ("o_proj", "up_proj"))


def test_the_base_can_be_left_as_it_is_or_trained_on_in_fewer_bits():
    controls = RecipeControls(Recipe(), ("quantize",))
    (control,) = controls.controls.values()
    assert (control.label, control.options) == ("none", ("none", "nf4", "fp4", "int8"))
    assert controls.recipe == Recipe()
    control.value = "nf4"
    assert controls.recipe == Recipe(quantize="nf4")
    control.index = 0  # as a click on the first does
    assert (control.label, controls.recipe) == ("none", Recipe())
    controls.reset(Recipe(quantize="int8"))
    assert control.label == "int8"
    controls.reset(Recipe())
    assert control.label == "none"


@pytest.mark.parametrize("changes", [{}, {"r": 4, "layers_to_transform": (0, 1), "use_dora": True}])
def test_the_code_of_a_recipe_makes_that_recipe(changes):
    made = Recipe(**changes)
    assert eval(recipe_code(made), {"lab": lab}) == made


def test_every_folded_choice_has_its_help():
    controls = RecipeControls(Recipe(), FOLDED)
    assert all("<details" in controls.row(name).children[1].value for name in FOLDED)


def test_choices_that_the_method_does_not_use_are_switched_off(base):
    controls = LiveLab(base, TASK).controls.controls
    used = {"lora": (False, False), "adalora": (True, False), "full": (True, True)}
    for method in ("full", "adalora", "lora"):
        controls["method"].value = method
        assert (controls["r"].disabled, controls["lora_alpha"].disabled) == used[method]
    full = LiveLab(base, TASK, method="full").controls.controls
    assert (full["r"].disabled, full["lora_alpha"].disabled) == used["full"]


def test_the_marks_say_at_which_strength_and_a_sentence_around_a_label_has_its_own_count():
    said = [("positive", "This film review is positive."), ("negative", "I like films")]
    answers = tuple(Answer("?", wanted, given, False) for wanted, given in said)
    base = Scores("accuracy", 0.0, {"accuracy": 0.0}, None, None, 1.0, answers, "test")
    line = run_summary.right_answers(base, [base])
    assert "right answers at strength 1: <b>base 0 of 2" in line
    assert "the right word somewhere in the answer: base 1 of 2" in line
    exact = dataclasses.replace(base, metric_name="exact match")
    assert "right word" not in run_summary.right_answers(exact, [exact])


# --- the thread and the pace ----------------------------------------------------------------


def test_of_jobs_with_one_name_that_wait_only_the_newest_is_done():
    release, done = threading.Event(), []
    work = Background(done.append)
    work.submit("first", lambda: release.wait(LIMIT))
    for number in range(3):
        work.submit("next", lambda number=number: done.append(number))
    release.set()
    work.wait(LIMIT)
    assert done == [2]


def test_stop_drops_the_jobs_that_wait():
    release, done = threading.Event(), []
    work = Background(done.append)
    work.submit("first", lambda: release.wait(LIMIT))
    work.submit("next", lambda: done.append("next"))
    work.stop()
    release.set()
    work.wait(LIMIT)
    assert done == []


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def renewals(pace, clock, cost, seconds=10.0, step=0.01):
    """How often the pace lets something that costs `cost` seconds happen in a loop of steps."""
    count = 0
    while clock.now < seconds:
        if pace.due:
            count += 1
            with pace.turn():
                clock.now += cost
        clock.now += step
    return count


def test_cheap_pictures_come_five_times_a_second():
    clock = Clock()
    assert renewals(Pace(5, 0.1, clock), clock, cost=0.005, step=0.07) in (49, 50)


def test_dear_pictures_take_no_more_than_their_share_of_the_time():
    clock = Clock()
    pace = Pace(5, 0.1, clock)
    assert renewals(pace, clock, cost=0.1) == 10  # 10 seconds, a tenth of them
    assert pace.spent == pytest.approx(1.0)


def test_after_one_dear_picture_the_next_comes_within_a_second():
    clock = Clock()
    pace = Pace(5, 0.08, clock)
    with pace.turn():
        clock.now += 0.5  # an axis grew: the chart was painted anew
    clock.now += 0.99
    assert not pace.due
    clock.now += 0.02
    assert pace.due
