"""The playground as a workshop's page: a link for each exercise, with the other controls hidden.

A link's text after `#` holds settings and `hide=`, the parts that learners should not see yet.
`lora_lab/web/page/settings.mjs` reads it; what a link leaves out is the task's usual setting.
"""

from dataclasses import dataclass

PARTS = tuple(  # that a link may hide, as settings.mjs lists them
    "guess task r lora_alpha learning_rate modules steps seed more loss prompts inside compare own "
    "take".split()
)


@dataclass(frozen=True)
class Exercise:
    """One exercise on the page."""

    lesson: str  # the notebook that goes on from here
    question: str
    do: str
    shown: tuple[str, ...]  # the parts that are not hidden; the film of questions always is there
    settings: str = "task=new-facts&n=60"

    @property
    def link(self) -> str:
        """The link's text after `#`."""
        hidden = ",".join(part for part in PARTS if part not in self.shown)
        return f"{self.settings}&hide={hidden}" if hidden else self.settings


EXERCISES = (
    Exercise(
        "00_start_here",
        "What does a fine-tune cost?",
        "Guess how many old facts survive, then press Train. Read the answers before and after.",
        ("guess", "prompts"),
    ),
    Exercise(
        "10_batch_steps_rate",
        "When is it enough?",
        "Keep a run of 20 steps, of 60 and of 150. What did each learn, and what did it forget?",
        ("steps", "loss", "compare"),
    ),
    Exercise(
        "10_batch_steps_rate",
        "Which learning rate?",
        "Find the best one in five runs. Try one that is far too high, and read the loss.",
        ("learning_rate", "loss", "compare"),
    ),
    Exercise(
        "04_reading_a_run",
        "Is this difference real?",
        "Press 3 seeds at two learning rates. Do the two bands overlap?",
        ("learning_rate", "loss", "compare"),
    ),
    Exercise(
        "05_rank",
        "What should r be?",
        "Keep rank 1, 8 and 64 at the same alpha. Guess first which one forgets most.",
        ("r", "loss", "compare"),
    ),
    Exercise(
        "06_alpha",
        "What does alpha do?",
        "Double alpha. Then find the learning rate at which the two runs look alike.",
        ("lora_alpha", "learning_rate", "loss", "compare"),
    ),
    Exercise(
        "07_target_modules",
        "Which layers?",
        "Train the attention alone, then the MLP alone. Give them equally many numbers by r.",
        ("modules", "r", "compare"),
    ),
    Exercise(
        "03_the_maths_of_lora",
        "What changes inside?",
        "Watch W, B and A of one module while it trains. Which of them stays as it was?",
        ("r", "steps", "inside"),
    ),
    Exercise(
        "14_your_data",
        "Can it learn my own rows?",
        "Paste twenty rows of your own. How many test questions are right?",
        ("task", "steps", "loss", "prompts", "own"),
        "task=sentiment",
    ),
    Exercise(
        "13_ship_it",
        "How do I take it home?",
        "Nothing is hidden. Save the adapter, and copy the code for PEFT.",
        PARTS,
    ),
)
