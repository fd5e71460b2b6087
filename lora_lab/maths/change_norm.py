"""The size of a change of low rank, from its thin factors: the change itself is never formed.

‖BA‖² = trace(Aᵀ Bᵀ B A) = trace(BᵀB · AAᵀ). Both factors of the last product are small, (r, r), and
symmetric, so its trace is the sum of their elementwise product. A 4096 × 4096 change of rank 16
takes 256 numbers instead of 16.8 million.
"""

import math
from typing import Any


def change_norm(lora_A: Any, lora_B: Any, scaling: float) -> float:
    """The Frobenius norm of ΔW = scaling * BA.

    Rounding moves it by about √ε of ‖B‖ ‖A‖, with ε of the factors' dtype: give float64 where B and
    A nearly cancel.

    Args:
        lora_A: (r, in): a tensor of torch, or an array of numpy.
        lora_B: (out, r), of the same kind.
        scaling: as in `LoRALinear.scaling`.

    Raises:
        ValueError: for factors that aren't matrices, or differ in rank.
    """
    shapes = tuple(lora_A.shape), tuple(lora_B.shape)
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][1]:
        raise ValueError(
            f"lora_A {shapes[0]} and lora_B {shapes[1]} aren't factors of a change; give A (r, in) "
            "and B (out, r)"
        )
    gram_A = lora_A @ lora_A.T  # (r, in) @ (in, r) -> (r, r)
    gram_B = lora_B.T @ lora_B  # (r, out) @ (out, r) -> (r, r)
    squared = float((gram_A * gram_B).sum())
    return abs(scaling) * math.sqrt(max(squared, 0.0))  # rounding may leave a little below 0
