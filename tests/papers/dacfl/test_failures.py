"""Lost links, absent users, leaving and joining: what is kept, and what is damaged by how much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers import dacfl
from lab.papers.dacfl import failures, network
from lab.papers.dacfl.failures import FailureConfig
from tests.papers.dacfl import tiny


def run_with(net, num_rounds, start=None, algorithm="dacfl"):
    state = start or tiny.begin(algorithm)
    round_fn = tiny.compiled(algorithm)
    everybody = jnp.ones(tiny.NUM_USERS, bool)
    for t in range(num_rounds):
        weights, active = network.round_network(net, jnp.int32(t))
        active = everybody if active is None else active
        state, _ = round_fn(state, tiny.inputs(t, weights=weights, active=active))
    return state


def gap(state):
    return np.abs(tiny.flat(state.tracker).mean(axis=0) - tiny.flat(state.omega).mean(axis=0)).max()


def failing(num_rounds=10, **config):
    settings = FailureConfig(**config)
    return network.network_of(tiny.matrix(), num_rounds=num_rounds, failures=settings)


def survivors_network(leaver, num_rounds):
    active = np.ones((num_rounds, tiny.NUM_USERS), bool)
    active[:, leaver] = False
    with pytest.warns(UserWarning, match="2 components"):
        return network.network_of(
            _survivors(leaver), num_rounds=num_rounds, active=active, allow_disconnected=True
        )


def test_undirected_losses_and_absences_keep_the_mean():
    state = run_with(failing(link_loss=0.4, user_loss=0.2), 10)
    assert gap(state) < 1e-5


def test_lost_single_messages_do_not():
    assert gap(run_with(failing(link_loss=0.4, repair="row_only"), 10)) > 1e-4


def test_random_failures_come_as_often_as_asked_and_repeat():
    net = failing(link_loss=0.3, user_loss=0.25)
    matrices = network.repaired_matrices(net, 400)
    np.testing.assert_array_equal(matrices, network.repaired_matrices(net, 400))
    np.testing.assert_allclose(matrices.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_array_equal(matrices, matrices.swapaxes(1, 2))
    up = (matrices[:, np.arange(6), (np.arange(6) + 1) % 6] > 0).mean()
    assert up == pytest.approx(0.7 * 0.75**2, abs=0.04)


def test_scheduled_absences_hit_the_named_user_and_rounds():
    config = FailureConfig(outages=((2, 3, 4),), link_outages=((0, 1, 0, 5),))
    active = failures.active_mask(config, 10, 6)
    assert (~active).sum() == 4
    assert not active[3:7, 2].any()
    up = failures.link_mask(config, 10, 6)
    assert (~up).sum() == 10
    assert not up[:5, 0, 1].any()
    assert not up[:5, 1, 0].any()


def test_the_residue_of_a_leaver_stays_in_the_others_as_a_constant_bias():
    before = run_with(failing(), 6)
    leaver, n = 2, tiny.NUM_USERS
    residue = tiny.flat(before.tracker)[leaver] - tiny.flat(before.omega)[leaver]
    gone = survivors_network(leaver, 8)
    for rounds in (2, 8):
        after = run_with(gone, rounds, failures.leave(before, leaver))
        rest = np.arange(n) != leaver
        bias = (tiny.flat(after.tracker) - tiny.flat(after.omega))[rest].mean(axis=0)
        np.testing.assert_allclose(bias, -residue / (n - 1), atol=2e-6)


def test_a_graceful_leaver_leaves_no_bias():
    before = run_with(failing(), 6)
    leaver = 2
    gone = survivors_network(leaver, 4)
    after = run_with(gone, 4, failures.leave(before, leaver, heir=3))
    rest = np.arange(tiny.NUM_USERS) != leaver
    bias = (tiny.flat(after.tracker) - tiny.flat(after.omega))[rest].mean(axis=0)
    assert np.abs(bias).max() < 2e-6


def test_a_graceful_leaver_hands_its_gradient_residue_over_too():
    start = tiny.begin("dsgt", tiny.batches(0))
    before = tiny.run("dsgt", 3, start, offset=1)[-1]
    after = failures.leave(before, 0, heir=1)
    rest = slice(1, None)
    bias = (tiny.flat(after.gradient_tracker) - tiny.flat(after.gradient))[rest].mean(axis=0)
    assert np.abs(bias).max() < 1e-6
    assert failures.leave(before, 0) is before


def test_a_newcomer_starts_at_its_neighbours_weighted_mean():
    state = run_with(failing(), 3)
    weights = np.array([0, 1.0, 0, 0, 3.0, 0])
    joined = failures.join(state, 0, weights)
    omega = tiny.flat(state.omega)
    expected = (omega[1] + 3 * omega[4]) / 4
    for tree in (joined.omega, joined.tracker):
        np.testing.assert_allclose(tiny.flat(tree)[0], expected, atol=1e-6)
    np.testing.assert_array_equal(tiny.flat(joined.tracker)[1:], tiny.flat(state.tracker)[1:])
    tracking = failures.join(tiny.begin("dsgt", tiny.batches(0)), 0, weights)
    assert not tiny.flat(tracking.gradient_tracker)[0].any()
    assert not tiny.flat(tracking.gradient)[0].any()


def test_late_joiners_of_a_run_start_as_join_does():
    config = FailureConfig(arrivals=((2, 4),))
    assert failures.active_mask(config, 6, 6)[:, 2].tolist() == [False] * 4 + [True] * 2
    assert np.argwhere(failures.arrival_mask(config, 6, 6)).tolist() == [[4, 2]]
    state = run_with(failing(), 3)
    weights = tiny.matrix()
    mixed = jax.tree.map(lambda x: jnp.tensordot(weights, x, 1), state.omega)
    arriving = jnp.arange(6) == 2
    welcomed = failures.welcome(state, arriving, jnp.diagonal(jnp.asarray(weights)), mixed)
    others = np.where(np.arange(6) == 2, 0, weights[2])
    joined = failures.join(state, 2, others)
    for name in ("omega", "tracker"):
        ours, theirs = (tiny.flat(getattr(s, name)) for s in (welcomed, joined))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    alone = failures.welcome(state, arriving, jnp.ones(6), state.omega)
    np.testing.assert_array_equal(tiny.flat(alone.omega), tiny.flat(state.omega))


@pytest.mark.parametrize(
    ("active", "link_up", "repair", "message"),
    [
        (np.ones((3, 6)), None, "symmetric", r"active must be bool \[4, 6\], got shape \(3, 6\)"),
        (None, np.ones((4, 6, 5)), "symmetric", r"link_up must be bool \[4, 6, 6\]"),
        (None, np.triu(np.ones((4, 6, 6))), "symmetric", "one-way in round 0"),
    ],
)
def test_bad_masks_are_refused(active, link_up, repair, message):
    with pytest.raises(InvalidInputError, match=message):
        failures.check_masks(active, link_up, 4, 6, repair)


def test_one_way_masks_are_what_row_only_is_for():
    failures.check_masks(None, np.triu(np.ones((4, 6, 6))), 4, 6, "row_only")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"link_loss": 1.5}, r"chance in \[0, 1\], got 1.5"),
        ({"user_loss": np.nan}, "got nan"),
        ({"mode": "ofline"}, "did you mean 'offline'"),
        ({"repair": "both"}, "known: row_only, symmetric"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(InvalidInputError, match=message):
        FailureConfig(**config)


def test_users_that_do_not_exist_are_refused():
    state = tiny.begin("dacfl")
    with pytest.raises(InvalidInputError, match=r"no user 9; users are 0..5"):
        failures.leave(state, 9)
    with pytest.raises(InvalidInputError, match="own heir"):
        failures.leave(state, 1, heir=1)
    with pytest.raises(InvalidInputError, match="neighbour_weights"):
        failures.join(state, 1, np.zeros(6))
    with pytest.raises(InvalidInputError, match="no user 7"):
        failures.active_mask(FailureConfig(outages=((7, 0, 1),)), 3, 6)
    with pytest.raises(InvalidInputError, match=r"user 1 must arrive in a round 1\.\.2, got 3"):
        failures.arrival_mask(FailureConfig(arrivals=((1, 3),)), 3, 6)


def _survivors(leaver):
    up = np.ones((tiny.NUM_USERS,) * 2, bool)
    up[leaver] = up[:, leaver] = False
    adjacency = dacfl.TOPOLOGIES["complete"](tiny.NUM_USERS, None, None) * up
    rest = np.flatnonzero(np.arange(tiny.NUM_USERS) != leaver)
    matrix = np.eye(tiny.NUM_USERS)
    inner = dacfl.draw_matrix(adjacency[np.ix_(rest, rest)], dacfl.MixingConfig(), None)
    matrix[np.ix_(rest, rest)] = inner
    return matrix


def test_state_functions_can_be_compiled():
    state = tiny.begin("dacfl")
    jitted = jax.jit(lambda s: failures.leave(s, 1, heir=2))(state)
    np.testing.assert_array_equal(
        tiny.flat(jitted.tracker), tiny.flat(failures.leave(state, 1, heir=2).tracker)
    )
