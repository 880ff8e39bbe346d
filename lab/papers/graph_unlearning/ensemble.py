"""The whole method: partition, train a model a shard, aggregate, unlearn by retraining.

    ensemble = fit(dataset, EnsembleConfig(model="gcn", num_shards=20, method="blpa"))
    ensemble, receipt = unlearn(ensemble, nodes=[12, 80])
    classes = predict(ensemble)

An ensemble is a value: `unlearn` returns a new one, and a refused request changes nothing.
"""

import dataclasses
import functools
import time
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lab.data.graphs import NodeDataset
from lab.errors import require
from lab.papers.graph_unlearning import aggregation
from lab.papers.graph_unlearning.aggregation import LBAggrConfig
from lab.papers.graph_unlearning.config import EnsembleConfig, prepare_features, prepare_graph
from lab.papers.graph_unlearning.data import TrainingGraph, training_graph
from lab.papers.graph_unlearning.embeddings import node_embeddings
from lab.papers.graph_unlearning.partition import (
    EMBEDDING_METHODS,
    labels_by_node,
    partition,
)
from lab.papers.graph_unlearning.requests import (
    Effect,
    Kind,
    Request,
    ShardedGraph,
    apply,
    repartitioned,
    sharded_graph,
    without_features,
)
from lab.papers.graph_unlearning.shards import (
    GraphStack,
    PaddedShape,
    induced_graph,
    stack_graphs,
    stack_shards,
)
from lab.papers.graph_unlearning.training import (
    TrainingConfig,
    posteriors,
    shard_keys,
    shard_logits,
    train_shards,
    used_columns,
    variables_of,
)
from lab.train.whole import require_finite


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """A trained, unlearnable ensemble.

    Attributes:
      config: what it was made by.
      features: float32 [N, F], prepared; rows of deleted nodes are zero.
      labels: int32 [N].
      num_classes: C.
      graph: the sharded graph as it is now.
      variables: flax variables of the shard models, leading axis [S]; rows of emptied shards stay
        as zeros and are never read.
      train_shape, inference_shape: what shards are padded to, from the first fit on.
      num_columns: see `training.used_columns`.
      weights: float32 [S], of the learned aggregator; zeros where it is not used.
      seconds: of the phases of `fit`: partition, train, aggregate.
    """

    config: EnsembleConfig
    features: np.ndarray
    labels: np.ndarray
    num_classes: int
    graph: ShardedGraph
    variables: Any
    train_shape: PaddedShape
    inference_shape: PaddedShape
    num_columns: int | None
    weights: np.ndarray
    seconds: dict[str, float]

    @property
    def training(self) -> TrainingConfig:
        """How each shard's model is trained."""
        return self.config.training(self.num_classes)

    def living_shards(self) -> np.ndarray:
        """Shards that still have train nodes: int64 [k], ascending."""
        return np.flatnonzero(self.graph.shard_sizes())


@dataclasses.dataclass(frozen=True, eq=False)
class Receipt:
    """What one request did.

    Attributes:
      request, effect: see `requests`.
      train_seconds: of retraining, compilation included where the shape is new.
      seconds: of everything, aggregation included.
    """

    request: Request
    effect: Effect
    train_seconds: float
    seconds: float


def fit(dataset: NodeDataset, config: EnsembleConfig | None = None) -> Ensemble:
    """Partitions the training graph and trains a model on every shard, in one compiled call.

    Raises: InvalidInputError, NonFiniteError (the first bad step and shards).
    """
    config = config or EnsembleConfig()
    edges, train_ids, test_ids = prepare_graph(dataset, config)
    features = prepare_features(dataset, config.features)
    start = time.perf_counter()
    by_node, num_shards = _partition(dataset, config, features, edges, train_ids)
    if config.official_index_bug:
        # The released shards hold test nodes; as there, these are trained on all the same.
        train_ids = np.flatnonzero(by_node >= 0).astype(np.int32)
        test_ids = np.setdiff1d(test_ids, train_ids)
    graph = sharded_graph(edges, by_node, train_ids, test_ids, num_shards)
    partition_seconds = time.perf_counter() - start
    batch = stack_shards(*_parts(graph), range(num_shards))
    ensemble = Ensemble(
        config=config,
        features=features,
        labels=dataset.labels,
        num_classes=dataset.num_classes,
        graph=graph,
        variables=None,
        train_shape=batch.train.shape,
        inference_shape=batch.inference.shape,
        num_columns=used_columns(features, batch.train),
        weights=np.zeros(num_shards, np.float32),
        seconds={"partition": partition_seconds},
    )
    ensemble, train_seconds = _train(ensemble, range(num_shards), batch.train)
    start = time.perf_counter()
    ensemble = _fit_weights(ensemble)
    seconds = ensemble.seconds | {
        "train": train_seconds,
        "aggregate": time.perf_counter() - start,
    }
    return dataclasses.replace(ensemble, seconds=seconds)


