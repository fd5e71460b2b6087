"""What a batch does: against autograd on whole batches, torch's own decay, and the runs' rows."""

import dataclasses
import math

import pytest
import torch

import lora_lab as lab
from lora_lab.checks.training_parameters import accumulated_step
from lora_lab.findings.claims import claim
from lora_lab.lessons import batches
from lora_lab.lessons.batches import Gradients
from lora_lab.tasks.examples import Example, collate, encode_all
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def gradients(base):
    return batches.gradients_after(base, TASK, recipe(steps=3))


def test_the_gradients_of_the_examples_make_up_that_of_one_batch_of_all(base, gradients):
    training = lab.train(base, TASK, recipe(steps=3))
    for _ in training:
        pass
    encoded = encode_all(TASK.train, base.tokenizer, 256, "answer")
    batch = collate(encoded, base.tokenizer.pad_token_id)
    trained = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    whole = torch.autograd.grad(training.model.eval()(**batch).loss, trained)
    expected = torch.cat([tensor.flatten() for tensor in whole])
    torch.testing.assert_close(gradients.whole, expected, rtol=1e-3, atol=1e-6)


def test_an_angle_is_that_between_a_batchs_gradient_and_the_whole():
    sums = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    made = Gradients(sums, torch.tensor([1, 1]))
    assert {round(angle) for angle in made.angles(1)} == {45}
    # examples drawn three and one times: atan(1 / 3) = 18 degrees, so 45 - 18
    assert {round(angle) for angle in made.angles(4)} <= {0, 27, 45}
    assert {round(angle) for angle in made.angles(4)} >= {0, 27}


def test_larger_batches_point_better(gradients):
    means = [sum(gradients.angles(size)) / 40 for size in (1, 4, 16, 64)]
    assert means == sorted(means, reverse=True)
    table = gradients.table((1, 64))
    assert [*table.index] == ["angle", "40 batches"]
    assert table[1]["angle"] == f"{means[0]:.0f}°"


def test_the_mean_of_means_and_the_mean_weighted_by_labels_are_what_they_say(base):
    long, short = Example("ab", "BABABABABABABABA"), Example("ba", "C")
    made = batches.mean_of_means(base, {"long": [long], "short": [short]})
    labels = {name: int(text) for name, text in made["labels"].items() if text}
    loss = made["loss, nats"].astype(float)
    assert labels["long"] + labels["short"] == labels["one batch of all"]
    assert labels["long"] > 4 * labels["short"]
    middle = (loss["long"] + loss["short"]) / 2
    assert loss["mean of the means"] == pytest.approx(middle, abs=0.01)
    assert loss["weighted by labels"] == pytest.approx(loss["one batch of all"], abs=0.01)
    assert abs(loss["mean of the means"] - loss["one batch of all"]) > 0.02


def test_training_in_parts_is_training_in_one_piece_when_the_step_weighs_by_labels(base):
    examples = [Example(f"{a}{b}", "AB" * n) for n, (a, b) in enumerate(["ab", "cd"] * 8, 1)]
    whole, parts = (
        batches.train_in_parts(base, examples, accumulated_step.reference, parts)
        for parts in (1, 4)
    )
    assert parts == pytest.approx(whole, abs=1e-3)
    assert whole[-1] < whole[0]
    means = next(slip for hint, slip in accumulated_step.slips.items() if "mean of the" in hint)
    other = batches.train_in_parts(base, examples, means, 4)
    assert max(abs(one - two) for one, two in zip(other, whole, strict=True)) > 0.01


def test_decay_pulls_loras_change_to_nothing_and_full_fine_tuning_away_from_the_base():
    pocket = lab.load_base("pocket", device="cpu", dtype="float32")
    task = lab.load_task("new-facts", pocket, n=10)
    task = dataclasses.replace(
        task, test=task.test[:2], old_knowledge=task.old_knowledge[:2], strangers=()
    )
    made = batches.decay_directions(pocket, task, weight_decay=30)
    moved = made["‖ΔW‖ / ‖W‖"].str.rstrip(" %").astype(float)
    assert moved["LoRA", "30"] < moved["LoRA", "0"] / 2
    # a step leaves (1 - rate × decay) of W itself; the rate falls from 9e-4 to 0
    left = math.prod(1 - 30 * 9e-4 * (60 - step) / 60 for step in range(60))
    assert moved["full", "30"] > 0.9 * 100 * (1 - left) > moved["full", "0"]


# --- what studies found -------------------------------------------------------------------------


def test_a_study_is_read_by_its_batch_size():
    found, runs = (
        batches.by_batch("batch-equal-examples"),
        lab.evidence("batch-equal-examples").runs,
    )
    assert [*found] == [4, 8, 16, 32, 64, 128]
    assert found[128] == [run.scores.value for run in runs["batch 128"]]


def test_the_minor_fields_are_compared_with_each_studys_own_reference():
    made = batches.minor_fields()
    assert {*made.index.get_level_values("field")} == {*batches.MINOR}
    row = made.loc["lr_scheduler_type", "cosine", "linear"]
    assert row["new facts"] == "−2.9 (−5.1 to −0.8)"
    compared = lab.evidence("schedule-finer").comparison("cosine", of="old_knowledge")
    assert row["old facts"].endswith(f"({compared.interval.removesuffix(' points')})")


def test_runs_below_and_above_a_loss_are_counted_apart():
    runs = batches.last_losses(["batch-equal-steps", "rank-style"])
    assert len(runs) == 30 + 40
    made = batches.beside_limit(runs, 0.2)
    below = runs[(runs.task == "style") & (runs.train_loss < 0.2)]
    assert made.loc["style", "below 0.2"].endswith(f"({len(below)} runs)")
    assert made.loc["style", "above 0.2"].endswith("(1 run)")
    assert batches.beside_limit(below, 0.2).loc["style", "above 0.2"] == "no run"


def test_the_claims_few_steps_end_above_its_limit_and_its_many_steps_below_with_every_seed():
    tested = claim("loss-below-0-2")
    for trial in tested.trials:
        few = "few" in trial.setting
        assert (trial.scores["last_loss"] > 0.2) == few, trial
    means = batches.claim_means(tested)
    assert [*means.index] == [*tested.settings]
    assert (means["last training loss"].astype(float) > 0.2).tolist() == [True, False] * 3
