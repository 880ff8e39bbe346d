"""The field's networks: parameter counts, and convolutions as matrix products over patches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.convnets import ConvNet, ConvNetConfig
from lab.papers import dacfl
from lab.papers.dacfl.losses import with_augmentation

IMAGE = (28, 28, 1)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("logistic", IMAGE, 7_850),
        ("mlp", IMAGE, 50_890),
        ("mlp2", IMAGE, 199_210),
        ("small_cnn", IMAGE, 5_994),
        ("fedavg_cnn", IMAGE, 1_663_370),
        ("cifar_cnn", (24, 24, 3), 1_068_298),
        ("cifar_cnn", (32, 32, 3), 1_756_426),
    ],
)
def test_networks_have_the_published_number_of_parameters(name, shape, count):
    module = dacfl.build(name)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *shape))))
    assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_convolutions_via_patches_are_the_same(padding):
    config = ConvNetConfig(features=(2, 3), kernel=3, padding=padding, hidden=(4,), num_classes=3)
    images = jax.random.normal(jax.random.key(1), (2, 12, 10, 2))
    plain, patched = (
        ConvNet(dataclasses.replace(config, via_patches=via)) for via in (False, True)
    )
    variables = jax.jit(plain.init)(jax.random.key(0), images)

    def value_and_grad(module):
        def loss(v):
            logits = module.apply(v, images)
            return jnp.sum(jnp.square(logits)), logits

        return jax.jit(jax.grad(loss, has_aux=True))(variables)

    for a, b in zip(
        jax.tree.leaves(value_and_grad(plain)),
        jax.tree.leaves(value_and_grad(patched)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4)


def test_initial_weights_have_the_variance_of_their_scheme():
    variables = dacfl.build("mlp2").init(jax.random.key(0), jnp.zeros((1, 784)))["params"]
    assert float(variables["dense0"]["kernel"].std()) == pytest.approx((2 / 784) ** 0.5, rel=0.02)
    assert float(variables["dense2"]["kernel"].std()) == pytest.approx((1 / 200) ** 0.5, rel=0.05)
    assert not any(layer["bias"].any() for layer in variables.values())


def test_unknown_models_are_refused_with_the_nearest():
    with pytest.raises(InvalidInputError, match="did you mean 'small_cnn'"):
        dacfl.build("smal_cnn")


def test_augmentation_changes_the_inputs_before_the_loss():
    def loss_fn(params, model_state, batch, key):
        return jnp.sum(batch["inputs"]) * params, model_state

    doubled = with_augmentation(loss_fn, lambda keys, inputs: 2 * inputs + 0 * len(keys))
    batch = {"inputs": jnp.ones((3, 2)), "labels": jnp.zeros(3, jnp.int32)}
    assert float(doubled(1.0, {}, batch, jax.random.key(0))[0]) == 12
