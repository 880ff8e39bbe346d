"""What the k-means partitioners see of a node (spec section 5, BEKM)."""

from typing import Literal

import jax
import numpy as np

from lab.errors import require
from lab.papers.graph_unlearning.data import TrainingGraph
from lab.papers.graph_unlearning.shards import ShardData, stack_graphs
from lab.papers.graph_unlearning.training import (
    TrainingConfig,
    init_shard,
    shard_keys,
    shard_logits,
    train_shards,
    training_config,
    variables_of,
)

EmbeddingKind = Literal["sage_logits", "sage_hidden", "untrained_sage", "features"]
EMBEDDINGS = ("sage_logits", "sage_hidden", "untrained_sage", "features")
# Set apart from the shards, whose numbers begin at 0.
_EMBEDDING_SHARD = 2**30


def node_embeddings(
    kind: EmbeddingKind,
    features: np.ndarray,
    labels: np.ndarray,
    graph: TrainingGraph,
    num_classes: int,
    seed: int,
    training: TrainingConfig | None = None,
) -> np.ndarray:
    """Embeddings of the train nodes, in training order; trains the model they need.

    The official embedding is the logits of a two-layer GraphSAGE trained with labels on the whole
    training graph. It samples 10 neighbours a node in inference; here all are used, so that the
    partition does not depend on a draw.

    Args:
      kind: "sage_logits" (official), "sage_hidden", "untrained_sage" (logits of fresh weights),
        "features".
      features: float32 [N, F]; labels: int32 [N].
      training: of the GraphSAGE; by default the official one (`training_config("sage")`).
    Returns: float32 [n, d].
    """
    require(kind in EMBEDDINGS, f"embedding is {kind!r}; accepted: {', '.join(EMBEDDINGS)}")
    if kind == "features":
        return features[graph.node_ids]
    training = training or training_config("sage", num_classes)
    order = np.argsort(graph.node_ids)
    whole = ShardData(
        node_ids=graph.node_ids[order],
        edge_index=np.argsort(order).astype(np.int32)[graph.edge_index],
        train_mask=np.ones(graph.num_nodes, bool),
        test_mask=np.zeros(graph.num_nodes, bool),
    )
    stack = stack_graphs([whole], len(features))
    keys = shard_keys(seed, [_EMBEDDING_SHARD])
    if kind == "untrained_sage":
        states = jax.vmap(lambda key: init_shard(training, key, features.shape[1]))(keys)
    else:
        states, _ = train_shards(training, features, labels, stack, keys)
    output = "hidden" if kind == "sage_hidden" else "logits"
    rows = shard_logits(training, variables_of(states), features, stack, output=output)
    embeddings = np.empty((graph.num_nodes, rows.shape[-1]), np.float32)
    embeddings[order] = np.asarray(rows[0])[: graph.num_nodes]
    return embeddings
