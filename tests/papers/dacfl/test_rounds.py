"""What holds for every algorithm's round, beside the golden runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.errors import InvalidInputError
from lab.papers import dacfl
from lab.papers.dacfl import rounds
from lab.papers.dacfl.failures import repair
from lab.train.state import Aux
from tests.papers.dacfl import tiny


@jax.jit
def gradient(params, batch):
    return jax.grad(lambda p: tiny.LOSS(p, {}, batch, None)[0])(params)


def test_the_means_of_x_and_omega_stay_equal():
    states = tiny.run("dacfl", 40)
    for state in states:
        x, omega = tiny.flat(state.tracker).mean(axis=0), tiny.flat(state.omega).mean(axis=0)
        assert np.linalg.norm(x - omega) <= (3e-8 * 40 + 1e-5) * np.linalg.norm(omega)
    assert np.abs(tiny.flat(states[-1].tracker) - tiny.flat(states[-1].omega)).max() > 1e-3


def test_the_output_of_dpsgd_at_the_mixed_point_is_the_mean_of_dacfls_x():
    mixed = dacfl.algorithm("dpsgd", gradient_at="mixed")
    ours, theirs = tiny.run("dacfl", 8)[-1], tiny.run(mixed, 8)[-1]
    output = rounds.output_models(mixed, theirs, dacfl.UserAxis(tiny.NUM_USERS))
    mean = tiny.flat(ours.tracker).mean(axis=0)
    np.testing.assert_allclose(tiny.flat(output), np.tile(mean, (tiny.NUM_USERS, 1)), atol=2e-6)


def test_dpsgd_and_cdsgd_take_the_same_steps():
    ours, theirs = tiny.run("dpsgd", 4)[-1], tiny.run("cdsgd", 4)[-1]
    np.testing.assert_array_equal(tiny.flat(ours.omega), tiny.flat(theirs.omega))


def test_gradient_trackers_keep_the_mean_gradient():
    start = tiny.begin("dsgt", tiny.batches(0))
    for state in tiny.run("dsgt", 6, start, offset=1):
        mean_y, mean_g = (
            tiny.flat(tree).mean(axis=0) for tree in (state.gradient_tracker, state.gradient)
        )
        np.testing.assert_allclose(mean_y, mean_g, atol=1e-6)


def test_gradient_tracking_takes_one_local_step():
    state = tiny.begin("dsgt", tiny.batches(0))
    with pytest.raises(InvalidInputError, match="one local step a round, got 2"):
        tiny.run("dsgt", 1, state, steps=2)


def test_on_the_complete_graph_everybody_mixes_to_the_mean():
    everybody = jnp.full((tiny.NUM_USERS,) * 2, 1 / tiny.NUM_USERS)
    start = tiny.begin("dacfl", params=tiny.different_params(), per_user=True)
    state = tiny.run("dacfl", 1, start, weights=everybody, learning_rate=jnp.float32(1e-20))[-1]
    mean = tiny.flat(start.omega).mean(axis=0)
    np.testing.assert_allclose(tiny.flat(state.omega), np.tile(mean, (6, 1)), atol=1e-6)


def test_centralised_training_is_one_big_batch_weighted_by_size():
    counts = np.arange(1.0, tiny.NUM_USERS + 1, dtype=np.float32)
    state = tiny.run("centralised", 1, weights=None, counts=jnp.asarray(counts))[-1]
    params, batches = tiny.params(), tiny.batches(0)
    grads = [
        tiny.flat(
            jax.tree.map(
                lambda g: g[None], gradient(params, {k: v[i, 0] for k, v in batches.items()})
            )
        )
        for i in range(tiny.NUM_USERS)
    ]
    mean = sum(c * g for c, g in zip(counts, grads, strict=True)) / counts.sum()
    start = tiny.flat(jax.tree.map(lambda p: p[None], params))
    np.testing.assert_allclose(
        tiny.flat(state.omega), np.tile(start - 0.1 * mean, (6, 1)), atol=1e-6
    )


def disagreeing(params, model_state, batch, key):
    """(w - a_i)² / 2: the optimum of all users is the mean of their a_i."""
    del key
    return jnp.sum(jnp.square(params["w"] - batch.mean())) / 2, Aux({}, model_state)


def after_long(name, rounds=400):
    """Users' w at the end, with exact gradients at a constant rate, and their targets."""
    targets = jnp.asarray([-3.0, 5.0, 1.0, 0.0, 2.0, 7.0])
    inputs = dacfl.RoundInputs(targets[:, None, None], jnp.asarray(tiny.matrix()), 0.2)
    round_fn = dacfl.make_round(name, disagreeing)
    state = dacfl.init_state(name, {"w": jnp.zeros(1)}, jax.random.key(0), 6)
    if name == "dsgt":
        state, _ = dacfl.start_tracking(state, disagreeing, inputs.batches)
    end, _ = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: round_fn(s, inputs), state, length=rounds)
    )(state)
    return end, np.asarray(targets)


