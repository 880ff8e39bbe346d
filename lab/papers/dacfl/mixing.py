"""Mixing matrices W, float [N, N]: symmetric, rows and columns sum to 1 (paper, section 4.1).

Everything is computed in float64 numpy; `to_float32` rounds last and puts what rounding took from
a row on its diagonal. J is the matrix of 1/N, L the graph Laplacian.
"""

import dataclasses
import warnings

import numpy as np

from lab.errors import require
from lab.papers.dacfl.topology import components, edge_density, num_bits, require_known

ROW_SUM_ATOL, SYMMETRY_ATOL, SIGMA_MAX = 1e-5, 1e-6, 1 - 1e-9


@dataclasses.dataclass(frozen=True)
class MixingConfig:
    """How the weights of a graph are chosen.

    Attributes:
      method: one of `METHODS`.
      eps: step of `laplacian`, in (0, 2 / lambda_max(L)); None takes 1 / (1 + d_max).
    """

    method: str = "metropolis"
    eps: float | None = None


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """How fast a matrix mixes.

    Attributes: sigma = |W - J|_2, what one round leaves of a disagreement at worst (0 for N = 1);
    spectral_gap = 1 - sigma; eigenvalues of W ascending (of its symmetric part where W is not
    symmetric); density, share of nonzero off-diagonal weights; num_components.
    """

    sigma: float
    spectral_gap: float
    eigenvalues: np.ndarray
    density: float
    num_components: int


def metropolis(adjacency: np.ndarray) -> np.ndarray:
    """W_ij = 1 / (1 + max(d_i, d_j)) on edges (Metropolis-Hastings weights)."""
    degrees = _degrees(adjacency)
    return _fill_diagonal(adjacency / (1.0 + np.maximum.outer(degrees, degrees)))


def lazy_metropolis(adjacency: np.ndarray) -> np.ndarray:
    """(I + W) / 2 of the Metropolis matrix: no negative eigenvalues."""
    return (np.eye(len(adjacency)) + metropolis(adjacency)) / 2


def max_degree(adjacency: np.ndarray) -> np.ndarray:
    """W_ij = 1 / (1 + d_max) on edges."""
    return _fill_diagonal(adjacency / (1.0 + _degrees(adjacency).max()))


def laplacian(adjacency: np.ndarray, eps: float | None = None) -> np.ndarray:
    """I - eps L.

    Raises: InvalidInputError for eps outside (0, 2 / lambda_max(L)), beyond which it diverges.
    """
    values = np.linalg.eigvalsh(_laplacian_of(adjacency))
    eps = float(1.0 / (1.0 + _degrees(adjacency).max()) if eps is None else eps)
    limit = 2.0 / values[-1] if values[-1] > 0 else np.inf
    require(
        bool(np.isfinite(eps)) and 0 < eps < limit,
        f"eps must lie in (0, 2 / lambda_max) = (0, {limit:.4g}) for this graph, got {eps}",
    )
    matrix = _fill_diagonal(eps * np.asarray(adjacency, np.float64))
    if np.diag(matrix).min() < -1e-12:
        warnings.warn(f"eps = {eps:.4g} gives negative diagonal weights", stacklevel=2)
    return matrix


def best_constant(adjacency: np.ndarray) -> np.ndarray:
    """I - eps L with eps = 2 / (lambda_2 + lambda_N), the fastest constant weight (Xiao & Boyd).

    Raises: InvalidInputError for a graph that is not connected.
    """
    n = len(adjacency)
    pieces = components(adjacency)
    require(
        len(pieces) == 1,
        f"best_constant needs a connected graph; this one has {_pieces_in_words(pieces)}",
    )
    if n == 1:
        return np.ones((1, 1))
    values = np.linalg.eigvalsh(_laplacian_of(adjacency))
    return _fill_diagonal(2.0 / (values[1] + values[-1]) * np.asarray(adjacency, np.float64))


