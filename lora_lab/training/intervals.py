"""Intervals of a model's scores: by question, or by group where the task has groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lora_lab.maths.grouped import grouped_difference, grouped_interval
from lora_lab.maths.statistics import wilson
from lora_lab.records import Answer, Scores
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import exactly, json_fields, same_label
from lora_lab.training.pairing import compare

Ends = tuple[float, float]


def intervals_of(scores: Scores, task: Task) -> dict[str, Ends]:
    """The 95 % interval of each score that is a share: of metrics, `old_knowledge`, `strangers`.

    Shares of right answers have Wilson's interval. Field F1 counts fields, and an answer's fields
    are often right or wrong together, so the answers are its groups. If the task has groups, all
    scores on the split are by group. A loss has no interval, and neither has a split with a single
    group.
    """
    found = {
        name: interval
        for name in scores.metrics
        if (interval := _interval([scores], name, task)) is not None
    }
    for name, examples in (("old_knowledge", task.old_knowledge), ("strangers", task.strangers)):
        share = getattr(scores, name)
        if share is not None and examples:
            found[name] = wilson(round(share * len(examples)), len(examples))
    return found


def pooled_interval(scores: Sequence[Scores], task: Task) -> Ends | None:
    """The 95 % interval of several seeds' mean score on other questions like these; or None.

    The seeds answer the same questions. So the answers to a question form a group, unless the task
    has groups.
    """
    return _interval(scores, scores[0].metric_name, task)


def method_text(scores: Scores, task: Task) -> str:
    """How the intervals on this split were made, in words; empty where there are no answers."""
    if not scores.answers:
        return ""
    if task.groups is None:
        return "95 % intervals (Wilson)"
    groups, questions = groups_in(scores, task), len(scores.answers)
    if groups < 2:
        return "no intervals: all questions are of one group, which says nothing about other groups"
    return (
        f"95 % intervals by group (Dean and Pagano, 2015), since {questions} questions of {groups} "
        f"groups are worth fewer than {questions} independent ones"
    )


def kept_intervals(scores: Scores, task: Task | None) -> tuple[dict[str, Ends], str]:
    """The intervals of scores that were kept with a run, and how they were made, in words.

    If the task is not at hand, or asks other questions by now, its groups are not known. The share
    of right answers then has Wilson's interval, and the words say so.

    Args:
        scores: as they were kept.
        task: as it is read again; None: it can't be.
    """
    if task is not None and are_of(scores, task):
        return intervals_of(scores, task), method_text(scores, task)
    right, count = sum(answer.right for answer in scores.answers), len(scores.answers)
    if not count or abs(scores.metrics[scores.metric_name] - right / count) > 1e-9:
        return {}, ""
    words = "95 % intervals (Wilson); whether questions belong together is not known any more"
    return {scores.metric_name: wilson(right, count)}, words


def are_of(scores: Scores, task: Task) -> bool:
    """Whether the scores are those of the task's own questions."""
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    return [answer.prompt for answer in scores.answers] == [
        example.prompt for example in splits[scores.split]
    ]


def groups_in(scores: Scores, task: Task) -> int:
    """The number of groups in the split that was scored; 0: the task has none."""
    return len(clusters_of(scores.answers, task)) if task.groups is not None else 0


@dataclass(frozen=True, slots=True)
class Change:
    """How many more questions a model gets right than another: a share, its interval, in words."""

    difference: float
    low: float
    high: float
    words: str


def change_of(before: Scores, after: Scores, task: Task) -> Change | None:
    """The verdict of `lab.compare` on two models' answers to the same questions, by group if any.

    None: there are no answers to compare.
    """
    if len(after.answers) < 2:
        return None
    if task.groups is None:
        found = replace(compare(before, after), a="before", b="after")
        return Change(found.difference, found.low, found.high, found.verdict)
    pairs = [clusters_of(scores.answers, task) for scores in (before, after)]
    if len(pairs[0]) < 2:
        return None
    right = [
        [float(sum(answer.right for answer in own)) for own in side.values()] for side in pairs
    ]
    totals = [len(own) for own in pairs[0].values()]
    difference = (sum(right[1]) - sum(right[0])) / sum(totals)
    low, high = grouped_difference(*right, totals)
    words = f"not settled: {100 * low:.0f} to {100 * high:.0f} points after {len(totals)} groups"
    if low > 0 or high < 0:
        ends = (low, high) if low > 0 else (-high, -low)
        words = (
            f"after is {'better' if low > 0 else 'worse'} by {100 * abs(difference):.0f} points "
            f"({100 * ends[0]:.0f} to {100 * ends[1]:.0f}; {len(totals)} groups)"
        )
    return Change(difference, low, high, words.replace("-", "−"))


# --- counts -----------------------------------------------------------------------------------


def clusters_of(answers: Sequence[Answer], task: Task) -> dict[str, list[Answer]]:
    """The answers by their questions' groups; without groups, by question."""
    clusters: dict[str, list[Answer]] = {}
    for answer in answers:
        own = answer.prompt if task.groups is None else task.groups[answer.prompt]
        clusters.setdefault(own, []).append(answer)
    return clusters


def _interval(scores: Sequence[Scores], metric: str, task: Task) -> Ends | None:
    answers = [answer for of_run in scores for answer in of_run.answers]
    counts = [
        [_count(answer, metric, task) for answer in own]
        for own in clusters_of(answers, task).values()
    ]
    if not answers or counts[0][0] is None:
        return None
    hits = [sum(hit for hit, _ in own) for own in counts]
    totals = [sum(size for _, size in own) for own in counts]
    if task.groups is None and len(scores) == 1 and metric != "field F1":
        return wilson(sum(hits), sum(totals))
    return grouped_interval(hits, totals) if len(hits) > 1 and sum(totals) else None


def _count(answer: Answer, metric: str, task: Task) -> tuple[int, int] | None:
    """(hits, total) of an answer: the metric is the ratio of their sums. None: it isn't a share."""
    if metric == "field F1":
        wanted, given = (json_fields(text) or set() for text in (answer.expected, answer.given))
        return 2 * len(wanted & given), len(wanted) + len(given)
    if metric == "exact match":
        return exactly(answer.expected, answer.given), 1
    if metric == "accuracy":
        return same_label(answer.expected, answer.given), 1
    if metric == "valid JSON":
        return json_fields(answer.given) is not None, 1
    if task.style is not None and metric == task.style.name:
        return task.style.has(answer.given), 1
    return None
