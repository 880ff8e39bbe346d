"""The epoch that is kept, stopping, and the front of a trade-off."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.reliant import is_dominated
from lab.papers.reliant.selection import follow, nothing_yet, score_of


def chosen(scores, **options):
    best = nothing_yet(jnp.int32(-1))
    for epoch, score in enumerate(scores):
        best = follow(best, jnp.float32(score), jnp.int32(epoch), jnp.int32(epoch), **options)
    return best


def test_ties_go_to_the_later_or_the_earlier_epoch():
    assert chosen([0.5, 0.7, 0.7], ties_win=True).epoch == 2
    assert chosen([0.5, 0.7, 0.7], ties_win=False).epoch == 1
    assert chosen([0.5, 0.7, 0.7], ties_win=False).value == 1


def test_patience_counts_epochs_in_a_row_that_are_strictly_worse():
    assert not chosen([0.7, 0.6, 0.7, 0.6], ties_win=True, patience=2).stopped
    assert chosen([0.7, 0.6, 0.6], ties_win=True, patience=2).stopped
    assert not chosen([0.7] + [0.6] * 50, ties_win=True).stopped


def test_policies():
    metrics = {"val_accuracy": jnp.float32(0.8), "val_loss": jnp.float32(0.3)}
    metrics |= {"val_auc": jnp.float32(0.9), "val_sp": jnp.float32(0.1), "val_eo": jnp.float32(0.2)}
    epoch = jnp.int32(4)
    assert score_of("val_accuracy", metrics, epoch) == jnp.float32(0.8)
    assert score_of("val_loss", metrics, epoch) == -jnp.float32(0.3)
    assert score_of("last", metrics, epoch) == 4
    np.testing.assert_allclose(score_of("fair", metrics, epoch, 0.7, 0.8), -0.3, rtol=1e-6)
    # An unfair epoch above the thresholds beats every one below them.
    unfair = metrics | {"val_sp": jnp.float32(1), "val_eo": jnp.float32(1)}
    below = score_of("fair", metrics, epoch, 0.9, 0.8)
    assert score_of("fair", unfair, epoch, 0.7, 0.8) > below
    with pytest.raises(InvalidInputError, match="val_accuracy"):
        score_of("best", metrics, epoch)


def test_dominated_points():
    utility, unfairness = [0.9, 0.8, 0.8, 0.7, np.nan], [0.3, 0.1, 0.2, 0.1, 0.0]
    np.testing.assert_array_equal(
        is_dominated(np.array(utility), np.array(unfairness)), [False, False, True, True, True]
    )
    assert not is_dominated(np.array([1.0, 1.0]), np.array([0.5, 0.5])).any()
    with pytest.raises(InvalidInputError, match=r"\[n\]"):
        is_dominated(np.zeros(3), np.zeros(2))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_dominated_point_is_beaten_by_one_of_the_front(points):
    utility, unfairness = np.array(points, float).T
    beaten = is_dominated(utility, unfairness)
    assert not beaten.all()
    for i in np.flatnonzero(beaten):
        better = (utility >= utility[i]) & (unfairness <= unfairness[i]) & ~beaten
        assert better.any()
