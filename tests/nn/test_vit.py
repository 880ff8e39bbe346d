"""The shared ViT against a slow numpy version, and its ways of running against each other."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.drop_path import drop_path, drop_path_noise, drop_path_rates, kept
from lab.nn.position import relative_position_index
from lab.nn.transformer import KINDS, equal_runs, parse_names, stack_blocks, unstack_blocks
from lab.nn.vit import ViT, ViTConfig, multiply_adds, patchify, unpatchify, vit_config

CONFIG = ViTConfig(image_size=8, patch_size=4, width=8, depth=3, num_heads=2)
# Each test runs its program once, so that compiling it is what costs.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
ALL_NAMES = (*(f"block{i}/{kind}" for i in (1, 2, 3) for kind in KINDS), "embed", "norm")


@functools.cache
def images():
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32)


def shapes_of(config):
    return jax.eval_shape(ViT(config).init, jax.random.key(0), images())


@functools.cache
def variables(config=CONFIG):
    """Variables without a scale that is 1 or a bias that is 0."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(center, 0.3, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(config))


def stacked(tree):
    params = tree["params"]
    return {**tree, "params": params | {"blocks": stack_blocks(params["blocks"])}}


def slow_norm(params, x, epsilon=1e-6):
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * params["scale"]
        + params["bias"]
    )


def slow_dense(params, x):
    return x @ params["kernel"] + params["bias"]


def slow_block(params, x, num_heads, bias=0.0):
    """One picture, one head after the other; returns all kinds."""
    q, k, v = np.split(slow_dense(params["qkv"], slow_norm(params["norm1"], x)), 3, axis=-1)
    size = x.shape[-1] // num_heads
    mixed = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        logits = q[:, part] @ k[:, part].T / math.sqrt(size)
        logits = logits + (bias[head] if np.ndim(bias) else bias)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        mixed.append(weights @ v[:, part])
    attn = slow_dense(params["proj"], np.concatenate(mixed, -1)) * params.get("gamma_1", 1)
    hidden = slow_dense(params["fc1"], slow_norm(params["norm2"], x + attn))
    gelu = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    ffn = slow_dense(params["fc2"], gelu) * params.get("gamma_2", 1)
    values = {"q": q, "k": k, "v": v, "attn": attn, "attn_res": x + attn, "ffn": ffn}
    return values | {"block": x + attn + ffn}


def slow_patches(image, patch):
    rows = range(0, image.shape[0], patch)
    cut = [image[r : r + patch, c : c + patch].ravel() for r in rows for c in rows]
    return np.stack(cut)


def slow_embed(tree, image, config):
    params = tree["params"]
    patches = slow_dense(params["patch_embed"], slow_patches(image, config.patch_size))
    return np.concatenate([params["cls_token"][0], patches]) + tree["constants"]["pos_embed"][0]


@functools.cache
def all_outputs(scan=False):
    config = dataclasses.replace(CONFIG, scan=scan)
    tree = stacked(variables()) if scan else variables()
    return quick_jit(lambda t, x: ViT(config).apply(t, x, ALL_NAMES))(tree, images())


def test_every_intermediate_agrees_with_a_slow_numpy_version():
    tree = jax.tree.map(np.float64, variables())
    for image, picture in enumerate(np.asarray(images(), np.float64)):
        x = slow_embed(tree, picture, CONFIG)
        np.testing.assert_allclose(all_outputs()["embed"][image], x, atol=1e-5)
        for block in range(3):
            values = slow_block(tree["params"]["blocks"][str(block)], x, 2)
            for kind in KINDS:
                got = all_outputs()[f"block{block + 1}/{kind}"][image]
                np.testing.assert_allclose(got, values[kind], atol=1e-5, err_msg=kind)
            x = values["block"]
        normed = slow_norm(tree["params"]["norm"], x)
        np.testing.assert_allclose(all_outputs()["norm"][image], normed, atol=1e-5)


def test_scanned_blocks_give_the_same_intermediates():
    for name, value in all_outputs(scan=True).items():
        np.testing.assert_allclose(value, all_outputs()[name], atol=1e-6, err_msg=name)


@functools.cache
def gradient(**options):
    config = dataclasses.replace(CONFIG, **options)

    def loss(params, constants, x):
        out = ViT(config).apply({"params": params, "constants": constants}, x)["norm"]
        return jnp.sum(jnp.sin(out))

    tree = stacked(variables()) if config.scan else variables()
    grads = quick_jit(jax.grad(loss))(tree["params"], tree["constants"], images())
    return grads | {"blocks": unstack_blocks(grads["blocks"])} if config.scan else grads


