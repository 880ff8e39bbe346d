"""Membership inference on the change that unlearning makes (spec section 11).

Idea: the posterior of an unlearned node (a member before) moves more than that of a node that was
never in training. The official script cannot show it: it queries the unlearned nodes as negatives
too, so that its AUC would be 1/2 whatever happens. Here negatives are test nodes, and both kinds
are compared between the same two ensembles. With one of S shards retrained expect little.
"""

import dataclasses

import numpy as np

from lab.errors import NonFiniteError, require
from lab.metrics.ranking import roc_auc
from lab.papers.graph_unlearning.data import RandomGenerator


@dataclasses.dataclass(frozen=True, eq=False)
class AttackResult:
    """How well the change of the posterior gives unlearned nodes away.

    Attributes:
      auc: ties count half; 0.5 is chance.
      interval: bootstrap interval of the AUC, (low, high).
      member_distances, other_distances: float64 [p], [q].
    """

    auc: float
    interval: tuple[float, float]
    member_distances: np.ndarray
    other_distances: np.ndarray


def posterior_distances(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """L2 distance of aggregated posteriors row by row: [k, C], [k, C] -> float64 [k].

    Raises: InvalidInputError for unequal shapes, NonFiniteError.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    require(
        before.shape == after.shape and before.ndim == 2,
        f"posteriors have shapes {before.shape} and {after.shape}; accepted: both [k, classes]",
    )
    distances = np.sqrt(((before - after) ** 2).sum(axis=1))
    require(bool(np.isfinite(distances).all()), "posteriors are not finite", NonFiniteError)
    return distances


def draw_negatives(test_ids: np.ndarray, num: int, rng: RandomGenerator) -> np.ndarray:
    """Never-trained nodes to compare with, one for each unlearned node: int [num], distinct."""
    require(
        1 <= num <= len(test_ids), f"num is {num}; accepted: 1 to {len(test_ids)}, the test nodes"
    )
    return rng.choice(test_ids, num, replace=False)


def membership_auc(member_distances: np.ndarray, other_distances: np.ndarray) -> float:
    """AUC of the distance as a score for "was unlearned"; ties count half."""
    require(
        len(member_distances) > 0 and len(other_distances) > 0,
        f"the attack has {len(member_distances)} unlearned and {len(other_distances)} other nodes; "
        "accepted: at least one of each",
    )
    scores = np.concatenate([member_distances, other_distances])
    labels = np.repeat([True, False], [len(member_distances), len(other_distances)])
    return float(roc_auc(scores, labels))


def bootstrap_interval(
    member_distances: np.ndarray,
    other_distances: np.ndarray,
    rng: RandomGenerator,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the AUC; members and others are resampled separately."""
    require(0 < level < 1, f"level is {level}; accepted: between 0 and 1")
    wins = (member_distances[:, None] > other_distances) + 0.5 * (
        member_distances[:, None] == other_distances
    )
    rows = rng.choice(len(member_distances), (num_resamples, len(member_distances)))
    columns = rng.choice(len(other_distances), (num_resamples, len(other_distances)))
    aucs = [wins[np.ix_(row, column)].mean() for row, column in zip(rows, columns, strict=True)]
    low, high = np.quantile(aucs, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def membership_attack(
    members_before: np.ndarray,
    members_after: np.ndarray,
    others_before: np.ndarray,
    others_after: np.ndarray,
    rng: RandomGenerator,
    *,
    num_resamples: int = 1000,
) -> AttackResult:
    """The attack on one pair of ensembles: before and after unlearning (or repartition).

    Args: aggregated posteriors float [k, C] of the unlearned nodes (members) and of never-trained
      ones (others); the official aggregate is the mean over shards of log-probabilities, on graphs
      of a shard's train nodes and the one queried node (`shards.stack_queries`).
    """
    members = posterior_distances(members_before, members_after)
    others = posterior_distances(others_before, others_after)
    auc = membership_auc(members, others)
    interval = bootstrap_interval(members, others, rng, num_resamples=num_resamples)
    return AttackResult(auc, interval, members, others)
