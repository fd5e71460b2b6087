"""Checks for notebook 01, Should I fine-tune?: marking answers, a leaking split, the cost."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.prompting import few_shot
from lora_lab.training.evaluation import generate
from lora_lab.training.fit import fit
from lora_lab.wording import percent

# --- a metric done right --------------------------------------------------------------------


def _right_share(expected: Sequence[str], given: Sequence[str]) -> float:
    """The share of answers, 0 to 1, that are the expected JSON object: same keys, same values.

    White space and the order of the keys do not count. Words around the object, another key, or no
    JSON at all make an answer wrong; a wrong answer still counts among the answers.
    """
    return sum(_same_object(*pair) for pair in zip(expected, given, strict=True)) / len(expected)


def _same_object(expected: str, given: str) -> bool:
    return _loaded(given) == json.loads(expected)


def _loaded(text: str) -> object:
    """The value of a JSON text; None where it isn't JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _answers() -> Iterator[Case]:
    """Right; right in another order; wrong; too much; too little; talk around it; nothing."""
    lamp, fan = '{"intent": "TurnOn", "room": "hall"}', '{"intent": "SetSpeed", "percent": 40}'
    pairs = [
        (lamp, lamp),
        (lamp, '{"room":"hall",  "intent":"TurnOn"}'),
        (lamp, '{"intent": "TurnOff", "room": "hall"}'),
        (lamp, '{"intent": "turnon", "room": "Hall"}'),
        (lamp, '{"intent": "TurnOn"}'),
        (lamp, '{"intent": "TurnOn", "room": "hall", "sure": true}'),
        (fan, f"Sure! Here it is: {fan}"),
        (fan, fan),
        (fan, "To set the speed, you can use the following"),
        (fan, ""),
        (fan, '["SetSpeed", 40]'),
        (fan, '{"intent": "SetSpeed", "percent": "40"}'),
        (fan, '{"percent": 40, "intent": "SetSpeed"}'),
    ]
    for chosen in (pairs, pairs[:6], pairs[6:], pairs[2:6] + pairs[8:9]):
        expected, given = zip(*chosen, strict=True)
        yield {"expected": expected, "given": given}


def _by_text(expected: Sequence[str], given: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(expected, given, strict=True)) / len(expected)


def _somewhere(expected: Sequence[str], given: Sequence[str]) -> float:
    right = sum(_same_object(a, b) or a in b for a, b in zip(expected, given, strict=True))
    return right / len(expected)


def _of_the_readable(expected: Sequence[str], given: Sequence[str]) -> float:
    pairs = [pair for pair in zip(expected, given, strict=True) if _loaded(pair[1]) is not None]
    return sum(_same_object(*pair) for pair in pairs) / len(pairs)


def _any_json(expected: Sequence[str], given: Sequence[str]) -> float:
    return sum(isinstance(_loaded(text), dict) for text in given) / len(given)


def _intent_alone(expected: Sequence[str], given: Sequence[str]) -> float:
    right = sum(
        isinstance(answer, dict) and answer.get("intent") == json.loads(text)["intent"]
        for text, answer in zip(expected, map(_loaded, given), strict=True)
    )
    return right / len(expected)


def _in_lower_case(expected: Sequence[str], given: Sequence[str]) -> float:
    return _right_share([text.lower() for text in expected], [text.lower() for text in given])


TRIAL = Recipe(steps=60, batch_size=16, learning_rate=3e-3, max_length=96)  # of pocket, seconds
EXAMPLES, QUESTIONS = 200, 100


def _trial(function: Function) -> Verdict:
    """Ask pocket for invoices in three ways, and mark them with the learner's function."""
    base = load_base("pocket", dtype="float32")
    task = load_task("json", base, n=EXAMPLES)
    asked = [example.prompt for example in task.test[:QUESTIONS]]
    expected = tuple(example.answer for example in task.test[:QUESTIONS])
    worked = [*map(few_shot(base.tokenizer, task, 1), asked)]
    tuned = fit(base, task, TRIAL, store=None, evaluate=False)
    ways = {"bare": (base, asked), "one worked example": (base, worked), "LoRA": (tuned, asked)}
    marked = []
    for name, (model, prompts) in ways.items():
        given = tuple(generate(model, prompts))
        marked.append(f"{name} {percent(function(expected=expected, given=given))}")
    return Verdict(
        True,
        f"It marked {QUESTIONS} invoices that pocket read in three ways: {', '.join(marked)}. "
        f"LoRA was trained just now, on {EXAMPLES} examples.",
    )