@pytest.mark.parametrize("options", [{"scan": True}, {"remat": True}])
def test_scan_and_remat_do_not_change_the_gradient(options):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient(**options), gradient()
    )


def test_stacking_blocks_and_back_is_the_identity():
    blocks = variables()["params"]["blocks"]
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stack_blocks(blocks)), blocks)


def test_stacked_initialisation_has_the_shapes_and_scales_of_separate_blocks():
    scanned = dataclasses.replace(CONFIG, scan=True)
    shapes = shapes_of(scanned)["params"]["blocks"]
    expected = stack_blocks(variables()["params"]["blocks"])
    assert jax.tree.map(jnp.shape, expected) == jax.tree.map(lambda s: s.shape, shapes)
    kernel = quick_jit(ViT(scanned).init)(jax.random.key(0), images())["params"]["blocks"][
        "stacked"
    ]["qkv"]["kernel"]
    assert np.abs(kernel).max() <= math.sqrt(6 / (8 + 24))  # Xavier uniform of one block
    assert not np.array_equal(kernel[0], kernel[1])


def matmul_shapes(names):
    jaxpr = jax.make_jaxpr(lambda t, x: ViT(CONFIG).apply(t, x, names))(variables(), images())
    return str(jaxpr).count("dot_general")


def test_nothing_runs_after_the_last_wanted_value():
    # a block has qkv, logits, mixing, proj, fc1, fc2; the patch projection comes before
    assert matmul_shapes(("embed",)) == 1
    assert matmul_shapes(("block2/q", "block2/k")) == 1 + 6 + 1
    assert matmul_shapes(("block2/attn",)) == 1 + 6 + 4
    assert matmul_shapes(("norm",)) == 1 + 3 * 6


def test_runs_of_equal_blocks_end_where_something_is_wanted():
    config = ViTConfig(width=8, depth=6, num_heads=2, scan=True)
    assert equal_runs(config, parse_names(("block6/block",), 6)) == [(0, 6)]
    assert equal_runs(config, parse_names(("block4/q",), 6)) == [(0, 3), (3, 4)]
    wanted = parse_names(("block2/block", "block4/attn", "block6/block"), 6)
    assert equal_runs(config, wanted) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    adaptive = config.with_last_block_heads(4)
    assert equal_runs(adaptive, parse_names(("block6/block",), 6)) == [(0, 5), (5, 6)]


def test_the_last_block_may_have_other_heads_with_the_same_parameters():
    config = CONFIG.with_last_block_heads(4)
    assert config.heads == (2, 2, 4)
    names = ("block2/block", "block3/q", "block3/block")
    out = quick_jit(lambda t, x: ViT(config).apply(t, x, names))(variables(), images())
    np.testing.assert_allclose(out["block3/q"], all_outputs()["block3/q"], atol=1e-6)
    params = jax.tree.map(np.float64, variables()["params"]["blocks"]["2"])
    expected = slow_block(params, np.float64(out["block2/block"][0]), 4)["block"]
    np.testing.assert_allclose(out["block3/block"][0], expected, atol=1e-5)


def test_kept_patches_are_encoded_alone_and_in_their_order():
    kept_patches = jnp.array([[3, 0], [1, 2]])
    apply = quick_jit(lambda t, x, kept: ViT(CONFIG).apply(t, x, ("embed",), kept_patches=kept))
    out = apply(variables(), images(), kept_patches)["embed"]
    whole = np.asarray(all_outputs()["embed"])
    for i in range(2):
        expected = whole[i][np.array([0, *(np.asarray(kept_patches[i]) + 1)])]
        np.testing.assert_allclose(out[i], expected, atol=1e-6)


def test_relative_bias_and_layer_scale_agree_with_the_slow_version():
    config = dataclasses.replace(CONFIG, relative_position_bias=True, layer_scale=1.0)
    tree = variables(config)
    names = ("embed", "block1/block")
    out = quick_jit(lambda t, x: ViT(config).apply(t, x, names))(tree, images())
    params = jax.tree.map(np.float64, tree["params"]["blocks"]["0"])
    assert params["relative_position_bias_table"].shape == (9 + 3, 2)
    bias = params["relative_position_bias_table"][relative_position_index(2)].transpose(2, 0, 1)
    expected = slow_block(params, np.float64(out["embed"][1]), 2, bias)["block"]
    np.testing.assert_allclose(out["block1/block"][1], expected, atol=1e-5)


