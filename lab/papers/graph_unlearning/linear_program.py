"""Balanced label propagation by a linear program (Ugander and Backstrom, 2013): the base of BLPA.

A baseline for the time of partitioning. In every round each node proposes moves, and a linear
program says how many of the proposals between each pair of shards are carried out.
"""

import dataclasses

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from lab.errors import LabError, require
from lab.papers.graph_unlearning.label_propagation import BLPAResult, neighbour_counts


@dataclasses.dataclass(frozen=True, eq=False)
class MovePlan:
    """The linear program's answer.

    Attributes:
      pairs: int [p, 2], (source shard, destination shard) with proposals, ascending.
      counts: float [p], proposals to carry out between each.
      objective: the optimal sum of utilities.
    """

    pairs: np.ndarray
    counts: np.ndarray
    objective: float


def desired_moves(
    edge_index: np.ndarray, labels: np.ndarray, num_shards: int, *, official: bool = False
) -> np.ndarray:
    """Proposals that lose no neighbour: int64 [k, 4], rows (node, source, destination, gain).

    The gain is the number of neighbours in the destination less those in the source. Node order,
    destination ascending. Nodes without a neighbour propose nothing; in the official code, neither
    do those without one in their own shard.
    """
    counts = neighbour_counts(edge_index, labels, num_shards)
    own = counts[np.arange(len(labels)), labels]
    proposes = own > 0 if official else counts.sum(axis=1) > 0
    gains = counts - own[:, None]
    wanted = (gains >= 0) & proposes[:, None] & (np.arange(num_shards) != labels[:, None])
    nodes, destinations = np.nonzero(wanted)
    return np.stack([nodes, labels[nodes], destinations, gains[nodes, destinations]], axis=1)