def unlearn(
    ensemble: Ensemble,
    *,
    nodes: Sequence[int] | None = None,
    edges: Sequence[tuple[int, int]] | np.ndarray | None = None,
    features: Sequence[int] | None = None,
    repartition: bool = False,
) -> tuple[Ensemble, Receipt]:
    """Deletes nodes, edges or the features of nodes, and retrains the shards that held them.

    The retrained shards start again from their own keys, so each is, bit for bit, what it would be
    had it never seen what was deleted; the others keep their arrays. The learned aggregator is
    fitted anew, on nodes that are left.

    Args:
      nodes: train node ids. edges: pairs (u, v), [k, 2] or int [2, k] array. features: train node
        ids. Exactly one of the three.
      repartition: partition again without the deleted nodes and retrain every shard, which removes
        the trace that they left in the partition.
    Raises: InvalidInputError listing what cannot be deleted; nothing has changed then.
    """
    return unlearn_request(ensemble, as_request(nodes, edges, features), repartition=repartition)


def as_request(nodes: Any = None, edges: Any = None, features: Any = None) -> Request:
    """The one request that the arguments of `unlearn` name."""
    kinds: dict[Kind, Any] = {"nodes": nodes, "edges": edges, "features": features}
    given: dict[Kind, Any] = {kind: items for kind, items in kinds.items() if items is not None}
    require(
        len(given) == 1,
        f"a request is one of nodes, edges, features; got {', '.join(given) or 'none'}",
    )
    ((kind, values),) = given.items()
    items = np.asarray(values)
    if (kind == "edges" and items.ndim == 2 and items.shape[0] != 2 and items.shape[1] == 2) or (
        kind == "edges" and isinstance(edges, list | tuple) and items.shape == (2, 2)
    ):
        items = items.T
    return Request(kind, items)


def unlearn_request(
    ensemble: Ensemble, request: Request, *, repartition: bool = False
) -> tuple[Ensemble, Receipt]:
    """`unlearn` for a request that is already a value."""
    start = time.perf_counter()
    graph, effect = apply(ensemble.graph, request)
    ensemble = dataclasses.replace(
        ensemble, graph=graph, features=without_features(ensemble.features, graph)
    )
    if repartition:
        ensemble, effect = _partition_again(ensemble, effect)
    for shard in effect.emptied_shards:
        warnings.warn(f"shard {shard} has no train node left and is dropped", stacklevel=3)
    ensemble, train_seconds = _train(ensemble, effect.retrained_shards)
    if len(effect.affected_shards):
        ensemble = _fit_weights(ensemble)
    return ensemble, Receipt(request, effect, train_seconds, time.perf_counter() - start)


def test_posteriors(ensemble: Ensemble) -> np.ndarray:
    """Log-probabilities of the test nodes by every living shard's model.

    Returns: float32 [k, t, C], test nodes in ascending id.
    """
    graph = ensemble.graph
    shards = ensemble.living_shards()
    require(len(shards) > 0, "every shard is empty: all train nodes were deleted")
    batch = stack_shards(
        *_parts(graph),
        shards,
        use_test_neighbours=ensemble.config.use_test_neighbours,
        train_shape=ensemble.train_shape,
        inference_shape=ensemble.inference_shape,
    )
    return _posteriors(ensemble, shards, batch.inference)


def predict(ensemble: Ensemble) -> np.ndarray:
    """The classes of the test nodes, in ascending id: int32 [t].

    The ids are `np.sort(ensemble.graph.test_ids)`.
    """
    return np.asarray(aggregation.predict(aggregate(ensemble, test_posteriors(ensemble))))


def aggregate(ensemble: Ensemble, log_probs: np.ndarray) -> np.ndarray:
    """Scores of the ensemble's own aggregator: [k, t, C] of the living shards -> [t, C]."""
    aggregation.check_log_probs(log_probs)
    name = ensemble.config.aggregator
    if name == "lbaggr":
        weights = ensemble.weights[ensemble.living_shards()]
        return np.asarray(aggregation.weighted_log_probs(log_probs, weights))
    functions = {
        "mean": aggregation.mean_log_probs,
        "mean_probs": aggregation.mean_probs,
        "majority": aggregation.votes,
    }
    return np.asarray(functions[name](jax.numpy.asarray(log_probs)))


def _partition(dataset, config, features, edges, train_ids) -> tuple[np.ndarray, int]:
    """The shard of every node int32 [N] (-1 outside training), and the number of shards."""
    graph = training_graph(edges, train_ids, dataset.num_nodes)
    labels = cut(config, graph, features, dataset.labels, dataset.num_classes)
    by_node = labels_by_node(graph, labels, official_index_bug=config.official_index_bug)
    return by_node, int(labels.max()) + 1


