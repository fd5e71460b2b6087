"""Checks for notebook 05, Rank: a rank sweep, and the least rank that can hold a list of facts."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from statistics import mean

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.models.adapters import to_peft
from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task
from lora_lab.training.fit import fit
from lora_lab.wording import percent

Shapes = Mapping[str, tuple[int, int]]  # by a matrix's name: (out, in), as nn.Linear keeps it
Scored = tuple[float, float]  # validation loss in nats, share of the test that is right
Train = Callable[[object, float], Scored]  # of a LoraConfig and a learning rate
Found = dict[int, tuple[float, float]]  # by rank: learning rate, share of the test

# --- a rank sweep ---------------------------------------------------------------------------

ALPHA = 16


def _rank_sweep(train: Train, ranks: tuple[int, ...], rates: tuple[float, ...]) -> Found:
    """Each rank's own learning rate, by the least validation loss, and its share of right answers.

    `train(config, learning_rate)` trains a PEFT `LoraConfig` and gives (validation loss, share
    right on the test). All linear layers are adapted, with lora_alpha = 16 at every rank.
    """
    return _swept(train, ranks, rates)


def _swept(
    train: Train,
    ranks: tuple[int, ...],
    rates: tuple[float, ...],
    alpha: Callable[[int], int] = lambda r: ALPHA,
    targets: str | None = "all-linear",
    cost: Callable[[Scored], float] = lambda scored: scored[0],
    shown: int = 1,
) -> Found:
    """The sweep; each option makes a slip of it."""
    found = {}
    for r in ranks:
        config = _config(r, alpha(r), targets)
        tried = {rate: train(config, rate) for rate in rates}
        best = min(tried, key=lambda rate: cost(tried[rate]))
        found[r] = best, tried[best][shown]
    return found


def _config(r: int, alpha: int, targets: str | None = "all-linear") -> object:
    config = to_peft(Recipe(r=r, lora_alpha=alpha))
    config.target_modules = targets
    return config


def _made_training(config: object, learning_rate: float) -> Scored:
    """Made numbers: the best rate falls as alpha rises; the test favours a rate by luck."""
    step = math.log10(learning_rate * config.lora_alpha / ALPHA)
    best = -2.3 - 0.2 * math.log2(config.r)
    narrow = 0 if config.target_modules == "all-linear" else 0.7
    validation = abs(step - best) + 1 / config.r + narrow
    return validation, 1 / (1 + validation) + 0.5 * (learning_rate > 5e-3)


def _sweeps() -> Iterator[Case]:
    """Three ranks with two rates, four with three."""
    yield {"train": _made_training, "ranks": (1, 4, 16), "rates": (1e-3, 1e-2)}
    yield {"train": _made_training, "ranks": (2, 8, 32, 64), "rates": (3e-2, 4e-4, 3e-3)}


def _one_rate_for_all(train: Train, ranks: tuple[int, ...], rates: tuple[float, ...]) -> Found:
    def loss(rate: float) -> float:
        return mean(train(_config(r, ALPHA), rate)[0] for r in ranks)

    return _swept(train, ranks, (min(rates, key=loss),))


TRIAL_STEPS, TRIAL_RANKS, TRIAL_RATES = 50, (1, 4, 16), (3e-3, 1e-2)


def _trial(function: Function) -> Verdict:
    """Let the learner's sweep train pocket, and show what alpha = 2r at one rate would have."""
    base = load_base("pocket", dtype="float32")
    task = replace(load_task("new-facts", base, n=60), old_knowledge=(), strangers=())

    @functools.cache
    def trained(r: int, alpha: int, targets: object, learning_rate: float) -> Scored:
        chosen = Recipe(r=r, lora_alpha=alpha, target_modules=targets, steps=TRIAL_STEPS)
        chosen = replace(chosen, learning_rate=learning_rate, eval_steps=TRIAL_STEPS)
        run = fit(base, task, chosen, store=None)
        return run.records[-1].validation_loss, run.scores.value

    def train(config: object, learning_rate: float) -> Scored:
        return trained(config.r, config.lora_alpha, config.target_modules, learning_rate)

    yours = function(train=train, ranks=TRIAL_RANKS, rates=TRIAL_RATES)
    if yours != _swept(train, TRIAL_RANKS, TRIAL_RATES):
        return Verdict(
            False, "But with real trainings of pocket it finds other rates or shares than ours."
        )
    twice = _swept(train, TRIAL_RANKS, TRIAL_RATES[:1], alpha=lambda r: 2 * r)
    return Verdict(
        True,
        f"It trained pocket for {TRIAL_STEPS} steps each time. New facts right: {_in_words(yours)}."
        f" With alpha = 2r and one rate you would have seen: {_in_words(twice)}.",
    )


