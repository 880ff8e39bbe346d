import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.data import augment
from lab.data.augment.mixing import partners
from lab.errors import InvalidInputError

COUNT, SIZE = 64, 12


def keys(seed=0, count=COUNT):
    return jax.random.split(jax.random.key(seed), count)


def images(seed=0, count=COUNT, height=SIZE, width=SIZE):
    rng = np.random.default_rng(seed)
    return jnp.array(rng.integers(0, 256, (count, height, width, 3)), jnp.float32)


def pillow():
    return pytest.importorskip("PIL.Image")


# Compiled once for all cases of a shape.
resized_crop = jax.jit(augment.resized_crop, static_argnums=2)
resize_and_centre_crop = jax.jit(augment.resize_and_centre_crop, static_argnums=(1, 2))
crop_boxes = jax.jit(augment.crop_boxes, static_argnums=(2, 3))
operate = jax.jit(augment.apply_operation)
randaugment = jax.jit(augment.randaugment)
color_jitter = jax.jit(augment.color_jitter, static_argnums=(2, 3, 4))
mixed = jax.jit(augment.mixed, static_argnums=3)
cutmix_box = jax.jit(augment.cutmix_box, static_argnums=(2, 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 9), st.integers(1, 35), st.integers(1, 31))
def test_resized_crop_is_pillows_but_for_its_rounding_between_two_passes(top, left, height, width):
    module, image = pillow(), np.asarray(images(1, 1, 40, 40)[0]).astype(np.uint8)
    box = (left, top, left + width, top + height)
    expected = module.fromarray(image).crop(box).resize((16, 16), module.Resampling.BICUBIC)
    ours = resized_crop(image[None], jnp.array([[top, left, height, width]]), 16)[0]
    difference = np.abs(np.asarray(ours) - np.asarray(expected))
    # Half a level of each pass, the first's enlarged by the second's negative weights.
    assert difference.max() <= 2
    assert (difference > 1).mean() < 0.05


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (31, 12), (25, 25)])
def test_evaluation_resizes_and_crops_a_picture_on_a_canvas_as_pillow(size):
    module = pillow()
    picture = np.asarray(images(2, 1, *size)[0]).astype(np.uint8)
    short = min(size)
    height, width = (16 * side // short for side in size)
    resized = module.fromarray(picture).resize((width, height), module.Resampling.BICUBIC)
    top, left = round((height - 14) / 2), round((width - 14) / 2)
    expected = np.asarray(resized)[top : top + 14, left : left + 14]
    canvas = np.full((1, 32, 32, 3), 77, np.uint8)
    canvas[0, : size[0], : size[1]] = picture
    ours = resize_and_centre_crop(canvas, 16, 14, jnp.array([size]))[0]
    assert np.abs(np.asarray(ours) - expected).max() <= 1


def test_boxes_lie_in_the_picture_and_within_scale_and_ratio():
    sizes = jnp.array([[40, 60]] * 4000)
    boxes = crop_boxes(keys(count=4000), sizes, (0.2, 1.0), (3 / 4, 4 / 3))
    top, left, height, width = np.asarray(boxes).T
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 40
    assert (left + width).max() == 60
    share, shape = height * width / 2400, width / height
    assert 0.18 < share.min() < 0.23
    assert 0.8 < share.max() <= 1
    assert 0.7 < shape.min() < 0.8
    assert 1.25 < shape.max() < 1.42
    assert abs(np.log(shape)[share < 0.5].mean()) < 0.02  # log-uniform: symmetric about 1
    assert len(set(top.tolist())) >= 20


def test_where_no_box_fits_the_central_one_is_taken():
    sizes = jnp.array([[10, 100], [100, 10], [10, 10]])
    boxes = crop_boxes(keys(count=3), sizes, (1.5, 2.0), (3 / 4, 4 / 3))
    assert boxes.tolist() == [[0, 43, 10, 13], [43, 0, 13, 10], [0, 0, 10, 10]]


def test_a_crop_of_a_canvas_sees_only_the_picture():
    canvas = jnp.zeros((COUNT, 32, 32, 3)).at[:, :20, :24].set(200.0)
    sizes = jnp.array([[20, 24]] * COUNT)
    cropped = jax.jit(lambda k: augment.random_resized_crop(k, canvas, 8, sizes=sizes))(keys())
    assert (cropped == 200).all()


def test_half_of_the_images_are_flipped_and_none_is_changed_otherwise():
    x = images(count=400)
    flipped = augment.random_flip(keys(count=400), x)
    is_flipped = np.asarray((flipped == x[:, :, ::-1]).all(axis=(1, 2, 3)))
    assert ((flipped == x).all(axis=(1, 2, 3)) | is_flipped).all()
    assert 150 < is_flipped.sum() < 250


def test_padded_crops_are_shifts_with_zeros():
    x = images()
    cropped = np.asarray(augment.random_crop(keys(), x, 2))
    padded = np.pad(np.asarray(x), ((0, 0), (2, 2), (2, 2), (0, 0)))
    offsets = [(i, j) for i in range(5) for j in range(5)]
    found = [
        [o for o in offsets if (padded[n, o[0] :, o[1] :][:SIZE, :SIZE] == cropped[n]).all()]
        for n in range(COUNT)
    ]
    assert all(found)
    assert len({o for each in found for o in each}) > 10


def test_rolls_keep_every_pixel():
    x = images()
    rolled = np.asarray(augment.random_roll(keys(), x, 2))
    for before, after in zip(np.asarray(x), rolled, strict=True):
        np.testing.assert_array_equal(np.sort(before, axis=None), np.sort(after, axis=None))
    assert (rolled != np.asarray(x)).any()


@functools.cache
def apply_all():
    """Every operation at a middling magnitude to every one of 15 images, in one call."""
    arguments = [augment.op_argument(name, 6.0) for name in augment.OPERATIONS]
    arguments = jnp.array([0.0 if a is None else a for a in arguments])
    x = images(3, len(augment.OPERATIONS), 16, 20)
    return x, arguments, operate(x, jnp.arange(15), arguments)


def by_pillow(name, image, argument):
    module = pillow()
    from PIL import ImageEnhance, ImageOps

    enhancers = {"Color": ImageEnhance.Color, "Contrast": ImageEnhance.Contrast}
    enhancers |= {"Brightness": ImageEnhance.Brightness, "Sharpness": ImageEnhance.Sharpness}
    if name.removesuffix("Increasing") in enhancers:
        return enhancers[name.removesuffix("Increasing")](image).enhance(argument)
    how = {"resample": module.Resampling.BICUBIC, "fillcolor": (124, 116, 104)}
    if name == "Rotate":
        return image.rotate(argument, **how)
    width, height = image.size
    maps = {
        "ShearX": (1, argument, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, argument, 1, 0),
        "TranslateXRel": (1, 0, argument * width, 0, 1, 0),
        "TranslateYRel": (1, 0, 0, 0, 1, argument * height),
    }
    if name in maps:
        return image.transform(image.size, module.Transform.AFFINE, maps[name], **how)
    return {
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Invert": ImageOps.invert,
        "PosterizeIncreasing": lambda x: ImageOps.posterize(x, int(argument)),
        "SolarizeIncreasing": lambda x: ImageOps.solarize(x, int(argument)),
        "SolarizeAdd": lambda x: x.point(
            [min(255, i + argument) if i < 128 else i for i in range(256)] * 3
        ),
    }[name](image)


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_operations_are_pillows_to_a_grey_level(name):
    x, arguments, ours = apply_all()
    i = augment.OPERATIONS.index(name)
    image = pillow().fromarray(np.asarray(x[i]).astype(np.uint8))
    expected = np.asarray(by_pillow(name, image, float(arguments[i]))).astype(int)
    assert np.abs(np.asarray(ours[i]) - expected).max() <= 1
    assert (np.asarray(ours[i]) != np.asarray(x[i])).any()


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_tables_leave_flat_images_alone(name):
    flat = jnp.ones((15, 16, 20, 3)) * jnp.linspace(0, 255, 15).round()[:, None, None, None]
    operations = jnp.full(15, augment.OPERATIONS.index(name))
    np.testing.assert_array_equal(operate(flat, operations, jnp.zeros(15)), flat)


def test_no_operation_leaves_images_alone():
    x, arguments, _ = apply_all()
    np.testing.assert_array_equal(operate(x, jnp.full(15, -1), arguments), x)


def test_randaugment_changes_about_three_quarters_and_draws_by_example():
    x = jnp.repeat(images(count=1), 200, axis=0)
    out = np.asarray(randaugment(keys(count=200), x))
    np.testing.assert_array_equal(out, out.astype(np.uint8))
    changed = (out != np.asarray(x)).any(axis=(1, 2, 3))
    assert 120 < changed.sum() < 175  # 1 - 0.5^2, less what changes nothing
    assert len(np.unique(out.reshape(200, -1), axis=0)) > 60
    in_reverse = randaugment(keys(count=200)[::-1], x)
    np.testing.assert_array_equal(in_reverse, out[::-1])


def test_colour_jitter_draws_factors_and_order_by_example():
    x = jnp.repeat(images(count=1), COUNT, axis=0)
    out = np.asarray(color_jitter(keys(), x, 0.4, 0.0, 0.0))
    factors = out.mean(axis=(1, 2, 3)) / np.asarray(x).mean(axis=(1, 2, 3))
    assert 0.59 < factors.min() < 0.7
    assert 1.1 < factors.max() < 1.4  # clipped at white
    np.testing.assert_array_equal(color_jitter(keys(), x, 0.0, 0.0, 0.0), x)


def test_erasing_puts_noise_into_a_box_of_some_images():
    x = jnp.full((400, 16, 16, 3), 9.0)
    out = np.asarray(jax.jit(augment.random_erasing)(keys(count=400), x))
    erased = out[..., 0] != 9
    is_touched = erased.any(axis=(1, 2))
    assert 60 < is_touched.sum() < 140
    for box in erased[is_touched]:
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        assert box.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 0.01 < box.mean() < 0.4
    noise = out[erased]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_normalised_images_have_the_given_mean_and_deviation():
    x = np.asarray(augment.normalise(jnp.full((1, 2, 2, 3), 255), (0.5, 0.2, 0.0), (0.5, 0.4, 2.0)))
    np.testing.assert_allclose(x[0, 0, 0], [1.0, 2.0, 0.5], rtol=1e-6)


def mix_by(config, count=6, mask=None, seed=0):
    x = jnp.arange(count, dtype=jnp.float32)[:, None, None, None] * jnp.ones((count, 8, 8, 1))
    targets = augment.smooth_one_hot(jnp.arange(count), count)
    return mixed(jax.random.key(seed), x, targets, config, mask=mask)


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_tell_the_share_of_each_partner(alphas):
    config = augment.MixConfig(*alphas)
    for seed in range(4):
        mixed_images, targets = mix_by(config, seed=seed)
        np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)
        # An image's pixels are its number, so their mean is that of its targets.
        means = mixed_images.mean(axis=(1, 2, 3))
        np.testing.assert_allclose(means, targets @ jnp.arange(6.0), atol=1e-5)


