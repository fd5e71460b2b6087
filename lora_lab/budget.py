"""Parameters, memory and FLOPs of a fine-tune, by arithmetic on a model's shape."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Matrix:
    """One linear layer or embedding of a model, by the name under which the model keeps it."""

    name: str  # "model.layers.0.self_attn.q_proj"
    in_features: int  # an embedding's number of tokens
    out_features: int  # an embedding's width
    bias: bool = False
    kind: str = "linear"  # "embedding" | "output": these are no part of "all-linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All that a budget needs to know of a model: its matrices, and a few sizes."""

    name: str
    matrices: tuple[Matrix, ...]  # in the model's own order; a tied output matrix is not repeated
    other_parameters: int  # norms, and whatever else is no matrix and no bias of one
    tied: bool  # the output layer multiplies with the input embedding
    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
