"""Relations against loops over pairs of tokens, and what must hold for any tokens."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.tinymim.losses import relation_distance, relation_kl
from lab.papers.tinymim.relations import RELATIONS, relation_losses, token_relations


def tokens(seed, width=6, count=5, batch=2):
    rng = np.random.default_rng(seed)
    return {
        part: jnp.asarray(rng.normal(size=(batch, count, width)), jnp.float32) for part in "qkv"
    }


def slow_relation(a, b, num_heads):
    """softmax(a b^T / sqrt(d)) of one picture, [M][T][T], pair by pair."""
    size = a.shape[-1] // num_heads
    maps = np.zeros((num_heads, len(a), len(b)))
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        for query in range(len(a)):
            products = [math.exp(a[query, part] @ key[part] / math.sqrt(size)) for key in b]
            maps[head, query] = np.array(products) / sum(products)
    return maps


def slow_kl(teacher, student):
    """Mean over heads and rows of sum t log(t / s)."""
    return np.mean(np.sum(teacher * np.log(teacher / student), axis=-1))


@pytest.mark.parametrize("kind", RELATIONS)
def test_relation_loss_is_its_formula_head_by_head(kind):
    teacher, student = tokens(0, width=12), tokens(1, width=6)
    got = relation_losses(teacher, student, 3, (kind,), relation_kl)[kind]
    assert got.shape == (2, 3)
    for picture in range(2):
        maps = [
            slow_relation(
                np.float64(x[kind[0]][picture]), np.float64(x[kind[1]][picture]), num_heads=3
            )
            for x in (teacher, student)
        ]
        np.testing.assert_allclose(got[picture].mean(), slow_kl(*maps), atol=1e-5)


def test_without_the_class_token_its_row_and_column_are_gone_before_the_softmax():
    student = tokens(1)
    got = token_relations(student, 2, ("qk",), include_cls=False)["qk"]
    expected = slow_relation(np.float64(student["q"][0, 1:]), np.float64(student["k"][0, 1:]), 2)
    np.testing.assert_allclose(jax.nn.softmax(got)[0], expected, atol=1e-5)


def test_heads_in_groups_give_the_same_loss_and_gradient():
    teacher, student = tokens(0, width=8), tokens(1, width=12)

    def loss(student, heads_at_once):
        terms = relation_losses(
            teacher, student, 4, ("qk", "vv"), relation_kl, heads_at_once=heads_at_once
        )
        return sum(x.mean() for x in terms.values())

    whole = jax.value_and_grad(loss)(student, None)
    parts = jax.value_and_grad(loss)(student, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, parts)


def test_gradient_of_the_kl_is_the_difference_of_the_distributions():
    rng = np.random.default_rng(2)
    teacher, student = (jnp.asarray(rng.normal(size=(2, 3, 4, 4)), jnp.float32) for _ in "ab")
    grads = jax.grad(lambda t, s: relation_kl(t, s).mean(), (0, 1))(teacher, student)
    expected = (jax.nn.softmax(student) - jax.nn.softmax(teacher)) / (2 * 3 * 4)
    np.testing.assert_allclose(grads[1], expected, atol=1e-7)
    np.testing.assert_array_equal(grads[0], 0)


def test_probabilities_that_underflow_give_a_finite_loss_and_gradient():
    teacher = jnp.array([[[[0.0, 1e4], [3e3, 0.0]]]])
    value, grad = jax.value_and_grad(lambda s: relation_kl(teacher, s).mean())(-teacher)
    np.testing.assert_allclose(value, (1e4 + 3e3) / 2, rtol=1e-5)
    assert np.isfinite(grad).all()
    assert (jax.nn.softmax(-teacher) == 0).any()  # so that log(softmax(x)) is not finite


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**31), order=st.permutations(range(5)))
def test_the_loss_does_not_depend_on_the_order_of_tokens(seed, order):
    order = np.array(order)
    pair = tokens(seed), tokens(seed + 1, width=8)
    moved = [{part: x[:, order] for part, x in one.items()} for one in pair]
    terms = relation_losses(*pair, 2, ("qk", "vv"), relation_kl)
    other = relation_losses(*moved, 2, ("qk", "vv"), relation_kl)
    for kind, value in terms.items():
        np.testing.assert_allclose(value, other[kind], atol=1e-5)
        assert (value >= 0).all()


def test_equal_relations_cost_nothing():
    same = tokens(3)
    for loss in (relation_kl, relation_distance):
        terms = relation_losses(same, same, 2, ("qk", "vv", "qq", "kk"), loss)
        for value in terms.values():
            np.testing.assert_allclose(value, 0, atol=1e-7)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInputError, match="divide the width 6 into equal heads, got 4"):
        token_relations(tokens(0), 4)
    with pytest.raises(InvalidInputError, match="heads_at_once must divide the 2 heads, got 3"):
        relation_losses(tokens(0), tokens(1), 2, ("qk",), relation_kl, heads_at_once=3)
