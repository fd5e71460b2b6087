"""The singular values of a change of low rank, and the directions in which it moves the weight.

ΔW = scaling * BA is a large matrix, but its rank is at most r. With B = Q_B R_B and Aᵀ = Q_A R_A
(QR of the factors), ΔW = Q_B (scaling * R_B R_Aᵀ) Q_Aᵀ. The core in the middle is small, (r, r),
and an SVD of the core gives the SVD of ΔW.

All is computed in float64 on the CPU, without gradients. Every function raises a ValueError for
shapes that don't fit each other, ranks out of range, NaN and infinity.
"""

import torch
from torch import Tensor


def singular_values(lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """The singular values of ΔW = scaling * BA, the largest first.

    Args:
        lora_A: (r, in).
        lora_B: (out, r).
        scaling: above 0, as in `LoRALinear.scaling`.

    Returns:
        (min(r, out, in),), float64. The other singular values of ΔW are 0.
    """
    return _svd(lora_A, lora_B, scaling)[1]


def energy_kept(values: Tensor) -> Tensor:
    """The share of a change that its best approximation of each rank keeps (Eckart, Young, 1936).

    Args:
        values: the singular values of the change, (n,), the largest first, not all zero.

    Returns:
        (n,), float64. Entry k - 1 is (σ₁² + ... + σ_k²) / (σ₁² + ... + σ_n²): the share of the
        squared Frobenius norm that the nearest matrix of rank k keeps. It rises to 1.
    """
    energies = _checked(values).square()
    return energies.cumsum(0) / energies.sum()


def effective_rank(values: Tensor) -> float:
    """How many directions a change uses, where weak directions count less.

    exp(-Σ p_i ln p_i), with p_i = σ_i / Σ σ: 1 for one direction, n for n equally strong ones. Roy
    and Vetterli, 2007, "The effective rank: a measure of effective dimensionality".
    """
    values = _checked(values)
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item()  # entr(p) = -p ln p, and 0 for p = 0


def stable_rank(values: Tensor) -> float:
    """‖ΔW‖²_F / ‖ΔW‖²₂: Σ σ_i² in units of the largest, 1 to n.

    Rudelson and Vershynin, 2007, "Sampling from large matrices" (there: numerical rank).
    """
    energies = _checked(values).square()
    return (energies.sum() / energies.max()).item()


def truncate(lora_A: Tensor, lora_B: Tensor, scaling: float, k: int) -> tuple[Tensor, Tensor]:
    """The best approximation of rank k to ΔW = scaling * BA, as factors of a plain LoRA.

    No matrix of rank k is nearer to ΔW in Frobenius norm: Eckart and Young, 1936, "The
    approximation of one matrix by another of lower rank".

    Args:
        lora_A: (r, in), trained.
        lora_B: (out, r), trained.
        scaling: the factor on BA, for the old factors and for the new.
        k: from 1 to min(r, out, in).

    Returns:
        New A (k, in) and B (out, k), in the dtype and on the device of the old. The scaling stays
        the same: save them with r=k and lora_alpha=scaling * k (with use_rslora: scaling * √k).
    """
    left, values, right = _svd(lora_A, lora_B, scaling)
    if k not in range(1, len(values) + 1):
        raise ValueError(
            f"k={k} isn't a rank to cut to: this change has {len(values)} singular values; give a "
            f"whole number from 1 to {len(values)}"
        )
    half = (values[:k] / scaling).sqrt()  # (k,): each factor takes the root of the values
    new_A = half[:, None] * right[:k]  # (k, in)
    new_B = left[:, :k] * half  # (out, k)
    return new_A.to(lora_A), new_B.to(lora_B)


def subspace_overlap(lora_A1: Tensor, lora_A2: Tensor) -> Tensor:
    """The overlap φ of the top i directions of one A with the top j directions of another.

    φ(A1, A2, i, j) = ‖U_iᵀ U_j‖²_F / min(i, j), where U_i (in, i) holds the top i right-singular
    vectors of A1, and U_j those of A2. At 0 they are orthogonal; at 1 the smaller subspace lies in
    the larger. Random subspaces give about max(i, j) / in. arXiv:2106.09685, section 7.2, eq. 4.

    Args:
        lora_A1: (r1, in).
        lora_A2: (r2, in). For two B's, give their transposes.

    Returns:
        (rank of A1, rank of A2), float64: entry [i - 1, j - 1] is φ(A1, A2, i, j).
    """
    first, second = checked_matrix("lora_A1", lora_A1), checked_matrix("lora_A2", lora_A2)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"lora_A1 {tuple(first.shape)} and lora_A2 {tuple(second.shape)} read inputs of "
            "different widths; give two (r, in) of the same layer"
        )
    cosines = _directions(first, lora_A1.dtype) @ _directions(second, lora_A2.dtype).T  # (r1, r2)
    i = torch.arange(1, cosines.shape[0] + 1)[:, None]  # (r1, 1)
    j = torch.arange(1, cosines.shape[1] + 1)  # (r2,)
    return cosines.square().cumsum(0).cumsum(1) / torch.minimum(i, j)


def _svd(lora_A: Tensor, lora_B: Tensor, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, n), the singular values (n,) and Vᵀ (n, in) of scaling * BA; n = min(r, out, in)."""
    A, B = checked_matrix("lora_A", lora_A), checked_matrix("lora_B", lora_B)
    if A.shape[0] != B.shape[1]:
        raise ValueError(
            f"lora_A {tuple(A.shape)} and lora_B {tuple(B.shape)} differ in rank: {A.shape[0]} and "
            f"{B.shape[1]}; give A (r, in) and B (out, r)"
        )
    if not 0 < scaling < torch.inf:
        raise ValueError(f"scaling={scaling} is not a finite number above 0; give lora_alpha / r")
    q_B, r_B = torch.linalg.qr(B)  # (out, b), (b, r) with b = min(out, r)
    q_A, r_A = torch.linalg.qr(A.T)  # (in, a), (a, r) with a = min(in, r)
    left, values, right = torch.linalg.svd(scaling * r_B @ r_A.T, full_matrices=False)  # of (b, a)
    return q_B @ left, values, right @ q_A.T


def _directions(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The right-singular vectors of a matrix above its noise, (rank, in), strongest first."""
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    if values[0] == 0:
        raise ValueError("an A is all zero and has no directions; give a trained one")
    noise = values[0] * max(matrix.shape) * torch.finfo(dtype).eps  # as torch.linalg.matrix_rank
    return right[values > noise]


def checked_matrix(name: str, tensor: Tensor) -> Tensor:
    """The matrix in float64 on the CPU, once its numbers are known to be finite."""
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; give a matrix with two sizes")
    if not tensor.isfinite().all():
        raise ValueError(
            f"{name} holds NaN or infinity, so its run has diverged; give weights from before that"
        )
    return tensor.detach().cpu().double()


def _checked(values: Tensor) -> Tensor:
    """The singular values in float64 on the CPU, once they are known to be a change's."""
    finite = values.ndim == 1 and values.isfinite().all()
    if not finite or (values < 0).any() or (values.diff() > 0).any() or not values.any():
        raise ValueError(
            f"values of shape {tuple(values.shape)} are not a change's singular values; give one "
            "row of finite numbers, falling, 0 or more, not all 0 (as they are before training)"
        )
    return values.detach().cpu().double()
