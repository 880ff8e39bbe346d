"""Masks from a hash: their rate, their independence of each other, their repeatability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.nn.hashed_dropout import dropout, keep_mask, keep_pairs

SHAPE = (300, 200)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_the_share_kept_is_that_asked_for(rate):
    mask = keep_mask(jax.random.key(0), SHAPE, rate)
    spread = np.sqrt(rate * (1 - rate) / mask.size)
    assert abs(float(mask.mean()) - (1 - rate)) < 4 * spread
    assert abs(np.asarray(mask).mean(axis=0).std() - spread * np.sqrt(SHAPE[1])) < 0.01


def test_masks_of_neighbours_and_of_other_keys_are_uncorrelated():
    first = np.asarray(keep_mask(jax.random.key(0), SHAPE, 0.5), float).ravel() - 0.5
    others = [
        np.asarray(keep_mask(jax.random.key(k), SHAPE, 0.5), float).ravel() - 0.5
        for k in range(1, 6)
    ]
    shifted = [np.roll(first, lag) for lag in (1, 2, SHAPE[1], 64)]
    for other in (*others, *shifted):
        assert abs(np.mean(first * other) * 4) < 5 / np.sqrt(first.size)


def test_the_same_key_gives_the_same_mask_inside_and_outside_jit():
    key = jax.random.key(5)
    inside = jax.jit(lambda key: keep_mask(key, SHAPE, 0.3))(key)
    np.testing.assert_array_equal(inside, keep_mask(key, SHAPE, 0.3))


def test_a_vmapped_mask_is_that_of_each_key():
    keys = jax.random.split(jax.random.key(1), 3)
    several = jax.vmap(lambda key: keep_mask(key, (7, 5), 0.5))(keys)
    np.testing.assert_array_equal(several[2], keep_mask(keys[2], (7, 5), 0.5))


def test_dropout_scales_what_is_left_and_leaves_evaluation_alone():
    x = jnp.ones(SHAPE)
    dropped = dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(dropped).round(5)) == {0.0, np.float32(4 / 3).round(5)}
    assert dropout(x, 0.25, None) is x
    gradient = jax.grad(lambda x: dropout(x, 0.25, jax.random.key(0)).sum())(x)
    np.testing.assert_allclose(gradient, dropped)


def test_ordered_pairs_are_kept_independently_of_their_reverse():
    words = jnp.array([11, 12], jnp.uint32)
    first, second = (x.ravel() for x in np.indices((200, 200)))
    kept = np.asarray(keep_pairs(words, jnp.asarray(first), jnp.asarray(second), 0.5), float)
    square = kept.reshape(200, 200) - 0.5
    assert abs(square.mean()) < 0.01
    assert abs(np.mean(square * square.T) * 4) < 0.03
