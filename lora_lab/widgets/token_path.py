"""A prompt and its answer through a model, token by token, with the labels to be chosen."""

from lora_lab import plots
from lora_lab.lessons.token_path import follow
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
    """One row of tokens; the buttons say which of them have labels. `path` has the numbers."""

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
