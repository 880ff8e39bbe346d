"""Who talks to whom: adjacency matrices, int32 [N, N], symmetric, 0/1, zero diagonal.

Each random graph is an inner function of its random numbers (so that it can be compared and
repeated exactly) and a thin wrapper that draws them from a `numpy.random.Generator`.
"""

import dataclasses
import difflib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components

from lab.errors import InvalidInputError, require


@dataclasses.dataclass(frozen=True)
class TopologyConfig:
    """Which graph the users sit on.

    Attributes:
      name: one of `TOPOLOGIES`.
      psi: density of `density`: the share of all possible edges, in (0, 1].
      probability: of an edge (`erdos_renyi`) or of rewiring one (`watts_strogatz`).
      degree: even number of lattice neighbours of `watts_strogatz`.
      rows: of `torus`; 0 takes the divisor of N nearest below its square root.
    """

    name: str = "density"
    psi: float = 0.5
    probability: float = 0.3
    degree: int = 4
    rows: int = 0


def ring(n: int) -> np.ndarray:
    """i ~ i +- 1 mod n; one edge for n = 2, none for n = 1."""
    return circulant(n, (1,))


def circulant(n: int, offsets: tuple[int, ...]) -> np.ndarray:
    """i ~ i +- o mod n for every offset o."""
    adjacency = _empty(n)
    for offset in offsets:
        for i in range(n):
            _connect(adjacency, i, (i + offset) % n)
    return adjacency


def exponential(n: int) -> np.ndarray:
    """i ~ i +- 2^k mod n for every power 2^k <= n - 1."""
    return circulant(n, tuple(2**k for k in range(n) if 2**k <= n - 1))


def path(n: int) -> np.ndarray:
    """A line: i ~ i + 1."""
    return _from_edges(n, np.arange(n - 1), np.arange(1, n))


def star(n: int) -> np.ndarray:
    """Everybody talks to user 0."""
    return _from_edges(n, np.zeros(n - 1, int), np.arange(1, n))


def complete(n: int) -> np.ndarray:
    """Everybody talks to everybody."""
    _require_count(n)
    return np.ones((n, n), np.int32) - np.eye(n, dtype=np.int32)


def torus(rows: int, columns: int) -> np.ndarray:
    """Node row * columns + column, joined to +-1 in each direction; double edges are merged."""
    require(
        rows >= 1 and columns >= 1, f"a torus needs at least 1 x 1 nodes, got {rows} x {columns}"
    )
    adjacency = _empty(rows * columns)
    for row in range(rows):
        for column in range(columns):
            here = row * columns + column
            _connect(adjacency, here, (row + 1) % rows * columns + column)
            _connect(adjacency, here, row * columns + (column + 1) % columns)
    return adjacency


def hypercube(n: int) -> np.ndarray:
    """i ~ i xor 2^b, for n a power of two."""
    bits = num_bits(n, "a hypercube")
    adjacency = _empty(n)
    for i in range(n):
        for b in range(bits):
            _connect(adjacency, i, i ^ 2**b)
    return adjacency


def erdos_renyi_from(uniform: np.ndarray, probability: float) -> np.ndarray:
    """Edge i < j iff uniform[i, j] < probability."""
    _require_probability(probability)
    upper = np.triu(np.asarray(uniform) < probability, k=1)
    return (upper | upper.T).astype(np.int32)


def erdos_renyi(n: int, probability: float, generator: np.random.Generator) -> np.ndarray:
    """Every possible edge is there with the given probability."""
    _require_count(n)
    return erdos_renyi_from(generator.random((n, n)), probability)


