"""Arrays for figures against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np

from lab.papers.tinymim.losses import pixel_targets
from lab.papers.tinymim.masking import random_masking
from lab.papers.tinymim.pictures import (
    attention_rollout,
    class_attention,
    reconstructed,
    token_cka,
)
from tests.papers.tinymim.networks import pictures

RNG = np.random.default_rng(0)


def test_a_perfect_prediction_of_normalised_pixels_is_the_picture_again():
    masking = random_masking(jnp.asarray(RNG.random((4, 16))), 0.75)
    masked, drawn = reconstructed(pictures(), pixel_targets(pictures(), 2), masking, 2)
    np.testing.assert_allclose(drawn, pictures(), atol=1e-5)
    hidden = np.asarray(masked) == 0
    assert hidden.mean() == 0.75
    np.testing.assert_array_equal(np.asarray(masked)[~hidden], np.asarray(pictures())[~hidden])


def test_class_attention_is_the_first_row_without_the_class_token():
    q, k = (jnp.asarray(RNG.normal(size=(1, 5, 4)), jnp.float32) for _ in "qk")
    logits = np.asarray(q)[0, 0, 2:] @ np.asarray(k)[0, :, 2:].T / np.sqrt(2)
    expected = np.exp(logits)[1:] / np.exp(logits).sum()
    np.testing.assert_allclose(class_attention(q, k, 2)[0, 1].ravel(), expected, rtol=1e-5)


def test_rollout_of_blocks_that_look_at_themselves_stays_at_the_class_token():
    same = jnp.broadcast_to(jnp.eye(5), (1, 2, 5, 5))
    np.testing.assert_array_equal(attention_rollout([same, same]), 0)
    even = jnp.full((1, 2, 5, 5), 0.2)
    np.testing.assert_allclose(attention_rollout([even]), 0.1, rtol=1e-6)
    # the second block sees (I + E) / 2 of a first that is (I + E) / 2: 1/4 E + 1/4 E + 1/4 E E
    np.testing.assert_allclose(attention_rollout([even, even]), 0.15, rtol=1e-6)


def test_cka_is_one_up_to_rotation_and_scale_and_small_for_strangers():
    a = jnp.asarray(RNG.normal(size=(8, 50, 6)), jnp.float32)
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    np.testing.assert_allclose(token_cka(a, 3 * a @ rotation + 1), 1, rtol=1e-4)
    assert token_cka(a, jax.random.normal(jax.random.key(0), (8, 50, 6))) < 0.1