def test_drop_path_drops_whole_branches_of_single_examples():
    noise = jnp.array([0.1, 0.9])
    np.testing.assert_array_equal(kept(noise, 0.3), [0, 1])
    out = drop_path(jnp.ones((2, 3, 4)), noise, 0.3)
    np.testing.assert_allclose(out[0], 0)
    np.testing.assert_allclose(out[1], 1 / 0.7, rtol=1e-6)


def test_drop_path_noise_of_an_example_does_not_depend_on_the_batch():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(4))
    whole = drop_path_noise(keys, 5)
    assert whole.shape == (5, 2, 4)
    np.testing.assert_array_equal(whole[..., 2:], drop_path_noise(keys[2:], 5))


def test_drop_path_rates_follow_their_schedules():
    np.testing.assert_allclose(drop_path_rates(0.2, 3), [0, 0.1, 0.2])
    np.testing.assert_allclose(drop_path_rates(0.2, 3, "all_but_last"), [0.2, 0.2, 0])


@pytest.mark.parametrize("scan", [False, True])
def test_a_block_whose_branches_are_dropped_hands_its_input_on(scan):
    config = dataclasses.replace(
        CONFIG, drop_path_rate=0.5, drop_path_schedule="all_but_last", scan=scan
    )
    noise = jnp.ones((3, 2, 2)).at[:2, :, 0].set(0.0)
    apply = quick_jit(
        lambda t, x, n: ViT(config).apply(t, x, ("embed", "block2/block"), drop_path_noise=n)
    )
    out = apply(stacked(variables()) if scan else variables(), images(), noise)
    np.testing.assert_allclose(out["block2/block"][0], out["embed"][0], atol=1e-6)
    assert np.abs(out["block2/block"][1] - out["embed"][1]).max() > 0.1


def test_half_precision_stays_close_and_keeps_float32_parameters():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    out = quick_jit(lambda t, x: ViT(config).apply(t, x))(variables(), images())["norm"]
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), all_outputs()["norm"], atol=0.15)
    shapes = shapes_of(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("size", "giga"), [("T", 1.26), ("S", 4.6), ("B", 17.6), ("L", 61.6)])
def test_multiply_adds_are_those_of_the_paper(size, giga):
    assert multiply_adds(vit_config(size)) / 1e9 == pytest.approx(giga, rel=0.01)


def test_the_starred_model_has_two_special_tokens_and_wide_features():
    config = vit_config("T*", image_size=32)
    shapes = jax.eval_shape(ViT(config).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert shapes["constants"]["pos_embed"].shape == (1, 2 + 4, 192)
    out = jax.eval_shape(ViT(config).apply, shapes, jnp.zeros((1, 32, 32, 3)))
    assert out["expanded"].shape == (1, 6, 1280)


def test_patches_and_back_are_the_picture():
    np.testing.assert_array_equal(unpatchify(patchify(images(), 4), 4), images())
    np.testing.assert_array_equal(
        patchify(images(), 4)[1], slow_patches(np.asarray(images())[1], 4)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "must divide the width 8"),
        ({"block_heads": (2, 2)}, "one number for each of 3 blocks"),
        ({"width": 6}, "divisible by 4, got 6"),
        ({"image_size": 10}, "multiple of patch_size 4"),
        ({"drop_path_rate": 1.0}, r"\[0, 1\), got 1.0"),
        ({"position": "rotary"}, "'fixed' or 'learned', got 'rotary'"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("picture", "names", "message"),
    [
        (np.zeros((1, 12, 12, 3), np.float32), None, r"got \(1, 12, 12, 3\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), None, "normalised floats, got uint8"),
        (np.zeros((1, 8, 8, 3), np.float32), ("block4/q",), r"blocks 1..3"),
        (np.zeros((1, 8, 8, 3), np.float32), ("block1/z",), "unknown name 'block1/z'"),
        (np.zeros((1, 8, 8, 3), np.float32), ("logits",), "unknown names"),
        (np.zeros((1, 8, 8, 3), np.float32), ("expanded",), "has no"),
    ],
)
def test_pictures_and_names_that_do_not_fit_are_refused(picture, names, message):
    with pytest.raises(InvalidInputError, match=message):
        jax.eval_shape(lambda t, x: ViT(CONFIG).apply(t, x, names), variables(), picture)


def test_pictures_that_are_not_square_cannot_be_patched():
    with pytest.raises(InvalidInputError, match="got 8 x 12"):
        patchify(jnp.zeros((1, 8, 12, 3)), 4)
    with pytest.raises(InvalidInputError, match="no square picture"):
        unpatchify(jnp.zeros((1, 3, 48)), 4)
    with pytest.raises(InvalidInputError, match="one of T, S"):
        vit_config("XL")
