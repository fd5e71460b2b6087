"""Records of what runs report: plain numbers and words, safe to store, plot and compare."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StepRecord:
    """An optimizer step. Times do not count for equality: two equal runs have equal records."""

    step: int  # from 1
    loss: float  # mean over the step's tokens that carry a label, in nats, before the update
    learning_rate: float  # used by this step
    grad_norm: float  # before clipping
    tokens: int  # input tokens of this step, without padding
    validation_loss: float | None = None  # every `eval_steps` steps, after the update
    seconds: float = field(default=0.0, compare=False)  # of this step, validation left out
    orthogonality: float | None = None  # AdaLoRA's term, before the update and not yet weighted:
    # training minimises loss + orth_reg_weight * orthogonality
    ranks: dict[str, int] | None = None  # by layer, at AdaLoRA's allocations: kept after this step


@dataclass(frozen=True, slots=True)
class Answer:
    """A question of a test, with the model's answer."""

    prompt: str
    expected: str
    given: str
    right: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's scores on a split of a task. Shares lie between 0 and 1."""

    metric_name: str
    value: float  # of the task's own metric
    metrics: dict[str, float]  # of every metric that fits the task, its own included
    old_knowledge: float | None  # share of old facts still right; None: the task has none
    strangers: float | None  # share of strangers still answered "not known"; None: none there
    loss: float  # nats per answer token
    answers: tuple[Answer, ...]
    split: str


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory that training takes, in bytes: each part at its largest, and all at the peak.

    `total` is often below the parts' sum: activations are freed while gradients are made.
    """

    weights: int  # the base's and, in full fine-tuning, the loop's copies that are trained
    adapters: int  # weights trained beside the base, and the loop's copies of them
    gradients: int
    optimizer: int  # its state
    activations: int  # kept from the forward pass for the backward pass
    logits: int  # the output layer's, and their loss
    total: int  # at the peak


@dataclass(frozen=True, slots=True)
class Budget:
    """The cost of a fine-tune, estimated before it runs."""

    trainable_parameters: int
    total_parameters: int  # the base's and the adapter's
    flops_per_step: float | None  # forward and backward, all batches of a step; None: unknown
    memory: Memory | None  # of this lab's loop; None: unknown for this kind of model
    usual_memory: Memory | None = None  # of a loop without this lab's copies, as papers count it:
    # full fine-tuning in float32, or on a 16-bit base in mixed precision; None: unknown
    # Of the tensors of transformers' Trainer with PEFT on a GPU, by which cards are judged; None:
    # unknown, or the budget of a run, which this lab's own loop made.
    trainer_memory: Memory | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """The result of a check, with a sentence that explains it. True if the check passed."""

    passed: bool
    message: str  # plain text, to be escaped in HTML

    def __repr__(self) -> str:
        """`Correct: …` or `Not yet: …`, as a notebook shows a cell's value."""
        return f"{'Correct' if self.passed else 'Not yet'}: {self.message}"

    def __bool__(self) -> bool:
        return self.passed
