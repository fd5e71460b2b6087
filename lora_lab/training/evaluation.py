"""A model and a task to scores: losses, answers in batches, metrics, what was forgotten."""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from lora_lab.models import greedy, read_llama
from lora_lab.models.architecture import context_of
from lora_lab.models.lean import FrozenLayers
from lora_lab.recipe import nearest
from lora_lab.records import Answer, Scores
from lora_lab.tasks.examples import (
    Example,
    Task,
    batches_to_score,
    check_is_task,
    collate,
    encode_fitting,
    encode_prompts,
)
from lora_lab.tasks.losses import loss_of_batch
from lora_lab.tasks.planted import teacher_model
from lora_lab.training.arguments import check_model, check_prompts

SPLITS = ("train", "validation", "test")
METRICS = ("exact match", "accuracy", "field F1", "valid JSON", "perplexity")
NO_CHOICE = frozenset(  # settings of `generate` that leave the most likely token as it is
    "_from_model_config transformers_version bos_token_id eos_token_id pad_token_id "
    "do_sample temperature top_p top_k max_length max_new_tokens "
    "use_cache output_attentions output_hidden_states".split()
)
PROMPTS = 64  # prompts answered at once: more are no faster on a CPU; only last logits are computed


class Model(Protocol):
    """Anything that can be asked: a Base, a Training, a Run or an Adapted."""

    model: nn.Module
    tokenizer: object


# --- losses ---------------------------------------------------------------------------------


def mean_loss(
    model: nn.Module,
    tokenizer: object,
    examples: Sequence[Example],
    *,
    max_length: int = 4096,
    loss_on: str = "answer",
    teacher: nn.Module | None = None,
    frozen: FrozenLayers | None = None,
) -> float:
    """The loss per labelled token over all examples, in nats; too long examples are left out."""
    encoded = encode_fitting(examples, tokenizer, max_length, loss_on).encoded
    vocab_size = model.config.get_text_config().vocab_size
    total, count = 0.0, 0
    with answering(model):
        for examples_at_once in batches_to_score(encoded, vocab_size):
            batch = collate(examples_at_once, tokenizer.pad_token_id)
            loss, labels = loss_of_batch(model, batch, teacher, frozen)
            total, count = total + loss.item(), count + labels
    return total / count if count else math.nan


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """A block without dropout and without gradients; afterwards the model is as it was before."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


# --- answers --------------------------------------------------------------------------------


def generate(model: Model, prompts: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
    """The model's most likely answers, in batches, each prompt in the model's own chat format.

    Args:
        model: a Base, Training, Run or Adapted.
        prompts: the questions; the answers come in the same order.
        max_new_tokens: where an answer is cut if it has not ended.

    Raises:
        TypeError: if `model` can't be asked, or `prompts` is not a list of texts.
        ValueError: if a prompt and its answer are longer than the model's context.
    """
    check_model(model)
    check_prompts(prompts, max_new_tokens)
    return _answers_of_each(model, prompts, max_new_tokens, 1)[0]


def _answers_of_each(
    model: Model, prompts: Sequence[str], max_new_tokens: int, count: int
) -> list[list[str]]:
    """The answers of each of the `count` adapters that share the model's batches evenly."""
    ids = _ids_that_fit(model, prompts, max_new_tokens)
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    answers = [[""] * len(ids) for _ in range(count)]
    with answering(model.model):
        for start in range(0, len(order), PROMPTS):
            places = order[start : start + PROMPTS]
            batch = [ids[place] for place in places] * count
            texts = iter(_answer_batch(model, batch, max_new_tokens))
            for own in answers:
                for place in places:
                    own[place] = next(texts)
    return answers


def _ids_that_fit(model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    """Each prompt's tokens; refused if the model does not have enough positions."""
    ids = encode_prompts(prompts, model.tokenizer)
    context = context_of(model.model)
    longest = max(map(len, ids), default=0)
    if context is not None and longest + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {longest:,} tokens and an answer of up to {max_new_tokens} are more than "
            f"the {context:,} tokens of the model's context; shorten the prompt, or give a smaller "
            "max_new_tokens"
        )
    return ids


