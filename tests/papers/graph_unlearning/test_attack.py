"""The membership attack on the change of posteriors."""

import numpy as np
import pytest

from lab.errors import InvalidInputError, NonFiniteError
from lab.papers.graph_unlearning.attack import (
    bootstrap_interval,
    draw_negatives,
    membership_attack,
    membership_auc,
    posterior_distances,
)


def test_distance_is_the_norm_of_the_change():
    before = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    after = np.array([[3.0, 4.0], [1.0, 1.0]], np.float32)
    np.testing.assert_array_equal(posterior_distances(before, after), [5.0, 0.0])


def test_auc_counts_ties_half():
    assert membership_auc(np.array([2.0, 1.0]), np.array([1.0, 0.0])) == 0.875
    assert membership_auc(np.zeros(3), np.zeros(4)) == 0.5


def test_change_of_members_only_is_found_and_no_change_is_chance():
    rng = np.random.default_rng(0)
    still = rng.normal(size=(30, 4))
    moved = still + rng.normal(size=(30, 4))
    found = membership_attack(still, moved, still, still, rng, num_resamples=200)
    assert found.auc == 1.0
    assert found.interval == (1.0, 1.0)
    nothing = membership_attack(still, still, still, still, rng, num_resamples=200)
    assert nothing.auc == 0.5


def test_bootstrap_interval_covers_the_auc_and_narrows_with_more_nodes():
    rng = np.random.default_rng(1)
    widths = []
    for num in (20, 500):
        members, others = rng.normal(0.5, 1, num), rng.normal(0, 1, num)
        low, high = bootstrap_interval(members, others, rng, num_resamples=300)
        assert low < membership_auc(members, others) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_negatives_are_distinct_test_nodes():
    drawn = draw_negatives(np.arange(50, 80), 30, np.random.RandomState(0))
    assert sorted(drawn) == list(range(50, 80))
    with pytest.raises(InvalidInputError, match="accepted: 1 to 3"):
        draw_negatives(np.arange(3), 4, np.random.default_rng(0))


def test_bad_posteriors_are_refused():
    with pytest.raises(InvalidInputError, match="shapes"):
        posterior_distances(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(NonFiniteError, match="not finite"):
        posterior_distances(np.full((2, 3), np.nan), np.zeros((2, 3)))
    with pytest.raises(InvalidInputError, match="at least one"):
        membership_auc(np.zeros(0), np.zeros(2))
    with pytest.raises(InvalidInputError, match="level"):
        bootstrap_interval(np.zeros(2), np.zeros(2), np.random.default_rng(0), level=1.0)
