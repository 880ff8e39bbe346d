"""Generated shapes, picture sets of a study, and what each stage sees of a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.data.augment import normalise, resize_and_centre_crop
from lab.errors import InvalidInputError, NonFiniteError
from lab.papers.tinymim import data, views
from lab.papers.tinymim.data import Pictures, inside_shape, load_pictures, shapes12


def one_point(kind, u, v):
    """Whether a point lies in a shape, from the geometry in words."""
    distance = (u * u + v * v) ** 0.5
    if kind == "disc":
        return distance < 1
    if kind == "square":
        return abs(u) < 0.8 and abs(v) < 0.8
    if kind == "triangle":  # of corners (0, 1) and (+-sqrt(3) / 2, -1 / 2)
        corners = [(0.0, 1.0), (-(3**0.5) / 2, -0.5), ((3**0.5) / 2, -0.5)]
        sides = []
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            sides.append((bx - ax) * (v - ay) - (by - ay) * (u - ax) > 0)
        return all(sides)
    if kind == "ring":
        return 0.55 < distance < 1
    if kind == "plus":
        longest, shortest = max(abs(u), abs(v)), min(abs(u), abs(v))
        return longest < 0.95 and shortest < 0.3
    return abs(u) < 0.95 and abs(v) < 0.3


def test_each_shape_is_its_geometry():
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-1.2, 1.2, (2, 6, 15, 15))
    found = inside_shape(np.arange(6), u, v)
    for kind, name in enumerate(data.SHAPES):
        expected = [
            one_point(name, a, b) for a, b in zip(u[kind].ravel(), v[kind].ravel(), strict=True)
        ]
        np.testing.assert_array_equal(found[kind].ravel(), expected, err_msg=name)


def test_shapes12_draws_what_its_labels_say():
    shapes = shapes12(3, 600)
    assert shapes.images.shape == (600, 24, 24, 3)
    assert shapes.images.dtype == np.float32
    assert set(shapes.labels) == set(range(12))
    assert np.bincount(shapes.labels).min() > 25
    pixels = shapes.images * 0.25 + 0.5
    areas = shapes.masks.reshape(600, -1).mean(axis=1)
    assert areas.min() > 0.01
    assert areas[shapes.labels % 6 == 0].mean() > 2 * areas[shapes.labels % 6 == 5].mean()
    # a plain shape has one colour and noise of 0.06; a striped one has two, each other's complement
    for i in np.flatnonzero(areas > 0.05)[:100]:
        inside = pixels[i][shapes.masks[i]]
        spread = inside.std(axis=0)
        if shapes.labels[i] < 6:
            np.testing.assert_allclose(spread, 0.06, atol=0.03)
        else:
            middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
            np.testing.assert_allclose(middle, 0.5, atol=0.12)


def test_the_background_is_a_sloping_plane():
    shapes = shapes12(5, 40, size=32)
    axis = (np.arange(32) + 0.5) / 16 - 1
    x, y = np.meshgrid(axis, axis)
    plane = np.stack([np.ones_like(x), x, y], axis=-1)
    for image, mask in zip(shapes.images * 0.25 + 0.5, shapes.masks, strict=True):
        fit, *_ = np.linalg.lstsq(plane[~mask], image[~mask], rcond=None)
        rest = image[~mask] - plane[~mask] @ fit
        assert abs(rest.std() - 0.06) < 0.006
        assert np.abs(fit[1:]).max() < 0.33
        assert fit[0].min() > -0.05
        assert fit[0].max() < 1.05


def test_shapes_stand_out_from_their_background():
    rng = np.random.default_rng(0)
    ground = rng.uniform(size=(500, 3))
    colours = data.distant_colours(rng, ground)
    assert np.abs(colours - ground).sum(axis=1).min() >= 0.6
    assert colours.min() >= 0
    assert colours.max() <= 1


def test_shapes12_depends_on_its_seed_alone():
    np.testing.assert_array_equal(shapes12(7, 5).images, shapes12(7, 5).images)
    assert not np.array_equal(shapes12(7, 5).images, shapes12(8, 5).images)


def test_pixel_labels_are_background_or_class():
    shapes = shapes12(1, 20)
    for labels, mask, label in zip(shapes.pixel_labels, shapes.masks, shapes.labels, strict=True):
        assert set(np.unique(labels)) == {0, label + 1}
        np.testing.assert_array_equal(labels > 0, mask)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: shapes12(0, 0), "num_pictures must be at least 1, got 0"),
        (lambda: shapes12(0, 5, size=4), "size must be at least 8 pixels, got 4"),
        (lambda: load_pictures("mnist", 5, 5, 5), "shapes12, cifar10, got 'mnist'"),
        (lambda: load_pictures("shapes12", 5, 0, 5), "at least one picture"),
    ],
)
def test_wrong_requests_are_refused(call, words):
    with pytest.raises(InvalidInputError, match=words):
        call()


def test_pictures_check_what_they_hold():
    good = load_pictures("shapes12", 4, 3, 2)
    parts = dict(vars(good))
    assert good.image_size == 24
    with pytest.raises(InvalidInputError, match=r"labels must be in 0..11, got \[12\]"):
        Pictures(**parts | {"test_labels": np.array([0, 12])})
    with pytest.raises(NonFiniteError):
        Pictures(**parts | {"unlabeled": np.full((4, 24, 24, 3), np.nan, np.float32)})
    with pytest.raises(InvalidInputError, match="differ in size"):
        Pictures(**parts | {"test_images": np.zeros((2, 20, 20, 3), np.float32)})


def test_parts_of_a_study_are_different_pictures():
    pictures = load_pictures("shapes12", 30, 30, 30, seed=2)
    assert not np.isin(pictures.train_images[:, 0, 0], pictures.unlabeled[:, 0, 0]).any()
    shown = pictures.displayed(pictures.test_images)
    assert shown.min() >= 0
    assert shown.max() <= 1


@pytest.mark.real_data
def test_cifar10_is_split_without_overlap(require_dataset):
    require_dataset("cifar10")
    pictures = load_pictures("cifar10", 3000, 1000, 500)
    assert pictures.unlabeled.shape == (3000, 32, 32, 3)
    assert set(pictures.train_labels) == set(range(10))
    seen = {image.tobytes() for image in pictures.unlabeled}
    assert sum(image.tobytes() in seen for image in pictures.train_images) < 5
    values = np.asarray(pictures.normalised(jnp.asarray(pictures.unlabeled)))
    assert abs(values.mean()) < 0.1
    assert abs(values.std() - 1) < 0.1
    with pytest.raises(InvalidInputError, match="50000 pictures to train"):
        load_pictures("cifar10", 50_000, 1, 1)


@pytest.mark.real_data
def test_the_imagenet_sample_has_one_picture_a_class(require_dataset):
    require_dataset("imagenet_sample")
    images, labels = data.imagenet_sample()
    assert images.shape == (1000, 160, 160, 3)
    assert sorted(labels) == list(range(1000))


def raw_batch(count=4, canvas=24):
    rng = np.random.default_rng(1)
    image = np.zeros((count, canvas, canvas, 3), np.uint8)
    sizes = np.array([[24, 20], [16, 24], [24, 24], [20, 20]], np.int32)[:count]
    for row, (height, width) in zip(image, sizes, strict=True):
        row[:height, :width] = rng.integers(0, 256, (height, width, 3))
    mask = np.array([1, 1, 1, 0], np.float32)[:count]
    label = np.array([0, 2, 1, 0], np.int32)[:count]
    return jax.tree.map(jnp.asarray, {"image": image, "size": sizes, "label": label, "mask": mask})


def test_both_networks_see_one_crop_and_the_student_other_colours():
    batch = jax.jit(functools.partial(views.distillation_views, size=16))(
        jax.random.key(0), raw_batch()
    )
    teacher, student = np.asarray(batch["teacher_images"]), np.asarray(batch["images"])
    assert teacher.shape == student.shape == (4, 16, 16, 3)
    assert not np.allclose(teacher, student, atol=0.05)
    for a, b in zip(teacher, student, strict=True):  # the same picture: bright stays bright
        assert np.corrcoef(a.mean(axis=-1).ravel(), b.mean(axis=-1).ravel())[0, 1] > 0.9
    np.testing.assert_array_equal(batch["mask"], [1, 1, 1, 0])
    assert "targets" not in batch
    same = views.pretraining_views(jax.random.key(0), raw_batch(), size=16)
    np.testing.assert_allclose(same["images"], teacher, atol=1e-5)


def test_a_view_of_an_example_depends_on_its_key_alone():
    few = views.pretraining_views(
        jax.random.key(3), jax.tree.map(lambda x: x[:2], raw_batch()), size=16
    )
    many = views.pretraining_views(jax.random.key(3), raw_batch(), size=16)
    np.testing.assert_allclose(few["images"], many["images"][:2], atol=1e-6)
    other = views.pretraining_views(jax.random.key(4), raw_batch(), size=16)
    assert not np.allclose(other["images"], many["images"], atol=1e-2)


def test_fine_tuning_mixes_targets_and_leaves_padding_alone():
    batch = jax.jit(functools.partial(views.finetuning_views, size=16, num_classes=3))(
        jax.random.key(2), raw_batch()
    )
    targets = np.asarray(batch["targets"])
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    smoothed = np.full(3, 0.1 / 3)
    smoothed[0] += 0.9
    np.testing.assert_allclose(targets[0], smoothed, atol=1e-6)  # its partner is padding
    assert np.isfinite(batch["images"]).all()
    plain = views.FinetuningViews(mixing=None, erasing=0.0, randaugment=False)
    odd = jax.tree.map(lambda x: x[:3], raw_batch())
    batch = views.finetuning_views(jax.random.key(2), odd, size=16, num_classes=3, config=plain)
    np.testing.assert_array_equal(np.argmax(batch["targets"], axis=1), odd["label"])
    with pytest.raises(InvalidInputError, match="must be even, got 3"):
        views.finetuning_views(jax.random.key(2), odd, size=16, num_classes=3)


def test_evaluation_shows_the_centre():
    raw = raw_batch()
    batch = views.evaluation_views(raw, size=14)
    expected = normalise(resize_and_centre_crop(raw["image"], 16, 14, raw["size"]))
    np.testing.assert_allclose(batch["images"], expected, atol=1e-6)
    np.testing.assert_array_equal(batch["labels"], raw["label"])


def test_a_step_with_views_draws_anew_at_every_step():
    def step(state, batch):
        return state.replace(step=state.step + 1), {"loss": batch["images"].mean()}

    from lab.train import TrainState

    viewing = views.with_views(step, functools.partial(views.pretraining_views, size=16))
    state = TrainState(jnp.int32(0), {}, {}, (), jax.random.key(0))
    run = jax.jit(viewing)
    after, first = run(state, raw_batch())
    _, second = run(after, raw_batch())
    _, again = run(state, raw_batch())
    assert float(first["loss"]) == float(again["loss"])
    assert float(first["loss"]) != float(second["loss"])
