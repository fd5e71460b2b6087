import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from benchmarks.measuring import own_forward
from lora_lab.models.adapted import Adapted
from lora_lab.models.bases import load_base
from lora_lab.tasks import examples
from lora_lab.tasks.examples import Example, batches_to_score, collate, encode, prompt_ids
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.losses import loss_of_batch
from lora_lab.tasks.styles import style_between
from lora_lab.training import evaluation
from lora_lab.training.evaluation import (
    evaluate,
    exactly,
    field_f1,
    generate,
    mean_loss,
    same_label,
    share,
)
from lora_lab.training.fit import fit
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def good(base):
    """A run that has learnt the letters."""
    return fit(base, TASK, recipe(method="full", learning_rate=5e-3, steps=150), store=None)


@pytest.mark.parametrize("ours", [True, False], ids=["our greedy", "transformers' generate"])
def test_batched_answers_equal_those_of_one_prompt_at_a_time_by_plain_generate(
    good, ours, monkeypatch
):
    monkeypatch.setattr(evaluation, "_is_plainly_greedy", lambda model: ours)
    prompts = ["a", "abcdefgh", "hb", "something much longer than the others", "", "bh"]
    alone = []
    for prompt in prompts:
        ids = torch.tensor([prompt_ids(good.tokenizer, prompt)])
        out = good.model.generate(ids, do_sample=False, max_new_tokens=6)
        text = good.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        alone.append(text.strip())
    assert generate(good, prompts, max_new_tokens=6) == alone
    assert len(set(alone)) > 1


def test_many_prompts_keep_their_order(good):
    prompts = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"] * 3  # more than one batch
    answers = generate(good, prompts, max_new_tokens=4)
    assert len(answers) == 192
    assert answers[:64] == answers[64:128] == answers[128:]
    assert answers[:9] == [generate(good, [prompt], max_new_tokens=4)[0] for prompt in prompts[:9]]
    assert len(set(answers[:9])) > 1


def test_one_text_in_place_of_a_list_is_refused(base):
    with pytest.raises(TypeError, match="give a list: \\['ab'\\]"):
        generate(base, "ab")
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        generate(base, ["ab"], max_new_tokens=0)


def test_the_mean_loss_is_the_mean_over_all_answer_tokens(base):
    total, count = 0.0, 0
    examples = [Example("a" * length, "b" * (length % 5 + 1)) for length in range(1, 80)]
    for example in examples:
        encoded = encode(base.tokenizer, example, 256)
        batch = collate([encoded], base.tokenizer.pad_token_id)
        labels = sum(label != -100 for label in encoded.labels)
        with torch.no_grad():
            total += base.model(**batch).loss.item() * labels
        count += labels
    assert mean_loss(base.model, base.tokenizer, examples) == pytest.approx(total / count, rel=1e-5)


EXAMPLES = [Example("a" * (n % 17 + 1), "b" * (n % 5 + 1)) for n in range(150)]


@pytest.mark.parametrize("bytes_", [2**10, 2**16, 2**18])
def test_no_batch_that_is_scored_has_more_logits_than_the_bound(base, bytes_, monkeypatch):
    whole = mean_loss(base.model, base.tokenizer, EXAMPLES)
    monkeypatch.setattr(examples, "LOGITS", bytes_)
    sizes = []

    def logits_of(module, inputs, output):
        sizes.append((len(output), output.numel() * 4))

    hook = base.model.get_output_embeddings().register_forward_hook(logits_of)
    with own_forward():
        assert mean_loss(base.model, base.tokenizer, EXAMPLES) == pytest.approx(whole, rel=1e-6)
    assert sum(count for count, _ in sizes) == len(EXAMPLES)  # each of them once
    assert all(size <= bytes_ or count == 1 for count, size in sizes)
    assert all(count <= 64 for count, _ in sizes)
    sizes.clear()  # by the lean forward pass, which gives a row for each label
    assert mean_loss(base.model, base.tokenizer, EXAMPLES) == pytest.approx(whole, rel=1e-6)
    hook.remove()
    labels = [
        sum(label != -100 for label in encode(base.tokenizer, example, 256).labels)
        for example in EXAMPLES
    ]
    assert sum(count for count, _ in sizes) == sum(labels)  # each of them once
    assert all(size <= bytes_ or count in labels for count, size in sizes)  # else one example


