"""Checks for notebook 05, How much can r hold: energy, the least rank, an elbow, a count."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from lora_lab.checks.compare import Case, Exercise, Function

Shapes = Mapping[str, tuple[int, int]]  # by a matrix's name: (out, in), as nn.Linear keeps it

# --- how much of a change its strongest terms keep ------------------------------------------


def _energy_share(values: Sequence[float], k: int) -> float:
    """The share of a change's energy that its k strongest terms keep, 0 to 1.

    `values` are its singular values, falling; the energy is the sum of their squares.
    """
    return sum(value**2 for value in values[:k]) / sum(value**2 for value in values)


def _spectra() -> Iterator[Case]:
    """Singular values that fall fast, slowly, and not at all."""
    for values in ([4.0, 2.0, 1.0, 0.5], [3.0, 2.5, 2.0, 1.5, 1.0], [2.0, 2.0, 2.0]):
        for k in (1, 2):
            yield {"values": list(values), "k": k}


energy_share = Exercise(
    _energy_share,
    _spectra,
    slips={
        "these are shares of the values themselves; energy is their squares": (
            lambda values, k: sum(values[:k]) / sum(values)
        ),
        "this is the share of the norm, √ of the energy's; leave the root out": (
            lambda values, k: math.sqrt(_energy_share(values, k))
        ),
        "this is the energy that is lost; the share that is kept is 1 minus it": (
            lambda values, k: 1 - _energy_share(values, k)
        ),
        "these are the weakest k terms; the values fall, so the strongest stand first": (
            lambda values, k: _energy_share(values[::-1], k)
        ),
        "this is the energy of the k-th term alone; sum those of the first k": (
            lambda values, k: values[k - 1] ** 2 / sum(value**2 for value in values)
        ),
        "this keeps k + 1 terms; values[:k] holds k of them": (
            lambda values, k: _energy_share(values, k + 1)
        ),
        "this is not yet a share; divide by the energy of all the terms": (
            lambda values, k: sum(value**2 for value in values[:k])
        ),
        "this is in percent; give a share between 0 and 1": (
            lambda values, k: 100 * _energy_share(values, k)
        ),
    },
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

# --- an elbow -------------------------------------------------------------------------------


def _read_elbow(scores: Mapping[int, Sequence[float]], margin: float) -> int:
    """The least rank whose mean score is at most `margin` below the best mean of all ranks.

    `scores`: by rank, a score for each seed; higher is better.
    """
    means = {r: mean(of_seeds) for r, of_seeds in scores.items()}
    return min(r for r in means if means[r] >= max(means.values()) - margin)


def _swept() -> Iterator[Case]:
    """An elbow; ranks out of order and a lucky seed; the best rank in the middle; flat lines."""
    yield {
        "scores": {1: [0.3, 0.34], 2: [0.6, 0.64], 4: [0.9, 0.92], 8: [0.93, 0.95]},
        "margin": 0.05,
    }
    yield {
        "scores": {16: [0.9, 0.9, 0.9], 2: [0.88, 0.5, 0.6], 8: [0.85, 0.88, 0.91]},
        "margin": 0.05,
    }
    yield {"scores": {1: [0.75, 0.75], 4: [0.9, 0.9], 16: [0.8, 0.8]}, "margin": 0.12}
    yield {"scores": {2: [0.9, 0.98], 4: [0.99, 0.99], 8: [0.99, 1.0]}, "margin": 0.06}
    yield {"scores": {8: [0.9, 0.9], 4: [0.9, 0.9], 2: [0.88, 0.88], 1: [0.5, 0.5]}, "margin": 0.05}


def _compared_by(value: Function) -> Function:
    """A slip: ranks are compared by another value of their seeds than the mean."""

    def slip(scores: Mapping[int, Sequence[float]], margin: float) -> int:
        values = {r: value(of_seeds) for r, of_seeds in scores.items()}
        return min(r for r in values if values[r] >= max(values.values()) - margin)

    return slip


def _by_means(chosen: Function) -> Function:
    """A slip: another choice from the means by rank and the margin."""
    return lambda scores, margin: chosen(
        {r: mean(of_seeds) for r, of_seeds in scores.items()}, margin
    )


read_elbow = Exercise(
    _read_elbow,
    _swept,
    slips={
        "this is the best rank; the elbow is the least rank that is nearly as good": (
            _by_means(lambda means, margin: max(means, key=means.get))
        ),
        "this takes each rank's best seed; take the mean of its seeds": _compared_by(max),
        "this takes each rank's worst seed; take the mean of its seeds": _compared_by(min),
        "this compares with the highest rank; a lower one may be the best": (
            _by_means(
                lambda means, margin: min(
                    r for r in means if means[r] >= means[max(means)] - margin
                )
            )
        ),
        "this takes the first rank in the order given; the least of them is wanted": (
            _by_means(
                lambda means, margin: next(
                    r for r in means if means[r] >= max(means.values()) - margin
                )
            )
        ),
        "this is the highest rank within the margin; the least is the elbow": (
            _by_means(
                lambda means, margin: max(
                    r for r in means if means[r] >= max(means.values()) - margin
                )
            )
        ),
        "no margin is left here; ranks at most `margin` below the best are as good": (
            lambda scores, margin: _read_elbow(scores, 0)
        ),
    },
)

# --- a count --------------------------------------------------------------------------------


def _adapter_count(shapes: Shapes, r: int, rank_pattern: Mapping[str, int]) -> int:
    """How many parameters LoRA trains: r for every matrix, but where `rank_pattern` has another.

    `shapes`: by name, (out, in) of each adapted matrix; `rank_pattern`: by name, as PEFT's.
    """
    return sum(rank_pattern.get(name, r) * (out + wide) for name, (out, wide) in shapes.items())


def patterned() -> Iterator[Case]:
    """Four matrices of a layer, of which two, one or no matrix has a rank of its own."""
    shapes = {"q_proj": (24, 24), "k_proj": (8, 24), "up_proj": (40, 24), "down_proj": (24, 40)}
    for r, pattern in ((4, {"k_proj": 2, "up_proj": 7}), (8, {"down_proj": 1}), (3, {})):
        yield {"shapes": dict(shapes), "r": r, "rank_pattern": pattern}


def _count_by(parameters: Function) -> Function:
    """A slip: the count with another number for a matrix, a function of (rank, out, in)."""

    def slip(shapes: Shapes, r: int, rank_pattern: Mapping[str, int]) -> int:
        ranks = {name: rank_pattern.get(name, r) for name in shapes}
        return sum(parameters(ranks[name], *shape) for name, shape in shapes.items())

    return slip


adapter_count = Exercise(
    _adapter_count,
    patterned,
    slips={
        "the pattern has no say here; where it names a matrix, its rank holds": (
            lambda shapes, r, rank_pattern: _adapter_count(shapes, r, {})
        ),
        "only the matrices that the pattern names are counted; the others have rank r": (
            lambda shapes, r, rank_pattern: _adapter_count(
                {name: shapes[name] for name in rank_pattern}, r, rank_pattern
            )
        ),
        "the pattern's rank is added to r here; it stands in r's place": (
            lambda shapes, r, rank_pattern: _adapter_count(
                shapes, r, {name: r + own for name, own in rank_pattern.items()}
            )
        ),
        "this counts B alone; A has r * in numbers more": (
            _count_by(lambda rank, out, wide: rank * out)
        ),
        "this counts A alone; B has out * r numbers more": (
            _count_by(lambda rank, out, wide: rank * wide)
        ),
        "these are the numbers of a full change, out * in, times the rank; A and B are thin": (
            _count_by(lambda rank, out, wide: rank * out * wide)
        ),
        "the frozen matrices are counted too; only A and B are trained": (
            _count_by(lambda rank, out, wide: rank * (out + wide) + out * wide)
        ),
    },
)
