"""What a training program decides beside the recipe, and what shows in its memory on a GPU."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stack:
    """The choices of a training program, such as transformers' Trainer with PEFT.

    The defaults are that Trainer's, with `bf16=True` or `fp16=True`, and PEFT's
    `prepare_model_for_kbit_training` before it where the base is quantised.
    """

    autocast: bool = True  # products are in 16 bits, whatever their inputs are
    adapters: str = "float32"  # or "16-bit": PEFT before 0.12, litgpt, torchtune
    # What a quantised base's embeddings, norms and output layer are. "float32": as PEFT's
    # `prepare_model_for_kbit_training` makes them; "norms": only norms are float32, as in TRL's
    # SFTTrainer; "16-bit": they stay as loaded. Norms in float32 make all that passes between
    # layers float32.
    beside: str = "float32"
    loss: str = "whole"  # float32 logits of all positions at once; "chunks": in 16 bits, by chunk
    eager: bool = False  # attention keeps the scores of all heads, each (tokens, tokens)
    # Full fine-tuning of a 16-bit base updates float32 weights, as in mixed precision. False: the
    # 16-bit weights themselves are updated.
    exact_weights: bool = True


TRAINER = Stack()