right_share = Exercise(
    _right_share,
    _answers,
    slips={
        "two texts are compared here; the same object can be written with other white space, or "
        "its keys in another order: compare what json.loads gives": _by_text,
        "an answer counts here if the object stands somewhere in it; what reads the answer would "
        "fail on the words around it": _somewhere,
        "answers that aren't JSON are left out here; a model that rambles would look better for "
        "it: divide by all of them": _of_the_readable,
        "every JSON object counts here; the form is right, but is the content?": _any_json,
        "the intent alone is compared here; the other keys count, too": _intent_alone,
        "case does not count here, but in a JSON value it does": _in_lower_case,
        "these are per cent; give a share between 0 and 1": (
            lambda expected, given: 100 * _right_share(expected, given)
        ),
        "this is the number of right answers; divide by how many there are": (
            lambda expected, given: _right_share(expected, given) * len(expected)
        ),
        "this is the share of wrong answers": (
            lambda expected, given: 1 - _right_share(expected, given)
        ),
    },
    trial=_trial,
)

# --- a split that does not leak -------------------------------------------------------------

Split = tuple[list[int], list[int]]  # the places of the rows to train on, and to test with


def _split_by_template(templates: Sequence[str], count: int) -> Split:
    """The places of the rows for training and for the test, each in rising order.

    `templates` names the template of each row. Whole templates go to the test, from the template
    whose first row comes last backwards, until the test has `count` rows or more.
    """
    latest_first = reversed(list(dict.fromkeys(templates)))
    return _where(templates, _held_out(latest_first, templates, count))


def _held_out(order: Iterable[str], templates: Sequence[str], count: int) -> set[str]:
    """The first templates of this order that together have `count` rows or more."""
    held_out: set[str] = set()
    for template in order:
        if sum(name in held_out for name in templates) >= count:
            break
        held_out.add(template)
    return held_out


def _where(templates: Sequence[str], held_out: set[str]) -> Split:
    places = range(len(templates))
    return (
        [place for place in places if templates[place] not in held_out],
        [place for place in places if templates[place] in held_out],
    )


def _template_rows() -> Iterator[Case]:
    """Templates apart, mixed, and of unequal size."""
    yield {"templates": tuple("aaabbccdd"), "count": 3}
    yield {"templates": tuple("abcabcddabc"), "count": 3}
    yield {"templates": tuple("abacabadab"), "count": 2}
    yield {"templates": tuple("aabbbbbbcc"), "count": 2}


def _last_rows(templates: Sequence[str], count: int) -> Split:
    places = list(range(len(templates)))
    return places[:-count], places[-count:]


def _cut_to_count(templates: Sequence[str], count: int) -> Split:
    _, test = _split_by_template(templates, count)
    kept = test[:count]
    return [place for place in range(len(templates)) if place not in kept], kept


def _dropped(templates: Sequence[str], count: int) -> Split:
    train, test = _split_by_template(templates, count)
    return train, test[:count]


def _in_both(templates: Sequence[str], count: int) -> Split:
    return list(range(len(templates))), _split_by_template(templates, count)[1]


def _first_templates(templates: Sequence[str], count: int) -> Split:
    return _where(templates, _held_out(dict.fromkeys(templates), templates, count))


def _one_template_more(templates: Sequence[str], count: int) -> Split:
    held_out = {templates[place] for place in _split_by_template(templates, count)[1]}
    rest = [template for template in dict.fromkeys(templates) if template not in held_out]
    return _where(templates, held_out | {*rest[-1:]})


def _counts_templates(templates: Sequence[str], count: int) -> Split:
    return _where(templates, {*list(dict.fromkeys(templates))[-count:]})


