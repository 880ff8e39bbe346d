"""Surrogate, bias and distillation losses against closed forms and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre

from lab.errors import InvalidInputError
from lab.papers.reliant import bias, bias_groups, kd_loss, step_approximation
from lab.papers.reliant.losses import clamped_log, real_fake_loss, soft_target_loss


def test_the_official_surrogate_has_the_published_values():
    values = step_approximation(jnp.array([1.0, 0.5, 0.0]))
    np.testing.assert_allclose(values, [0.926, 0.5, 0.074], atol=5e-4)


def test_the_legendre_surrogate_is_the_least_squares_polynomial_of_the_step():
    x = np.linspace(-1, 1, 200_001)
    coefficients = legendre.legfit(x, (x > 0) + 0.5 * (x == 0), 9)
    found = step_approximation(jnp.linspace(0, 1, 11), "legendre")
    np.testing.assert_allclose(
        found, legendre.legval(np.linspace(-1, 1, 11), coefficients), atol=1e-3
    )


def test_other_surrogates():
    probs = jnp.array([0.2, 0.5, 0.9])
    np.testing.assert_array_equal(step_approximation(probs, "identity"), probs)
    steep = step_approximation(probs, "sigmoid", 50.0)
    np.testing.assert_allclose(steep, [0, 0.5, 1], atol=1e-3)
    with pytest.raises(InvalidInputError, match="legendre"):
        step_approximation(probs, "tanh")


def slow_bias(probs, sensitive, mask, num_groups=2):
    """Mean over pairs of groups of the squared gaps, with loops."""
    phi = np.asarray(step_approximation(jnp.asarray(probs)))
    means = [phi[mask & (sensitive == g)].mean(axis=0) for g in range(num_groups)]
    pairs = [(a, b) for a in range(num_groups) for b in range(a)]
    return sum(((means[a] - means[b]) ** 2).sum() for a, b in pairs) / len(pairs)


@settings(deadline=None, max_examples=25)  # the first call compiles
@given(st.integers(0, 1000), st.integers(2, 3))
def test_bias_equals_loops_for_two_and_more_groups(seed, num_groups):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet([1, 1], 30).astype(np.float32)
    sensitive = np.append(
        np.arange(num_groups), generator.integers(-1, num_groups, 30 - num_groups)
    )
    mask = np.arange(30) < 25
    groups = bias_groups(sensitive, mask, "sp", num_groups=num_groups)
    expected = slow_bias(probs, sensitive, mask, num_groups)
    np.testing.assert_allclose(bias(jnp.asarray(probs), groups), expected, atol=1e-6)


def test_equal_opportunity_looks_at_positives_alone_and_both_adds_up():
    probs = jnp.asarray(np.random.default_rng(0).dirichlet([1, 1], 20), jnp.float32)
    sensitive, labels = np.arange(20) % 2, (np.arange(20) // 2) % 2
    everyone = np.ones(20, bool)
    eo = bias(probs, bias_groups(sensitive, everyone, "eo", labels=labels))
    np.testing.assert_allclose(eo, slow_bias(probs, sensitive, labels == 1), atol=1e-6)
    sp = bias(probs, bias_groups(sensitive, everyone, "sp"))
    both = bias(probs, bias_groups(sensitive, everyone, "both", labels=labels))
    np.testing.assert_allclose(both, sp + eo, atol=1e-6)


def test_unknown_groups_have_no_gradient():
    sensitive = np.array([0, 1, -1, 0, 1, -1])
    groups = bias_groups(sensitive, np.ones(6, bool), "sp")
    probs = jnp.full((6, 2), 0.5).at[0].set(jnp.array([0.1, 0.9]))
    gradient = jax.grad(bias)(probs, groups)
    assert not np.asarray(gradient)[sensitive < 0].any()
    assert np.asarray(gradient)[sensitive >= 0].any()


@pytest.mark.parametrize("metric", ["sp", "eo"])
def test_an_empty_group_is_refused(metric):
    labels = np.array([1, 0, 1, 0])
    with pytest.raises(InvalidInputError, match="group 1"):
        bias_groups(np.array([0, 1, 0, 0]), labels == 1, metric, labels=labels)


def test_kd_losses_are_finite_where_a_teacher_is_certain():
    teacher = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    mask = jnp.ones(2, bool)
    probs = jnp.array([[1.0, 0.0], [0.3, 0.7]])
    for kind in ("l2", "bce", "kl"):
        loss, grad = jax.value_and_grad(kd_loss)(probs, teacher, mask, kind)
        assert np.isfinite(loss)
        assert np.isfinite(grad).all()
    assert np.isfinite(jax.grad(kd_loss)(teacher, teacher, mask, "l2")).all()
    np.testing.assert_allclose(kd_loss(probs, teacher, mask, "kl"), -np.log(0.7) / 4, rtol=1e-5)
    with pytest.raises(InvalidInputError, match="l2, bce, kl"):
        kd_loss(probs, teacher, mask, "l1")


def test_a_distillation_loss_looks_at_the_masked_nodes_alone():
    teacher = jnp.array([[0.5, 0.5], [0.1, 0.9]])
    probs = jnp.array([[0.5, 0.5], [0.9, 0.1]])
    assert kd_loss(probs, teacher, jnp.array([True, False])) == 0


def test_logs_and_scores_are_clamped_at_a_hundred():
    np.testing.assert_allclose(clamped_log(jnp.array([0.0, 1.0])), [-100, 0])
    assert real_fake_loss(jnp.array([-500.0]), True) == 100


def test_soft_targets_vanish_for_the_teacher_itself():
    logits = jax.nn.log_softmax(jnp.array([[2.0, -1.0], [0.3, 0.1]]))
    labels, mask = jnp.array([0, 1]), jnp.array([True, False])
    soft = soft_target_loss(logits, logits, labels, mask, label_weight=0.0)
    np.testing.assert_allclose(soft, 0, atol=1e-5)
    hard = soft_target_loss(logits, logits, labels, mask, label_weight=1.0)
    np.testing.assert_allclose(hard, -logits[0, 0], rtol=1e-5)