def test_examples_whose_partner_is_padding_stay_as_they_are():
    mask = jnp.array([1, 1, 1, 1, 0, 0.0])
    mixed_images, targets = mix_by(augment.MixConfig(0.8, 0.0), mask=mask)
    np.testing.assert_array_equal(mixed_images[:2, 0, 0, 0], [0.0, 1.0])
    np.testing.assert_array_equal(targets[0], np.eye(6)[0])
    assert 2 < float(mixed_images[2, 0, 0, 0]) < 3


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixing_a_batch_on_devices_is_mixing_it_whole(mode):
    config = augment.MixConfig(0.8, 0.0, mode=mode)
    x, targets = images(4, 8), augment.smooth_one_hot(jnp.arange(8) % 3, 3, 0.1)
    key = jax.random.key(1)
    whole = mixed(key, x, targets, config)
    on_devices = jax.vmap(
        lambda x, t: augment.mixed(key, x, t, config, axis_name="batch"), axis_name="batch"
    )
    parts = jax.jit(on_devices)(x.reshape(4, 2, SIZE, SIZE, 3), targets.reshape(4, 2, 3))
    for part, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part.reshape(expected.shape), expected, rtol=1e-5, atol=1e-4)


def test_a_rate_of_zero_mixes_nothing():
    x, targets = mix_by(augment.MixConfig(rate=0.0))
    np.testing.assert_array_equal(x[:, 0, 0, 0], np.arange(6))
    np.testing.assert_array_equal(targets, np.eye(6))


