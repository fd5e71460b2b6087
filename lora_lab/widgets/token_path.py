"""A prompt and its answer through a model, token by token, with the labels to be chosen."""

from collections.abc import Mapping

from lora_lab import plots
from lora_lab.lessons.token_path import follow, read
from lora_lab.models.bases import Base
from lora_lab.tasks.examples import Example
from lora_lab.widgets.toggle import Toggle

SIZE = (940, 280)  # pixels: ten tokens side by side
LABELLINGS = {  # a button's words: the labelling
    "labels on the answer": "answer",
    "on every token": "all",
    "moved twice": "moved twice",
}


class TokenPath(Toggle):
    """A row of tokens; the buttons choose which of them have labels. `path` has the numbers."""

    def __init__(self, base: Base, example: Example) -> None:
        path = self.path = follow(base, example)
        pictures = {
            words: plots.picture(
                plots.draw_path,
                path.tokens,
                path.guesses,
                [None if token is None else path.tokens[token] for token in path.asked(labelling)],
                path.losses(labelling),
                size=SIZE,
            )
            for words, labelling in LABELLINGS.items()
        }
        super().__init__(f"One row of tokens through {base.name}", pictures)

    def __repr__(self) -> str:
        return f"TokenPath: {''.join(self.path.tokens)}"


class NoteReading(Toggle):
    """Where a base looks in each of several prompts before it answers; a button for each prompt.

    `readings` has the numbers, by a button's words.
    """

    def __init__(self, base: Base, prompts: Mapping[str, str]) -> None:
        self.readings = {words: read(base, prompt) for words, prompt in prompts.items()}
        pictures = {
            words: plots.picture(
                plots.draw_reading,
                reading.sentences,
                reading.shares,
                reading.answer,
                size=(720, 250),
            )
            for words, reading in self.readings.items()
        }
        super().__init__(f"What {base.name} reads", pictures)

    def __repr__(self) -> str:
        answers = (f"{words}: “{reading.answer}”" for words, reading in self.readings.items())
        return f"NoteReading: {' · '.join(answers)}"
