"""Which epoch is kept, when training stops, and which runs are worth choosing between."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lab.errors import require

SelectBy = Literal["val_accuracy", "val_loss", "fair", "last"]


class Best(struct.PyTreeNode):
    """The best epoch so far, carried in the state of a run.

    Attributes: score float32; epoch int32, from 0, -1 before the first; num_worse int32, epochs in
      a row with a strictly lower score; stopped bool, whether patience has run out; value, a pytree
      kept from the best epoch.
    """

    score: jax.Array
    epoch: jax.Array
    num_worse: jax.Array
    stopped: jax.Array
    value: Any


def nothing_yet(value: Any) -> Best:
    """Before the first epoch; `value` gives the shapes."""
    zero = jnp.zeros((), jnp.int32)
    return Best(jnp.float32(-jnp.inf), zero - 1, zero, jnp.zeros((), bool), value)


def follow(
    best: Best,
    score: jax.Array,
    epoch: jax.Array,
    value: Any,
    *,
    ties_win: bool,
    patience: int | None = None,
) -> Best:
    """Takes one epoch into account.

    Args:
      score: float scalar, higher is better.
      ties_win: whether an equal score replaces the best (the released CPF code and its teachers) or
        not (GraphAKD).
      patience: stop after so many epochs in a row that are strictly worse; None: never.
    """
    is_better = (score >= best.score) if ties_win else (score > best.score)
    num_worse = jnp.where(score < best.score, best.num_worse + 1, 0)
    stopped = best.stopped if patience is None else best.stopped | (num_worse >= patience)
    return Best(
        score=jnp.where(is_better, score, best.score),
        epoch=jnp.where(is_better, epoch, best.epoch),
        num_worse=num_worse,
        stopped=stopped,
        value=jax.tree.map(lambda new, old: jnp.where(is_better, new, old), value, best.value),
    )


def score_of(
    select_by: SelectBy,
    metrics: dict[str, jax.Array],
    epoch: jax.Array,
    min_accuracy: float = 0.0,
    min_auc: float = 0.0,
) -> jax.Array:
    """An epoch's score under a selection policy.

    "val_accuracy"; "val_loss" (lowest); "fair", FairGNN's: the smallest delta-SP + delta-EO on
    validation nodes among epochs whose validation accuracy and AUC reach the thresholds; "last".

    Args: metrics, with val_accuracy, val_loss and, for "fair", val_auc, val_sp, val_eo.
    """
    if select_by == "val_accuracy":
        return metrics["val_accuracy"]
    if select_by == "val_loss":
        return -metrics["val_loss"]
    if select_by == "last":
        return epoch.astype(jnp.float32)
    require(
        select_by == "fair",
        f"select_by is {select_by!r}; accepted: val_accuracy, val_loss, fair, last",
    )
    fit = (metrics["val_accuracy"] >= min_accuracy) & (metrics["val_auc"] >= min_auc)
    # Epochs that do not reach the thresholds rank below all that do, by accuracy.
    gap = metrics["val_sp"] + metrics["val_eo"]
    return jnp.where(fit, -gap, metrics["val_accuracy"] - 10)


def is_dominated(utility: np.ndarray, unfairness: np.ndarray) -> np.ndarray:
    """Which points another one beats: at least as good in both, better in one.

    Args: utility float [n], higher is better; unfairness float [n], lower is better. A point with
      a NaN is dominated.
    Returns: bool [n]; the others are the Pareto front.
    """
    utility, unfairness = np.asarray(utility, float), np.asarray(unfairness, float)
    require(
        utility.shape == unfairness.shape and utility.ndim == 1,
        f"utility has shape {utility.shape}, unfairness {unfairness.shape}; accepted: [n] both",
    )
    no_worse = (utility[:, None] >= utility) & (unfairness[:, None] <= unfairness)
    better = (utility[:, None] > utility) | (unfairness[:, None] < unfairness)
    undefined = np.isnan(utility) | np.isnan(unfairness)
    return (no_worse & better).any(axis=0) | undefined