@pytest.mark.parametrize("name", ["exact_diffusion", "dsgt"])
def test_corrected_methods_end_at_the_optimum_of_all(name):
    end, targets = after_long(name)
    np.testing.assert_allclose(end.omega["w"].ravel(), targets.mean(), atol=1e-4)


def test_dacfls_output_agrees_where_gossip_keeps_its_disagreement():
    """Closed forms of the fixed points: W w - lr (w - a) = w, and W (w - lr (w - a)) = w."""
    matrix, eye = tiny.matrix().astype(np.float64), np.eye(6)
    end, targets = after_long("cdsgd")
    fixed = np.linalg.solve(eye - matrix + 0.2 * eye, 0.2 * targets)
    np.testing.assert_allclose(end.omega["w"].ravel(), fixed, atol=1e-4)
    end, targets = after_long("dfedavg")
    fixed = np.linalg.solve(eye - 0.8 * matrix, 0.2 * matrix @ targets)
    np.testing.assert_allclose(end.omega["w"].ravel(), fixed, atol=1e-4)
    end, _ = after_long("dacfl")
    assert np.ptp(np.asarray(end.omega["w"])) > 1
    assert np.ptp(np.asarray(end.tracker["w"])) < 1e-4


def test_local_training_ignores_the_network():
    state = tiny.run("local", 2, weights=None)[-1]
    params = tiny.params()
    for t in range(2):
        batch = {k: v[3, 0] for k, v in tiny.batches(t).items()}
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params, batch))
    ours = jax.tree.map(lambda x: x[3], state.omega)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_fedavg_with_nobody_there_changes_nothing():
    nobody = jnp.zeros(tiny.NUM_USERS, bool)
    states = tiny.run("fedavg", 1, weights=None, active=nobody, counts=jnp.ones(6))
    np.testing.assert_array_equal(tiny.flat(states[0].omega), tiny.flat(states[1].omega))


@pytest.mark.parametrize("mode", ["offline", "isolated"])
def test_when_all_users_are_down_offline_ones_stand_still_and_isolated_ones_train(mode):
    nobody = jnp.zeros(tiny.NUM_USERS, bool)
    weights = repair(jnp.asarray(tiny.matrix()), None, nobody)
    states = tiny.run("dacfl", 1, options=(("drop_mode", mode),), active=nobody, weights=weights)
    moved = np.abs(tiny.flat(states[1].omega) - tiny.flat(states[0].omega)).max(axis=1) > 0
    assert moved.tolist() == [mode == "isolated"] * tiny.NUM_USERS


def test_users_take_their_own_number_of_local_steps():
    steps = jnp.array([1, 2, 3, 3, 2, 1], jnp.int32)
    state = tiny.run("local", 1, steps=3, weights=None, num_steps=steps)[-1]
    batches = tiny.batches(0, steps=3)
    for user in (0, 1, 2):
        params = tiny.params()
        for e in range(int(steps[user])):
            batch = {k: v[user, e] for k, v in batches.items()}
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params, batch))
        expected = tiny.flat(jax.tree.map(lambda p: p[None], params))[0]
        np.testing.assert_allclose(tiny.flat(state.omega)[user], expected, atol=1e-6)


