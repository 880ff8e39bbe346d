import jax
import jax.numpy as jnp
import numpy as np

from lab.nn.norm import BatchNorm

EPSILON = 1e-5


def by_hand(x, running_mean, running_var, momentum=0.1):
    """PyTorch's BatchNorm1d in float64: output, running mean, running variance (unbiased)."""
    x = np.asarray(x, np.float64)
    mean, var = x.mean(0), x.var(0)
    out = (x - mean) / np.sqrt(var + EPSILON)
    return (
        out,
        (1 - momentum) * running_mean + momentum * mean,
        (1 - momentum) * running_var + momentum * x.var(0, ddof=1),
    )


def test_batch_norm_is_that_of_pytorch_and_ignores_padding():
    x = np.random.default_rng(0).normal(5, 3, (9, 4)).astype(np.float32)
    padded = np.concatenate([x, np.full((3, 4), 1e6, np.float32)])
    mask = np.arange(12) < 9
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, train=False)
    out, changed = module.apply(variables, padded, train=True, mask=mask, mutable=["batch_stats"])
    expected, mean, var = by_hand(x, np.zeros(4), np.ones(4))
    np.testing.assert_allclose(out[:9], expected, atol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["var"], var, rtol=1e-5)


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    x = jnp.ones((2, 3))
    stats = {"mean": jnp.full(3, 0.5), "var": jnp.full(3, 4.0)}
    variables = {"params": {"scale": jnp.full(3, 2.0), "bias": jnp.ones(3)}, "batch_stats": stats}
    out = BatchNorm().apply(variables, x, train=False)
    np.testing.assert_allclose(out, 1 + 2 * 0.5 / np.sqrt(4 + EPSILON), rtol=1e-6)


def test_statistics_of_a_mapped_axis_are_those_of_the_global_batch():
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    mask = np.array([[True] * 5, [True, True, False, False, False]])
    module = BatchNorm(axis_name="batch")
    variables = module.init(jax.random.key(0), x[0], train=False)

    def apply(x, mask):
        return module.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])

    out, changed = jax.vmap(apply, axis_name="batch")(x, mask)
    expected, mean, var = by_hand(x[mask], np.zeros(3), np.ones(3))
    np.testing.assert_allclose(np.asarray(out)[mask], expected, atol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], [mean, mean], atol=1e-6)
    np.testing.assert_allclose(changed["batch_stats"]["var"], [var, var], rtol=1e-5)
