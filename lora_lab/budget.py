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
    tied: bool = False  # its weights are those of an earlier matrix: one tensor for both

    @property
    def weights(self) -> int:
        """How many numbers the matrix holds, its bias left out."""
        return self.in_features * self.out_features

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return self.weights + self.bias * self.out_features


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All that a budget needs to know of a model: its matrices, and a few sizes."""

    name: str
    matrices: tuple[Matrix, ...]  # in the model's own order
    others: tuple[tuple[str, int], ...]  # norms, and what else is no matrix: module, parameters
    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int

    @property
    def other_parameters(self) -> int:
        """Norms, and whatever else is no matrix and no bias of one."""
        return sum(count for _, count in self.others)

    @property
    def parameters(self) -> int:
        """All of the model's parameters; a tied matrix is counted once."""
        whole = sum(one.parameters for one in self.matrices) + self.other_parameters
        return whole - sum(one.weights for one in self.matrices if one.tied)

    @property
    def tied(self) -> bool:
        """Whether the output layer multiplies with the input embedding."""
        return any(one.tied and one.kind == "output" for one in self.matrices)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one pass through the model works on."""

    examples: int
    length: int  # tokens of the longest example: the others are padded to it
    places: int  # positions at which logits are computed: some example has a label there
