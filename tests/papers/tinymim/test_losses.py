"""Losses against slow numpy versions, and masking against its definition."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError, NonFiniteError
from lab.papers.tinymim import losses
from lab.papers.tinymim.checks import check_labels, check_pixels, check_soft_targets
from lab.papers.tinymim.masking import (
    masking_noise,
    num_kept_patches,
    random_masking,
    restore_patches,
)

RNG = np.random.default_rng(0)


def test_smooth_l1_is_quadratic_up_to_beta_and_linear_beyond():
    error = np.array([0.0, 0.5, -1.0, 2.0, 3.0, -10.0])
    expected = [e * e / 4 if abs(e) <= 2 else abs(e) - 1 for e in error]
    np.testing.assert_allclose(losses.elementwise(jnp.asarray(error), "smooth_l1", 2.0), expected)


def test_feature_loss_whitens_the_teacher_alone():
    teacher, student = RNG.normal(2, 3, (2, 4, 6)), RNG.normal(size=(2, 4, 6))
    target = (teacher - teacher.mean(-1, keepdims=True)) / np.sqrt(
        teacher.var(-1, keepdims=True) + 1e-5
    )
    error = np.abs(student - target)
    expected = np.where(error <= 2, error**2 / 4, error - 1).mean((1, 2))
    got = losses.feature_loss(jnp.asarray(teacher), jnp.asarray(student))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_reconstruction_counts_removed_patches_alone():
    predicted, images = RNG.normal(size=(2, 4, 12)), RNG.normal(size=(2, 4, 4, 3))
    removed = np.array([[1, 0, 0, 1], [0, 1, 1, 1]], np.float32)
    expected = []
    for picture in range(2):
        errors = []
        for patch in np.flatnonzero(removed[picture]):
            row, column = divmod(patch, 2)
            pixels = images[picture, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel()
            target = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
            errors.append(((predicted[picture, patch] - target) ** 2).mean())
        expected.append(np.mean(errors))
    targets = losses.pixel_targets(jnp.asarray(images), 2)
    got = losses.reconstruction_loss(jnp.asarray(predicted), targets, jnp.asarray(removed))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_normalised_targets_become_pixels_again():
    images = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
    pixels = losses.pixel_targets(images, 2, normalise=False)
    mean, deviation = losses.patch_statistics(pixels)
    restored = losses.pixel_targets(images, 2) * deviation + mean
    np.testing.assert_allclose(restored, pixels, atol=1e-5)


def test_soft_distillation_is_deits_formula():
    student, teacher = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 5))
    t, s = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (teacher, student))
    expected = 4 * (t * np.log(t / s)).sum() / (3 * 5)
    got = losses.soft_distillation(jnp.asarray(student), jnp.asarray(teacher), 2.0)
    np.testing.assert_allclose(got.mean(), expected, rtol=1e-5)


def test_hard_distillation_follows_the_teachers_decision():
    teacher = jnp.array([[0.0, 9.0, 1.0]])
    assert losses.hard_distillation(jnp.array([[0.0, 50.0, 0.0]]), teacher)[0] < 1e-6
    assert losses.hard_distillation(jnp.array([[50.0, 0.0, 0.0]]), teacher)[0] > 49


def test_smoothed_targets_share_the_smoothing_among_all_classes():
    got = losses.smoothed_targets(jnp.array([2]), 4, 0.2)
    np.testing.assert_allclose(got, [[0.05, 0.05, 0.85, 0.05]], atol=1e-7)
    with pytest.raises(InvalidInputError, match=r"\[0, 1\), got 1.0"):
        losses.smoothed_targets(jnp.array([2]), 4, 1.0)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    noise=st.lists(st.integers(0, 20), min_size=9, max_size=9), ratio=st.sampled_from([0.25, 0.7])
)
def test_masking_keeps_the_smallest_noise_and_can_be_undone(noise, ratio):
    masking = random_masking(jnp.asarray([noise], jnp.float32), ratio)
    count = int(len(noise) * (1 - ratio))
    stable = sorted(range(len(noise)), key=lambda place: noise[place])
    assert masking.kept[0].tolist() == stable[:count]
    assert np.flatnonzero(masking.removed[0] == 0).tolist() == sorted(stable[:count])
    patches = np.arange(1.0, len(noise) + 1)[masking.kept[0]][None, :, None]
    back = restore_patches(jnp.asarray(patches), jnp.zeros((1, 1, 1)), masking.restore)[0, :, 0]
    for place in range(len(noise)):
        assert back[place] == (place + 1 if place in stable[:count] else 0)


def test_masking_noise_of_a_picture_does_not_depend_on_the_batch():
    keys = jax.random.split(jax.random.key(0), 4)
    np.testing.assert_array_equal(masking_noise(keys, 9)[2:], masking_noise(keys[2:], 9))


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0.0, r"must be in \(0, 1\), got 0.0"),
        (1.0, r"must be in \(0, 1\), got 1.0"),
        (0.9, "keeps none of 4 patches"),
    ],
)
def test_mask_ratios_that_keep_nothing_or_all_are_refused(ratio, message):
    with pytest.raises(InvalidInputError, match=message):
        num_kept_patches(4, ratio)


def test_bad_batches_are_refused_before_anything_is_compiled():
    with pytest.raises(NonFiniteError, match=r"images \[1\] hold NaN"):
        check_pixels(np.array([[0.0], [np.nan]]))
    with pytest.raises(InvalidInputError, match="normalised floats, got uint8"):
        check_pixels(np.zeros((1, 2), np.uint8))
    with pytest.raises(InvalidInputError, match=r"0..9, got \[-1, 10\]"):
        check_labels(np.array([3, 10, -1]), 10)
    with pytest.raises(InvalidInputError, match="integers, got float64"):
        check_labels(np.array([3.0]), 10)
    with pytest.raises(InvalidInputError, match=r"row 1 sums to 0\.7"):
        check_soft_targets(np.array([[0.5, 0.5], [0.3, 0.4]]), 2)
    with pytest.raises(InvalidInputError, match=r"got \(1, 3\)"):
        check_soft_targets(np.ones((1, 3)) / 3, 2)


def test_good_batches_pass():
    check_pixels(np.zeros((2, 4), np.float32))
    check_labels(np.array([0, 9]), 10)
    check_soft_targets(np.array([[0.25, 0.75]]), 2)
