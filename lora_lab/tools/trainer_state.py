"""trainer_state.json: the curves of a training that transformers' Trainer logged."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

Point = tuple[float, float]  # a step, and what was logged there


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState:
    """The curves of a training, and how far it came."""

    source: str
    losses: tuple[Point, ...]
    eval_losses: tuple[Point, ...]
    grad_norms: tuple[Point, ...]
    learning_rates: tuple[Point, ...]
    steps: int  # done
    planned: int  # planned; 0: not known
    epochs: float | None = None
    batch_size: int | None = None
    stopped_early: bool = False  # by a callback, so on purpose


def read(values: Mapping[str, object], source: str) -> TrainerState:
    """The curves in a trainer_state.json.

    Raises:
        ValueError: if the log is not a list of records.
    """
    log = values.get("log_history")
    if not isinstance(log, list) or not all(isinstance(entry, Mapping) for entry in log):
        raise ValueError(
            f"{source} holds a log_history that isn't a list of records; give the "
            "trainer_state.json that transformers' Trainer wrote"
        )
    control = values.get("stateful_callbacks")
    control = control if isinstance(control, Mapping) else {}
    return TrainerState(
        source=source,
        losses=_curve(log, "loss"),
        eval_losses=_curve(log, "eval_loss"),
        grad_norms=_curve(log, "grad_norm"),
        learning_rates=_curve(log, "learning_rate"),
        steps=int(_number(values.get("global_step")) or 0),
        planned=int(_number(values.get("max_steps")) or 0),
        epochs=_number(values.get("epoch")),
        batch_size=int(_number(values.get("train_batch_size")) or 0) or None,
        stopped_early="EarlyStoppingCallback" in control,
    )


def _curve(log: list[Mapping], name: str) -> tuple[Point, ...]:
    """The values that were logged under a name, by step; JSON's NaN and null count as NaN."""
    found = []
    for place, entry in enumerate(log):
        if name in entry:
            step = _number(entry.get("step"))
            value = _number(entry[name])
            found.append((place if step is None else step, math.nan if value is None else value))
    return tuple(found)


def _number(value: object) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if good and abs(value) < 1e300 or value != value else None