def test_local_optimizers_have_a_state_a_user_that_is_not_mixed():
    tx = optax.adam(1.0)
    state = tiny.begin("dacfl", tx=tx)
    round_fn = jax.jit(dacfl.make_round("dacfl", tiny.LOSS, tx))
    new, _ = round_fn(state, tiny.inputs(0))
    grads = jax.jit(jax.vmap(gradient))(
        state.omega, {k: v[:, 0] for k, v in tiny.batches(0).items()}
    )
    # All begin alike, so the mixed point is the first one and Adam's first moment is g / 10.
    np.testing.assert_allclose(tiny.flat(new.opt_state[0].mu), 0.1 * tiny.flat(grads), atol=1e-6)
    assert new.opt_state[0].count.tolist() == [1] * tiny.NUM_USERS


def test_one_user_at_a_time_gives_the_same_round():
    ours = tiny.run("dacfl", 1)[-1]
    theirs = tiny.run("dacfl", 1, options=(("user_map", "map"),))[-1]
    np.testing.assert_allclose(tiny.flat(ours.omega), tiny.flat(theirs.omega), atol=1e-6)


def test_the_metrics_of_a_round_are_means_over_those_who_trained():
    active = jnp.array([True, False, True, True, True, True])
    weights = repair(jnp.asarray(tiny.matrix()), None, active)
    _, metrics = tiny.compiled("dacfl")(
        tiny.begin("dacfl"), tiny.inputs(0, active=active, weights=weights)
    )
    losses = np.asarray(metrics["user_loss"])
    assert np.flatnonzero(np.isnan(losses)).tolist() == [1]
    assert float(metrics["loss"]) == pytest.approx(float(np.nanmean(losses)), rel=1e-6)
    assert not np.asarray(metrics["diverged"]).any()


def test_a_divergent_user_is_marked():
    state = tiny.begin("dacfl")
    omega = jax.tree.map(lambda x: x.at[2].set(jnp.nan), state.omega)
    alone = jnp.eye(tiny.NUM_USERS)
    _, metrics = tiny.compiled("cdsgd")(
        dataclasses.replace(tiny.begin("cdsgd"), omega=omega), tiny.inputs(0, weights=alone)
    )
    assert np.flatnonzero(metrics["diverged"]).tolist() == [2]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"w": jnp.zeros((6, 2)), "steps": jnp.zeros(6, jnp.int32)}, r"params\['steps'\] is int32"),
        ({"w": jnp.zeros((5, 2))}, r"params\['w'\] has shape \(5, 2\).*the 6 users"),
    ],
)
def test_leaves_that_cannot_be_mixed_are_named(params, message):
    with pytest.raises(InvalidInputError, match=message):
        dacfl.init_state("dacfl", params, jax.random.key(0), 6, per_user=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dacf", {}, "did you mean 'dacfl'"),
        ("dacfl", {"momentum": 0.9}, "momentum is an option of cdsgd"),
        ("cdsgd", {"momentum": 1.5}, r"in \[0, 1\), got 1.5"),
        ("cdsgd", {"reset_every": 3}, "reset_every is an option of dacfl"),
        ("fedavg", {"gradient_at": "mixed"}, "not fedavg"),
        ("dacfl", {"gradient_at": "middle"}, "known: local, mixed"),
        ("dacfl", {"gradient": 1}, "did you mean"),
    ],
)
def test_bad_algorithms_are_refused(name, options, message):
    with pytest.raises(InvalidInputError, match=message):
        dacfl.algorithm(name, **options)


def test_raw_keys_are_refused():
    with pytest.raises(InvalidInputError, match="typed key"):
        dacfl.init_state("dacfl", tiny.params(), jnp.zeros(2, jnp.uint32), 3)
