import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.errors import InvalidInputError
from lab.nn.position import interpolate_positions
from lab.nn.vit import vit_config
from lab.papers.tinymim.segmentation import (
    Segmenter,
    SegmenterConfig,
    check_maps,
    make_segmentation_step,
    pixel_cross_entropy,
    segmentation_adamw,
    segmentation_backbone,
    segmentation_terms,
    segmenter_shapes,
    start_segmenter,
    window_logits,
)
from lab.train.state import state_of
from tests.papers.tinymim.networks import quick_jit, random_variables
from tests.papers.tinymim.segmenters import (
    BACKBONE,
    ENCODER,
    SEGMENTER,
    scenes,
    segmenter_variables,
)


@functools.cache
def forward():
    return quick_jit(functools.partial(Segmenter(SEGMENTER).apply, train=False))


def test_maps_are_4_2_1_and_half_times_the_patch_grid():
    out = forward()(segmenter_variables(), scenes()["images"])
    assert [x.shape[1:] for x in out["features"]] == [(n, n, 8) for n in (16, 8, 4, 2)]
    assert out["logits"].shape == (4, 16, 16, 3)
    assert out["auxiliary_logits"].shape == (4, 4, 4, 3)


terms = quick_jit(segmentation_terms, static_argnames="valid_only")


def slow_cross_entropy(logits, labels):
    """The mean over labelled pixels, one by one, and how many there are."""
    total, count = 0.0, 0
    for row, label in zip(logits.reshape(-1, logits.shape[-1]), labels.ravel(), strict=True):
        if 0 <= label < len(row):
            total += np.log(np.exp(row).sum()) - row[label]
            count += 1
    return total / count, count


def test_loss_is_the_mean_over_all_pixels_or_over_labelled_ones():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 4, 4))
    labels[0, :2] = 255
    expected, count = slow_cross_entropy(logits, labels)
    out = {"logits": jnp.asarray(logits), "auxiliary_logits": jnp.asarray(logits)}
    over_all, over_valid = (terms(out, labels, valid_only=choice) for choice in (False, True))
    np.testing.assert_allclose(over_valid["decode"], expected, rtol=1e-6)
    np.testing.assert_allclose(over_all["decode"], expected * count / labels.size, rtol=1e-6)
    right = (logits.argmax(-1) == labels).mean()
    np.testing.assert_allclose(over_all["accuracy"], 100 * right, rtol=1e-6)


def test_rows_of_padding_do_not_count_in_the_loss():
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(3, 4, 4, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, (3, 4, 4)))
    padded = terms(
        {"logits": logits.at[2].set(jnp.nan), "auxiliary_logits": logits},
        labels,
        mask=jnp.array([1.0, 1.0, 0.0]),
    )
    real = terms({"logits": logits[:2], "auxiliary_logits": logits[:2]}, labels[:2])
    for name, value in real.items():
        np.testing.assert_allclose(padded[name], value, rtol=1e-6)


@pytest.mark.parametrize("valid_only", [False, True])
def test_a_batch_of_ignored_pixels_has_loss_and_gradient_zero(valid_only):
    logits, labels = jnp.ones((1, 2, 2, 3)), jnp.full((1, 2, 2), 255)

    def loss(logits):
        out = {"logits": logits, "auxiliary_logits": logits}
        return segmentation_terms(out, labels, valid_only=valid_only)["decode"]

    value, gradient = quick_jit(jax.value_and_grad(loss))(logits)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_labels_that_are_no_class_are_ignored_in_compiled_code():
    logits = jnp.zeros((1, 1, 4, 3))
    losses, counts = pixel_cross_entropy(logits, jnp.array([[[0, 3, -1, 255]]]))
    np.testing.assert_array_equal(counts, [[[True, False, False, False]]])
    np.testing.assert_allclose(losses, [[[np.log(3), 0, 0, 0]]], rtol=1e-6)


def stepped(num_devices, transform):
    """A step on a batch cut over mapped devices: (state, metrics), each with a device axis."""
    tx = optax.sgd(0.1)
    step = make_segmentation_step(SEGMENTER, tx, axis_name="batch")
    batch = scenes() | {"mask": jnp.array([1.0, 1.0, 1.0, 0.0])}
    parts = jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch)
    state = state_of(segmenter_variables(), tx, jax.random.key(3))
    mapped = jax.vmap(step, in_axes=(None, 0), axis_name="batch")
    return state, transform(mapped)(state, parts)


def test_a_step_keeps_the_state_and_gives_every_term():
    state, (new, metrics) = stepped(2, lambda step: functools.partial(jax.eval_shape, step))
    assert set(metrics) == {"loss", "decode", "auxiliary", "accuracy", "grad_norm"}
    expected = jax.tree.map(lambda x: (2, *x.shape), state)
    assert jax.tree.map(lambda x: x.shape, new) == expected
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)