def _in_words(found: Found) -> str:
    """`rank 1 95 % (rate 0.01), rank 4 99 % (rate 0.003)`."""
    return ", ".join(
        f"rank {r} {percent(right)} (rate {rate:g})" for r, (rate, right) in found.items()
    )


rank_sweep = Exercise(
    _rank_sweep,
    _sweeps,
    slips={
        "alpha moves with r here, and the size of the steps with it; keep lora_alpha at 16": (
            functools.partial(_swept, alpha=lambda r: 2 * r)
        ),
        "the test chose the rate here, so its score flatters; choose by the validation loss": (
            functools.partial(_swept, cost=lambda scored: -scored[1])
        ),
        "this takes the rate with the highest validation loss; a loss is good when it is low": (
            functools.partial(_swept, cost=lambda scored: -scored[0])
        ),
        "all ranks get the same rate here; each rank needs its own": _one_rate_for_all,
        "only the first rate is tried": (
            lambda train, ranks, rates: _swept(train, ranks, rates[:1])
        ),
        "this gives the validation loss; wanted is the share right on the test, the second "
        "number of train(config, learning_rate)": functools.partial(_swept, shown=0),
        "target_modules is not set, and PEFT then adapts q and v alone; give 'all-linear'": (
            functools.partial(_swept, targets=None)
        ),
    },
    trial=_trial,
)

# --- the least rank that can hold so much ---------------------------------------------------


def _smallest_r(facts: int, choices: int, bits_per_parameter: float, shapes: Shapes) -> int:
    """The least r whose adapter can hold the facts, each a choice from equally likely answers.

    An adapter on a matrix of shape (out, in) has r (out + in) parameters, each of which holds
    `bits_per_parameter`; a fact takes log2(choices) bits. At least 1.
    """
    bits = facts * math.log2(choices)
    bits_of_rank_1 = bits_per_parameter * sum(out + wide for out, wide in shapes.values())
    return max(1, math.ceil(bits / bits_of_rank_1))


def _to_be_held() -> Iterator[Case]:
    """pocket's q and v, one matrix of a wider model, and something that fits anywhere."""
    two = {"q_proj": (128, 128), "v_proj": (128, 128)}
    yield {"facts": 1000, "choices": 64, "bits_per_parameter": 2.0, "shapes": two}
    wide = {"down_proj": (576, 1536)}
    yield {"facts": 20_000, "choices": 1000, "bits_per_parameter": 0.5, "shapes": wide}
    yield {"facts": 10, "choices": 2, "bits_per_parameter": 1.0, "shapes": two | wide}


def _needs(
    bits: Function = lambda facts, choices: facts * math.log2(choices),
    of_rank_1: Function = lambda out, wide: out + wide,
    whole: Function = math.ceil,
) -> Function:
    """A slip: another count of the facts' bits or of a matrix's parameters, another rounding."""

    def slip(facts: int, choices: int, bits_per_parameter: float, shapes: Shapes) -> int:
        bits_of_rank_1 = bits_per_parameter * sum(of_rank_1(*shape) for shape in shapes.values())
        return max(1, whole(bits(facts, choices) / bits_of_rank_1))

    return slip


def _first_matrix_alone(facts: int, choices: int, bits_per_parameter: float, shapes: Shapes) -> int:
    first = dict([*shapes.items()][:1])
    return _smallest_r(facts, choices, bits_per_parameter, first)


smallest_r = Exercise(
    _smallest_r,
    _to_be_held,
    slips={
        "these are nats, from the natural logarithm; bits take log2": (
            _needs(bits=lambda facts, choices: facts * math.log(choices))
        ),
        "a fact is not worth its number of choices; naming one of 64 takes log2(64) = 6 bits": (
            _needs(bits=lambda facts, choices: facts * choices)
        ),
        "these are the matrix's own numbers, out * in; its adapter has r (out + in)": (
            _needs(of_rank_1=lambda out, wide: out * wide)
        ),
        "this counts B alone; A has r * in numbers more": _needs(of_rank_1=lambda out, wide: out),
        "this counts A alone; B has out * r numbers more": _needs(of_rank_1=lambda out, wide: wide),
        "this is rounded down, and then some of the facts find no room; round up": _needs(
            whole=math.floor
        ),
        "only the first matrix is counted; every one of them bears an adapter": _first_matrix_alone,
    },
)
