"""What training the shards together gains: `python -m experiments speed graph_unlearning`."""

import functools

import jax
import numpy as np

import lab.data
from experiments.graph_unlearning import Config
from experiments.graph_unlearning.study import load_problem, partitions_of, training_of
from experiments.speed import SpeedCase
from lab.errors import DatasetNotFoundError
from lab.papers import graph_unlearning as gu
from lab.papers.graph_unlearning.minibatches import all_neighbours_batch, shard_inputs
from lab.papers.graph_unlearning.training import init_shard

MODELS = ("gcn", "gin", "sage", "gat")


def cases():
    """20 shards of Cora (of a generated graph where Cora is missing), 100 epochs each."""
    try:
        lab.data.locate("cora")
        name = "cora"
    except DatasetNotFoundError:
        name = "generated_citations"
    return [_case(name, model) for model in MODELS]


def _case(name: str, model: str) -> SpeedCase:
    config = Config(datasets=(name,))
    problem = load_problem(name, config)
    training = training_of(config, model, problem)
    graph = partitions_of(problem, "blpa", config, 1).graphs[0]
    shards = range(graph.num_shards)
    stack = gu.stack_shards(graph.edge_index, graph.labels, graph.test_ids, shards).train
    columns = gu.used_columns(problem.features, stack)
    train = functools.partial(
        gu.train_shards,
        training,
        problem.features,
        problem.dataset.labels,
        num_columns=columns,
    )
    keys = gu.shard_keys(0, shards)

    def together():
        return jax.block_until_ready(train(stack, keys))

    def one_at_a_time():
        return [
            jax.block_until_ready(train(stack.select(np.array([k])), keys[k : k + 1]))
            for k in shards
        ]

    return SpeedCase(
        f"{name}, {model}, {graph.num_shards} shards",
        together,
        one_at_a_time,
        _python_loop(training, problem, stack, keys),
        num_steps=training.num_epochs,
        num_copies=graph.num_shards,
        note="whole neighbourhoods, 100 epochs",
    )


def _python_loop(training, problem, stack, keys):
    """As one would write it first: a jitted step, called for every epoch of every shard."""
    labels, features = problem.dataset.labels, jax.numpy.asarray(problem.features)
    take_step = gu.make_node_step(training.model, training.optimizer)

    @jax.jit
    def prepare(graph, key):
        inputs = shard_inputs(training.model, features, labels, graph)
        return init_shard(training, key, features.shape[1]), inputs

    @jax.jit
    def step(state, inputs):
        batch = all_neighbours_batch(
            training.model, inputs, training.batch_size, state.key, state.step
        )
        return take_step(state, batch)

    def run():
        states = []
        for shard in range(len(keys)):
            state, inputs = prepare(stack.select(shard), keys[shard])
            for _ in range(training.num_epochs):
                state, metrics = step(state, inputs)
            states.append(state)
        return jax.block_until_ready((states, metrics))

    return run
