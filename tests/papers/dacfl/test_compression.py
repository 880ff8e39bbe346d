"""Compressed messages keep the mean, still reach consensus, and are as small as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.dacfl import gossip
from lab.papers.dacfl.compression import CompressionConfig, compress, message_numbers, quantise
from lab.papers.dacfl.users import UserAxis
from tests.papers.dacfl import tiny

USERS = UserAxis(6)


def gossip_rounds(config, num_rounds):
    """Mixing alone, from random models; the largest deviation from the mean, and the drift."""
    start = {
        "a": jax.random.normal(jax.random.key(0), (6, 20)),
        "b": jnp.arange(12.0).reshape(6, 2),
    }
    weights = jnp.asarray(tiny.matrix("exponential"))

    @jax.jit
    def step(carry, key):
        tree, public = carry
        keys = jax.random.split(key, 6)
        mix = lambda w, t: gossip.mix_dense(w, t, USERS)  # noqa: E731
        return gossip.mix_compressed(mix, weights, tree, public, config, keys), None

    zeros = jax.tree.map(jnp.zeros_like, start)
    keys = jax.random.split(jax.random.key(1), num_rounds)
    (end, _), _ = jax.lax.scan(step, (start, zeros), keys)
    begin, after = tiny.flat(start), tiny.flat(end)
    drift = np.abs(after.mean(axis=0) - begin.mean(axis=0)).max()
    return np.abs(after - after.mean(axis=0)).max(), drift


@pytest.mark.parametrize(
    "config",
    [
        CompressionConfig("top_k", fraction=0.2, step_size=0.3),
        CompressionConfig("random_k", fraction=0.3, step_size=0.2),
        CompressionConfig("quantise", bits=6),
    ],
)
def test_compressed_gossip_reaches_consensus_and_keeps_the_mean(config):
    deviation, drift = gossip_rounds(config, 150)
    assert deviation < 0.02
    assert drift < 1e-4


def test_messages_that_lose_nothing_mix_exactly():
    plain = tiny.run("dacfl", 3)[-1]
    config = CompressionConfig("top_k", fraction=1.0)
    start = tiny.begin("dacfl", compression=config)
    ours = tiny.run("dacfl", 3, start, options=(("compression", config),))[-1]
    np.testing.assert_allclose(tiny.flat(ours.tracker), tiny.flat(plain.tracker), atol=1e-5)


def test_the_largest_entries_are_sent():
    keys = jax.random.split(jax.random.key(0), 1)
    values = jnp.asarray([[0.1, -5.0, 2.0, 0.0, 3.0]])
    sent = compress(values, CompressionConfig("top_k", fraction=0.4), keys)
    assert sent.tolist() == [[0.0, -5.0, 0.0, 0.0, 3.0]]
    random = compress(values, CompressionConfig("random_k", fraction=0.4), keys)
    assert int((random != 0).sum()) <= 2


def test_quantised_numbers_are_unbiased_and_few():
    values = jnp.linspace(-1, 1, 11)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: quantise(values, 3, key))(keys)
    assert len(np.unique(np.round(drawn, 5))) <= 7
    np.testing.assert_allclose(drawn.mean(axis=0), values, atol=0.02)
    assert quantise(jnp.zeros(4), 8, keys[0]).tolist() == [0.0] * 4


def test_message_sizes():
    params = {"w": np.zeros((10, 10)), "b": np.zeros(10)}
    assert message_numbers(params) == 110
    assert message_numbers(params, CompressionConfig("top_k", fraction=0.1)) == 2 * (10 + 1)
    assert message_numbers(params, CompressionConfig("quantise", bits=8)) == 110 / 4 + 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "topk"}, "did you mean 'top_k'"),
        ({"fraction": 0.0}, "got 0"),
        ({"bits": 1}, "2 to 16, got 1"),
        ({"step_size": 2.0}, "got 2"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        CompressionConfig(**changes)


def test_compression_is_for_gossip_only():
    config = CompressionConfig("quantise")
    assert tiny.begin("fedavg", compression=config).public is None
    assert set(tiny.begin("dacfl", compression=config).public) == {"omega", "tracker"}