def random_symmetric_from(adjacency: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Random weights on edges and diagonal, made doubly stochastic by symmetric Sinkhorn scaling.

    S = (U + U') / 2 masked by A + I; s <- sqrt(s / (S s)) until diag(s) S diag(s) has row sums 1
    within 1e-12 (at most 10,000 times). It exists because the diagonal is positive.

    Args: uniform, float [N, N] in (0, 1).
    """
    n = len(adjacency)
    weights = (np.asarray(uniform, np.float64) + np.asarray(uniform, np.float64).T) / 2
    weights = weights * (np.asarray(adjacency) + np.eye(n))
    scale = np.ones(n)
    matrix = weights
    for _ in range(10_000):
        matrix = scale[:, None] * weights * scale
        if np.abs(matrix.sum(axis=1) - 1).max() < 1e-12:
            break
        scale = np.sqrt(scale / (weights @ scale))
    return matrix


def birkhoff(perms: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """sum_k c_k (P_k + P_k') / 2 with P_k[r, perms[k, r]] = 1.

    Args: perms, int [K, N], permutations; coefficients, float [K], non-negative, sum 1.
    """
    coefficients = np.asarray(coefficients, np.float64)
    require(
        bool((coefficients >= 0).all()) and abs(coefficients.sum() - 1) < ROW_SUM_ATOL,
        f"coefficients must be non-negative and sum to 1, got sum {coefficients.sum():.6g}",
    )
    permutations = np.eye(np.shape(perms)[1])[np.asarray(perms)]
    matrix = np.einsum("k,kij->ij", coefficients / coefficients.sum(), permutations)
    return (matrix + matrix.T) / 2


def one_peer_exponential(n: int) -> np.ndarray:
    """The log2(n) matrices (I + P) / 2 that pair i with i xor 2^t; their product is J.

    Returns: float64 [log2 n, n, n] (for n = 1 the single matrix [[1]]).
    """
    bits = num_bits(n, "one_peer_exponential")
    users = np.arange(n)
    if bits == 0:
        return np.ones((1, 1, 1))
    return np.stack([(np.eye(n) + np.eye(n)[users ^ 2**b]) / 2 for b in range(bits)])


METHODS = (
    "metropolis",
    "lazy_metropolis",
    "max_degree",
    "laplacian",
    "best_constant",
    "random_symmetric",
    "birkhoff",
)
_DETERMINISTIC = {
    "metropolis": metropolis,
    "lazy_metropolis": lazy_metropolis,
    "max_degree": max_degree,
    "best_constant": best_constant,
}


def draw_matrix(
    adjacency: np.ndarray, config: MixingConfig, generator: np.random.Generator
) -> np.ndarray:
    """The float64 mixing matrix of a graph.

    `birkhoff` ignores the graph: it averages N random permutations with random weights.
    """
    require_known(config.method, METHODS, "mixing method")
    n = len(adjacency)
    match config.method:
        case "laplacian":
            return laplacian(adjacency, config.eps)
        case "random_symmetric":
            return random_symmetric_from(adjacency, generator.random((n, n)))
        case "birkhoff":
            perms = np.stack([generator.permutation(n) for _ in range(n)])
            return birkhoff(perms, generator.dirichlet(np.ones(n)))
        case method:
            return _DETERMINISTIC[method](adjacency)


def to_float32(matrix: np.ndarray) -> np.ndarray:
    """Rounds to float32 with the rounding residue of each row on the diagonal; [..., N, N]."""
    rounded = np.asarray(matrix).astype(np.float32)
    diagonal = np.einsum("...ii->...i", rounded)
    off_diagonal = rounded.astype(np.float64)
    np.einsum("...ii->...i", off_diagonal)[...] = 0.0
    diagonal[...] = 1.0 - off_diagonal.sum(axis=-1)
    return rounded


def sigma_of(matrices: np.ndarray) -> np.ndarray:
    """|W - J|_2, the largest singular value; float64 [...] for matrices [..., N, N]."""
    matrices = np.asarray(matrices, np.float64)
    values = np.linalg.svd(matrices - 1.0 / matrices.shape[-1], compute_uv=False)
    return values[..., 0]


def spectrum(matrix: np.ndarray) -> Spectrum:
    """Sigma, spectral gap, eigenvalues, density and components of one mixing matrix."""
    matrix = np.asarray(matrix, np.float64)
    sigma = float(sigma_of(matrix))
    return Spectrum(
        sigma=sigma,
        spectral_gap=1 - sigma,
        eigenvalues=np.linalg.eigvalsh((matrix + matrix.T) / 2),
        density=edge_density(matrix),
        num_components=len(components(matrix)),
    )


def check_mixing(
    matrices: np.ndarray,
    num_users: int | None = None,
    *,
    allow_negative: bool = False,
    allow_disconnected: bool = False,
) -> np.ndarray:
    """Returns a user's mixing matrix or sequence as float32 [S, N, N], or says what is wrong.

    Args:
      matrices: float [N, N], or [S, N, N] for a time-varying sequence.
      num_users: what N has to be, or None.
      allow_negative: warn about negative weights between users instead of refusing them.
      allow_disconnected: warn where nothing ever mixes instead of refusing it.
    Raises: InvalidInputError with the row, the value and what is accepted. A sequence whose single
      slots do not mix all users is only warned about.
    """
    matrices = np.asarray(matrices, np.float64)
    sequence = matrices[None] if matrices.ndim == 2 else matrices
    require(
        sequence.ndim == 3 and sequence.shape[0] >= 1 and sequence.shape[1] == sequence.shape[2],
        f"W must be [N, N], or [S, N, N] for a sequence; got shape {matrices.shape}",
    )
    n = sequence.shape[1]
    require(num_users in (None, n), f"W is for {n} users, but there are {num_users}")
    require(bool(np.isfinite(sequence).all()), "W holds NaN or infinity")
    _check_weights(sequence, allow_negative)
    for slot, matrix in enumerate(sequence):
        _check_connected(matrix, slot, len(sequence), allow_disconnected)
    return to_float32(sequence)


def _check_weights(sequence: np.ndarray, allow_negative: bool) -> None:
    n = sequence.shape[1]
    for axis, name in ((2, "row"), (1, "column")):
        sums = sequence.sum(axis=axis)
        slot, worst = np.unravel_index(np.abs(sums - 1).argmax(), sums.shape)
        require(
            abs(sums[slot, worst] - 1) <= ROW_SUM_ATOL,
            f"W must be doubly stochastic: {name} {worst} sums to {sums[slot, worst]:.6g}"
            + (f" (slot {slot})" if len(sequence) > 1 else ""),
        )
    uneven = np.abs(sequence - sequence.swapaxes(1, 2))
    slot, i, j = np.unravel_index(uneven.argmax(), uneven.shape)
    require(
        uneven[slot, i, j] <= SYMMETRY_ATOL,
        f"W must be symmetric: W[{i}, {j}] = {sequence[slot, i, j]:.6g}, W[{j}, {i}] = "
        f"{sequence[slot, j, i]:.6g}. Directed graphs need push-sum, which is not implemented",
    )
    off_diagonal = np.where(np.eye(n, dtype=bool), 0.0, sequence)
    slot, i, j = np.unravel_index(off_diagonal.argmin(), off_diagonal.shape)
    if off_diagonal[slot, i, j] < 0:
        text = f"W[{i}, {j}] = {off_diagonal[slot, i, j]:.6g} is negative"
        require(allow_negative, f"{text}; pass allow_negative=True if that is intended")
        warnings.warn(text, stacklevel=4)


def _check_connected(matrix: np.ndarray, slot: int, num_slots: int, allowed: bool) -> None:
    sigma, pieces = sigma_of(matrix), components(matrix)
    if len(matrix) == 1 or (sigma < SIGMA_MAX and len(pieces) == 1):
        return
    if len(pieces) > 1:
        reason = f"it has {_pieces_in_words(pieces)}"
    elif sigma > 1 + 1e-6:
        reason = "it enlarges disagreements (negative weights)"
    else:
        reason = "it swaps models back and forth (bipartite with no weight on the diagonal)"
    text = f"W does not mix all users (sigma = {sigma:.9g}): {reason}"
    if num_slots > 1:
        warnings.warn(f"slot {slot} of the sequence: {text}", stacklevel=4)
        return
    require(allowed, f"{text}; models would never agree")
    warnings.warn(text, stacklevel=4)


def _pieces_in_words(pieces: list[list[int]]) -> str:
    shown = " ".join("{" + ", ".join(map(str, piece[:6])) + "}" for piece in pieces[:4])
    return f"{len(pieces)} components: {shown}{' ...' if len(pieces) > 4 else ''}"


def _degrees(adjacency: np.ndarray) -> np.ndarray:
    return np.asarray(adjacency, np.float64).sum(axis=1)


def _laplacian_of(adjacency: np.ndarray) -> np.ndarray:
    return np.diag(_degrees(adjacency)) - np.asarray(adjacency, np.float64)


def _fill_diagonal(off_diagonal: np.ndarray) -> np.ndarray:
    return off_diagonal + np.diag(1.0 - off_diagonal.sum(axis=1))
