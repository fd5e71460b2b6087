"""What runs report: frozen records of plain numbers and words, safe to store, plot and compare."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step. Times take no part in equality: two equal runs have equal records."""

    step: int  # from 1
    loss: float  # mean over the step's tokens that carry a label, in nats, before the update
    learning_rate: float  # used by this step
    grad_norm: float  # before clipping
    tokens: int  # input tokens of this step, without padding
    validation_loss: float | None = None  # every `eval_steps` steps, after the update
    seconds: float = field(default=0.0, compare=False)  # of this step, validation left out
    orthogonality: float | None = None  # AdaLoRA's term, before the update and not yet weighted:
    # what is trained on is loss + orth_reg_weight * orthogonality
    ranks: dict[str, int] | None = None  # by layer, at AdaLoRA's allocations: kept after this step


@dataclass(frozen=True, slots=True)
class Answer:
    """One question of a test, with the model's answer."""

    prompt: str
    expected: str
    given: str
    right: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's marks on one split of a task. Shares lie between 0 and 1."""

    metric_name: str
    value: float  # of the task's own metric
    metrics: dict[str, float]  # of every metric that fits the task, the own one among them
    old_knowledge: float | None  # share of old facts still right; None: the task has none
    strangers: (
        float | None
    )  # share of strangers still answered "not known"; None: the task has none
    loss: float  # nats per answer token
    answers: tuple[Answer, ...]
    split: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What training holds, in bytes: each part at its most, and all together at the peak.

    `total` is at most the parts' sum, and often below it: activations go as gradients come.
    """

    weights: int  # the base's, and those that full fine-tuning trains, with the loop's copies
    adapters: int  # what is trained beside the base, and the loop's copies of it
    gradients: int
    optimizer: int  # its state
    activations: int  # what the backward pass needs of the forward pass
    logits: int  # the output layer's, and their loss
    total: int  # at the peak


@dataclass(frozen=True, slots=True)
class Budget:
    """What a fine-tune costs, told before it runs."""

    trainable_parameters: int
    total_parameters: int  # the base's and the adapter's
    flops_per_step: float | None  # forward and backward, all batches of a step; None: not known
    memory: Memory | None  # of this lab's loop; None: not known for this kind of model
    usual_memory: Memory | None = None  # of a loop without copies of its own: what papers count;
    # full fine-tuning in float32, or on a 16-bit base in mixed precision; None: not known, not told


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """What a check found, in one sentence. It counts as true where it passed."""

    passed: bool
    message: str  # plain text: whoever puts it into HTML escapes it

    def __repr__(self) -> str:
        """`Correct: …` or `Not yet: …`: as a cell's value, this is what a notebook shows."""
        return f"{'Correct' if self.passed else 'Not yet'}: {self.message}"

    def __bool__(self) -> bool:
        return self.passed
