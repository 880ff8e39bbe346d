"""Training and inference of all shards, each as one compiled call.

    config = training_config("gcn", num_classes=7)
    keys = shard_keys(seed, range(num_shards))
    states, history = train_shards(config, features, labels, batch.train, keys)
    logits = shard_logits(config, variables_of(states), features, batch.inference)

A copy is one shard with one seed. Copies never mix: what a shard's model becomes depends on its
own graph, key and padded shape alone, which is what makes unlearning by retraining exact.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lab.arrays import Array
from lab.data.graphs import bucket_size
from lab.errors import require
from lab.nn.graph import whole_graph
from lab.papers.graph_unlearning.minibatches import (
    ShardInputs,
    all_neighbours_batch,
    edges_of,
    links_for,
    num_batches,
    sampled_batch,
    shard_inputs,
)
from lab.papers.graph_unlearning.models import (
    GATConfig,
    GCNConfig,
    GINConfig,
    MLPConfig,
    ModelConfig,
    SAGEConfig,
    build,
    init_variables,
    model_config,
)
from lab.papers.graph_unlearning.shards import GraphStack
from lab.papers.graph_unlearning.steps import (
    OPTIMIZERS,
    OptimizerConfig,
    make_loss,
    make_optimizer,
)
from lab.train.devices import compile_copies
from lab.train.state import TrainState, check_key, state_of
from lab.train.steps import LossFn, Step, make_train_step
from lab.train.whole import History, run

FIRST_KERNELS = {
    GCNConfig: (("conv0", "kernel"),),
    GATConfig: (("conv0", "kernel"),),
    SAGEConfig: (("conv0", "neighbour_kernel"), ("conv0", "root", "kernel")),
    GINConfig: (("conv0", "kernel"),),
    MLPConfig: (("linear0", "kernel"),),
}


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How every shard's model is trained.

    Attributes:
      model, optimizer: see `training_config` for the official pairs.
      num_epochs: passes over a shard's train nodes; the last weights are kept.
      batch_size: train nodes a step; a shard of no more is one batch.
      num_neighbours: None for whole neighbourhoods; a number a layer (the official code: 5, 5) to
        sample them, the first layer first.
      dropout_first_epoch_only: the official code's fault: evaluation mode from the second epoch on.
      propagation: "segments" sums edge by edge, "dense" multiplies by the adjacency matrix, "auto"
        takes the faster. Not used with sampled neighbours.
      copies: "together" maps the copies over one axis, "in_turn" runs one after another inside the
        same call. "auto": in turn on a CPU, where large models are faster so (one at a time stays
        in the cache), small ones hardly slower, and a shard's bits do not depend on how many
        others are in the call; together on accelerators.
    """

    model: ModelConfig
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    num_epochs: int = 100
    batch_size: int = 512
    num_neighbours: tuple[int, ...] | None = None
    dropout_first_epoch_only: bool = False
    propagation: str = "auto"
    copies: str = "auto"

    def __post_init__(self) -> None:
        require(self.num_epochs >= 1, f"num_epochs must be at least 1, got {self.num_epochs}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")
        sizes, layers = self.num_neighbours, self.model.num_layers
        require(
            sizes is None or layers == 0 or (len(sizes) == layers and min(sizes) >= 1),
            f"num_neighbours needs a positive number for each of the {layers} layers, got {sizes}",
        )
        choices = {"propagation": ("auto", "segments", "dense")}
        choices |= {"copies": ("auto", "together", "in_turn")}
        for name, accepted in choices.items():
            value = getattr(self, name)
            require(value in accepted, f"{name} is {value!r}; accepted: {', '.join(accepted)}")

    @property
    def is_sampled(self) -> bool:
        """Whether steps see sampled neighbourhoods."""
        return self.num_neighbours is not None and self.model.num_layers > 0


def training_config(name: str, num_classes: int, **overrides: Any) -> TrainingConfig:
    """The official model and optimizer of a name in `models.MODELS`.

    Args: overrides, fields of TrainingConfig.
    """
    model = model_config(name, num_classes)
    return TrainingConfig(**{"model": model, "optimizer": OPTIMIZERS[name]} | overrides)