@pytest.mark.slow
def test_a_step_agrees_over_devices_with_batch_norm_dropout_and_padding():
    before, one = stepped(1, quick_jit)
    _, two = stepped(2, quick_jit)
    (state, metrics), (other, other_metrics) = jax.tree.map(lambda x: x[0], (one, two))
    pairs = [(state.params, other.params), (state.model_state, other.model_state)]
    for a, b in [*pairs, (metrics, other_metrics)]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), a, b)
    total = metrics["decode"] + 0.4 * metrics["auxiliary"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
    moved, shifted = (
        jax.tree.map(lambda a, b: np.abs(a - b).max(), after, start)
        for after, start in ((state.params, before.params), (state.model_state, before.model_state))
    )
    assert moved["backbone"]["vit"]["patch_embed"]["kernel"] > 0
    assert moved["auxiliary_head"]["conv_seg"]["kernel"] > 0
    assert min(shifted["batch_stats"]["decode_head"]["bottleneck"]["norm"].values()) > 1e-4


def test_the_optimizer_slows_lower_layers_and_spares_norms_from_decay():
    tx = segmentation_adamw(1.0, BACKBONE, layer_decay_rate=0.5, weight_decay=0.1)
    params = segmenter_variables()["params"]
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = quick_jit(lambda p, g: tx.update(g, tx.init(p), p))(params, zeros)
    vit, given = updates["backbone"]["vit"], params["backbone"]["vit"]
    np.testing.assert_allclose(vit["pos_embed"], -0.1 * 0.5**5 * given["pos_embed"], rtol=1e-5)
    kernel = given["blocks"]["stacked"]["qkv"]["kernel"]
    rates = 0.1 * 0.5 ** np.array([4, 3, 2, 1])[:, None, None]
    np.testing.assert_allclose(
        vit["blocks"]["stacked"]["qkv"]["kernel"], -rates * kernel, rtol=1e-5
    )
    np.testing.assert_array_equal(updates["decode_head"]["fpn0"]["norm"]["scale"], 0)
    head = params["decode_head"]["conv_seg"]["kernel"]
    np.testing.assert_allclose(updates["decode_head"]["conv_seg"]["kernel"], -0.1 * head, rtol=1e-5)


def test_a_segmenter_starts_from_a_pretrained_encoder():
    encoder = random_variables(ENCODER)
    started = start_segmenter(encoder, SEGMENTER, jax.random.key(2))
    vit = started["params"]["backbone"]["vit"]
    table = interpolate_positions(encoder["constants"]["pos_embed"], BACKBONE.grid)
    np.testing.assert_allclose(vit["pos_embed"], table, atol=1e-6)
    block = vit["blocks"]["stacked"]
    np.testing.assert_array_equal(
        block["qkv"]["kernel"], encoder["params"]["blocks"]["stacked"]["qkv"]["kernel"]
    )
    np.testing.assert_array_equal(block["relative_position_bias_table"], 0)
    np.testing.assert_array_equal(block["gamma_1"], 1)
    assert "norm" not in vit


def test_a_window_smaller_than_the_network_is_padded():
    variables, images = segmenter_variables(), scenes()["images"][:, :5, :6]
    padded = jnp.pad(images, ((0, 0), (0, 3), (0, 2), (0, 0)))
    out = forward()(variables, padded)["logits"]
    expected = jax.image.resize(out, (4, 8, 8, 3), "bilinear", antialias=False)[:, :5, :6]
    logits = quick_jit(functools.partial(window_logits, SEGMENTER))(variables, images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_window_larger_than_the_network_is_refused():
    with pytest.raises(InvalidInputError, match=r"at most 8 x 8, .* got 9 x 8"):
        window_logits(SEGMENTER, segmenter_variables(), jnp.zeros((1, 9, 8, 3)))


def test_half_precision_maps_give_float32_logits():
    half = segmentation_backbone(ENCODER, image_size=8, dtype="bfloat16")
    config = SegmenterConfig(half, feature_blocks=(1, 2, 3, 4))
    variables, images = segmenter_shapes(config), scenes()["images"]
    out = jax.eval_shape(functools.partial(Segmenter(config).apply, train=False), variables, images)
    assert {x.dtype for x in out["features"]} == {jnp.dtype("bfloat16")}
    assert out["logits"].dtype == out["auxiliary_logits"].dtype == jnp.float32


@pytest.mark.parametrize(("size", "starred"), [("B", False), ("T*", True)])
def test_full_size_networks_have_the_published_backbones(size, starred):
    config = SegmenterConfig(segmentation_backbone(vit_config(size, scan=True)))
    shapes = segmenter_shapes(config)["params"]
    total = sum(x.size for x in jax.tree.leaves(shapes["backbone"]))
    # of the released checkpoints, without buffers
    assert total == (17_571_248 if starred else 94_105_152)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_blocks": (1, 2, 3)}, r"four rising numbers in 1\.\.4"),
        ({"feature_blocks": (1, 2, 2, 4)}, "four rising"),
        ({"feature_blocks": (1, 2, 3, 5)}, r"in 1\.\.4"),
        ({"auxiliary_level": 4}, r"auxiliary_level must be in 0\.\.3"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({"num_classes": 256}, "num_classes must be at most 255"),
        ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\)"),
        ({"pool_scales": (0, 1)}, "pool_scales must be positive"),
        ({"width": 0}, "width must be positive"),
    ],
)
def test_impossible_segmenters_are_refused(options, message):
    given = {"feature_blocks": (1, 2, 3, 4)} | options
    with pytest.raises(InvalidInputError, match=message):
        SegmenterConfig(BACKBONE, **given)


def test_a_starred_segmenter_takes_its_last_map_from_the_last_block():
    starred = segmentation_backbone(vit_config("T*"))
    with pytest.raises(InvalidInputError, match="last map is that of block 12"):
        SegmenterConfig(starred, feature_blocks=(2, 4, 6, 8))


def test_label_values_that_are_no_class_are_refused_on_the_host():
    check_maps(np.array([[0, 2, 255]], np.uint8), 3)
    with pytest.raises(InvalidInputError, match=r"0\.\.2, or 255 .* got \[3, 7\]"):
        check_maps(np.array([[0, 3, 7]]), 3)
    with pytest.raises(InvalidInputError, match="labels must be integers, got float64"):
        check_maps(np.zeros((2, 2)), 3)
