"""What can be proved of dynamic consensus: bounds, noise, offsets (C5, C7, C8)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers import dacfl
from lab.papers.dacfl import consensus
from lab.papers.dacfl.network import NetworkConfig
from lab.papers.dacfl.topology import TopologyConfig

T, N, D = 40, 6, 2


def weights(change_every=0, name="ring"):
    config = NetworkConfig(TopologyConfig(name, psi=0.5), change_every=change_every)
    return np.stack([dacfl.matrix_at(config, N, 0, t) for t in range(T)])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), change_every=st.sampled_from([0, 1, 7]), scale=st.floats(0, 2))
def test_the_tracking_error_never_exceeds_its_bound(seed, change_every, scale):
    generator = np.random.default_rng(seed)
    steps = scale * generator.normal(size=(T + 1, N, D))
    signals = (generator.normal(size=(1, N, D)) + np.cumsum(steps, axis=0)).astype(np.float32)
    matrices = weights(change_every, "density")
    error = np.asarray(dacfl.tracking_error(dacfl.fodac(signals, matrices), signals))
    sigmas = dacfl.sigma_of(matrices)
    increments = np.asarray(consensus.increments_of(signals))
    bound = dacfl.tracking_bound(increments, sigmas, float(error[0]))
    assert (error <= bound * (1 + 1e-5) + 1e-5 * np.abs(signals).max()).all()
    # The closed form for bounded increments.
    limit = error[0] + increments.max() / (1 - sigmas.max())
    assert (error <= limit * (1 + 1e-5) + 1e-4).all()


def test_estimates_keep_the_mean_of_the_signals():
    signals = np.random.default_rng(0).normal(size=(T + 1, N, D)).astype(np.float32)
    x = dacfl.fodac(signals, weights())
    np.testing.assert_allclose(np.mean(x, axis=1), signals.mean(axis=1), atol=2e-5)


def test_on_constant_signals_it_is_static_consensus():
    signals = np.broadcast_to(np.random.default_rng(1).normal(size=(1, N, D)), (T + 1, N, D))
    signals = signals.astype(np.float32)
    np.testing.assert_allclose(
        dacfl.fodac(signals, weights()), dacfl.static_consensus(signals, weights()), atol=1e-5
    )


def test_on_moving_signals_it_beats_neighbourhood_averages_and_static_consensus():
    t = np.arange(T + 1)[:, None, None]
    phase = np.random.default_rng(2).uniform(0, 6, (1, N, D))
    signals = (phase + np.sin(0.05 * t + phase)).astype(np.float32)
    late = slice(T // 2, None)
    ours, plain, static = (
        float(dacfl.tracking_error(f(signals, weights()), signals)[late].mean())
        for f in (dacfl.fodac, dacfl.neighbour_average, dacfl.static_consensus)
    )
    assert ours < plain
    assert ours < static


@pytest.mark.parametrize("mu", [0.0, 0.3, np.sqrt(2) - 1, 0.6, 0.9])
def test_simulated_noise_has_the_gains_of_the_theory(mu):
    noise = jax.random.normal(jax.random.key(1), (300, 4000))
    omega, x = dacfl.mode_response(mu, noise)
    gain = dacfl.noise_gain(mu)
    assert float(jnp.var(omega[-100:])) == pytest.approx(gain["var_omega"], rel=0.03)
    assert float(jnp.var(x[-100:])) == pytest.approx(gain["var_x"], rel=0.03)
    assert gain["ratio"] == pytest.approx(gain["var_x"] / gain["var_omega"])


def test_a_constant_disagreement_stays_in_omega_and_leaves_x():
    omega, x = dacfl.mode_response(0.8, jnp.ones(300), learning_rate=0.1)
    assert float(omega[-1]) == pytest.approx(-0.1 / (1 - 0.8), rel=1e-4)
    assert abs(float(x[-1])) < 1e-6


def test_bad_shapes_and_eigenvalues_are_refused():
    with pytest.raises(InvalidInputError, match="signals must be"):
        dacfl.fodac(np.zeros((4, 3, 2)), np.zeros((4, 3, 3)))
    with pytest.raises(InvalidInputError, match=r"must be \[T\] both"):
        dacfl.tracking_bound(np.zeros(3), np.zeros(2))
    with pytest.raises(InvalidInputError, match=r"mu must be in \(-1, 1\)"):
        dacfl.noise_gain(1.0)
