"""Graph unlearning (GraphEraser, Chen et al., CCS 2022).

split, training graph     `split_nodes`, `training_graph` (data.py)
balanced partitions       `partition`: BLPA (label_propagation.py), BEKM (balanced_kmeans.py),
  and baselines             k-means, linear program (linear_program.py), METIS
shards                    `stack_shards` (shards.py): train and inference graphs, one padded shape
shard models              `model_config` (models.py); `train_shards`, `shard_logits` (training.py)
aggregation               `mean_log_probs`, `votes`, `lbaggr_loss`, `fit_lbaggr` (aggregation.py)
deletion requests         `delete_nodes`, `delete_edges`, `delete_features` (requests.py)
the whole method          `fit`, `unlearn`, `predict` (ensemble.py); `open_service` (service.py)
cost and attack           `unlearning_time` (timing.py); `membership_attack` (attack.py)
official weights          `from_official`, `to_official` (convert.py)
"""

from lab.papers.graph_unlearning.aggregation import (
    LBAggrConfig,
    LBAggrFit,
    epoch_orders,
    fit_lbaggr,
    lbaggr_loss,
    mean_log_probs,
    mean_probs,
    optimisation_nodes,
    votes,
    weighted_log_probs,
)
from lab.papers.graph_unlearning.aggregation import (
    predict as predict_classes,
)
from lab.papers.graph_unlearning.attack import (
    AttackResult,
    draw_negatives,
    membership_attack,
    posterior_distances,
)
from lab.papers.graph_unlearning.config import (
    EnsembleConfig,
    official_batch_size,
    prepare_features,
    prepare_graph,
)
from lab.papers.graph_unlearning.convert import from_official, to_official
from lab.papers.graph_unlearning.data import TrainingGraph, split_nodes, thin_edges, training_graph
from lab.papers.graph_unlearning.embeddings import EMBEDDINGS, node_embeddings
from lab.papers.graph_unlearning.ensemble import (
    Ensemble,
    Receipt,
    aggregate,
    fit,
    predict,
    test_posteriors,
    unlearn,
)
from lab.papers.graph_unlearning.models import MODELS, build, model_config
from lab.papers.graph_unlearning.partition import (
    EMBEDDING_METHODS,
    METHODS,
    PartitionOptions,
    intra_shard_edges,
    labels_by_node,
    partition,
    size_limit,
)
from lab.papers.graph_unlearning.requests import (
    Effect,
    Request,
    ShardedGraph,
    delete_edges,
    delete_features,
    delete_nodes,
    draw_request,
    sharded_graph,
)
from lab.papers.graph_unlearning.service import DeletionService, create, load, open_service, save
from lab.papers.graph_unlearning.shards import (
    GraphStack,
    PaddedShape,
    ShardBatch,
    induced_graph,
    stack_graphs,
    stack_queries,
    stack_shards,
)
from lab.papers.graph_unlearning.steps import (
    OPTIMIZERS,
    NodeBatch,
    OptimizerConfig,
    make_node_step,
    make_optimizer,
)
from lab.papers.graph_unlearning.timing import (
    UnlearningTime,
    batched_seconds,
    draw_timed_nodes,
    unlearning_time,
)
from lab.papers.graph_unlearning.training import (
    TrainingConfig,
    posteriors,
    shard_keys,
    shard_logits,
    train_shards,
    training_config,
    used_columns,
    variables_of,
)

__all__ = [
    "EMBEDDINGS",
    "EMBEDDING_METHODS",
    "METHODS",
    "MODELS",
    "OPTIMIZERS",
    "AttackResult",
    "DeletionService",
    "Effect",
    "Ensemble",
    "EnsembleConfig",
    "GraphStack",
    "LBAggrConfig",
    "LBAggrFit",
    "NodeBatch",
    "OptimizerConfig",
    "PaddedShape",
    "PartitionOptions",
    "Receipt",
    "Request",
    "ShardBatch",
    "ShardedGraph",
    "TrainingConfig",
    "TrainingGraph",
    "UnlearningTime",
    "aggregate",
    "batched_seconds",
    "build",
    "create",
    "delete_edges",
    "delete_features",
    "delete_nodes",
    "draw_negatives",
    "draw_request",
    "draw_timed_nodes",
    "epoch_orders",
    "fit",
    "fit_lbaggr",
    "from_official",
    "induced_graph",
    "intra_shard_edges",
    "labels_by_node",
    "lbaggr_loss",
    "load",
    "make_node_step",
    "make_optimizer",
    "mean_log_probs",
    "mean_probs",
    "membership_attack",
    "model_config",
    "node_embeddings",
    "official_batch_size",
    "open_service",
    "optimisation_nodes",
    "partition",
    "posterior_distances",
    "posteriors",
    "predict",
    "predict_classes",
    "prepare_features",
    "prepare_graph",
    "save",
    "shard_keys",
    "shard_logits",
    "sharded_graph",
    "size_limit",
    "split_nodes",
    "stack_graphs",
    "stack_queries",
    "stack_shards",
    "test_posteriors",
    "thin_edges",
    "to_official",
    "train_shards",
    "training_config",
    "training_graph",
    "unlearn",
    "unlearning_time",
    "used_columns",
    "variables_of",
    "votes",
    "weighted_log_probs",
]
