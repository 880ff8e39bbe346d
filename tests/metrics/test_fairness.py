"""Gaps between groups against plain loops, and where they are undefined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.metrics.fairness import (
    equal_opportunity_gap,
    group_rates,
    share_changed,
    statistical_parity_gap,
)


def slow_parity(predictions, sensitive):
    """|P(yhat = 1 | s = 0) - P(yhat = 1 | s = 1)|, written with lists."""
    by_group = [[p for p, s in zip(predictions, sensitive, strict=True) if s == g] for g in (0, 1)]
    if not all(by_group):
        return float("nan")
    return abs(sum(by_group[0]) / len(by_group[0]) - sum(by_group[1]) / len(by_group[1]))


rows = st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=1, max_size=30)


@given(rows)
def test_gaps_equal_plain_loops(rows):
    predictions, labels, sensitive = np.array(rows).T
    expected = slow_parity(predictions.tolist(), sensitive.tolist())
    positive = labels == 1
    opportunity = slow_parity(predictions[positive].tolist(), sensitive[positive].tolist())
    np.testing.assert_allclose(statistical_parity_gap(predictions, sensitive), expected, atol=1e-12)
    gap = equal_opportunity_gap(predictions, labels, sensitive)
    np.testing.assert_allclose(gap, opportunity, atol=1e-12)


@given(rows)
def test_exchanging_the_groups_changes_nothing(rows):
    predictions, labels, sensitive = np.array(rows).T
    for gap in (
        lambda s: statistical_parity_gap(predictions, s),
        lambda s: equal_opportunity_gap(predictions, labels, s),
    ):
        np.testing.assert_allclose(gap(sensitive), gap(1 - sensitive), atol=1e-12)


def test_an_empty_group_is_undefined_and_never_zero():
    predictions, sensitive = np.array([0, 1, 1]), np.array([0, 0, 0])
    assert np.isnan(statistical_parity_gap(predictions, sensitive))
    rates = group_rates(predictions == 1, sensitive)
    assert rates[0] == pytest.approx(2 / 3)
    assert np.isnan(rates[1])


def test_unknown_values_do_not_count():
    predictions = np.array([1, 0, 0, 0, 1, 1])
    sensitive = np.array([0, 0, 1, 1, -1, 2])
    assert statistical_parity_gap(predictions, sensitive) == pytest.approx(0.5)


def test_several_groups_give_the_largest_pairwise_gap():
    predictions = np.array([1, 1, 1, 0, 0, 0])
    sensitive = np.array([0, 0, 1, 1, 2, 2])
    gap = statistical_parity_gap(predictions, sensitive, groups=(0, 1, 2))
    assert gap == pytest.approx(1.0)


def test_several_classes_give_the_gap_of_the_worst():
    predictions, sensitive = np.array([0, 1, 0, 2]), np.array([0, 0, 1, 1])
    assert statistical_parity_gap(predictions, sensitive, classes=(0,)) == 0
    assert statistical_parity_gap(predictions, sensitive, classes=(0, 1, 2)) == pytest.approx(0.5)


def test_jax_arrays_under_jit_and_vmap():
    predictions = jnp.array([[1, 0, 1, 0], [1, 1, 0, 0]])
    sensitive = jnp.array([0, 0, 1, 1])
    gaps = jax.jit(jax.vmap(lambda p: statistical_parity_gap(p, sensitive)))(predictions)
    np.testing.assert_allclose(gaps, [0.0, 1.0])


def test_share_changed_counts_the_masked_rows():
    first, second = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    assert share_changed(first, second) == 0.5
    assert share_changed(first, second, np.array([True, True, True, False])) == pytest.approx(1 / 3)
    assert np.isnan(share_changed(first, second, np.zeros(4, bool)))
