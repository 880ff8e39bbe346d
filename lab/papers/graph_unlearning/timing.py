"""What unlearning costs in time, from the measured training time of every shard (section 10)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lab.errors import require
from lab.papers.graph_unlearning.data import RandomGenerator


@dataclasses.dataclass(frozen=True, eq=False)
class UnlearningTime:
    """Seconds to serve single requests one by one.

    Attributes: per_request_seconds float64 [k]; mean_seconds; std_seconds, of the population.
    """

    per_request_seconds: np.ndarray
    mean_seconds: float
    std_seconds: float


def draw_timed_nodes(
    train_ids: np.ndarray, rng: RandomGenerator, share: float = 0.05
) -> np.ndarray:
    """The nodes whose requests are timed: int(share n), at least 1, WITH replacement."""
    return rng.choice(train_ids, max(int(share * len(train_ids)), 1))


def unlearning_time(shard_seconds: Sequence[float], shards: np.ndarray) -> UnlearningTime:
    """Time of requests that each retrain one shard.

    Args: shard_seconds float [S], training time of each shard; shards int [k], that of each
      request's node.
    """
    seconds = np.asarray(shard_seconds, np.float64)
    require(len(shards) > 0, "there is no request to time")
    require(
        np.min(shards) >= 0 and np.max(shards) < len(seconds),
        f"shards go from {np.min(shards)} to {np.max(shards)}; accepted: 0 to {len(seconds) - 1}",
    )
    times = seconds[shards]
    return UnlearningTime(times, float(times.mean()), float(times.std()))


def batched_seconds(shard_seconds: Sequence[float], shards: np.ndarray) -> float:
    """Time to serve all requests at once: each distinct affected shard retrains once."""
    return float(np.asarray(shard_seconds, np.float64)[np.unique(shards)].sum())