def watts_strogatz_from(
    rewire_uniform: np.ndarray, target_uniform: np.ndarray, probability: float
) -> np.ndarray:
    """A ring lattice with rewired edges (Watts & Strogatz, 1998).

    Args: rewire_uniform, target_uniform, float [degree / 2, n] in [0, 1): whether edge (i, i + j)
      is rewired, and which of the nodes that are neither i nor joined to i becomes its new end.
    """
    _require_probability(probability)
    half, n = np.shape(rewire_uniform)
    require(
        2 * half < n, f"watts_strogatz needs an even degree below N = {n}, got degree {2 * half}"
    )
    adjacency = circulant(n, tuple(range(1, half + 1)))
    for j in range(1, half + 1):
        for i in range(n):
            if rewire_uniform[j - 1, i] >= probability:
                continue
            free = np.flatnonzero((adjacency[i] == 0) & (np.arange(n) != i))
            if len(free) == 0:
                continue
            old, new = (i + j) % n, free[int(target_uniform[j - 1, i] * len(free))]
            adjacency[i, old] = adjacency[old, i] = 0
            _connect(adjacency, i, new)
    return adjacency


def watts_strogatz(
    n: int, degree: int, probability: float, generator: np.random.Generator
) -> np.ndarray:
    """A small world: a ring of `degree` neighbours whose edges are rewired with `probability`."""
    require(
        degree % 2 == 0 and 0 <= degree < n,
        f"watts_strogatz needs an even degree below N = {n}, got degree {degree}",
    )
    shape = (degree // 2, n)
    return watts_strogatz_from(generator.random(shape), generator.random(shape), probability)


def density_from(
    perm: np.ndarray, attach: np.ndarray, priority: np.ndarray, psi: float
) -> np.ndarray:
    """A connected graph with a given share psi of all possible edges.

    A random tree joins node perm[k] to perm[attach[k]], k = 1..n-1; further pairs i < j follow by
    ascending priority[i, j] until max(n - 1, floor(psi n (n - 1) / 2 + 1/2)) edges are there.
    """
    n = len(perm)
    require(0 < psi <= 1, f"psi must be in (0, 1], got {psi}")
    wanted = int(np.floor(psi * n * (n - 1) / 2 + 0.5))
    if wanted < n - 1:
        warnings.warn(
            f"psi = {psi} gives {wanted} edges, too few to connect {n} users; a tree of {n - 1} "
            "edges is used",
            stacklevel=3,
        )
    adjacency = _empty(n)
    for k in range(1, n):
        _connect(adjacency, int(perm[k]), int(perm[attach[k]]))
    rows, columns = np.triu_indices(n, k=1)
    order = np.argsort(np.asarray(priority)[rows, columns], kind="stable")
    missing = max(wanted, n - 1) - (n - 1)
    free = [(rows[e], columns[e]) for e in order if not adjacency[rows[e], columns[e]]]
    for i, j in free[:missing]:
        _connect(adjacency, int(i), int(j))
    return adjacency


def density(n: int, psi: float, generator: np.random.Generator) -> np.ndarray:
    """A random connected graph with a share psi of all possible edges (psi = 1: complete)."""
    _require_count(n)
    perm = generator.permutation(n)
    attach = np.array([0, *(generator.integers(0, k) for k in range(1, n))])
    return density_from(perm, attach, generator.random((n, n)), psi)


def _torus_of(n: int, config: TopologyConfig) -> np.ndarray:
    rows = config.rows or max(r for r in range(1, int(n**0.5) + 1) if n % r == 0)
    require(
        rows >= 1 and n % rows == 0,
        f"a torus of {rows} rows does not hold N = {n} users: rows * columns must be N",
    )
    return torus(rows, n // rows)


TOPOLOGIES: dict[str, Callable[[int, TopologyConfig, np.random.Generator], np.ndarray]] = {
    "ring": lambda n, config, generator: ring(n),
    "path": lambda n, config, generator: path(n),
    "star": lambda n, config, generator: star(n),
    "complete": lambda n, config, generator: complete(n),
    "torus": lambda n, config, generator: _torus_of(n, config),
    "hypercube": lambda n, config, generator: hypercube(n),
    "exponential": lambda n, config, generator: exponential(n),
    "erdos_renyi": lambda n, config, gen: erdos_renyi(n, config.probability, gen),
    "watts_strogatz": lambda n, config, gen: watts_strogatz(
        n, config.degree, config.probability, gen
    ),
    "density": lambda n, config, generator: density(n, config.psi, generator),
}


def draw_adjacency(n: int, config: TopologyConfig, generator: np.random.Generator) -> np.ndarray:
    """The graph that `config` describes on n users.

    Raises: InvalidInputError for an unknown name (the nearest known one is named) or sizes that do
      not fit.
    """
    require_known(config.name, TOPOLOGIES, "topology")
    _require_count(n)
    return TOPOLOGIES[config.name](n, config, generator)


def num_components(adjacency: np.ndarray) -> int:
    """In how many pieces the graph falls."""
    return int(connected_components(np.asarray(adjacency) != 0, directed=False)[0])


def components(adjacency: np.ndarray) -> list[list[int]]:
    """The users of each piece, pieces in the order of their smallest user."""
    count, piece = connected_components(np.asarray(adjacency) != 0, directed=False)
    return [np.flatnonzero(piece == c).tolist() for c in range(count)]


def edge_density(matrix: np.ndarray) -> float:
    """Nonzero off-diagonal entries / (N (N - 1)); 0 for N = 1."""
    n = len(matrix)
    off_diagonal = np.asarray(matrix) * (1 - np.eye(n))
    return float(np.count_nonzero(off_diagonal) / max(n * (n - 1), 1))


def check_adjacency(adjacency: np.ndarray, *, allow_isolated: bool = False) -> np.ndarray:
    """Returns a user's adjacency as int32, or says what is wrong with it.

    Raises: InvalidInputError where it is not square, not 0/1, has self loops, is not symmetric
      (directed graphs need push-sum, which is not here), or leaves a user without neighbours
      while N > 1 and `allow_isolated` is false.
    """
    adjacency = np.asarray(adjacency)
    shape = adjacency.shape
    require(
        adjacency.ndim == 2 and shape[0] == shape[1] and shape[0] >= 1,
        f"an adjacency matrix must be square [N, N], got shape {shape}",
    )
    strange = adjacency[(adjacency != 0) & (adjacency != 1)]
    require(strange.size == 0, f"an adjacency matrix holds 0 and 1 only, got {strange[:3]}")
    loops = np.flatnonzero(np.diag(adjacency))
    require(loops.size == 0, f"users {loops.tolist()[:8]} have self loops; clear the diagonal")
    uneven = np.argwhere(adjacency != adjacency.T)
    require(
        len(uneven) == 0,
        f"the graph is directed: edge {tuple(map(int, uneven[0])) if len(uneven) else ()} goes one "
        "way only. Directed graphs need push-sum, which is not implemented; make it symmetric",
    )
    lonely = np.flatnonzero(adjacency.sum(axis=1) == 0)
    require(
        lonely.size == 0 or allow_isolated or shape[0] == 1,
        f"users {lonely.tolist()[:8]} have no neighbour; pass allow_isolated=True to leave them "
        "alone",
    )
    return adjacency.astype(np.int32)


def require_known(name: str, known: Any, what: str) -> None:
    """Raises InvalidInputError that lists the known names and the nearest one."""
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InvalidInputError(f"unknown {what} {name!r}; known: {', '.join(sorted(known))}{hint}")


def num_bits(n: int, what: str) -> int:
    """log2 of a power of two; the error names `what` needs it."""
    bits = int(n).bit_length() - 1
    require(n >= 1 and 2**bits == n, f"{what} needs N a power of two, got N = {n}")
    return bits


def _empty(n: int) -> np.ndarray:
    _require_count(n)
    return np.zeros((n, n), np.int32)


def _connect(adjacency: np.ndarray, i: int, j: int) -> None:
    if i != j:
        adjacency[i, j] = adjacency[j, i] = 1


def _from_edges(n: int, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    adjacency = _empty(n)
    adjacency[sources, targets] = adjacency[targets, sources] = 1
    return adjacency


def _require_count(n: int) -> None:
    require(n >= 1, f"the number of users must be at least 1, got {n}")


def _require_probability(probability: float) -> None:
    require(0 <= probability <= 1, f"probability must be in [0, 1], got {probability}")
