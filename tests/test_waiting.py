"""What the command line says of time, memory, a flat validation loss, and of a file's base."""

import csv
import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import lora_lab as lab
from lora_lab.cli import task_spec, waiting
from lora_lab.cli.app import app
from lora_lab.cost.estimates import budget_of
from lora_lab.places import NotPrepared
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.loading import NAMES, load_task
from lora_lab.training import sweep as sweeps
from lora_lab.training.early_stopping import flat_since
from lora_lab.training.sweep import plan_sweep, sweep
from lora_lab.wording import memory_size
from tiny import letters_task, recipe, save_tiny_base, tiny_base, write_letters

TASK = letters_task()


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """`train` on a tiny base and a file of one's own."""
    folder = save_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")
    file = write_letters(tmp_path_factory.mktemp("files") / "letters.csv")
    return ["train", str(file), "--base", str(folder)]


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def validated(*losses, every=10):
    return [StepRecord(every * (n + 1), 1.0, 0.1, 1.0, 7, loss) for n, loss in enumerate(losses)]


# --- a flat validation loss ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ((5, 4, 3, 2, 1, 0.9), None),  # it falls
        ((5, 4, 3, 3, 3, 3), 30),
        ((5, 4, 3, 2.99, 2.98, 2.975), 30),  # by less than 1 % all in all
        ((5, 4, 3, 2.99, 2.98, 2.9), None),
        ((5, 3, 4, 5, 6), 20),  # it rises: flat from its best on
        ((5, 4, 3, 3), None),  # not for long
        ((5, 4, 3, 3, 3), None),  # two validations may be chance
        ((5, 4, 3, 2, 1.5, 1.2, 1.1, 1, 0.9, 0.8, 0.8, 0.8, 0.8), None),  # of 13, three are few
        ((3, float("nan"), 3, 3, 3), 10),
        ((), None),
    ],
)
def test_a_validation_loss_is_flat_since_the_step_that_no_later_one_beats_by_a_hundredth(
    losses, step
):
    since = flat_since([StepRecord(1, 1.0, 0.1, 1.0, 7), *validated(*losses)])
    assert (since and since.step) == step


def test_the_text_says_since_when_it_is_flat_and_which_was_the_best():
    flat = SimpleNamespace(recipe=Recipe(eval_steps=10), records=validated(5, 3, 4, 5, 6))
    assert waiting.validation_lines(flat) == [
        "validation loss 5 at step 10 → 6 at step 50; the best was 3 at step 20",
        "the validation loss is flat since step 20 (3): in 30 steps it fell by less than 1 %. "
        "Fewer steps would do, or --patience 3.",
    ]
    falling = SimpleNamespace(recipe=Recipe(eval_steps=10), records=validated(5, 4, 3))
    line = "validation loss 5 at step 10 → 3 at step 30"
    assert waiting.validation_lines(falling) == [line]
    without = [StepRecord(n, 1.0, 0.1, 1.0, 7) for n in (1, 2)]
    (line,) = waiting.validation_lines(SimpleNamespace(recipe=Recipe(steps=100), records=without))
    assert line == "validation loss: not measured; --eval-steps 10 would measure it"


