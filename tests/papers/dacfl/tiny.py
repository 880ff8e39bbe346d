"""A small classification problem that the tests share, so that it compiles once a shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lab.nn.convnets import MLPConfig
from lab.papers import dacfl
from lab.papers.dacfl import rounds

NUM_USERS, NUM_FEATURES, NUM_CLASSES, BATCH = 6, 5, 3, 4
MODULE = dacfl.build(MLPConfig(hidden=(4,), num_classes=NUM_CLASSES))
LOSS = dacfl.classification_loss(MODULE.apply)
EVALUATE = dacfl.accuracy_evaluation(MODULE.apply)


def params(seed=0):
    return MODULE.init(jax.random.key(seed), jnp.zeros((1, NUM_FEATURES)))["params"]


def different_params(num_users=NUM_USERS):
    keys = jax.random.split(jax.random.key(9), num_users)
    return jax.vmap(lambda key: MODULE.init(key, jnp.zeros((1, NUM_FEATURES)))["params"])(keys)


@functools.cache
def examples(n=120):
    """Gaussian classes, sorted so that equal slices are far from iid."""
    generator = np.random.default_rng(1)
    labels = np.sort(np.arange(n) % NUM_CLASSES).astype(np.int32)
    centres = generator.normal(size=(NUM_CLASSES, NUM_FEATURES)) * 2
    inputs = centres[labels] + generator.normal(size=(n, NUM_FEATURES))
    return {"inputs": inputs.astype(np.float32), "labels": labels}


def parts(n=120, num_users=NUM_USERS):
    return np.split(np.arange(n), num_users)


def matrix(name="ring", num_users=NUM_USERS):
    config = dacfl.NetworkConfig(dacfl.TopologyConfig(name))
    return dacfl.matrix_at(config, num_users, 0, 0)


def data(network=None, num_rounds=12, **kwargs):
    network = network or dacfl.network_of(matrix(), num_rounds=num_rounds)
    return dacfl.federated_data(examples(), parts(), network, examples(), **kwargs)


def batches(seed, steps=1, num_users=NUM_USERS):
    generator = np.random.default_rng(seed)
    rows = np.stack([generator.choice(p, (steps, BATCH)) for p in parts(num_users=num_users)])
    return {name: x[rows] for name, x in examples().items()}


def inputs(t, steps=1, **changes):
    given = {
        "batches": batches(t, steps),
        "weights": jnp.asarray(matrix()),
        "learning_rate": jnp.float32(0.1),
    }
    return dacfl.RoundInputs(**given | changes)


@functools.cache
def compiled(algorithm, **options):
    return jax.jit(dacfl.make_round(algorithm, LOSS, **options))


def begin(algorithm, first_batches=None, **options):
    given = {"params": params(), "per_user": False} | options
    state = rounds.init_state(algorithm, given.pop("params"), jax.random.key(0), NUM_USERS, **given)
    if first_batches is not None:
        state, _ = _start(state, first_batches)
    return state


@jax.jit
def _start(state, first_batches):
    return rounds.start_tracking(state, LOSS, first_batches)


def run(algorithm, num_rounds, state=None, steps=1, offset=0, options=(), **changes):
    """Rounds with given inputs; returns the states after each."""
    round_fn = compiled(algorithm, **dict(options))
    states = [state if state is not None else begin(algorithm)]
    for t in range(num_rounds):
        new, _ = round_fn(states[-1], inputs(t + offset, steps, **changes))
        states.append(new)
    return states


def flat(tree):
    """All leaves of a pytree [N, ...] as one float64 matrix [N, d]."""
    leaves = [np.asarray(x, np.float64).reshape(len(x), -1) for x in jax.tree.leaves(tree)]
    return np.concatenate(leaves, axis=1)