def _answer_batch(model: Model, ids: list[list[int]], max_new_tokens: int) -> list[str]:
    known = read_llama.read(model.model)
    if known is not None and _is_plainly_greedy(model.model):
        out = greedy.answer(known, ids, max_new_tokens, _ends(model))
    else:
        out = _generated(model, ids, max_new_tokens)
    texts = model.tokenizer.batch_decode(out, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _generated(model: Model, ids: list[list[int]], max_new_tokens: int) -> Tensor:
    """The new tokens that transformers' own `generate` gives: (rows, tokens)."""
    longest = max(len(row) for row in ids)
    pad, device = model.tokenizer.pad_token_id, model.model.device
    padded = [[pad] * (longest - len(row)) + row for row in ids]  # on the left: answers line up
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
    out = model.model.generate(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=torch.tensor(mask, device=device),
        do_sample=False,
        temperature=None,  # the model's own sampling settings are not used
        top_p=None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=_ends(model),
    )
    return out[:, longest:]


def _is_plainly_greedy(model: nn.Module) -> bool:
    """Whether nothing in the model's own generation settings changes the most likely token."""
    return model.generation_config.to_diff_dict().keys() <= NO_CHOICE


def _ends(model: Model) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those that the model itself names."""
    own = model.model.generation_config.eos_token_id
    ends = {model.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return sorted(ends - {None})


# --- metrics --------------------------------------------------------------------------------


def exactly(expected: str, given: str) -> bool:
    """Whether two texts are equal; white space counts only as a gap between words."""
    return expected.split() == given.split()


def same_label(expected: str, given: str) -> bool:
    """Whether two labels are equal; case and closing punctuation do not count."""
    return re.sub(r"[\s.!,]+$", "", given).casefold().split() == expected.casefold().split()


def json_fields(text: str) -> set[tuple[str, str]] | None:
    """A JSON object's (key, value) pairs; None for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a model may answer with brackets or digits without end
        return None
    if not isinstance(value, dict):
        return None
    return {(key, json.dumps(field, sort_keys=True)) for key, field in value.items()}


def share(right: Callable[[str, str], bool], pairs: Sequence[tuple[str, str]]) -> float:
    """The share of (expected, given) pairs that `right` accepts, 0 to 1."""
    return sum(right(*pair) for pair in pairs) / len(pairs)


def field_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """F1 over all JSON fields, key and value together; an answer that isn't an object has none."""
    hits = given_fields = expected_fields = 0
    for expected, given in pairs:
        right, answered = json_fields(expected) or set(), json_fields(given) or set()
        hits += len(right & answered)
        given_fields += len(answered)
        expected_fields += len(right)
    return 2 * hits / (given_fields + expected_fields) if given_fields + expected_fields else 0.0


def _metrics(task: Task, pairs: Sequence[tuple[str, str]], loss: float) -> dict[str, float]:
    """Every metric that fits the task, its own first."""
    marks = {
        "exact match": share(exactly, pairs),
        "accuracy": share(same_label, pairs),
        "field F1": field_f1(pairs),
        "valid JSON": share(lambda _, given: json_fields(given) is not None, pairs),
        "perplexity": math.exp(min(loss, 700)),
    }
    fit = {"exact match", "perplexity", task.metric}
    if task.style is not None:
        marks[task.style.name] = share(lambda _, given: task.style.has(given), pairs)
        fit.add(task.style.name)
    if all(json_fields(expected) is not None for expected, _ in pairs):
        fit |= {"field F1", "valid JSON"}
    return {name: marks[name] for name in sorted(fit, key=lambda name: (name != task.metric, name))}


def evaluate(model: Model, task: Task, *, split: str = "test") -> Scores:
    """A model's scores on one split: its answers, their metric, its loss, and what it forgot.

    Args:
        model: a Base, Training, Run or Adapted.
        task: its metric decides `Scores.value`; its old knowledge and strangers are asked too.
        split: "test", "validation" or "train". Choose settings on "validation" only.

    Raises:
        TypeError: if `model` can't be asked, or `task` is not a Task.
        ValueError: for an unknown split, or a split without examples.
    """
    check_model(model)
    check_is_task(task)
    examples = _examples(task, split)
    if task.teacher is not None:
        return _distance_to_teacher(model, task, split)
    loss = mean_loss(model.model, model.tokenizer, examples)
    asked = (examples, task.old_knowledge, task.strangers)
    return marked(task, split, loss, *(ask(model, questions) for questions in asked))


def marked(
    task: Task,
    split: str,
    loss: float,
    given: Sequence[str],
    given_on_old: Sequence[str],
    given_on_strangers: Sequence[str],
) -> Scores:
    """The scores for a model's loss, and its answers to a split, to old facts and on strangers."""
    answers = _marked_answers(task, getattr(task, split), given)
    metrics = _metrics(task, [(answer.expected, answer.given) for answer in answers], loss)
    return Scores(
        metric_name=task.metric,
        value=metrics[task.metric],
        metrics=metrics,
        old_knowledge=_share_kept(task.old_knowledge, given_on_old),
        strangers=_share_kept(task.strangers, given_on_strangers),
        loss=loss,
        answers=answers,
        split=split,
    )


def split_to_score(evaluate: bool | str) -> str | None:
    """The split that the argument `evaluate` of `fit` and `sweep` means; None: no split.

    Raises:
        ValueError: for another value than True, False, "test" or "validation".
    """
    if isinstance(evaluate, bool):
        return "test" if evaluate else None
    if evaluate not in ("test", "validation"):
        raise ValueError(
            f"evaluate={evaluate!r} names no split to score; give True for the test, "
            '"validation", or False'
        )
    return evaluate


def check_answerable(model: Model, task: Task, *, split: str = "test") -> None:
    """Refuse what `evaluate` would refuse, before a model is trained for it.

    Raises:
        ValueError: as `evaluate` does.
    """
    asked = (_examples(task, split), task.old_knowledge, task.strangers)
    for examples in asked if task.teacher is None else ():
        if examples:
            _ids_that_fit(
                model, [example.prompt for example in examples], answer_room(model, examples)
            )


def _examples(task: Task, split: str) -> Sequence[Example]:
    """A split's examples; refused if there are none, or if the metric is not known."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not known; give {', '.join(map(repr, SPLITS))}")
    examples = getattr(task, split)
    if not examples:
        raise ValueError(f"task {task.name!r} has no {split} examples; give another split")
    known = METRICS if task.style is None else (*METRICS, task.style.name)
    if task.teacher is None and task.metric not in known:
        raise ValueError(
            f"task {task.name!r} is marked by {task.metric!r}, which is not known; "
            f"{nearest(task.metric, known)}give {', '.join(map(repr, known))}"
        )
    return examples


def answers_to(model: Model, task: Task, examples: Sequence[Example]) -> tuple[Answer, ...]:
    """A model's answers to some of a task's examples, each marked by the task's rule."""
    return _marked_answers(task, examples, ask(model, examples))


def rule_of(task: Task) -> Callable[[str, str], bool]:
    """Whether an answer is right, as (expected, given) -> bool: the rule for a task's own answers.

    Old facts and strangers have the rule `exactly` in every task.
    """
    return same_label if task.metric == "accuracy" else exactly


def _marked_answers(
    task: Task, examples: Sequence[Example], given: Sequence[str]
) -> tuple[Answer, ...]:
    right = rule_of(task)
    return tuple(
        Answer(example.prompt, example.answer, answer, right(example.answer, answer))
        for example, answer in zip(examples, given, strict=True)
    )


def ask(model: Model, examples: Sequence[Example]) -> list[str]:
    """The answers to the examples' prompts."""
    return ask_each(model, examples, 1)[0]


def ask_each(model: Model, examples: Sequence[Example], count: int) -> list[list[str]]:
    """The answers of each of the `count` adapters that share the model's batches evenly."""
    if not examples:
        return [[] for _ in range(count)]
    prompts = [example.prompt for example in examples]
    return _answers_of_each(model, prompts, answer_room(model, examples), count)


def answer_room(model: Model, examples: Sequence[Example]) -> int:
    """Where answers are cut: a few tokens beyond the longest right one."""
    longest = max(
        len(model.tokenizer(answer, add_special_tokens=False)["input_ids"])
        for answer in {example.answer for example in examples}
    )
    return longest + 4


def _share_kept(examples: Sequence[Example], given: Sequence[str]) -> float | None:
    if not examples:
        return None
    pairs = [(example.answer, answer) for example, answer in zip(examples, given, strict=True)]
    return share(exactly, pairs)


def _distance_to_teacher(model: Model, task: Task, split: str) -> Scores:
    """The scores on a planted task: KL(teacher || model), in nats per token. No answer is right."""
    teacher = teacher_model(getattr(model, "base", model), task.teacher)
    examples = getattr(task, split)
    loss = mean_loss(model.model, model.tokenizer, examples, loss_on="all", teacher=teacher)
    return scores_by_distance(task, split, loss)


def scores_by_distance(task: Task, split: str, loss: float) -> Scores:
    """The scores on a planted task for a model's mean distance to the teacher."""
    return Scores(
        metric_name=task.metric,
        value=loss,
        metrics={task.metric: loss},
        old_knowledge=None,
        strangers=None,
        loss=loss,
        answers=(),
        split=split,
    )