SCORED = {
    "pocket": ("sentiment", "style", "new-facts", "json", "two-hop", "two-hop-chain"),
    "smollm2": ("film-sentiment", "king-james", "home-commands", "ruff-rules", "two-hop-english"),
}


@pytest.mark.parametrize(
    ("name", "task_name"),
    [
        pytest.param(name, task, marks=[pytest.mark.slow] if name == "smollm2" else [])
        for name, tasks in SCORED.items()
        for task in tasks
    ],
)
def test_our_own_tasks_are_scored_64_at_once_as_they_were_recorded(name, task_name):
    base = load_base(name)
    task = load_task(task_name, base)
    for loss_on in ("answer", "all"):
        encoded = [encode(base.tokenizer, example, 4096, loss_on) for example in task.test]
        encoded.sort(key=lambda row: len(row.input_ids))
        batches = list(batches_to_score(encoded, base.model.config.vocab_size))
        assert batches == [encoded[n : n + 64] for n in range(0, len(encoded), 64)]


def test_evaluation_leaves_training_mode_and_weights_alone(base):
    training = train(base, TASK, recipe(lora_dropout=0.5))
    next(iter(training))
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    first, again = evaluate(training, TASK), evaluate(training, TASK)
    assert training.model.training
    assert first == again  # no dropout while answering
    torch.testing.assert_close(training.model.state_dict(), before, rtol=0, atol=0)


def test_all_four_kinds_of_model_can_be_evaluated(base):
    training = train(base, TASK, recipe(steps=5))
    list(training)
    run = fit(base, TASK, recipe(steps=5), store=None)
    adapted = Adapted(base, training.learned)
    expected = evaluate(training, TASK)
    assert evaluate(run, TASK).loss == pytest.approx(expected.loss, rel=1e-5)
    assert evaluate(adapted, TASK).loss == pytest.approx(expected.loss, rel=1e-5)
    assert evaluate(base, TASK).loss > expected.loss


def test_scores_say_which_answers_were_right(good):
    scores = evaluate(good, TASK)
    right = [answer for answer in scores.answers if answer.right]
    assert scores.value == len(right) / len(TASK.test)
    assert scores.value > 0
    assert all(answer.given == answer.expected for answer in right)
    assert scores.metrics["perplexity"] == pytest.approx(math.exp(scores.loss))
    assert scores.metric_name == "exact match"


def test_old_knowledge_and_strangers_are_shares_of_answers_kept(good):
    given = generate(good, ["ab", "cd"], max_new_tokens=8)
    task = dataclasses.replace(
        TASK,
        old_knowledge=[Example("ab", given[0]), Example("cd", given[1] + "x")],
        strangers=[Example("ab", "not known")],
    )
    scores = evaluate(good, task)
    assert (scores.old_knowledge, scores.strangers) == (0.5, 0.0)
    assert evaluate(good, TASK).old_knowledge is None


def test_each_split_can_be_scored_and_no_other(base):
    assert len(evaluate(base, TASK, split="validation").answers) == len(TASK.validation)
    with pytest.raises(ValueError, match="split='tests' is not known; give 'train'"):
        evaluate(base, TASK, split="tests")
    with pytest.raises(ValueError, match="has no test examples"):
        evaluate(base, dataclasses.replace(TASK, test=()))