def shard_keys(seed: int | jax.Array, shards: Iterable[int]) -> jax.Array:
    """The key of each shard, from the seed and the shard's number alone; typed keys [k].

    Args: seed, an int or a typed key.
    """
    key = jax.random.key(seed) if isinstance(seed, int | np.integer) else check_key(seed)
    numbers = jnp.asarray(list(shards), jnp.int32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def used_columns(features: np.ndarray, stack: GraphStack) -> int | None:
    """A bucket that holds the features that occur in any one graph of a stack.

    Bags of words are sparse: 110 papers of Cora hold half of its words. `train_shards` multiplies
    by those only. Take it from the first stack: deletions make it no larger.

    Returns: the bucket, or None where it saves less than a quarter of the columns.
    """
    most = _most_columns(np.asarray(features), stack)
    bucket = bucket_size(most)
    return bucket if bucket <= 0.75 * features.shape[1] else None


def _most_columns(features: np.ndarray, stack: GraphStack) -> int:
    ids = np.asarray(stack.node_ids)
    graphs = [row[row < len(features)] for row in ids.reshape(-1, ids.shape[-1])]
    return max(int((features[row] != 0).any(axis=0).sum()) for row in graphs)


def train_shards(
    config: TrainingConfig,
    features: Array,
    labels: Array,
    stack: GraphStack,
    keys: jax.Array,
    *,
    num_columns: int | None = None,
    states: TrainState | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[TrainState, History]:
    """Trains a model on every graph of a stack, all in one compiled call.

    Args:
      features: float32 [N, F]; labels: int32 [N]; shared by all copies.
      stack: G training graphs (`ShardBatch.train`).
      keys: typed keys [G], one a graph (`shard_keys`).
      num_columns: multiply by this many features a graph, those that occur in it (`used_columns`);
        None for all of them. The same numbers up to the order of additions, faster where copies
        run in turn, and not used where they run together.
      states: go on from these for `config.num_epochs` more; keys are then not used. None: begin.
      devices: the copies are spread over them; this host's by default.
    Returns: the states with a leading axis [G], and the history, each metric [G, steps]: "loss",
      "accuracy", "finite". A copy that turns non-finite is marked from that step on and
      leaves the others alone: see `lab.train.whole.require_finite`.
    Raises: InvalidInputError for arrays that do not fit each other.
    """
    check_key(keys)
    num_graphs = stack.node_ids.shape[0]
    require(keys.shape == (num_graphs,), f"{num_graphs} graphs need as many keys, got {keys.shape}")
    require(
        features.shape[:1] == labels.shape,
        f"features have {features.shape[0]} rows, labels {labels.shape}",
    )
    in_turn = _in_turn(config)
    num_columns = num_columns if in_turn else None
    if num_columns is not None:
        most = _most_columns(np.asarray(features), stack)
        require(most <= num_columns, f"a graph has {most} features, num_columns is {num_columns}")
    call = _compiled_training(
        config, num_columns, in_turn, states is not None, tuple(devices) if devices else None
    )
    return call(keys if states is None else states, stack, features, labels)


@functools.cache
def _compiled_training(config, num_columns, in_turn, goes_on, devices) -> Callable:
    def train(key_or_state, graph, features, labels):
        begins = not goes_on
        state = init_shard(config, key_or_state, features.shape[1]) if begins else key_or_state
        return run_shard(config, state, features, labels, graph, num_columns, begins=begins)

    return compile_copies(train, (0, 0, None, None), devices, in_turn=in_turn)


def _in_turn(config: TrainingConfig) -> bool:
    on_cpu = jax.default_backend() == "cpu"
    return config.copies == "in_turn" or (config.copies == "auto" and on_cpu)


def init_shard(config: TrainingConfig, key: jax.Array, num_features: int) -> TrainState:
    """A fresh state of one shard: every parameter, statistic and moment from the shard's key."""
    init_key, run_key = jax.random.split(key)
    variables = init_variables(config.model, init_key, num_features)
    return state_of(variables, make_optimizer(config.model, config.optimizer), run_key)


def run_shard(
    config: TrainingConfig,
    state: TrainState,
    features: jax.Array,
    labels: jax.Array,
    graph: GraphStack,
    num_columns: int | None = None,
    *,
    begins: bool = True,
) -> tuple[TrainState, History]:
    """Trains one shard for `config.num_epochs` epochs; pure, for use under jit and vmap.

    Args: as `train_shards`, for one graph; begins, whether the state is a fresh one.
    """
    inputs = shard_inputs(
        config.model,
        features,
        labels,
        graph,
        propagation=config.propagation,
        sampled=config.is_sampled,
    )
    order = None
    if num_columns is not None:
        order = jnp.argsort(~(inputs.features != 0).any(axis=0), stable=True)
        state = _take_rows(config.model, state, order)
        inputs = _trim(inputs, order[:num_columns])
    per_epoch = num_batches(graph.train_mask, config.batch_size)
    last_step = state.step + config.num_epochs * per_epoch
    # The padded shape may hold more batches than this shard has: `last_step` leaves those out.
    most_per_epoch = -(-graph.train_mask.shape[0] // config.batch_size)
    parts = [(True, config.num_epochs, last_step)]
    if config.dropout_first_epoch_only:
        parts = [(False, config.num_epochs, last_step)]
        if begins:
            parts = [(True, 1, per_epoch), (False, config.num_epochs - 1, last_step)]
    histories = []
    for train, num_epochs, last in parts:
        step, num_steps = _shard_step(config, num_columns, train), num_epochs * most_per_epoch
        last = None if most_per_epoch == 1 else last
        state, history = run(step, state, inputs, num_steps, last, freeze=False)
        histories.append(history)
    if order is not None:
        state = _take_rows(config.model, state, jnp.argsort(order))
    return state, jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *histories)


def _shard_step(config: TrainingConfig, num_columns: int | None, train: bool) -> Step:
    """`step(state, ShardInputs) -> (state, metrics)`."""
    model = config.model
    loss_fn = make_loss(build(model), train=train)
    if num_columns is not None:
        loss_fn = _on_first_rows(model, loss_fn, num_columns)
    take_step = make_train_step(loss_fn, make_optimizer(model, config.optimizer))

    def step(state, inputs):
        size = config.batch_size
        sizes = config.num_neighbours
        if config.is_sampled and sizes is not None:
            batch = sampled_batch(model, inputs, sizes, size, state.key, state.step)
        else:
            batch = all_neighbours_batch(model, inputs, size, state.key, state.step)
        state, metrics = take_step(state, batch)
        # The norm of the gradients, left out of the history, is never computed.
        return state, {name: metrics[name] for name in ("loss", "accuracy")}

    return step


def _trim(inputs: ShardInputs, columns: jax.Array) -> ShardInputs:
    aggregate = None if inputs.aggregate is None else inputs.aggregate[:, columns]
    return inputs.replace(features=inputs.features[:, columns], aggregate=aggregate)


def _on_first_rows(model: ModelConfig, loss_fn: LossFn, num_rows: int) -> LossFn:
    """The loss of the first rows of the kernels that meet the features: the others meet zeros."""

    def trimmed(params, *args):
        return loss_fn(_map_first_kernels(model, lambda x: x[:num_rows], params), *args)

    return trimmed


def _take_rows(model: ModelConfig, tree: Any, order: jax.Array) -> Any:
    return _map_first_kernels(model, lambda x: x[order], tree)


def _map_first_kernels(model: ModelConfig, change: Callable, tree: Any) -> Any:
    """Changes the kernels that meet the features, and Adam's moments of them."""
    ends = FIRST_KERNELS[type(model)]

    def visit(path, leaf):
        names = tuple(getattr(entry, "key", None) for entry in path)
        return change(leaf) if any(names[-len(end) :] == end for end in ends) else leaf

    return jax.tree_util.tree_map_with_path(visit, tree)


def variables_of(states: TrainState) -> dict[str, Any]:
    """The flax variables of trained states: what inference needs and what is worth saving."""
    return {"params": states.params, **states.model_state}


def shard_logits(
    config: TrainingConfig,
    variables: dict[str, Any],
    features: Array,
    stack: GraphStack,
    *,
    output: str = "logits",
    devices: Sequence[jax.Device] | None = None,
) -> jax.Array:
    """Logits of every row of every graph, by that graph's own model; one compiled call.

    Layer by layer over the whole graph with all neighbours, in evaluation mode, so deterministic.
    Graphs are taken in turn: the features of one at a time are gathered from the shared array.

    Args:
      variables: leading axis [G] (`variables_of`); select or repeat it to match the stack.
      features: float32 [N, F].
      stack: G graphs, for example `ShardBatch.inference`.
      output: "logits", or "hidden" for SAGE's hidden rows.
    Returns: float32 [G, n, num_classes], meaningless on padding rows.
    """
    num_graphs = stack.node_ids.shape[0]
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(variables)}
    require(sizes == {num_graphs}, f"{num_graphs} graphs need as many models, got {sorted(sizes)}")
    propagation = "segments" if config.propagation == "auto" else config.propagation
    call = _compiled_inference(
        config.model, propagation, output, tuple(devices) if devices else None
    )
    return call(variables, stack, features)


@functools.cache
def _compiled_inference(model, propagation, output, devices) -> Callable:
    module = build(model)
    options = {"output": output} if isinstance(model, SAGEConfig) else {}

    def infer(variables, graph, features):
        links = links_for(model, edges_of(graph), propagation)
        blocks = whole_graph(graph.rows(features), links, model.num_layers)
        return module.apply(variables, blocks, train=False, **options)

    return compile_copies(infer, (0, 0, None), devices, in_turn=True)


def posteriors(logits: jax.Array, rows: Array) -> np.ndarray:
    """Log-probabilities of the marked rows of every graph, in their order.

    Args: logits float [G, n, C]; rows bool [G, n], as many in every graph (`test_mask`).
    Returns: float32 [G, k, C]; the same row is the same node where ids ascend in every graph.
    Raises: InvalidInputError where graphs mark different numbers of rows.
    """
    rows = np.asarray(rows)
    counts = set(rows.sum(axis=1).tolist())
    require(len(counts) == 1, f"every graph must mark as many rows, got {sorted(counts)}")
    chosen = jax.nn.log_softmax(logits)[rows]
    return np.asarray(chosen).reshape(len(rows), counts.pop(), -1)
