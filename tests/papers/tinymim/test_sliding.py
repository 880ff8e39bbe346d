import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.data.augment import normalise
from lab.errors import InvalidInputError
from lab.papers.tinymim.sliding import (
    SlidingConfig,
    evaluate_segmentation,
    make_predictor,
    slide_logits,
    window_starts,
)

SLIDING = SlidingConfig(crop=8, stride=5, longest=40, shortest=12, windows_at_once=4, bucket=16)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.integers(1, 12),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_windows_lie_inside_and_cover_every_pixel(size, crop, data):
    stride = data.draw(st.integers(1, crop))
    starts = window_starts(size, crop, stride)
    counts = np.zeros(size, int)
    for y, x in starts:
        window = counts[y : y + crop, x : x + crop]
        assert window.shape == (min(crop, size[0]), min(crop, size[1]))
        window += 1
    assert counts.min() >= 1
    per_axis = [max(-(-(n - crop) // stride), 0) + 1 for n in size]
    assert len(starts) == np.prod(per_axis)


def test_overlapping_windows_are_averaged_by_count():
    picture = jnp.arange(2 * 11.0).reshape(1, 2, 11, 1)

    def means(windows):
        return jnp.broadcast_to(windows.mean(axis=(1, 2), keepdims=True), windows.shape)

    logits = slide_logits(means, picture, 4, 3)
    columns = picture[0, :, :, 0].mean(axis=0)
    starts = [0, 3, 6, 7]
    expected = [
        np.mean([columns[s : s + 4].mean() for s in starts if s <= i < s + 4]) for i in range(11)
    ]
    np.testing.assert_allclose(logits[0, 0, :, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(logits[:, 0], logits[:, 1])


def colour_classes(variables, windows):
    """A toy network that depends on the window it sees."""
    return windows * variables + windows.mean(axis=(1, 2), keepdims=True)


@functools.cache
def toy_predictor():
    return make_predictor(colour_classes, SLIDING)


def slow_labels(apply_fn, picture):
    """The same prediction with exact shapes, one call after the other."""
    resize = functools.partial(jax.image.resize, method="bilinear", antialias=False)
    height, width = picture.shape[:2]
    scale = min(40 / max(height, width), 12 / min(height, width))
    size = [int(n * scale + 0.5) for n in (height, width)]
    levels = jnp.round(resize(picture.astype(np.float32), (*size, 3)))
    logits = slide_logits(apply_fn, normalise(levels)[None], 8, 5)[0]
    return resize(logits, (height, width, logits.shape[-1])).argmax(axis=-1)


@pytest.mark.parametrize("size", [(12, 31), (24, 17)])
def test_pictures_of_any_size_are_predicted_as_with_exact_shapes(size):
    picture = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    labels = toy_predictor()(jnp.float32(1.5), picture)
    assert labels.shape == size
    agreement = np.mean(labels == slow_labels(functools.partial(colour_classes, 1.5), picture))
    # pixels where two classes tie to rounding may fall either way
    assert agreement > 0.995


def test_the_network_is_compiled_once_whatever_the_sizes():
    traced = []

    def counting(variables, windows):
        traced.append(windows.shape)
        return colour_classes(variables, windows)

    predict = make_predictor(counting, SLIDING)
    for size in [(12, 31), (24, 17), (9, 40)]:
        predict(jnp.float32(1), np.zeros((*size, 3), np.uint8))
    assert traced == [(4, 8, 8, 3)]


def test_a_picture_smaller_than_the_crop_is_padded_for_the_network():
    picture = np.random.default_rng(2).integers(0, 256, (6, 7, 3), np.uint8)
    sliding = SlidingConfig(crop=8, stride=5, longest=7, shortest=6, windows_at_once=1, bucket=8)
    predict = make_predictor(colour_classes, sliding)
    padded = np.pad(normalise(picture), ((0, 2), (0, 1), (0, 0)))[None]
    expected = colour_classes(1.5, padded)[0, :6, :7].argmax(axis=-1)
    np.testing.assert_array_equal(predict(jnp.float32(1.5), picture), expected)


def test_evaluation_scores_a_perfect_predictor_with_one():
    rng = np.random.default_rng(3)
    maps = [rng.integers(0, 3, size) for size in [(4, 5), (6, 3)]]
    pictures = [np.repeat(m[..., None], 3, axis=-1).astype(np.uint8) for m in maps]
    examples = [(p, np.where(m == 2, 255, m)) for p, m in zip(pictures, maps, strict=True)]
    scores = evaluate_segmentation(lambda picture: picture[..., 0], examples, 3)
    assert (scores["miou"], scores["macc"], scores["aacc"]) == (1, 1, 1)
    assert np.isnan(scores["iou"][2])
    with pytest.raises(InvalidInputError, match="no examples"):
        evaluate_segmentation(lambda picture: picture[..., 0], [], 3)


def test_pictures_and_windows_that_cannot_be_are_refused():
    with pytest.raises(InvalidInputError, match=r"uint8 .*got float32"):
        toy_predictor()(jnp.float32(1), np.zeros((8, 8, 3), np.float32))
    with pytest.raises(InvalidInputError, match="stride <= crop, got crop 4 and stride 5"):
        window_starts((8, 8), 4, 5)
    with pytest.raises(InvalidInputError, match="shortest must lie in"):
        SlidingConfig(longest=3, shortest=4)
