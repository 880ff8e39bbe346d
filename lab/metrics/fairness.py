"""How differently a classifier treats groups. Arrays are numpy or jax, and so is the result.

A gap is a fraction, 0 at best; NaN, never 0, where a group that it compares is empty. Rows whose
sensitive value is none of `groups` (-1 for unknown, say) do not count.
"""

from collections.abc import Sequence
from typing import Any

Array = Any


def group_rates(
    values: Array, sensitive: Array, groups: Sequence[int] = (0, 1), mask: Array | None = None
) -> Array:
    """Mean of `values` in each group.

    Args:
      values: bool or float [n]; sensitive: int [n].
      groups: values of the sensitive attribute.
      mask: bool [n], rows that count.
    Returns: float [groups]; NaN for an empty group.
    """
    xp = values.__array_namespace__()
    counted = xp.ones(sensitive.shape, bool) if mask is None else mask
    members = (sensitive[None, :] == xp.asarray(groups)[:, None]) & counted[None, :]
    size = members.sum(axis=1)
    total = xp.where(members, values[None, :], 0).sum(axis=1)
    return xp.where(size > 0, total / xp.maximum(size, 1), xp.nan)


def largest_gap(rates: Array) -> Array:
    """Largest difference between two of the rates [..., groups]; NaN if one of them is."""
    return rates.max(axis=-1) - rates.min(axis=-1)


def statistical_parity_gap(
    predictions: Array,
    sensitive: Array,
    *,
    groups: Sequence[int] = (0, 1),
    classes: Sequence[int] = (1,),
    mask: Array | None = None,
) -> Array:
    """Delta-SP: |P(prediction = 1 | s = 0) - P(prediction = 1 | s = 1)|.

    Args:
      predictions: int [n]; sensitive: int [n].
      groups: with more than two, the largest difference between any two.
      classes: with more than one, the largest gap of any class.
    Returns: float scalar.
    """
    xp = predictions.__array_namespace__()
    gaps = [largest_gap(group_rates(predictions == c, sensitive, groups, mask)) for c in classes]
    return xp.stack(gaps).max()


def equal_opportunity_gap(
    predictions: Array,
    labels: Array,
    sensitive: Array,
    *,
    groups: Sequence[int] = (0, 1),
    classes: Sequence[int] = (1,),
    mask: Array | None = None,
) -> Array:
    """Delta-EO: |P(prediction = 1 | y = 1, s = 0) - P(prediction = 1 | y = 1, s = 1)|.

    Args: as `statistical_parity_gap`; labels int [n], rows of an unknown label (-1) do not count.
    Returns: float scalar; NaN where a group has no positive.
    """
    xp = predictions.__array_namespace__()
    counted = xp.ones(labels.shape, bool) if mask is None else mask
    gaps = []
    for c in classes:
        rates = group_rates(predictions == c, sensitive, groups, counted & (labels == c))
        gaps.append(largest_gap(rates))
    return xp.stack(gaps).max()


def share_changed(predictions: Array, others: Array, mask: Array | None = None) -> Array:
    """Share of predictions that differ; NaN where nothing counts.

    Counterfactual unfairness where `others` are those with the sensitive attribute flipped,
    instability where they are those under noise (Agarwal et al., 2021, sec. 5).
    """
    xp = predictions.__array_namespace__()
    counted = xp.ones(predictions.shape, bool) if mask is None else mask
    changed = ((predictions != others) & counted).sum()
    return xp.where(counted.sum() > 0, changed / xp.maximum(counted.sum(), 1), xp.nan)
