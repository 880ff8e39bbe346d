import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.data.augment.bilinear import resize_within, scaled_size
from lab.data.augment.scenes import (
    SceneCrop,
    augmented_scenes,
    distort,
    from_hsv,
    photometric_distortion,
    random_scene_crop,
    scaled_by,
    to_hsv,
)
from lab.errors import InvalidInputError

COUNT, CANVAS = 8, 16
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
CROP = SceneCrop(size=8, longest=40, shortest=10, num_classes=4, largest_share=1.0)


@functools.cache
def keys(seed=0):
    return jax.random.split(jax.random.key(seed), COUNT)


@functools.cache
def crops(config):
    return quick_jit(lambda *batch: random_scene_crop(*batch, config))


def gradients():
    """Pictures whose red is 10 x the row and green 10 x the column, labels the row // 4."""
    rows, columns = np.meshgrid(np.arange(CANVAS), np.arange(CANVAS), indexing="ij")
    image = np.stack([10 * rows, 10 * columns, 0 * rows], axis=-1).astype(np.uint8)
    labels = (rows // 4).astype(np.uint8)
    sizes = np.tile(np.array([[16, 12]], np.int32), (COUNT, 1))
    return np.tile(image, (COUNT, 1, 1, 1)), np.tile(labels, (COUNT, 1, 1)), sizes


def test_pictures_and_labels_move_together():
    images, labels, valid = map(np.asarray, crops(CROP)(keys(), *gradients()))
    assert images.shape == (COUNT, 8, 8, 3)
    rows = images[..., 0] / 10
    # the label of a pixel is that of the row it shows, up to the half pixel between the two grids
    near_edge = np.abs(rows / 4 - np.round(rows / 4)) * 4 < 1.1
    agrees = labels == np.floor(rows / 4)
    assert (agrees | near_edge | ~valid).all()
    assert (agrees & valid).sum() > 0.5 * valid.sum()


def test_half_of_the_crops_are_mirrored_within_the_picture():
    images, _, valid = map(np.asarray, crops(CROP)(keys(1), *gradients()))
    directions = []
    for image, inside in zip(images, valid, strict=True):
        shown = image[0, inside[0], 1]
        directions.append(np.sign(shown[-1] - shown[0]))
        assert inside[0, 0]  # padding is to the right and below, flipped or not
    assert set(directions) == {-1.0, 1.0}


def test_small_pictures_are_padded_with_zeros_and_ignored_labels():
    small = SceneCrop(size=8, longest=16, shortest=12, scale=(0.4, 0.5), num_classes=4)
    images, labels = quick_jit(lambda *batch: augmented_scenes(*batch, small))(keys(), *gradients())
    padded = np.asarray(labels) == 255
    assert padded[:, -1].all()
    np.testing.assert_array_equal(np.asarray(images)[padded], 0)
    assert np.isfinite(images).all()
    assert (np.asarray(images)[~padded] != 0).any()


def test_crops_avoid_a_class_that_fills_them():
    # class 0 nearly everywhere, so that most crops hold too much of it
    images, labels, sizes = gradients()
    labels = np.where(labels == 3, 1, 0).astype(np.uint8)
    config = SceneCrop(
        size=8, longest=16, shortest=12, scale=(1.0, 1.0), largest_share=0.8, num_classes=4
    )
    found = np.asarray(crops(config)(keys(2), images, labels, sizes)[1])
    # a start is good with a chance of a third: eight good ones are no accident
    assert ((found == 0).mean(axis=(1, 2)) <= 0.8).all()


def test_sizes_fit_into_the_scaled_frame():
    config = SceneCrop(longest=2048, shortest=512)
    new = scaled_by(jnp.array([683, 1024]), jnp.float32(1.5), config)
    assert new.tolist() == list(scaled_size((683, 1024), 3072, 768)) == [768, 1151]
    assert scaled_size((100, 1000), 2048, 512) == (205, 2048)


def test_resizing_within_canvases_is_that_of_exact_shapes():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    resize = quick_jit(resize_within, static_argnums=3)
    for size, new in [((5, 7), (9, 4)), ((12, 12), (3, 16)), ((1, 6), (16, 16))]:
        exact = image[: size[0], : size[1]].astype(np.float32)
        expected = jax.image.resize(exact, (*new, 3), "bilinear", antialias=False)
        resized = resize(image, np.int32(size), np.int32(new), (16, 16))
        np.testing.assert_allclose(resized[: new[0], : new[1]], expected, atol=1e-3)


def test_hsv_is_that_of_colorsys_and_comes_back():
    colours = np.random.default_rng(1).integers(0, 256, (200, 3)).astype(np.float32)
    colours[:3] = [[0, 0, 0], [255, 255, 255], [9, 9, 9]]
    hue, saturation, value = map(np.asarray, quick_jit(to_hsv)(colours))
    expected = np.array([colorsys.rgb_to_hsv(*(c / 255)) for c in colours])
    turn = np.abs(hue - 180 * expected[:, 0])
    assert np.minimum(turn, 180 - turn).max() <= 0.51
    np.testing.assert_allclose(saturation, 255 * expected[:, 1], atol=0.51)
    np.testing.assert_allclose(value, 255 * expected[:, 2], atol=0.01)
    back = quick_jit(from_hsv)(hue, saturation, value)
    np.testing.assert_allclose(back, colours, atol=5)


def test_hsv_is_that_of_opencv():
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(2).integers(0, 256, (20, 20, 3), np.uint8)
    expected = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(int)
    hsv = np.stack(quick_jit(to_hsv)(picture.astype(np.float32)), axis=-1)
    difference = np.abs(hsv - expected)
    difference[..., 0] = np.minimum(difference[..., 0], 180 - difference[..., 0])
    assert difference.max() <= 1
    back = np.asarray(quick_jit(from_hsv)(*np.moveaxis(expected.astype(np.float32), -1, 0)))
    returned = cv2.cvtColor(expected.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(int)
    assert np.abs(back - returned).max() <= 1


def test_each_distortion_does_what_it_says():
    image = np.random.default_rng(3).integers(30, 200, (6, 6, 3)).astype(np.float32)
    changed = quick_jit(distort)
    np.testing.assert_array_equal(changed(image, 0.0, 1.0, 1.0, 0, 1.0), image)
    np.testing.assert_array_equal(changed(image, 20.0, 1.0, 1.0, 0, 1.0), image + 20)
    halved = changed(image, 0.0, 1.0, 1.0, 0, 0.5)
    np.testing.assert_array_equal(halved, np.floor(image / 2))
    both = changed(image, 100.0, 1.5, 1.0, 0, 1.0)
    np.testing.assert_array_equal(
        both, np.minimum(np.floor(np.minimum(image + 100, 255) * 1.5), 255)
    )
    grey = changed(image, 0.0, 1.0, 0.0, 0, 1.0)
    np.testing.assert_array_equal(grey, np.repeat(image.max(-1, keepdims=True), 3, axis=-1))
    # a third of a turn makes red green
    red = np.tile(np.array([200.0, 0, 0], np.float32), (2, 2, 1))
    np.testing.assert_array_equal(changed(red, 0.0, 1.0, 1.0, 60, 1.0)[0, 0], [0, 200, 0])


def test_distortion_leaves_some_pictures_alone_and_stays_within_its_bounds():
    images = np.full((COUNT, 2, 2, 3), 128, np.uint8)
    out = np.asarray(quick_jit(photometric_distortion)(keys(4), images))
    assert (out == np.floor(out)).all()
    assert out.min() >= np.floor((128 - 32) * 0.5)
    assert len(np.unique(out[:, 0, 0], axis=0)) >= 3
    untouched = quick_jit(functools.partial(photometric_distortion, rate=0.0))(keys(4), images)
    np.testing.assert_array_equal(untouched, images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be positive"),
        ({"shortest": 10, "longest": 5}, "shortest must lie in"),
        ({"scale": (2.0, 0.5)}, "scale must be two rising"),
        ({"largest_share": 0.0}, "largest_share must be in"),
        ({"flip_rate": 1.5}, "flip_rate must be in"),
    ],
)
def test_impossible_crops_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        SceneCrop(**options)


def test_negative_strengths_are_refused():
    with pytest.raises(InvalidInputError, match="strengths must not be negative"):
        photometric_distortion(keys(), jnp.zeros((COUNT, 2, 2, 3)), brightness=-1.0)