split_by_template = Exercise(
    _split_by_template,
    _template_rows,
    slips={
        "rows are split here, whatever their template: a template that is in both parts gives its "
        "answers away; move whole templates": _last_rows,
        "a template is cut here to get just `count` rows, and its other rows are trained on; take "
        "all of them": _cut_to_count,
        "rows of the held-out templates are lost here: they are in neither part": _dropped,
        "the test's rows are among those to train on, too": _in_both,
        "the templates that appear first are held out here; begin with the last": _first_templates,
        "one template too many is held out; stop as soon as the test has `count` rows": (
            _one_template_more
        ),
        "`count` counts rows, not templates": _counts_templates,
        "the two parts are the wrong way round: training first, then the test": (
            lambda templates, count: _split_by_template(templates, count)[::-1]
        ),
    },
)

# --- what it costs --------------------------------------------------------------------------


def _answers_to_break_even(
    setup_cost: float, tokens_prompted: float, tokens_tuned: float, price_per_million: float
) -> float:
    """The number of answers after which a fine-tune has paid for itself, a whole number.

    The tuned model's prompt has `tokens_tuned` tokens in place of `tokens_prompted`. A million
    tokens cost `price_per_million`. If nothing is saved, the number is math.inf.
    """
    saved = _saved(tokens_prompted, tokens_tuned, price_per_million)
    return math.ceil(setup_cost / saved) if saved > 0 else math.inf


def _saved(tokens_prompted: float, tokens_tuned: float, price_per_million: float) -> float:
    return (tokens_prompted - tokens_tuned) * price_per_million / 1e6


def _costs() -> Iterator[Case]:
    """Paid back late and soon; never, since the prompt grows or stays, or tokens are free."""
    names = "setup_cost", "tokens_prompted", "tokens_tuned", "price_per_million"
    for costs in (
        (40.0, 412, 18, 0.6),
        (7.0, 1500, 30, 3.0),
        (40.0, 18, 412, 0.6),
        (40.0, 18, 18, 0.6),
        (40.0, 412, 18, 0.0),
    ):
        yield dict(zip(names, costs, strict=True))


def _break_even(whole: Function = math.ceil, saved: Function = _saved) -> Function:
    """A slip: another rounding, or another formula for the money that an answer saves."""
    return lambda setup_cost, **costs: (
        whole(setup_cost / saved(**costs)) if saved(**costs) > 0 else math.inf
    )


answers_to_break_even = Exercise(
    _answers_to_break_even,
    _costs,
    slips={
        "the price is that of a million tokens; divide it by 1e6": (
            _break_even(saved=lambda **costs: 1e6 * _saved(**costs))
        ),
        "the tuned model reads a prompt, too; only the difference is saved": (
            lambda setup_cost, tokens_prompted, tokens_tuned, price_per_million: (
                _answers_to_break_even(setup_cost, tokens_prompted, 0, price_per_million)
            )
        ),
        "answers are whole: round up, since before the last one it is not paid back": (
            _break_even(whole=lambda answers: answers)
        ),
        "rounded down, it is not quite paid back; round up": (_break_even(whole=math.floor)),
        "a longer prompt saves nothing, and a number of answers below 0 cannot be: give math.inf": (
            lambda setup_cost, **costs: (
                math.ceil(setup_cost / _saved(**costs)) if _saved(**costs) else math.inf
            )
        ),
        "where nothing is saved it is never paid back: that is math.inf, not 0": (
            lambda setup_cost, **costs: (
                math.ceil(setup_cost / _saved(**costs)) if _saved(**costs) > 0 else 0
            )
        ),
        "if nothing is saved there is nothing to divide by; ask first": (
            lambda setup_cost, **costs: math.ceil(setup_cost / _saved(**costs))
        ),
        "the sign is turned: what is saved is the long prompt less the short one": (
            lambda setup_cost, tokens_prompted, tokens_tuned, price_per_million: (
                _answers_to_break_even(setup_cost, tokens_tuned, tokens_prompted, price_per_million)
            )
        ),
    },
)
