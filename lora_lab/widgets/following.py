"""A training followed to its end, or to Stop, and shown at a pace that leaves it its time."""

import time
from collections.abc import Callable, Sequence

from lora_lab.records import StepRecord
from lora_lab.training.loop import Training
from lora_lab.widgets.background import Background, Pace

FRAMES, DRAWING = 5, 0.08  # pictures a second at most, and their share of the time at most
UPDATES = 10  # state lines a second at most: each is a message to the browser

Show = Callable[[Sequence[StepRecord]], None]


def follow(
    training: Training,
    work: Background,
    tell: Show,
    draw: Show | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the end, or until `work` is asked to stop: that takes one step at most.

    Args:
        training: what to follow; its records are what is shown.
        work: the thread that this runs in.
        tell: says how far it is.
        draw: makes a picture; None: there is none.
        enough: asked after each step; where it says yes, no other follows.
    """
    drawing, telling = Pace(FRAMES, DRAWING), Pace(UPDATES)
    for _ in training:
        if telling.due and not work.stopped:
            with telling.turn():
                tell(training.records)
        if draw is not None and drawing.due:
            with drawing.turn():
                draw(training.records)
        if work.stopped or enough():
            return
        time.sleep(0)  # whoever waits for Python's lock, such as the kernel, is next
