"""A small classifier with dropout and BatchNorm, written for one device or several."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab.train import Aux, init_state, make_train_step, mean_over
from lab.train.devices import example_keys

AXIS = "batch"


class Net(nn.Module):
    """Dense, synchronised BatchNorm, dropout by example, Dense."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x, keep, train):
        # No bias: BatchNorm cancels its gradient, and Adam would blow up what rounding leaves.
        x = nn.Dense(16, use_bias=False)(x)
        x = nn.BatchNorm(
            use_running_average=not train, axis_name=self.axis_name if train else None
        )(x)
        return nn.Dense(3)(nn.relu(x) * keep)


def toy_step(axis_name: str | None = AXIS):
    """Returns (state, step): of batches {"x", "y", "mask"}."""
    model, tx = Net(axis_name), optax.adamw(1e-2)

    def loss_fn(params, model_state, batch, key):
        keys = example_keys(key, batch["x"].shape[0])
        keep = jax.vmap(lambda k: jax.random.bernoulli(k, 0.7, (16,)))(keys) / 0.7
        logits, model_state = model.apply(
            {"params": params, **model_state},
            batch["x"],
            keep,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        loss = mean_over(losses, batch["mask"], axis_name)
        return loss, Aux({}, model_state)

    x = jnp.zeros((8, 5))
    state = init_state(Net(None), tx, jax.random.key(0), x, jnp.ones((8, 16)), train=False)
    return state, make_train_step(loss_fn, tx, axis_name=axis_name)


def toy_batches(num: int = 5, size: int = 16) -> list[dict[str, np.ndarray]]:
    """Batches of random data, the last one with a quarter of its examples masked."""
    rng = np.random.default_rng(0)
    batches = [
        {
            "x": rng.normal(size=(size, 5)).astype(np.float32),
            "y": rng.integers(0, 3, size),
            "mask": np.ones(size, np.float32),
        }
        for _ in range(num)
    ]
    batches[-1]["mask"][-size // 4 :] = 0
    return batches