def test_partners_are_the_reversed_global_batch():
    flipped = jax.vmap(lambda x: partners(x, "d"), axis_name="d")(jnp.arange(6).reshape(3, 2))
    assert flipped.reshape(-1).tolist() == [5, 4, 3, 2, 1, 0]


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.integers(0, 8), st.integers(0, 11))
def test_a_cutmix_box_lies_in_the_image(lam, y, x):
    y1, y2, x1, x2 = cutmix_box(jnp.float32(lam), jnp.array([y, x]), 9, 12).tolist()
    assert 0 <= y1 <= y2 <= 9
    assert 0 <= x1 <= x2 <= 12
    assert (y2 - y1) * (x2 - x1) <= (1 - lam) * 9 * 12 + 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mix_by(augment.MixConfig(), count=5), "must be even, got 5"),
        (lambda: augment.MixConfig(mode="some"), "mode is 'some'"),
        (lambda: augment.MixConfig(mode="pair"), "set cutmix_alpha to 0"),
        (lambda: augment.MixConfig(rate=2.0), r"rate must lie in 0\.\.1"),
        (lambda: augment.MixConfig(mixup_alpha=-1.0), "must not be negative"),
        (lambda: augment.smooth_one_hot(jnp.arange(2), 2, 1.0), r"must lie in \[0, 1\)"),
        (lambda: augment.op_argument("Blur", 5), "name is 'Blur'"),
        (lambda: augment.randaugment(keys(), images(), magnitude=11), r"lie in 0\.\.10"),
        (lambda: augment.random_erasing(keys(), images(), 1.5), r"rate must lie in 0\.\.1"),
        (lambda: augment.crop_boxes(keys(), images(), (0.0, 1.0), (1, 1)), "scale must be"),
        (lambda: augment.color_jitter(keys(), images(), -1, 0, 0), "strengths must not"),
        (lambda: augment.random_crop(keys(), images(), -1), "padding must not"),
        (lambda: augment.resize_and_centre_crop(images(), 8, 9), r"size must lie in 1\.\.8"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