def test_the_metrics_count_what_their_names_say():
    assert exactly("a  b", " a b\n")
    assert not exactly("Yes", "yes")
    assert same_label("positive", "Positive.")
    assert not same_label("positive", "positively")
    assert share(exactly, [("a", "a"), ("a", "b"), ("c", "c"), ("d", "")]) == 0.5
    wanted = json.dumps({"a": 1, "b": "x"})
    assert field_f1([(wanted, '{"b": "x", "a": 1}')]) == 1.0
    assert field_f1([(wanted, '{"a": 1, "b": "y", "c": 2}')]) == pytest.approx(2 / 5)
    assert field_f1([(wanted, "no JSON"), (wanted, wanted)]) == pytest.approx(2 * 2 / (4 + 2))
    assert field_f1([(wanted, "[1]")]) == 0.0


def test_a_json_task_is_also_marked_by_fields_and_validity(base):
    examples = [Example("a", '{"k": 1}'), Example("b", '{"k": 2}')]
    task = dataclasses.replace(TASK, test=examples, metric="field F1")
    metrics = evaluate(base, task).metrics
    assert list(metrics)[0] == "field F1"
    assert metrics["valid JSON"] == 0.0
    assert "accuracy" not in metrics


def test_a_task_with_a_style_is_also_marked_by_the_share_of_answers_in_it(good):
    plain = evaluate(good, TASK)
    given = [answer.given for answer in plain.answers]
    task = dataclasses.replace(TASK, style=style_between("few", given[:1], "ABCDEFGH"))
    scores = evaluate(good, task)
    assert scores.value == plain.value
    assert scores.metrics["few"] == given.count(given[0]) / len(given)
    assert 0 < scores.metrics["few"] < 1
    assert scores.metrics == plain.metrics | {"few": scores.metrics["few"]}
    chosen = evaluate(good, dataclasses.replace(task, metric="few"))
    assert (chosen.metric_name, chosen.value) == ("few", scores.metrics["few"])
    with pytest.raises(ValueError, match="marked by 'few', which is not known"):
        evaluate(good, dataclasses.replace(TASK, metric="few"))


def test_with_a_teacher_the_loss_is_the_divergence_from_its_distribution(base):
    teacher = tiny_base(seed=1).model
    encoded = [encode(base.tokenizer, example, 256, "all") for example in TASK.train[:3]]
    batch = collate(encoded, base.tokenizer.pad_token_id)
    summed, count = loss_of_batch(base.model, batch, teacher)
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        ours = base.model(**inputs).logits.log_softmax(-1)
        theirs = teacher(**inputs).logits.log_softmax(-1)
    there = batch["labels"][:, 1:] != -100
    each = (theirs.exp() * (theirs - ours)).sum(-1)[:, :-1][there]
    torch.testing.assert_close(summed, each.sum())
    assert count == len(each) == sum(len(row.input_ids) - 1 for row in encoded)


def test_logits_are_computed_only_where_a_label_is_to_be_predicted(base):
    seen = []
    hook = base.model.lm_head.register_forward_hook(lambda _, x, y: seen.append(y.shape))
    batch = collate([encode(base.tokenizer, TASK.train[0], 256)], base.tokenizer.pad_token_id)
    loss_of_batch(base.model, batch)  # by the model's own forward pass, since it is trained whole
    with torch.no_grad():
        loss_of_batch(base.model, batch)  # by the lean one
    hook.remove()
    assert seen == [(1, 3, 260), (3, 260)]  # " ", the letter and the end token
    assert isinstance(base.model.lm_head, nn.Linear)


def test_what_does_not_fit_the_context_is_refused_without_a_warning_of_the_libraries(caplog):
    base = tiny_base()
    base.tokenizer.model_max_length = 256
    room = 256 - len(prompt_ids(base.tokenizer, ""))
    assert len(generate(base, ["x" * (room - 2)], max_new_tokens=2)) == 1
    with pytest.raises(
        ValueError, match="a prompt of 255 tokens and an answer of up to 2 are more"
    ):
        generate(base, ["x" * (room - 1)], max_new_tokens=2)
    with pytest.raises(ValueError, match="than the 256 tokens of the model's context"):
        generate(base, ["short", "x" * 900])
    assert caplog.records == []
