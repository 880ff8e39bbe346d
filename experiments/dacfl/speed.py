"""Rounds of DACFL at 10 to 1,000 users: `python -m experiments speed dacfl`."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import SpeedCase
from lab.papers import dacfl

# Users and rounds; batch 20, MLP 784-64-10, as in the paper's Scale comparison.
SIZES = ((10, 200), (50, 50), (100, 30), (1000, 5))
BATCH, PER_USER = 20, 60


def cases() -> Iterator[SpeedCase]:
    """One case a number of users; CDSGD beside DACFL at 10."""
    for num_users, num_rounds in SIZES:
        yield _case("dacfl", num_users, num_rounds)
    yield _case("cdsgd", *SIZES[0])


def _case(name: str, num_users: int, num_rounds: int) -> SpeedCase:
    data, params = _problem(num_users, num_rounds)
    module = dacfl.build("mlp")
    loss_fn = dacfl.classification_loss(module.apply)
    protocol = dacfl.Protocol(
        num_rounds, BATCH, learning_rate=dacfl.LearningRate(), log_every=num_rounds, diagnose=False
    )
    simulation = dacfl.Simulation(name, loss_fn, protocol, devices=jax.local_devices()[:1])

    def together():
        return simulation.run(params, data, jax.random.key(0)).states

    is_sparse = isinstance(data.network.weights, dacfl.network.NeighbourTable)
    graph = "neighbour table" if is_sparse else "dense product"
    return SpeedCase(
        f"{name}, {num_users} users, MLP 784-64-10, batch {BATCH}",
        together,
        python_loop=_python_loop(name, loss_fn, data, params, num_rounds),
        num_steps=num_rounds,
        num_copies=num_users,
        note=f"a copy is a user: rounds/s = steps/s / {num_users}; mixing by {graph}",
    )


def _problem(num_users: int, num_rounds: int):
    """Generated images, 60 a user; a sparse graph of about ten neighbours where N is large."""
    generator = np.random.Generator(np.random.PCG64(0))
    total = PER_USER * min(num_users, 100)
    examples = {
        "inputs": generator.normal(size=(total, 784)).astype(np.float32),
        "labels": generator.integers(0, 10, total).astype(np.int32),
    }
    # More than 100 users share pictures in pairs, so that the pictures fit everywhere.
    parts = np.resize(generator.permutation(total), (num_users, PER_USER))
    degree = 6 if num_users <= 10 else 10
    topology = dacfl.TopologyConfig("watts_strogatz", degree=degree)
    network = dacfl.draw_network(dacfl.NetworkConfig(topology), num_users, 0, num_rounds)
    module = dacfl.build("mlp")
    params = module.init(jax.random.key(0), jnp.zeros((1, 784)))["params"]
    return dacfl.federated_data(examples, parts, network), params


def _python_loop(name, loss_fn, data, params, num_rounds) -> Callable:
    """As one would write it first: for every user a jitted gradient and a weighted sum."""
    index, counts = np.asarray(data.index), np.asarray(data.counts)
    matrix = np.asarray(dacfl.repaired_matrices(data.network, 1)[0])
    neighbours = [np.flatnonzero(row) for row in matrix]
    rate = dacfl.LearningRate().lr0

    @jax.jit
    def train(omega, batch):
        grads = jax.grad(lambda p: loss_fn(p, {}, batch, None)[0])(omega)
        return jax.tree.map(lambda p, g: p - rate * g, omega, grads)

    @jax.jit
    def combine(models, weights):
        return jax.tree.map(
            lambda *leaves: sum(w * x for w, x in zip(weights, leaves, strict=True)), *models
        )

    @jax.jit
    def follow(x, new, old):
        return jax.tree.map(lambda a, b, c: a + b - c, x, new, old)

    def run():
        generator = np.random.Generator(np.random.PCG64(1))
        omega, x = [params] * len(matrix), [params] * len(matrix)

        def mixed(models):
            return [
                combine([models[j] for j in near], list(matrix[i, near]))
                for i, near in enumerate(neighbours)
            ]

        for _ in range(num_rounds):
            started = mixed(omega)
            tracked = mixed(x) if name == "dacfl" else x
            trained = []
            for i, model in enumerate(started):
                rows = index[i, generator.permutation(counts[i])[:BATCH]]
                batch = {key: values[rows] for key, values in data.examples.items()}
                trained.append(train(model, batch))
            if name == "dacfl":
                x = [follow(*three) for three in zip(tracked, trained, omega, strict=True)]
            omega = trained
        return jax.block_until_ready((omega, x))

    return run
