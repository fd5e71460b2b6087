"""Your own file: what a training costs, rows that a random split leaks, the best of many."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

import pandas as pd

from lora_lab.cost.estimates import estimate, expected_seconds, find_shape, flops_per_second
from lora_lab.cost.gpus import which_gpu
from lora_lab.findings.recordings import recording
from lora_lab.lessons.predictions import Log
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.examples import Task, encode
from lora_lab.tasks.prompting import retrieved
from lora_lab.tasks.templates import templates_of
from lora_lab.training.evaluation import answers_to
from lora_lab.training.fit import fit
from lora_lab.wording import file_size, in_short, percent, percent_range, significant

SIMILAR = 2  # examples looked up for a question
DRAWS = 500  # halves of the rows that are held out
LEAKS = ("your_data/leak-pocket", "your_data/leak-smollm2")
SURE = (0.5, 0.75, 1.0)  # the upper ends of how sure a prediction was
SPLITS = {"split by template": False, "split at random": True}


def costs(base: Base, task: Task, recipe: Recipe, model: str, card: str) -> pd.DataFrame:
    """What a training costs here, and what it costs for a known model on a graphics card.

    For the card's model, the batch size and the longest example are those of this base, since the
    model's tokenizer is not here. Its memory is that of transformers' Trainer with PEFT in
    bfloat16.

    Args:
        base: the base that is here.
        task: its rows decide the lengths of batches.
        recipe: the choices of the training.
        model: a name that `lab.estimate` knows, such as "llama-3.1-8b".
        card: a name of data/cards.toml, such as "L4".

    Raises:
        ValueError: for an unknown model or card.
    """
    here = estimate(base, recipe, task)
    speed = flops_per_second(find_shape(base), recipe, base.device)
    seconds = [recipe.steps * end for end in expected_seconds(here.flops_per_step, speed)]
    longest = max(len(encode(base.tokenizer, example, 10**6).input_ids) for example in task.train)
    large = replace(recipe, max_length=longest)
    plain, lighter = (
        estimate(model, replace(large, gradient_checkpointing=checkpointing))
        for checkpointing in (False, True)
    )
    fits = {fit.card.name: fit for fit in which_gpu(plain.trainer_memory, lighter.trainer_memory)}
    if card not in fits:
        near = nearest(card, tuple(fits))
        raise ValueError(f"no card is called {card!r}; {near}there are: {', '.join(fits)}")
    columns = {base.name: here, f"{model} on a {card}": plain}
    memory = {base.name: here.memory, f"{model} on a {card}": plain.trainer_memory}
    table = {
        name: {
            "trained parameters": in_short(budget.trainable_parameters),
            "FLOPs a step": in_short(budget.flops_per_step),
            "memory": file_size(memory[name].total),
        }
        for name, budget in columns.items()
    }
    first, second = table.values()
    first["does it fit?"], second["does it fit?"] = "here", fits[card].verdict
    first["seconds"] = f"{significant(seconds[0])} to {significant(seconds[1])}"
    second["seconds"] = "not measured"
    return pd.DataFrame(table)


def split_at_random(task: Task, seed: int = 0) -> Task:
    """The task with its training and validation rows mixed and drawn anew, as many as before.

    Near-twins may then be on both sides. The test stays as it is.
    """
    rows = [*task.train, *task.validation]
    random.Random(seed).shuffle(rows)
    several = len(rows) - len(task.validation)
    return replace(task, train=rows[:several], validation=rows[several:], groups=None)


def twins_in_training(task: Task) -> float:
    """The share of validation rows that have a near-twin in training."""
    prompts = [example.prompt for example in (*task.train, *task.validation)]
    templates = templates_of(prompts)
    known = set(templates[: len(task.train)])
    return sum(text in known for text in templates[len(task.train) :]) / len(task.validation)


def leak(base: Base, task: Task, seed: int = 0) -> dict[str, dict[str, float]]:
    """The scores that a task split by template seems to promise, and a random split of it.

    Returns:
        For each of `SPLITS`: "twins", the share of validation rows with a near-twin in training;
        "right", the share that is right with the `SIMILAR` most similar training examples before
        each question.
    """
    found = {}
    for name, at_random in SPLITS.items():
        own = split_at_random(task, seed) if at_random else task
        put = retrieved(base.tokenizer, own, SIMILAR)
        asked = [replace(example, prompt=put(example.prompt)) for example in own.validation]
        right = [answer.right for answer in answers_to(base, own, asked)]
        found[name] = {"twins": twins_in_training(own), "right": sum(right) / len(right)}
    return found


def leak_table(found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """`leak` as a table."""
    return pd.DataFrame(
        {
            "near-twin in training": {
                name: percent(shares["twins"]) for name, shares in found.items()
            },
            "right": {name: percent(shares["right"]) for name, shares in found.items()},
        }
    )


def held_out_answers(
    base: Base, task: Task, recipes: Sequence[Recipe]
) -> Iterator[dict[str, object]]:
    """Train each setting and ask it all held-out rows, to see the effect of choosing the best.

    In real work, only the chosen setting is asked the test.

    Returns:
        A row for each setting: its fields; "right": 1 or 0 for each row of validation, then test;
        "groups": a number for each, the same for rows that belong together.
    """
    asked = [*task.validation, *task.test]
    names = [task.groups[example.prompt] for example in asked]
    numbers = {name: place for place, name in enumerate(dict.fromkeys(names))}
    for recipe in recipes:
        run = fit(base, task, recipe, store=None, evaluate=False)
        yield {
            "rate": recipe.learning_rate,
            "r": recipe.r,
            "seed": recipe.seed,
            "right": [int(answer.right) for answer in answers_to(run, task, asked)],
            "groups": [numbers[name] for name in names],
        }


def best_of_many(draws: int = DRAWS) -> pd.DataFrame:
    """The best of 1, 4 and all settings: right on the rows that chose it, and on other rows.

    The recorded held-out rows are halved at random again and again, whole groups at a time. One
    half chooses among the first settings, and the chosen setting is asked the other half.

    Returns:
        For 1, 4 and all settings: the means of both shares, and how many points they differ.
    """
    rows = recording("your_data/picked").rows
    groups = rows[0]["groups"]
    generator, halves = random.Random(0), []
    for _ in range(draws):
        names = sorted(set(groups))
        generator.shuffle(names)
        half = set(names[: len(names) // 2])
        halves.append([name in half for name in groups])
    settings = [row["right"] for row in rows]
    table = {}
    for count in sorted({1, min(4, len(settings)), len(settings)}):
        chosen, other = [], []
        for half in halves:
            some = generator.sample(settings, count)
            best = max(some, key=lambda right: _share(right, half, True))
            chosen.append(_share(best, half, True))
            other.append(_share(best, half, False))
        table[f"best of {count}"] = {
            "rows that chose": percent(fmean(chosen)),
            "other rows": percent(fmean(other)),
            "points too many": round(100 * (fmean(chosen) - fmean(other)), 1),
        }
    return pd.DataFrame.from_dict(table, orient="index")


def _share(right: Sequence[int], half: Sequence[bool], wanted: bool) -> float:
    """The share of right answers in a half of the rows, or in the other half."""
    return fmean(hit for hit, within in zip(right, half, strict=True) if within is wanted)


def recorded_path() -> pd.DataFrame:
    """The lesson's path on smollm2: the ways on validation, then the test, asked once."""
    rows = {}
    for row in recording("your_data/smollm2").rows:
        name = f"{row['way']}, {row['choice']}" if row.get("choice") else row["way"]
        place = {"way": "validation", "test": "the test, once"}.get(row["part"])
        if place:
            rows[place, name] = {
                "right": f"{row['right']} of {row['asked']}",
                "share": percent(row["right"] / row["asked"]),
                "95 % interval": percent_range(row["low"], row["high"]),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def recorded_leaks() -> pd.DataFrame:
    """The recorded leaks: for each base and split, means over the seeds, and their range."""
    rows = pd.concat(recording(name).table() for name in LEAKS)

    def said(shares: pd.Series) -> str:
        return f"{percent(shares.mean())} ({percent_range(shares.min(), shares.max())})"

    grouped = rows.groupby(["base", "split"], sort=False)[["twins", "right"]].agg(said)
    return grouped.rename(columns={"twins": "near-twin in training"})


def by_sureness(log: Log) -> pd.DataFrame:
    """The kept predictions, by how sure they were: with good judgement, both shares agree."""
    rows, low = {}, 0.0
    for high in SURE:
        some = [prediction for prediction in log.counted if low <= prediction.confidence <= high]
        rows[percent_range(low, high)] = {
            "predictions": len(some),
            "right": percent(fmean(prediction.right for prediction in some)) if some else "–",
        }
        low = high + 1e-9
    return pd.DataFrame.from_dict(rows, orient="index")
