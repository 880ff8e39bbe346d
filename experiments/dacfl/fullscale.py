"""The `paper` preset on a machine without accelerators: shapes, sizes and one reduced step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.dacfl import SUMMARY, TITLE, Config
from experiments.dacfl.cells import evaluation_of, initial_params, model_of, protocol_of
from lab.errors import require
from lab.papers import dacfl
from lab.report import Claim, Result, Table

SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
PARAMETERS = {
    ("fedavg_cnn", (28, 28, 1)): 1_663_370,
    ("cifar_cnn", (32, 32, 3)): 1_756_426,
    ("cifar_cnn", (24, 24, 3)): 1_068_298,
}


def shapes_result(config: Config, run: Any) -> Result:
    """What can be known of the full size without running it."""
    wanted = [(config.model, SHAPES[name]) for name in config.datasets]
    if config.cifar.num_train:
        wanted += [(config.cifar.model, SHAPES["cifar10"]), (config.cifar.model, (24, 24, 3))]
    rows = []
    with run.progress("shapes at full size", len(dict.fromkeys(wanted)) + 1) as task:
        for model, shape in dict.fromkeys(wanted):
            rows.append(_sizes(config, model, shape))
            task.advance(1)
        loss = reduced_step(config)
        task.advance(1)
    columns = [
        "model",
        "input",
        "parameters",
        "state of all users, MB",
        "a round's operations, GFLOP",
    ]
    note = f"One step at reduced width ran: mean loss {loss:.3f}."
    statements = {
        "C1": "DACFL beats CDSGD and D-PSGD in Average and Var of Acc in most cases",
        "C2": "CDSGD's users end with significantly divergent models",
        "C3": "DACFL's users hold a near-average model",
        "C4": "convergence is faster with a larger rate and slower with more users",
    }
    return Result(
        TITLE,
        SUMMARY,
        claims=[Claim(name, text, "not available", None) for name, text in statements.items()],
        tables=[Table("At full size", columns, rows, note)],
        notes=["Without an accelerator the full size is checked, not run."],
    )


def _sizes(config: Config, model: str, shape: tuple[int, ...]) -> list:
    """A row of the table; the whole simulation is traced at its full size."""
    counts = _traced_parameters(config, model, shape)
    expected = PARAMETERS.get((model, shape))
    require(
        expected in (None, counts),
        f"{model} on {shape} has {counts:,} parameters, expected {expected:,}",
    )
    users, batch = config.num_users, config.batch_size
    # DACFL: omega and x; cdsgd: omega; dsgt: omega, y, gradient; fedavg: omega.
    state_bytes = 4 * users * counts * 7
    mixing = 2 * 2 * users**2 * counts
    gradients = 3 * 2 * _multiply_adds(model, shape) * batch * users
    text = " x ".join(map(str, shape))
    return [model, text, counts, round(state_bytes / 1e6, 1), round((mixing + gradients) / 1e9, 1)]


def _traced_parameters(config: Config, model: str, shape: tuple[int, ...]) -> int:
    """Traces a round of DACFL at full size without computing it; returns a model's parameters."""
    module, users = model_of(model), config.num_users
    params = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, *shape)))["params"], jax.random.key(0)
    )
    round_fn = dacfl.make_round("dacfl", dacfl.classification_loss(module.apply))
    state = jax.eval_shape(lambda p: dacfl.init_state("dacfl", p, jax.random.key(0), users), params)
    batch = (users, config.local_steps, config.batch_size)
    inputs = dacfl.RoundInputs(
        batches={
            "inputs": jax.ShapeDtypeStruct((*batch, *shape), jnp.float32),
            "labels": jax.ShapeDtypeStruct(batch, jnp.int32),
        },
        weights=jax.ShapeDtypeStruct((users, users), jnp.float32),
        learning_rate=jax.ShapeDtypeStruct((), jnp.float32),
    )
    after, _ = jax.eval_shape(round_fn, state, inputs)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after)
    require(all(jax.tree.leaves(same)), f"a round of {model} changes the form of its state")
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def _multiply_adds(model: str, shape: tuple[int, ...]) -> int:
    """Multiply-adds of one example's forward pass: kernel sizes times output places."""
    module = model_of(model)
    variables, captured = jax.eval_shape(
        lambda key: (
            module.init(key, jnp.zeros((1, *shape))),
            module.init_with_output(
                key, jnp.zeros((1, *shape)), capture_intermediates=True, mutable=True
            )[1]["intermediates"],
        ),
        jax.random.key(0),
    )
    total = 0
    for name, layer in variables["params"].items():
        places = int(np.prod(captured[name]["__call__"][0].shape[1:-1]))
        total += int(np.prod(layer["kernel"].shape)) * places
    return total


def reduced_step(config: Config) -> float:
    """One round of every algorithm with a narrow network and generated images; the mean loss."""
    model = dataclasses.replace(dacfl.MODELS["fedavg_cnn"], features=(2, 3), hidden=(4,))
    users = 4
    keys = jax.random.key(0)[None]
    params = jax.tree.map(lambda x: x[0], initial_params(model, keys, (28, 28, 1)))
    generator = np.random.Generator(np.random.PCG64(0))
    examples = {
        "inputs": generator.normal(size=(80, 28, 28, 1)).astype(np.float32),
        "labels": generator.integers(0, 10, 80).astype(np.int32),
    }
    parts = np.split(np.arange(80), users)
    network = dacfl.draw_network(dacfl.NetworkConfig(), users, 0, 1)
    data = dacfl.federated_data(examples, parts, network, examples)
    protocol = protocol_of(config, num_rounds=1, log_every=1, batch_size=8, chunk_periods=0)
    simulated = dacfl.simulate(
        config.algorithms,
        dacfl.classification_loss(model_of(model).apply),
        params,
        data,
        protocol,
        jax.random.key(1),
        evaluate=evaluation_of(model),
        user_map="map",
    )
    return float(np.mean([metrics["loss"] for metrics in simulated.history.values()]))
