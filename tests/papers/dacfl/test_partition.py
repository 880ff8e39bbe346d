"""Partitions: every example at most once, sizes as promised, bad requests refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.dacfl import partition
from lab.papers.dacfl.partition import PartitionConfig, check_partition, draw_partition, pack

LABELS = np.random.default_rng(0).integers(0, 10, 1200).astype(np.int32)


@settings(max_examples=30, deadline=None)
@given(
    num_users=st.integers(1, 12),
    scheme=st.sampled_from(partition.SCHEMES),
    balance=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_example_is_given_twice(num_users, scheme, balance, seed):
    config = PartitionConfig(scheme, balance=balance, alpha=2.0)
    parts = draw_partition(LABELS, num_users, config, np.random.default_rng(seed))
    everything = np.concatenate(parts)
    assert len(np.unique(everything)) == len(everything)
    if scheme == "dirichlet":
        assert len(everything) == len(LABELS)
        assert min(map(len, parts)) >= config.min_size
    else:
        assert len({len(part) for part in parts}) == 1


def test_two_shards_give_few_classes():
    parts = draw_partition(LABELS, 10, PartitionConfig("shards"), np.random.default_rng(1))
    assert max(len(np.unique(LABELS[part])) for part in parts) <= 4


def test_dirichlet_cuts_as_the_public_partitioners_do():
    """Against a loop in the manner of flwr-datasets: np.split at the truncated cumulative sums."""
    generator = np.random.default_rng(3)
    perm = generator.permutation(len(LABELS))
    shares = generator.dirichlet(np.full(5, 0.5), size=10)
    users = [[] for _ in range(5)]
    for label in range(10):
        rows = np.array([i for i in perm if LABELS[i] == label])
        for user, piece in zip(
            users,
            np.split(rows, (np.cumsum(shares[label]) * len(rows)).astype(int)[:-1]),
            strict=True,
        ):
            user.extend(piece.tolist())
    parts = partition.dirichlet_from(LABELS, perm, shares)
    assert [part.tolist() for part in parts] == users
    histogram = partition.label_histogram(parts, LABELS, 10)
    assert histogram.sum(axis=0).tolist() == np.bincount(LABELS).tolist()


def test_small_alpha_is_far_from_iid_and_large_alpha_near():
    def spread(alpha):
        config = PartitionConfig("dirichlet", alpha=alpha, min_size=1)
        parts = draw_partition(LABELS, 6, config, np.random.default_rng(5))
        shares = partition.label_histogram(parts, LABELS, 10)
        return (shares / shares.sum(axis=1, keepdims=True)).std(axis=0).mean()

    assert spread(0.1) > 3 * spread(100.0)


def test_packing_pads_with_a_users_own_examples():
    packed = pack([np.array([4, 5, 6]), np.array([7])])
    assert packed.index.tolist() == [[4, 5, 6], [7, 7, 7]]
    assert packed.counts.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("num_users", "config", "message"),
    [
        (700, PartitionConfig("shards"), "1200 examples cannot be divided among 1400"),
        (1201, PartitionConfig("iid"), "cannot be divided"),
        (200, PartitionConfig("dirichlet"), "cannot give 200 users 10 each"),
        (100, PartitionConfig("dirichlet", alpha=0.01, max_draws=3), "no draw of 3"),
        (0, PartitionConfig("iid"), "at least 1"),
    ],
)
def test_impossible_partitions_are_refused(num_users, config, message):
    with pytest.raises(InvalidInputError, match=message):
        draw_partition(LABELS, num_users, config, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "shard"}, "did you mean 'shards'"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0"),
        ({"alpha": np.nan}, "alpha must be > 0, got nan"),
        ({"shards_per_user": 0}, "shards_per_user"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        PartitionConfig(**changes)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (LABELS.astype(float), None, "must be integers"),
        (LABELS, 5, "must be 0..4, got"),
        (-LABELS, None, "must be 0.."),
    ],
)
def test_bad_labels_are_refused(labels, num_classes, message):
    with pytest.raises(InvalidInputError, match=message):
        draw_partition(labels, 3, PartitionConfig("iid"), np.random.default_rng(0), num_classes)


def test_an_absent_class_is_warned_about_and_its_slice_is_empty():
    labels = np.where(LABELS == 3, 4, LABELS)
    with pytest.warns(UserWarning, match=r"classes \[3\] have no examples"):
        parts = draw_partition(
            labels, 3, PartitionConfig("dirichlet"), np.random.default_rng(0), 10
        )
    assert partition.label_histogram(parts, labels, 10)[:, 3].sum() == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[0, 1], []], "user 1 has no examples"),
        ([[0, 1], [5]], "user 1: indices \\[5\\] are out of range 0..4"),
        ([[0.5]], "user 0: indices must be a list of integers"),
        ([], "no users"),
    ],
)
def test_bad_index_lists_are_refused(parts, message):
    with pytest.raises(InvalidInputError, match=message):
        check_partition(parts, 5)


def test_overlaps_are_warned_about_and_empty_users_named():
    with pytest.warns(UserWarning, match="1 examples are given more than once"):
        check_partition([[0, 1], [1, 2]], 5)
    with pytest.raises(InvalidInputError, match="user 1 has 0 examples"):
        pack([np.array([1]), np.array([], int)])
