"""Headless: a recording is run again in the background, and its score stands beside the old one."""

import dataclasses
import re
import threading

import pytest

import lora_lab as lab
from lora_lab import plots
from lora_lab.findings.recordings import recorded_runs
from lora_lab.tasks.examples import Example
from lora_lab.training.loop import Training
from lora_lab.widgets import following, run_here, run_summary
from lora_lab.widgets.run_here import RunHere
from lora_lab.wording import fine_percent
from tiny import letters_task, recipe, tiny_base

LIMIT = 120  # seconds that `wait` may take on a busy machine
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def recorded():
    base, task = tiny_base(), letters_task()
    runs = [lab.fit(base, task, recipe(seed=seed, eval_steps=4), store=None) for seed in SEEDS]
    about = {"about": "tiny on the CPU; random", "date": "2026-11-24T19:45:42+00:00"}
    return tuple(dataclasses.replace(run, **about) for run in runs)


@pytest.fixture
def here(recorded, monkeypatch):
    """The widget on runs of a tiny base that were "recorded" a moment ago."""
    monkeypatch.setattr(run_here, "recorded_runs", lambda name: recorded)
    monkeypatch.setattr(run_here, "load_base", lambda name, dtype: tiny_base())
    monkeypatch.setattr(run_here, "load_task", lambda name, base: letters_task())
    return RunHere("letters")


def stop_at(step, here, monkeypatch):
    class Watched(Training):
        def __iter__(self):
            for record in super().__iter__():
                if record.step == step:
                    here.stop_button.click()
                yield record

    monkeypatch.setattr(following, "train", Watched)


def rows(here):
    """The table's cells, row by row, without its head."""
    found = re.findall(r"<tr>(<td>.*?)</tr>", here.result.value)
    return [re.findall("<td>(.*?)</td>", row) for row in found]


def test_what_runs_here_is_the_first_recorded_run_once_more(here, recorded):
    here.train_button.click()
    here.wait(LIMIT)
    assert list(here.records) == list(recorded[0].records)
    assert here.scores == recorded[0].scores
    assert here.state.value == "finished after step 12 of 12"
    assert (here.progress.value, here.progress.max) == (12, 12)
    assert (here.train_button.disabled, here.stop_button.disabled) == (False, True)


def test_the_score_here_stands_beside_the_recorded_ones_with_where_and_when(here, recorded):
    expected = [fine_percent(run.scores.value) for run in recorded]
    before = rows(here)
    assert [row[0] for row in before] == [
        *(f"recorded, seed {seed}" for seed in SEEDS), "here, seed 0",
    ]  # fmt: skip
    assert [row[1] for row in before] == [*expected, "…"]
    assert {row[3] for row in before[:3]} == {"tiny on the CPU, 2026-11-24"}
    here.start()
    here.wait(LIMIT)
    assert [row[1] for row in rows(here)] == [*expected, expected[0]]


def test_the_curve_here_is_drawn_over_the_band_of_the_recorded_runs(here, recorded):
    band = [run.records for run in recorded]
    assert here.loss_picture.value == plots.png(plots.draw_loss, (), (), 12, band)
    here.start()
    here.wait(LIMIT)
    assert here.loss_picture.value == plots.png(plots.draw_loss, here.records, (), 12, band)
    assert here.loss_picture.tooltip == here.picture.alt
    assert "3 seeds end between" in here.picture.alt


def test_stop_ends_it_after_its_step_without_a_score(here, monkeypatch):
    stop_at(3, here, monkeypatch)
    said = []
    here.state.observe(lambda change: said.append(change["new"]), names="value")
    here.start()
    here.wait(LIMIT)
    assert "counting right answers …" not in said
    assert (len(here.records), here.scores) == (3, None)
    assert here.state.value == "stopped after step 3 of 12"
    assert rows(here)[-1][1] == "…"


def test_closing_it_ends_the_run_after_its_step_and_leaves_no_thread(here, monkeypatch):
    before, loop = threading.active_count(), Training.__iter__

    def closed(training):
        for record in loop(training):
            here.close()
            yield record

    monkeypatch.setattr(Training, "__iter__", closed)
    here.start()
    here.wait(LIMIT)
    assert len(here.records) == 1
    assert threading.active_count() == before


def test_an_error_is_shown_raised_by_wait_and_no_thread_is_left(here, monkeypatch):
    def missing(name, dtype):
        raise FileNotFoundError("<b>run `lora-lab prepare`</b>")

    monkeypatch.setattr(run_here, "load_base", missing)
    before = threading.active_count()
    here.start()
    with pytest.raises(FileNotFoundError, match="lora-lab prepare"):
        here.wait(LIMIT)
    assert "FileNotFoundError: &lt;b&gt;run `lora-lab prepare`" in here.state.value
    assert not here.train_button.disabled
    assert threading.active_count() == before


def test_a_second_start_while_it_runs_leaves_the_run_alone(here, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        run_here, "load_base", lambda *_, **__: (loaded.append(1), here.start(), tiny_base())[2]
    )
    here.start()
    here.wait(LIMIT)
    assert loaded == [1]


def test_in_a_notebook_its_words_are_those_of_the_recording():
    runs = recorded_runs("home-commands")
    scores = " to ".join(fine_percent(end(run.scores.value for run in runs)) for end in (min, max))
    assert RunHere("home-commands")._repr_mimebundle_()["text/plain"] == (
        f"RunHere: home-commands · recorded: exact match {scores}, 3 seeds"
    )


def test_an_unknown_recording_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'home-commands'"):
        RunHere("home-comands")


def test_a_score_that_is_no_share_is_told_as_a_number():
    assert run_summary.score_text("perplexity", 3.3333) == "3.33"
    assert run_summary.score_text("exact match", 0.3333) == "33 %"


def test_a_warning_of_the_training_is_shown_in_the_widget(here, monkeypatch, recwarn):
    long = letters_task().train + [Example("x" * 400, "y")]
    monkeypatch.setattr(
        run_here, "load_task", lambda *_: dataclasses.replace(letters_task(), train=long)
    )
    assert here.panel.warnings.layout.display == "none"
    here.start()
    here.wait(LIMIT)
    assert "1 of 25 training examples are left out" in here.panel.warnings.value
    assert here.panel.warnings.layout.display == ""
    assert not [warning for warning in recwarn if "left out" in str(warning.message)]
