"""Aggregators: fixed ones by hand, the learned one against a slow version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError, NonFiniteError
from lab.papers.graph_unlearning.aggregation import (
    LBAggrConfig,
    check_log_probs,
    epoch_orders,
    fit_lbaggr,
    lbaggr_loss,
    mean_log_probs,
    mean_probs,
    optimisation_nodes,
    predict,
    votes,
    weighted_log_probs,
    without_empty_shards,
)

PROBS = np.array(
    [
        [[0.8, 0.1, 0.1], [0.4, 0.6, 0.0 + 1e-9]],
        [[0.1, 0.8, 0.1], [0.5, 0.3, 0.2]],
        [[0.1, 0.1, 0.8], [0.5, 0.3, 0.2]],
    ]
)
LOG_PROBS = np.log(PROBS)


def posteriors(seed, num_shards=3, num_nodes=50, num_classes=4):
    logits = np.random.default_rng(seed).normal(size=(num_shards, num_nodes, num_classes))
    labels = np.random.default_rng(seed + 1).integers(0, num_classes, num_nodes)
    logits[0, np.arange(num_nodes), labels] += 2
    return np.asarray(jax.nn.log_softmax(logits), np.float32), labels


def slow_fit(log_probs, labels, orders, config):
    """Official LBAggr in numpy, float64; gradients by central differences."""
    weights = np.full(len(log_probs), 1 / len(log_probs))
    first, second, count = np.zeros_like(weights), np.zeros_like(weights), 0
    per_epoch, sums = [], []

    def loss_of(a, nodes):
        mixed = np.exp(np.einsum("s,snc->nc", a, log_probs[:, nodes]))
        mixed /= mixed.sum(axis=1, keepdims=True)
        log_norm = np.log(np.exp(mixed).sum(axis=1))
        picked = mixed[np.arange(len(nodes)), labels[nodes]]
        return (log_norm - picked).mean() + config.norm_coefficient * np.sqrt((a**2).sum())

    for order in orders:
        total = 0.0
        for start in range(0, len(order), config.batch_size):
            nodes = order[start : start + config.batch_size]
            total += loss_of(weights, nodes)
            steps = 1e-6 * np.eye(len(weights))
            gradient = np.array(
                [(loss_of(weights + d, nodes) - loss_of(weights - d, nodes)) / 2e-6 for d in steps]
            )
            count += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            scale = np.sqrt(second / (1 - 0.999**count)) + 1e-8
            update = config.learning_rate * (first / (1 - 0.9**count)) / scale
            weights = np.maximum(weights - update, 0)
        per_epoch.append(weights)
        sums.append(total)
    best = int(np.argmin(sums))
    return per_epoch[best] / per_epoch[best].sum(), best, np.array(per_epoch), np.array(sums)


def test_fixed_aggregators_by_hand():
    # Node 0: one vote each, the tie goes to class 0. Node 1: two votes for class 0, whose mean
    # probability is the largest too.
    np.testing.assert_array_equal(votes(LOG_PROBS), [[1, 1, 1], [2, 1, 0]])
    np.testing.assert_array_equal(predict(votes(LOG_PROBS)), [0, 0])
    np.testing.assert_allclose(mean_probs(LOG_PROBS), PROBS.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(mean_log_probs(LOG_PROBS), LOG_PROBS.mean(axis=0), rtol=1e-6)
    weighted = weighted_log_probs(LOG_PROBS, np.array([0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(predict(weighted), [1, 0])


def test_aggregators_leave_the_posteriors_alone():
    before = LOG_PROBS.copy()
    for aggregate in (mean_log_probs, mean_probs, votes):
        aggregate(LOG_PROBS)
    np.testing.assert_array_equal(LOG_PROBS, before)


def test_empty_shards_do_not_vote():
    with pytest.warns(UserWarning, match="shards \\[1\\] are empty"):
        left = without_empty_shards(LOG_PROBS, np.array([4, 0, 2]))
    np.testing.assert_array_equal(left, LOG_PROBS[[0, 2]])
    assert without_empty_shards(LOG_PROBS, np.array([4, 1, 2])) is LOG_PROBS
    with pytest.raises(InvalidInputError, match="every shard"):
        without_empty_shards(LOG_PROBS, np.zeros(3, int))


def test_learned_weights_agree_with_the_slow_version():
    log_probs, labels = posteriors(0)
    config = LBAggrConfig(learning_rate=0.002, batch_size=16, num_epochs=6)
    orders = np.asarray(epoch_orders(jax.random.key(0), 6, 50))
    fit = fit_lbaggr(log_probs, labels, orders, config)
    weights, best, per_epoch, sums = slow_fit(log_probs.astype(float), labels, orders, config)
    np.testing.assert_allclose(fit.weights_per_epoch, per_epoch, atol=1e-5)
    np.testing.assert_allclose(fit.loss_sum_per_epoch, sums, rtol=1e-5)
    np.testing.assert_allclose(fit.weights, weights, atol=1e-4)
    assert fit.best_epoch == fit.official_best_epoch == best
    assert fit.is_counted.all()


def test_epochs_from_the_collapse_on_do_not_count():
    log_probs, labels = posteriors(1, num_shards=4)
    config = LBAggrConfig(learning_rate=0.02, num_epochs=20)
    orders = epoch_orders(jax.random.key(1), 20, 50)
    fit = fit_lbaggr(log_probs, labels, orders, config)
    counted = np.asarray(fit.is_counted)
    assert 0 < counted.sum() < 20
    assert (np.diff(counted.astype(int)) <= 0).all()
    assert (np.asarray(fit.weights_per_epoch)[~counted] == 0).all()
    assert (np.asarray(fit.weights_per_epoch)[counted].sum(axis=1) > 0).all()
    assert counted[fit.best_epoch]
    np.testing.assert_allclose(fit.weights.sum(), 1, rtol=1e-6)


def test_collapse_in_the_first_epoch_gives_equal_weights():
    log_probs, labels = posteriors(2)
    orders = epoch_orders(jax.random.key(0), 3, 50)
    fit = fit_lbaggr(log_probs, labels, orders, LBAggrConfig(learning_rate=1.0, num_epochs=3))
    assert fit.best_epoch == -1
    np.testing.assert_allclose(fit.weights, 1 / 3, rtol=1e-6)


def test_fits_of_several_seeds_are_one_call():
    log_probs, labels = posteriors(3)
    keys = jax.random.split(jax.random.key(0), 3)
    orders = jax.vmap(lambda key: epoch_orders(key, 4, 50))(keys)
    together = jax.vmap(lambda order: fit_lbaggr(log_probs, labels, order))(orders)
    for seed in range(3):
        alone = fit_lbaggr(log_probs, labels, orders[seed])
        np.testing.assert_allclose(together.weights[seed], alone.weights, atol=1e-6)


def test_loss_has_a_finite_gradient_at_zero_weights():
    log_probs, labels = posteriors(0)
    gradient = jax.jit(jax.grad(lbaggr_loss))(jnp.zeros(3), log_probs, labels)
    assert np.isfinite(gradient).all()


def test_orders_are_shuffles():
    orders = epoch_orders(jax.random.key(0), 5, 20)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(20), (5, 1)))
    assert len({tuple(order) for order in np.asarray(orders).tolist()}) == 5


@pytest.mark.parametrize(("size", "expected"), [(7, 7), (0.1, 4), (None, 40)])
def test_optimisation_nodes_are_distinct_train_nodes_in_order(size, expected):
    train = np.random.default_rng(0).permutation(100)[:40]
    nodes = optimisation_nodes(train, size, np.random.RandomState(0))
    assert len(np.unique(nodes)) == expected
    assert (np.diff(nodes) > 0).all()
    assert np.isin(nodes, train).all()


def test_sample_larger_than_the_train_set_takes_all_with_a_warning():
    with pytest.warns(UserWarning, match="all 40 train nodes, not 1000"):
        nodes = optimisation_nodes(np.arange(40), 1000, np.random.default_rng(0))
    np.testing.assert_array_equal(nodes, np.arange(40))


@pytest.mark.parametrize("size", [0, -1, 0.0, 1.5])
def test_sample_sizes_that_mean_nothing_are_refused(size):
    with pytest.raises(InvalidInputError, match="size"):
        optimisation_nodes(np.arange(40), size, np.random.default_rng(0))


@pytest.mark.parametrize("fields", [{"learning_rate": 0}, {"batch_size": 0}, {"num_epochs": -1}])
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(InvalidInputError, match=next(iter(fields))):
        LBAggrConfig(**fields)


def test_posteriors_that_are_not_finite_are_refused_by_shard():
    bad = LOG_PROBS.copy()
    bad[1, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="shards \\[1\\]"):
        check_log_probs(bad)
    check_log_probs(LOG_PROBS)