def test_train_shows_the_validation_loss_and_what_an_early_stop_kept(words):
    wanted = ["--steps", 60, "--eval-steps", 2, "--patience", 2, "--learning-rate", "1e-1"]
    result = run(*words, *wanted, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    losses = {record["step"]: record["validation_loss"] for record in facts["records"]}
    best = min((loss, step) for step, loss in losses.items() if loss is not None)[1]
    assert len(losses) < 60
    shown = run(*words, *wanted).stdout
    assert f"stopped after step {len(losses)} of 60: 2 validations without a better loss." in shown
    assert f"Kept are the weights of step {best}, the best validation loss." in shown
    listed = run("runs").stdout.splitlines()[1].split()
    assert str(len(losses)) in listed
    assert f"{len(losses)}/60" not in listed


# --- before and while it runs -------------------------------------------------------------------


def test_time_and_memory_are_said_before_the_first_step_and_not_of_a_replayed_run(words):
    first = run(*words, "--steps", 5)
    assert first.exit_code == 0
    (line,) = [line for line in first.stderr.splitlines() if "estimated" in line]
    assert first.stderr.index("estimated") < first.stderr.index("step/s")
    assert "for 5 steps, tests not counted; " in line
    assert "MiB of memory beside Python and torch (" in line
    assert "estimated" not in run(*words, "--steps", 5).stderr


def test_the_estimate_has_the_memory_of_the_library_and_counts_what_is_trained_at_once():
    base = tiny_base()
    budget = budget_of(base, TASK, recipe())
    weights, whole = budget.memory.weights, budget.memory.total
    for at_once in (1, 3):
        words = waiting.estimated(base, TASK, recipe(), 10, at_once)
        assert memory_size(weights + at_once * (whole - weights)) in words


def test_the_pace_is_measured_after_the_first_step_and_said_once(monkeypatch):
    clock = iter([100.0, *(102.0 + 0.5 * step for step in range(1, 50))])
    monkeypatch.setattr(waiting.time, "monotonic", lambda: next(clock))
    pace = waiting.Pace(Recipe(steps=103))
    said = [pace.after(StepRecord(step, 1.0, 0.1, 1.0, 7)) for step in range(1, 20)]
    # step 1 ends at 100 s, step 4 at 103.5 s
    assert said[3] == "measured over 3 steps: 1 s a step, 2 min for the 99 that are left"
    assert [words for words in said if words] == [said[3]]


def test_a_rest_that_is_over_at_once_is_not_worth_a_line(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(waiting.time, "monotonic", lambda: next(clock))
    pace = waiting.Pace(Recipe(steps=6))
    assert not any(pace.after(StepRecord(step, 1.0, 0.1, 1.0, 7)) for step in range(1, 7))


def test_a_sweep_says_what_trains_its_runs_and_why(words, monkeypatch):
    monkeypatch.setattr(sweeps, "cores", lambda: 2.0)
    more = ["--steps", 3, "--seeds", "0,1", "--vary", "r=1"]
    result = run("sweep", *words[1:], *more)
    assert result.exit_code == 0, result.stderr
    reason = "2 runs so small end before worker processes have started"
    assert f"2 runs to train, one after the other ({reason})" in result.stderr
    assert "at most, estimated from FLOPs" in result.stderr
    assert "for 6 steps, tests not counted" in result.stderr
    again = run("sweep", *words[1:], *more)
    assert "runs to train" not in again.stderr


def test_a_planned_sweep_trains_what_a_sweep_does_and_knows_how_many_at_once(tmp_path):
    base, two = tiny_base(), [recipe(r=1), recipe(r=2)]
    options = {"store": tmp_path, "fresh": False, "evaluate": True}
    planned = plan_sweep(base, TASK, two, (0,), "sequential", **options)
    assert (planned.at_once, planned.why, planned.new) == (1, "", tuple(two))
    runs = planned.run().runs
    alone = sweep(base, TASK, two, engine="sequential", store=None).runs
    assert [run.records for run in runs] == [run.records for run in alone]
    assert plan_sweep(base, TASK, two, (0,), "sequential", **options).new == ()


def test_a_sweeps_bar_takes_its_pace_from_the_steps_that_are_trained_now():
    stored, early, going = recipe(r=1), recipe(r=2), recipe(r=4)
    with sweeps._Progress((stored, early, going), show=True) as bar:
        bar.note(stored, finished_run(stored))
        for step in (1, 2, 3):
            bar.note(early, StepRecord(step, 1.0, 0.1, 1.0, 7))
        bar.note(early, finished_run(early))
        bar.note(going, StepRecord(6, 1.0, 0.1, 1.0, 7))  # resumed at step 6
        facts = bar._bar.format_dict
    assert facts["n"] == 2 * stored.steps + 6
    assert facts["n"] - facts["initial"] == 4  # steps 1, 2, 3 of one and 6 of another


def finished_run(made):
    return lab.fit(tiny_base(), TASK, made, store=None, evaluate=False)


# --- which base a file gets ---------------------------------------------------------------------


def a_file(folder, prompts):
    file = folder / "mine.csv"
    with file.open("w", newline="") as out:
        rows = [[prompt, "yes" if place % 2 else "no"] for place, prompt in enumerate(prompts)]
        csv.writer(out).writerows([["prompt", "answer"], *rows])
    return file


@pytest.mark.parametrize("base", ["pocket", "smollm2"])
def test_the_words_of_each_built_in_task_tell_its_base(base):
    shares = []
    for name in NAMES[base]:
        try:
            task = load_task(name)
        except NotPrepared:
            continue
        shares.append(task_spec.known_to_pocket([example.prompt for example in task.train]))
    assert shares
    assert all((share >= task_spec.OF_ITS_WORLD) == (base == "pocket") for share in shares)
    assert all(abs(share - task_spec.OF_ITS_WORLD) > 0.1 for share in shares)


def test_a_file_of_pockets_world_gets_pocket_and_english_gets_smollm2(tmp_path, monkeypatch):
    here = [SimpleNamespace(name="smollm2", prepared=True)]
    monkeypatch.setattr(task_spec, "list_bases", lambda: here)
    own = load_task("new-facts").train
    pockets = load_task(a_file(tmp_path, [example.prompt for example in own[:20]]))
    name, why = task_spec.base_of_file(pockets)
    assert name == "pocket"
    assert "pocket knows 100 % of the words in its prompts" in why
    english = [f"How do I reset the password of account {n} on my phone?" for n in range(20)]
    data = load_task(a_file(tmp_path, english))
    name, why = task_spec.base_of_file(data)
    assert name == "smollm2"
    assert "pocket knows" in why
    here[0].prepared = False
    with pytest.raises(NotPrepared, match=r"run `lora-lab prepare smollm2` once, or name a base"):
        task_spec.base_of_file(data)


def test_a_file_without_a_word_is_not_of_pockets_world():
    assert task_spec.known_to_pocket(["1 + 2", "3 + 4"]) == 0


def test_train_says_which_base_a_file_got_and_why(tmp_path):
    own = load_task("new-facts").train
    file = a_file(tmp_path, [example.prompt for example in own[:40]])
    result = run("train", file, "--steps", 2)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("base pocket: ")]
    assert "--base chooses another" in line
    assert "on pocket" in result.stdout
    assert "base pocket" not in run("train", file, "--steps", 2, "--base", "pocket").stderr