def cut(
    config: EnsembleConfig,
    graph: TrainingGraph,
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """The partition that a config asks for, embeddings trained where it needs them: int32 [n]."""
    embeddings = None
    if config.method in EMBEDDING_METHODS:
        embeddings = node_embeddings(
            config.embedding, features, labels, graph, num_classes, config.seed
        )
    rng = np.random.RandomState(config.seed)
    return partition(
        graph,
        config.method,
        config.num_shards,
        rng,
        embeddings=embeddings,
        options=config.partition,
    )


def _partition_again(ensemble: Ensemble, effect: Effect) -> tuple[Ensemble, Effect]:
    graph = ensemble.graph
    labels = cut(
        ensemble.config,
        graph.training_graph(),
        ensemble.features,
        ensemble.labels,
        ensemble.num_classes,
    )
    ensemble = dataclasses.replace(ensemble, graph=repartitioned(graph, labels))
    # A new partition may make a shard of more edges or features than any was before.
    batch = stack_shards(*_parts(ensemble.graph), range(graph.num_shards))
    ensemble = dataclasses.replace(
        ensemble,
        train_shape=_larger(ensemble.train_shape, batch.train.shape),
        inference_shape=_larger(ensemble.inference_shape, batch.inference.shape),
        num_columns=used_columns(ensemble.features, batch.train),
    )
    everything = np.arange(graph.num_shards)
    none = np.zeros(0, np.int64)
    effect = dataclasses.replace(effect, retrained_shards=everything, emptied_shards=none)
    return ensemble, effect


def _larger(one: PaddedShape, other: PaddedShape) -> PaddedShape:
    return PaddedShape(*map(max, one, other))


def _parts(graph: ShardedGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return graph.edge_index, graph.labels, graph.test_ids


def _train(
    ensemble: Ensemble, shards: Sequence[int] | np.ndarray, stack: GraphStack | None = None
) -> tuple[Ensemble, float]:
    """Trains some shards from their keys; returns the ensemble and the seconds that it took."""
    if len(shards) == 0:
        return ensemble, 0.0
    is_first = ensemble.variables is None
    # The number of copies is rounded up so that requests of any size share few compilations.
    copies = len(shards) if is_first else 1 << (len(shards) - 1).bit_length()
    padded = [*shards, *[shards[-1]] * (copies - len(shards))]
    if stack is None:
        stack = stack_shards(
            *_parts(ensemble.graph),
            padded,
            train_shape=ensemble.train_shape,
            inference_shape=ensemble.inference_shape,
        ).train
    start = time.perf_counter()
    states, history = train_shards(
        ensemble.training,
        ensemble.features,
        ensemble.labels,
        stack,
        shard_keys(ensemble.config.seed, padded),
        num_columns=ensemble.num_columns,
    )
    jax.block_until_ready(states)
    seconds = time.perf_counter() - start
    require_finite(history, "a shard's loss")
    trained = jax.tree.map(lambda x: np.asarray(x)[: len(shards)], variables_of(states))
    if is_first:
        return dataclasses.replace(ensemble, variables=trained), seconds

    def put(old, new):
        old = np.array(old)
        old[np.asarray(shards)] = new
        return old

    return dataclasses.replace(
        ensemble, variables=jax.tree.map(put, ensemble.variables, trained)
    ), seconds


def _posteriors(ensemble: Ensemble, shards: np.ndarray, stack: GraphStack) -> np.ndarray:
    variables = jax.tree.map(lambda x: x[shards], ensemble.variables)
    logits = shard_logits(ensemble.training, variables, ensemble.features, stack)
    return posteriors(logits, stack.test_mask)


def _fit_weights(ensemble: Ensemble) -> Ensemble:
    """Fits the learned aggregator on train nodes that are left, if it is the one in use."""
    shards = ensemble.living_shards()
    if ensemble.config.aggregator != "lbaggr" or len(shards) == 0:
        return ensemble
    graph, config = ensemble.graph, ensemble.config
    rng = np.random.default_rng(config.seed)
    nodes = aggregation.optimisation_nodes(graph.train_ids, config.lbaggr_nodes, rng)
    fit_weights = _compiled_fit(config.lbaggr)
    log_probs = optimisation_posteriors(ensemble, shards, nodes)
    key = jax.random.key(config.seed)
    orders = aggregation.epoch_orders(key, config.lbaggr.num_epochs, len(nodes))
    fitted = fit_weights(log_probs, ensemble.labels[nodes], orders)
    weights = np.zeros(graph.num_shards, np.float32)
    weights[shards] = np.asarray(fitted.weights)
    return dataclasses.replace(ensemble, weights=weights)


def optimisation_posteriors(
    ensemble: Ensemble, shards: np.ndarray, nodes: np.ndarray
) -> np.ndarray:
    """Posteriors of some shards' models on the graph induced on `nodes`: float32 [k, m, C]."""
    graph = ensemble.graph
    induced = induced_graph(graph.edge_index, nodes, graph.num_nodes)
    return _posteriors(ensemble, shards, stack_graphs([induced] * len(shards), graph.num_nodes))


@functools.cache
def _compiled_fit(config: LBAggrConfig):
    return jax.jit(functools.partial(aggregation.fit_lbaggr, config=config))
