"""Scores of rankings. Arrays are numpy or jax, and so is the result."""

from typing import Any

Array = Any


def roc_auc(scores: Array, labels: Array) -> Array:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties count half.

    Args: scores float [n]; labels bool or 0/1 [n], 1 for a positive.
    Returns: float scalar, in the precision of the array library; NaN unless both classes occur.
    """
    xp = scores.__array_namespace__()
    positive = labels.astype(bool)
    ordered = xp.sort(scores)
    below = xp.searchsorted(ordered, scores, side="left")
    not_above = xp.searchsorted(ordered, scores, side="right")
    ranks = (below + not_above + 1) / 2
    num_positive, num_negative = positive.sum(), (~positive).sum()
    wins = xp.where(positive, ranks, 0).sum() - num_positive * (num_positive + 1) / 2
    pairs = num_positive * num_negative
    return xp.where(pairs > 0, wins / xp.maximum(pairs, 1), xp.nan)
