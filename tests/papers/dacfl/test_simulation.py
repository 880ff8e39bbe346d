"""Whole runs: the same in chunks, after a kill, as one of several copies, and step by step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.errors import InvalidInputError, NonFiniteError
from lab.papers import dacfl
from lab.papers.dacfl import network
from lab.papers.dacfl.batches import batch_rows
from lab.papers.dacfl.network import NetworkConfig
from lab.papers.dacfl.topology import TopologyConfig
from lab.train import Checkpoints
from tests.papers.dacfl import tiny

RATE = dacfl.LearningRate(0.1, 0.9, 3)
PROTOCOL = dacfl.Protocol(12, tiny.BATCH, learning_rate=RATE, log_every=3, chunk_periods=1)
WHOLE = dataclasses.replace(PROTOCOL, chunk_periods=0)
NAMES = ("dacfl", "dsgt")


@functools.cache
def simulation(protocol=WHOLE, names=NAMES, **options):
    return dacfl.Simulation(names, tiny.LOSS, protocol, evaluate=tiny.EVALUATE, **options)


def data(seed=0, change_every=3, **kwargs):
    config = NetworkConfig(TopologyConfig("density"), change_every=change_every)
    return tiny.data(dacfl.draw_network(config, tiny.NUM_USERS, seed, 12), **kwargs)


def drawn_rows(key, given, num_steps):
    """What each user draws in each round of a run with this key, from the same public function."""
    return batch_rows(
        jax.random.fold_in(key, 0xBA7C),
        jnp.arange(tiny.NUM_USERS),
        given.counts,
        jnp.int32(0),
        num_steps=num_steps,
        batch_size=tiny.BATCH,
        width=given.index.shape[1],
        num_epochs=4,
        has_small_users=False,
    )


@pytest.fixture(scope="module")
def whole():
    return simulation().run(tiny.params(), data(), jax.random.key(2))


def assert_same(ours, theirs, atol=0.0):
    for name in NAMES:
        for a, b in zip(
            jax.tree.leaves((ours.states[name].omega, ours.states[name].tracker)),
            jax.tree.leaves((theirs.states[name].omega, theirs.states[name].tracker)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=atol, rtol=0)
        for metric, values in ours.history[name].items():
            np.testing.assert_allclose(values, theirs.history[name][metric], atol=atol, rtol=1e-6)


def test_a_run_is_its_rounds_one_after_the_other(whole):
    """Rebuilt from public parts: batches, weights and learning rates of each round."""
    given, key = data(), jax.random.key(2)
    rows = drawn_rows(key, given, 12)
    state = dacfl.init_state("dacfl", tiny.params(), key, tiny.NUM_USERS)
    for t in range(12):
        chosen = np.take_along_axis(np.asarray(given.index), np.asarray(rows[t]), axis=1)
        batches = {name: x[chosen][:, None] for name, x in given.examples.items()}
        inputs = dacfl.RoundInputs(
            batches,
            jnp.asarray(network.repaired_matrices(given.network, 12)[t]),
            jnp.float32(0.1 * 0.9 ** (t // 3)),
        )
        state, metrics = tiny.compiled("dacfl")(state, inputs)
        assert float(metrics["loss"]) == pytest.approx(whole.history["dacfl"]["loss"][t], rel=1e-4)
    np.testing.assert_allclose(
        tiny.flat(state.tracker), tiny.flat(whole.states["dacfl"].tracker), atol=2e-6
    )


def test_metrics_have_rounds_or_evaluations_first(whole):
    history = whole.history["dacfl"]
    assert history["user_loss"].shape == (12, 6)
    assert history["loss"].shape == history["consensus_x"].shape == (12,)
    assert history["accuracy_x"].shape == (4, 6)
    assert history["accuracy_mean"].shape == (4,)
    assert history["loss"][-1] < history["loss"][0]


def test_chunks_give_the_same_run(whole):
    assert_same(simulation(PROTOCOL).run(tiny.params(), data(), jax.random.key(2)), whole, 1e-6)


def test_a_killed_run_goes_on_to_the_same_result(tmp_path, whole):
    class KilledError(Exception):
        pass

    def kill(rounds):
        if rounds == 6:
            raise KilledError

    checkpoints = Checkpoints(tmp_path)
    run = functools.partial(simulation(PROTOCOL).run, tiny.params(), data(), jax.random.key(2))
    with pytest.raises(KilledError):
        run(checkpoints=checkpoints, on_chunk=kill)
    assert checkpoints.latest() == 2
    told = []
    resumed = run(checkpoints=checkpoints, on_chunk=told.append)
    assert told == [9, 12]
    assert_same(resumed, whole, 1e-6)


def test_copies_are_runs_of_their_own(whole):
    keys = jnp.stack([jax.random.key(2), jax.random.key(7)])
    params = jax.tree.map(lambda a, b: jnp.stack([a, b]), tiny.params(), tiny.params(1))
    copies = dacfl.stack_copies([data(), data(5, lr_scale=0.5)])
    both = simulation(num_copies=2).run(params, copies, keys)
    first = jax.tree.map(lambda x: x[0], both)
    assert_same(first, whole, 2e-6)
    alone = simulation().run(tiny.params(1), data(5, lr_scale=0.5), jax.random.key(7))
    assert_same(jax.tree.map(lambda x: x[1], both), alone, 2e-6)


def test_a_second_run_of_the_same_shape_traces_nothing():
    traced = []

    def loss_fn(params, model_state, batch, key):
        traced.append(1)
        return tiny.LOSS(params, model_state, batch, key)

    sim = dacfl.Simulation("cdsgd", loss_fn, WHOLE)
    for seed in (0, 1):
        sim.run(tiny.params(seed), data(seed), jax.random.key(seed))
        if seed == 0:
            before = len(traced)
    assert len(traced) == before


def test_a_non_finite_user_is_named_and_the_last_good_state_kept(tmp_path):
    given, key = data(), jax.random.key(2)
    # Of user 4, an example of the batch of round 4, which gradient tracking meets a round before.
    met = int(given.index[4, drawn_rows(key, given, 12)[4, 4, 0]])
    examples = given.examples | {"inputs": given.examples["inputs"].at[met].set(jnp.nan)}
    run = functools.partial(
        simulation(PROTOCOL).run,
        tiny.params(),
        given.replace(examples=examples),
        key,
        checkpoints=Checkpoints(tmp_path),
    )
    with pytest.raises(NonFiniteError, match=r"dsgt: .* users \[4\] .* in round 3;") as caught:
        run()
    assert caught.value.step == 3
    kept = run(stop_at_nonfinite=False)
    assert {int(state.step) for state in kept.states.values()} == {3}
    for leaf in jax.tree.leaves(kept.states["dsgt"].omega):
        assert np.isfinite(leaf).all()


def test_a_copy_that_turns_non_finite_leaves_the_others_running(whole):
    params = jax.tree.map(lambda a: jnp.stack([a, a]), tiny.params())
    copies = dacfl.stack_copies([data(), data(lr_scale=1e30)])
    keys = jnp.stack([jax.random.key(2)] * 2)
    sim = simulation(num_copies=2)
    both = sim.run(params, copies, keys, stop_at_nonfinite=False)
    assert_same(jax.tree.map(lambda x: x[0], both), whole, 2e-6)
    assert not both.history["dacfl"]["finite"][1].all()
    for leaf in jax.tree.leaves(both.states["dacfl"].omega):
        assert np.isfinite(leaf).all()
    with pytest.raises(NonFiniteError, match=r"copies \[1\]"):
        sim.run(params, copies, keys)


def test_unequal_users_and_local_epochs():
    sizes = np.split(np.arange(120), [3, 13, 33, 63, 93])
    given = dacfl.federated_data(tiny.examples(), sizes, data().network, tiny.examples())
    protocol = dataclasses.replace(WHOLE, local_epochs=1, num_rounds=3)
    done = simulation(protocol, ("fedavg",)).run(tiny.params(), given, jax.random.key(0))
    assert np.isfinite(done.history["fedavg"]["user_loss"]).all()
    assert done.history["fedavg"]["loss"][-1] < done.history["fedavg"]["loss"][0]
    accuracy = done.history["fedavg"]["accuracy_omega"]
    np.testing.assert_array_equal(accuracy, np.repeat(accuracy[:, :1], 6, axis=1))


def test_failures_and_optimizers_go_together():
    failures = dacfl.FailureConfig(link_loss=0.2, outages=((1, 3, 6),))
    config = NetworkConfig(TopologyConfig("ring"), failures=failures)
    given = tiny.data(dacfl.draw_network(config, tiny.NUM_USERS, 0, 12))
    sim = simulation(WHOLE, ("dacfl",), tx=optax.sgd(1.0, momentum=0.5))
    done = sim.run(tiny.params(), given, jax.random.key(0))
    absent = np.isnan(done.history["dacfl"]["user_loss"])
    assert absent.sum() == 6
    assert absent[3:9, 1].all()
    assert done.history["dacfl"]["gap"].max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_rounds": 0}, "num_rounds must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"local_steps": 0}, "local_steps must be at least 1"),
        ({"num_rounds": 10}, "multiple of log_every = 3"),
        ({"chunk_periods": -1}, "chunk_periods must not be negative"),
    ],
)
def test_bad_protocols_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        dataclasses.replace(WHOLE, **changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0,), "positive and finite, got 0"),
        ((float("nan"),), "got nan"),
        ((0.1, 1.5), r"decay must be in \(0, 1\], got 1.5"),
        ((0.1, 0.5, 0), "decay_every must be at least 1, got 0"),
    ],
)
def test_bad_learning_rates_are_refused(values, message):
    with pytest.raises(InvalidInputError, match=message):
        dacfl.LearningRate(*values)


def test_bad_requests_are_refused():
    with pytest.raises(InvalidInputError, match="6 users, the partition 5"):
        dacfl.federated_data(tiny.examples(), tiny.parts()[:5], data().network)
    with pytest.raises(InvalidInputError, match="different lengths"):
        dacfl.federated_data({"a": np.zeros(3), "b": np.zeros(4)}, [[0]], data().network)
    with pytest.raises(InvalidInputError, match="did you mean 'dacfl'"):
        dacfl.Simulation("dafcl", tiny.LOSS, WHOLE)
    with pytest.raises(InvalidInputError, match="occur twice"):
        dacfl.Simulation(("dacfl", "dacfl"), tiny.LOSS, WHOLE)
    with pytest.raises(InvalidInputError, match="at least one algorithm"):
        dacfl.Simulation((), tiny.LOSS, WHOLE)
    twice = simulation(dataclasses.replace(WHOLE, local_steps=2), ("dsgt",))
    with pytest.raises(InvalidInputError, match="one local step"):
        twice.run(tiny.params(), data(), jax.random.key(0))
