import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.errors import InvalidInputError
from lab.train import (
    Aux,
    init_state,
    make_train_step,
    mean_over,
    seed_keys,
    state_of,
    step_key,
)
from tests.train.toy import Net


def test_a_step_is_one_update_of_the_optimizer():
    def loss_fn(params, model_state, batch, key):
        return jnp.sum(params["w"] * batch), Aux({"extra": jnp.float32(7)}, model_state)

    tx = optax.sgd(0.5)
    state = state_of({"params": {"w": jnp.ones(3)}}, tx, jax.random.key(0))
    state, metrics = make_train_step(loss_fn, tx)(state, jnp.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(state.params["w"], [0.5, 0.0, -1.0])
    assert int(state.step) == 1
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(21), rtol=1e-6)
    assert (float(metrics["loss"]), float(metrics["extra"])) == (7.0, 7.0)


def test_every_step_draws_from_a_key_of_its_own():
    keys = []

    def loss_fn(params, model_state, batch, key):
        keys.append(jax.random.key_data(key).tolist())
        return params["w"], Aux({}, model_state)

    step = make_train_step(loss_fn, optax.sgd(0.1))
    state = state_of({"params": {"w": jnp.float32(1)}}, optax.sgd(0.1), jax.random.key(3))
    first = jax.random.key_data(step_key(state)).tolist()
    for _ in range(3):
        state, _ = step(state, None)
    assert keys[0] == first
    assert len({tuple(k) for k in keys}) == 3


def test_mutable_collections_are_kept_apart_from_parameters():
    x, keep = jnp.ones((4, 5)), jnp.ones((4, 16))
    state = init_state(Net(None), optax.adam(1e-3), jax.random.key(0), x, keep, train=False)
    assert set(state.model_state) == {"batch_stats"}
    assert "batch_stats" not in state.params


def test_the_key_of_a_seed_does_not_depend_on_how_many_there_are():
    keys = jax.random.key_data(seed_keys(range(3)))
    np.testing.assert_array_equal(keys[2], jax.random.key_data(seed_keys([2]))[0])
    np.testing.assert_array_equal(keys[2], jax.random.key_data(jax.random.key(2)))


def test_raw_keys_are_refused():
    with pytest.raises(InvalidInputError, match=r"jax.random.key\(seed\)"):
        state_of({"params": {}}, optax.sgd(1.0), jax.random.PRNGKey(0))


def test_the_mean_ignores_masked_entries_even_where_they_are_nan():
    values, mask = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1, 0, 1])
    assert float(mean_over(values, mask)) == 2.0
    assert float(mean_over(values, jnp.zeros(3))) == 0.0
    grads = jax.grad(lambda v: mean_over(v, mask))(values)
    np.testing.assert_array_equal(grads, [0.5, 0.0, 0.5])