def plan_moves(
    moves: np.ndarray, sizes: np.ndarray, size_limit: int, *, official: bool = False
) -> MovePlan:
    """Maximises the utility of the proposals that are carried out, within the size limit.

    max sum z_ij, with 0 <= x_ij <= number of proposals from i to j, z_ij at most their x_ij largest
    gains (concave, piecewise linear), and size_i - out + in <= size_limit.

    Args:
      moves: from `desired_moves`.
      sizes: int [num_shards].
      official: with the official faults: the utility starts at the largest gain instead of 0, the
        size is size_i + out - in, and counts only pairs with proposals in both directions.
    """
    keys = moves[:, 1] * len(sizes) + moves[:, 2]
    codes, group = np.unique(keys, return_inverse=True)
    pairs = np.stack([codes // len(sizes), codes % len(sizes)], axis=1).astype(int)
    if not len(pairs):
        return MovePlan(pairs, np.zeros(0), 0.0)
    gains = [np.sort(moves[group == p, 3])[::-1].astype(float) for p in range(len(pairs))]
    lines = [_utility_lines(g, official=official) for g in gains]
    rows, bounds_on_rows = _constraints(pairs, lines, sizes, size_limit, official)
    num_pairs = len(pairs)
    result = linprog(
        np.concatenate([np.zeros(num_pairs), -np.ones(num_pairs)]),
        A_ub=rows,
        b_ub=bounds_on_rows,
        bounds=[(0, len(g)) for g in gains] + [(None, None)] * num_pairs,
        method="highs",
    )
    require(result.status == 0, f"the linear program has no answer: {result.message}", LabError)
    return MovePlan(pairs, result.x[:num_pairs], float(-result.fun))


def _utility_lines(gains: np.ndarray, *, official: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lines (slope, value at 0) whose lower envelope is the utility of the best x proposals."""
    if official and len(gains) == 1:
        return np.zeros(1), gains
    cumulative = np.cumsum(gains) if official else np.concatenate([[0.0], np.cumsum(gains)])
    slopes = np.diff(cumulative)
    return slopes, cumulative[:-1] - slopes * np.arange(len(slopes))


def _constraints(pairs, lines, sizes, size_limit, official) -> tuple[sparse.csr_array, np.ndarray]:
    """Rows over (x, z) and their upper bounds: the utility lines, then the shards' sizes."""
    num_pairs = len(pairs)
    lengths = [len(slopes) for slopes, _ in lines]
    pair_of_line = np.repeat(np.arange(num_pairs), lengths)
    slopes = np.concatenate([slopes for slopes, _ in lines])
    line_rows = np.arange(len(slopes))
    shape = (len(slopes), num_pairs)
    on_x = sparse.csr_array((-slopes, (line_rows, pair_of_line)), shape=shape)
    on_z = sparse.csr_array((np.ones(len(slopes)), (line_rows, pair_of_line)), shape=shape)

    both_ways = np.isin(
        pairs[:, 0] * len(sizes) + pairs[:, 1], pairs[:, 1] * len(sizes) + pairs[:, 0]
    )
    counted = np.flatnonzero(both_ways) if official else np.arange(num_pairs)
    sign = 1.0 if official else -1.0
    balance = np.zeros((len(sizes), num_pairs))
    balance[pairs[counted, 0], counted] = sign
    balance[pairs[counted, 1], counted] = -sign
    size_rows = sparse.hstack([sparse.csr_array(balance), sparse.csr_array(balance.shape)])
    rows = sparse.csr_array(sparse.vstack([sparse.hstack([on_x, on_z]), size_rows]))
    bounds = np.concatenate([*(start for _, start in lines), size_limit - np.asarray(sizes, float)])
    return rows, bounds


def lp_label_propagation(
    edge_index: np.ndarray,
    initial_labels: np.ndarray,
    num_shards: int,
    size_limit: int,
    *,
    max_iterations: int = 100,
    terminate_delta: int = 0,
    official: bool = False,
) -> BLPAResult:
    """Rounds of proposals, linear program and moves, until nothing moves.

    Args: official, all of the official faults: of `desired_moves`, of `plan_moves` (sizes may then
      pass the limit), and one move fewer than planned for each pair of shards.
    """
    labels, deltas = np.asarray(initial_labels, np.int32).copy(), []
    for _ in range(max_iterations):
        sizes = np.bincount(labels, minlength=num_shards)
        moves = desired_moves(edge_index, labels, num_shards, official=official)
        plan = plan_moves(moves, sizes, size_limit, official=official)
        moved = _carry_out(labels, moves, plan, size_limit, num_shards, official)
        deltas.append(2 * int((moved != labels).sum()))
        labels = moved
        if deltas[-1] <= terminate_delta:
            break
    return BLPAResult(labels, np.asarray(deltas, np.int64), {})


def _carry_out(labels, moves, plan, size_limit, num_shards, official) -> np.ndarray:
    """Moves the planned number of nodes of each pair, largest gains first."""
    moved, done = labels.copy(), []
    # The solver's 2.9999999 is a 3.
    counts = np.floor(plan.counts + 1e-6).astype(int) - (1 if official else 0)
    for (source, destination), count in zip(plan.pairs, counts, strict=True):
        rows = moves[(moves[:, 1] == source) & (moves[:, 2] == destination)]
        rows = rows[np.argsort(-rows[:, 3], kind="stable")]
        rows = rows[moved[rows[:, 0]] == source][: max(count, 0)]
        moved[rows[:, 0]] = destination
        done += [(gain, node) for node, _, _, gain in rows.tolist()]
    if not official:
        _undo_excess(moved, labels, sorted(done), size_limit, num_shards)
    return moved


def _undo_excess(moved, labels, done, size_limit, num_shards) -> None:
    """Takes the least useful moves into shards above the limit back, until there are none.

    A node may stand in the plan of several pairs but moves once, so a plan within the limit can
    be carried out beyond it.
    """
    sizes = np.bincount(moved, minlength=num_shards)
    while (sizes > size_limit).any():
        index = next(i for i, (_, node) in enumerate(done) if sizes[moved[node]] > size_limit)
        _, node = done.pop(index)
        sizes[moved[node]] -= 1
        sizes[labels[node]] += 1
        moved[node] = labels[node]
