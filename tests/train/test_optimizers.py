import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.errors import InvalidInputError
from lab.train import optimizers
from lab.train.schedules import scaled_rate, warmup_cosine, warmup_polynomial

PARAMS = {
    "embed": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "head": {"kernel": jnp.full((3, 2), 2.0), "scale": jnp.ones((2, 2))},
}


def gradients(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape), x.dtype), PARAMS)


def train(tx, num_steps=4, grads=gradients):
    params, state = PARAMS, tx.init(PARAMS)
    update = jax.jit(tx.update)
    for step in range(num_steps):
        updates, state = update(grads(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def adamw_by_hand(num_steps, rate, scale, decay, b1=0.9, b2=0.95, eps=1e-8, clip=None):
    """Loshchilov & Hutter (2019), algorithm 2, in float64; `scale`, `decay` by leaf name."""
    params = {k: np.asarray(v, np.float64) for k, v in flat(PARAMS).items()}
    first = {k: np.zeros_like(v) for k, v in params.items()}
    second = {k: np.zeros_like(v) for k, v in params.items()}
    for t in range(num_steps):
        grads = {k: np.asarray(v, np.float64) for k, v in flat(gradients(t)).items()}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        for k, g in grads.items():
            g = g * min(1.0, clip / norm) if clip else g
            first[k] = b1 * first[k] + (1 - b1) * g
            second[k] = b2 * second[k] + (1 - b2) * g**2
            unit = first[k] / (1 - b1 ** (t + 1))
            unit = unit / (np.sqrt(second[k] / (1 - b2 ** (t + 1))) + eps)
            params[k] = params[k] - rate(t) * scale[k] * (unit + decay[k] * params[k])
    return params


def flat(tree):
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): x
        for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_adamw_with_schedule_layer_decay_clipping_and_masks():
    layer_of = lambda path: 0 if path.startswith("embed") else 2  # noqa: E731
    schedule = warmup_cosine(0.1, 2, 10, 1e-3)
    tx = optimizers.adamw(
        schedule,
        b2=0.95,
        weight_decay=0.05,
        scale_of=optimizers.layer_decay(layer_of, 2, 0.65),
        clip_norm=1.0,
    )
    params, _ = train(tx)
    names = flat(PARAMS)
    expected = adamw_by_hand(
        4,
        lambda t: 0.1 * t / 2 if t < 2 else 1e-3 + 0.099 / 2 * (1 + np.cos(np.pi * (t - 2) / 8)),
        {k: 0.65**2 if k.startswith("embed") else 1.0 for k in names},
        {k: 0.05 if k.endswith("kernel") else 0.0 for k in names},
        clip=1.0,
    )
    for name, value in flat(params).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, err_msg=name)


def test_the_first_step_of_a_warm_up_moves_nothing():
    params, _ = train(optimizers.adamw(warmup_cosine(0.1, 5, 10), weight_decay=0.1), num_steps=1)
    for name, value in flat(params).items():
        np.testing.assert_array_equal(value, flat(PARAMS)[name], err_msg=name)


def test_frozen_parameters_neither_move_nor_decay_nor_have_state():
    is_frozen = lambda path, _: path.startswith("embed")  # noqa: E731
    tx = optimizers.adamw(0.1, weight_decay=0.1, is_frozen=is_frozen, ema_decay=0.5)
    params, state = train(tx)
    np.testing.assert_array_equal(params["embed"]["kernel"], PARAMS["embed"]["kernel"])
    assert not np.allclose(params["head"]["kernel"], PARAMS["head"]["kernel"])
    moments = [s for s in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(s)]
    assert {k for s in moments for k in flat(s.mu)} == {"head/kernel", "head/scale"}


def is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


def test_accumulated_batches_step_as_their_mean():
    many, _ = train(optimizers.adamw(0.1, accumulate=2), num_steps=4)
    mean = lambda i: jax.tree.map(  # noqa: E731
        lambda a, b: (a + b) / 2, gradients(2 * i), gradients(2 * i + 1)
    )
    one, _ = train(optimizers.adamw(0.1), num_steps=2, grads=mean)
    for name, value in flat(many).items():
        np.testing.assert_allclose(value, flat(one)[name], rtol=1e-5, err_msg=name)


def test_the_average_follows_the_parameters():
    tx = optimizers.adamw(0.1, ema_decay=0.8)
    average = np.asarray(PARAMS["head"]["kernel"], np.float64)
    for num_steps in (1, 2, 3):
        params, state = train(tx, num_steps)
        average = 0.8 * average + 0.2 * np.asarray(params["head"]["kernel"])
        followed = optimizers.averaged_params(state)["head"]["kernel"]
        np.testing.assert_allclose(followed, average, rtol=1e-5)


def test_lars_scales_weights_and_not_biases():
    params, _ = train(optimizers.lars(0.3, weight_decay=0.01, trust_coefficient=0.02), num_steps=3)
    for name, value in flat(params).items():
        w = np.asarray(flat(PARAMS)[name], np.float64)
        velocity = 0.0
        for step in range(3):
            g = np.asarray(flat(gradients(step))[name], np.float64)
            if w.ndim > 1:
                g = g + 0.01 * w
                g = g * 0.02 * np.linalg.norm(w) / np.linalg.norm(g)
            velocity = 0.9 * velocity + g
            w = w - 0.3 * velocity
        np.testing.assert_allclose(value, w, rtol=1e-5, err_msg=name)


def test_a_weight_of_zeros_is_moved_by_lars_as_it_is():
    tx = optimizers.lars(0.5)
    params = {"w": jnp.zeros((2, 2))}
    updates, _ = tx.update({"w": jnp.ones((2, 2))}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.5 * np.ones((2, 2)))


def test_schedules_reach_their_ends():
    cosine, poly = warmup_cosine(2.0, 10, 50, 0.5), warmup_polynomial(2.0, 10, 50, floor=0.1)
    assert [float(cosine(i)) for i in (0, 5, 10, 30, 50, 99)] == pytest.approx(
        [0, 1, 2, 1.25, 0.5, 0.5]
    )
    assert float(poly(50)) == pytest.approx(0.1)
    assert float(poly(0)) == pytest.approx(2e-6)
    assert scaled_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warmup_cosine(1.0, 10, 10), r"warmup must lie in 0\.\.10"),
        (lambda: warmup_polynomial(1.0, -1, 10), "warmup must lie"),
        (lambda: optimizers.adamw(0.1, accumulate=0), "accumulate must be at least 1"),
        (lambda: optimizers.adamw(0.1, ema_decay=1.0), "decay must lie"),
        (lambda: optimizers.layer_decay(lambda _: 5, 4, 0.5)("x"), r"x has layer 5"),
        (lambda: optimizers.averaged_params(optimizers.adamw(0.1).init(PARAMS)), "holds 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
