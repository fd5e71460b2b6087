"""The scores of a pack's members: each question is put to all of them in one batch."""

from collections.abc import Sequence

import torch
from torch import nn

from lora_lab.records import Scores
from lora_lab.tasks.examples import (
    Example,
    Task,
    batches_to_score,
    collate,
    encode_fitting,
    places_of,
)
from lora_lab.tasks.losses import losses_of_labels
from lora_lab.training.evaluation import answering, ask_each, marked, scores_by_distance
from lora_lab.training.loop import threads_for
from lora_lab.training.pack import Member, Pack

LONGEST = 4096  # tokens of an example; longer ones are left out, as in `mean_loss`


def evaluate_members(pack: Pack, task: Task, split: str = "test") -> dict[Member, Scores]:
    """The scores that `evaluate` gives each member on a split, up to rounding."""
    count, examples = len(pack.members), getattr(task, split)
    with threads_for(pack.model), pack.asked_evenly():
        if task.teacher is not None:
            losses = _mean_losses(pack, examples, "all", pack.members[0]._teacher)
            scores = [scores_by_distance(task, split, loss) for loss in losses]
        else:
            losses = _mean_losses(pack, examples, "answer")
            asked = (examples, task.old_knowledge, task.strangers)
            answers = [ask_each(pack, questions, count) for questions in asked]
            scores = [
                marked(task, split, loss, *given)
                for loss, *given in zip(losses, *answers, strict=True)
            ]
    return dict(zip(pack.in_rows, scores, strict=True))


def _mean_losses(
    pack: Pack, examples: Sequence[Example], loss_on: str, teacher: nn.Module | None = None
) -> list[float]:
    """Each member's loss per labelled token, in nats, in the order of their rows."""
    count, tokenizer = len(pack.members), pack.tokenizer
    encoded = encode_fitting(examples, tokenizer, LONGEST, loss_on).encoded
    vocab_size = pack.model.config.get_text_config().vocab_size
    totals, labels = [0.0] * count, 0
    with answering(pack.model):
        for at_once in batches_to_score(encoded, count * vocab_size):  # logits of all members
            batch = collate(at_once * count, tokenizer.pad_token_id)
            losses = losses_of_labels(pack.model, batch, teacher).reshape(count, -1)
            labels += sum(len(places_of(example)) for example in at_once)
            sums = losses.sum(dim=1).tolist()
            totals = [total + own for total, own in zip(totals, sums, strict=True)]
    return [total / labels if labels else torch.nan for total in totals]
